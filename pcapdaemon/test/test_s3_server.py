# See LICENSE for details.
"""
Tests for L{pcapdaemon.sinks.s3} against a real server, that is just and refuses
wrong signatures.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import trustme

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.trial.unittest import TestCase

from pcapdaemon.sinks.s3 import S3Sink
from pcapdaemon.test.s3case import LiveSink
from pcapdaemon.test.servers import until
from pcapdaemon.test.servers_weed import (
    ACCESSID,
    ACCESSKEY,
    WeedServer,
    missingWeed,
)

#: Bytes of a large recording.
LARGE = 100_000_000


class ServerTests(LiveSink, TestCase):
    """
    The sink against SeaweedFS.
    """

    skip = missingWeed()

    def setUp(self) -> None:
        """
        Make a server, which each test starts as it likes.
        """
        self.server = WeedServer(self, reactor)

    async def serveTLS(self) -> str:
        """
        Start the server with TLS too.

        @return: A file with the certificate of its authority.
        """
        directory = Path(self.server.directory)
        certificate, key = directory / "cert.pem", directory / "key.pem"
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(str(key))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        await self.server.start(certificate=str(certificate), key=str(key))
        return self.written(authority, "own.pem")

    def written(self, authority: trustme.CA, name: str) -> str:
        """
        A file with the certificate of an authority.
        """
        file = Path(self.server.directory) / name
        authority.cert_pem.write_to_path(str(file))
        return str(file)

    def sink(self, **settings: Any) -> S3Sink:
        """
        A sink that runs.
        """
        defaults = {
            "bucket": self.server.bucket,
            "endpoint": self.server.url,
            "accessid": ACCESSID,
            "accesskey": ACCESSKEY,
        }
        return self.start(**{**defaults, **settings})

    def object(self, key: str) -> Any:
        """
        What the server has under a key.
        """
        return self.server.client().get_object(Bucket=self.server.bucket, Key=key)

    async def test_stored(self) -> None:
        """
        The object is byte for byte the recording, with type, tags and
        encryption, at the URL that was returned.
        """
        await self.server.start()
        sink = self.sink(folder="/pcaps/", acl="private", encryption=True)
        content = os.urandom(300_000)
        recording = self.recording(content, tags="a,b", customer="acme")
        key = "pcaps/web1-eth0-1700000000-abc.pcap"
        self.assertEqual(
            await sink.store(recording), f"{self.server.url}/captures/{key}"
        )
        found = self.object(key)
        self.assertEqual(found["Body"].read(), content)
        self.assertEqual(found["ContentType"], "application/vnd.tcpdump.pcap")
        self.assertEqual(found["Metadata"], {"tags": recording.plan.tags})
        self.assertEqual(found["ServerSideEncryption"], "AES256")
        self.assertEqual(self.server.keys(), [key])

    async def test_strange(self) -> None:
        """
        Names and tags that need to be encoded are signed as they are sent.
        """
        await self.server.start()
        sink = self.sink(folder="ä b/+%&=?#'~(*)")
        await sink.store(self.recording(b"x", tags=" Zürich,  two\tspaces\r\n"))
        [key] = self.server.keys()
        self.assertEqual(key, "ä b/+%&=?#'~(*)/web1-eth0-1700000000-abc.pcap")
        await sink.store(self.recording(b"y", tags="two  spaces, 100% =?"))
        self.assertEqual(self.object(key)["Body"].read(), b"y")

    async def test_overrides(self) -> None:
        """
        Bucket, folder and region of a request hold for it alone.
        """
        await self.server.start()
        self.server.client().create_bucket(Bucket="evidence")
        sink = self.sink()
        asked = self.recording(b"a", bucket="evidence", folder="x", region="eu-west-1")
        await gatherResults(
            [sink.store(asked), sink.store(self.recording(b"b"))], consumeErrors=True
        )
        there = self.server.client().list_objects_v2(Bucket="evidence")
        self.assertEqual(
            [each["Key"] for each in there["Contents"]],
            ["x/web1-eth0-1700000000-abc.pcap"],
        )
        self.assertEqual(self.server.keys(), ["web1-eth0-1700000000-abc.pcap"])

    async def test_many(self) -> None:
        """
        Several uploads at once, more than there are threads, all arrive.
        """
        await self.server.start()
        sink = self.sink()
        contents = {f"folder{n}": os.urandom(1_000_000 + n) for n in range(8)}
        await gatherResults(
            [
                sink.store(self.recording(content, folder=folder))
                for folder, content in contents.items()
            ],
            consumeErrors=True,
        )
        for folder, content in contents.items():
            found = self.object(f"{folder}/web1-eth0-1700000000-abc.pcap")
            self.assertEqual(found["Body"].read(), content)

    async def test_large(self) -> None:
        """
        A large recording is streamed: memory hardly grows.
        """
        await self.server.start()
        sink = self.sink()
        await sink.store(self.recording(b"warm"))
        block = os.urandom(1_000_000)
        recording = self.recording(block, repeat=LARGE // len(block))
        with recording.open() as file:
            expected = hashlib.file_digest(file, "sha256").digest()
        before = self.peak(reset=True)
        await sink.store(recording)
        self.assertLess(self.peak() - before, 16 << 20)
        stored = hashlib.sha256()
        for chunk in self.object(recording.filename)["Body"].iter_chunks(1 << 20):
            stored.update(chunk)
        self.assertEqual(stored.digest(), expected)

    async def test_credentials(self) -> None:
        """
        Wrong keys are a permanent failure, in words without them.
        """
        await self.server.start()
        wrong = "another-key-than-that"
        for settings, code in (
            ({"accesskey": wrong}, "SignatureDoesNotMatch (403)"),
            ({"accessid": wrong}, "InvalidAccessKeyId (403)"),
        ):
            error = await self.failed(self.sink(**settings), self.recording(b"x"))
            self.assertFalse(error.transient)
            self.assertIn(code, str(error))
            self.assertNotIn(wrong, str(error))
        self.assertEqual(self.server.keys(), [])

    async def test_noBucket(self) -> None:
        """
        A bucket that is missing is a permanent failure, which says which.
        """
        await self.server.start()
        error = await self.failed(self.sink(bucket="nobodys"), self.recording(b"x"))
        self.assertFalse(error.transient)
        self.assertIn("nobodys/", str(error))
        self.assertIn("NoSuchBucket (404)", str(error))

    async def test_killed(self) -> None:
        """
        A server that dies in the middle of an upload is a transient failure,
        so is one that is down, and the next attempt brings the whole file.
        """
        await self.server.start()
        sink = self.sink()
        content = os.urandom(1_000_000)
        recording = self.recording(content, repeat=60)
        storing = ensureDeferred(self.failed(sink, recording))
        data = Path(self.server.directory) / "data"

        def arriving() -> bool:
            # It keeps what it has of a large object already.
            return sum(f.stat().st_size for f in data.glob("*.dat")) > 5_000_000

        await until(reactor, arriving, "some of the upload")
        await self.server.kill()
        error = await storing
        self.assertTrue(error.transient, error)
        error = await self.failed(sink, recording)
        self.assertTrue(error.transient, error)
        self.assertIn("Could not connect", str(error))
        await self.server.restart()
        self.assertEqual(self.server.keys(), [])
        await sink.store(recording)
        found = self.object(recording.filename)
        self.assertEqual(found["Body"].read(), content * 60)

    async def test_tls(self) -> None:
        """
        With TLS, an authority of one's own is trusted when it is configured.
        """
        cafile = await self.serveTLS()
        endpoint = f"127.0.0.1:{self.server.httpsPort}"
        sink = self.sink(endpoint=endpoint, cafile=cafile)
        url = await sink.store(self.recording(b"x" * 100_000))
        self.assertEqual(
            url, f"https://{endpoint}/captures/web1-eth0-1700000000-abc.pcap"
        )
        found = self.object("web1-eth0-1700000000-abc.pcap")
        self.assertEqual(found["Body"].read(), b"x" * 100_000)

    async def test_untrusted(self) -> None:
        """
        A certificate of an unknown authority or for another name, or a server
        without TLS, is a permanent failure.
        """
        own = await self.serveTLS()
        other = self.written(trustme.CA(), "other.pem")
        port = self.server.httpsPort
        for settings, words in (
            ({"endpoint": f"127.0.0.1:{port}"}, "CERTIFICATE_VERIFY_FAILED"),
            (
                {"endpoint": f"127.0.0.1:{port}", "cafile": other},
                "CERTIFICATE_VERIFY_FAILED",
            ),
            (
                {"endpoint": f"localhost:{port}", "cafile": own},
                "hostname 'localhost' doesn't match",
            ),
            ({"endpoint": f"https://127.0.0.1:{self.server.port}"}, "SSL"),
        ):
            error = await self.failed(self.sink(**settings), self.recording(b"x"))
            self.assertFalse(error.transient, error)
            self.assertIn(words, str(error))
        self.assertEqual(self.server.keys(), [])
