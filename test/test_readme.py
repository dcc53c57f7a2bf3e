"""README and reference pages say what the code does: parameters, verbs, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bisenetv2_ros.cli.main import VERBS
from bisenetv2_ros.node import parameters

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PARAMETERS = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
COMMAND_LINE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")


def test_the_table_of_parameters_is_the_code_s():
    found = re.search(
        r"<!-- parameters:[^\n]*-->\n(.*?)<!-- end of parameters -->", PARAMETERS, re.S
    )
    assert found
    assert found[1].strip() == parameters.markdown().strip(), (
        "write it anew: python -m bisenetv2_ros.node.parameters"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_table(verb):
    assert f"\n| `{verb}` | " in COMMAND_LINE


def test_no_verb_is_promised_that_is_not_there():
    table = COMMAND_LINE.split("| verb | what |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.M)) == set(VERBS)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("name", re.findall(r"^((?:bisenetv2_ros|training)/\S+\.py)", README, re.M))
def test_files_named_are_there(name):
    assert (ROOT / name).is_file()
