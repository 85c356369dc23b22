# See LICENSE for details.
"""
Tests for how L{pcapdaemon.listeners.sqs} stops, and gets along without a service.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pcapdaemon.interfaces import Answer, Verdict
from pcapdaemon.listeners.sqs import STOP, SqsListener
from pcapdaemon.test.test_redis import ERROR, EVERYTHING, WARN
from pcapdaemon.test.test_sqs import AWAY, SECRET, URL, ListenerCase, refusal


class StopTests(ListenerCase):
    """
    The end of a listener.
    """

    def test_whilePolling(self) -> None:
        """
        A stop does not wait for a poll. What that brings is given back at once.
        """
        self.calls.poll()
        self.clock.advance(1)
        self.assertEqual(self.calls.waiting, ["receive"])
        self.successResultOf(self.listener.stopService())
        self.assertFalse(self.listener.connected)
        self.calls.poll("late", "later")
        self.assertEqual(self.messages.received, [])
        self.assertFalse(self.listener.connected)
        entries = self.calls.answer("change", {})["Entries"]
        self.assertEqual(
            [(e["ReceiptHandle"], e["VisibilityTimeout"]) for e in entries],
            [("r-late", 0), ("r-later", 0)],
        )
        self.assertEqual(self.calls.waiting, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_notReleased(self) -> None:
        """
        Messages that cannot be given back are no trouble.
        """
        self.successResultOf(self.listener.stopService())
        self.calls.poll("late")
        self.calls.answer("change", AWAY)
        self.assertEqual(self.logged(WARN, ERROR), [])

    def test_lateFailure(self) -> None:
        """
        A poll that fails after the stop is of no interest.
        """
        self.successResultOf(self.listener.stopService())
        self.calls.answer("receive", AWAY)
        self.assertEqual(self.logged(WARN, ERROR), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_betweenPolls(self) -> None:
        """
        Nothing is left of a pause.
        """
        self.calls.answer("receive", AWAY)
        self.successResultOf(self.listener.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_undecided(self) -> None:
        """
        A stop waits for what is being looked at, and for its deletion.
        """
        answer: Deferred[Answer] = Deferred()
        self.messages.react = lambda message: answer
        self.calls.poll("m")
        stopped = self.listener.stopService()
        self.clock.advance(0.1)
        answer.callback(Answer(Verdict.TAKEN))
        self.clock.advance(0)
        self.assertNoResult(stopped)
        self.assertEqual(self.calls.delete(), ["r-m"])
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_undecidedForLong(self) -> None:
        """
        A stop does not wait for ever, neither for the receiver nor for the
        service.
        """
        answer: Deferred[Answer] = Deferred()
        self.messages.react = lambda message: answer
        self.calls.poll("slow")
        stopped = self.listener.stopService()
        self.assertNoResult(stopped)
        self.clock.advance(STOP)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        answer.callback(Answer(Verdict.TAKEN))
        self.clock.advance(0)
        # Tried once more, since the process may last, but not for ever.
        self.calls.answer("delete", AWAY)
        self.assertEqual(self.calls.waiting, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_notDeleted(self) -> None:
        """
        A deletion that waits for its next attempt is tried at a stop, and given
        up after a second.
        """
        self.calls.poll("m")
        self.clock.advance(0)
        for _ in range(5):
            self.calls.answer("delete", AWAY)
            self.clock.advance(5)
        self.calls.answer("delete", AWAY)
        stopped = self.listener.stopService()
        self.calls.answer("delete", AWAY)
        self.assertNoResult(stopped)
        self.clock.advance(STOP)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_byMessage(self) -> None:
        """
        When a message leads to the stop, those after it are given back.
        """

        def react(message: bytes) -> None:
            self.listener.stopService()

        self.messages.react = react
        self.calls.poll("stop", "late")
        self.assertEqual(self.messages.received, [b"stop"])
        entries = self.calls.answer("change", {})["Entries"]
        self.assertEqual([e["ReceiptHandle"] for e in entries], ["r-late"])

    def test_startAgain(self) -> None:
        """
        After another start a poll of the first life hands over nothing, and
        what was taken then is still known.
        """
        self.calls.poll("m")
        self.clock.advance(0)
        self.calls.delete()
        self.successResultOf(self.listener.stopService())
        self.listener.startService()
        self.clock.advance(0)
        self.assertEqual(self.calls.waiting, ["receive", "receive"])
        self.calls.poll("late")
        self.assertEqual(self.messages.received, [b"m"])
        self.assertFalse(self.listener.connected)
        self.calls.poll("late", "m")
        self.assertEqual(self.messages.received, [b"m", b"late"])
        self.assertTrue(self.listener.connected)
        self.assertEqual(self.calls.waiting.count("receive"), 0)
        self.clock.advance(0)
        self.assertEqual(self.calls.waiting.count("receive"), 1)


class TroubleTests(ListenerCase):
    """
    A service that is away, or says no.
    """

    def pauses(self, error: Exception, count: int) -> list[float]:
        """
        @return: The seconds from each poll to the next when each fails.
        """
        pauses = []
        for _ in range(count):
            self.calls.answer("receive", error)
            (call,) = self.clock.getDelayedCalls()
            pauses.append(call.getTime() - self.clock.seconds())
            self.clock.advance(pauses[-1])
        return pauses

    def test_refused(self) -> None:
        """
        A service that says no is an error each time, less and less often, and
        asked with new credentials.
        """
        error = refusal("InvalidClientTokenId", "The token is invalid")
        self.assertEqual(
            self.pauses(error, 8), [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        )
        self.assertEqual(len(self.logged(ERROR)), 8)
        self.assertIn("The token is invalid", self.logged(ERROR)[0])
        self.assertFalse(self.listener.connected)
        self.calls.poll()
        self.assertTrue(self.listener.connected)
        self.assertEqual((self.calls.made, self.calls.closed), (9, 8))

    def test_away(self) -> None:
        """
        A service that is away is mentioned once, and again now and then; it is
        asked every few seconds, by the same client.
        """
        self.assertEqual(self.pauses(AWAY, 6), [0.5, 1.0, 2.0, 4.0, 5.0, 5.0])
        self.assertEqual(len(self.logged(WARN)), 1)
        self.pauses(AWAY, 10)
        self.assertEqual(len(self.logged(WARN)), 2)
        self.assertEqual(self.logged(ERROR), [])
        self.assertEqual(self.calls.made, 1)

    def test_lost(self) -> None:
        """
        A service that goes away takes the connection with it; afterwards the
        pauses and the words begin anew.
        """
        self.calls.poll()
        self.clock.advance(1)
        self.pauses(AWAY, 5)
        self.assertFalse(self.listener.connected)
        self.assertEqual(self.calls.poll()["WaitTimeSeconds"], 0)
        self.assertTrue(self.listener.connected)
        self.clock.advance(1)
        self.assertEqual(self.pauses(AWAY, 1), [0.5])
        self.assertEqual(len(self.logged(WARN)), 2)

    def test_jitter(self) -> None:
        """
        A fleet does not come back at the same moment.
        """
        listener = SqsListener(
            self.clock,
            self.messages,
            url=URL,
            jitter=lambda: 0.0,
            inThread=self.calls.inThread,
            client=self.calls.make,
        )
        self.successResultOf(self.listener.stopService())
        self.calls.poll()
        listener.startService()
        self.clock.advance(0)
        self.assertEqual(self.pauses(AWAY, 1), [0.25])

    def test_noSecrets(self) -> None:
        """
        What the service repeats of the credentials is not logged.
        """
        text = f"{SECRET} of AKIDEXAMPLE is bad\nx-amz-security-token:{SECRET}token"
        self.calls.answer("receive", refusal("SignatureDoesNotMatch", text))
        logged = "".join(self.logged(*EVERYTHING))
        self.assertIn("*** of *** is bad", logged)
        self.assertNotIn(SECRET, logged + repr(self.listener))
        self.assertNotIn("security-token", logged)
