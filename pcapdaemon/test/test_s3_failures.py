# See LICENSE for details.
"""
Tests for L{pcapdaemon.sinks.s3} without a server: what failures mean.
"""

from __future__ import annotations

import os
from typing import Any

from botocore.exceptions import (
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

from twisted.internet.defer import CancelledError

from pcapdaemon.test.s3case import ID, KEY, SinkCase


class FailureTests(SinkCase):
    """
    What becomes of an upload that fails.
    """

    def answer(
        self, status: int, code: str = "", message: str = "", **headers: str
    ) -> None:
        """
        Let the server answer so.
        """
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        self.service.answer = lambda: (
            status,
            {name.replace("_", "-"): value for name, value in headers.items()},
            text.encode() if code else b"<html>",
        )

    def test_permanent(self) -> None:
        """
        What the server will say again is permanent, and the error says where
        and why.
        """
        sink = self.sink()
        for status, code in (
            (400, "InvalidArgument"),
            (301, "PermanentRedirect"),
            (403, "AccessDenied"),
            (403, "InvalidAccessKeyId"),
            (403, "SignatureDoesNotMatch"),
            (404, "NoSuchBucket"),
            (413, "EntityTooLarge"),
        ):
            self.answer(status, code, "No, no.", Retry_After="7")
            error = self.failed(sink)
            self.assertFalse(error.transient, code)
            self.assertIsNone(error.delay)
            self.assertEqual(
                str(error),
                f"captures/web1-eth0-1700000000-abc.pcap: {code} ({status}): No, no.",
            )

    def test_redirect(self) -> None:
        """
        A redirect is not followed, and not looked into either, unless it names
        the region of the bucket.
        """
        sink = self.sink(endpoint="", region="us-east-1")
        for status in (301, 302, 307):
            del self.service.sent[:]
            self.answer(status, "Elsewhere", Location="http://evil.example/")
            self.assertFalse(self.failed(sink).transient)
            self.assertEqual(len(self.service.sent), 1)
        self.answer(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1")
        self.failed(sink)
        first, second = self.service.sent[1:]
        self.assertIn("//s3.eu-west-1.amazonaws.com/captures/", second.url)
        self.assertEqual(first.body, second.body)

    def test_transient(self) -> None:
        """
        What the server may not say again is transient, and there was only one
        attempt.
        """
        sink = self.sink()
        for status, code in (
            (400, "RequestTimeout"),
            (400, "ThrottlingException"),
            (408, ""),
            (409, "OperationAborted"),
            (429, ""),
            (500, "InternalError"),
            (501, ""),
            (503, "SlowDown"),
            (503, ""),
        ):
            del self.service.sent[:]
            self.answer(status, code)
            self.assertTrue(self.failed(sink).transient, code)
            self.assertEqual(len(self.service.sent), 1, code)

    def test_delay(self) -> None:
        """
        The server says how long to wait, in seconds or as a date, or says
        nonsense, which says nothing.
        """
        sink = self.sink()
        date = "Sun, 06 Nov 1994 08:49:37 GMT"
        for value, delay in (
            ("120", 120),
            ("0", 0),
            ("Sun, 06 Nov 1994 08:50:07 GMT", 30),
            ("Sun, 06 Nov 1994 08:49:07 GMT", 0),
            ("Sun, 06 Nov 1994 08:50:07", None),
            ("-1", None),
            ("²", None),
            ("9" * 400, None),
            ("soon", None),
            ("", None),
        ):
            self.answer(503, "SlowDown", Retry_After=value, Date=date)
            self.assertEqual(self.failed(sink).delay, delay, value)
        self.answer(429)
        self.assertIsNone(self.failed(sink).delay)

    def test_unreachable(self) -> None:
        """
        No answer at all is transient.
        """
        sink = self.sink()
        url = "http://s3.example:9000/captures/x"
        for error in (
            EndpointConnectionError(endpoint_url=url),
            ConnectionClosedError(endpoint_url=url),
            ReadTimeoutError(endpoint_url=url),
            HTTPClientError(error=OSError("reset")),
        ):

            def answer(error: Any = error) -> Any:
                raise error

            self.service.answer = answer
            self.assertTrue(self.failed(sink).transient, error)

    def test_noCredentials(self) -> None:
        """
        No credentials to be found is permanent.
        """
        self.patch(os, "environ", {"AWS_EC2_METADATA_DISABLED": "true"})
        error = self.failed(self.sink(accessid="", accesskey=""))
        self.assertFalse(error.transient)
        self.assertIn("Unable to locate credentials", str(error))

    def test_secrets(self) -> None:
        """
        Neither key is in an error, whatever the server says, nor is a line
        end, nor more than fits a line.
        """
        sink = self.sink()
        self.answer(403, "AccessDenied", f"{ID} is\n{KEY}\x85" + "long" * 1000)
        error = str(self.failed(sink))
        self.assertNotIn(ID, error)
        self.assertNotIn(KEY, error)
        self.assertTrue(error.isprintable())
        self.assertLess(len(error), 600)

    def test_refused(self) -> None:
        """
        A recording whose request may not go there is not sent: the
        configuration may have changed since it was taken.
        """
        error = self.failed(self.sink(), endpoint="evil.example")
        self.assertFalse(error.transient)
        self.assertEqual(self.service.sent, [])

    def test_cancel(self) -> None:
        """
        An upload that is cancelled ends at once for who waits, sends nothing
        further, and its thread's late result hurts nobody.
        """
        sink = self.sink()
        recording = self.recording()
        self.worker.held = True
        d = sink.store(recording)
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.worker.release()
        self.assertEqual(self.service.sent, [])
        self.assertEqual(self.flushLoggedErrors(), [])
