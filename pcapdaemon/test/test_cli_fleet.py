# See LICENSE for details.
"""
One request to three daemons on three machines, by the command line and every bus.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from pcapdaemon.cli.tracker import DONE, FAILED, LEFT, NOBODY
from pcapdaemon.test import pcapfile
from pcapdaemon.test.eventschema import mistake
from pcapdaemon.test.fleet import HUB, enterFleet
from pcapdaemon.test.network import environment
from pcapdaemon.test.process import PATIENCE, Daemon
from pcapdaemon.test.servers import RedisServer, missing
from pcapdaemon.test.servers_kafka import KafkaServer, missingTansu
from pcapdaemon.test.servers_moto import MotoServer, missingMoto

NODES = ("web1", "web2", "db1")
#: What the daemons capture, and nothing else of the hub's traffic.
PORT, PACKETS = 9999, 5
PASSWORD, TOKEN = "password-of-redis", "token-of-the-daemons"


class Command:
    """
    One run of C{pcapdaemon}, in the hub.
    """

    def __init__(
        self, case: TestCase, words: Sequence[str], env: dict[str, str], tty: bool
    ) -> None:
        """
        @param tty: Whether it has a terminal of 80 columns, or pipes.
        """
        self._heard, self._output = threading.Condition(), b""
        output: int = subprocess.PIPE
        if tty:
            self.terminal, output = pty.openpty()
            case.addCleanup(os.close, self.terminal)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pcapdaemon", *words],
            stdin=output if tty else subprocess.DEVNULL,
            stdout=output,
            stderr=output if tty else subprocess.PIPE,
            # A session whose terminal this is, so that Ctrl-C is a signal.
            preexec_fn=_ownTerminal if tty else None,
            env={**environment(), "COLUMNS": "80", "LANG": "C.UTF-8", **env},
        )
        case.addCleanup(self.process.wait)
        case.addCleanup(self.process.kill)
        if tty:
            os.close(output)
            self._reader = threading.Thread(target=self._read)
            self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.terminal, 65536)
            except OSError:  # Nobody has it any more.
                break
            with self._heard:
                self._output += data
                self._heard.notify_all()

    def expect(self, text: str) -> None:
        """
        Wait for something on the terminal.
        """
        with self._heard:
            if not self._heard.wait_for(
                lambda: text.encode() in self._output, PATIENCE
            ):
                raise AssertionError(f"no {text!r} in {self._output!r}")

    def type(self, text: str) -> None:
        """
        Type something.
        """
        os.write(self.terminal, text.encode())

    def ended(self) -> tuple[int, str, str]:
        """
        Wait for its end.

        @return: Exit status, output and errors; on a terminal both are output.
        """
        output, errors = "", ""
        if self.process.stdout is None:
            self.process.wait(PATIENCE)
            self._reader.join(PATIENCE)
            output = self._output.decode()
        else:
            told = self.process.communicate(timeout=PATIENCE)
            output, errors = (each.decode() for each in told)
        return self.process.returncode, output, errors


def _ownTerminal() -> None:
    os.setsid()
    # The first terminal that a session opens is its own.
    os.close(os.open(os.ttyname(0), os.O_RDWR))


class FleetTests(TestCase):
    """
    Three daemons. All servers and daemons are started once, for they take longer
    than what is shown here.
    """

    skip = missing("redis-server") or missingTansu() or missingMoto()

    async def start(self) -> None:
        """
        Start a server of each kind, and three daemons that listen to all.
        """
        self.fleet = enterFleet(self, len(NODES))
        self.redis = RedisServer(self, reactor)
        self.kafka = KafkaServer(self, reactor)
        self.moto = MotoServer(self, reactor)
        for server in self.redis, self.kafka, self.moto:
            server.host = HUB
        waiting = [
            self.redis.start(password=PASSWORD),
            self.kafka.start(),
            self.moto.start(),
        ]
        for each in waiting:
            await each
        for topic in "capture", "capture-events":
            self.kafka.create(topic, 3)
        client = self.moto.client("sqs")
        self.addCleanup(client.close)
        self.queues = [
            client.create_queue(QueueName=name)["QueueUrl"] for name in (*NODES, "told")
        ]
        self.daemons = [self.daemon(number) for number in range(len(NODES))]
        for number, daemon in enumerate(self.daemons):
            daemon.launch(wrapper=self.fleet.wrapper(number))
        for daemon in self.daemons:
            daemon.started()

    def daemon(self, number: int) -> Daemon:
        """
        One of the daemons: the last one does not know the alias C{odd}.
        """
        name = NODES[number]
        aliases = ["main"] if name == "db1" else ["main", "odd"]
        address = self.fleet.addresses[number]
        daemon = Daemon(
            self,
            general={"node": name},
            http={"host": address, "token": TOKEN},
            redis={
                "listen": True,
                "host": HUB,
                "port": self.redis.port,
                "auth": PASSWORD,
                "events": "capture.events",
            },
            kafka={
                "listen": True,
                "server": [f"{HUB}:{self.kafka.port}"],
                "events": "capture-events",
            },
            sqs={
                "listen": True,
                "url": self.queues[number],
                "region": "us-east-1",
                "accessid": "id",
                "accesskey": "key",
                "waitseconds": 1,
                "events": self.queues[-1],
            },
        )
        interface: Any = [{"name": "eth0", "alias": aliases}]
        daemon.configure(interface=interface)
        daemon.host = address
        return daemon

    def places(self, bus: str) -> list[str]:
        """
        Where a request goes.
        """
        if bus == "redis":
            return ["--to", f"redis://:{PASSWORD}@{HUB}:{self.redis.port}/capture"]
        if bus == "kafka":
            return ["--to", f"kafka://{HUB}:{self.kafka.port}/capture"]
        if bus == "sqs":
            *queues, events = [f"sqs+{url}" for url in self.queues]
            return [word for url in queues for word in ("--to", url)] + [
                *("--events", events)
            ]
        servers = [f"http://{each.host}:{each.port}" for each in self.daemons]
        return [word for url in servers for word in ("--to", url)]

    def send(self, bus: str, *words: str, tty: bool = False) -> Command:
        """
        Send a request, and follow it.
        """
        env = {
            "PCAPDAEMON_TOKEN": TOKEN,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "key",
        }
        request = ["-f", f"udp dst port {PORT}", "--packets", str(PACKETS)]
        request += ["--timeout", "60", "--expect", "3", "--follow"]
        argv = ["send", *self.places(bus), *request, *words]
        return Command(self, argv, env, tty)

    def serve(self, nodes: Sequence[int] = (0, 1, 2)) -> None:
        """
        Wait until these nodes have begun the captures of one request, and give
        them their packets.
        """
        for number in nodes:
            daemon = self.daemons[number]
            daemon.waitForCount("armed", len(daemon.told("completed")) + 1)
            self.fleet.send(number, PACKETS, PORT)
        for number in nodes:
            daemon = self.daemons[number]
            daemon.waitForCount("completed", len(daemon.told("armed")))

    async def test_all(self) -> None:
        """
        By every bus: three rows come to their end, and the status is 0; with one
        daemon that refuses it is not, and it says who and why.
        """
        await self.start()
        for bus in "redis", "kafka", "sqs", "http":
            self.succeeds(bus)
            self.refuses(bus)
        self.terminal()
        self.json()
        self.leaves()
        self.nobody()
        self.unfollowed()
        for daemon in self.daemons:
            self.assertEqual(daemon.complaints(), [])
            self.assertEqual(daemon.stop(), 0)

    def succeeds(self, bus: str) -> None:
        """
        All take it, and their files are had.
        """
        directory = self.mktemp()
        command = self.send(bus, "-a", "main", "--download", directory)
        self.serve()
        status, output, errors = command.ended()
        self.assertEqual((status, errors), (DONE, ""), f"{bus}: {output}")
        for name in NODES:
            place = f"{name} eth0 (main)"
            self.assertIn(f"{place}: completed: {PACKETS} packets", output)
            self.assertIn(f"{place}: stored: local: file:///", output)
        self.assertIn("3 captures, 3 done\n", output)
        files = sorted(Path(directory).iterdir())
        self.assertEqual(len(files), 3)
        for path in files:
            self.assertEqual(len(pcapfile.read(path).records), PACKETS)
        bus_ = {each.told("accepted")[-1]["bus"] for each in self.daemons}
        self.assertEqual(bus_, {bus})

    def refuses(self, bus: str) -> None:
        """
        One does not know the alias.
        """
        command = self.send(bus, "-a", "odd")
        self.serve((0, 1))
        status, output, errors = command.ended()
        self.assertEqual((status, errors), (FAILED, ""), f"{bus}: {output}")
        self.assertIn(
            "db1: refused (unknown-alias): alias 'odd': not configured", output
        )
        self.assertIn("2 captures, 2 done, 1 refused\n", output)

    def terminal(self) -> None:
        """
        On a terminal there is a table; Ctrl-C asks, and the captures are cancelled
        by the bus that they were asked for by: with a message, or over HTTP.
        """
        for bus in "redis", "http":
            command = self.send(bus, "-a", "main", tty=True)
            for name in NODES:
                command.expect(name)
            for daemon in self.daemons:
                daemon.waitForCount("armed", len(daemon.told("completed")) + 1)
            command.expect("capturing")
            command.type("\x03")
            command.expect("Cancel the running captures (3)? [y/N]")
            command.type("y\n")
            status, output, _ = command.ended()
            self.assertEqual(status, DONE, output)
            self.assertEqual(output.count("ended by cancelled"), 3, output)
            self.assertNotIn(PASSWORD, output)
            for daemon in self.daemons:
                [*_, last] = daemon.waitForCount("completed", len(daemon.told("armed")))
                self.assertEqual(last["stop"], "cancelled")

    def json(self) -> None:
        """
        With C{--json} there is nothing but events, as they are documented, those
        of each capture in their order.
        """
        command = self.send("kafka", "-a", "main", "--json")
        self.serve()
        status, output, _ = command.ended()
        self.assertEqual(status, DONE)
        events = [json.loads(line) for line in output.splitlines()]
        kinds: dict[str, list[Any]] = {}
        for event in events:
            self.assertIsNone(mistake(event))
            if event["event"] != "progress":
                kinds.setdefault(event["node"], []).append(event["event"])
        wanted = ["accepted", "armed", "completed", "stored"]
        self.assertEqual(kinds, dict.fromkeys(NODES, wanted))

    def leaves(self) -> None:
        """
        Without a terminal nobody can be asked: Ctrl-C leaves, and what runs runs
        on. What runs can be watched.
        """
        watch = ["watch", *self.places("redis"), "--json", "--count", "3"]
        watching = Command(self, watch, {}, False)
        assert watching.process.stderr is not None
        self.assertIn(b"watching redis://", watching.process.stderr.readline())
        command = self.send("redis", "-a", "main", "--json")
        assert command.process.stdout is not None
        armed = 0
        while armed < 3:
            line = command.process.stdout.readline()
            armed += json.loads(line)["event"] == "armed"
        command.process.send_signal(signal.SIGINT)
        status, _, errors = command.ended()
        self.assertEqual(status, LEFT)
        self.assertIn("3 captures run on", errors)
        self.serve()
        status, output, _ = watching.ended()
        self.assertEqual((status, len(output.splitlines())), (0, 3))

    def nobody(self) -> None:
        """
        A request for a node that there is not is answered by nobody.
        """
        words = ["--node", "nobody", "-i", "eth0", "--expect", "0"]
        for bus, more in ("redis", ["--wait", "0.3"]), ("http", []):
            status, output, _ = self.send(bus, *words, *more).ended()
            self.assertEqual(status, NOBODY)
            self.assertIn("nobody answered", output)

    def unfollowed(self) -> None:
        """
        Without being followed a request is sent, and what the bus says at once is
        the outcome.
        """
        token = self.mktemp()
        Path(token).write_text(f"{TOKEN}\n")
        [_, redis], [_, server, *_] = self.places("redis"), self.places("http")
        http = ["--to", server, "--token-file", token]
        for words, status, said in (
            (["--to", redis, "--node", "nobody"], DONE, "sent, 3 subscribers"),
            (["--to", f"{redis}x"], NOBODY, "sent, 0 subscribers"),
            ([*http, "-i", "none", "--duration", "1e9"], FAILED, "refused (limit): "),
            ([*http, "--node", "nobody"], NOBODY, "the request is not for web1"),
            ([*http, "--duration", "0.1"], DONE, "web1 takes it as "),
        ):
            command = Command(self, ["send", "-i", "eth0", *words], {}, False)
            code, output, errors = command.ended()
            self.assertEqual(code, status, output + errors)
            self.assertIn(said, output + errors)
            self.assertNotIn(PASSWORD, output + errors)
