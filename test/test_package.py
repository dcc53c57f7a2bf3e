"""What holds the package together: files, entry points, versions, who may import whom."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import bisenetv2_ros
from bisenetv2_ros.cli.main import VERBS
from bisenetv2_ros.files import paths
from bisenetv2_ros.node import fastdds

SOURCE = Path(__file__).resolve().parent.parent
MESSAGES = ("ClassFraction", "ClassFractions", "RegionFractions")


def run_python(code: str) -> str:
    """Run `code` in a Python of its own and return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_by(modules: list[str], forbidden: list[str]) -> list[str]:
    """Import `modules` in a fresh Python and return which of `forbidden` that has loaded."""
    return run_python(
        f"""
        import importlib, sys
        for name in {modules!r}:
            importlib.import_module(name)
        print(*[name for name in {forbidden!r} if name in sys.modules])
        """
    ).split()


def modules_below(directory: Path, package: str) -> list[str]:
    return [
        ".".join([package, *path.relative_to(directory).with_suffix("").parts])
        for path in sorted(directory.rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]


class TestWhoMayImportWhom:
    def test_the_node_never_imports_torch_or_training(self) -> None:
        pytest.importorskip("rclpy")
        modules = ["bisenetv2_ros.node.segment_node", "bisenetv2_ros.backends"]
        assert loaded_by(modules, ["torch", "bisenetv2_ros.training"]) == []

    def test_training_never_imports_ros(self) -> None:
        pytest.importorskip("torch")
        modules = modules_below(SOURCE / "training", "bisenetv2_ros.training")
        assert modules, "no training modules found"
        ros = ["rclpy", "sensor_msgs", "bisenetv2_ros.msg", "bisenetv2_ros.node.segment_node"]
        assert loaded_by(modules, ros) == []

    def test_runtimes_are_imported_on_demand(self) -> None:
        modules = ["bisenetv2_ros.backends", "bisenetv2_ros.segmenter", "bisenetv2_ros.model_file"]
        runtimes = ["openvino", "onnxruntime", "onnx", "tensorrt", "tensorrt_rtx", "torch", "rclpy"]
        assert loaded_by(modules, runtimes) == []


class TestShareDirectory:
    def test_holds_models_and_configuration(self) -> None:
        share = paths.share_directory()
        assert (share / "config" / "fastdds_shm.xml").is_file()
        assert (share / "models").is_dir()

    @pytest.mark.parametrize(
        "packages", ["lib/python3.11/site-packages", "local/lib/python3.10/dist-packages", "."]
    )
    def test_is_found_below_any_prefix(
        self, packages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        share = tmp_path / "share" / "bisenetv2_ros"
        share.mkdir(parents=True)
        module = tmp_path / packages / "bisenetv2_ros" / "files" / "paths.py"
        monkeypatch.setattr(paths, "__file__", str(module))
        assert paths.share_directory() == share

    def test_its_absence_is_an_error_that_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            paths, "__file__", str(tmp_path / "bisenetv2_ros" / "files" / "paths.py")
        )
        with pytest.raises(FileNotFoundError, match=r"share/bisenetv2_ros.*install it again"):
            paths.share_directory()


class TestFastDdsProfile:
    def test_fast_dds_3_gets_the_new_name(self, tmp_path: Path) -> None:
        (tmp_path / "share" / "fastdds").mkdir(parents=True)
        found = fastdds.profile_variables({"AMENT_PREFIX_PATH": f"/none:{tmp_path}"})
        assert list(found) == ["FASTDDS_DEFAULT_PROFILES_FILE"]
        assert Path(found["FASTDDS_DEFAULT_PROFILES_FILE"]).is_file()

    def test_fast_dds_2_gets_the_old_name(self, tmp_path: Path) -> None:
        (tmp_path / "share" / "fastrtps").mkdir(parents=True)
        found = fastdds.profile_variables({"AMENT_PREFIX_PATH": f"/none:{tmp_path}"})
        assert list(found) == ["FASTRTPS_DEFAULT_PROFILES_FILE"]

    @pytest.mark.parametrize("name", [fastdds.VARIABLE, fastdds.OLD_VARIABLE])
    def test_a_profile_of_the_users_own_stays(self, name: str) -> None:
        assert fastdds.profile_variables({name: "mine.xml"}) == {}


class TestMessages:
    @pytest.mark.parametrize("name", MESSAGES)
    def test_every_field_says_what_it_is_and_its_unit(self, name: str) -> None:
        text = (SOURCE / "msg" / f"{name}.msg").read_text()
        fields = re.findall(r"^([\w/\[\]]+ +\w+) *(.*(?:\n +#.*)*)", text, re.MULTILINE)
        assert len(fields) >= 3
        for field, comment in fields:
            # A message in a message has units of its own.
            nested = "Header" in field or "[]" in field
            assert comment.startswith("# "), field
            assert nested or re.search(r"\[\w+\]|\(no unit\)", comment), f"{field}: no unit"

    @pytest.mark.parametrize("name", MESSAGES)
    def test_cmake_builds_every_message(self, name: str) -> None:
        assert f"msg/{name}.msg" in (SOURCE / "CMakeLists.txt").read_text()
        assert len(list((SOURCE / "msg").iterdir())) == len(MESSAGES)

    def test_the_built_messages_have_the_fields(self) -> None:
        messages = pytest.importorskip("bisenetv2_ros.msg", reason="needs the built messages")
        assert messages.ClassFraction.get_fields_and_field_types() == {
            "class_id": "uint8",
            "class_name": "string",
            "fraction": "float",
            "pixel_count": "uint32",
        }
        assert messages.ClassFractions.get_fields_and_field_types() == {
            "header": "std_msgs/Header",
            "model": "string",
            "width": "uint32",
            "height": "uint32",
            "classes": "sequence<bisenetv2_ros/ClassFraction>",
            "regions": "sequence<bisenetv2_ros/RegionFractions>",
            "latency": "float",
            "inference_time": "float",
        }


class TestEntryPoints:
    def installed(self) -> Path:
        index = pytest.importorskip("ament_index_python.packages")
        try:
            return Path(index.get_package_prefix("bisenetv2_ros"))
        except index.PackageNotFoundError:
            pytest.skip("the package is not built by colcon")

    def test_ros2_run_has_every_verb_and_nothing_else(self) -> None:
        programs = self.installed() / "lib" / "bisenetv2_ros"
        assert sorted(path.name for path in programs.iterdir()) == sorted(VERBS)

    @pytest.mark.parametrize("verb", VERBS)
    def test_the_program_of_a_verb_runs_that_verb(self, verb: str) -> None:
        program = self.installed() / "lib" / "bisenetv2_ros" / verb
        result = subprocess.run([program, "--help"], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"usage: bisenetv2 {verb}")

    def test_bisenetv2_is_installed(self) -> None:
        program = self.installed() / "bin" / "bisenetv2"
        result = subprocess.run([program, "--version"], capture_output=True, text=True)
        assert result.stdout.split() == ["bisenetv2", bisenetv2_ros.__version__]

    def test_pip_installs_the_same_program(self) -> None:
        assert '"bisenetv2 = bisenetv2_ros.cli.main:main"' in (SOURCE / "setup.py").read_text()


class TestDescriptions:
    package = ElementTree.parse(SOURCE / "package.xml").getroot()

    def test_versions_agree(self) -> None:
        assert self.package.findtext("version") == bisenetv2_ros.__version__

    def test_names_the_licence_that_is_there(self) -> None:
        licence = self.package.find("license")
        assert licence is not None
        assert licence.text == "Apache-2.0"
        assert "Apache License" in (SOURCE / licence.attrib["file"]).read_text()

    def test_every_ros_package_that_is_imported_is_declared(self) -> None:
        declared = {element.text for element in self.package if element.tag.endswith("depend")}
        sources = [*(SOURCE / "bisenetv2_ros").rglob("*.py"), *(SOURCE / "launch").glob("*.py")]
        imported = {
            name
            for path in sources
            for name in re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
        }
        ros = {name for name in imported if name.endswith("_msgs") or name.startswith("launch")}
        ros |= imported & {"rclpy", "std_srvs", "builtin_interfaces", "ament_index_python"}
        assert "sensor_msgs" in ros
        assert ros <= declared

    @pytest.mark.parametrize("is_sourced", [True, False])
    def test_make_takes_the_python_of_a_sourced_ros(
        self, is_sourced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lyrical has Python 3.14, for which ROS 2 has no wheels on PyPI."""
        bootstrap = runpy.run_path(str(SOURCE / "scripts" / "bootstrap"))
        (tmp_path / "share" / "rclpy").mkdir(parents=True)
        monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path) if is_sourced else "")
        monkeypatch.setenv("PATH", "")  # no other Python
        monkeypatch.setattr(sys, "prefix", sys.base_prefix)
        monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
        if is_sourced:
            bootstrap["use_supported_python"]()
        else:
            with pytest.raises(
                bootstrap["Failure"], match=r"is Python 3\.14, expected one of 3\.10"
            ):
                bootstrap["use_supported_python"]()

    def test_rosdep_installs_what_make_takes_from_apt(self) -> None:
        text = (SOURCE / "scripts" / "bootstrap").read_text()
        from_apt = set(re.findall(r'"(python3-(?!colcon)[\w-]+)"', text))
        assert "python3-opencv" in from_apt
        assert from_apt <= {element.text for element in self.package}

    @pytest.mark.parametrize("distro", ["jazzy", "kilted"])
    def test_pinned_lists_pin_everything_and_agree(self, distro: str) -> None:
        pins: dict[str, str] = {}
        for name in (f"ros-{distro}", "demo", "test", "tensorrt-rtx"):
            for line in (SOURCE / "requirements" / f"{name}.txt").read_text().splitlines():
                if line.startswith("#"):
                    continue
                match = re.fullmatch(r"([\w.-]+)==([\w.]+)(?: ; (.+))?", line)
                assert match, f"{name}.txt: '{line}' is not a pin"
                package = f"{match[1]} {match[3] or ''}"
                assert pins.setdefault(package, match[2]) == match[2], f"two versions of {package}"

    def test_the_demo_needs_neither_torch_nor_cuda(self) -> None:
        text = (SOURCE / "requirements" / "demo.txt").read_text()
        assert "openvino==" in text
        assert not re.search(r"^(torch|nvidia|cuda|triton)", text, re.MULTILINE)


def test_env_sh_works_in_every_shell() -> None:
    if not (SOURCE / "install" / "local_setup.sh").is_file():
        pytest.skip("not built by make")
    clean = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    for shell in ("sh", "bash", "zsh"):
        command = ". ./env.sh && . ./env.sh && bisenetv2 --version && echo $AMENT_PREFIX_PATH"
        try:
            result = subprocess.run(
                [shell, "-c", command], cwd=SOURCE, env=clean, capture_output=True, text=True
            )
        except FileNotFoundError:
            continue  # a shell that this machine lacks
        assert result.stderr == "", shell
        version, prefixes = result.stdout.splitlines()
        assert version == f"bisenetv2 {bisenetv2_ros.__version__}"
        assert len(prefixes.split(":")) == len(set(prefixes.split(":"))), "sourcing twice doubles"
