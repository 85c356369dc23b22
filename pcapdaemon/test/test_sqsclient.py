# See LICENSE for details.
"""
Tests for what the SQS listener makes of boto3, and of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import Queue
from threading import Event, current_thread, get_ident
from typing import Any

from botocore import exceptions
from botocore.awsrequest import AWSResponse
from botocore.parsers import ResponseParserError
from botocore.stub import Stubber

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import Answer, StartError, Verdict
from pcapdaemon.listeners._sqsclient import (
    DaemonThreads,
    describe,
    isAway,
    locate,
    makeClient,
)
from pcapdaemon.listeners.sqs import SqsListener
from pcapdaemon.test.test_redis import Messages
from pcapdaemon.test.test_sqs import AWAY, SECRET, URL, brought, refusal


class ClientTests(SynchronousTestCase):
    """
    What is made of boto3.
    """

    def setUp(self) -> None:
        """
        Hide the configuration of this machine.
        """
        self.patch(
            os,
            "environ",
            {
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_CONFIG_FILE": "/nonexistent",
                "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            },
        )

    def sent(
        self, region: str, endpoint: str, accessid: str, accesskey: str
    ) -> tuple[str, str]:
        """
        @return: Where a client with these settings sends a request to, and the
            signature.
        """
        client = makeClient(region, endpoint, accessid, accesskey, 20)
        self.addCleanup(client.close)
        sent: list[Any] = []

        def send(request: Any, **_: object) -> AWSResponse:
            sent.append(request)
            response = AWSResponse(request.url, 200, {}, None)
            response._content = b"{}"
            return response

        client.meta.events.register("before-send.sqs", send)
        client.receive_message(QueueUrl=URL)
        (request,) = sent
        return request.url, request.headers["Authorization"].decode()

    def test_credentials(self) -> None:
        """
        Configured credentials are used, whatever the surroundings hold.
        """
        os.environ["AWS_ACCESS_KEY_ID"] = "chained"
        os.environ["AWS_SECRET_ACCESS_KEY"] = "chained"
        url, signature = self.sent("eu-west-1", "", "given", "key")
        self.assertEqual(url, "https://sqs.eu-west-1.amazonaws.com/")
        self.assertIn("Credential=given/", signature)
        self.assertIn("/eu-west-1/sqs/", signature)

    def test_chain(self) -> None:
        """
        Without configured credentials those of the surroundings are used.
        """
        os.environ["AWS_ACCESS_KEY_ID"] = "chained"
        os.environ["AWS_SECRET_ACCESS_KEY"] = "chained"
        os.environ["AWS_DEFAULT_REGION"] = "eu-south-1"
        url, signature = self.sent("", "http://localhost:9324", "", "")
        self.assertEqual(url, "http://localhost:9324/")
        self.assertIn("Credential=chained/", signature)
        self.assertIn("/eu-south-1/sqs/", signature)

    def test_noCredentials(self) -> None:
        """
        No credentials at all are an error of the configuration.
        """
        with self.assertRaises(exceptions.NoCredentialsError) as raised:
            self.sent("eu-west-1", "", "", "")
        self.assertFalse(isAway(raised.exception))

    def test_halfCredentials(self) -> None:
        """
        One half of the credentials is refused at once.
        """
        for half in ({"accessid": "id"}, {"accesskey": SECRET}):
            error = self.assertRaises(
                StartError, SqsListener, Clock(), Messages(), url=URL, **half
            )
            self.assertNotIn(SECRET, str(error))

    def test_calls(self) -> None:
        """
        What is called is what boto3 knows, with what it lets through.
        """
        client = makeClient("eu-west-1", "", "id", "key", 20)
        self.addCleanup(client.close)
        stubber = Stubber(client)
        clock = Clock()
        messages = Messages()
        listener = SqsListener(
            clock,
            messages,
            url=URL,
            inThread=lambda f, *a: succeed(f(*a)),
            client=lambda: client,
        )

        def react(message: bytes) -> Deferred[Answer]:
            # So that the second message is given back.
            listener.stopService()
            return succeed(Answer(Verdict.REFUSED))

        messages.react = react
        poll = {"QueueUrl": URL, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0}
        stubber.add_response("receive_message", brought("mine", "late"), poll)
        shown = {"Id": "0", "ReceiptHandle": "r-late", "VisibilityTimeout": 0}
        stubber.add_response(
            "change_message_visibility_batch",
            {"Successful": [], "Failed": []},
            {"QueueUrl": URL, "Entries": [shown]},
        )
        stubber.add_response(
            "delete_message_batch",
            {"Successful": [{"Id": "0"}], "Failed": []},
            {"QueueUrl": URL, "Entries": [{"Id": "0", "ReceiptHandle": "r-mine"}]},
        )
        with stubber:
            listener.startService()
            clock.pump([0, 0])
        stubber.assert_no_pending_responses()

    def test_locate(self) -> None:
        """
        The region and the service are found in the URL unless they are given.
        """
        aws = "https://sqs.eu-west-1.amazonaws.com"
        vpc = "https://vpce-0a.sqs.us-east-2.vpce.amazonaws.com"
        china = "https://sqs.cn-north-1.amazonaws.com.cn"
        for settings, found in {
            (f"{aws}/1/q",): ("eu-west-1", aws),
            (f"{aws}/1/q", "us-east-1"): ("us-east-1", aws),
            (f"{aws}/1/q", "", "proxy:99"): ("eu-west-1", "https://proxy:99"),
            (f"{vpc}/1/q",): ("us-east-2", vpc),
            (f"{china}/1/q",): ("cn-north-1", china),
            ("https://eu-west-1.queue.amazonaws.com/1/q",): ("eu-west-1", ""),
            ("https://queue.amazonaws.com/1/q",): ("us-east-1", ""),
            ("http://[::1]:9324/q",): ("", "http://[::1]:9324"),
            ("http://q:1/q", "r", "http://other"): ("r", "http://other"),
        }.items():
            self.assertEqual(locate(*settings), found, settings)

    def test_nowhere(self) -> None:
        """
        What is not a URL is refused with the name of the setting.
        """
        for url in ("", "capture", "ftp://host/q", "https://", "http://h:port/q"):
            error = self.assertRaises(StartError, locate, url)
            self.assertIn("[sqs] url: ", str(error))
        error = self.assertRaises(StartError, locate, URL, "", "ftp://host")
        self.assertIn("[sqs] endpoint: ", str(error))

    def test_away(self) -> None:
        """
        What passes by itself is told from what does not.
        """
        where = {"endpoint_url": "https://away", "error": "it"}
        for error in (
            AWAY,
            exceptions.ReadTimeoutError(**where),
            exceptions.ConnectTimeoutError(**where),
            exceptions.ConnectionClosedError(**where),
            ResponseParserError("not JSON"),
            refusal("ServiceUnavailable", status=503),
            refusal("RequestThrottled", status=403),
            refusal("TooManyRequests", status=429),
        ):
            self.assertTrue(isAway(error), error)
        for error in (
            exceptions.SSLError(**where),
            exceptions.NoCredentialsError(),
            refusal("AWS.SimpleQueueService.NonExistentQueue", status=400),
            refusal("AccessDenied"),
            ValueError(),
        ):
            self.assertFalse(isAway(error), error)

    def test_describe(self) -> None:
        """
        An error is described in one line of bounded length.
        """
        self.assertEqual(describe(ValueError()), "ValueError")
        self.assertEqual(describe(ValueError("one\ntwo")), "one")
        self.assertEqual(len(describe(ValueError("x" * 1000))), 500)
        error = ValueError("bad header: Authorization=AWS4 Credential=chained")
        self.assertNotIn("chained", describe(error))


class _ThreadReactor:
    """
    A reactor that keeps what threads hand to it.
    """

    def __init__(self) -> None:
        self.handed = Queue[tuple[Callable[..., Any], Any]]()

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        """
        Keep a call.
        """
        self.handed.put((function, (get_ident(), *arguments)))

    def next(self) -> int:
        """
        Make the next call.

        @return: The thread that it came from.
        """
        function, (thread, *arguments) = self.handed.get(timeout=30)
        function(*arguments)
        return int(thread)


class ThreadTests(SynchronousTestCase):
    """
    L{DaemonThreads}.
    """

    def test_calls(self) -> None:
        """
        Results and failures come by the reactor, from threads that are not its
        own and do not keep the process.
        """
        reactor = _ThreadReactor()
        threads = DaemonThreads(reactor)
        d = threads(lambda n: (n, current_thread().daemon), 7)
        self.assertNoResult(d)
        self.assertNotEqual(reactor.next(), get_ident())
        self.assertEqual(self.successResultOf(d), (7, True))
        d = threads(int, "x")
        reactor.next()
        self.failureResultOf(d, ValueError)

    def test_together(self) -> None:
        """
        A call that hangs does not hold up another.
        """
        reactor = _ThreadReactor()
        threads = DaemonThreads(reactor)
        event = Event()
        hanging = threads(event.wait, 30)
        d = threads(int, "1")
        reactor.next()
        self.assertEqual(self.successResultOf(d), 1)
        self.assertNoResult(hanging)
        event.set()
        reactor.next()
        self.assertTrue(self.successResultOf(hanging))
