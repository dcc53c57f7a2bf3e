"""The parts of `bisenetv2 demo`, which runs a camera and the node, and measures both.

run.py         starts the camera and the node, follows them to the last frame, scores the model
observer.py    subscribes to their topics, matches the messages of each frame
results.py     images and video of the matched frames; scores against labels
"""


class DemoError(Exception):
    """The demo failed; the message has the last lines of the logs."""
