# See LICENSE for details.
"""
Requests from a Kafka topic.

A topic keeps its messages: what was published while the connection was lost
arrives afterwards, once. It begins with what is published after the first
connection.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import random
from typing import Any

from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pcapdaemon.interfaces import IListener, IMessageReceiver
from pcapdaemon.listeners._kafka_reader import Reader, connect
from pcapdaemon.listeners._kafka_records import Damage

#: Seconds of each reactor turn that may be spent on messages.
SLICE = 0.001
#: Seconds after which a broker that is still away, and damage, are mentioned
#: again, and how many different reasons are told meanwhile.
REMIND, REASONS = 60.0, 5
#: Seconds that a stop waits for the thread to end, which hands nothing over
#: any more. It may hang in a name server.
GRACE = 1.0


class _Report:
    """
    Passes a reader's words on to the listener in the reactor thread, as long as
    it is the listener's reader.
    """

    def __init__(self, listener: KafkaListener) -> None:
        self._listener = listener
        #: Fires when the thread has ended.
        self.over: Deferred[None] = Deferred()

    def _say(self, method: Callable[..., None], *args: Any) -> None:
        def inReactor() -> None:
            if self._listener.report is self:
                method(*args)

        self._listener.reactor.callFromThread(inReactor)

    def reading(self, partitions: int) -> None:
        self._say(self._listener.reading, partitions)

    def away(self, why: str, refused: bool) -> None:
        self._say(self._listener.away, why, refused)

    def take(self, messages: list[bytes | int | Damage]) -> None:
        self._say(self._listener.take, messages)

    def ended(self) -> None:
        self._listener.reactor.callFromThread(self.over.callback, None)


@implementer(IListener)
class KafkaListener(Service):
    """
    Reads all partitions of one topic, for itself alone.

    @ivar report: By what the current reader speaks to this listener.
    """

    name = "kafka"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        receiver: IMessageReceiver,
        *,
        servers: Sequence[str] = ("127.0.0.1:9092",),
        topic: str = "capture",
        security: str = "PLAINTEXT",
        cafile: str = "",
        username: str = "",
        password: str = "",
        mechanism: str = "PLAIN",
        jitter: Callable[[], float] = random,
    ) -> None:
        """
        @param receiver: What every message is handed to.
        @param servers: Some brokers of the cluster, each C{host:port}.
        @param security: C{PLAINTEXT}, C{SSL}, C{SASL_PLAINTEXT}, C{SASL_SSL}.
        @param cafile: With TLS, a PEM file with the certificates to trust
            instead of the system's.
        @param mechanism: With SASL: C{PLAIN}, C{SCRAM-SHA-256},
            C{SCRAM-SHA-512}.
        @param jitter: Numbers from 0 to 1, so that a fleet does not come back
            to a broker at the same moment.
        @raise OSError: C{cafile} cannot be read, or holds no certificate.
        """
        self.reactor = reactor
        self.receiver = receiver
        self.topic = topic
        self.report: _Report | None = None
        self._servers = ", ".join(servers)
        self._password = password
        self._jitter = jitter
        settings: dict[str, Any] = {
            "bootstrap_servers": list(servers),
            "security_protocol": security,
        }
        if security.endswith("SSL"):
            settings["ssl_context"] = ssl.create_default_context(cafile=cafile or None)
        if security.startswith("SASL"):
            settings["sasl_mechanism"] = mechanism
            settings["sasl_plain_username"] = username
            settings["sasl_plain_password"] = password
        self._connect = partial(connect, settings, lambda: receiver.maxmessage)
        self._reader: Reader | None = None
        self._connected = False
        self._partitions = 0
        self._said: set[str] = set()
        self._when = 0.0
        self._damaged = (0, 0.0)
        self._waiting: deque[bytes | int | Damage] = deque()
        self._work: IDelayedCall | None = None

    @property
    def connected(self) -> bool:
        """
        Whether a message published now would arrive.
        """
        return self._connected

    def startService(self) -> None:
        """
        Connect and read, in the background.
        """
        super().startService()
        self._said.clear()
        self._damaged = (0, 0.0)
        self.report = _Report(self)
        self._reader = Reader(self._connect, self.topic, self.report, self._jitter)
        self._reader.start()

    def stopService(self) -> Deferred[None]:
        """
        Hand over nothing from now on, and close the connections.
        """
        super().stopService()
        report, reader = self.report, self._reader
        self.report = self._reader = None
        self._connected = False
        self._waiting.clear()
        if self._work is not None:
            self._work.cancel()
            self._work = None
        stopped: Deferred[None] = Deferred()
        if report is None or reader is None:
            stopped.callback(None)
            return stopped
        grace = self.reactor.callLater(GRACE, stopped.callback, None)

        def over(_: None) -> None:
            if grace.active():
                grace.cancel()
                stopped.callback(None)

        report.over.addCallback(over)
        reader.stop()
        return stopped

    def reading(self, partitions: int) -> None:
        """
        Take note that what is published from now on will arrive.
        """
        if not self._connected or self._partitions != partitions:
            self._log.info(
                "reading topic {topic} of Kafka at {server}, partitions: {partitions}",
                topic=self.topic,
                server=self._servers,
                partitions=partitions,
            )
        self._connected, self._partitions = True, partitions
        self._said.clear()

    def away(self, why: str, refused: bool) -> None:
        """
        Take note that it will not, and say so: at once when it did before, else
        once, and again now and then.
        """
        if self._password:
            why = why.replace(self._password, "***")
        wasConnected, self._connected = self._connected, False
        now = self.reactor.seconds()
        if now - self._when >= REMIND:
            self._said.clear()
        if why in self._said or len(self._said) >= REASONS:
            return
        if not self._said:
            self._when = now
        self._said.add(why)
        if wasConnected:
            format = "lost Kafka at {server}: {why}"
        elif refused:
            format = "Kafka at {server} does not let us read {topic}: {why}"
        else:
            format = "cannot read {topic} of Kafka at {server}, trying on: {why}"
        say = self._log.error if refused else self._log.warn
        say(format, server=self._servers, topic=self.topic, why=why)

    def take(self, messages: list[bytes | int | Damage]) -> None:
        """
        Take messages from the reader, which waits until they are done with
        before it hands over the next ones.
        """
        self._waiting.extend(messages)
        if self._work is None:
            self._deliver()

    def _deliver(self) -> None:
        """
        Hand messages over until the time is up or none is left.
        """
        self._work = None
        end = self.reactor.seconds() + SLICE
        while self._waiting:
            self._hand(self._waiting.popleft())
            if self.reactor.seconds() >= end:
                break
        if self._waiting:
            self._work = self.reactor.callLater(0, self._deliver)
        elif self._reader is not None:
            self._reader.proceed.set()

    def _hand(self, message: bytes | int | Damage) -> None:
        try:
            if isinstance(message, Damage):
                self._skipped(message)
            elif isinstance(message, int):
                self.receiver.oversized(message, self.name)
            else:
                self.receiver.receive(message, self.name).addErrback(self._failed)
        except Exception:
            self._failed(Failure())

    def _skipped(self, damage: Damage) -> None:
        count, when = self._damaged
        now = self.reactor.seconds()
        if count and now - when < REMIND:
            self._damaged = (count + 1, when)
            return
        self._damaged = (1, now)
        self._log.warn(
            "skipped what cannot be read in partition {partition} of topic {topic}, "
            "{count} times since the last such line: {why}",
            partition=damage.partition,
            topic=self.topic,
            count=max(count, 1),
            why=damage.why,
        )

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a message was lost", failure)
