# See LICENSE for details.
"""
What every L{ICaptureSystem} promises, as tests for any implementation.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import time
from typing import TYPE_CHECKING

from zope.interface.verify import verifyObject

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import (
    CaptureError,
    Direction,
    Drained,
    Drops,
    ICaptureHandle,
    ICaptureSystem,
    InterfaceLost,
    LinkTypeMismatch,
    OpenOptions,
    PrivilegeError,
)
from pcapdaemon.test import pcapfile
from pcapdaemon.test.frames import frame, sequenceOf

if TYPE_CHECKING:
    _Base = SynchronousTestCase
else:
    _Base = object

#: More than any test has.
MANY = 1 << 20
#: How long to wait for what must come, before the test fails: seconds.
PATIENCE = 20

#: A filter that both systems know, and a frame that it keeps out.
FILTER = "udp dst port 9"
OTHER = frame(0)[:36] + b"\0\x0a" + frame(0)[38:]

ETHERNET, RAW, COOKED = 1, 12, 113


def options(
    snaplength: int = 65536,
    filter: str = "",
    linkType: int = ETHERNET,
    buffersize: int = 4 << 20,
    direction: str = Direction.BOTH,
    nanoseconds: bool = False,
) -> OpenOptions:
    """How to open a device, for a test to which the rest does not matter."""
    return OpenOptions(
        snaplength=snaplength,
        buffersize=buffersize,
        promiscuous=False,
        filter=filter,
        linkType=linkType,
        direction=direction,
        nanoseconds=nanoseconds,
    )


def events(handle: ICaptureHandle, seconds: float = 0) -> int:
    """What C{poll} says of a handle, after waiting for as long as that."""
    poll = select.poll()
    poll.register(handle.fileno(), select.POLLIN)
    return sum(mask for _descriptor, mask in poll.poll(seconds * 1000))


class Capture:
    """
    A handle that records.

    @ivar file: The descriptor of the memory file.
    @ivar taken: How many packets were drained.
    """

    def __init__(self, handle: ICaptureHandle, file: int, settle: float) -> None:
        self.handle = handle
        self.file = file
        self.taken = 0
        self._settle = settle
        handle.record(file)

    def take(self, packets: int, step: int = MANY, size: int = MANY) -> list[Drained]:
        """
        Drain until so many packets have been taken since the start, waiting for
        them, and say what each drain brought.
        """
        rounds: list[Drained] = []
        while self.taken < packets:
            if not events(self.handle, PATIENCE):
                raise AssertionError(f"{self.taken} packets came, not {packets}")
            drained = self.handle.drain(step, size)
            self.taken += drained.packets
            if drained.packets > step or self.taken > packets:
                raise AssertionError(f"{drained} of {packets}, {step} at once")
            rounds.append(drained)
        return rounds

    def takeAll(self, packets: int) -> None:
        """Drain so many packets, and find that there are no more."""
        self.take(packets)
        events(self.handle, self._settle)
        extra = self.handle.drain(MANY, MANY).packets
        if extra:
            raise AssertionError(f"{extra} packets came after the {packets}")

    def finish(self) -> pcapfile.PcapFile:
        """Flush, and read what was recorded."""
        self.handle.flush()
        return pcapfile.read(self.file)


class CaptureSystemTests(_Base):
    """
    The contract. An implementation brings a system, and the six methods that
    move the world around it.
    """

    system: ICaptureSystem
    #: An Ethernet device that gets what is delivered and nothing else.
    device: str
    #: How long a packet may be on its way from a ring to its reader: seconds.
    settle: float = 0

    def setUpSystem(self) -> None:
        """Set C{system} and C{device}."""
        raise NotImplementedError

    def openHandle(self, device: str, options: OpenOptions) -> ICaptureHandle:
        """Open a device where the system sees it."""
        raise NotImplementedError

    def linkTypeOf(self, device: str) -> int:
        """Ask for the link type of a device where the system sees it."""
        raise NotImplementedError

    def deliver(self, *frames: bytes) -> None:
        """Let frames arrive, and return when the ring of every handle has them."""
        raise NotImplementedError

    def deliverOut(self, *frames: bytes) -> None:
        """Let frames leave, and return when the ring of every handle has them."""
        raise NotImplementedError

    def removeDevice(self) -> None:
        """Let the device go away."""
        raise NotImplementedError

    def downDevice(self) -> None:
        """Take the device down."""
        raise NotImplementedError

    def setUp(self) -> None:
        """Bring the system up."""
        self.setUpSystem()

    def open(self, options: OpenOptions, device: str | None = None) -> ICaptureHandle:
        """Open a device until the test ends."""
        handle = self.openHandle(device or self.device, options)
        self.addCleanup(handle.close)
        return handle

    def capture(self, options: OpenOptions, device: str | None = None) -> Capture:
        """Record from a device until the test ends."""
        file = os.memfd_create("test")
        self.addCleanup(os.close, file)
        return Capture(self.open(options, device), file, self.settle)

    def test_interfaces(self) -> None:
        """System and handle have what the interfaces ask for."""
        verifyObject(ICaptureSystem, self.system)
        verifyObject(ICaptureHandle, self.open(options()))

    def test_check(self) -> None:
        """A process that may capture hears no complaint."""
        self.system.check()

    def test_unknownDevice(self) -> None:
        """A device that does not exist is refused by its name."""
        error = self.assertRaises(CaptureError, self.openHandle, "absent0", options())
        self.assertIn("absent0", str(error))
        self.assertNotIsInstance(error, PrivilegeError)
        error = self.assertRaises(CaptureError, self.linkTypeOf, "absent0")
        self.assertIn("absent0", str(error))

    def test_deviceDown(self) -> None:
        """A device that is down is refused by its name."""
        self.downDevice()
        error = self.assertRaises(CaptureError, self.openHandle, self.device, options())
        self.assertIn(self.device, str(error))
        self.assertNotIsInstance(error, PrivilegeError)

    def test_linkType(self) -> None:
        """Device, handle and file agree on the link type."""
        capture = self.capture(options())
        self.assertEqual(self.linkTypeOf(self.device), ETHERNET)
        self.assertEqual(capture.handle.linkType, ETHERNET)
        self.assertEqual(capture.finish().linkType, ETHERNET)

    def test_linkTypeOfAny(self) -> None:
        """C{any} is a device too, with a cooked header."""
        self.assertEqual(self.linkTypeOf("any"), COOKED)
        capture = self.capture(options(linkType=COOKED), "any")
        self.assertEqual(capture.handle.linkType, COOKED)
        self.assertEqual(capture.finish().linkType, COOKED)

    def test_nothing(self) -> None:
        """A recording without packets is a file header, and says its snap length."""
        capture = self.capture(options(snaplength=300))
        drained = capture.handle.drain(MANY, MANY)
        self.assertEqual((drained.packets, drained.full), (0, False))
        content = capture.finish()
        self.assertEqual((content.snaplength, content.records), (300, ()))
        self.assertEqual(os.fstat(capture.file).st_size, 24)

    def test_undrained(self) -> None:
        """Also a recording that was never drained has its header."""
        capture = self.capture(options())
        self.assertEqual(capture.finish().records, ())

    def test_packets(self) -> None:
        """Packets are recorded whole, in order, each once, with its time."""
        capture = self.capture(options())
        sent = [frame(number, 60 + 10 * number) for number in range(100)]
        before = time.time_ns() // 1000 * 1000
        self.deliver(*sent)
        after = time.time_ns()
        capture.takeAll(100)
        records = capture.finish().records
        self.assertEqual([record.data for record in records], sent)
        self.assertEqual([record.original for record in records], list(map(len, sent)))
        times = [record.time for record in records]
        self.assertEqual([before, *times, after], sorted([before, *times, after]))

    def test_snap(self) -> None:
        """Packets are cut, and their original length is kept."""
        capture = self.capture(options(snaplength=64))
        sent = [frame(number, 1400) for number in range(10)] + [frame(10, 60)]
        self.deliver(*sent)
        capture.takeAll(11)
        content = capture.finish()
        self.assertEqual(content.snaplength, 64)
        self.assertEqual(
            [(record.data, record.original) for record in content.records],
            [(data[:64], len(data)) for data in sent],
        )

    def test_packetLimit(self) -> None:
        """A drain takes no more packets than asked; the others stay."""
        capture = self.capture(options())
        sent = [frame(number) for number in range(50)]
        self.deliver(*sent)
        for packets, step in ((3, 3), (4, 1), (44, 40)):
            rounds = capture.take(packets, step)
            self.assertFalse(any(drained.full for drained in rounds))
        capture.takeAll(50)
        self.assertEqual([record.data for record in capture.finish().records], sent)

    def test_byteLimit(self) -> None:
        """
        The packet with which the file reaches the limit is the last one, ever,
        wherever the limit lies and however few packets a drain takes.
        """
        generator = random.Random(8477)
        sent = [frame(n, generator.randint(58, 1400)) for n in range(40)]
        sizes = list(itertools.accumulate((16 + len(d) for d in sent), initial=24))
        limits = {1, 24, 25, 4096, 8192, 8193, sizes[-1] + 1}
        for size in (sizes[1], sizes[2], sizes[20], sizes[-1]):
            limits |= {size - 1, size, size + 1}
        captures = {
            (limit, step): self.capture(options())
            for limit in sorted(limits)
            for step in (MANY, 3)
        }
        self.deliver(*sent)
        for (limit, step), capture in captures.items():
            expected = next(
                (n for n, size in enumerate(sizes) if n and size >= limit), len(sent)
            )
            full = sizes[-1] >= limit
            what = f"limit {limit}, {step} packets at once"
            last = capture.take(expected, step, limit)[-1]
            self.assertEqual(last.full, full, what)
            if full:
                self.assertEqual(last.size, sizes[expected], what)
                self.assertEqual(os.fstat(capture.file).st_size, sizes[expected], what)
            further = [capture.handle.drain(step, limit) for _ in range(3)]
            self.assertEqual([(d.packets, d.full) for d in further], [(0, full)] * 3)
            records = capture.finish().records
            self.assertEqual([r.data for r in records], sent[:expected], what)
            self.assertEqual(os.fstat(capture.file).st_size, sizes[expected], what)

    def test_byteLimitFar(self) -> None:
        """
        The byte limit is as exact when it is many buffers and drains away.
        """
        sent = [frame(number) for number in range(1000)]
        limits = (60_023, 60_024, 60_025, 61_440, 65_535, 65_536, 65_537)
        captures = {limit: self.capture(options(snaplength=59)) for limit in limits}
        self.deliver(*sent)
        for limit, capture in captures.items():
            expected = -((24 - limit) // 75)
            size = 24 + 75 * expected
            rounds = capture.take(expected, 300, limit)
            self.assertEqual((rounds[-1].full, rounds[-1].size), (True, size), limit)
            self.assertFalse(any(drained.full for drained in rounds[:-1]), limit)
            self.assertEqual(os.fstat(capture.file).st_size, size, limit)
            records = capture.finish().records
            numbers = [sequenceOf(record.data) for record in records]
            self.assertEqual(numbers, list(range(expected)), limit)

    def test_size(self) -> None:
        """
        The size said of the file grows, never exceeds what it will be, and
        falls behind by no more than a buffer.
        """
        capture = self.capture(options())
        sent = [frame(number, 200) for number in range(100)]
        self.deliver(*sent)
        sizes = [drained.size for drained in capture.take(100, 1) if drained.packets]
        self.assertEqual(sizes, sorted(sizes))
        for number, size in enumerate(sizes, 1):
            exact = 24 + 216 * number
            self.assertLessEqual(size, exact)
            self.assertGreater(size, exact - 8192)
        capture.finish()
        self.assertEqual(os.fstat(capture.file).st_size, 24 + 216 * 100)

    def test_freeze(self) -> None:
        """What came before a freeze can be drained; nothing comes after it."""
        capture = self.capture(options())
        early = [frame(number) for number in range(3)]
        self.deliver(*early)
        capture.handle.freeze()
        self.deliver(frame(3), frame(4))
        capture.handle.freeze()
        self.deliver(frame(5))
        capture.takeAll(3)
        self.assertEqual([record.data for record in capture.finish().records], early)

    def test_freezeFiltered(self) -> None:
        """A freeze also holds where there is a filter."""
        capture = self.capture(options(filter=FILTER))
        self.deliver(frame(0), OTHER)
        capture.handle.freeze()
        self.deliver(frame(1), OTHER)
        capture.takeAll(1)
        (record,) = capture.finish().records
        self.assertEqual(sequenceOf(record.data), 0)

    def test_filter(self) -> None:
        """Only what the filter matches is recorded."""
        capture = self.capture(options(filter=FILTER))
        wanted = [frame(1), frame(2)]
        self.deliver(OTHER, wanted[0], OTHER, wanted[1], OTHER)
        capture.takeAll(2)
        self.assertEqual([record.data for record in capture.finish().records], wanted)

    def test_direction(self) -> None:
        """
        Only packets of the wanted direction are recorded, from the very first on,
        with and without a filter, and no others take part in anything.
        """
        kinds = [
            (direction, filter)
            for direction in (Direction.IN, Direction.OUT, Direction.BOTH)
            for filter in ("", FILTER)
        ]
        captures = {
            kind: self.capture(options(64, kind[1], direction=kind[0]))
            for kind in kinds
        }
        for number in range(0, 20, 2):
            self.deliver(frame(number), OTHER)
            self.deliverOut(frame(number + 1), OTHER)
        for (direction, filter), capture in captures.items():
            what = f"{direction}, {filter!r}"
            first = int(direction == Direction.OUT)
            step = 1 if direction == Direction.BOTH else 2
            expected = list(range(first, 20, step))
            others = 0 if filter else len(expected)
            capture.takeAll(len(expected) + others)
            self.assertFalse(capture.handle.pending(), what)
            records = capture.finish().records
            kept = [r.data for r in records if r.data != OTHER[:64]]
            self.assertEqual([sequenceOf(data) for data in kept], expected, what)
            self.assertEqual({(len(r.data), r.original) for r in records}, {(64, 128)})

    def test_directionDrops(self) -> None:
        """What goes the other way takes no room in the ring."""
        ring = options(64, buffersize=65536, direction=Direction.OUT)
        capture = self.capture(ring)
        self.deliver(*(frame(number) for number in range(2000)))
        self.deliverOut(frame(2000))
        capture.takeAll(1)
        self.assertEqual(capture.handle.drops().kernel, 0)

    def test_nanoseconds(self) -> None:
        """
        Time stamps are finer where that can be had, and then the file says so; the
        byte limit is as exact as ever.
        """
        fine = options(nanoseconds=True)
        if not self.system.nanoseconds:
            self.assertRaises(CaptureError, self.openHandle, self.device, fine)
            return
        capture = self.capture(fine)
        before = time.time_ns()
        self.deliver(*(frame(number) for number in range(40)))
        after = time.time_ns()
        [last] = capture.take(30, size=24 + 30 * 144)[-1:]
        self.assertTrue(last.full)
        content = capture.finish()
        self.assertTrue(content.nanoseconds)
        times = [record.time for record in content.records]
        self.assertEqual(len(times), 30)
        self.assertEqual([before, *times, after], sorted([before, *times, after]))
        self.assertTrue(any(time % 1000 for time in times))

    def test_badFilter(self) -> None:
        """A filter that cannot be used does not open the device."""
        self.assertRaises(
            CaptureError, self.openHandle, self.device, options(filter="rubbish (")
        )

    def test_linkTypeMismatch(self) -> None:
        """
        A filter that was checked for another link type is not used, and the
        error says the right one. Without a filter it does not matter.
        """
        error = self.assertRaises(
            LinkTypeMismatch,
            self.openHandle,
            self.device,
            options(filter=FILTER, linkType=RAW),
        )
        self.assertEqual(error.linkType, ETHERNET)
        self.assertIn(self.device, str(error))
        handle = self.open(options(linkType=RAW))
        self.assertEqual(handle.linkType, ETHERNET)

    def test_readable(self) -> None:
        """The descriptor is readable while packets wait."""
        capture = self.capture(options())
        self.assertEqual(events(capture.handle), 0)
        self.deliver(frame(0), frame(1))
        self.assertEqual(events(capture.handle, PATIENCE), select.POLLIN)
        capture.handle.drain(1, MANY)
        self.assertEqual(events(capture.handle, PATIENCE), select.POLLIN)
        capture.handle.drain(1, MANY)
        self.assertEqual(events(capture.handle), 0)

    def checkLost(self, capture: Capture) -> None:
        """
        The loss of the device is seen, the three packets that were there are
        kept, and it hurts no other call.
        """
        trouble = select.POLLERR | select.POLLHUP
        self.assertTrue(events(capture.handle, PATIENCE) & trouble)
        taken = 0
        with self.assertRaises(InterfaceLost) as caught:
            for _ in range(10):
                taken += capture.handle.drain(MANY, MANY).packets
        self.assertIn(self.device, str(caught.exception))
        # What the kernel had yet to hand over follows.
        while taken < 3 and events(capture.handle, PATIENCE):
            taken += capture.handle.drain(MANY, MANY).packets
        self.assertEqual(taken, 3)
        capture.handle.freeze()
        self.assertEqual(capture.handle.drops().kernel, 0)
        records = capture.finish().records
        self.assertEqual([sequenceOf(record.data) for record in records], [0, 1, 2])

    def test_removed(self) -> None:
        """A device that is removed is lost; what it had brought is kept."""
        capture = self.capture(options())
        self.deliver(frame(0), frame(1), frame(2))
        self.removeDevice()
        self.checkLost(capture)

    def test_down(self) -> None:
        """A device that goes down is lost; what it had brought is kept."""
        capture = self.capture(options())
        self.deliver(frame(0), frame(1), frame(2))
        self.downDevice()
        self.checkLost(capture)

    def test_pending(self) -> None:
        """It is known whether something is left to drain."""
        capture = self.capture(options())
        self.assertFalse(capture.handle.pending())
        self.deliver(frame(0), frame(1))
        self.assertTrue(capture.handle.pending())
        capture.takeAll(2)
        self.assertFalse(capture.handle.pending())

    def test_noDrops(self) -> None:
        """Nothing is said to be lost when nothing was."""
        capture = self.capture(options())
        self.deliver(frame(0))
        capture.takeAll(1)
        self.assertEqual(capture.handle.drops(), Drops(kernel=0, interface=0))

    def test_drops(self) -> None:
        """What a full ring could not take is counted, exactly."""
        capture = self.capture(options(snaplength=64, buffersize=65536))
        self.deliver(*(frame(number) for number in range(2000)))
        self.assertTrue(events(capture.handle, PATIENCE))
        taken = 0
        while packets := capture.handle.drain(MANY, MANY).packets:
            taken += packets
        self.assertGreater(taken, 0)
        self.assertEqual(capture.handle.drops().kernel, 2000 - taken)
        self.assertLess(taken, 2000)
        numbers = [sequenceOf(r.data) for r in capture.finish().records]
        self.assertEqual(numbers, sorted(set(numbers)))

    def test_independent(self) -> None:
        """Handles on one device do not know of each other."""
        whole = self.capture(options())
        short = self.capture(options(snaplength=60, filter=FILTER))
        frozen = self.capture(options())
        gone = self.openHandle(self.device, options())
        frozen.handle.freeze()
        gone.close()
        sent = [frame(0, 100), OTHER, frame(1, 100)]
        self.deliver(*sent)
        whole.takeAll(3)
        short.takeAll(2)
        frozen.takeAll(0)
        self.assertEqual([record.data for record in whole.finish().records], sent)
        self.assertEqual(
            [record.data for record in short.finish().records],
            [sent[0][:60], sent[2][:60]],
        )
        self.assertEqual(frozen.finish().records, ())

    def test_reopen(self) -> None:
        """A handle that is closed gives the device back, drained or not."""
        for _ in range(3):
            handle = self.openHandle(self.device, options())
            self.deliver(frame(0))
            handle.close()
        capture = self.capture(options())
        self.deliver(frame(1))
        capture.takeAll(1)
        self.assertEqual(sequenceOf(capture.finish().records[0].data), 1)
