"""Changes the classes of a model file: grouped, renamed or reordered, inside the file itself.

    name: driving
    classes:
      - {name: drivable, of: [road], colour: [128, 64, 128]}
      - {name: obstacle, of: [car, pedestrian, bicyclist]}
      - {name: other, of: rest}

Every class of the model goes to one of the new ones; `rest` is all classes that no other group
names. A group without a color gets that of its first class. The mask goes through a lookup table
after the network, so all users of the file see only the new classes. The confidence stays that of
the original class, a lower bound for its group. Knows nothing of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bisenetv2_ros.files.safe_yaml import YamlError, read_yaml
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.model_file import MASK, ModelFileError, read_model_file, write_model_file

REST = "rest"


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """New classes, and the new class of each original one."""

    labels: LabelSet
    targets: tuple[int, ...]  #: index of `labels` for each original class


class ClassMapError(ValueError):
    """The file is not a class map for this model; the message has file, class and what is
    missing."""


def read_class_map(path: Path, before: LabelSet) -> ClassMap:
    """Read a class map for a model with the classes `before`. Raises a one-line ClassMapError."""
    try:
        content = read_yaml(path)
        groups = [
            (str(entry["name"]), _members(entry["of"]), entry.get("colour"))
            for entry in content["classes"]
        ]
        name = str(content.get("name", path.stem))
    except OSError as error:
        raise ClassMapError(f"{path}: {error.strerror}") from error
    except YamlError as error:
        raise ClassMapError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ClassMapError(
            f"{path}: expected `classes:` as a list of {{name, of: [CLASS, ...]}}; {error!r}"
        ) from error
    try:
        return _class_map(name, groups, before)
    except (TypeError, ValueError) as error:
        raise ClassMapError(f"{path}: {error}") from error


def relabel_model(
    source: Path, class_map: ClassMap, path: Path, metrics: dict[str, float] | None = None
) -> None:
    """Write the model file `source` with the new classes to `path`.

    metrics: scores of the new file, for its metadata; those of `source` are for other classes.
    Raises ModelFileError if `source` is not a model, or not in the form that `bisenetv2 export`
    writes.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model_file = read_model_file(source)
    model = onnx.load(source)
    graph = model.graph
    # Before the cast to uint8, which TensorRT accepts only for inputs and outputs.
    (cast,) = [node for node in graph.node if MASK in node.output]
    if cast.op_type != "Cast":
        raise ModelFileError(
            f"model file {source}: the output {MASK} comes from {cast.op_type}, expected Cast"
        )
    # Values without a class stay: they mark output that is not finite.
    table = np.arange(256, dtype=np.float32)
    table[: len(class_map.targets)] = class_map.targets
    before = cast.input[0]  # makes the new names unique, also if relabeled again
    table_name, index, after = (f"{before}/{name}" for name in ("table", "index", "class"))
    graph.initializer.append(numpy_helper.from_array(table, table_name))
    to_index = helper.make_node("Cast", [before], [index], index, to=TensorProto.INT32)
    look_up = helper.make_node("Gather", [table_name, index], [after], after)
    cast.input[0] = after
    place = list(graph.node).index(cast)
    graph.node.insert(place, look_up)
    graph.node.insert(place, to_index)
    info = dataclasses.replace(model_file.info, labels=class_map.labels, metrics=metrics or {})
    write_model_file(model, info, path)


def _members(value: Any) -> list[str]:
    return [str(name) for name in ([value] if isinstance(value, str) else value)]


def _class_map(
    name: str, groups: Sequence[tuple[str, list[str], Any]], before: LabelSet
) -> ClassMap:
    """Check the groups against the classes. Raises ValueError or TypeError."""
    named = [member for _, members, _ in groups for member in members if member in before.names]
    rest = [member for member in before.names if member not in named]
    targets: dict[str, int] = {}
    palette = []
    for number, (group, given, colour) in enumerate(groups):
        members = rest if given == [REST] and REST not in before.names else given
        if not members:
            raise ValueError(f"class '{group}': expected classes of the model in `of`, got none")
        for member in members:
            if member not in before.names:
                raise ValueError(
                    f"class '{group}': the model has no class '{member}', "
                    f"it has {', '.join(before.names)}"
                )
            if member in targets:
                raise ValueError(
                    f"'{member}' is in '{groups[targets[member]][0]}' and in '{group}', "
                    "expected each class once"
                )
            targets[member] = number
        palette.append(colour or before.palette[before.names.index(members[0])])
    if missing := [member for member in before.names if member not in targets]:
        raise ValueError(f"no group has {', '.join(missing)}; `of: {REST}` takes all that remain")
    labels = LabelSet(
        name=name,
        names=tuple(group for group, _, _ in groups),
        palette=tuple(tuple(int(value) for value in colour) for colour in palette),  # type: ignore[misc]
        ignore_index=before.ignore_index,
    )
    return ClassMap(labels, tuple(targets[member] for member in before.names))
