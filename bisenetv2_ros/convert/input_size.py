"""Changes the input size of a model file: the same weights, no training and no runtime needed.

The network is convolutions and enlargement factors, so only the sizes in the file change. The
scores change too: the network was trained at one scale and recognizes objects by their size in
pixels. Knows nothing of how a model is run or made.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bisenetv2_ros.model_file import ModelFile, ModelFileError, write_model_file

MULTIPLE = 32  #: that width and height are multiples of: the network halves them five times


def resize_model(
    source: ModelFile,
    size: tuple[int, int],
    path: Path,
    metrics: dict[str, float] | None = None,
) -> ModelFile:
    """Write `source` for images of `size` (width, height) to `path`, and read it back.

    metrics: scores of the new file, for its metadata; those of `source` are for another size.

    Raises ValueError if a side is not a multiple of MULTIPLE or too large, and ModelFileError if
    the graph contains a fixed size, as `bisenetv2 export` writes for sizes that are not such
    multiples.
    """
    import onnx

    width, height = size
    if width % MULTIPLE or height % MULTIPLE:
        raise ValueError(f"size is {width}x{height}, expected multiples of {MULTIPLE}")
    info = dataclasses.replace(source.info, input_size=size, metrics=metrics or {})
    model = onnx.load(source.path)
    for value in (*model.graph.input, *model.graph.output):
        sides = value.type.tensor_type.shape.dim
        sides[1].dim_value, sides[2].dim_value = height, width
    for node in model.graph.node:
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            before = "x".join(map(str, source.info.input_size))
            raise ModelFileError(
                f"model file {source.path}: node {node.name} is fixed to images of {before}, "
                f"expected a factor; export the run for {width}x{height} instead"
            )
    del model.graph.value_info[:]
    return write_model_file(model, info, path)
