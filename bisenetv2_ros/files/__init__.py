"""Paths, YAML, images and videos on disk."""
