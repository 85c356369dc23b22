# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners._kafka_reader}, in the thread of the test.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from kafka import TopicPartition
from kafka.errors import (
    LogTruncationError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from kafka.future import Future
from kafka.structs import OffsetAndMetadata

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.listeners import _kafka_reader
from pcapdaemon.listeners._kafka_reader import Reader, places
from pcapdaemon.listeners._kafka_records import Damage, Item


class PlacesTests(SynchronousTestCase):
    """
    Where reading begins.
    """

    def test_first(self) -> None:
        """
        At first it begins with what comes.
        """
        self.assertEqual(
            places(None, frozenset([0, 1]), {0: 3, 1: 0}, {0: 9, 1: 0}), {0: 9, 1: 0}
        )

    def test_again(self) -> None:
        """
        Later it goes on, also in partitions that are away now.
        """
        self.assertEqual(
            places({0: 5, 1: 7}, frozenset([0, 1]), {0: 3}, {0: 9}), {0: 5, 1: 7}
        )

    def test_new(self) -> None:
        """
        Partitions that were born since are read whole.
        """
        self.assertEqual(
            places({0: 5}, frozenset([0]), {0: 3, 1: 0}, {0: 9, 1: 4}), {0: 5, 1: 0}
        )
        self.assertEqual(places({}, frozenset(), {0: 2}, {0: 9}), {0: 2})

    def test_late(self) -> None:
        """
        One that existed, but had no leader at first, begins with what comes.
        """
        self.assertEqual(
            places({0: 5}, frozenset([0, 1]), {0: 3, 1: 0}, {0: 9, 1: 4}), {0: 5, 1: 4}
        )

    def test_cleared(self) -> None:
        """
        What the broker has cleared away is passed over.
        """
        self.assertEqual(places({0: 5}, frozenset([0]), {0: 7}, {0: 9}), {0: 7})

    def test_lost(self) -> None:
        """
        Where the broker has lost what was read, it begins with what comes.
        """
        self.assertEqual(places({0: 5}, frozenset([0]), {0: 0}, {0: 2}), {0: 2})


class _Cluster:
    """
    What a consumer knows of brokers and topics.
    """

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.leaders: dict[int, bool] = {}
        self.id: str | None = "first"
        self.error: Exception | None = None

    def add_topic(self, topic: str) -> None:
        assert topic == "capture"

    def request_update(self) -> Future:
        if self.error is not None:
            return Future().failure(self.error)
        return Future().success(self)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(self.leaders) or None

    def available_partitions_for_topic(self, topic: str) -> set[int] | None:
        return {partition for partition in self.leaders if self.leaders[partition]}

    def topic_id(self, topic: str) -> str | None:
        return self.id


class _Consumer:
    """
    A consumer of which a test says what each poll does.
    """

    def __init__(self, cluster: _Cluster, polls: Iterable[Callable[[], Any]]) -> None:
        self.cluster = cluster
        self.polls = iter(polls)
        self.ends: dict[int, int] = {}
        self.sought: dict[int, int] = {}
        self.settled = self.closed = False

    def beginning_offsets(self, partitions: Any, timeout_ms: int) -> Any:
        return dict.fromkeys(partitions, 0)

    def end_offsets(self, partitions: Any, timeout_ms: int) -> Any:
        return {p: self.ends.get(p.partition, 0) for p in partitions}

    def assign(self, partitions: Any) -> None:
        self.sought = {}

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition("capture", number) for number in self.sought}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought[partition.partition] = offset

    def position(self, partition: TopicPartition, timeout_ms: int) -> int:
        return self.sought[partition.partition]

    def poll(self, timeout_ms: int, max_records: int) -> Any:
        if not self.settled:
            self.settled = True
            return {}
        return next(self.polls)() or {}

    def close(self) -> None:
        self.closed = True


class _Report:
    """
    Writes down what a reader reports.

    @ivar reader: The reader.
    @ivar react: What else to do when it is away.
    @ivar done: Whether messages are done with at once.
    """

    reader: Reader

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.react: Callable[[str], object] = lambda why: None
        self.done = True

    def reading(self, partitions: int) -> None:
        self.told.append(partitions)

    def away(self, why: str, refused: bool) -> None:
        self.told.append((why, refused))
        self.react(why)

    def take(self, messages: list[bytes | int | Damage]) -> None:
        self.told.append(messages)
        if self.done:
            self.reader.proceed.set()

    def ended(self) -> None:
        self.told.append("ended")


class ReaderTests(SynchronousTestCase):
    """
    The reader's loop, in the thread of the test.
    """

    def setUp(self) -> None:
        """
        Make a cluster with one partition.
        """
        self.cluster = _Cluster()
        self.cluster.leaders = {0: True}
        self.report = _Report()
        self.consumers: list[_Consumer] = []
        for name in ("FIRST", "LAST", "LOOK", "ABSENT"):
            self.patch(_kafka_reader, name, 0.0)

    def reader(self, *polls: Callable[[], Any], ends: dict[int, int]) -> Reader:
        """
        Make a reader that stops after these polls.
        """
        whole = iter([*polls, lambda: self.report.reader.stop()])

        def connect() -> tuple[Any, Any]:
            self.consumers.append(_Consumer(self.cluster, whole))
            self.consumers[-1].ends = ends
            return self.consumers[-1], self.cluster

        self.report.reader = Reader(connect, "capture", self.report, lambda: 1.0)
        return self.report.reader

    def fetched(self, partition: int, *items: Item) -> Callable[[], Any]:
        """
        Make a poll that brings something.
        """

        def poll() -> Any:
            self.consumers[-1].sought[partition] = items[-1].offset + 1
            return {TopicPartition("capture", partition): list(items)}

        return poll

    def test_reads(self) -> None:
        """
        It begins at the end, hands messages over, and closes the consumer.
        """
        poll = self.fetched(0, Item(5, b"a"), Item(6, 70000))
        reader = self.reader(poll, ends={0: 5})
        reader.run()
        self.assertEqual(self.report.told, [1, [b"a", 70000], "ended"])
        self.assertEqual(reader.positions, {0: 7})
        self.assertTrue(self.consumers[0].closed)

    def test_again(self) -> None:
        """
        After a failure another consumer goes on at the same place.
        """

        def fail() -> Any:
            raise RuntimeError("it broke")

        ends = {0: 5}
        poll = self.fetched(0, Item(5, b"a"))
        self.reader(poll, lambda: ends.update({0: 9}), fail, ends=ends).run()
        self.assertEqual(self.report.told, [1, [b"a"], ("it broke", False), 1, "ended"])
        self.assertEqual([c.closed for c in self.consumers], [True, True])
        self.assertEqual(self.consumers[1].sought, {0: 6})

    def test_newPartition(self) -> None:
        """
        A new partition is read from its beginning, the others go on.
        """
        ends = {0: 5, 1: 3}
        grow = self.fetched(0, Item(5, b"a"))
        self.cluster.leaders = {0: True}
        self.reader(
            lambda: self.cluster.leaders.update({1: True}), grow, ends=ends
        ).run()
        self.assertEqual(self.report.told, [1, 2, [b"a"], "ended"])
        self.assertEqual(self.consumers[0].sought, {0: 6, 1: 0})

    def test_leaderless(self) -> None:
        """
        A partition without a leader does not keep the others; when it has one,
        it is read from its end.
        """
        self.cluster.leaders = {0: True, 1: False}
        self.reader(
            lambda: self.cluster.leaders.update({1: True}), ends={0: 5, 1: 3}
        ).run()
        self.assertEqual(self.report.told, [1, 2, "ended"])
        self.assertEqual(self.consumers[0].sought, {0: 5, 1: 3})

    def test_noLeader(self) -> None:
        """
        A topic without any leader is waited for.
        """
        self.cluster.leaders = {0: False}
        self.report.react = lambda why: self.cluster.leaders.update({0: True})
        self.reader(ends={0: 5}).run()
        why = "no partition of the topic has a leader"
        self.assertEqual(self.report.told, [(why, False), 1, "ended"])
        self.assertEqual(self.consumers[0].sought, {0: 5})

    def test_noTopic(self) -> None:
        """
        A topic that does not exist is waited for, and then read whole.
        """
        self.cluster.leaders = {}
        self.cluster.error = UnknownTopicOrPartitionError()

        def create(why: str) -> None:
            if len(self.report.told) == 3:
                self.cluster.leaders, self.cluster.error = {0: True}, None

        self.report.react = create
        self.reader(ends={0: 2}).run()
        away = ("there is no such topic", False)
        self.assertEqual(self.report.told, [away, away, away, 1, "ended"])
        self.assertEqual(self.consumers[0].sought, {0: 0})

    def test_sameName(self) -> None:
        """
        Another topic of the same name is read whole, however long it is.
        """

        def recreate() -> None:
            self.cluster.id = "second"

        self.reader(recreate, ends={0: 5}).run()
        self.assertEqual(self.report.told, [1, 1, "ended"])
        self.assertEqual(self.consumers[0].sought, {0: 0})

    def test_gone(self) -> None:
        """
        A topic that is deleted is told.
        """
        reader = self.reader(self.cluster.leaders.clear, ends={0: 5})
        self.report.react = lambda why: reader.stop()
        reader.run()
        self.assertEqual(self.report.told, [1, ("the topic is gone", False), "ended"])

    def test_unauthorized(self) -> None:
        """
        A topic that may not be read is not taken for one that does not exist.
        """
        self.cluster.leaders = {}
        self.cluster.error = error = TopicAuthorizationFailedError("capture")

        def allow(why: str) -> None:
            self.cluster.leaders, self.cluster.error = {0: True}, None

        self.report.react = allow
        self.reader(ends={0: 5}).run()
        self.assertEqual(self.report.told, [(str(error), True), 1, "ended"])
        self.assertEqual(self.consumers[-1].sought, {0: 5})

    def test_truncated(self) -> None:
        """
        Where a new leader never had what was read, it goes on with what the new
        leader has instead.
        """

        def truncated() -> Any:
            divergent = {TopicPartition("capture", 0): OffsetAndMetadata(3, "", 1)}
            raise LogTruncationError(divergent)

        self.reader(truncated, ends={0: 5}).run()
        self.assertEqual(self.consumers[1].sought, {0: 3})

    def test_reason(self) -> None:
        """
        Of a time-out the reason is told, which the library only logs.
        """
        self.patch(_kafka_reader, "CONNECT", 0.0)
        reader = self.reader(ends={})
        error = SaslAuthenticationFailedError("wrong")

        def update() -> Future:
            logging.getLogger("kafka.x").error("Failed: %s", error)
            return Future()

        self.patch(self.cluster, "request_update", update)
        self.report.react = lambda why: reader.stop()
        reader.run()
        self.assertEqual(self.report.told, [(str(error), True), "ended"])

    def test_mayNotRead(self) -> None:
        """
        A topic that may be seen but not read is never reported as read.
        """
        reader = self.reader(ends={0: 5})
        error = TopicAuthorizationFailedError("capture")

        def poll(*_: Any) -> Any:
            raise error

        self.patch(_Consumer, "poll", poll)
        self.report.react = lambda why: reader.stop()
        reader.run()
        self.assertEqual(self.report.told, [(str(error), True), "ended"])

    def test_backPressure(self) -> None:
        """
        A second batch waits until the first one is done with, or the end.
        """
        first, second = (
            self.fetched(0, Item(offset, b"%d" % offset)) for offset in (0, 1)
        )
        reader = self.reader(first, second, ends={0: 0})
        self.report.done = False
        wait = reader.proceed.wait
        waits: list[bool] = []

        def waited() -> bool:
            waits.append(reader.proceed.is_set())
            if len(waits) == 2:
                reader.stop()
            return wait()

        self.patch(reader.proceed, "wait", waited)
        reader.run()
        self.assertEqual(waits, [True, False])
        self.assertEqual(self.report.told, [1, [b"0"], "ended"])
