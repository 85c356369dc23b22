# See LICENSE for details.
"""
The capture systems, in memory and real, keep the contract of
L{pcapdaemon.test.capturecontract}.
"""

from __future__ import annotations

import shutil
import socket
import sys
from unittest import SkipTest

import pcapy

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.libpcap_engine import LibpcapSystem
from pcapdaemon.capture.pcapy_engine import PcapySystem
from pcapdaemon.interfaces import (
    CaptureError,
    Direction,
    ICaptureHandle,
    OpenOptions,
    PrivilegeError,
)
from pcapdaemon.test import network, pcapfile
from pcapdaemon.test.capturecontract import (
    COOKED,
    ETHERNET,
    FILTER,
    MANY,
    OTHER,
    PATIENCE,
    RAW,
    CaptureSystemTests,
    events,
    options,
)
from pcapdaemon.test.frames import HEADERS, frame, sequenceOf
from pcapdaemon.testing import MemoryCaptureSystem


class MemoryCaptureSystemTests(CaptureSystemTests, SynchronousTestCase):
    """
    L{MemoryCaptureSystem} keeps the contract.
    """

    system: MemoryCaptureSystem

    def setUpSystem(self) -> None:
        """One Ethernet device, and the filter of the contract."""
        self.device = "eth0"
        self.system = MemoryCaptureSystem()
        self.system.addDevice("eth0")
        self.system.filters[FILTER] = lambda data: data[36:38] == b"\0\x09"

    def openHandle(self, device: str, options: OpenOptions) -> ICaptureHandle:
        """Nothing surrounds it."""
        return self.system.open(device, options)

    def linkTypeOf(self, device: str) -> int:
        """Nothing surrounds it."""
        return self.system.linkType(device)

    def deliver(self, *frames: bytes) -> None:
        """It arrives at once."""
        for data in frames:
            self.system.deliver(self.device, data)

    def deliverOut(self, *frames: bytes) -> None:
        """It leaves at once."""
        for data in frames:
            self.system.deliver(self.device, data, direction=Direction.OUT)

    def removeDevice(self) -> None:
        """As tests do."""
        self.system.removeDevice(self.device)

    def downDevice(self) -> None:
        """As tests do."""
        self.system.setDown(self.device)

    def test_given(self) -> None:
        """Original length and time stamp may be given, and the rings counted."""
        self.system.addDevice("tun0", RAW)
        capture = self.capture(options(linkType=RAW), "tun0")
        count = self.system.deliver("tun0", b"packet", original=900, time=1.25)
        capture.takeAll(1)
        content = capture.finish()
        self.assertEqual(count, 1)
        self.assertEqual(content.linkType, 101)
        expected = pcapfile.Record(1_250_000_000, b"packet", 900)
        self.assertEqual(content.records, (expected,))

    def test_failures(self) -> None:
        """The calls that may fail do so when told to, draining once."""
        self.system.refusal = PrivilegeError("no")
        self.assertRaises(PrivilegeError, self.system.check)
        capture = self.capture(options())
        self.system.failures["eth0"] = PrivilegeError("no")
        self.assertRaises(PrivilegeError, self.system.open, "eth0", options())
        self.system.handles[0].failure = CaptureError("broken")
        self.assertRaises(CaptureError, capture.handle.drain, 1, MANY)
        capture.takeAll(0)

    def test_apparent(self) -> None:
        """The link type that is told beforehand may be wrong."""
        self.system.apparent["eth0"] = RAW
        self.assertEqual(self.system.linkType("eth0"), RAW)
        self.assertEqual(self.open(options()).linkType, ETHERNET)

    def test_misuse(self) -> None:
        """Calls that the contract forbids are complained of."""
        handle = self.system.open("eth0", options())
        self.assertRaises(AssertionError, handle.drain, 1, MANY)
        handle.close()
        self.assertRaises(AssertionError, handle.close)
        self.assertRaises(AssertionError, handle.drops)


class RealSystemTests(CaptureSystemTests):
    """
    The contract with real packets.
    """

    makeSystem: type[PcapySystem] | type[LibpcapSystem]

    # The kernel hands packets over block by block, and no event says that a
    # timer has closed the last one: some times the engine's BLOCK_TIMEOUT.
    settle = 0.05

    def setUpSystem(self) -> None:
        """A veth pair, and a witness of what arrives."""
        self.pair = network.makePair(self)
        self.device = "vb"
        self.system = self.makeSystem()
        with self.pair.enter("b"):
            self.witness = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.addCleanup(self.witness.close)
        self.witness.settimeout(PATIENCE)
        self.witness.bind((self.device, 0x0003))

    def openHandle(self, device: str, options: OpenOptions) -> ICaptureHandle:
        """Open in the namespace; the handle then works from anywhere."""
        with self.pair.enter("b"):
            return self.system.open(device, options)

    def linkTypeOf(self, device: str) -> int:
        """Ask in the namespace."""
        with self.pair.enter("b"):
            return self.system.linkType(device)

    def deliver(self, *frames: bytes) -> None:
        """
        The kernel serves the sockets of a device in turn, the oldest last: what
        the witness has, all have.
        """
        for data in frames:
            self.pair.send([data])
            self.witness.recv(1)

    def deliverOut(self, *frames: bytes) -> None:
        """The witness sees what leaves, too."""
        for data in frames:
            self.pair.send([data], self.device, "b")
            self.witness.recv(1)

    def removeDevice(self) -> None:
        """Delete it."""
        self.pair.delete(self.device)

    def downDevice(self) -> None:
        """Take it down."""
        self.pair.down(self.device)

    def test_upAgain(self) -> None:
        """A device that was down and is up again can be opened and captured on."""
        self.downDevice()
        self.pair.up(self.device)
        capture = self.capture(options())
        self.pair.send([frame(7)])
        capture.takeAll(1)
        self.assertEqual(sequenceOf(capture.finish().records[0].data), 7)

    def test_flood(self) -> None:
        """Many packets while draining: all are there, in order."""
        capture = self.capture(options(snaplength=64, buffersize=16 << 20))
        flood = self.pair.flood(50_000, rate=100_000)
        flood.start()
        while capture.taken < 50_000 and events(capture.handle, PATIENCE):
            capture.taken += capture.handle.drain(1000, 1 << 30).packets
        self.assertEqual(flood.result(PATIENCE)["frames"], 50_000)
        self.assertEqual(capture.handle.drops().kernel, 0)
        capture.handle.flush()
        numbers = pcapfile.sequences(capture.file)
        self.assertEqual(list(numbers), list(range(50_000)))

    def test_tagged(self) -> None:
        """A VLAN tag that the kernel took off is back in the file."""
        capture = self.capture(options())
        filtered = self.capture(options(filter="vlan 5 and udp"))
        sent = [frame(0, vlan=5), frame(1), frame(2, vlan=6)]
        self.deliver(*sent)
        capture.takeAll(3)
        filtered.takeAll(1)
        self.assertEqual([record.data for record in capture.finish().records], sent)
        self.assertEqual(
            [record.data for record in filtered.finish().records], sent[:1]
        )

    def test_any(self) -> None:
        """C{any} sees the packets of the devices, with a cooked header."""
        capture = self.capture(options(filter=FILTER, linkType=COOKED), "any")
        self.deliver(frame(3), OTHER)
        capture.takeAll(1)
        (record,) = capture.finish().records
        self.assertEqual(sequenceOf(record.data, HEADERS - 14 + 16), 3)

    def test_anyDirection(self) -> None:
        """C{any} knows the directions, too; C{lo} has only one."""
        captures = {
            direction: self.capture(
                options(64, "udp", COOKED, direction=direction), "any"
            )
            for direction in (Direction.OUT, Direction.IN)
        }
        with self.pair.enter("b"):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(sender.close)
        sender.sendto(bytes(16), ("127.0.0.1", 9))
        self.deliver(frame(1))
        self.deliverOut(frame(2))
        for direction, expected in ((Direction.OUT, [2]), (Direction.IN, [0, 1])):
            capture = captures[direction]
            capture.takeAll(len(expected))
            records = capture.finish().records
            found = [sequenceOf(record.data, 44) for record in records]
            self.assertEqual(found, expected)

    def test_whole(self) -> None:
        """
        Without a filter the ring holds no more of a packet than is kept, and so
        takes more of them.
        """
        capture = self.capture(options(snaplength=60, buffersize=1 << 20))
        sent = [frame(number, 1500) for number in range(1000)]
        self.deliver(*sent)
        capture.takeAll(1000)
        self.assertEqual(capture.handle.drops().kernel, 0)

    def test_anySurvives(self) -> None:
        """C{any} goes on when a device is removed."""
        capture = self.capture(options(linkType=COOKED), "any")
        self.deliver(frame(0))
        self.removeDevice()
        capture.takeAll(1)
        tunnel = self.tunnel()
        tunnel.deliver(frame(1)[14:])
        capture.takeAll(2)
        records = capture.finish().records
        self.assertEqual([sequenceOf(r.data, 44) for r in records], [0, 1])

    def test_loopback(self) -> None:
        """C{lo} is Ethernet, and shows each packet once."""
        self.assertEqual(self.linkTypeOf("lo"), ETHERNET)
        capture = self.capture(options(filter="udp"), "lo")
        self.assertEqual(capture.handle.linkType, ETHERNET)
        with self.pair.enter("b"):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(sender.close)
        sender.sendto(b"hello", ("127.0.0.1", 9))
        capture.takeAll(1)
        # The one that went out is not in the ring, waiting to be left out.
        self.assertFalse(capture.handle.pending())
        content = capture.finish()
        self.assertEqual(content.linkType, ETHERNET)
        self.assertEqual(content.records[0].data[HEADERS:], b"hello")

    def tunnel(self) -> network.Tunnel:
        """A tunnel device, where the kernel has one."""
        try:
            return self.pair.tunnel()
        except network.Unavailable as reason:
            raise SkipTest(str(reason)) from None

    def test_tunnel(self) -> None:
        """Packets of a tunnel device begin with their IP header."""
        tunnel = self.tunnel()
        self.assertEqual(self.linkTypeOf(tunnel.name), RAW)
        capture = self.capture(options(filter=FILTER, linkType=RAW), tunnel.name)
        self.assertEqual(capture.handle.linkType, RAW)
        packet = frame(5)[14:]
        tunnel.deliver(OTHER[14:])
        tunnel.deliver(packet)
        capture.takeAll(1)
        content = capture.finish()
        self.assertEqual(content.linkType, 101)
        self.assertEqual([record.data for record in content.records], [packet])

    def test_vlanDevice(self) -> None:
        """A VLAN device is Ethernet, and shows packets without their tag."""
        try:
            device = self.pair.vlan(5)
        except network.Unavailable as reason:
            raise SkipTest(str(reason)) from None
        self.assertEqual(self.linkTypeOf(device), ETHERNET)
        capture = self.capture(options(filter=FILTER), device)
        self.deliver(frame(4, vlan=5), frame(5), frame(6, vlan=6))
        capture.takeAll(1)
        content = capture.finish()
        self.assertEqual(content.linkType, ETHERNET)
        (record,) = content.records
        self.assertEqual((sequenceOf(record.data), record.original), (4, 128))

    def openWith(self, capabilities: str, device: str) -> str:
        """
        What becomes of opening a device in a process with only some of the
        capabilities of root; without a name, of asking whether it may.
        """
        if shutil.which("setpriv") is None:
            raise SkipTest("dropping capabilities needs setpriv (util-linux)")
        made = self.makeSystem
        program = (
            "import sys\n"
            f"from {made.__module__} import {made.__name__} as System\n"
            "from pcapdaemon.interfaces import OpenOptions\n"
            "options = OpenOptions(500, 1 << 20, False, '', 1)\n"
            "try:\n"
            "    if sys.argv[1]:\n"
            "        System().open(sys.argv[1], options).close()\n"
            "    else:\n"
            "        System().check()\n"
            "except Exception as error:\n"
            "    print(type(error).__name__, error)\n"
            "else:\n"
            "    print('allowed')\n"
        )
        dropping = ["setpriv", f"--bounding-set={capabilities}"]
        return self.pair.run("b", *dropping, sys.executable, "-c", program, device)

    def test_noPrivilege(self) -> None:
        """A process that may not capture is told so, and on which device."""
        for device in ("vb", "any", ""):
            said = self.openWith("-net_raw,-net_admin", device)
            self.assertIn("PrivilegeError", said)
            self.assertIn(device, said)

    def test_rawPrivilege(self) -> None:
        """CAP_NET_RAW alone is enough."""
        for device in ("vb", "any", ""):
            self.assertEqual(self.openWith("-all,+net_raw", device), "allowed\n")


class PcapySystemTests(RealSystemTests, SynchronousTestCase):
    """
    L{PcapySystem} keeps the contract.
    """

    makeSystem = PcapySystem


class LibpcapSystemTests(RealSystemTests, SynchronousTestCase):
    """
    L{LibpcapSystem} keeps the contract.
    """

    makeSystem = LibpcapSystem

    def test_old(self) -> None:
        """A libpcap that some filters keep busy for ever is not taken."""
        error = self.assertRaises(OSError, LibpcapSystem, pcapy.__file__)
        self.assertIn("older than 1.10", str(error))
