# See LICENSE for details.
"""
The whole daemon on real packets: what ends a capture, and that nothing is lost
or doubled until then.
"""

from __future__ import annotations

import itertools
import signal
import time
from array import array
from datetime import datetime
from unittest import SkipTest

from pcapdaemon.capture.budget import LEAST_RING
from pcapdaemon.capture.devices import BLOCK_TIMEOUT
from pcapdaemon.capture.libpcap_engine import LibpcapSystem
from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.frames import frame
from pcapdaemon.test.pcapfile import FILE_HEADER, PACKET_HEADER, sequences
from pcapdaemon.test.process import PATIENCE, Daemon

#: Frames of a flood, their size, and how many a second. With this size as snap
#: length all of them fit into the ring, however busy the machine is.
FLOOD, SIZE, RATE = 200_000, 128, 150_000
#: Bytes that each takes in a file.
RECORD = PACKET_HEADER + SIZE


class LimitTests(DaemonTestCase):
    """
    The first limit that is reached ends the capture.
    """

    def setUp(self) -> None:
        """
        Start a daemon that allows a whole flood.
        """
        super().setUp()
        self.running = self.started(general={"maxpackets": 1_000_000})

    def flooded(self, id: str, rate: float = 0) -> dict[str, object]:
        """
        Send a flood, and see that the capture has the beginning of it in order.

        @return: The C{completed} event.
        """
        flood = self.pair.flood(FLOOD, SIZE, rate)
        flood.start()
        flood.result(60)
        stored = self.running.stored(id)
        event = self.running.waitForEvent("completed", id)
        self.assertEqual(event["dropped"], {"kernel": 0, "interface": 0})
        self.assertEqual(sequences(stored), array("Q", range(event["packets"])))
        return event

    def test_packets(self) -> None:
        """
        As many packets as were asked for, to the packet.
        """
        id = self.running.arm(interface="vb", snap=SIZE, packets=123_456)
        event = self.flooded(id)
        self.assertEqual((event["stop"], event["packets"]), ("packets", 123_456))

    def test_bytes(self) -> None:
        """
        The packet that makes the file reach the limit is its last.
        """
        enough = 98_765
        size = FILE_HEADER + enough * RECORD
        exact = self.running.arm(interface="vb", snap=SIZE, bytes=size)
        over = self.running.arm(interface="vb", snap=SIZE, bytes=size + 1)
        event = self.flooded(exact)
        self.assertEqual((event["stop"], event["bytes"]), ("bytes", size))
        self.assertEqual(event["packets"], enough)
        event = self.running.waitForEvent("completed", over)
        self.assertEqual((event["stop"], event["bytes"]), ("bytes", size + RECORD))
        self.assertEqual(len(self.pcap(self.running, over).records), enough + 1)

    def test_smallest(self) -> None:
        """
        The smallest limits leave one packet each.
        """
        one = self.running.arm(interface="vb", packets=1)
        other = self.running.arm(interface="vb", bytes=1)
        self.pair.send([frame(0), frame(1), frame(2)])
        for id, stop in (one, "packets"), (other, "bytes"):
            self.assertEqual(len(self.pcap(self.running, id).records), 1)
            self.assertEqual(self.completed(id)["stop"], stop)

    def test_together(self) -> None:
        """
        Of two limits that one flood reaches the first one wins.
        """
        first, second = (
            self.running.arm(
                interface="vb", snap=SIZE, packets=packets, bytes=RECORD * records
            )
            for packets, records in ((1000, 1001), (1001, 1000))
        )
        self.flooded(first)
        self.assertEqual(self.completed(first)["stop"], "packets")
        self.assertEqual(self.completed(second)["stop"], "bytes")

    def test_timeoutInSilence(self) -> None:
        """
        Where nothing flows the idle limit ends the capture without a file.
        """
        id = self.running.arm(interface="vb", timeout=0.3)
        event = self.completed(id)
        self.assertEqual((event["stop"], event["packets"]), ("timeout", 0))
        self.assertGreaterEqual(lasted(event), 0.3)
        self.assertNotIn("filename", event)
        self.assertEqual(self.running.stop(), 0)
        self.assertEqual(self.running.told("stored"), [])
        self.assertEqual(list(self.running.captures.iterdir()), [])

    def test_timeoutAfterTraffic(self) -> None:
        """
        Each packet puts the idle limit off.
        """
        id = self.running.arm(interface="vb", timeout=1)
        for n in range(5):
            self.pair.send([frame(n)])
            last = time.time()
            time.sleep(0.3)
        file = self.pcap(self.running, id)
        event = self.completed(id)
        self.assertEqual((event["stop"], len(file.records)), ("timeout", 5))
        self.assertGreaterEqual(seconds(event["finished"]) - last, 0.99)

    def test_durationInSilence(self) -> None:
        """
        Where nothing flows the duration ends the capture.
        """
        id = self.running.arm(interface="vb", duration=0.3)
        event = self.completed(id)
        self.assertEqual((event["stop"], event["packets"]), ("duration", 0))
        self.assertGreaterEqual(lasted(event), 0.3)

    def test_durationInSlowTraffic(self) -> None:
        """
        Packets do not put the duration off.
        """
        id = self.running.arm(interface="vb", duration=1, timeout=0.8)
        for n in itertools.count():
            if self.running.told("completed", id):
                break
            self.pair.send([frame(n)])
            time.sleep(0.1)
        self.pcap(self.running, id)
        event = self.completed(id)
        self.assertEqual(event["stop"], "duration")
        self.assertGreaterEqual(lasted(event), 1)

    def test_durationInFlood(self) -> None:
        """
        The duration ends the capture in the midst of a flood; until then all is
        there.
        """
        id = self.running.arm(interface="vb", snap=SIZE, duration=1)
        event = self.flooded(id, RATE)
        self.assertEqual(event["stop"], "duration")
        self.assertGreaterEqual(lasted(event), 1)
        (last,) = sequences(self.running.stored(id))[-1:]
        self.assertLess(last, FLOOD - 1)

    def test_cancelled(self) -> None:
        """
        A cancelled capture keeps what it holds, and cannot be cancelled again.
        """
        id = self.running.arm(interface="vb")
        frames = [frame(n) for n in range(3)]
        self.pair.send(frames)
        self.assertEqual(
            self.running.http("DELETE", f"/captures/{id}"),
            (202, {"id": id, "state": "cancelled"}),
        )
        file = self.pcap(self.running, id)
        self.assertEqual([record.data for record in file.records], frames)
        self.assertEqual(self.completed(id)["stop"], "cancelled")
        status, answer = self.running.http("DELETE", f"/captures/{id}")
        self.assertEqual((status, answer["reason"]), (409, "finished"))

    def completed(self, id: str) -> dict[str, object]:
        """
        Wait for the end of a capture.
        """
        return self.running.waitForEvent("completed", id)


class RingTests(DaemonTestCase):
    """
    The least ring that a capture may have.
    """

    def test_slowly(self) -> None:
        """
        Packets that come one by one while the daemon has no time are kept in it,
        although the kernel would fill a block of it with each.
        """
        daemon = self.daemon(capture={"engine": "libpcap", "buffersize": LEAST_RING})
        try:
            LibpcapSystem()
        except OSError:
            raise SkipTest("libpcap is not installed") from None
        daemon.start()
        id = daemon.arm(interface="vb", packets=8)
        frames = [frame(n) for n in range(8)]
        daemon.signal(signal.SIGSTOP)
        for each in frames:
            self.pair.send([each])
            time.sleep(3 * BLOCK_TIMEOUT / 1000)
        daemon.signal(signal.SIGCONT)
        file = self.pcap(daemon, id)
        self.assertEqual([record.data for record in file.records], frames)


class AdmissionTests(DaemonTestCase):
    """
    What is let in, and what is not.
    """

    def refusal(self, daemon: Daemon, **request: object) -> tuple[int, str]:
        """
        Ask for what will be refused, and see that the event says the same.

        @return: The status and the reason.
        """
        before = len(daemon.told("rejected"))
        status, answer = daemon.http("POST", "/captures", {"node": "any", **request})
        event = daemon.waitForCount("rejected", before + 1)[before]
        for key in "reason", "detail":
            self.assertEqual(answer[key], event[key])
        return status, answer["reason"]

    def test_maxcaptures(self) -> None:
        """
        One capture more than C{maxcaptures} is refused until another has ended.
        """
        daemon = self.started(capture={"maxcaptures": 2})
        first = daemon.arm(interface="vb")
        self.assertEqual(self.refusal(daemon, interface=["vb", "lo"]), (429, "busy"))
        daemon.arm(interface="vb")
        self.assertEqual(self.refusal(daemon, interface="vb"), (429, "busy"))
        daemon.http("DELETE", f"/captures/{first}")
        # It counts until its device is closed.
        end = time.monotonic() + PATIENCE
        status, request = 429, {"node": "any", "interface": "vb"}
        while status == 429 and time.monotonic() < end:
            status, _answer = daemon.http("POST", "/captures", request)
        self.assertEqual(status, 202)

    def test_cooldown(self) -> None:
        """
        A trigger that is repeated too soon is refused and names the capture that
        it repeats; any other is not.
        """
        daemon = self.started(capture={"cooldown": 3600})
        request = {"interface": "vb", "alertid": 1, "bpf": "udp"}
        id = daemon.arm(**request)
        self.assertEqual(self.refusal(daemon, **request), (409, "duplicate"))
        self.assertIn(id, daemon.told("rejected")[0]["detail"])
        for other in {"alertid": 2}, {"bpf": "tcp"}, {"interface": "lo"}:
            daemon.arm(**{**request, **other})
        daemon.arm(interface="vb", bpf="udp")

    def test_limits(self) -> None:
        """
        What the limits of the site do not allow is refused, not clipped.
        """
        daemon = self.started(
            general={
                "maxpackets": 10,
                "maxbytes": 1000,
                "defaulttimeout": 1,
                "maxtimeout": 2,
                "maxduration": 3,
                "maxfilter": 5,
            }
        )
        for key, most, over in (
            ("packets", 10, 11),
            ("bytes", 1000, 1001),
            ("timeout", 2, 2.01),
            ("duration", 3, 3.01),
            ("bpf", "udp  ", "udp   "),
        ):
            daemon.arm(interface="vb", **{key: most})
            refusal = self.refusal(daemon, interface="vb", **{key: over})
            self.assertEqual(refusal, (422, "limit"), key)


def seconds(timestamp: object) -> float:
    """
    A time in an event, in seconds since the epoch.
    """
    return datetime.fromisoformat(str(timestamp)).timestamp()


def lasted(event: dict[str, object]) -> float:
    """
    How long a capture took, as its C{completed} event says.
    """
    return seconds(event["finished"]) - seconds(event["started"])
