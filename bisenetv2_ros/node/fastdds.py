"""Chooses the shared memory that Fast DDS gets for camera images: see config/fastdds_shm.xml.

Touches environment variables only, so it must be called before rclpy.init(); other middlewares do
not read them. Knows nothing of nodes.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from bisenetv2_ros.files.paths import share_directory

VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"  # read by Fast DDS 3: Kilted and newer
OLD_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # read by Fast DDS 2; Fast DDS 3 warns of it

SHARED_MEMORY = Path("/dev/shm")
LARGE, SMALL = 64 << 20, 16 << 20  #: bytes of the segment of each process, by profile
PROCESSES = 4  #: that exchange images, each with a segment: camera, node, viewer, recorder
PROFILES = {LARGE: "fastdds_shm.xml", SMALL: "fastdds_shm_small.xml"}


def profile_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables to add to `environment`; none if it names a profile of the user's own.

    The profile of the process that publishes decides whether an image arrives. One of the package's
    own is chosen again: the shared memory of now may be smaller than that of the parent process.
    """
    if _is_the_users(environment):
        return {}
    # The ament package of Fast DDS 2 bears its old name.
    prefixes = filter(None, environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    is_old = any(Path(prefix, "share", "fastrtps").is_dir() for prefix in prefixes)
    profile = share_directory() / "config" / PROFILES[segment_size()]
    return {OLD_VARIABLE if is_old else VARIABLE: str(profile)}


def segment_size() -> int:
    """Bytes of shared memory per process: LARGE if PROCESSES of them fit what is free."""
    return LARGE if _free_and_size()[0] >= PROCESSES * LARGE else SMALL


def shared_memory_problem(environment: Mapping[str, str] = os.environ) -> str:
    """One line if /dev/shm is too small for large images, or for any; '' if it is not.

    A container has 64 MB there unless it is given more. With a profile of the user's own, only the
    user knows what it needs.
    """
    if _is_the_users(environment):
        return ""
    free, size = (number / 1e6 for number in _free_and_size())
    advice = "give a container more with --shm-size=512m or --ipc=host"
    found = f"{SHARED_MEMORY} has {free:.0f} MB free of {size:.0f}"
    if free * 1e6 < SMALL:
        return (
            f"{found}, expected {SMALL / 1e6:.0f} or more for each process that sends images: "
            f"images may not arrive; {advice}"
        )
    if free * 1e6 < PROCESSES * LARGE:
        return f"{found}: enough for images up to about 1280x720, larger ones may be lost; {advice}"
    return ""


def advice() -> str:
    """What to do about a publisher whose images do not arrive."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "")
    ((variable, profile),) = profile_variables({"AMENT_PREFIX_PATH": prefixes}).items()
    return (
        "its shared memory must hold them (start it with "
        f"{variable}={profile}) and be this node's (containers with --ipc=host, --shm-size=512m)"
    )


def _is_the_users(environment: Mapping[str, str]) -> bool:
    """Whether a profile is named that is none of the package's."""
    named = [environment[name] for name in (VARIABLE, OLD_VARIABLE) if environment.get(name)]
    return any(Path(profile).name not in PROFILES.values() for profile in named)


def _free_and_size() -> tuple[int, int]:
    """Free bytes of the shared memory, and all; as if plenty if there is none to ask."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return sys.maxsize, sys.maxsize
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


if __name__ == "__main__":  # for env.sh: the variables as shell commands
    for _name, _value in profile_variables().items():
        print(f"export {_name}={shlex.quote(_value)}")
