"""No verb connects to the internet, whatever a runtime would like to report to its maker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import HANG
from tiny_model import write_tiny_model

pytest.importorskip("openvino")

#: Runs a command with only a loopback interface and a DNS server there that never answers; prints
#: how many packets that server received.
SILENT_DNS = """
import pathlib, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
resolver = pathlib.Path(sys.argv[1])
resolver.write_text("nameserver 127.0.0.1\\n")
subprocess.run(["mount", "--bind", resolver, "/etc/resolv.conf"], check=True)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
server.setblocking(False)
code = subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL).returncode
packets = 0
try:
    while server.recv(4096):
        packets += 1
except BlockingIOError:
    pass
print("packets", packets)
sys.exit(code)
"""


def silent_network(*command: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where every DNS query is received and none answered."""
    home.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD")
    }
    whole = ["unshare", "--map-root-user", "--net", "--mount"]
    whole += [sys.executable, "-c", SILENT_DNS, str(home / "resolv.conf"), *map(str, command)]
    return subprocess.run(
        whole,
        capture_output=True,
        text=True,
        env={**environment, "HOME": str(home)},
        timeout=3 * HANG,
    )


@pytest.fixture(autouse=True)
def namespaces(tmp_path: Path) -> None:
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs unshare and ip")
    if silent_network("true", home=tmp_path / "try").returncode:
        pytest.skip("this kernel or container allows no network namespaces")


IMPORT = "from bisenetv2_ros.backends.openvino_runtime import openvino; openvino.Core()"
VERB = "bisenetv2_ros.cli.main"


def test_the_server_sees_what_is_asked(tmp_path: Path) -> None:
    """The trap works: a lookup is counted."""
    lookup = (
        "import socket; from contextlib import suppress\n"
        "with suppress(OSError): socket.getaddrinfo('example.org', 80)"
    )
    result = silent_network(sys.executable, "-c", lookup, home=tmp_path / "home")
    assert int(result.stdout.split()[-1]) > 0


@pytest.mark.parametrize(
    "words",
    [
        ["-c", IMPORT],
        ["-m", VERB, "predict", "synthetic", "--frames", "1", "--output", "OUT"],
        ["-m", VERB, "benchmark", "MODEL", "--frames", "1"],
        ["-m", VERB, "evaluate", "MODEL", "--dataset", "synthetic"],
    ],
    ids=["import", "predict", "benchmark", "evaluate"],
)
def test_nothing_is_sent_and_nothing_is_written_at_home(tmp_path: Path, words: list[str]) -> None:
    model = write_tiny_model(tmp_path / "model.onnx")
    names = {"OUT": str(tmp_path / "out"), "MODEL": str(model)}
    words = [names.get(word, word) for word in words]
    if words[0] == "-m":
        words += ["--backend", "openvino"]
    if "predict" in words:
        words += ["--model", str(model)]
    result = silent_network(sys.executable, *words, home=tmp_path / "home")
    assert "openvino" in result.stderr + result.stdout or words[0] == "-c", result.stderr
    assert result.stdout.split()[-2:] == ["packets", "0"], result.stdout + result.stderr
    assert not (tmp_path / "home" / "intel").exists()
