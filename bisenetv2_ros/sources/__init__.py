"""Frames from image files, videos, webcams, bags or the rendered street."""
