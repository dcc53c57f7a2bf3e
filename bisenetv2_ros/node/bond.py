"""The bondpy heartbeat that Nav2's lifecycle manager expects of an active node.

bondpy exists since Jazzy. Without it the manager needs `bond_timeout: 0.0`, otherwise it considers
the node dead.
"""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode

TOPIC = "bond"
HEARTBEAT_PERIOD, HEARTBEAT_TIMEOUT = 0.1, 4.0  # seconds, as in Nav2's own nodes


class ManagerBond:
    """A bond with the lifecycle manager that activates `node`; none without bondpy."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._bond: Any = None

    def form(self) -> None:
        """Start the heartbeat; bondpy stops it after a while if no manager listens."""
        try:
            from bondpy.bondpy import Bond
        except ImportError:
            self._node.get_logger().info(
                "no bond: bondpy is not installed; a Nav2 lifecycle manager needs bond_timeout: 0.0"
            )
            return
        self._bond = Bond(TOPIC, self._node.get_name(), self._node)
        self._bond.set_heartbeat_period(HEARTBEAT_PERIOD)
        self._bond.set_heartbeat_timeout(HEARTBEAT_TIMEOUT)
        self._bond.start()

    def end(self) -> None:
        """Announce that the node is leaving and stop the heartbeat. Does nothing without a bond."""
        bond, self._bond = self._bond, None
        if bond is None:
            return
        try:
            bond.shutdown()
        except Exception:
            if self._node.context.ok():  # else a signal has ended the context: nothing is sent
                raise
