# See LICENSE for details.
"""
The whole daemon over and over: devices that vanish, and many captures, after
which it holds no more than before.
"""

from __future__ import annotations

import time

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.frames import frame, sequenceOf
from pcapdaemon.test.process import Daemon, Usage

#: How often a device is deleted under a capture, and how many short captures
#: there are; as many as a tenth of that go before, until nothing grows any more, and
#: of the captures a fifth, more of them at once than there will be afterwards, so that
#: the pools of threads have grown.
LOSSES, CAPTURES = 20, 300
#: Bytes of memory that may have been added meanwhile: the allocator does not give
#: everything back at once.
GROWTH = 4 << 20
#: More than all pools together may have: they grow as they please until then.
THREADS = 72


class _HoldingTestCase(DaemonTestCase):
    """
    Tests of what a daemon holds after the work is done.
    """

    def assertNoMore(self, daemon: Daemon, before: Usage) -> None:
        """
        See that a daemon holds what it held before, as soon as all devices are
        closed.
        """
        daemon.waitForDescriptors(before.descriptors)
        now = daemon.usage()
        self.assertEqual(now.descriptors, before.descriptors)
        self.assertLess(now.threads, THREADS)
        self.assertLess(now.resident, before.resident + GROWTH)

    def quiet(self, daemon: Daemon) -> Usage:
        """
        What a daemon holds once nothing changes any more.
        """
        before, now = None, daemon.usage()
        while before is None or before.descriptors != now.descriptors:
            time.sleep(0.2)
            before, now = now, daemon.usage()
        return now


class LossTests(_HoldingTestCase):
    """
    Devices that vanish, or go down.
    """

    def test_deleted(self) -> None:
        """
        A device that is deleted ends its capture, which keeps what it holds; as
        often as that happens nothing of it stays behind.
        """
        # So that nothing grows but what should not.
        daemon = self.started(capture={"keep": 1})
        for n in range(LOSSES // 10 + 1):
            self.lose(daemon, n)
        before = self.quiet(daemon)
        for n in range(LOSSES):
            self.lose(daemon, 1000 + n)
        self.assertNoMore(daemon, before)
        self.assertEqual(daemon.stop(), 0)

    def lose(self, daemon: Daemon, n: int) -> None:
        """
        Delete a device in the midst of a capture.
        """
        device, peer = f"x{n}", f"y{n}"
        link = ["ip", "link"]
        add = [*link, "add", device, "type", "veth", "peer", "name", peer]
        self.pair.run("b", *add)
        self.pair.run("b", *link, "set", device, "up")
        self.pair.up(peer)
        ids = [daemon.arm(interface=device, bpf=bpf) for bpf in ("", "udp port 9")]
        frames = [frame(i) for i in range(10)]
        self.pair.send(frames, peer, "b")
        self.pair.delete(device)
        for id in ids:
            event = daemon.waitForEvent("completed", id)
            self.assertEqual(event["stop"], "interface-lost")
            file = self.pcap(daemon, id)
            self.assertEqual([record.data for record in file.records], frames)

    def test_down(self) -> None:
        """
        So does one that goes down; when it is up again it can be captured on.
        """
        daemon = self.started()
        for n in range(3):
            id = daemon.arm(interface="vb")
            self.pair.send([frame(n)])
            self.pair.down()
            event = daemon.waitForEvent("completed", id)
            self.assertEqual(event["stop"], "interface-lost")
            file = self.pcap(daemon, id)
            self.assertEqual([sequenceOf(record.data) for record in file.records], [n])
            status, answer = daemon.http(
                "POST", "/captures", {"node": "any", "interface": "vb"}
            )
            self.assertEqual(status, 202)
            failed = daemon.waitForEvent("failed", answer["ids"][0])
            self.assertIn("down", failed["reason"])
            self.pair.up()

    def test_any(self) -> None:
        """
        C{any} survives what happens to single devices.
        """
        daemon = self.started()
        id = daemon.arm(interface="any", bpf="udp port 9", packets=2)
        self.pair.send([frame(0)])
        self.pair.down()
        self.pair.up()
        self.pair.send([frame(1)])
        self.assertEqual(len(self.pcap(daemon, id).records), 2)


class ManyTests(_HoldingTestCase):
    """
    Many captures, one after the other.
    """

    def test_short(self) -> None:
        """
        Short captures leave nothing behind but their files.
        """
        daemon = self.started(capture={"keep": 1})
        self.captures(daemon, CAPTURES // 5, 60)
        before = self.quiet(daemon)
        self.captures(daemon, CAPTURES)
        self.assertNoMore(daemon, before)
        files = list(daemon.captures.iterdir())
        self.assertEqual(len(files), CAPTURES + CAPTURES // 5)
        self.assertEqual(daemon.stop(), 0)

    def captures(self, daemon: Daemon, count: int, together: int = 10) -> None:
        """
        Have captures of one packet each, some of them at once.
        """
        for first in range(0, count, together):
            ids = [
                id
                for n in range(first, first + together)
                for id in daemon.ask(interface="vb", packets=1, bpf=f"greater {n}")
            ]
            daemon.waitForEvents("armed", ids)
            self.pair.send([frame(first, 1000)])
            daemon.waitForEvents("stored", ids)
