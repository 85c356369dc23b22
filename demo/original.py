# See LICENSE for details.
"""
The second part of the demonstration: every bus and every sink at once.

The configuration is the sample of the program that this one follows; only hosts,
ports and credentials in it are edited, and HTTP is added. The servers are real
ones, started here on free ports: redis-server, Tansu (Kafka), moto (SQS) and
SeaweedFS (S3). CloudShark is not to be had for this; a stand-in answers in its
place, over TLS.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import toml
from traffic import Traffic

from twisted.internet.defer import Deferred, FirstError, gatherResults, maybeDeferred
from twisted.internet.threads import deferToThread

from pcapdaemon.test.cloudshark import CloudShark
from pcapdaemon.test.process import Daemon, path
from pcapdaemon.test.servers import RedisServer, missing
from pcapdaemon.test.servers_kafka import KafkaServer, missingTansu
from pcapdaemon.test.servers_moto import MotoServer, missingMoto
from pcapdaemon.test.servers_weed import ACCESSID, ACCESSKEY, WeedServer, missingWeed

SAMPLE = Path(__file__).with_name("original.toml")
PACKETS = 20

Fetch = Callable[[dict[str, Any]], bytes]


class Failed(Exception):
    """The demonstration cannot go on; the text says why."""


class Cleanups:
    """
    What a server needs to know of the test that it must not outlive.
    """

    def __init__(self) -> None:
        self._all: list[tuple[Callable[..., Any], Any, Any]] = []

    def addCleanup(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call this at the end, the last one first."""
        self._all.append((f, args, kwargs))

    async def run(self) -> None:
        """It is the end."""
        while self._all:
            f, args, kwargs = self._all.pop()
            await maybeDeferred(f, *args, **kwargs)


class Stage:
    """
    The servers, and the sample made to fit them.
    """

    def __init__(self, cleanups: Any, reactor: Any, where: Path) -> None:
        """
        @param where: The directory for what is to be seen afterwards.
        """
        self.sample = toml.loads(SAMPLE.read_text())
        self.redis = RedisServer(cleanups, reactor)
        self.kafka = KafkaServer(cleanups, reactor)
        self.moto = MotoServer(cleanups, reactor)
        self.weed = WeedServer(cleanups, reactor)
        token = self.sample["cloudshark"]["token"]
        self.shark = CloudShark(reactor, where / "cloudshark", token)
        cleanups.addCleanup(self.shark.stop)

    async def start(self) -> None:
        """
        Start the servers.
        """
        self.shark.start()
        password = self.sample["redis"]["auth"]
        starting = [
            self.redis.start(password=password),
            self.kafka.start(),
            self.moto.start(),
            self.weed.start(),
        ]
        await gatherResults(starting, consumeErrors=True)

    def prepare(self) -> dict[str, dict[str, Any]]:
        """
        Make topic, queue and bucket.

        @return: What to edit in the sample, by section.
        """
        self.kafka.create(self.sample["kafka"]["topic"], partitions=3)
        self.queue = self.moto.client("sqs").create_queue(QueueName="myqueue")
        self.weed.client().create_bucket(Bucket=self.sample["s3"]["bucket"])
        return {
            "redis": {"host": "127.0.0.1", "port": self.redis.port},
            "kafka": {"server": [f"127.0.0.1:{self.kafka.port}"]},
            "sqs": {"url": self.queue["QueueUrl"]},
            "cloudshark": {"host": "localhost", "port": self.shark.port},
            "s3": {
                "endpoint": self.weed.url,
                "accessid": ACCESSID,
                "accesskey": ACCESSKEY,
            },
        }

    def buses(self, daemon: Daemon) -> dict[str, Callable[[bytes], object]]:
        """
        @return: By the name of each bus, what sends a request by it.
        """
        sqs = self.moto.client("sqs")
        channel, topic = self.sample["redis"]["channel"], self.sample["kafka"]["topic"]
        return {
            "redis": lambda request: self.redis.publish(channel, request),
            "kafka": lambda request: self.kafka.publish(topic, request, partition=2),
            "sqs": lambda request: sqs.send_message(
                QueueUrl=self.queue["QueueUrl"], MessageBody=request.decode()
            ),
            "http": lambda request: daemon.http("POST", "/captures", request),
        }

    def sinks(self) -> dict[str, Fetch]:
        """
        @return: By the name of each sink, what gets the file of a C{stored} event.
        """

        def uploaded(stored: dict[str, Any]) -> bytes:
            id = stored["url"].rpartition("/")[2]
            return (self.shark.directory / f"{id}.pcap").read_bytes()

        def fetched(stored: dict[str, Any]) -> bytes:
            bucket, _, key = urlsplit(stored["url"]).path[1:].partition("/")
            there = self.weed.client().get_object(Bucket=bucket, Key=unquote(key))
            content: bytes = there["Body"].read()
            return content

        return {
            "local": lambda stored: path(stored).read_bytes(),
            "cloudshark": uploaded,
            "s3": fetched,
        }


def capture(
    daemon: Daemon,
    number: int,
    send: Callable[[bytes], object],
    sinks: dict[str, Fetch],
) -> list[str]:
    """
    Send one request, make the traffic, and look into every sink.

    @param number: Which request it is, from 1.
    @return: What to say of it.
    """
    with Traffic() as traffic:
        request = {
            "node": "any",
            "alias": ["local"],
            "bpf": traffic.filter,
            "packets": PACKETS,
            "alertid": 655442 + number,
            "tags": "demo",
        }
        send(json.dumps(request).encode())
        id = daemon.waitForCount("accepted", number)[-1]["id"]
        daemon.waitForEvent("armed", id)
        traffic.send(PACKETS)
        completed = daemon.waitForEvent("completed", id)

    def over() -> bool:
        return len(daemon.told("stored", id) + daemon.told("failed", id)) == len(sinks)

    daemon.waitFor(over, f"{', '.join(sinks)} have {completed['filename']}")
    said = {event["sink"]: event for event in daemon.told("failed", id)}
    if said:
        why = "; ".join(f"{sink}: {event['reason']}" for sink, event in said.items())
        raise Failed(f"{completed['filename']} is not everywhere: {why}")
    said = {event["sink"]: event for event in daemon.told("stored", id)}
    for sink, fetch in sinks.items():
        if hashlib.sha256(fetch(said[sink])).hexdigest() != completed["sha256"]:
            raise Failed(f"{sink}: another file than {completed['filename']}")
    return [id, str(completed["packets"]), completed["stop"], *("ok" for _ in sinks)]


def perform(daemon: Daemon, stage: Stage, where: Path) -> None:
    """
    All that blocks.
    """
    edits = stage.prepare()
    daemon.configuration = stage.sample
    daemon.configure(**edits, http={"listen": True, "port": 0})
    file = shutil.copy(daemon.file, where / "original.toml")
    said = (f"[{section}] {', '.join(keys)}" for section, keys in edits.items())
    print("configuration:", file)
    print("the sample of the program that this one follows, with [http] added, but for")
    print("; ".join(said))
    # What the daemon takes for the authorities that the system trusts.
    os.environ["SSL_CERT_FILE"] = stage.shark.cafile
    local = where / "local"
    daemon.start(["--writelocal", "--destdir", str(local)])
    daemon.waitForLine("reading topic")
    daemon.waitForLine("reading from SQS")
    print(
        "the daemon has joined all buses; one request by each, one pcap in each sink:"
    )
    print()
    row = "{:6} {:14} {:>7}  {:8} {:6} {:11} {:3}".format
    print(row("bus", "capture", "packets", "stop", "local", "CloudShark*", "S3"))
    for number, (bus, send) in enumerate(stage.buses(daemon).items(), 1):
        print(row(bus, *capture(daemon, number, send, stage.sinks())), flush=True)
    print()
    print("ok: its sha256 is that of the capture. *: a stand-in, no real CloudShark")
    status = daemon.stop()
    if status:
        raise Failed(f"the daemon ended with status {status}")
    print("the daemon has ended cleanly; the files are in", local)


async def run(reactor: Any, where: Path) -> None:
    """
    Do all of it.

    @param where: The directory for what is to be seen afterwards.
    @raise SystemExit: Something went wrong, and has been said.
    """
    absent = [missing("redis-server"), missingTansu(), missingMoto(), missingWeed()]
    if lacking := "; ".join(each for each in absent if each):
        print("demo: for the second part something is", lacking)
        raise SystemExit(1)
    cleanups: Any = Cleanups()
    # However this ends: by the keyboard, too.
    reactor.addSystemEventTrigger(
        "before", "shutdown", lambda: Deferred.fromCoroutine(cleanups.run())
    )
    print("starting redis-server, Tansu, moto, SeaweedFS, a CloudShark stand-in")
    try:
        stage = Stage(cleanups, reactor, where)
        await stage.start()
        await deferToThread(perform, Daemon(cleanups), stage, where)
    except Exception as error:
        cause = error.subFailure.value if isinstance(error, FirstError) else error
        print(f"demo: {str(cause) or repr(cause)}")
        raise SystemExit(1) from None
