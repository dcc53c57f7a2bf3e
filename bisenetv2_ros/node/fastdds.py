"""Chooses Fast DDS's shared memory for camera images: see config/fastdds_shm.xml.

Only sets environment variables, which other middlewares ignore; call it before rclpy.init(). Knows
nothing of nodes.
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
PROCESSES = 4  #: that exchange images, with a segment each: camera, node, viewer, recorder
PROFILES = {LARGE: "fastdds_shm.xml", SMALL: "fastdds_shm_small.xml"}


def profile_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables to add to `environment`; none if it names the user's own profile.

    The profile of the publishing process decides whether an image arrives. A profile of this
    package is chosen again, because there may be less shared memory now than when the parent
    process started.
    """
    if _is_the_users(environment):
        return {}
    # Fast DDS 2's ament package still has its old name.
    prefixes = filter(None, environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    is_old = any(Path(prefix, "share", "fastrtps").is_dir() for prefix in prefixes)
    profile = share_directory() / "config" / PROFILES[segment_size()]
    return {OLD_VARIABLE if is_old else VARIABLE: str(profile)}


def segment_size() -> int:
    """Bytes of shared memory per process: LARGE if PROCESSES of them fit what is free."""
    return LARGE if _free_and_size()[0] >= PROCESSES * LARGE else SMALL


def shared_memory_problem(environment: Mapping[str, str] = os.environ) -> str:
    """One line if /dev/shm is too small for large images, or for any; '' otherwise.

    A container has 64 MB there by default. If the user has a profile, only the user knows its
    needs.
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
    """A hint for a publisher whose images do not arrive."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "")
    ((variable, profile),) = profile_variables({"AMENT_PREFIX_PATH": prefixes}).items()
    return (
        "its shared memory must hold them (start it with "
        f"{variable}={profile}) and be this node's (containers with --ipc=host, --shm-size=512m)"
    )


def _is_the_users(environment: Mapping[str, str]) -> bool:
    """Whether a profile is named that is not this package's."""
    named = [environment[name] for name in (VARIABLE, OLD_VARIABLE) if environment.get(name)]
    return any(Path(profile).name not in PROFILES.values() for profile in named)


def _free_and_size() -> tuple[int, int]:
    """Free and total bytes of the shared memory; unlimited if it cannot be queried."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return sys.maxsize, sys.maxsize
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


if __name__ == "__main__":  # for env.sh: the variables as shell commands
    for _name, _value in profile_variables().items():
        print(f"export {_name}={shlex.quote(_value)}")
