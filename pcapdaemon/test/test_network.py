# See LICENSE for details.
"""
Tests for L{pcapdaemon.test.network} and L{pcapdaemon.test.frames}.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.test.frames import frame, sentOf, sequenceOf
from pcapdaemon.test.network import Pair, Unavailable, makePair, removeLeftovers


def receiver(pair: Pair, device: str = "vb") -> socket.socket:
    """What arrives on a device in C{b}, frame by frame."""
    with pair.enter("b"):
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    link.settimeout(20)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    link.bind((device, 0x0003))
    return link


class PairTests(SynchronousTestCase):
    """
    Tests for L{Pair}.
    """

    def test_removed(self) -> None:
        """Namespaces are gone after closing, processes in them too."""
        pair = makePair(self)
        process = pair.spawn("b", ["sleep", "1000"])
        paths = [Path("/run/netns", name) for name in pair.names.values()]
        self.assertTrue(all(path.exists() for path in paths))
        pair.close()
        self.assertFalse(any(path.exists() for path in paths))
        self.assertEqual(process.returncode, -9)
        pair.close()

    def test_partial(self) -> None:
        """What was made before a failure is removed."""
        makePair(self).close()
        pair = Pair(mtu=1)
        self.assertRaises(Unavailable, pair.open)
        for name in pair.names.values():
            self.assertFalse(Path("/run/netns", name).exists())

    def test_leftovers(self) -> None:
        """Namespaces of processes that ended are removed, others are not."""
        pair = makePair(self)
        program = (
            "import os; from pcapdaemon.test.network import Pair;"
            "print(*Pair().open().names.values(), flush=True); os._exit(0)"
        )
        left = pair.run("a", sys.executable, "-c", program).split()
        self.assertEqual(len(left), 2)
        self.assertTrue(Path("/run/netns", left[0]).exists())
        removeLeftovers()
        for name in left:
            self.assertFalse(Path("/run/netns", name).exists())
        for name in pair.names.values():
            self.assertTrue(Path("/run/netns", name).exists())

    def test_enter(self) -> None:
        """A thread is in the namespace as long as it says, and then back."""
        pair = makePair(self)
        home = os.readlink("/proc/thread-self/ns/net")
        with pair.enter("b"):
            devices = [name for _index, name in socket.if_nameindex()]
            self.assertNotEqual(os.readlink("/proc/thread-self/ns/net"), home)
        self.assertIn("vb", devices)
        self.assertEqual(os.readlink("/proc/thread-self/ns/net"), home)

    def test_run(self) -> None:
        """A command runs in its namespace; its failure is told."""
        pair = makePair(self)
        self.assertIn("192.0.2.1", pair.run("a", "ip", "address", "show", "va"))
        error = self.assertRaises(subprocess.CalledProcessError, pair.run, "a", "false")
        self.assertEqual(error.returncode, 1)

    def test_send(self) -> None:
        """Frames arrive unchanged, and nothing else does."""
        pair = makePair(self)
        link = receiver(pair)
        self.addCleanup(link.close)
        sent = [frame(number, 58 + number) for number in range(100)]
        pair.send(sent)
        self.assertEqual([link.recv(65536) for _ in sent], sent)
        link.setblocking(False)
        self.assertRaises(BlockingIOError, link.recv, 65536)

    def test_flood(self) -> None:
        """A flood arrives as frames of the asked size, one by one, in order."""
        pair = makePair(self)
        link = receiver(pair)
        self.addCleanup(link.close)
        flood = pair.flood(1000, size=100, first=5)
        flood.start()
        self.assertEqual(flood.result(20)["frames"], 1000)
        frames = [link.recv(65536) for _ in range(1000)]
        self.assertEqual({len(data) for data in frames}, {100})
        numbers = [sequenceOf(data) for data in frames]
        self.assertEqual(numbers, list(range(5, 1005)))

    def test_rate(self) -> None:
        """Frames that are sent one at a time say when they left."""
        pair = makePair(self)
        flood = pair.flood(20, rate=2000)
        link = receiver(pair)
        self.addCleanup(link.close)
        flood.start()
        times = [sentOf(link.recv(65536)) for _ in range(20)]
        flood.result(20)
        self.assertEqual(times, sorted(times))
        self.assertGreater(times[-1], times[0])

    def test_deleted(self) -> None:
        """Devices can be taken down, up, and away."""
        pair = makePair(self)
        pair.down()
        self.assertNotIn("LOWER_UP", pair.run("b", "ip", "link", "show", "vb"))
        pair.up()
        self.assertIn("LOWER_UP", pair.run("b", "ip", "link", "show", "vb"))
        pair.delete()
        self.assertNotIn("vb", pair.run("b", "ip", "link"))
        self.assertNotIn("va", pair.run("a", "ip", "link"))
