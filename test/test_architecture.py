"""The picture in docs/architecture.md shows the imports that there are, and those are allowed."""

from __future__ import annotations

import graphlib
import itertools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import architecture  # noqa: E402

ROS = {"segment node", "camera node", "messages", "parameters", "demo", "command line"}


def reach(box: str) -> set[str]:
    """All that a box imports, by however many steps."""
    found = architecture.arrows()
    todo, reached = [box], set()
    while todo:
        for other in found[todo.pop()] - reached:
            reached.add(other)
            todo.append(other)
    return reached


def test_the_picture_is_of_these_sources():
    text = architecture.PAGE.read_text(encoding="utf-8")
    assert text == architecture.page(text), "draw it anew: python scripts/architecture.py"


def test_every_module_is_in_a_box_and_every_box_has_one():
    boxes = {architecture.box_of(module) for module in architecture.modules()}
    assert boxes == set(architecture.BOXES)


def test_no_modules_import_each_other_in_a_circle():
    """Not even inside of functions."""
    known = architecture.modules()
    imports = {module: architecture.imported(path, known) for module, path in known.items()}
    assert "bag" in imports["frame_source"]  # which is inside of a function
    graphlib.TopologicalSorter(imports).prepare()  # CycleError names them


def test_the_main_line_is_one_way():
    line = ("segment node", "segmenter", "backends", "model file", "labels")
    for above, below in itertools.pairwise(line):
        assert below in reach(above)
        assert above not in reach(below)
    assert reach("labels") == set()


def test_training_and_node_do_not_know_each_other():
    assert not reach("training") & ROS
    assert "training" not in reach("segment node") | reach("camera node")


def test_arrows_are_the_imports_and_none_that_follows_is_drawn(tmp_path, monkeypatch):
    """On sources made for it: one import inside a function, one that follows, one of a package."""
    sources = {
        "bisenetv2_ros/a.py": "from bisenetv2_ros.b import x\nfrom bisenetv2_ros import c\n",
        "bisenetv2_ros/b.py": "def f():\n    import bisenetv2_ros.c\n",
        "bisenetv2_ros/c.py": "import bisenetv2_rosette\n",
        "training/d.py": "from bisenetv2_ros.training.e import y\nfrom bisenetv2_ros.b import x\n",
        "training/e.py": "",
        "bisenetv2_ros/__init__.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(architecture, "ROOT", tmp_path)
    boxes = {"A": ("a",), "B": ("b",), "C": ("c",), "D": ("training.*",)}
    monkeypatch.setattr(architecture, "BOXES", boxes)
    assert architecture.arrows() == {"A": {"B", "C"}, "B": {"C"}, "C": set(), "D": {"B"}}
    assert architecture.drawn(architecture.arrows()) == [("A", "B"), ("B", "C"), ("D", "B")]
    (tmp_path / "bisenetv2_ros" / "c.py").write_text("from bisenetv2_ros import a\n")
    with pytest.raises(graphlib.CycleError):
        architecture.picture()
    (tmp_path / "bisenetv2_ros" / "f.py").write_text("")
    with pytest.raises(KeyError, match="f is in none of BOXES"):
        architecture.arrows()
