"""The documents beside the README tell the truth: tests and files they name are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]

#: file::test of every test that the table names
NAMED = sorted(set(re.findall(r"`(test_\w+\.py::test_\w+)`", RELIABILITY)))


def functions(file: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((ROOT / "test" / file).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("named", NAMED)
def test_every_test_that_the_table_names_is_there(named):
    file, name = named.split("::")
    assert name in functions(file)


def test_every_row_names_a_test():
    rows = [line for line in RELIABILITY.splitlines() if line.startswith("| ")]
    rows = [line for line in rows if not line.startswith(("| fault |", "| state |"))]
    assert len(rows) > 40
    assert [row for row in rows if "::test_" not in row] == []


def test_rows_marked_long_are_those_that_make_soak_runs():
    marked = {
        name
        for line in RELIABILITY.splitlines()
        if line.startswith("| ") and "●" in line
        for name in re.findall(r"`(test_\w+\.py::test_\w+)`", line)
    }
    long_run = {
        f"{file.name}::{name}"
        for file in (ROOT / "test").glob("test_*.py")
        for name, node in functions(file.name).items()
        if any("long_run" in ast.unparse(decorator) for decorator in node.decorator_list)
    }
    assert long_run and long_run <= marked


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_the_index_has_every_page():
    """Twice: for who reads the file, and for `make docs`."""
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    table, tree = text.split("```{toctree}")
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= set(re.findall(r"\]\((\w+)\.md\)", table))
    assert pages <= set(tree.split())
