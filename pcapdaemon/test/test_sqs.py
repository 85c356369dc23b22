# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners.sqs} against a clock and a queue in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from botocore import exceptions
from botocore.exceptions import ClientError
from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import Answer, IListener, Verdict
from pcapdaemon.listeners import _sqsdelete
from pcapdaemon.listeners._sqsdelete import Memory
from pcapdaemon.listeners.sqs import SqsListener
from pcapdaemon.test.test_redis import ERROR, Messages, collectLog

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/capture"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
AWAY = exceptions.EndpointConnectionError(endpoint_url="https://away")


def refusal(code: str, message: str = "no", status: int = 403) -> ClientError:
    """
    @return: What boto3 raises when a service says no.
    """
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "ReceiveMessage")


def brought(*bodies: str, receipt: str = "r") -> dict[str, Any]:
    """
    @return: What a poll brings; the body of a message is its identifier too.
    """
    return {
        "Messages": [
            {"MessageId": body, "ReceiptHandle": f"{receipt}-{body}", "Body": body}
            for body in bodies
        ]
    }


class Calls:
    """
    An SQS client, and the threads that it is called in: a call is made when the
    test answers it.

    @ivar made: How many clients have been asked for.
    @ivar closed: How many of them were closed.
    """

    def __init__(self) -> None:
        self.made = self.closed = 0
        self._waiting: list[tuple[Callable[..., Any], Any, Deferred[Any]]] = []
        self._given: Any = None
        self._arguments: dict[str, Any] = {}

    def make(self) -> Calls:
        """
        Be made.
        """
        self.made += 1
        return self

    def close(self) -> None:
        """
        Be closed.
        """
        self.closed += 1

    def _call(self, **arguments: Any) -> Any:
        if arguments.pop("QueueUrl") != URL:
            raise AssertionError("another queue")
        self._arguments = arguments
        if isinstance(self._given, Exception):
            raise self._given
        return self._given

    def receive_message(self, **arguments: Any) -> Any:
        """
        Poll.
        """
        return self._call(**arguments)

    def delete_message_batch(self, **arguments: Any) -> Any:
        """
        Delete.
        """
        return self._call(**arguments)

    def change_message_visibility_batch(self, **arguments: Any) -> Any:
        """
        Hide, or show again.
        """
        return self._call(**arguments)

    def inThread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """
        Take a call.
        """
        d: Deferred[Any] = Deferred()
        self._waiting.append((function, arguments, d))
        return d

    @property
    def waiting(self) -> list[str]:
        """
        What the calls are that wait for an answer: C{receive}, C{delete} or
        C{change}.
        """
        names = [getattr(call[0], "func", call[0]).__name__ for call in self._waiting]
        return [name.strip("_").partition("_")[0] for name in names]

    def answer(self, name: str, answer: Any) -> dict[str, Any]:
        """
        Answer the oldest call of that name, or let it raise.

        @return: The arguments of the call.
        """
        function, arguments, d = self._waiting.pop(self.waiting.index(name))
        self._given = answer
        try:
            result = function(*arguments)
        except Exception:
            d.errback(Failure())
        else:
            d.callback(result)
        return self._arguments

    def poll(self, *bodies: str) -> dict[str, Any]:
        """
        Let a poll bring messages.
        """
        return self.answer("receive", brought(*bodies))

    def delete(self) -> list[str]:
        """
        Let a deletion succeed.

        @return: The receipts.
        """
        entries = self.answer("delete", {})["Entries"]
        return [entry["ReceiptHandle"] for entry in entries]


class ListenerCase(SynchronousTestCase):
    """
    What the tests of a listener need.
    """

    def setUp(self) -> None:
        """
        Make a listener that polls.
        """
        self.clock = Clock()
        self.calls = Calls()
        self.messages = Messages()
        self.verdicts: dict[bytes, Verdict] = {}
        self.messages.react = lambda m: succeed(
            Answer(self.verdicts.get(m, Verdict.TAKEN))
        )
        self.logged = collectLog(self)
        self.listener = self.make()
        self.listener.startService()
        self.clock.advance(0)

    def make(self, **settings: Any) -> SqsListener:
        """
        Make a listener.
        """
        return SqsListener(
            self.clock,
            self.messages,
            url=URL,
            accessid="AKIDEXAMPLE",
            accesskey=SECRET,
            jitter=lambda: 1.0,
            inThread=self.calls.inThread,
            client=self.calls.make,
            **settings,
        )

    def again(self, **settings: Any) -> None:
        """
        Have another listener instead of the first.
        """
        self.successResultOf(self.listener.stopService())
        self.calls = Calls()
        self.listener = self.make(**settings)
        self.listener.startService()
        self.clock.advance(0)

    def polls(self, seconds: float, answer: Any) -> int:
        """
        @return: How many polls there are in a time when each is answered at
            once like this.
        """
        count = 0
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            # Without a pause the next poll is due in the same instant.
            while "receive" in self.calls.waiting:
                self.calls.answer("receive", answer)
                count += 1
                self.assertLess(count, 1000, "busy")
                self.clock.advance(0)
            self.clock.advance(0.05)
        return count


class ListenerTests(ListenerCase):
    """
    Messages, and what becomes of them.
    """

    def test_interface(self) -> None:
        """
        It is a listener and a service.
        """
        self.assertTrue(verifyObject(IListener, self.listener))
        self.assertTrue(verifyObject(IService, self.listener))
        self.assertEqual(self.listener.name, "sqs")

    def test_nothingAtConstruction(self) -> None:
        """
        Nothing is called before the start.
        """
        calls = Calls()
        SqsListener(Clock(), self.messages, url=URL, inThread=calls.inThread)
        self.assertEqual(calls.waiting, [])

    def test_connected(self) -> None:
        """
        The first poll does not wait, so that it is soon known whether messages
        can arrive; the following do.
        """
        self.assertFalse(self.listener.connected)
        self.assertEqual(
            self.calls.poll(), {"MaxNumberOfMessages": 10, "WaitTimeSeconds": 0}
        )
        self.assertTrue(self.listener.connected)
        self.clock.advance(0.1)
        self.assertEqual(
            self.calls.poll(), {"MaxNumberOfMessages": 10, "WaitTimeSeconds": 20}
        )
        self.assertTrue(self.listener.connected)

    def test_verdicts(self) -> None:
        """
        What was taken or refused is deleted with one call; what is for another
        node is left.
        """
        self.verdicts = {b"refused": Verdict.REFUSED, b"foreign": Verdict.NOT_OURS}
        self.calls.poll("taken", "foreign", "refused")
        self.assertEqual(self.messages.received, [b"taken", b"foreign", b"refused"])
        self.clock.advance(0)
        self.assertEqual(self.calls.delete(), ["r-taken", "r-refused"])
        self.clock.advance(1)
        self.assertEqual(self.calls.waiting, ["receive"])

    def test_pollWhileDeleting(self) -> None:
        """
        A deletion holds up no poll, and a poll no deletion.
        """
        self.calls.poll("one")
        self.clock.advance(0)
        self.assertCountEqual(self.calls.waiting, ["receive", "delete"])
        self.calls.poll("two")
        self.assertEqual(self.messages.received, [b"one", b"two"])
        self.assertEqual(self.calls.delete(), ["r-one"])
        self.clock.advance(0)
        self.assertEqual(self.calls.delete(), ["r-two"])

    def test_notText(self) -> None:
        """
        Half a character, which JSON can hold, arrives as bytes that are not
        UTF-8.
        """
        self.calls.poll("\udc80", "fine \xe4")
        self.assertEqual(
            self.messages.received, [b"\xed\xb2\x80", "fine \xe4".encode()]
        )

    def test_receiverFails(self) -> None:
        """
        A receiver that breaks its promise costs one message, which does not
        come again.
        """

        def react(message: bytes) -> Deferred[Answer]:
            if message == b"raises":
                raise ValueError("raised")
            if message == b"fails":
                return fail(ValueError("failed"))
            return succeed(Answer(Verdict.TAKEN))

        self.messages.react = react
        self.calls.poll("raises", "fails", "good")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.clock.advance(0)
        self.assertEqual(self.calls.delete(), ["r-raises", "r-fails", "r-good"])

    def test_unreadable(self) -> None:
        """
        A service that answers with nonsense is an error, not the end.
        """
        self.calls.answer("receive", {"Messages": [{"Body": "no identifier"}]})
        self.assertEqual(len(self.logged(ERROR)), 1)
        self.clock.advance(30)
        self.calls.poll("good")
        self.assertEqual(self.messages.received, [b"good"])

    def test_backPressure(self) -> None:
        """
        No more messages are asked for than may be undecided.
        """
        self.again(chunksize=3)
        answers: list[Deferred[Answer]] = []

        def react(message: bytes) -> Deferred[Answer]:
            answers.append(Deferred())
            return answers[-1]

        self.messages.react = react
        self.assertEqual(self.calls.poll("a", "b")["MaxNumberOfMessages"], 3)
        self.clock.advance(0)
        self.assertEqual(self.calls.poll("c")["MaxNumberOfMessages"], 1)
        self.clock.advance(60)
        self.assertEqual(self.calls.waiting, [])
        answers[1].callback(Answer(Verdict.NOT_OURS))
        self.clock.advance(0)
        self.assertEqual(self.calls.poll()["MaxNumberOfMessages"], 1)


class AgainTests(ListenerCase):
    """
    Messages that are delivered more than once.
    """

    def test_undecided(self) -> None:
        """
        A message that comes again while it is looked at is handed over once,
        and deleted by its last receipt.
        """
        answer: Deferred[Answer] = Deferred()
        self.messages.react = lambda message: answer
        self.calls.answer("receive", brought("m", receipt="first"))
        self.clock.advance(0)
        self.calls.answer("receive", brought("m", receipt="second"))
        answer.callback(Answer(Verdict.TAKEN))
        self.clock.advance(0)
        self.assertEqual(self.messages.received, [b"m"])
        self.assertEqual(self.calls.delete(), ["second-m"])

    def test_deleted(self) -> None:
        """
        A message that comes again although it was deleted is deleted again.
        """
        self.calls.poll("m")
        self.clock.advance(0)
        self.calls.delete()
        self.calls.answer("receive", brought("m", receipt="again"))
        self.clock.advance(0)
        self.assertEqual(self.messages.received, [b"m"])
        self.assertEqual(self.calls.delete(), ["again-m"])

    def test_deletionFails(self) -> None:
        """
        A deletion is repeated, at ever longer intervals, with the last receipt,
        and said to fail.
        """
        self.calls.poll("m")
        self.clock.advance(0)
        self.calls.answer("delete", refusal("AccessDenied"))
        self.assertEqual(len(self.logged(ERROR)), 1)
        self.assertIn("delete", self.logged(ERROR)[0])
        self.calls.answer("receive", brought("m", receipt="second"))
        self.clock.advance(0.4)
        self.assertNotIn("delete", self.calls.waiting)
        self.clock.advance(0.1)
        self.calls.answer("delete", refusal("AccessDenied"))
        self.clock.advance(0.9)
        self.assertNotIn("delete", self.calls.waiting)
        self.clock.advance(0.1)
        self.assertEqual(self.calls.delete(), ["second-m"])
        self.clock.advance(60)
        self.assertNotIn("delete", self.calls.waiting)
        self.assertEqual(self.messages.received, [b"m"])

    def test_deletionFailsInPart(self) -> None:
        """
        What the service could not delete is tried again; what it will never
        delete like this is not.
        """
        self.calls.poll("a", "b", "c")
        self.clock.advance(0)
        problem = {"Code": "InternalError", "Message": "later"}
        self.calls.answer(
            "delete",
            {
                "Failed": [
                    {"Id": "0", "SenderFault": True, **problem},
                    {"Id": "2", "SenderFault": False, **problem},
                ]
            },
        )
        self.clock.advance(0.5)
        self.assertEqual(self.calls.delete(), ["r-c"])

    def test_clientReplacedWhileDeleting(self) -> None:
        """
        A deletion that is due while the service refuses polls is made.
        """
        self.calls.poll("m")
        self.clock.advance(0)
        self.calls.answer("delete", AWAY)
        self.calls.answer("receive", refusal("ExpiredToken"))
        self.clock.advance(0.5)
        self.assertEqual(self.calls.delete(), ["r-m"])

    def test_foreign(self) -> None:
        """
        A message for another node that comes again is not looked at again, and
        one of ours with it is.
        """
        self.verdicts = {b"foreign": Verdict.NOT_OURS}
        self.calls.poll("foreign")
        self.clock.advance(0)
        self.calls.poll("foreign", "mine")
        self.assertEqual(self.messages.received, [b"foreign", b"mine"])

    def test_foreignNeverHidden(self) -> None:
        """
        Messages for others that come back at once are asked for less and less
        often.
        """
        self.verdicts = {b"foreign": Verdict.NOT_OURS}
        self.assertLess(self.polls(60, brought("foreign")), 60 / 2 + 8)
        self.assertEqual(self.messages.received, [b"foreign"])

    def test_serverDoesNotWait(self) -> None:
        """
        A server that does not wait for messages is not asked all the time, and
        one that brings some is asked again at once.
        """
        self.assertLess(self.polls(60, {}), 60 / 2 + 8)
        self.clock.advance(2)
        self.calls.poll("m")
        self.clock.advance(0)
        self.assertIn("receive", self.calls.waiting)

    def test_longPoll(self) -> None:
        """
        A poll that took its time is followed by the next at once.
        """
        self.calls.poll()
        self.clock.advance(0.1)
        for _ in range(3):
            self.clock.advance(20)
            self.calls.poll()
            self.clock.advance(0)
            self.assertEqual(self.calls.waiting, ["receive"])

    def test_memory(self) -> None:
        """
        Only so many messages are remembered, the last ones.
        """
        memory = Memory()
        for number in range(_sqsdelete.MEMORY + 2):
            memory.add(str(number))
        self.assertNotIn("1", memory)
        self.assertIn("2", memory)
