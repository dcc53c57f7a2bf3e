"""Gives Fast DDS the shared memory that camera images need: see config/fastdds_shm.xml.

Touches environment variables only, so it must be called before rclpy.init(); other middlewares do
not read them. Knows nothing of nodes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from bisenetv2_ros.files.paths import share_directory

VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"  # read by Fast DDS 3: Kilted and newer
OLD_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"  # read by Fast DDS 2; Fast DDS 3 warns of it


def profile_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables to add to `environment`, none where it names a profile already.

    The profile of the process that publishes decides whether an image arrives.
    """
    if VARIABLE in environment or OLD_VARIABLE in environment:
        return {}
    # The ament package of Fast DDS 2 bears its old name.
    prefixes = filter(None, environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    is_old = any(Path(prefix, "share", "fastrtps").is_dir() for prefix in prefixes)
    profile = share_directory() / "config" / "fastdds_shm.xml"
    return {OLD_VARIABLE if is_old else VARIABLE: str(profile)}


if __name__ == "__main__":  # for env.sh: the variables as shell commands
    for _name, _value in profile_variables().items():
        print(f"export {_name}={shlex.quote(_value)}")
