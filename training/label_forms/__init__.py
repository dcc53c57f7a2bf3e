"""Readers of annotation tools' exports, one per format."""
