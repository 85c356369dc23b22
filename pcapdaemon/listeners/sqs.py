# See LICENSE for details.
"""
Requests from an Amazon SQS queue.

The readers of a queue compete. What this node takes or refuses is deleted; what
is for another node is left alone until the visibility time-out of the queue has
passed, and then comes to whoever asks next. It is not made visible at once,
since it would then come back to this very reader as fast as it can ask. So the
time-out of the queue is how long a request may take to its node for each wrong
reader: 10 seconds or less serve well. A queue that moves messages away after a
number of receipts counts those by wrong readers too. In a FIFO queue such a
message holds up its group meanwhile: take a standard queue.

A message runs once, however often it is delivered to this process. Whoever
kills the process between the taking and the deleting may see it run again.

A poll cannot be called back, so one that is under way at a stop is left to end
by itself. What it brings while the process lasts is made visible again at once;
otherwise the queue may hide it until the visibility time-out has passed.

The body of a message is the request. What SNS puts around a message is not
taken off: use raw message delivery.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import random
from typing import Any

from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pcapdaemon.interfaces import (
    Answer,
    IListener,
    IMessageReceiver,
    StartError,
    Verdict,
)
from pcapdaemon.listeners._sqsclient import (
    DaemonThreads,
    describe,
    isAway,
    locate,
    makeClient,
)
from pcapdaemon.listeners._sqsdelete import MOST, Deletions, Memory, Trouble

#: Seconds from one poll to the next while they bring nothing new: the first and
#: the last. A poll that takes longer is not held up.
PAUSE, LAST_PAUSE = 0.1, 2.0
#: Seconds that a stop may wait for messages to be decided and deleted.
STOP = 1.0


@implementer(IListener)
class SqsListener(Service):
    """
    Polls one queue, for ever.
    """

    name = "sqs"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        receiver: IMessageReceiver,
        *,
        url: str,
        region: str = "",
        accessid: str = "",
        accesskey: str = "",
        endpoint: str = "",
        waitseconds: int = 20,
        chunksize: int = 10,
        jitter: Callable[[], float] = random,
        inThread: Callable[..., Deferred[Any]] | None = None,
        client: Callable[[], Any] | None = None,
    ) -> None:
        """
        @param reactor: The clock, and where threads hand their results to.
        @param receiver: What every message is handed to.
        @param url: The queue.
        @param region: Empty for that of the URL, or of the AWS configuration.
        @param accessid: With C{accesskey}; empty for the credential chain of
            AWS.
        @param endpoint: The service, with or without a scheme; empty for the
            server that the URL names.
        @param waitseconds: Seconds of one long poll.
        @param chunksize: The most messages at once.
        @param jitter: Numbers from 0 to 1, so that a fleet does not come back
            at the same moment.
        @param inThread: Calls what blocks, several at a time;
            L{DaemonThreads} when L{None}.
        @param client: Makes an SQS client, in a thread.
        @raise StartError: A setting makes no sense.
        """
        if bool(accessid) != bool(accesskey):
            raise StartError("[sqs] accessid and accesskey: give both or neither")
        where = locate(url, region, endpoint)
        self._makeClient = client or partial(
            makeClient, *where, accessid, accesskey, waitseconds
        )
        self.reactor = reactor
        self.receiver = receiver
        self._url = url
        self._secrets = [secret for secret in (accesskey, accessid) if secret]
        self._waitseconds = waitseconds
        self._chunksize = chunksize
        self._inThread = inThread or DaemonThreads(reactor)
        self._client: Any = None
        #: Whether the client is to be replaced before the next poll.
        self._stale = True
        self._connected = False
        #: Counts starts and stops, to tell polls of former lives.
        self._life = 0
        self._next: IDelayedCall | None = None
        self._full = False
        #: How many polls in a row have brought nothing new too soon.
        self._idle = 0
        #: The receipts of the messages that the receiver still looks at.
        self._undecided: dict[str, str] = {}
        self._settled = Memory()
        self._foreign = Memory()
        self._reading = Trouble(reactor, jitter, partial(self._say, "read"))
        self._deleting = Trouble(reactor, jitter, partial(self._say, "delete from"))
        self._deletions = Deletions(
            reactor,
            lambda entries: self._inThread(
                partial(
                    self._client.delete_message_batch, QueueUrl=url, Entries=entries
                )
            ),
            self._notDeleted,
            self._deleted,
        )
        self._stopping: Deferred[None] | None = None

    @property
    def connected(self) -> bool:
        """
        Whether a message sent now would arrive.
        """
        return self._connected

    def startService(self) -> None:
        """
        Begin to poll, in the background.
        """
        super().startService()
        self._life += 1
        self._full = False
        self._deletions.resume()
        self._schedule(0)

    def stopService(self) -> Deferred[None]:
        """
        Hand over nothing from now on.

        @return: Fires when what was handed over has been decided and deleted,
            or after a second.
        """
        super().stopService()
        self._life += 1
        self._connected = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._deletions.flush()
        stopping = self._stopping = Deferred()
        stopping.addTimeout(STOP, self.reactor, lambda result, seconds: None)
        stopping.addCallback(lambda _: self._deletions.abandon())
        self._checkStopped()
        return stopping

    def _checkStopped(self) -> None:
        stopping = self._stopping
        if stopping is not None and self._deletions.idle and not self._undecided:
            self._stopping = None
            if not stopping.called:
                stopping.callback(None)

    # Polling.

    def _schedule(self, delay: float) -> None:
        self._next = self.reactor.callLater(delay, self._poll)

    def _poll(self) -> None:
        self._next = None
        room = min(MOST, self._chunksize - len(self._undecided))
        self._full = room < 1
        if self._full:
            return
        # The first one returns at once, to know soon how things are.
        wait = self._waitseconds if self._connected else 0
        d = self._inThread(self._receive, room, wait)
        d.addCallback(self._received, self._life, self.reactor.seconds())
        d.addErrback(self._failed, self._life)

    def _receive(self, room: int, wait: float) -> list[dict[str, Any]]:
        """
        Poll once. Called in a thread.
        """
        if self._stale:
            old, self._client = self._client, self._makeClient()
            self._stale = False
            if old is not None:
                old.close()
        answer = self._client.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=room, WaitTimeSeconds=wait
        )
        return list(answer.get("Messages", ()))

    def _received(
        self, messages: list[dict[str, Any]], life: int, began: float
    ) -> None:
        if life == self._life:
            self._reading.over()
            if not self._connected:
                self._connected = True
                self._log.info("reading from SQS queue {url}", url=self._url)
        fresh = False
        # Whatever a message leads to may stop this service.
        while messages and life == self._life:
            fresh = self._take(messages.pop(0)) or fresh
        if life != self._life:
            self._release(messages)
            return
        # Neither messages for others that are never hidden, nor a server that
        # does not wait, may keep this busy.
        pause = 0.0
        if not fresh:
            least = min(LAST_PAUSE, PAUSE * 2 ** min(self._idle, 8))
            pause = began + least - self.reactor.seconds()
        self._idle = self._idle + 1 if pause > 0 else 0
        self._schedule(max(0.0, pause))

    def _failed(self, failure: Failure, life: int) -> None:
        if life != self._life:
            return
        error: Any = failure.value
        self._connected = False
        away = isAway(error)
        # A new client looks for credentials again.
        self._stale = self._stale or not away
        self._schedule(self._reading.delay(away, describe(error, self._secrets)))

    def _release(self, messages: list[dict[str, Any]]) -> None:
        """
        Let others have what came too late.
        """
        if not messages:
            return
        entries = [
            {
                "Id": str(number),
                "ReceiptHandle": message["ReceiptHandle"],
                "VisibilityTimeout": 0,
            }
            for number, message in enumerate(messages)
        ]
        change = partial(
            self._client.change_message_visibility_batch,
            QueueUrl=self._url,
            Entries=entries,
        )
        self._inThread(change).addErrback(self._notReleased, len(entries))

    def _notReleased(self, failure: Failure, count: int) -> None:
        error: Any = failure.value
        self._log.debug(
            "{count} messages stay hidden for a while: {why}",
            count=count,
            why=describe(error, self._secrets),
        )

    # Messages.

    def _take(self, message: dict[str, Any]) -> bool:
        """
        Hand a message over, unless that has been done already.

        @return: Whether it is new.
        """
        id, receipt = message["MessageId"], message["ReceiptHandle"]
        if id in self._undecided:
            self._undecided[id] = receipt
        elif id in self._settled:
            self._deletions.add(id, receipt)
        elif id not in self._foreign:
            self._undecided[id] = receipt
            # JSON can hold half a character, which is for the receiver to judge.
            body = message.get("Body", "").encode("utf-8", "surrogatepass")
            try:
                d = self.receiver.receive(body, self.name)
            except Exception:
                d = fail()
            d.addErrback(self._broken).addCallback(self._decided, id)
            return True
        return False

    def _broken(self, failure: Failure) -> Answer:
        # Nobody knows what it has led to: it must not come again.
        self._log.failure("a message was lost", failure)
        return Answer(Verdict.REFUSED)

    def _decided(self, answer: Answer, id: str) -> None:
        receipt = self._undecided.pop(id)
        if answer.verdict is Verdict.NOT_OURS:
            self._foreign.add(id)
        else:
            self._settled.add(id)
            self._deletions.add(id, receipt)
        if self._full and self.running:
            self._full = False
            self._schedule(0)
        self._checkStopped()

    # What the log says.

    def _notDeleted(self, error: BaseException) -> float:
        return self._deleting.delay(isAway(error), describe(error, self._secrets))

    def _deleted(self) -> None:
        self._deleting.over()
        self._checkStopped()

    def _say(self, doing: str, worse: bool, why: str) -> None:
        say = self._log.error if worse else self._log.warn
        say(
            "cannot {doing} SQS queue {url}, trying on: {why}",
            doing=doing,
            url=self._url,
            why=why,
        )
