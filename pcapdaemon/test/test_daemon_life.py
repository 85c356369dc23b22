# See LICENSE for details.
"""
The whole daemon: how it starts, or does not, and how it ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import SkipTest

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.frames import frame
from pcapdaemon.test.network import environment
from pcapdaemon.test.process import PATIENCE, Daemon
from pcapdaemon.test.servers import freePort, missing
from pcapdaemon.test.test_tap import TWISTD

#: Nobody's user and group.
NOBODY = 65534
CAP_NET_RAW = 13

#: The daemon as an ordinary user, with and without the one privilege it needs.
_UNPRIVILEGED = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups".split()
NET_RAW = [
    *_UNPRIVILEGED,
    "--inh-caps=-all,+net_raw",
    "--ambient-caps=-all,+net_raw",
    "--bounding-set=-all,+net_raw",
]
NOTHING = [*_UNPRIVILEGED, "--inh-caps=-all", "--bounding-set=-all"]

#: Makes a Python that lies behind a closed door, such as root's home, reachable
#: for everybody: but for the way to it, the closed directory looks empty. To be
#: run in a mount namespace of its own; takes the Python's directory, the closed
#: directory, an empty one, and the command to become.
_OPEN = """
set -e
mount --bind "$1" "$3"
mount -t tmpfs -o mode=755 none "$2"
mkdir -p "$1"
mount --bind "$3" "$1"
shift 3
exec "$@"
"""


class EndTests(DaemonTestCase):
    """
    However it ends, what it holds is stored.
    """

    def test_idle(self) -> None:
        """
        An idle daemon that is asked to end does so with status 0, and says
        nothing on its standard error.
        """
        for number in signal.SIGTERM, signal.SIGINT:
            daemon = self.started()
            daemon.signal(number)
            self.assertEqual(daemon.wait(), 0)

    def test_early(self) -> None:
        """
        So does one that has only just said that it is there, and SIGHUP does not
        end it.
        """
        daemon = self.daemon()
        daemon.launch()
        daemon.waitForLine("pcapdaemon ")
        daemon.signal(signal.SIGHUP)
        daemon.waitForLine("configuration taken over")
        self.assertEqual(daemon.stop(), 0)
        daemon.launch()
        daemon.waitForLine("pcapdaemon ")
        self.assertEqual(daemon.stop(), 0)

    def test_text(self) -> None:
        """
        In twistd's own log each event is one line that ends with its JSON.
        """
        daemon = Daemon(self, http={"port": freePort()})
        daemon.port = daemon.configuration["http"]["port"]
        daemon.launch(log=())
        daemon.waitFor(lambda: "pcapdaemon " in "".join(daemon.garbage), "start")
        daemon.http("POST", "/captures", b"[]")
        daemon.waitFor(lambda: "rejected" in "".join(daemon.garbage), "event")
        self.assertEqual(daemon.stop(), 0)
        (line,) = [line for line in daemon.garbage if "rejected" in line]
        event = json.loads(line[line.index("{") :])
        self.assertEqual((event["event"], event["reason"]), ("rejected", "malformed"))
        self.assertEqual(daemon.errors, "")

    def test_running(self) -> None:
        """
        Running captures end as C{shutdown}, and what they hold is stored before
        the daemon is gone. An empty one leaves no file.
        """
        daemon = self.started()
        ids = [daemon.arm(interface="vb", bpf="udp") for _ in range(5)]
        empty = daemon.arm(interface="vb", bpf="tcp")
        frames = [frame(n) for n in range(20)]
        self.pair.send(frames)
        self.assertEqual(daemon.stop(), 0)
        for id in [*ids, empty]:
            event = daemon.waitForEvent("completed", id)
            self.assertEqual(event["stop"], "shutdown")
        for id in ids:
            file = self.pcap(daemon, id)
            self.assertEqual([record.data for record in file.records], frames)
        self.assertEqual(len(list(daemon.captures.iterdir())), 5)

    def test_refused(self) -> None:
        """
        Once it is ending, whatever still comes is refused or not heard at all,
        and the end is not put off.
        """
        daemon = self.started()
        daemon.arm(interface="vb")
        # Requests on connections that are open already, all in one piece.
        body = b'{"node": "any", "interface": "vb"}'
        head = (
            b"POST /captures HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        answers = b""
        with socket.create_connection(("127.0.0.1", daemon.port), PATIENCE) as link:
            daemon.signal(signal.SIGTERM)
            try:
                for _ in range(1000):
                    link.sendall(head + body)
                while piece := link.recv(65536):
                    answers += piece
            except ConnectionError:
                pass
        self.assertEqual(daemon.wait(), 0)
        # Each is over and done with: armed and completed, or failed, or refused.
        reasons = {event["reason"] for event in daemon.told("rejected")}
        self.assertLessEqual(reasons, {"closing", "busy"})
        over = daemon.told("completed") + daemon.told("failed")
        self.assertEqual(
            {event["id"] for event in daemon.told("accepted")},
            {event["id"] for event in over},
        )

    def test_opening(self) -> None:
        """
        Captures whose devices are not open yet come to an end, too, each with
        one event that says so.
        """
        daemon = self.started()
        ids = [id for _ in range(40) for id in daemon.ask(interface="vb")]
        self.assertEqual(daemon.stop(), 0)
        over = [x["id"] for x in daemon.told("completed") + daemon.told("failed")]
        self.assertEqual(sorted(over), sorted(ids))
        for event in daemon.told("completed"):
            self.assertEqual(event["stop"], "shutdown")
        for event in daemon.told("failed"):
            self.assertEqual(event["stage"], "capture")
            self.assertIn("shut down", event["reason"])

    def test_killed(self) -> None:
        """
        A daemon that is killed leaves no process behind, and the next one removes
        the incomplete files of the former, and nothing else.
        """
        daemon = self.started()
        daemon.arm(interface="vb", bpf="udp")
        children = daemon.children()
        self.assertTrue(children)
        daemon.kill()
        end = time.monotonic() + PATIENCE
        while any(alive(child) for child in children) and time.monotonic() < end:
            time.sleep(0.01)
        self.assertFalse([child for child in children if alive(child)])
        mine = daemon.captures / ".node-a-vb-1-abc.pcap.part"
        others = [
            daemon.captures / name
            for name in (".node-b-vb-1-abc.pcap.part", "node-a-vb-1-abc.pcap", ".x")
        ]
        for path in [mine, *others]:
            path.write_bytes(b"part")
        daemon.start()
        self.assertEqual(set(daemon.captures.iterdir()), set(others))
        daemon.waitForLine(f"removed {mine}")


class _RefusalTestCase(DaemonTestCase):
    """
    Tests of daemons that do not start.
    """

    def refusal(self, daemon: Daemon, wrapper: Sequence[str] = ()) -> list[str]:
        """
        Start a daemon that ends with status 1 at once.

        @return: What it says on its standard error, which is no traceback.
        """
        daemon.launch(wrapper=wrapper)
        self.assertEqual(daemon.wait(), 1, daemon.errors)
        said = daemon.errors.splitlines()
        self.assertEqual(daemon.complaints(), said)
        return said


class PrivilegeTests(_RefusalTestCase):
    """
    The daemon as an ordinary user.
    """

    skip = missing("setpriv", "unshare", "mount")

    def setUp(self) -> None:
        """
        Make a daemon whose directory is that user's.
        """
        super().setUp()
        self.one = Daemon(self)
        self.one.captures.mkdir()
        os.chown(self.one.captures, NOBODY, NOBODY)
        self.way: list[str] = []
        python = Path(sys.base_prefix)
        for parent in reversed(python.parents):
            if not parent.stat().st_mode & stat.S_IXOTH:
                behind = self.one.directory / "behind"
                behind.mkdir()
                script = ["sh", "-c", _OPEN, "sh", *map(str, (python, parent, behind))]
                self.way = ["unshare", "--mount", *script]
                break
        # Twice, for the first one is started with the rights of this user.
        argv = [sys.executable, "-c", "import pcapdaemon, twisted"]
        again = f"import subprocess; subprocess.run({argv}, check=True)"
        done = subprocess.run(
            [*self.way, *NOTHING, sys.executable, "-c", again],
            check=False,
            capture_output=True,
            text=True,
            env=environment(),
            cwd="/",
        )
        if done.returncode:
            raise SkipTest(f"no Python for an ordinary user: {done.stderr[-500:]}")

    def test_capability(self) -> None:
        """
        C{CAP_NET_RAW} is all that it needs, on a device and on C{any}.
        """
        self.one.start(wrapper=[*self.way, *NET_RAW])
        status = Path("/proc", str(self.one.pid), "status").read_text()
        self.assertIn(f"\nUid:\t{NOBODY}\t", status)
        self.assertIn(f"\nCapEff:\t{1 << CAP_NET_RAW:016x}\n", status)
        ids = self.one.ask(interface=["vb", "any"], bpf="udp port 9", packets=1)
        self.one.waitForEvents("armed", ids)
        self.pair.send([frame(0)])
        for id in ids:
            self.pcap(self.one, id)
        self.assertEqual(self.one.stop(), 0)
        self.assertEqual(self.one.complaints(), [])

    def test_nothing(self) -> None:
        """
        Without it one line says what it needs.
        """
        (message,) = self.refusal(self.one, [*self.way, *NOTHING])
        self.assertIn("CAP_NET_RAW", message)

    def test_directory(self) -> None:
        """
        A directory that it may not write to is named in one line.
        """
        os.chown(self.one.captures, 0, 0)
        (message,) = self.refusal(self.one, [*self.way, *NET_RAW])
        self.assertIn(f"[general] localdir: {self.one.captures}: ", message)


class StartErrorTests(_RefusalTestCase):
    """
    What keeps it from starting is said in one line.
    """

    def test_directory(self) -> None:
        """
        A directory that cannot be made.
        """
        for place in "/proc/captures", "/dev/null/captures":
            (message,) = self.refusal(Daemon(self, general={"localdir": place}))
            self.assertIn(f"[general] localdir: {place}: ", message)

    def test_portTaken(self) -> None:
        """
        A port that somebody else listens on.
        """
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            (message,) = self.refusal(Daemon(self, http={"port": port}))
        self.assertIn("[http] host, port: ", message)
        self.assertIn(f"127.0.0.1 port {port}: ", message)

    def test_precision(self) -> None:
        """
        An engine that has no nanoseconds.
        """
        capture = {"engine": "pcapy", "precision": "nano"}
        (message,) = self.refusal(Daemon(self, capture=capture))
        self.assertIn('[capture] precision: "nano" is not to be had', message)

    def test_detached(self) -> None:
        """
        Without C{--nodaemon} the command that starts it says so, too, ends with
        status 1 and leaves no pid file.
        """
        daemon = Daemon(self, general={"localdir": "/dev/null/captures"})
        twistd = ["-c", TWISTD, "--pidfile=pid", "--logfile=log", "pcapdaemon"]
        done = subprocess.run(
            [sys.executable, *twistd, "--config", str(daemon.file)],
            check=False,
            capture_output=True,
            text=True,
            cwd=daemon.directory,
            env=environment(),
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("[general] localdir: /dev/null/captures: ", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        # The process in the background tells the command before it ends itself.
        pid, end = daemon.directory / "pid", time.monotonic() + PATIENCE
        while pid.exists() and time.monotonic() < end:
            time.sleep(0.01)
        self.assertFalse(pid.exists())

    def test_mistakes(self) -> None:
        """
        All mistakes in the configuration, one a line.
        """
        daemon = Daemon(self, general={"maxpackets": 0, "colour": "red"})
        first, second = self.refusal(daemon)
        self.assertIn("maxpackets", first)
        self.assertIn("colour", second)


def alive(pid: int) -> bool:
    """
    Whether a process runs; one that nobody has waited for does not.
    """
    try:
        text = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"
