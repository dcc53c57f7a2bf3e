"""Measurements: frames per backend, the ROS graph, a training step."""
