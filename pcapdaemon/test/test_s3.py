# See LICENSE for details.
"""
Tests for L{pcapdaemon.sinks.s3} without a server: what is sent, and by which
clients.
"""

from __future__ import annotations

import os
from email.header import decode_header

from boto3.session import Session
from zope.interface.verify import verifyObject

from twisted.internet.task import Clock

from pcapdaemon.interfaces import ISink
from pcapdaemon.sinks.s3 import S3Sink
from pcapdaemon.test.fixtures import Worker
from pcapdaemon.test.s3case import ID, PLAIN, SinkCase


class RequestTests(SinkCase):
    """
    What goes to the server.
    """

    def test_interface(self) -> None:
        """
        It is a sink.
        """
        verifyObject(ISink, self.sink())

    def test_plain(self) -> None:
        """
        The file is sent whole to a path of bucket and key, with its type and
        tags and nothing that was not asked for, and the URL of it is returned.
        """
        sink = self.sink()
        recording = self.recording(tags="a,b", customer="acme", alertid=7)
        name = "web1-eth0-1700000000-abc.pcap"
        url = f"http://s3.example:9000/captures/{name}"
        self.assertEqual(self.successResultOf(sink.store(recording)), url)
        [sent] = self.service.sent
        self.assertEqual(sent.url, url)
        self.assertEqual(sent.body, b"pcap" * 1000)
        self.assertEqual(sent.headers["Content-Length"], "4000")
        self.assertEqual(sent.headers["Content-Type"], "application/vnd.tcpdump.pcap")
        self.assertEqual(
            sent.headers["x-amz-meta-tags"],
            "customer:acme,alertid:7,a,b,node:web1,interface:eth0,snaplength:65536",
        )
        self.assertIn(f"Credential={ID}/", sent.headers["Authorization"])
        names = {name.lower() for name in sent.headers}
        self.assertEqual(
            {name for name in names if name.startswith("x-amz-")},
            {"x-amz-meta-tags", "x-amz-date", "x-amz-content-sha256"},
        )

    def test_twice(self) -> None:
        """
        A second attempt sends the whole file again.
        """
        sink = self.sink()
        recording = self.recording()
        for _ in range(2):
            self.successResultOf(sink.store(recording))
        first, second = self.service.sent
        self.assertEqual(first.body, second.body)

    def test_configured(self) -> None:
        """
        Folder, ACL and encryption of the configuration are used.
        """
        sink = self.sink(folder="/pcaps//today/", acl="private", encryption=True)
        sent = self.stored(sink)
        self.assertEqual(
            sent.url,
            "http://s3.example:9000/captures/pcaps/today/web1-eth0-1700000000-abc.pcap",
        )
        self.assertEqual(sent.headers["x-amz-acl"], "private")
        self.assertEqual(sent.headers["x-amz-server-side-encryption"], "AES256")

    def test_overrides(self) -> None:
        """
        Every override of a request holds for it, and for no other.
        """
        sink = self.sink(folder="pcaps", endpoints=["https://other.example"])
        before = self.stored(sink)
        sent = self.stored(
            sink,
            folder="incidents/ä b",
            bucket="evidence",
            acl="public-read",
            region="eu-west-1",
            endpoint="other.example",
            encryption=True,
        )
        self.assertEqual(
            sent.url,
            "https://other.example/evidence/incidents/%C3%A4%20b/"
            "web1-eth0-1700000000-abc.pcap",
        )
        self.assertEqual(sent.headers["x-amz-acl"], "public-read")
        self.assertEqual(sent.headers["x-amz-server-side-encryption"], "AES256")
        self.assertIn("/eu-west-1/s3/", sent.headers["Authorization"])
        after = self.stored(sink)
        self.assertEqual(before.url, after.url)
        self.assertEqual(before.headers.keys(), after.headers.keys())
        self.assertIn("/us-east-1/s3/", after.headers["Authorization"])

    def test_url(self) -> None:
        """
        The URL that is returned is percent-encoded.
        """
        d = self.sink().store(self.recording(folder="ä b?#"))
        self.assertEqual(
            self.successResultOf(d),
            "http://s3.example:9000/captures/%C3%A4%20b%3F%23/"
            "web1-eth0-1700000000-abc.pcap",
        )

    def test_aws(self) -> None:
        """
        Without an endpoint it is that of the region at AWS, by TLS.
        """
        sent = self.stored(self.sink(endpoint="", region="eu-west-1"))
        self.assertEqual(
            sent.url,
            "https://s3.eu-west-1.amazonaws.com/captures/web1-eth0-1700000000-abc.pcap",
        )

    def test_noRegion(self) -> None:
        """
        A server of one's own needs no region.
        """
        self.assertIn(
            "/us-east-1/s3/", self.stored(self.sink(region="")).headers["Authorization"]
        )

    def test_credentialChain(self) -> None:
        """
        Without keys they are found as AWS programs do.
        """
        self.patch(
            os,
            "environ",
            {"AWS_ACCESS_KEY_ID": "FROMTHECHAIN", "AWS_SECRET_ACCESS_KEY": "x"},
        )
        sent = self.stored(self.sink(accessid="", accesskey=""))
        self.assertIn("Credential=FROMTHECHAIN/", sent.headers["Authorization"])

    def test_cafile(self) -> None:
        """
        A file of authorities is handed on; else botocore has its own.
        """
        self.sink()
        self.sink(cafile="/etc/ssl/certs/ca-certificates.crt")
        self.assertEqual(
            [settings["verify"] for settings in self.service.settings],
            [None, "/etc/ssl/certs/ca-certificates.crt"],
        )

    def test_tags(self) -> None:
        """
        Tags that no header can hold arrive all the same.
        """
        sent = self.stored(self.sink(), tags="Zürich\nKiosk")
        [(word, charset)] = decode_header(sent.headers["x-amz-meta-tags"])
        self.assertEqual(
            word.decode(charset or ""),
            "Zürich\nKiosk,node:web1,interface:eth0,snaplength:65536",
        )


class ClientTests(SinkCase):
    """
    How many clients there are.
    """

    def open(self) -> int:
        """
        How many there are now.
        """
        return self.service.open.total()

    def test_warm(self) -> None:
        """
        The first client is made at the start, in a thread.
        """
        self.worker.held = True
        self.sink()
        self.assertEqual(self.open(), 0)
        self.worker.release()
        self.assertEqual(self.open(), 1)

    def test_shared(self) -> None:
        """
        There is one client for each region and endpoint, and not for each
        bucket.
        """
        sink = self.sink(endpoints=["http://other.example"])
        for _ in range(3):
            self.stored(sink)
            self.stored(sink, bucket="evidence")
            self.stored(sink, region="eu-west-1")
            self.stored(sink, endpoint="http://other.example")
        self.assertEqual(
            self.service.made,
            {
                ("us-east-1", "http://s3.example:9000"): 1,
                ("eu-west-1", "http://s3.example:9000"): 1,
                ("us-east-1", "http://other.example"): 1,
            },
        )

    def test_idle(self) -> None:
        """
        A client that nobody needs for some minutes is closed, and made again
        when it is needed again. One that is in use stays.
        """
        sink = self.sink()
        self.clock.advance(200)
        self.stored(sink)
        self.clock.advance(200)
        self.assertEqual(self.open(), 1)
        self.worker.held = True
        stored = sink.store(self.recording())
        self.clock.advance(10_000)
        self.assertEqual(self.open(), 1)
        self.worker.release()
        self.successResultOf(stored)
        self.clock.advance(299)
        self.assertEqual(self.open(), 1)
        self.clock.advance(2)
        self.assertEqual(self.open(), 0)
        self.stored(sink)
        self.assertEqual(self.open(), 1)

    def test_many(self) -> None:
        """
        Requests cannot make more than a few clients stay.
        """
        sink = self.sink()
        for number in range(12):
            self.stored(sink, region=f"region-{number}")
        self.assertEqual(self.service.made.total(), 13)
        self.assertEqual(self.open(), 8)
        self.assertEqual(self.service.open["region-11", PLAIN["endpoint"]], 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 8)

    def test_stop(self) -> None:
        """
        A stop closes what is idle, waits for what is under way, and leaves
        nothing behind.
        """
        sink = self.sink()
        self.stored(sink, region="eu-west-1")
        self.worker.held = True
        stored = sink.store(self.recording())
        stops = [sink.stopService(), sink.stopService()]
        for stop in stops:
            self.assertNoResult(stop)
        self.assertEqual(self.open(), 1)
        self.worker.release()
        self.successResultOf(stored)
        for stop in stops:
            self.successResultOf(stop)
        self.assertEqual(self.open(), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_afterStop(self) -> None:
        """
        A sink that has been replaced still stores what it was given, and can
        be started again.
        """
        sink = self.sink()
        self.successResultOf(sink.stopService())
        self.stored(sink)
        self.assertEqual(self.open(), 0)
        sink.startService()
        self.stored(sink)
        self.assertEqual(self.open(), 1)

    def test_noClient(self) -> None:
        """
        What keeps a client from being made is logged at the start, and fails
        each upload.
        """
        self.patch(os, "environ", {"AWS_PROFILE": "nobodys"})
        sink = self.sink(accessid="", accesskey="")
        error = self.failed(sink)
        self.assertFalse(error.transient)
        self.assertIn("nobodys", str(error))

    def test_default(self) -> None:
        """
        By default sessions are those of boto3.
        """
        sink = S3Sink(Clock(), Worker(), bucket="captures", accessid=ID, accesskey=ID)
        self.assertIs(sink._makeSession, Session)
