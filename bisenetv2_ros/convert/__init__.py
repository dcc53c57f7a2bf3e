"""From one model file to another: other classes, input size or precision."""
