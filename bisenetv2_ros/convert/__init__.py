"""Conversions of model files: to other classes, input size or precision."""
