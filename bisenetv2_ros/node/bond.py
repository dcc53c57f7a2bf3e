"""The heartbeat that Nav2's lifecycle manager expects of an active node, by bondpy.

bondpy exists from Jazzy on. Without it the manager needs `bond_timeout: 0.0`, or it would take the
node for dead.
"""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode

TOPIC = "bond"
HEARTBEAT_PERIOD, HEARTBEAT_TIMEOUT = 0.1, 4.0  # seconds, as Nav2's own nodes have them


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
        """Tell the manager that the node is going, and stop the heartbeat. Harmless without one."""
        bond, self._bond = self._bond, None
        if bond is None:
            return
        try:
            bond.shutdown()
        except Exception:
            if self._node.context.ok():  # else a signal has ended the context: nothing is sent
                raise
