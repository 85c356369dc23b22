# See LICENSE for details.
"""
Several machines, for tests of daemons that are asked by the same bus: network
namespaces around a hub, in which the servers run.

Each node has a device C{eth0}, joined to the hub, and reaches the hub's address
L{HUB} and nothing else. What the hub sends to a node's address arrives there.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from unittest import SkipTest, TestCase

from pcapdaemon.test import network
from pcapdaemon.test.network import Unavailable

#: Where the servers are (RFC 5737, as are the others).
HUB = "198.51.100.254"


class Fleet:
    """
    The namespaces. L{open} makes them and L{close} removes them.

    @ivar nodes: The name of each node's namespace.
    @ivar addresses: The address of each node.
    """

    def __init__(self, count: int) -> None:
        # Named as a pair's, so that what is left of them is found and removed.
        names = [
            f"pcd{os.getpid()}x{next(network._numbers)}a" for _ in range(count + 1)
        ]
        self._hub, *self.nodes = names
        self.addresses = [f"198.51.100.{4 * n + 2}" for n in range(count)]
        self._stack = ExitStack()

    def open(self) -> None:
        """
        Make the namespaces, and have the calling thread, and what it starts, in
        the hub.

        @raise Unavailable: This machine does not allow it.
        """
        network.removeLeftovers()
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        ip, hub = network._ip, self._hub
        ip("netns", "add", hub)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._stack.callback(os.close, home)
        self._stack.callback(network._setns, home)
        self._enter(hub)
        ip("link", "set", "lo", "up")
        ip("address", "add", f"{HUB}/32", "dev", "lo")
        for number, (name, address) in enumerate(
            zip(self.nodes, self.addresses, strict=True)
        ):
            device, gateway = f"node{number}", f"198.51.100.{4 * number + 1}"
            ip("netns", "add", name)
            ip(
                *("link", "add", device, "type", "veth"),
                *("peer", "name", "eth0", "netns", name),
            )
            ip("address", "add", f"{gateway}/30", "dev", device)
            ip("link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "address", "add", f"{address}/30", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "default", "via", gateway)

    @staticmethod
    def _enter(name: str) -> None:
        there = os.open(Path("/run/netns", name), os.O_RDONLY)
        try:
            network._setns(there)
        finally:
            os.close(there)

    def wrapper(self, number: int) -> list[str]:
        """
        What a command is started by, to run in a node.
        """
        return ["ip", "netns", "exec", self.nodes[number]]

    def send(self, number: int, count: int, port: int) -> None:
        """
        Send datagrams to a node.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            for _ in range(count):
                link.sendto(b"of the tests", (self.addresses[number], port))

    def close(self) -> None:
        """
        Remove everything, also after L{open} failed half-way. Idempotent.
        """
        self._stack.close()
        for name in (*self.nodes, self._hub):
            network._try("netns", "delete", name)


def enterFleet(case: TestCase, count: int) -> Fleet:
    """
    A fleet in whose hub the calling thread is until the test ends.

    @raise SkipTest: Network namespaces cannot be had here.
    """
    reason = network.skipReason()
    if reason is not None:
        raise SkipTest(reason)
    fleet = Fleet(count)
    case.addCleanup(fleet.close)
    try:
        fleet.open()
    except Unavailable as refusal:
        raise SkipTest(str(refusal)) from None
    return fleet
