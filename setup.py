"""Installs the package with pip, for machines without ROS: `pip install .` or `pip install -e .`.

Training and the command line need no more; the ROS node needs the messages, which CMakeLists.txt
builds. Says nothing that is written elsewhere: the dependencies are in requirements/*.in, the
version is in bisenetv2_ros/__init__.py, settings of the tools are in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """Return the requirements in requirements/NAME.in."""
    lines = (ROOT / "requirements" / f"{name}.in").read_text().splitlines()
    return [text for line in lines if (text := line.partition("#")[0].strip())]


def version() -> str:
    text = (ROOT / "bisenetv2_ros" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+?)"', text, re.MULTILINE)
    if not found:
        raise ValueError("bisenetv2_ros/__init__.py states no __version__")
    return found[1]


def share_files() -> list[tuple[str, list[str]]]:
    """Return what ament installs in share/bisenetv2_ros too: (directory, files in it)."""
    directories = [
        directory
        for top in ("config", "launch", "models", "msg")
        for directory in (ROOT / top, *(ROOT / top).rglob("*/"))
        if directory.is_dir() and directory.name != "__pycache__"
    ]
    return [
        (f"share/bisenetv2_ros/{directory.relative_to(ROOT).as_posix()}", files)
        for directory in directories
        if (files := [f"{p.relative_to(ROOT)}" for p in directory.iterdir() if p.is_file()])
    ]


packages = find_packages(include=["bisenetv2_ros", "bisenetv2_ros.*"])
# In a development tree bisenetv2_ros/training may be a link to ../training; elsewhere it is absent.
packages = [name for name in packages if not name.startswith("bisenetv2_ros.training")]
training = ["bisenetv2_ros.training"]
training += [f"bisenetv2_ros.training.{name}" for name in find_packages("training")]

setup(
    name="bisenetv2_ros",
    version=version(),
    description="Real-time semantic segmentation of camera topics with BiSeNetV2",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages + training,
    package_dir={"bisenetv2_ros.training": "training"},
    package_data={"bisenetv2_ros.backends": ["kernels.cu", "kernels.ptx"]},
    data_files=share_files(),
    install_requires=requirements("package"),
    extras_require={
        name: requirements(name)
        for name in (
            "openvino",
            "onnxruntime",
            "tensorrt-rtx",
            "bags",
            "video",
            "view",
            "benchmark",
            "training",
            "test",
        )
    },
    entry_points={"console_scripts": ["bisenetv2 = bisenetv2_ros.cli.main:main"]},
)
