# See LICENSE for details.
"""
The thread that reads a Kafka topic.

There is no consumer group, and nothing is committed: the positions are kept
here, so that each daemon has its own and a new connection goes on where the last
one ended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    LogTruncationError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient

from pcapdaemon.listeners._kafka_records import Damage, Item, SoundRecords

#: Seconds until a consumer that has not reached any broker is made anew, for
#: after some failures kafka-python gives up. Meanwhile it tries again and again,
#: with pauses of up to L{LAST} seconds.
CONNECT = 5.0
#: Seconds to wait for an answer.
ANSWER = 4.0
#: Seconds between two looks at whether the brokers still answer.
LOOK = 3.0
#: Seconds between two attempts: the first and the last.
FIRST, LAST = 0.1, 2.0
#: Seconds to wait for the answer to the first fetch, which is at once a refusal
#: or the news, and late when there is nothing.
SETTLE = 0.3
#: Seconds between two looks for a topic that there is not.
ABSENT = 1.0
#: Seconds after which the topic's partitions are asked for again.
METADATA = 10.0
#: Seconds that a broker waits for messages before it says that there are none.
POLL = 1.0
#: The most messages to hand over at once.
BATCH = 200

#: What no attempt will heal: somebody must change a setting, here or there.
REFUSALS = (
    AuthorizationError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)


class IReport(Protocol):
    """
    Whom a reader tells what it does. Called in the reader's thread.
    """

    def reading(self, partitions: int) -> None:
        """
        What is published from now on will be read.
        """

    def away(self, why: str, refused: bool) -> None:
        """
        It will not, at the moment.

        @param refused: Whether somebody must change a setting.
        """

    def take(self, messages: list[bytes | int | Damage]) -> None:
        """
        Take messages, in order of each partition; see
        L{Item<pcapdaemon.listeners._kafka_records.Item>}. L{Reader.proceed} is
        to be set when they are done with.
        """

    def ended(self) -> None:
        """
        The thread ends.
        """


def connect(
    settings: Mapping[str, Any], maxmessage: Callable[[], int]
) -> tuple[Any, Any]:
    """
    Make a consumer. It does not wait for anything, and connects in a thread of
    its own.

    @param settings: Servers and security, as C{KafkaConsumer} calls them.
    @param maxmessage: See L{SoundRecords}.
    @return: The consumer and what it knows of the cluster.
    """
    clients: list[KafkaNetClient] = []

    def client(**configs: Any) -> KafkaNetClient:
        clients.append(KafkaNetClient(**configs))
        # The consumer takes this, but does not pass it on: a mistyped topic would
        # be made.
        clients[0].cluster.config["allow_auto_create_topics"] = False
        return clients[0]

    try:
        consumer = KafkaConsumer(
            client_id="pcapdaemon",
            group_id=None,
            enable_auto_commit=False,
            # Without it the constructor asks the brokers, and waits for them.
            # What they really speak is found out later, up to this version,
            # which has all that is used.
            api_version=(3, 0),
            # Never guess: what is read next is decided here.
            auto_offset_reset="none",
            metadata_max_age_ms=int(METADATA * 1000),
            fetch_max_wait_ms=int(POLL * 1000),
            fetch_max_bytes=4 * 1024 * 1024,
            request_timeout_ms=int(ANSWER * 2 * 1000),
            reconnect_backoff_ms=int(FIRST * 1000),
            reconnect_backoff_max_ms=int(LAST * 1000),
            metrics_enabled=False,
            kafka_client=client,
            **settings,
        )
    except BaseException:
        for unfinished in clients:
            unfinished.close()
        raise
    consumer._fetcher.PartitionRecords = lambda *args, **kwargs: SoundRecords(
        maxmessage, *args, **kwargs
    )
    return consumer, clients[0].cluster


def places(
    known: Mapping[int, int] | None,
    existed: frozenset[int],
    first: Mapping[int, int],
    end: Mapping[int, int],
) -> dict[int, int]:
    """
    Decide where to read on.

    @param known: By partition, what has not been read yet; L{None} when nothing
        was ever read.
    @param existed: The partitions that were there at the very first look, also
        those that could not be read then.
    @param first: The offset of the oldest message of each partition.
    @param end: The offset that the next message of each partition will have.
    @return: The positions, those of partitions that are away included.
    """
    positions = dict(known or {})
    for partition in end:
        if known is None or (partition in existed and partition not in known):
            positions[partition] = end[partition]
        elif partition not in known:
            # Born since: all of it is new.
            positions[partition] = first[partition]
        else:
            # Cleared away by the broker, or lost by it.
            position = max(known[partition], first[partition])
            positions[partition] = min(position, end[partition])
    return positions


class LastWords(logging.Handler):
    """
    Remembers why something failed, which kafka-python says in its log only.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.error: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, Exception) and not isinstance(
                argument, KafkaTimeoutError
            ):
                self.error = argument


class Reader:
    """
    Reads one topic, for ever.

    @ivar proceed: Set while the messages handed over last are done with.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[Any, Any]],
        topic: str,
        report: IReport,
        jitter: Callable[[], float],
    ) -> None:
        self.proceed = threading.Event()
        self.proceed.set()
        self.positions: dict[int, int] | None = None
        self._existed: frozenset[int] = frozenset()
        self._identity: object = None
        self._connect = connect
        self._topic = topic
        self._report = report
        self._jitter = jitter
        self._words = LastWords()
        self._stopping = threading.Event()
        self._answered = threading.Event()
        self._consumer: Any = None
        self._failures = 0

    def start(self) -> None:
        """
        Read, in a thread that does not keep the process from its end.
        """
        threading.Thread(target=self.run, name="pcapdaemon.kafka", daemon=True).start()

    def stop(self) -> None:
        """
        Read no more. Any thread.
        """
        self._stopping.set()
        self._answered.set()
        self.proceed.set()
        consumer = self._consumer
        if consumer is not None:
            # Ends a poll at once; but closing may wait for a name server.
            threading.Thread(target=consumer.close, daemon=True).start()

    def run(self) -> None:
        """
        What the thread does.
        """
        # Having a handler, the library does not write to standard error.
        logger = logging.getLogger("kafka")
        logger.addHandler(self._words)
        try:
            while not self._stopping.is_set():
                self._attempt()
        finally:
            logger.removeHandler(self._words)
            self._report.ended()

    def _attempt(self) -> None:
        """
        Connect and read until something fails, then wait a little.
        """
        self._words.error = None
        try:
            self._read()
        except LogTruncationError as e:
            # What the old leader alone had is gone; what is there since is new.
            for partition, place in e.divergent_offsets.items():
                if place is not None and self.positions is not None:
                    self.positions[partition.partition] = place.offset
            why: Exception = e
        except Exception as e:
            # A time-out says nothing.
            timeout = isinstance(e, KafkaTimeoutError) and self._words.error
            why = timeout or e
        if self._stopping.is_set():
            return
        # A lone word needs the name of the exception to be understood.
        text = str(why) if " " in str(why) else repr(why)
        self._report.away(text, isinstance(why, REFUSALS))
        delay = min(LAST, FIRST * 2 ** min(self._failures, 8))
        self._failures += 1
        self._stopping.wait(delay * (1 + self._jitter()) / 2)

    def _read(self) -> None:
        consumer, cluster = self._connect()
        self._consumer = consumer
        try:
            self._find(consumer, cluster)
            # Who may see the topic need not be allowed to read it: that is said
            # by the answer to the first fetch.
            self._hand(consumer.poll(int(SETTLE * 1000), BATCH))
            self._reading(consumer)
            look = monotonic() + LOOK
            while not self._stopping.is_set():
                self._hand(consumer.poll(int(POLL * 1000), BATCH))
                # What the library complains of may be a broker that is gone.
                if monotonic() >= look or self._words.error is not None:
                    self._look(consumer, cluster)
                    self._words.error, self._failures = None, 0
                    look = monotonic() + LOOK
        finally:
            self._consumer = None
            consumer.close()

    def _find(self, consumer: Any, cluster: Any) -> None:
        """
        Wait for the topic, and begin to read it.
        """
        cluster.add_topic(self._topic)
        while not self._stopping.is_set():
            self._ask(cluster)
            if self._stopping.is_set():
                break
            if cluster.available_partitions_for_topic(self._topic):
                self._assign(consumer, cluster)
                self._words.error = None
                break
            if cluster.partitions_for_topic(self._topic):
                why = "no partition of the topic has a leader"
            else:
                why = "there is no such topic"
                if self.positions is None:
                    self.positions = {}
            self._report.away(why, False)
            # Else it asks ten times a second by itself.
            cluster.config["retry_backoff_ms"] = int(ABSENT * 1000)
            self._stopping.wait(ABSENT)

    def _ask(self, cluster: Any) -> None:
        """
        Ask a broker for the topic's partitions, and wait for one if need be.
        """
        self._answered.clear()
        future = cluster.request_update()
        future.add_both(lambda _: self._answered.set())
        if not self._answered.wait(CONNECT):
            raise KafkaTimeoutError("no answer")
        if future.failed() and not isinstance(
            future.exception, (UnknownTopicOrPartitionError, LeaderNotAvailableError)
        ):
            raise future.exception

    def _assign(self, consumer: Any, cluster: Any) -> None:
        """
        Read all partitions that there are, from where it is right.
        """
        there = self._partitions(cluster)
        first = consumer.beginning_offsets(there, timeout_ms=int(ANSWER * 1000))
        end = consumer.end_offsets(there, timeout_ms=int(ANSWER * 1000))
        if self.positions is None:
            self._existed = frozenset(cluster.partitions_for_topic(self._topic))
        identity = cluster.topic_id(self._topic)
        if None not in (identity, self._identity) and identity != self._identity:
            # Another topic of the same name: all of it is new.
            self.positions, self._existed = {}, frozenset()
        self._identity = identity
        self.positions = places(
            self.positions,
            self._existed,
            {partition.partition: offset for partition, offset in first.items()},
            {partition.partition: offset for partition, offset in end.items()},
        )
        consumer.assign(there)
        for partition in there:
            consumer.seek(partition, self.positions[partition.partition])

    def _reading(self, consumer: Any) -> None:
        if not self._stopping.is_set():
            self._report.reading(len(consumer.assignment()))

    def _partitions(self, cluster: Any) -> list[TopicPartition]:
        """
        @return: The partitions that can be read now.
        """
        numbers = cluster.available_partitions_for_topic(self._topic) or ()
        return [TopicPartition(self._topic, number) for number in sorted(numbers)]

    def _look(self, consumer: Any, cluster: Any) -> None:
        """
        See whether the brokers still answer, and whether the topic is the same.
        """
        assert self.positions is not None
        for partition in consumer.assignment():
            position = consumer.position(partition, timeout_ms=int(ANSWER * 1000))
            if position is not None:
                self.positions[partition.partition] = position
        there = self._partitions(cluster)
        if not there:
            raise LookupError("the topic is gone")
        if (
            set(there) - consumer.assignment()
            or cluster.topic_id(self._topic) != self._identity
        ):
            self._assign(consumer, cluster)
            self._reading(consumer)
        else:
            consumer.end_offsets(there, timeout_ms=int(ANSWER * 1000))

    def _hand(self, polled: Mapping[TopicPartition, Sequence[Item]]) -> None:
        """
        Hand messages over, as soon as those before them are done with.
        """
        messages = []
        assert self.positions is not None
        for partition, items in polled.items():
            messages += [item.value for item in items]
            self.positions[partition.partition] = items[-1].offset + 1
        if messages:
            self.proceed.wait()
            self.proceed.clear()
            if not self._stopping.is_set():
                self._report.take(messages)
