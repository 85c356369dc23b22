# See LICENSE for details.
"""
The whole daemon: what changes while it runs, and packets in words.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from typing import Any
from unittest import SkipTest

from twisted.internet import reactor

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.frames import frame
from pcapdaemon.test.process import Daemon
from pcapdaemon.test.servers import RedisServer, freePort
from pcapdaemon.test.test_decode import BROKEN

REFUSED = ConnectionRefusedError


class ReloadTests(DaemonTestCase):
    """
    SIGHUP.
    """

    def reload(self, daemon: Daemon, **sections: Any) -> None:
        """
        Change the file, and wait until the daemon goes by it.
        """
        said = "configuration taken over"
        before = sum(str(x["message"]).startswith(said) for x in daemon.lines)
        daemon.configure(**sections)
        daemon.signal(signal.SIGHUP)
        daemon.waitForLine(said, before + 1)

    def ask(self, daemon: Daemon, **request: Any) -> tuple[int, Any]:
        """
        Ask for a capture on C{vb}, let in or not.
        """
        if "alias" not in request:
            request["interface"] = "vb"
        return daemon.http("POST", "/captures", {"node": "any", **request})

    def test_rules(self) -> None:
        """
        New limits and aliases hold for the next request; a capture that runs goes
        on and is stored as if nothing had happened.
        """
        daemon = self.started()
        running = daemon.arm(interface="vb", packets=2)
        first, second = frame(1), frame(2)
        self.pair.send([first])
        self.assertEqual(self.ask(daemon, alias="main")[0], 422)
        self.reload(
            daemon,
            general={"maxpackets": 1},
            capture={"filter": "udp"},
            interface=[{"name": "vb", "alias": ["main"]}],
        )
        self.assertEqual(self.ask(daemon, packets=2)[0], 422)
        status, answer = self.ask(daemon, alias="main")
        self.assertEqual(status, 202)
        accepted = daemon.waitForEvent("accepted", answer["ids"][0])
        self.assertEqual(accepted["limits"]["packets"], 1)
        self.assertEqual(accepted["filter"], "udp")
        self.pair.send([second])
        file = self.pcap(daemon, running)
        self.assertEqual([record.data for record in file.records], [first, second])

    def test_precision(self) -> None:
        """
        Time stamps are finer from the next capture on, unless the engine cannot.
        """
        for engine, said, fine in (
            ("libpcap", "configuration taken over", True),
            ("pcapy", "not taken over: [capture] precision", False),
        ):
            daemon = self.started(capture={"engine": engine})
            running = daemon.arm(interface="vb", packets=1)
            daemon.configure(capture={"engine": engine, "precision": "nano"})
            daemon.signal(signal.SIGHUP)
            daemon.waitForLine(said)
            later = daemon.arm(interface="vb", packets=1)
            self.pair.send([frame(1)])
            self.assertFalse(self.pcap(daemon, running).nanoseconds)
            self.assertEqual(self.pcap(daemon, later).nanoseconds, fine)
            daemon.stop()

    def test_directory(self) -> None:
        """
        What ends after the change goes to the new directory, also what had begun
        before it.
        """
        daemon = self.started()
        before = daemon.arm(interface="vb", packets=1)
        daemon.captures = daemon.directory / "elsewhere"
        self.reload(daemon, general={"localdir": str(daemon.captures)})
        after = daemon.arm(interface="vb", packets=1)
        self.pair.send([frame(0)])
        for id in before, after:
            self.pcap(daemon, id)

    def test_port(self) -> None:
        """
        HTTP moves to another port; where that is taken it stays.
        """
        daemon = self.started()
        old, new = daemon.port, freePort()
        self.reload(daemon, http={"port": new})
        with self.assertRaises(REFUSED):
            daemon.http("GET", "/healthz")
        daemon.port = new
        self.assertEqual(daemon.http("GET", "/healthz")[0], 200)
        other = self.started()
        daemon.configure(http={"port": other.port})
        daemon.signal(signal.SIGHUP)
        line = daemon.waitForLine("not taken over: [http]")
        self.assertIn(str(other.port), line["message"])
        daemon.waitForLine("configuration taken over", 2)
        self.assertEqual(daemon.http("GET", "/healthz")[0], 200)
        self.assertNotEqual(old, new)

    async def test_listener(self) -> None:
        """
        A listener can be switched on and off.
        """
        server = RedisServer(self, reactor)
        await server.start()
        daemon = self.started()
        self.reload(daemon, redis={"listen": True, "port": server.port})
        daemon.waitForLine("subscribed to ")
        self.assertEqual(server.publish("capture", b"1"), 1)
        daemon.waitForCount("rejected", 1)
        self.reload(daemon, redis={"listen": False})
        self.assertEqual(server.publish("capture", b"1"), 0)
        self.assertEqual(daemon.http("GET", "/healthz")[1]["listeners"], {"http": True})

    def test_mistakes(self) -> None:
        """
        A file with mistakes leaves everything as it was, and each is said.
        """
        daemon = self.started()
        running = daemon.arm(interface="vb", packets=1)
        good = daemon.file.read_text()
        for text, said in (
            ("[general]\nmaxpackets = -1\n", "maxpackets = -1"),
            ("[general\n", "line 1"),
            (good + "[colour]\n", "colour"),
            (good.replace("listen = true", "listen = false"), "[http]"),
        ):
            daemon.file.write_text(text)
            daemon.signal(signal.SIGHUP)
            self.waitForMistake(daemon, said)
        daemon.file.unlink()
        daemon.signal(signal.SIGHUP)
        self.waitForMistake(daemon, "cannot be read")
        self.pair.send([frame(0)])
        self.pcap(daemon, running)
        self.assertEqual(self.ask(daemon, packets=2)[0], 202)
        self.assertEqual(daemon.stop(), 0)

    def test_cannotStart(self) -> None:
        """
        Where a new sink cannot be, the old one stays, and captures have a place.
        """
        daemon = self.started()
        daemon.configure(
            general={"writelocal": False},
            s3={"upload": True, "bucket": "pcaps", "acl": "publik"},
        )
        daemon.signal(signal.SIGHUP)
        self.waitForMistake(daemon, "acl")
        running = daemon.arm(interface="vb", packets=1)
        self.pair.send([frame(0)])
        self.pcap(daemon, running)

    def waitForMistake(self, daemon: Daemon, said: str) -> None:
        """
        Wait until the log tells of a mistake that has something in it.
        """

        def told() -> bool:
            return any(
                line["message"].startswith("not taken over: ")
                and said in line["message"]
                for line in daemon.lines
            )

        daemon.waitFor(told, said)


class DiskTests(DaemonTestCase):
    """
    Files that do not fit.
    """

    def test_full(self) -> None:
        """
        Where there is no room there is nothing of a capture; with room again it
        is stored, as is the next one.
        """
        daemon = self.daemon()
        daemon.captures.mkdir()
        where = str(daemon.captures)
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", where]
        if shutil.which("mount") is None or subprocess.run(mount).returncode:
            raise SkipTest("no tmpfs can be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", where])
        ballast = daemon.captures / "ballast"
        ballast.write_bytes(bytes(200 * 1024))
        daemon.start()
        frames = [frame(n, 500) for n in range(200)]
        id = daemon.arm(interface="vb", packets=len(frames))
        self.pair.send(frames)
        line = daemon.waitForLine("local: node-a-vb-")
        self.assertIn("No space left on device", line["message"])
        self.assertEqual(list(daemon.captures.iterdir()), [ballast])
        ballast.unlink()
        file = self.pcap(daemon, id)
        self.assertEqual([record.data for record in file.records], frames)
        self.assertEqual(daemon.http("GET", f"/captures/{id}")[1]["state"], "stored")
        id = daemon.arm(interface="vb", packets=len(frames))
        self.pair.send(frames)
        self.pcap(daemon, id)
        self.assertEqual(daemon.http("GET", "/healthz")[1]["memory"]["used"], 0)

    def test_gone(self) -> None:
        """
        So is one whose directory has been away for a moment.
        """
        daemon = self.started()
        id = daemon.arm(interface="vb", packets=1)
        daemon.captures.rmdir()
        self.pair.send([frame(0)])
        daemon.waitFor(
            lambda: any("not stored, again" in x["message"] for x in daemon.lines),
            "an attempt",
        )
        daemon.captures.mkdir()
        self.pcap(daemon, id)


class PacketTests(DaemonTestCase):
    """
    C{packetdebug} and C{--panic}.
    """

    def setUp(self) -> None:
        """
        There is a decoder.
        """
        if importlib.util.find_spec("scapy") is None:
            raise SkipTest("scapy is not installed")
        super().setUp()

    def lines(self, daemon: Daemon, id: str) -> list[str]:
        """
        What the log says of the packets of a capture.
        """
        texts = [str(line["message"]) for line in daemon.lines]
        return [text for text in texts if text.startswith(f"{id}: packet ")]

    def test_words(self) -> None:
        """
        Each packet of a capture that asks for it is described in the log, before
        the capture is stored; one that cannot be decoded is called malformed and
        kept.
        """
        daemon = self.started()
        silent = daemon.arm(interface="vb", packets=3)
        id = daemon.arm(interface="vb", packets=3, packetdebug=True)
        frames = [frame(0), BROKEN, frame(2)]
        self.pair.send(frames)
        file = self.pcap(daemon, id)
        self.assertEqual([record.data for record in file.records], frames)
        first, second, third = self.lines(daemon, id)
        self.assertIn("packet 1: Ether / IP / UDP 192.0.2.1", first)
        self.assertTrue(second.endswith(" (malformed)"), second)
        self.assertFalse((first + third).count("malformed"))
        self.pcap(daemon, silent)
        self.assertEqual(self.lines(daemon, silent), [])

    def test_panic(self) -> None:
        """
        With C{--panic} such a packet fails its capture, and only that.
        """
        daemon = self.daemon(general={"packetdebug": True})
        daemon.start(options=["--panic"])
        good = daemon.arm(interface="vb", packets=1)
        bad = daemon.arm(interface="vb", packets=3)
        self.pair.send([frame(0), BROKEN, frame(2)])
        event = daemon.waitForEvent("failed", bad)
        self.assertEqual(event["stage"], "decode")
        self.assertIn("packet 2 cannot be decoded", event["reason"])
        path = daemon.stored(good)
        self.assertEqual(list(daemon.captures.iterdir()), [path])
