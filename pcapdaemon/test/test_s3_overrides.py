# See LICENSE for details.
"""
Tests for what requests may change of S3, and for the metadata.
"""

from __future__ import annotations

from email.header import decode_header
from typing import Any

import attrs

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import Reason, Refused, StartError
from pcapdaemon.request import CaptureRequest
from pcapdaemon.sinks._destination import MAXTAGS, metadata
from pcapdaemon.sinks.s3 import Overrides, S3Sink, makeOverrides
from pcapdaemon.test.fixtures import Worker


class OverridesTests(SynchronousTestCase):
    """
    What requests may change.
    """

    def overrides(self, **settings: Any) -> Overrides:
        """
        Those of some settings.
        """
        return makeOverrides(**{"bucket": "captures", **settings})

    def refused(self, overrides: Overrides, **fields: Any) -> str:
        """
        The detail of a refusal.
        """
        with self.assertRaises(Refused) as caught:
            overrides.destination(CaptureRequest(**fields))
        self.assertEqual(caught.exception.reason, Reason.INVALID)
        detail: str = caught.exception.detail
        return detail

    def test_notAllowed(self) -> None:
        """
        What is not in C{allow} is refused by name, each by itself.
        """
        fields: dict[str, Any] = {
            "bucket": "evidence",
            "folder": "x",
            "region": "eu-west-1",
            "endpoint": "other.example",
            "acl": "public-read",
            "encryption": True,
        }
        endpoints = ["other.example"]
        none = self.overrides(allow=(), endpoints=endpoints)
        for key, value in fields.items():
            detail = self.refused(none, **{key: value})
            self.assertIn(f"{key} is ", detail)
            self.assertIn("allow", detail)
            one = self.overrides(allow=(key,), endpoints=endpoints)
            there = one.destination(CaptureRequest(**{key: value}))
            self.assertNotEqual(there, one.configured)

    def test_same(self) -> None:
        """
        What is as configured, or empty, changes nothing and is never refused.
        """
        settings: dict[str, Any] = {
            "folder": "pcaps",
            "region": "us-east-1",
            "endpoint": "s3.amazonaws.com",
            "acl": "private",
            "encryption": False,
        }
        overrides = self.overrides(allow=(), **settings)
        same = CaptureRequest(bucket="captures", **{**settings, "folder": "/pcaps/"})
        self.assertEqual(overrides.destination(same), overrides.configured)
        empty = CaptureRequest(folder="", bucket="", acl="", region="", endpoint="")
        self.assertEqual(overrides.destination(empty), overrides.configured)

    def test_endpoints(self) -> None:
        """
        By default only the configured endpoint may be named; others are those
        of C{endpoints}. Without a scheme the configured one is meant.
        """
        overrides = self.overrides(
            endpoint="http://Minio.example:9000/", endpoints=["b.example:443", "[::1]"]
        )
        for named, meant in (
            ("minio.example:9000", "http://minio.example:9000"),
            ("http://minio.example:9000/", "http://minio.example:9000"),
            ("b.example", "https://b.example"),
            ("HTTPS://B.EXAMPLE:443", "https://b.example"),
            ("https://[::1]/", "https://[::1]"),
        ):
            there = overrides.destination(CaptureRequest(endpoint=named))
            self.assertEqual(there.endpoint, meant, named)
        for foreign in (
            "https://minio.example:9000",
            "http://b.example",
            "b.example:80",
            "c.example",
            "b.example.evil.example",
            "b.example@evil.example",
            "https://b.example@evil.example",
            "https://evil.example#b.example",
            "b.example?x",
            "b.example:99999",
            "b.example:0",
            "ftp://b.example",
            "b.example\n",
            "https://",
        ):
            self.assertIn("endpoint is ", self.refused(overrides, endpoint=foreign))
        # One that is not configured means AWS, and nothing else may be named.
        self.refused(self.overrides(), endpoint="s3.amazonaws.com")

    def test_invalid(self) -> None:
        """
        What would lead out of the bucket, to another server, or nowhere at all
        is refused before anything is captured.
        """
        overrides = self.overrides()
        for fields in (
            {"folder": "../other"},
            {"folder": "a/./b"},
            {"folder": "a/.."},
            {"folder": "a\nb"},
            {"folder": "a\u202eb"},
            {"folder": "ä" * 401},
            {"bucket": ".."},
            {"bucket": "a/b"},
            {"bucket": "a b c"},
            {"bucket": "x" * 256},
            {"bucket": "arn:aws:s3:us-east-1:123456789012:accesspoint/x"},
            {"region": "evil.example/"},
            {"region": "a" * 64},
            {"acl": "public"},
            {"acl": "private\r\nX-Amz-Evil: 1"},
        ):
            [key] = fields
            detail = self.refused(overrides, **fields)
            self.assertTrue(detail.startswith(f"{key} is '"), detail)
            self.assertTrue(detail.isprintable())

    def test_noBucket(self) -> None:
        """
        Where no bucket is configured, each request must name one.
        """
        overrides = self.overrides(bucket="")
        self.assertIn("bucket", self.refused(overrides, folder="x"))
        there = overrides.destination(CaptureRequest(bucket="evidence"))
        self.assertEqual(there.bucket, "evidence")

    def test_original(self) -> None:
        """
        The original's sample message goes with its sample configuration.
        """
        overrides = makeOverrides(
            endpoint="s3.amazonaws.com",
            bucket="pcapdaemon",
            folder="pcaps",
            region="us-east-1",
            acl="private",
            encryption=False,
        )
        there = overrides.destination(
            CaptureRequest(
                folder="myfolder",
                bucket="mybucket",
                acl="public-read",
                region="us-east-1",
                endpoint="s3.amazonaws.com",
                encryption=False,
            )
        )
        self.assertEqual(
            attrs.astuple(there),
            (
                "mybucket",
                "myfolder",
                "us-east-1",
                "https://s3.amazonaws.com",
                "public-read",
                False,
            ),
        )

    def test_settings(self) -> None:
        """
        A wrong setting is a mistake at the start that is named.
        """
        for key, value in (
            ("bucket", "a/b"),
            ("folder", ".."),
            ("region", "eu west"),
            ("endpoint", "http://user:pw@host"),
            ("acl", "public"),
            ("allow", ["buckets"]),
            ("endpoints", [""]),
        ):
            with self.assertRaises(StartError) as caught:
                self.overrides(**{key: value})
            self.assertIn(f"[s3] {key}: ", str(caught.exception))
        with self.assertRaises(StartError):
            makeOverrides(allow=("folder",))
        halves: list[dict[str, Any]] = [{"accessid": "x"}, {"accesskey": "x"}]
        for half in halves:
            with self.assertRaises(StartError):
                S3Sink(Clock(), Worker(), bucket="captures", **half)
        for cafile in ("/nonexistent", __file__):
            sink = S3Sink(Clock(), Worker(), bucket="captures", cafile=cafile)
            with self.assertRaises(StartError) as caught:
                sink.startService()
            self.assertIn("[s3] cafile: ", str(caught.exception))


class MetadataTests(SynchronousTestCase):
    """
    Tags as a header.
    """

    def decoded(self, tags: str) -> str:
        """
        What a reader makes of it.
        """
        value = metadata(tags)
        self.assertTrue(value.isascii() and value.isprintable())
        self.assertLessEqual(len(value), MAXTAGS)
        [(word, charset)] = decode_header(value)
        text: str = word.decode(charset or "") if isinstance(word, bytes) else word
        return text

    def test_ascii(self) -> None:
        """
        Plain text is left as it is.
        """
        self.assertEqual(metadata("a,b:c d,100%"), "a,b:c d,100%")
        self.assertEqual(metadata(""), "")

    def test_others(self) -> None:
        """
        Any other text can be had back.
        """
        for tags in ("Zürich,\U0001f980", "a\r\nb", " a ", "\t", "\x7f", "b\x85"):
            self.assertEqual(self.decoded(tags), tags)

    def test_long(self) -> None:
        """
        What does not fit is left out by whole tags.
        """
        ascii = ",".join(f"tag{number}" for number in range(1000))
        self.assertTrue(ascii.startswith(self.decoded(ascii) + ","))
        self.assertGreater(len(metadata(ascii)), MAXTAGS - 10)
        greek = ",".join(f"αβγ{number}" for number in range(1000))
        self.assertTrue(greek.startswith(self.decoded(greek) + ","))
        self.assertGreater(len(metadata(greek)), MAXTAGS - 20)
        self.assertEqual(self.decoded("x" * 5000), "x" * MAXTAGS)
        self.assertEqual(set(self.decoded("ä" * 5000)), {"ä"})
        exact = "y" * (MAXTAGS - 2) + ",z"
        self.assertEqual(metadata(exact), exact)
        self.assertEqual(metadata(exact + "z"), "y" * (MAXTAGS - 2))
        self.assertEqual(metadata("y" * MAXTAGS + ",z"), "y" * MAXTAGS)
