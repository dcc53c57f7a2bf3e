"""The parts of `bisenetv2 demo`, which shows and measures the camera and the node at work.

run.py         starts the camera and the node, follows them to the last frame
observer.py    watches their topics, matches what belongs to one frame
results.py     pictures, video and scores of the matched frames
live_view.py   the table on the terminal
"""


class DemoError(Exception):
    """The demo did not work; the message says what was expected and what was seen last."""
