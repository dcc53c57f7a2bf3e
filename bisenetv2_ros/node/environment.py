"""Prepares a process's environment for ROS before rclpy.init(): domain, shared memory, logs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bisenetv2_ros.node import fastdds

LAST_DOMAIN = 232  # DDSI-RTPS 2.2, section 9.6.1.1: the ports of the next one exceed 65535


def set_up(program: str) -> None:
    """Add missing variables to `os.environ`; report on stderr what was changed or will not work.

    The user's own variables are kept. Raises ValueError for a domain that DDS has no ports for: the
    middleware refuses it too, but leaves its shared memory behind.
    """
    domain = os.environ.get("ROS_DOMAIN_ID", "")
    if domain.isascii() and domain.isdigit() and int(domain) > LAST_DOMAIN:
        raise ValueError(f"ROS_DOMAIN_ID is {domain}, expected 0..{LAST_DOMAIN}")
    os.environ.update(fastdds.profile_variables())
    problems = [fastdds.shared_memory_problem()]
    if not _can_log():
        directory = Path(tempfile.gettempdir(), f"ros_log_{os.getuid()}")
        os.environ["ROS_LOG_DIR"] = str(directory)
        problems.append(f"no place for logs below HOME, they go to {directory} (ROS_LOG_DIR)")
    for problem in filter(None, problems):
        print(f"{program}: warning: {problem}", file=sys.stderr, flush=True)


def _can_log(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ROS has a log directory; without one, rclpy.init() fails."""
    if environment.get("ROS_LOG_DIR") or environment.get("ROS_HOME"):
        return True  # the user's choice; ROS names it if it refuses
    home = environment.get("HOME")
    if not home:
        return False
    directory = Path(home, ".ros", "log")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)
