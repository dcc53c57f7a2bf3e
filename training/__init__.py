"""From a dataset to the model file that the node runs.

Read in this order: `recipe.py` (all settings of a run), `datasets.py` and `transforms.py` (images
in), `model.py` and `loss.py` (the network), `loop.py` (the run), `evaluate.py`, `export.py`.
Nothing here depends on ROS.
"""
