# See LICENSE for details.
"""
The whole daemon on real packets: from a request to the exact file.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from unittest import SkipTest

from twisted.internet import reactor

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.frames import frame, sequenceOf
from pcapdaemon.test.pcapfile import Record
from pcapdaemon.test.servers import RedisServer, missing

ETHERNET, RAW, COOKED = 1, 12, 113
#: LINKTYPE_RAW of a file, which libpcap itself calls DLT_RAW, number 12.
RAW_FILE = 101

#: Bytes in front of the IP header: of Ethernet, and of what C{any} gives.
ETHERNET_HEADER, COOKED_HEADER = 14, 16


class CaptureTests(DaemonTestCase):
    """
    What is sent is what lies on the disk.
    """

    def test_http(self) -> None:
        """
        A request by HTTP brings a file with exactly the frames that were sent,
        and the events say so.
        """
        daemon = self.started()
        frames = [frame(n, 100 + n) for n in range(10)]
        status, answer = daemon.http(
            "POST",
            "/captures",
            {
                "node": "node-a",
                "interface": "vb",
                "packets": 10,
                "alertid": 7,
                "customer": "C",
                "tags": "a,b",
                "colour": "red",
            },
        )
        self.assertEqual(status, 202)
        (id,) = answer["ids"]
        daemon.waitForEvent("armed", id)
        self.pair.send(frames)
        file = self.pcap(daemon, id)
        self.assertEqual([record.data for record in file.records], frames)
        self.assertEqual(file.linkType, ETHERNET)
        self.assertEqual(file.snaplength, 500)
        self.assertEqual(
            [event["event"] for event in daemon.events],
            ["accepted", "armed", "completed", "stored"],
        )
        for event in daemon.events:
            self.assertEqual(
                [event[key] for key in ("node", "id", "alertid", "customer", "tags")],
                ["node-a", id, 7, "C", "a,b"],
            )
        accepted, _armed, completed, _stored = daemon.events
        self.assertEqual(accepted["ignored"], ["colour"])
        self.assertEqual((completed["stop"], completed["link"]), ("packets", ETHERNET))
        self.assertRegex(completed["filename"], rf"^node-a-vb-\d+-{id}\.pcap$")
        status, summary = daemon.http("GET", f"/captures/{id}")
        self.assertEqual((status, summary["state"]), (200, "stored"))
        self.assertEqual(summary["sha256"], completed["sha256"])

    async def test_redis(self) -> None:
        """
        So does a request by Redis; one for another node brings nothing.
        """
        server = RedisServer(self, reactor)
        await server.start()
        daemon = self.started(redis={"listen": True, "port": server.port})
        request = {"interface": "vb", "packets": 3}
        for match in {"node": "node-b"}, {"nodere": "^node-[ab]$"}:
            server.publish("capture", json.dumps(request | match).encode())
        (armed,) = daemon.waitForCount("armed", 1)
        frames = [frame(n) for n in range(3)]
        self.pair.send(frames)
        file = self.pcap(daemon, armed["id"])
        self.assertEqual([record.data for record in file.records], frames)
        self.assertEqual(len(daemon.events), 4)

    def test_devices(self) -> None:
        """
        One request for several devices, one of them unknown, brings one file for
        each that exists.
        """
        daemon = self.started()
        ids = daemon.ask(interface=["vb", "lo", "eth9"], bpf="udp port 9", packets=2)
        self.assertEqual(len(ids), 2)
        armed = daemon.waitForEvents("armed", ids)
        accepted = daemon.waitForEvents("accepted", ids)
        self.assertEqual([accepted[id]["missing"] for id in ids], [["eth9"]] * 2)
        frames = [frame(n) for n in range(2)]
        self.pair.send(frames)
        self.sendOnLoopback(b"one", b"two")
        files = {armed[id]["interface"]: self.pcap(daemon, id) for id in ids}
        self.assertEqual([record.data for record in files["vb"].records], frames)
        self.assertEqual(
            [record.data[-3:] for record in files["lo"].records], [b"one", b"two"]
        )
        self.assertEqual(files["lo"].linkType, ETHERNET)

    def test_alias(self) -> None:
        """
        An alias means all its devices, and a device that two aliases reach is
        captured once.
        """
        daemon = self.started(
            interface=[
                {"name": "vb", "alias": ["main", "public"]},
                {"name": "lo", "alias": ["public"]},
            ]
        )
        ids = daemon.ask(alias=["main", "public"], bpf="udp port 9", packets=1)
        armed = daemon.waitForEvents("armed", ids)
        self.assertEqual(
            [(armed[id]["interface"], armed[id]["alias"]) for id in ids],
            [("vb", "main"), ("lo", "public")],
        )
        self.pair.send([frame(0)])
        self.sendOnLoopback(b"one")
        for id in ids:
            self.pcap(daemon, id)

    def test_any(self) -> None:
        """
        C{any} brings the frames of every device, without a link header of their
        own.
        """
        daemon = self.started()
        id = daemon.arm(interface="any", bpf="udp port 9", packets=2)
        sent = frame(0)
        self.pair.send([sent])
        self.sendOnLoopback(b"one")
        file = self.pcap(daemon, id)
        self.assertEqual(file.linkType, COOKED)
        # Each device delivers in its own time.
        short, long = sorted((record.data for record in file.records), key=len)
        self.assertEqual(long[COOKED_HEADER:], sent[ETHERNET_HEADER:])
        self.assertEqual(short[-3:], b"one")

    def test_tunnel(self) -> None:
        """
        A device without a link header has packets without one.
        """
        tunnel = self.pair.tunnel()
        daemon = self.started()
        id = daemon.arm(interface="tun0", bpf="udp port 9", packets=1)
        packet = frame(0)[ETHERNET_HEADER:]
        tunnel.deliver(packet)
        file = self.pcap(daemon, id)
        self.assertEqual(file.linkType, RAW_FILE)
        self.assertEqual([record.data for record in file.records], [packet])

    def test_snap(self) -> None:
        """
        A short snap length keeps the original lengths.
        """
        daemon = self.started()
        id = daemon.arm(interface="vb", snap=64, packets=3)
        frames = [frame(n, 1400) for n in range(3)]
        self.pair.send(frames)
        file = self.pcap(daemon, id)
        self.assertEqual(file.snaplength, 64)
        self.assertEqual(
            file.records,
            tuple(
                Record(record.time, sent[:64], 1400)
                for record, sent in zip(file.records, frames, strict=True)
            ),
        )

    def test_direction(self) -> None:
        """
        Only what the device sends is kept, and counts.
        """
        daemon = self.started()
        id = daemon.arm(interface="vb", direction="out", packets=2)
        self.assertEqual(daemon.waitForEvent("accepted", id)["direction"], "out")
        one, two, three, four = (frame(number) for number in range(1, 5))
        for coming, going in ((one, two), (three, four)):
            self.pair.send([coming])
            self.pair.send([going], "vb", "b")
        file = self.pcap(daemon, id)
        self.assertEqual([record.data for record in file.records], [two, four])

    def test_nanoseconds(self) -> None:
        """
        Finer time stamps are in the file and in the log, the byte limit holds, and
        other programs read the file.
        """
        daemon = self.started(capture={"engine": "libpcap", "precision": "nano"})
        id = daemon.arm(interface="vb", bytes=24 + 3 * 144, packetdebug=True)
        self.pair.send([frame(n) for n in range(5)])
        file = self.pcap(daemon, id)
        self.assertTrue(file.nanoseconds)
        self.assertEqual(
            [sequenceOf(record.data) for record in file.records], [0, 1, 2]
        )
        daemon.waitForLine(f"{id}: packet 3: ")
        if shutil.which("tshark") is None:
            raise SkipTest("reading the file with another program needs tshark")
        path = daemon.captures / daemon.waitForEvent("stored", id)["filename"]
        said = subprocess.run(
            ["tshark", "-r", path, "-T", "fields", "-e", "frame.time_epoch"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        times = [int(time.replace(".", "")) for time in said]
        self.assertEqual(times, [record.time for record in file.records])

    def test_filter(self) -> None:
        """
        Of what flows only what the filter lets through is kept, and counts.
        """
        daemon = self.started(capture={"filter": "greater 100"})
        id = daemon.arm(interface="vb", bpf="src port 4000", packets=2)
        # The source port stands in the two bytes behind the IP header.
        other = frame(1)[:34] + b"\x0f\xa1" + frame(1)[36:]
        wanted = [frame(3), frame(4)]
        self.pair.send([other, frame(2, 99), *wanted])
        file = self.pcap(daemon, id)
        self.assertEqual([record.data for record in file.records], wanted)

    def test_vlan(self) -> None:
        """
        Frames with a VLAN tag are told apart by it and keep it, although the
        kernel takes it off.
        """
        daemon = self.started()
        ours = daemon.arm(interface="vb", bpf="vlan 5", packets=2)
        inner = daemon.arm(interface="vb", bpf="vlan and udp port 9", packets=3)
        everything = daemon.arm(interface="any", bpf="udp port 9", packets=4)
        frames = [frame(0), frame(1, vlan=5), frame(2, vlan=6), frame(3, vlan=5)]
        self.pair.send(frames)
        for id, expected in (ours, [1, 3]), (inner, [1, 2, 3]):
            file = self.pcap(daemon, id)
            self.assertEqual(
                [record.data for record in file.records],
                [frames[n] for n in expected],
            )
        file = self.pcap(daemon, everything)
        self.assertEqual(
            [record.data[ETHERNET_HEADER:] for record in file.records],
            [sent[12:] for sent in frames],
        )

    def test_vlanOnAny(self) -> None:
        """
        libpcap knows no VLAN filters on C{any}; such a request is refused and
        does not match the wrong packets.
        """
        daemon = self.started()
        request = {"node": "any", "interface": "any", "bpf": "vlan 5"}
        status, answer = daemon.http("POST", "/captures", request)
        self.assertEqual((status, answer["reason"]), (422, "bad-filter"))

    def sendOnLoopback(self, *payloads: bytes) -> None:
        """
        Send datagrams to port 9 of this host.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            for payload in payloads:
                link.sendto(payload, ("127.0.0.1", 9))


class OtherProgramTests(DaemonTestCase):
    """
    Files that other programs can read.
    """

    skip = missing("capinfos", "tshark")

    def test_readers(self) -> None:
        """
        capinfos and tshark read the files of all kinds of devices without a
        complaint, and name their link types.
        """
        tunnel = self.pair.tunnel()
        daemon = self.started()
        ids = daemon.ask(
            interface=["vb", "lo", "any", "tun0"], bpf="udp port 9", packets=1
        )
        daemon.waitForEvents("armed", ids)
        self.pair.send([frame(0)])
        tunnel.deliver(frame(1)[ETHERNET_HEADER:])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.sendto(bytes(16), ("127.0.0.1", 9))
        kinds = {
            "vb": "ether",
            "lo": "ether",
            "any": "linux-sll",
            "tun0": "rawip",
        }
        for id in ids:
            path = str(daemon.stored(id))
            device = daemon.waitForEvent("completed", id)["interface"]
            infos = self.run_("capinfos", "-E", "-c", "-M", path)
            kind = re.search(r"File encapsulation: *(.*)", infos)
            self.assertEqual(kind and kind[1], kinds[device])
            self.assertRegex(infos, r"Number of packets: *1\n")
            ports = self.run_("tshark", "-n", "-r", path, "-Tfields", "-eudp.dstport")
            self.assertEqual(ports, "9\n")

    def run_(self, *argv: str) -> str:
        """
        Run a program that must have nothing to complain of.

        @return: What it prints.
        """
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        # tshark warns of its own being run by root.
        said = [line for line in done.stderr.splitlines() if "as user" not in line]
        self.assertEqual((done.returncode, said), (0, []))
        return done.stdout
