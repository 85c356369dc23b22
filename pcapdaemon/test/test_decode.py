# See LICENSE for details.
"""
Tests for L{pcapdaemon.capture.decode}.
"""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import subprocess
import sys
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from pcapdaemon.capture.decode import Undecodable, describe
from pcapdaemon.test.frames import frame

ETHERNET, RAW, COOKED, COOKED2, UNKNOWN = 1, 101, 113, 276, 147

_MACS = bytes.fromhex("020000000002020000000001")
_ADDRESSES = bytes.fromhex("c0000201c0000202")


def ethernet(kind: int, payload: bytes) -> bytes:
    """
    A frame of an EtherType.
    """
    return _MACS + struct.pack("!H", kind) + payload


def ipv4(protocol: int, payload: bytes, length: int | None = None) -> bytes:
    """
    An IPv4 frame.

    @param length: What the header says its length is, when that is not true.
    """
    total = 20 + len(payload) if length is None else length
    header = struct.pack("!BBHHHBBH", 0x45, 0, total, 1, 0, 64, protocol, 0)
    return ethernet(0x0800, header + _ADDRESSES + payload)


def pcap(
    link: int, *packets: bytes | tuple[bytes, int], order: str = "<", nano: bool = False
) -> io.BytesIO:
    """
    A file of packets; one that was cut comes with its length on the wire.
    """
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    parts = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link)]
    for packet in packets:
        data, length = packet if isinstance(packet, tuple) else (packet, len(packet))
        part = 250_000_000 if nano else 250_000
        parts.append(struct.pack(f"{order}IIII", 1700000000, part, len(data), length))
        parts.append(data)
    return io.BytesIO(b"".join(parts))


UDP = struct.pack("!HHHH", 4000, 9, 12, 0) + b"text"
ARP = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + _MACS[6:] + b"\xc0\0\2\1" + bytes(10)
IPV6 = struct.pack("!IHBB", 6 << 28, 12, 17, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"

#: IPv4 says that only one byte follows its header, and that it is UDP.
BROKEN = ipv4(17, UDP + bytes(60), length=21)


class DescribeTests(SynchronousTestCase):
    """
    Tests for L{describe}.
    """

    def setUp(self) -> None:
        """
        There is a decoder.
        """
        if importlib.util.find_spec("scapy") is None:
            raise SkipTest("scapy is not installed")

    def all(
        self, link: int, *packets: bytes | tuple[bytes, int], **how: Any
    ) -> list[dict[str, Any]]:
        """
        Describe packets, all of which must be printable.
        """
        described = list(describe(pcap(link, *packets, **how), False))
        self.assertEqual(
            [each["number"] for each in described], list(range(1, len(packets) + 1))
        )
        for each in described:
            self.assertTrue(each["summary"].isascii())
            self.assertTrue(each["summary"].isprintable())
        return described

    def one(self, link: int, packet: bytes | tuple[bytes, int]) -> dict[str, Any]:
        """
        Describe one packet.
        """
        (described,) = self.all(link, packet)
        return described

    def test_udp(self) -> None:
        """
        A packet has a number, a time, its two lengths, layers and a summary.
        """
        data = ipv4(17, UDP)
        described = self.one(ETHERNET, data)
        summary = described.pop("summary")
        self.assertIn("192.0.2.1:4000 > 192.0.2.2:", summary)
        self.assertEqual(
            described,
            {
                "number": 1,
                "time": 1700000000.25,
                "length": len(data),
                "captured": len(data),
                "layers": ["Ether", "IP", "UDP", "Raw"],
                "malformed": None,
            },
        )

    def test_layers(self) -> None:
        """
        Each link type begins with its own header.
        """
        cooked = struct.pack("!HHH8sH", 0, 1, 6, _MACS[6:] + b"\0\0", 0x0800)
        cooked2 = struct.pack("!HHIHBB8s", 0x0800, 0, 3, 1, 0, 6, _MACS[6:] + b"\0\0")
        packet = ipv4(17, UDP)[14:]
        for link, data, layers in (
            (ETHERNET, frame(1, vlan=7), ["Ether", "Dot1Q", "IP", "UDP", "Raw"]),
            (ETHERNET, ethernet(0x0806, ARP), ["Ether", "ARP"]),
            (ETHERNET, ethernet(0x86DD, IPV6 + UDP), ["Ether", "IPv6", "UDP", "Raw"]),
            (ETHERNET, ethernet(0x88B5, b"own"), ["Ether", "Raw"]),
            (ETHERNET, ethernet(0x0800, b""), ["Ether"]),
            (COOKED, cooked + packet, ["CookedLinux", "IP", "UDP", "Raw"]),
            (COOKED2, cooked2 + packet, ["CookedLinuxV2", "IP", "UDP", "Raw"]),
            (RAW, packet, ["IP", "UDP", "Raw"]),
            (RAW, IPV6 + UDP, ["IPv6", "UDP", "Raw"]),
            (UNKNOWN, packet, ["Raw"]),
            (ETHERNET, b"", ["Raw"]),
        ):
            described = self.one(link, data)
            self.assertEqual(described["layers"], layers)
            self.assertIsNone(described["malformed"])

    def test_formats(self) -> None:
        """
        Both byte orders are read, and both kinds of time stamp.
        """
        for order in "<>":
            for nano in (False, True):
                (described,) = self.all(ETHERNET, frame(1), order=order, nano=nano)
                self.assertEqual(described["time"], 1700000000.25)
                self.assertEqual(described["length"], 128)

    def test_cut(self) -> None:
        """
        No sound packet is malformed for having been cut, wherever that was.
        """
        for whole in (
            frame(1, vlan=7),
            frame(1, size=300),
            ethernet(0x0806, ARP),
            ethernet(0x86DD, IPV6 + UDP),
            ipv4(6, struct.pack("!HHIIHHI", 1, 2, 3, 4, 0xF000, 0, 0) + b"\1" * 40),
        ):
            cuts = [(whole[:n], len(whole)) for n in range(len(whole))]
            for described in self.all(ETHERNET, *cuts):
                self.assertIsNone(described["malformed"], described)
                self.assertEqual(described["length"], len(whole))
                self.assertEqual(described["captured"], described["number"] - 1)

    def test_malformed(self) -> None:
        """
        A header without its bytes is malformed, and what is sound is still named.
        """
        for data, layers in (
            (BROKEN, ["Ether", "IP", "Raw", "Padding"]),
            (ipv4(17, UDP)[:38], ["Ether", "IP", "Raw"]),
            (_MACS[:5], ["Raw"]),
        ):
            described = self.one(ETHERNET, data)
            self.assertEqual(described["layers"], layers)
            self.assertTrue(described["malformed"])

    def test_malformedCut(self) -> None:
        """
        A header that is broken before the cut is malformed.
        """
        described = self.one(ETHERNET, (BROKEN[:64], len(BROKEN)))
        self.assertTrue(described["malformed"])

    def test_nested(self) -> None:
        """
        Headers without end hurt nobody.
        """
        packet = _MACS + b"\x81\x00\x00\x01" * 16000 + ipv4(17, UDP)[12:]
        self.assertIn("Recursion", self.one(ETHERNET, packet)["malformed"])

    def test_lenient(self) -> None:
        """
        The packets after a malformed one are described.
        """
        described = self.all(ETHERNET, frame(1), BROKEN, frame(2))
        self.assertEqual(
            [each["malformed"] is None for each in described], [True, False, True]
        )

    def test_strict(self) -> None:
        """
        Strictly, a malformed packet ends it, and its number is told.
        """
        packets = describe(pcap(ETHERNET, frame(1), BROKEN, frame(2)), True)
        self.assertEqual(next(packets)["number"], 1)
        e = self.assertRaises(Undecodable, next, packets)
        self.assertEqual(e.number, 2)
        self.assertIn("unpack", e.detail)
        self.assertEqual(str(e), f"packet 2 cannot be decoded: {e.detail}")

    def test_strictCut(self) -> None:
        """
        Strictly too, a cut is not the packet's fault.
        """
        packets = describe(pcap(ETHERNET, (frame(1)[:38], 128)), True)
        self.assertEqual([each["malformed"] for each in packets], [None])

    def test_empty(self) -> None:
        """
        A file without packets has none to describe.
        """
        self.assertEqual(self.all(ETHERNET), [])

    def test_noFile(self) -> None:
        """
        What is not a pcap file, or ends too soon, is an error.
        """
        whole = pcap(ETHERNET, frame(1)).getvalue()
        for data, message in (
            (b"", "not a pcap file"),
            (whole[:23], "not a pcap file"),
            (b"\x0a\x0d\x0d\x0a" + whole[4:], "not a pcap file"),
            (whole[:30], "header of packet 1"),
            (whole[:-1], "within packet 1"),
        ):
            e = self.assertRaises(ValueError, list, describe(io.BytesIO(data), False))
            self.assertIn(message, str(e))

    def test_settings(self) -> None:
        """
        Whoever else uses the decoder finds its settings as they were.
        """
        self.all(ETHERNET, frame(1), BROKEN)
        from scapy.config import conf
        from scapy.error import log_runtime

        self.assertFalse(conf.debug_dissector)
        self.assertFalse(log_runtime.disabled)


#: Describes what comes on standard input, and is told on by every socket but those
#: that list devices, and by every file that is opened for writing.
_CHILD = """
import os, socket, sys
from pcapdaemon.capture.decode import describe
assert not [name for name in sys.modules if name.startswith("scapy")]

def hook(event, arguments):
    if event == "socket.__new__" and arguments[1] != socket.AF_NETLINK:
        print(event, arguments)
    if event.startswith(("socket.connect", "socket.send", "socket.get")):
        print(event, arguments)
    if event == "open" and (arguments[2] & os.O_ACCMODE) != os.O_RDONLY:
        print(event, arguments)

sys.addaudithook(hook)
print(len([each["summary"] for each in describe(sys.stdin.buffer, False)]))
"""


class IsolationTests(SynchronousTestCase):
    """
    Tests for what the decoder leaves alone.
    """

    def test_untouched(self) -> None:
        """
        The decoder is imported only when used, and then it asks nobody anything,
        writes no file and prints nothing.
        """
        if importlib.util.find_spec("scapy") is None:
            raise SkipTest("scapy is not installed")
        home = self.mktemp()
        os.makedirs(os.path.join(home, ".cache"))
        os.mkdir(os.path.join(home, ".config"))
        packets = [frame(1), ethernet(0x0806, ARP), b"", BROKEN, frame(2, vlan=3)]
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=pcap(ETHERNET, *packets, (frame(1)[:20], 128)).getvalue(),
            capture_output=True,
            timeout=60,
            env={
                "HOME": os.path.abspath(home),
                "PYTHONPATH": os.pathsep.join(sys.path),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        self.assertEqual((done.stdout, done.stderr), (b"6\n", b""))
        self.assertEqual(os.listdir(os.path.join(home, ".cache")), [])
