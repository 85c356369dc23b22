# See LICENSE for details.
"""
What the commands need of a bus, whichever it is.
"""

from __future__ import annotations

import json
import queue
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import attrs

from pcapdaemon.cli.address import HTTP, KAFKA, REDIS, Address

#: Seconds to wait for a connection and for an answer.
PATIENCE = 10.0
#: Seconds between two attempts to come back to a bus.
PAUSE = 1.0
#: Bytes that one event may have, and how many may wait to be looked at.
LARGEST, WAITING = 1 << 20, 10_000


class BusError(Exception):
    """
    A bus does not do its work. The text names it, says why, and has no secret.
    """


@attrs.frozen
class Note:
    """
    Something that the reader of a bus has to say.
    """

    text: str


@attrs.frozen
class Access:
    """
    What is needed beside addresses.

    @ivar token: The bearer token of HTTP servers; empty for none.
    @ivar cafile: A PEM file of trusted authorities; empty for the system's.
    @ivar region: The region of queues; empty for the one of the URL.
    """

    token: str = attrs.field(default="", repr=False)
    cafile: str = ""
    region: str = ""

    def context(self) -> ssl.SSLContext:
        """
        For a connection with TLS.

        @raise BusError: The file of authorities is none.
        """
        try:
            return ssl.create_default_context(cafile=self.cafile or None)
        except OSError as error:
            raise BusError(f"{self.cafile}: {error.strerror or error}") from None


@attrs.frozen
class Receipt:
    """
    What a bus says of a message that it took.

    @ivar heard: How many daemons surely have it; L{None} where nobody knows.
    @ivar node: The name of the daemon that answered; else empty.
    @ivar ids: The captures that it began.
    @ivar reason: Why it refused; else empty.
    @ivar detail: With C{reason}.
    @ivar foreign: Whether it is for another node.
    """

    heard: int | None = None
    node: str = ""
    ids: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""
    foreign: bool = False


class Sender(ABC):
    """
    Where requests go. All methods block, and raise L{BusError}.
    """

    def __init__(self, address: Address, access: Access) -> None:
        self.address = address
        self.access = access

    @abstractmethod
    def publish(self, message: bytes) -> Receipt:
        """
        Send a message, and wait until the bus has it.
        """

    def cancel(self, requestId: str, ids: Iterable[str]) -> None:
        """
        End captures.

        @param ids: Those that L{publish} said were begun.
        """
        message = {"node": "any", "cancel": requestId}
        self.publish(json.dumps(message).encode())


class Source(ABC):
    """
    Where events come from, read in a thread of its own.

    @ivar closing: Set when nobody wants them any more.
    """

    def __init__(
        self, address: Address, access: Access, inbox: queue.Queue[Any]
    ) -> None:
        """
        @param inbox: Where events, each a dictionary, and L{Note}s are put.
        """
        self.address = address
        self.access = access
        self.inbox = inbox
        self.closing = threading.Event()

    @abstractmethod
    def open(self, requestId: str, progress: bool) -> None:
        """
        Begin to read. When this returns, no later event is missed.

        @param requestId: Whose events are wanted; empty for all.
        @param progress: Whether C{progress} is wanted.
        @raise BusError: It cannot be read.
        """

    def close(self) -> None:
        """
        Read no more.
        """
        self.closing.set()

    def run(self) -> None:
        """
        Start the thread, which calls C{read}.
        """
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    @abstractmethod
    def read(self) -> None:
        """
        What the thread does.
        """

    def put(self, item: object) -> None:
        """
        Hand something over, and wait while there is no room.
        """
        while not self.closing.is_set():
            try:
                self.inbox.put(item, timeout=0.5)
            except queue.Full:
                continue
            return

    def note(self, text: str) -> None:
        """
        Hand over a sentence.
        """
        self.put(Note(f"{self.address.label}: {text}"))

    def deliver(self, data: bytes | str) -> dict[str, Any] | None:
        """
        Hand over an event.

        @return: It; L{None} where that is none.
        """
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(event, dict) or not all(
            isinstance(event.get(key), str) for key in ("event", "node", "id")
        ):
            return None
        self.put(event)
        return event


def makeSender(address: Address, access: Access) -> Sender:
    """
    The sender for an address.
    """
    if address.kind == HTTP:
        from pcapdaemon.cli.bus_http import HttpSender

        return HttpSender(address, access)
    if address.kind == REDIS:
        from pcapdaemon.cli.bus_redis import RedisSender

        return RedisSender(address, access)
    if address.kind == KAFKA:
        from pcapdaemon.cli.bus_kafka import KafkaSender

        return KafkaSender(address, access)
    from pcapdaemon.cli.bus_sqs import SqsSender

    return SqsSender(address, access)


def makeSource(address: Address, access: Access, inbox: queue.Queue[Any]) -> Source:
    """
    The source for an address.
    """
    if address.kind == HTTP:
        from pcapdaemon.cli.bus_http import HttpSource

        return HttpSource(address, access, inbox)
    if address.kind == REDIS:
        from pcapdaemon.cli.bus_redis import RedisSource

        return RedisSource(address, access, inbox)
    if address.kind == KAFKA:
        from pcapdaemon.cli.bus_kafka import KafkaSource

        return KafkaSource(address, access, inbox)
    from pcapdaemon.cli.bus_sqs import SqsSource

    return SqsSource(address, access, inbox)
