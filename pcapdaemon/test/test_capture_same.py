# See LICENSE for details.
"""
Both engines make the same file of the same packets.
"""

from __future__ import annotations

import os
import random
import struct

import attrs

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.libpcap_engine import LibpcapSystem
from pcapdaemon.capture.pcapy_engine import PcapySystem
from pcapdaemon.interfaces import Direction, OpenOptions
from pcapdaemon.test import network
from pcapdaemon.test.capturecontract import (
    COOKED,
    FILTER,
    MANY,
    OTHER,
    PATIENCE,
    Capture,
    events,
    options,
)
from pcapdaemon.test.frames import frame
from pcapdaemon.test.pcapfile import FILE_HEADER, PACKET_HEADER

#: Some times the engines' BLOCK_TIMEOUT: seconds.
SETTLE = 0.05


def timeless(content: bytes) -> bytes:
    """
    A pcap with all time stamps set to zero.
    """
    made, position = bytearray(content), FILE_HEADER
    while position < len(made):
        made[position : position + 8] = bytes(8)
        [kept] = struct.unpack_from("=I", made, position + 8)
        position += PACKET_HEADER + kept
    return bytes(made)


class SameTests(SynchronousTestCase):
    """
    L{LibpcapSystem} beside L{PcapySystem}, on one device at the same time.
    """

    def setUp(self) -> None:
        self.pair = network.makePair(self)
        with self.pair.enter("b"):
            self.systems = (LibpcapSystem(), PcapySystem())

    def captures(self, device: str, wanted: OpenOptions) -> list[Capture]:
        """One capture by each engine."""
        made = []
        for system in self.systems:
            with self.pair.enter("b"):
                handle = system.open(device, wanted)
            self.addCleanup(handle.close)
            file = os.memfd_create("test")
            self.addCleanup(os.close, file)
            made.append(Capture(handle, file, SETTLE))
        return made

    def traffic(self) -> tuple[list[bytes], list[bytes]]:
        """
        Frames of all kinds that come, and some that go: short and long, tagged, for
        another port, of no known protocol.
        """
        generator = random.Random(20)
        sizes = [
            58,
            60,
            64,
            65,
            1514,
            *(generator.randint(58, 1514) for _ in range(80)),
        ]
        coming = [frame(number, size) for number, size in enumerate(sizes)]
        coming += [OTHER, frame(200, 100, vlan=5), frame(201, 1514, vlan=4094)]
        coming += [frame(202)[:12] + b"\x88\xb5" + generator.randbytes(50)]
        generator.shuffle(coming)
        return coming, [frame(300 + number, 90) for number in range(5)]

    def test_same(self) -> None:
        """
        Byte for byte, whatever is asked for, but for the time stamps, which the
        kernel takes for each socket by itself.
        """
        whole = options()
        kinds = {
            "whole": ("vb", whole),
            "cut": ("vb", attrs.evolve(whole, snaplength=64)),
            "filtered": ("vb", attrs.evolve(whole, filter=FILTER)),
            "tagged": ("vb", attrs.evolve(whole, filter="vlan and udp")),
            "out": ("vb", attrs.evolve(whole, direction=Direction.OUT)),
            "in": ("vb", attrs.evolve(whole, direction=Direction.IN, snaplength=99)),
            "any": ("any", attrs.evolve(whole, linkType=COOKED)),
            "any, cut": ("any", attrs.evolve(whole, linkType=COOKED, snaplength=64)),
        }
        captures = {kind: self.captures(*wanted) for kind, wanted in kinds.items()}
        limited = self.captures("vb", whole)
        coming, going = self.traffic()
        self.pair.send(coming)
        self.pair.send(going, "vb", "b")
        # The kernel takes a tag off before a filter sees the packet.
        counts = {"filtered": len(coming) - 2 + len(going), "tagged": 2}
        counts |= {"out": len(going), "in": len(coming)}
        for kind, both in captures.items():
            contents = []
            for capture in both:
                capture.takeAll(counts.get(kind, len(coming) + len(going)))
                capture.finish()
                size = os.fstat(capture.file).st_size
                contents.append(timeless(os.pread(capture.file, size, 0)))
            self.assertEqual(contents[0], contents[1], kind)
        cut = []
        for capture in limited:
            while not capture.handle.drain(MANY, 20_000).full:
                self.assertTrue(events(capture.handle, PATIENCE))
            capture.finish()
            cut.append(timeless(os.pread(capture.file, MANY, 0)))
        self.assertEqual(cut[0], cut[1])
        self.assertLess(len(cut[0]), 20_000 + 1514 + PACKET_HEADER)
