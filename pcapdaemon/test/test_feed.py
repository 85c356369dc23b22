# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners.http.feed}.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
from zope.interface.verify import verifyObject

from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.events import Events
from pcapdaemon.interfaces import IEventObserver
from pcapdaemon.listeners.http.feed import HEARTBEAT, Feed, Watcher, Wish


@attrs.frozen
class Block:
    """
    What a client makes of one block of the stream.
    """

    id: str = ""
    event: str = ""
    data: Any = None


class Client:
    """
    Reads what a watcher writes, as the standard says.

    @ivar room: How many writes are taken before the watcher is paused.
    """

    room = -1

    def __init__(self, feed: Feed, **wish: Any) -> None:
        self.received = b""
        self.watcher = Watcher(feed, Wish(**wish), self)

    def write(self, data: bytes) -> None:
        """
        Take it, as a transport does.
        """
        self.received += data
        self.room -= 1
        if self.room == 0:
            self.watcher.pauseProducing()

    @property
    def blocks(self) -> list[Block]:
        """
        All blocks but the greeting and signs of life.
        """
        assert self.received.endswith(b"\n\n")
        found = []
        for text in self.received.decode("ascii").split("\n\n")[1:-1]:
            if text == ":":
                continue
            fields = dict(line.split(": ", 1) for line in text.split("\n"))
            data = json.loads(fields["data"])
            found.append(Block(fields.get("id", ""), fields["event"], data))
        return found

    @property
    def seen(self) -> list[str]:
        """
        The captures that it has heard of, and gaps.
        """
        return [block.data.get("id", block.event) for block in self.blocks]


class FeedTests(SynchronousTestCase):
    """
    Tests for L{Feed} and L{Watcher}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.events = Events("web1", self.clock.seconds)
        self.watching = 0
        self.feed = self.makeFeed()

    def makeFeed(self, **limits: int) -> Feed:
        """Make one that listens."""
        feed = Feed(self.events, self.watch, self.clock, **limits)
        feed.start()
        self.addCleanup(feed.stop)
        return feed

    def watch(self) -> Any:
        """What makes captures say how far they are."""
        self.watching += 1

        def leave() -> None:
            self.watching -= 1

        return leave

    def client(self, **wish: Any) -> Client:
        """Make one that reads."""
        client = Client(self.feed, **wish)
        client.watcher.resumeProducing()
        self.addCleanup(client.watcher.stopProducing)
        return client

    def emit(self, *ids: str, event: str = "accepted", about: str = "") -> None:
        """Let something happen."""
        for id in ids:
            self.events.emit(event, id, {"request_id": about})

    def test_interfaces(self) -> None:
        """They are what they say."""
        verifyObject(IEventObserver, self.feed)
        verifyObject(IPushProducer, self.client().watcher)

    def test_event(self) -> None:
        """An event comes with its name and number, as one line of JSON."""
        client = self.client()
        self.events.emit("rejected", "a1", {"tags": "x\ny\u2028\udc80"}, detail="no")
        [block] = client.blocks
        self.assertEqual(block.event, "rejected")
        self.assertEqual(block.data["tags"], "x\ny\u2028\udc80")
        self.assertEqual(self.feed.number(block.id), 1)

    def test_numbers(self) -> None:
        """Who comes sees nothing that was, and knows where it is."""
        self.emit("a1", "a2")
        client = self.client()
        greeting = client.received.decode("ascii").split("\n")
        self.assertIn(f"id: {self.feed.id(2)}", greeting)
        self.assertTrue(any(line.startswith("retry: ") for line in greeting))
        self.assertEqual(client.seen, [])
        self.emit("a3")
        self.assertEqual(client.blocks[0].id, self.feed.id(3))

    def test_once(self) -> None:
        """An event is made JSON once, for all who watch."""
        made: list[bytes] = []
        for client in [self.client() for _ in range(3)]:
            self.patch(client, "write", made.append)
        self.emit("a1")
        self.emit("a1", event="progress")
        self.assertEqual(len(made), 6)
        self.assertEqual(len(set(map(id, made))), 2)

    def test_request(self) -> None:
        """Who asks for one request sees that alone, progress included."""
        client = self.client(requestId="r1")
        self.emit("a1", about="r1")
        self.emit("a2", about="r2")
        self.emit("a3")
        self.emit("a4", event="progress", about="r2")
        self.emit("a5", event="progress", about="r1")
        self.assertEqual(client.seen, ["a1", "a5"])

    def test_progress(self) -> None:
        """
        Progress comes while somebody watches who wants it; it has no number and
        is not remembered.
        """
        self.assertEqual(self.watching, 0)
        client, other = self.client(), self.client(progress=False)
        self.assertEqual(self.watching, 1)
        self.emit("a1", event="progress")
        self.assertEqual([block.id for block in client.blocks], [""])
        self.assertEqual(other.seen, [])
        self.assertEqual(self.client(last="").seen, ["gap"])
        client.watcher.stopProducing()
        client.watcher.stopProducing()
        other.watcher.stopProducing()
        self.assertEqual(self.watching, 1)  # the third one

    def test_resume(self) -> None:
        """Who comes back with the last number gets the rest, and no more."""
        client = self.client()
        self.emit("a1")
        client.watcher.stopProducing()
        self.emit("a2", "a3")
        self.assertEqual(client.seen, ["a1"])
        again = self.client(last=client.blocks[-1].id)
        self.emit("a4")
        self.assertEqual(again.seen, ["a2", "a3", "a4"])
        self.assertEqual(self.client(last=self.feed.id(4)).seen, [])
        self.assertEqual(len(self.client(last=self.feed.id(0)).seen), 4)

    def test_unknown(self) -> None:
        """
        A number of another run, or none at all, is said to be unknown, and all
        that is remembered follows.
        """
        self.emit("a1", "a2")
        other = Feed(self.events, self.watch, self.clock)
        run = self.feed.id(0)[:-1]
        for last in (
            other.id(1),
            "",
            "7",
            run,
            run + "3",
            run + "-1",
            run + "1x",
            run + "9" * 10_000,
            run + "\u0661",
        ):
            client = self.client(last=last)
            self.assertEqual(client.seen, ["gap", "a1", "a2"], last)
            gap = client.blocks[0]
            self.assertEqual(gap.data, {"event": "gap", "reason": "unknown"})
            self.assertEqual(gap.id, self.feed.id(0))

    def test_bounded(self) -> None:
        """
        So many events are remembered, and so many bytes; who comes for one that
        is gone is told how many are.
        """
        self.feed = self.makeFeed(most=3)
        self.emit("a1", "a2", "a3", "a4", "a5")
        client = self.client(last=self.feed.id(1))
        self.assertEqual(client.seen, ["gap", "a3", "a4", "a5"])
        gap = client.blocks[0]
        self.assertEqual(gap.data, {"event": "gap", "missed": 1, "reason": "gone"})
        self.assertEqual(gap.id, self.feed.id(2))
        self.feed = self.makeFeed(size=250)
        self.emit("b1", "b2", "b3", "b4")
        client = self.client(last=self.feed.id(0))
        self.assertEqual(client.seen, ["gap", "b3", "b4"])
        self.assertLess(len(client.received), 600)

    def test_slow(self) -> None:
        """
        For who does not read nothing is held but what is remembered anyway; then
        it is told what it missed, and everything adds up.
        """
        self.feed = self.makeFeed(most=10)
        client = self.client()
        client.watcher.pauseProducing()
        received = client.received
        self.emit(*(f"a{number}" for number in range(30)))
        self.assertEqual(client.received, received)
        client.watcher.resumeProducing()
        self.assertEqual(client.seen, ["gap", *(f"a{n}" for n in range(20, 30))])
        self.assertEqual(client.blocks[0].data["missed"], 20)
        self.emit("b1")
        self.assertEqual(client.seen[-1], "b1")

    def test_slowProgress(self) -> None:
        """
        Of each capture's progress the last waits for who does not read, and comes
        in its turn: nobody is left out because others were before it.
        """
        client, other = self.client(), self.client(progress=False)
        client.watcher.pauseProducing()
        other.watcher.pauseProducing()
        self.emit("a1", "a2", event="armed")
        self.emit("a1", "a2", "a1", event="progress")
        self.emit("a1", event="completed")
        self.emit("a2", event="progress")
        client.watcher.resumeProducing()
        other.watcher.resumeProducing()
        self.assertEqual(
            [(block.event, block.data["id"]) for block in client.blocks],
            [
                ("armed", "a1"),
                ("armed", "a2"),
                ("progress", "a1"),
                ("completed", "a1"),
                ("progress", "a2"),
            ],
        )
        self.assertEqual(other.seen, ["a1", "a2", "a1"])

    def test_burst(self) -> None:
        """
        Who is paused in the middle of a burst gets all of it later, once.
        """
        client = self.client()
        client.room = 2
        ids = [f"a{number}" for number in range(9)]
        self.emit(*ids, event="progress")
        self.assertEqual(client.seen, ids[:2])
        client.watcher.resumeProducing()
        self.assertEqual(client.seen, ids)

    def test_pausedMeanwhile(self) -> None:
        """A watcher stops in the middle of what has waited when it is told to."""
        self.emit("a1", "a2", "a3", "a4")
        client = Client(self.feed, last=self.feed.id(0))
        self.addCleanup(client.watcher.stopProducing)
        client.room = 3
        client.watcher.resumeProducing()
        self.assertEqual(client.seen, ["a1", "a2"])
        client.room = 1
        client.watcher.resumeProducing()
        self.assertEqual(client.seen, ["a1", "a2", "a3"])
        self.emit("a5")
        client.watcher.resumeProducing()
        self.assertEqual(client.seen, ["a1", "a2", "a3", "a4", "a5"])

    def test_heartbeat(self) -> None:
        """There is a sign of life now and then, for who reads, and only then."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        client, sleeper = self.client(), self.client()
        sleeper.watcher.pauseProducing()
        received = sleeper.received
        for count in range(1, 4):
            self.clock.advance(HEARTBEAT)
            self.assertEqual(client.received.count(b"\n:\n"), count)
        self.assertEqual(sleeper.received, received)
        client.watcher.stopProducing()
        sleeper.watcher.stopProducing()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped(self) -> None:
        """Who is gone, and a feed that is stopped, hear nothing."""
        client = self.client()
        client.watcher.stopProducing()
        self.emit("a1")
        self.assertEqual(client.seen, [])
        self.feed.stop()
        self.feed.stop()
        self.emit("a2")
        self.assertEqual(self.feed.last, 1)
