# See LICENSE for details.
"""
Tests for L{pcapdaemon.test.pcapfile}.
"""

from __future__ import annotations

import os
import struct

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.test.frames import frame
from pcapdaemon.test.pcapfile import BadFile, Record, read, sequences


def pcap(
    *packets: tuple[bytes, int],
    order: str = "<",
    magic: int = 0xA1B2C3D4,
    snap: int = 64,
) -> bytes:
    """A file of packets, each with its original length."""
    content = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, 101)
    for number, (data, original) in enumerate(packets):
        content += struct.pack(order + "IIII", number, 7, len(data), original) + data
    return content


class ReadTests(SynchronousTestCase):
    """
    Tests for L{read}.
    """

    def test_read(self) -> None:
        """Header and packets are read, in both byte orders and resolutions."""
        for order in "<>":
            for magic, unit in ((0xA1B2C3D4, 1000), (0xA1B23C4D, 1)):
                content = pcap((b"abc", 9), (b"", 0), order=order, magic=magic)
                file = read(content)
                self.assertEqual((file.snaplength, file.linkType), (64, 101))
                self.assertEqual(file.nanoseconds, unit == 1)
                second = 10**9
                self.assertEqual(
                    file.records,
                    (
                        Record(7 * unit, b"abc", 9),
                        Record(second + 7 * unit, b"", 0),
                    ),
                )

    def test_descriptor(self) -> None:
        """A descriptor is read from the beginning and keeps its offset."""
        descriptor = os.memfd_create("test")
        self.addCleanup(os.close, descriptor)
        self.assertRaises(BadFile, read, descriptor)
        os.write(descriptor, pcap((b"abc", 3)))
        self.assertEqual(read(descriptor).records[0].data, b"abc")
        self.assertEqual(os.lseek(descriptor, 0, os.SEEK_CUR), 24 + 16 + 3)

    def test_damaged(self) -> None:
        """Whatever is not as it must be is found."""
        good = pcap((b"abc", 9))
        for bad in (
            b"",
            good[:23],
            b"\0" + good[1:],
            good[:4] + b"\3" + good[5:],
            good[:-1],
            good + b"\0",
            good + bytes(15),
            pcap((b"abc", 2)),
            pcap((bytes(65), 65)),
            good[:28] + struct.pack("<I", 1_000_000) + good[32:],
        ):
            self.assertRaises(BadFile, read, bad)
        read(good)


class SequencesTests(SynchronousTestCase):
    """
    Tests for L{sequences}.
    """

    def test_equal(self) -> None:
        """Numbers are read from packets of one size, in both byte orders."""
        numbers = [0, 1, 2**40, 5, 2**64 - 1]
        packets = [(frame(number)[:60], 128) for number in numbers]
        for order in "<>":
            self.assertEqual(list(sequences(pcap(*packets, order=order))), numbers)

    def test_different(self) -> None:
        """Numbers are read from packets of several sizes."""
        packets = [(frame(n, 60 + n), 60 + n) for n in (1, 2, 3)]
        found = sequences(pcap(*packets, snap=128))
        self.assertEqual(list(found), [1, 2, 3])

    def test_headers(self) -> None:
        """Fewer headers, fewer bytes in front."""
        packets = [(frame(n)[14:], 114) for n in (7, 8)]
        found = sequences(pcap(*packets, snap=128), headers=28)
        self.assertEqual(list(found), [7, 8])

    def test_none(self) -> None:
        """No packets, no numbers."""
        self.assertEqual(list(sequences(pcap())), [])

    def test_damaged(self) -> None:
        """A file that is no pcap, cut, or without numbers is found out."""
        packets = [(frame(n)[:60], 128) for n in range(3)]
        good = pcap(*packets)
        for bad in (b"", good[:-1], good + b"\0", good[:30], pcap((b"short", 5))):
            self.assertRaises(BadFile, sequences, bad)
        self.assertRaises(BadFile, sequences, pcap(*packets, snap=59))
