# See LICENSE for details.
"""
The few contracts between the rooms of the house.

Unless a method says otherwise it is called in the reactor thread, does not
block, and does not raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs
from zope.interface import Attribute, Interface

from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from pcapdaemon.capture.recording import Recording
    from pcapdaemon.request import CaptureRequest


class Verdict(Enum):
    """What became of one message."""

    #: At least one capture was admitted.
    TAKEN = "taken"
    #: It was for this node and could not be honoured, or nobody can read it.
    REFUSED = "refused"
    #: It is for another node.
    NOT_OURS = "not-ours"


class Reason:
    """
    Why a request was refused: the stable words of a C{rejected} event.
    """

    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    INVALID = "invalid"
    LIMIT = "limit"
    UNKNOWN_INTERFACE = "unknown-interface"
    UNKNOWN_ALIAS = "unknown-alias"
    BAD_FILTER = "bad-filter"
    TOO_COMPLEX = "filter-too-complex"
    BUSY = "busy"
    DUPLICATE = "duplicate"
    UNAUTHORIZED = "unauthorized"
    CLOSING = "closing"


class Stop:
    """
    Why a capture ended: the stable words of C{stop} in a C{completed} event.
    """

    PACKETS = "packets"
    BYTES = "bytes"
    TIMEOUT = "timeout"
    DURATION = "duration"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"
    MEMORY = "memory"
    INTERFACE_LOST = "interface-lost"


class Direction:
    """
    Which packets are wanted, as a device sees them: the words of a request.
    """

    IN = "in"
    OUT = "out"
    BOTH = "both"


class Refused(Exception):
    """
    A request that cannot be honoured.

    @ivar reason: One of the words of L{Reason}.
    @ivar detail: A sentence that names key, value and what is allowed.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class StartError(Exception):
    """
    A service cannot start; the text says which setting is the cause, and why.
    """


class StoreError(Exception):
    """
    A sink could not store a recording. The text holds no secret.

    @ivar transient: Whether the same attempt may succeed later.
    @ivar delay: Seconds that the other side asked to wait; L{None} where it
        did not say.
    """

    def __init__(self, text: str, transient: bool, delay: float | None = None) -> None:
        super().__init__(text)
        self.transient = transient
        self.delay = delay


@attrs.frozen
class Answer:
    """
    What a message receiver says of one message.

    @ivar verdict: What became of it.
    @ivar ids: The identifiers of the captures that were admitted.
    @ivar reason: With L{Verdict.REFUSED}, one of the words of L{Reason}.
    @ivar detail: With L{Verdict.REFUSED}, key, value and bound.
    """

    verdict: Verdict
    ids: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""


class IMessageReceiver(Interface):
    """
    What a listener hands raw messages to.
    """

    def receive(message: bytes, bus: str) -> Deferred[Answer]:
        """
        Take one message, whatever is in it.

        @param message: The bytes as they came; they may be anything.
        @param bus: The name of the listener (C{"redis"}, C{"http"}, ...).
        @return: A Deferred of the answer, which never fails. It fires when the
            request has been admitted or refused, not when packets flow. A bus
            with acknowledgements acts on it; others ignore it.
        """

    def oversized(size: int, bus: str) -> Answer:
        """
        Take note of a message that the listener itself cut off because it
        announced more bytes than a message may have.

        @param size: The announced size in bytes.
        """

    def unauthorized(bus: str) -> Answer:
        """
        Take note of a message that the listener itself refused to look at
        because the sender did not show that it may send any.
        """

    maxmessage: int = Attribute("The most bytes that a message may have.")


@attrs.frozen
class Outcome:
    """
    What became of one alert.

    @ivar fingerprint: Which alert it is.
    @ivar outcome: C{taken}, C{refused}, C{not-ours} or C{skipped}.
    @ivar ids: With C{taken}, the identifiers of the captures.
    @ivar reason: With C{refused}, one of the words of L{Reason}; with C{skipped},
        C{status}, C{match}, C{cooldown} or C{most}: what kept it from becoming a
        request.
    @ivar detail: The same as a sentence.
    """

    fingerprint: str
    outcome: str
    ids: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""


class ITriggers(Interface):
    """
    What alerts of other programs are handed to.
    """

    def names() -> tuple[str, ...]:
        """
        The triggers that there are.
        """

    def notify(name: str, message: bytes) -> Deferred[list[Outcome]]:
        """
        Take one notification, whatever is in it.

        @param name: One of L{names}.
        @param message: The bytes as they came.
        @return: A Deferred of what became of each alert in it, in their order. It
            fails with L{Refused} where it is no notification; that has then been
            told as an event.
        """


class IListener(Interface):
    """
    A bus or server that requests come by. It is also an C{IService}: it
    connects when started, and its C{stopService} returns a Deferred that fires
    when no further message will be handed over.
    """

    name: str = Attribute("One word, as in configuration and events.")

    connected: bool = Attribute("Whether a message published now would arrive.")


@attrs.frozen
class Drops:
    """
    What the system lost on the way.

    @ivar kernel: Packets that matched while the ring was full.
    @ivar interface: Packets that the device or its driver dropped.
    """

    kernel: int = 0
    interface: int = 0


@attrs.frozen
class Drained:
    """
    What one drain brought.

    @ivar packets: How many packets were recorded by it.
    @ivar size: The least size that the pcap file will have, in bytes: exact
        once C{full} or flushed, else behind by a buffer of the recording.
    @ivar full: Whether the byte limit has been reached.
    @ivar more: Whether the drain ended to let others have a turn, and not
        because nothing waited any more.
    """

    packets: int
    size: int
    full: bool
    more: bool = False


@attrs.frozen
class OpenOptions:
    """
    How to open a device.

    @ivar snaplength: Bytes to keep of each packet, 1 to 262144.
    @ivar buffersize: Bytes of kernel ring.
    @ivar promiscuous: Whether to ask the device for foreign packets too.
    @ivar filter: A libpcap filter that a L{IFilterChecker} found sound; empty
        for all packets.
    @ivar linkType: The C{DLT_} number that the filter was checked for.
    @ivar direction: One of the words of L{Direction}. A loopback device brings
        each packet once, as one that came in.
    @ivar nanoseconds: Whether time stamps are to be that fine, not microseconds.
    """

    snaplength: int
    buffersize: int
    promiscuous: bool
    filter: str
    linkType: int
    direction: str = Direction.BOTH
    nanoseconds: bool = False


class CaptureError(Exception):
    """
    A device cannot be captured on; the text says which and why.
    """


class PrivilegeError(CaptureError):
    """
    This process may not capture.
    """


class LinkTypeMismatch(CaptureError):
    """
    The device is not of the link type that the filter was checked for, and has
    not been shown the filter.

    @ivar linkType: What it is.
    """

    def __init__(self, device: str, linkType: int, expected: int) -> None:
        super().__init__(f"{device}: link type {linkType}, not {expected}")
        self.linkType = linkType


class InterfaceLost(CaptureError):
    """
    The device went down or away while it was captured on.
    """


class ICaptureSystem(Interface):
    """
    Where packets come from: just the calls that are used.
    """

    name: str = Attribute("One word for the log: which implementation.")

    openers: int = Attribute("How many threads may open at once with profit.")

    drainers: int = Attribute("How many threads may drain at once with profit.")

    nanoseconds: bool = Attribute("Whether time stamps can be that fine.")

    def check() -> None:
        """
        See whether this process may capture at all.

        @raise PrivilegeError: It may not.
        @raise CaptureError: It cannot.
        """

    def linkType(device: str) -> int:
        """
        The link type of a device that exists now, C{any} included, as far as it
        can be told before it is opened; the truth is that of the handle.

        @return: A C{DLT_} number.
        @raise CaptureError: There is no such device.
        """

    def open(device: str, options: OpenOptions) -> ICaptureHandle:
        """
        Open a device. Called in the opening thread; may block.

        @raise PrivilegeError: The process may not.
        @raise LinkTypeMismatch: The filter must be checked anew.
        @raise CaptureError: It cannot be opened otherwise.
        """


class ICaptureHandle(Interface):
    """
    One open device. No two calls overlap, except that L{freeze} may come at
    any time before L{close}.
    """

    linkType: int = Attribute("The C{DLT_} number of what is captured.")

    def fileno() -> int:
        """
        A descriptor that is readable while packets wait, and reports an error
        when the device is lost.
        """

    def record(descriptor: int) -> None:
        """
        Say where packets go: an empty memory file, which gets the pcap header.
        Called in the capture thread, once, before L{drain}.
        """

    def drain(packets: int, size: int) -> Drained:
        """
        Move waiting packets to the recording, in order, without waiting.
        Called in the capture thread.

        @param packets: The most packets to take.
        @param size: The file size in bytes at which to stop: the packet that
            reaches it is the last one taken, ever.
        @raise InterfaceLost: The device is gone. What could be seen has been
            taken; what the kernel has yet to hand over can be drained later.
        @raise CaptureError: Reading failed otherwise.
        """

    def pending() -> bool:
        """
        Whether the kernel may have taken packets that have not been drained:
        it hands over many at a time. Called in the capture thread.
        """

    def freeze() -> None:
        """
        Let no further packet into the ring; what is there can still be
        drained. Idempotent. Any thread.
        """

    def flush() -> None:
        """
        Bring all that was drained into the memory file. Ends recording. Called
        in the capture thread.
        """

    def drops() -> Drops:
        """
        The counters since the device was opened. Called in the capture thread.
        """

    def close() -> None:
        """
        Give the device back. Called in the opening thread, never while another
        call runs; may block.
        """


class IFilterChecker(Interface):
    """
    Says whether a filter from outside may be shown to libpcap. Also an
    C{IService}.
    """

    def check(filter: str, linkType: int, snaplength: int) -> Deferred[str]:
        """
        Find out whether a filter is sound and cheap, in bounded time.

        @return: A Deferred of the filter to use, which is the same text, or,
            where host names may be resolved, one with addresses in their place.
            It fails with L{Refused}, whose reason is C{bad-filter} or
            C{filter-too-complex}.
        """


class ISink(Interface):
    """
    Where recordings go. Also an C{IService}.
    """

    name: str = Attribute("One word, as in configuration and events.")

    def examine(request: CaptureRequest) -> object:
        """
        Look at a request before it is taken.

        @raise Refused: It asks this sink for what it does not do.
        """

    def store(recording: Recording) -> Deferred[str]:
        """
        Store a finished recording: whole or not at all.

        @return: A Deferred of the URL at which it now is. A failure is a
            L{StoreError} and means that it is not there. Cancelling ends the
            attempt.
        """


class IEventObserver(Interface):
    """
    Somebody who wants to know what happens.
    """

    def observe(event: Mapping[str, Any]) -> None:
        """
        Take one event; it is shared and must not be changed. What this raises
        is logged and hurts nobody else.
        """


class IPublisher(Interface):
    """
    Where all events go besides the log: an outside system. It is also an
    C{IService} and an L{IEventObserver}: it connects when started, and its
    C{stopService} returns a Deferred that fires when what waits has gone out, or
    a short while has passed.
    """

    name: str = Attribute("One word, as in configuration.")

    connected: bool = Attribute("Whether events arrive, as far as is known.")

    published: int = Attribute("How many have arrived.")

    dropped: int = Attribute("How many never will.")

    waiting: int = Attribute("How many have yet to arrive.")

    flush: float = Attribute("Seconds that C{stopService} may take.")

    def keep() -> None:
        """
        Do not let what waits go out when stopped, for another publisher will
        L{inherit} it.
        """

    def inherit(other: Any) -> None:
        """
        Take over what waits in another publisher of the kind, which was stopped,
        and its counters.
        """


class ICaptureControl(Interface):
    """
    The captures of this daemon, as somebody who looks at them needs them.
    """

    def summaries() -> list[dict[str, Any]]:
        """
        All running and the last finished captures, oldest first.
        """

    def summary(id: str) -> dict[str, Any] | None:
        """
        One capture, or L{None} where it is unknown or long gone. The keys are
        C{id}, C{state} (C{accepted}, C{armed}, C{completed}, C{stored},
        C{failed}) and those of the capture's events so far.
        """

    def refusals() -> list[Mapping[str, Any]]:
        """
        The last C{rejected} events, newest last.
        """

    def cancel(id: str) -> bool:
        """
        End a capture as C{cancelled}, keeping what it holds.

        @return: Whether there was a running capture of that name.
        """
