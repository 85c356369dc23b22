# See LICENSE for details.
"""
Packets by way of pcapy-ng.

The loop over the packets stays in C: C{Reader.dispatch} calls C{Dumper.dump},
which writes to the recording's memory file through C{/proc/self/fd}. Only the
last few kilobytes before a byte limit go packet by packet through Python,
since the dumper cannot say how much it holds in its buffer.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pcapy
from zope.interface import implementer

from pcapdaemon.capture.counters import Counters
from pcapdaemon.capture.devices import (
    BLOCK_TIMEOUT,
    FILE_HEADER,
    PACKET_HEADER,
    PCAP_DIRECTION,
    SLICE_BYTES,
    SLICE_PACKETS,
    VLAN_TAG,
    Devices,
    activated,
    narrow,
    shut,
    trouble,
)
from pcapdaemon.interfaces import (
    CaptureError,
    Drained,
    Drops,
    ICaptureHandle,
    ICaptureSystem,
    LinkTypeMismatch,
    OpenOptions,
)

_record = struct.Struct("=IIII")


@implementer(ICaptureHandle)
class PcapyHandle:
    """
    An activated pcapy-ng Reader.
    """

    def __init__(self, device: str, reader: pcapy.Reader, options: OpenOptions) -> None:
        self._device = device
        self._reader = reader
        # Of our own, so that freeze() needs nothing of the Reader's.
        self._socket = socket.socket(fileno=os.dup(reader.getfd()))
        narrow(self._socket, device, options.direction, options.snaplength)
        self._counters = Counters(reader.stats)
        self._longest = PACKET_HEADER + options.snaplength + VLAN_TAG
        self._batch = max(32, min(SLICE_PACKETS, SLICE_BYTES // self._longest))
        self._dumper: pcapy.Dumper | None = None
        self._file = -1
        self._size = 0  # without a dumper: the exact size of the file
        self._taken = 0
        self._full = False
        self._error: CaptureError | None = None
        self.linkType: int = reader.datalink()

    def fileno(self) -> int:
        return self._socket.fileno()

    def record(self, descriptor: int) -> None:
        self._file = descriptor
        self._dumper = self._reader.dump_open(f"/proc/self/fd/{descriptor}")

    def drain(self, packets: int, size: int) -> Drained:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._counters.keep()
        packets = min(packets, SLICE_PACKETS)
        more = True
        most = os.fstat(self._file).st_size + SLICE_BYTES
        taken = 0
        while taken < packets and not self._full:
            wanted = min(packets - taken, self._batch)
            if self._dumper is None:
                # The limit cannot be reached before the last of so many.
                wanted = min(wanted, max(1, -((self._size - size) // self._longest)))
                got = self._dispatchExactly(wanted)
                self._full = self._size >= size
            else:
                # So many cannot reach the limit, however long they are.
                status = os.fstat(self._file)
                buffered = max(status.st_blksize, FILE_HEADER)
                safe = (size - 1 - status.st_size - buffered) // self._longest
                if safe < 1:
                    self.flush()
                    continue
                if status.st_size > most:
                    break
                wanted = min(wanted, safe)
                got = self._dispatch(wanted, self._dumper.dump)
            taken += got
            self._taken += got
            if got < wanted:
                more = False
                break
        if self._error is not None and not taken:
            error, self._error = self._error, None
            raise error
        return Drained(taken, os.fstat(self._file).st_size, self._full, more)

    def _dispatch(self, packets: int, callback: Callable[[Any, bytes], None]) -> int:
        try:
            return int(self._reader.dispatch(packets, callback))
        except pcapy.PcapError as error:
            # The error comes when the ring is empty, so nothing was taken.
            self._error = trouble(self._device, str(error))
            return 0

    def _dispatchExactly(self, packets: int) -> int:
        """
        Take packets one by one, knowing the size of each.
        """
        records: list[bytes] = []

        def take(header: Any, data: bytes) -> None:
            seconds, microseconds = header.getts()
            length = len(data)
            records.append(_record.pack(seconds, microseconds, length, header.getlen()))
            records.append(data)

        got = self._dispatch(packets, take)
        os.pwrite(self._file, b"".join(records), self._size)
        self._size = os.fstat(self._file).st_size
        return got

    def pending(self) -> bool:
        self._counters.look()
        return self._counters.received - self._counters.dropped != self._taken

    def freeze(self) -> None:
        shut(self._socket)

    def flush(self) -> None:
        if self._dumper is not None:
            self._dumper.close()
            self._dumper = None
            self._size = os.fstat(self._file).st_size

    def drops(self) -> Drops:
        return self._counters.drops()

    def close(self) -> None:
        if self._dumper is not None:
            # Not flush(): the recording's descriptor may be gone by now.
            self._dumper.close()
            self._dumper = None
        # The last descriptor is the one whose closing takes the kernel some 25
        # ms, and Python's own lets go of the GIL meanwhile.
        self._reader.close()
        self._socket.close()


@implementer(ICaptureSystem)
class PcapySystem(Devices):
    """
    The devices of this machine, through pcapy-ng.
    """

    name = "pcapy"

    # pcapy-ng holds the GIL while it opens, and takes it for every packet: more
    # threads would only wait for each other.
    openers = 1
    drainers = 1

    # Its Reader has no word for the precision of time stamps.
    nanoseconds = False

    def open(self, device: str, options: OpenOptions) -> PcapyHandle:
        if options.nanoseconds:
            raise CaptureError(f"{device}: pcapy-ng counts time in microseconds")
        try:
            reader = pcapy.create(device)
            reader.set_snaplen(options.snaplength)
            reader.set_promisc(options.promiscuous)
            reader.set_timeout(BLOCK_TIMEOUT)
            reader.set_buffer_size(options.buffersize)
            status = reader.activate()
        except pcapy.PcapError as error:
            raise CaptureError(f"{device}: {error}") from None
        try:
            activated(device, status)
            linkType = reader.datalink()
            if linkType != options.linkType:
                self.learn(device, linkType)
            if options.filter:
                if linkType != options.linkType:
                    raise LinkTypeMismatch(device, linkType, options.linkType)
                reader.setfilter(options.filter)
            reader.setdirection(PCAP_DIRECTION[options.direction])
            reader.setnonblock(1)
            return PcapyHandle(device, reader, options)
        except pcapy.PcapError as error:
            reader.close()
            raise CaptureError(f"{device}: {error}") from None
        except BaseException:
            reader.close()
            raise
