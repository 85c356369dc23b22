# See LICENSE for details.
"""
Tests for L{pcapdaemon.capture.interfaces}.
"""

from __future__ import annotations

import json
import socket
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.interfaces import describe
from pcapdaemon.capture.links import linkName
from pcapdaemon.interfaces import CaptureError, PrivilegeError
from pcapdaemon.test.daemoncase import enterPair
from pcapdaemon.testing import MemoryCaptureSystem


def found(*arguments: Any) -> dict[str, dict[str, Any]]:
    """
    What is described, by name.
    """
    return {device["name"]: device for device in describe(*arguments)}


class DescribeTests(SynchronousTestCase):
    """
    L{describe} on the machine that there is.
    """

    def test_all(self) -> None:
        """
        Every device is there, C{any} too, and what is told of it is JSON.
        """
        devices = describe({})
        names = [device["name"] for device in devices]
        self.assertEqual(names, ["any", *(n for _, n in socket.if_nameindex())])
        self.assertEqual(json.loads(json.dumps(devices)), devices)

    def test_aliases(self) -> None:
        """
        A device has those aliases that mean it; one that is not there is told
        because of its alias.
        """
        aliases = {"dmz": ("lo", "gone0"), "home": ("lo",), "all": ("any",)}
        devices = found(aliases)
        self.assertEqual(devices["lo"]["aliases"], ["dmz", "home"])
        self.assertEqual(devices["any"]["aliases"], ["all"])
        self.assertEqual(
            devices["gone0"],
            {
                "name": "gone0",
                "aliases": ["dmz"],
                "addresses": [],
                "up": False,
                "capture": False,
                "why": "'gone0': no such device",
            },
        )

    def test_forbidden(self) -> None:
        """
        Where this process may not, no device can be captured on, and it says
        what would help; where it cannot, why.
        """
        system = MemoryCaptureSystem()
        system.addDevice("lo")
        system.refusal = PrivilegeError("no")
        device = found({}, system)["lo"]
        self.assertFalse(device["capture"])
        self.assertIn("CAP_NET_RAW", device["why"])
        system.refusal = CaptureError("packet sockets: none here")
        self.assertEqual(found({}, system)["lo"]["why"], "packet sockets: none here")

    def test_link(self) -> None:
        """
        What the capture system knows of a device counts.
        """
        system = MemoryCaptureSystem()
        system.addDevice("lo", 105)
        device = found({}, system)["lo"]
        self.assertEqual((device["link"], device["linkname"]), (105, "IEEE802_11"))
        self.assertEqual(linkName(240), "DLT_240")


class NamespaceTests(SynchronousTestCase):
    """
    L{describe} in a network of our own.
    """

    def test_devices(self) -> None:
        """
        Addresses, kinds and states are those of the kernel.
        """
        pair = enterPair(self)
        Path("/proc/sys/net/ipv6/conf/vb/disable_ipv6").write_text("0")
        for address in ("198.51.100.7/24", "2001:db8::7/64"):
            pair.run("b", "ip", "address", "add", address, "dev", "vb")
        device = found({})["vb"]
        self.assertEqual((device["link"], device["linkname"]), (1, "EN10MB"))
        self.assertEqual((device["up"], device["capture"]), (True, True))
        self.assertNotIn("why", device)
        self.assertEqual(device["addresses"][0], "198.51.100.7")
        # The other one is of the kernel's making, and has a scope.
        local = [a for a in device["addresses"][1:] if a != "2001:db8::7"]
        self.assertEqual(len(local), len(device["addresses"]) - 2)
        for address in local:
            self.assertTrue(IPv6Address(address).is_link_local)
            self.assertNotIn("%", address)
        pair.down()
        device = found({})["vb"]
        self.assertEqual((device["up"], device["capture"]), (False, False))
        self.assertEqual(device["why"], "vb: the device is down")
        pair.tunnel()
        device = found({})["tun0"]
        self.assertEqual((device["link"], device["linkname"]), (12, "RAW"))
