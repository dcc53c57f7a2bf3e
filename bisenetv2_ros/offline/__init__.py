"""Segments files, videos and bags without ROS."""
