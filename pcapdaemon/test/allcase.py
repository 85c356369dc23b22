# See LICENSE for details.
"""
What tests of the daemon with all its buses and sinks have in common.
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import trustme

from twisted.internet import reactor

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.process import Daemon
from pcapdaemon.test.servers import RedisServer, freePort, missing
from pcapdaemon.test.servers_cloudshark import CloudSharkServer
from pcapdaemon.test.servers_kafka import KafkaServer, missingTansu
from pcapdaemon.test.servers_moto import MotoServer, missingMoto
from pcapdaemon.test.servers_weed import (
    ACCESSID,
    ACCESSKEY,
    WeedServer,
    missingWeed,
)
from pcapdaemon.test.test_configfiles import ORIGINAL

#: What must never be seen. The token needs quoting in a URL.
SECRETS = {
    "redis": "password/of+redis",
    "token": "t0ken/of+the=cloud shark%",
    "s3id": ACCESSID,
    "s3key": ACCESSKEY,
    "sqsid": "AKIDOFTHEQUEUE",
    "sqskey": "secret/key+of-the-queue",
    "hook": "token-in-the-address-of-the-hook",
    "signing": "whsec_c2VjcmV0IG9mIHRoZSBzaWduYXR1cmU=",
}

#: C{section, key}; of a section that stands several times, that of the first.
Edits = Mapping[tuple[str, str], Any]


def edited(text: str, edits: Edits) -> str:
    """
    A configuration with other values, and not a byte changed besides.

    @raise AssertionError: One of the keys is not there.
    """
    left, section, lines = dict(edits), "", []
    for line in text.splitlines(keepends=True):
        if line.startswith("["):
            section = line.strip().strip("[]")
        key = re.match(r"\w+(?=\s*=)", line)
        if key and (section, key[0]) in left:
            value = left.pop((section, key[0]))
            # TOML's texts, numbers, booleans and arrays of texts are JSON's.
            line = line[: line.index("=")] + f"= {json.dumps(value)}\n"
        lines.append(line)
    assert not left, left
    return "".join(lines)


class HouseTestCase(DaemonTestCase):
    """
    Tests with servers of all kinds, whose secrets no daemon may tell.

    @ivar queue: The URL of the queue.
    """

    skip = missing("redis-server") or missingTansu() or missingMoto() or missingWeed()

    def setUp(self) -> None:
        """
        Make the servers, which each test starts as far as it needs them.
        """
        super().setUp()
        self.redis = RedisServer(self, reactor)
        self.kafka = KafkaServer(self, reactor)
        self.moto = MotoServer(self, reactor)
        self.weed = WeedServer(self, reactor)
        self.cloudshark = CloudSharkServer(self, reactor)

    # Servers.

    async def startQueue(self, visibility: int = 30) -> None:
        """
        Start SQS with one queue.

        @param visibility: Seconds that a message is hidden from others.
        """
        await self.moto.start()
        self.sqs = self.moto.client("sqs")
        self.addCleanup(self.sqs.close)
        attributes = {"VisibilityTimeout": str(visibility)}
        made = self.sqs.create_queue(QueueName="myqueue", Attributes=attributes)
        self.queue: str = made["QueueUrl"]

    def queued(self) -> int:
        """
        How many messages the queue has, hidden ones too.
        """
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(
            QueueUrl=self.queue, AttributeNames=names
        )
        return sum(int(answer["Attributes"][name]) for name in names)

    async def startAll(self) -> Edits:
        """
        Start all servers as the original's sample has them.

        @return: What must be edited in it.
        """
        await self.redis.start(password=SECRETS["redis"])
        await self.kafka.start()
        self.kafka.create("capture", 3)
        await self.startQueue()
        await self.cloudshark.start(token=SECRETS["token"])
        await self.startBucketWithTLS()
        return {
            ("general", "writelocal"): True,
            ("interface", "name"): "vb",
            ("redis", "host"): "127.0.0.1",
            ("redis", "port"): self.redis.port,
            ("redis", "auth"): SECRETS["redis"],
            # The sample has two, of which one does not answer today.
            ("kafka", "server"): [
                f"127.0.0.1:{self.kafka.port}",
                f"localhost:{freePort()}",
            ],
            ("sqs", "url"): self.queue,
            ("sqs", "accessid"): SECRETS["sqsid"],
            ("sqs", "accesskey"): SECRETS["sqskey"],
            ("cloudshark", "host"): "localhost",
            ("cloudshark", "port"): self.cloudshark.port,
            ("cloudshark", "token"): SECRETS["token"],
            ("s3", "endpoint"): f"127.0.0.1:{self.weed.httpsPort}",
            ("s3", "accessid"): SECRETS["s3id"],
            ("s3", "accesskey"): SECRETS["s3key"],
        }

    async def startBucketWithTLS(self) -> None:
        """
        Start S3 with a certificate, and the bucket of the sample.
        """
        directory = Path(self.weed.directory)
        certificate, key = directory / "cert.pem", directory / "key.pem"
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(str(key))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        self.weed.bucket = "pcapdaemon"
        await self.weed.start(certificate=str(certificate), key=str(key))

    # Daemons.

    def original(self, edits: Edits) -> Daemon:
        """
        A daemon with the original's sample.
        """
        daemon = self.daemon()
        where = {("general", "localdir"): str(daemon.captures)}
        text = edited(ORIGINAL, {**where, **edits})
        daemon.file.write_text(text)
        daemon.configuration = tomllib.loads(text)
        # As an operator adds authorities of his own to the system's.
        daemon.environment = {
            "SSL_CERT_FILE": self.cloudshark.cafile,
            "AWS_CA_BUNDLE": str(Path(self.weed.directory, "ca.pem")),
        }
        return daemon

    def cloudsharkSection(self) -> dict[str, Any]:
        """
        What makes a daemon upload to the server without TLS.
        """
        return {
            "upload": True,
            "scheme": "http",
            "host": "localhost",
            "port": self.cloudshark.port,
            "token": SECRETS["token"],
        }

    def s3Section(self) -> dict[str, Any]:
        """
        What makes a daemon upload to the bucket without TLS.
        """
        return {
            "upload": True,
            "endpoint": self.weed.url,
            "bucket": self.weed.bucket,
            "folder": "pcaps",
            "accessid": ACCESSID,
            "accesskey": ACCESSKEY,
        }

    def sink(
        self, daemon: Daemon, kind: str, sink: str, count: int
    ) -> list[dict[str, Any]]:
        """
        Wait for so many events of one sink.

        @param kind: C{stored} or C{failed}.
        @return: All that are there.
        """

        def found() -> list[dict[str, Any]]:
            those = [each for each in daemon.told(kind) if each["sink"] == sink]
            return those if len(those) >= count else []

        events: list[dict[str, Any]] = daemon.waitFor(
            found, f"{count} times {kind} by {sink}"
        )
        return events

    def checkSilence(self, daemon: Daemon) -> None:
        """
        See, too, that no secret was said, in any form.
        """
        super().checkSilence(daemon)
        # Not as JSON, which writes some signs in other ways.
        said = f"{daemon.lines}\n{daemon.garbage}\n{daemon.errors}"
        self.assertIn("pcapdaemon ", said)
        self.assertNoSecret(said)

    def assertNoSecret(self, text: str) -> None:
        """
        See that a text has no secret in it.
        """
        for name, secret in SECRETS.items():
            for form in forms(secret):
                self.assertNotIn(form, text, name)


def forms(secret: str) -> set[str]:
    """
    How a secret may be written.
    """
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        base64.b64encode(secret.encode()).decode(),
        secret.encode().hex(),
    }
