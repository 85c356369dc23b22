# See LICENSE for details.
"""
Packets by way of libpcap itself, called through ctypes.

The whole loop over the packets is C, C{pcap_dispatch} with C{pcap_dump} for its
callback, and the GIL is free while it runs, as it is while a device is opened
or closed and while a filter is compiled.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
from contextlib import nullcontext
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_uint32, c_void_p
from functools import cache
from threading import Lock
from typing import Any

from zope.interface import implementer

from pcapdaemon.capture.budget import BLOCK
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
    isDown,
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
    InterfaceLost,
    LinkTypeMismatch,
    OpenOptions,
)

#: The shared library: the name of its interface, the same since 2008.
LIBRARY = "libpcap.so.0.8"

#: The oldest version that compiles every filter in bounded time.
_OLDEST = (1, 10)

#: C{PCAP_ERRBUF_SIZE} of pcap/pcap.h, and the netmask that filters are checked with.
_ERRBUF_SIZE, _NETMASK = 256, 0

#: Bytes of a ring that has few blocks; what the kernel puts in front of a packet,
#: at most; and how many packets a ring of frames must hold to be better.
_FEW_BLOCKS, _FRAME_HEADER, _MANY_FRAMES = 16 * BLOCK, 96, 256

#: Bytes that gather before they are written to the recording: what stays in the
#: processor's cache; a megabyte costs no less. Then C{_IOFBF} of glibc's stdio.h, and
#: C{FSETLOCKING_BYCALLER} of its stdio_ext.h.
_BUFFER, _IOFBF, _BYCALLER = 64 << 10, 0, 2


#: The kernel clears a ring when it makes one. From this size on one at a time, so
#: that a storm of requests leaves a core to everybody else.
_LARGE = 4 << 20


class _Program(ctypes.Structure):
    """
    C{struct bpf_program}.
    """

    _fields_ = [("length", ctypes.c_uint), ("instructions", c_void_p)]


class _Stat(ctypes.Structure):
    """
    C{struct pcap_stat}.
    """

    _fields_ = [
        ("received", ctypes.c_uint),
        ("dropped", ctypes.c_uint),
        ("ifdropped", ctypes.c_uint),
    ]


#: What may take long, or waits for the kernel, and so gives up the GIL: the type
#: of its result, and those of its arguments.
_SLOW: dict[str, tuple[Any, ...]] = {
    "pcap_activate": (c_int, c_void_p),
    "pcap_compile": (c_int, c_void_p, POINTER(_Program), c_char_p, c_int, c_uint32),
    "pcap_setfilter": (c_int, c_void_p, POINTER(_Program)),
    "pcap_dispatch": (c_int, c_void_p, c_int, c_void_p, c_void_p),
    "pcap_dump_flush": (c_int, c_void_p),
    "pcap_dump_close": (None, c_void_p),
    "pcap_close": (None, c_void_p),
}
#: What takes less than giving up the GIL and getting it back.
_QUICK: dict[str, tuple[Any, ...]] = {
    "pcap_create": (c_void_p, c_char_p, c_char_p),
    "pcap_set_snaplen": (c_int, c_void_p, c_int),
    "pcap_set_promisc": (c_int, c_void_p, c_int),
    "pcap_set_timeout": (c_int, c_void_p, c_int),
    "pcap_set_immediate_mode": (c_int, c_void_p, c_int),
    "pcap_set_buffer_size": (c_int, c_void_p, c_int),
    "pcap_set_tstamp_precision": (c_int, c_void_p, c_int),
    "pcap_setdirection": (c_int, c_void_p, c_int),
    "pcap_setnonblock": (c_int, c_void_p, c_int, c_char_p),
    "pcap_get_selectable_fd": (c_int, c_void_p),
    "pcap_datalink": (c_int, c_void_p),
    "pcap_freecode": (None, POINTER(_Program)),
    "pcap_dump_fopen": (c_void_p, c_void_p, c_void_p),
    "pcap_dump_ftell64": (c_int64, c_void_p),
    "pcap_stats": (c_int, c_void_p, POINTER(_Stat)),
    "pcap_geterr": (c_char_p, c_void_p),
    "pcap_lib_version": (c_char_p,),
}
_STDIO: dict[str, tuple[Any, ...]] = {
    "fdopen": (c_void_p, c_int, c_char_p),
    "ferror": (c_int, c_void_p),
    "__fsetlocking": (c_int, c_void_p, c_int),
    "setvbuf": (c_int, c_void_p, c_void_p, c_int, ctypes.c_size_t),
}


class _Functions:
    """
    Functions of a shared library, as attributes.
    """

    def __init__(self, library: str | None) -> None:
        """
        @raise OSError: It is not there.
        """
        slow, quick = ctypes.CDLL(library), ctypes.PyDLL(library, use_errno=True)
        tables = ((slow, _SLOW), (quick, _QUICK)) if library else ((quick, _STDIO),)
        for source, table in tables:
            for name, (result, *arguments) in table.items():
                function = getattr(source, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        if library:
            # Not called from here: libpcap calls it back.
            self.pcap_dump = ctypes.cast(slow.pcap_dump, c_void_p)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@cache
def _stdio() -> _Functions:
    """
    Those of the C library; made once, for ctypes makes types for each library.
    """
    return _Functions(None)


def _isOfFrames(options: OpenOptions) -> bool:
    """
    Whether a ring has one frame for each packet, and not blocks for many.

    The kernel gives a block up after L{BLOCK_TIMEOUT}, however little is in it: two
    blocks are full with two packets that nobody took at once. A small ring of
    frames holds hundreds, as long as they are short.
    """
    frames = options.buffersize // (options.snaplength + _FRAME_HEADER)
    return options.buffersize < _FEW_BLOCKS and frames >= _MANY_FRAMES


@implementer(ICaptureHandle)
class LibpcapHandle:
    """
    An activated C{pcap_t}.
    """

    def __init__(
        self, library: _Functions, device: str, pcap: int, options: OpenOptions
    ) -> None:
        self._library = library
        self._device = device
        self._pcap = pcap
        descriptor = library.pcap_get_selectable_fd(pcap)
        # Of our own, so that freeze() needs nothing of libpcap's.
        self._socket = socket.socket(fileno=os.dup(descriptor))
        narrow(self._socket, device, options.direction, options.snaplength)
        self._counters = Counters(self._stat)
        self._longest = PACKET_HEADER + options.snaplength + VLAN_TAG
        self._batch = max(32, min(SLICE_PACKETS, SLICE_BYTES // self._longest))
        self._dumper: int | None = None
        self._size = 0
        self._taken = 0
        self._full = False
        # libpcap 1.10 waits for a device that is down, and says nothing.
        self._lost = False
        self._error: CaptureError | None = None
        self.linkType: int = library.pcap_datalink(pcap)

    def fileno(self) -> int:
        return self._socket.fileno()

    def record(self, descriptor: int) -> None:
        stdio = _stdio()
        own = os.dup(descriptor)
        stream = stdio.fdopen(own, b"wb")
        if not stream:
            os.close(own)
            raise CaptureError(f"{self._device}: {os.strerror(ctypes.get_errno())}")
        # Ours, since glibc does not mind the size of one that it makes itself; and
        # not before there are packets.
        self._buffer = ctypes.create_string_buffer(_BUFFER)
        stdio.setvbuf(stream, self._buffer, _IOFBF, _BUFFER)
        # No two calls overlap. To lock it three times for each packet, as a process
        # with threads does, would be a third of what a packet costs.
        getattr(stdio, "__fsetlocking")(stream, _BYCALLER)
        self._stream = stream
        self._dumper = self._library.pcap_dump_fopen(self._pcap, stream)
        if not self._dumper:
            raise CaptureError(f"{self._device}: {self._text()}")
        self._size = FILE_HEADER

    def drain(self, packets: int, size: int) -> Drained:
        self._counters.keep()
        packets = min(packets, SLICE_PACKETS)
        most = self._size + SLICE_BYTES
        taken, more = 0, True
        while taken < packets and not self._full and self._error is None:
            # The limit cannot be reached before the last of so many.
            exact = -((self._size - size) // self._longest)
            wanted = min(packets - taken, self._batch, max(1, exact))
            got = self._library.pcap_dispatch(
                self._pcap, wanted, self._library.pcap_dump, self._dumper
            )
            if got < 0:
                # The error comes when the ring is empty, so nothing was taken.
                self._error = trouble(self._device, self._text())
                break
            taken += got
            self._taken += got
            self._size = self._library.pcap_dump_ftell64(self._dumper)
            self._full = self._size >= size
            if got < wanted:
                more = False
                break
            if self._size >= most:
                break
        if self._full:
            self._library.pcap_dump_flush(self._dumper)
        elif not taken and self._error is None and not self._lost:
            self._lost = isDown(self._socket, self._device)
            if self._lost:
                raise InterfaceLost(f"{self._device}: the interface went down")
        if self._error is not None and not taken:
            error, self._error = self._error, None
            raise error
        return Drained(taken, self._size, self._full, more)

    def _text(self) -> str:
        return str(self._library.pcap_geterr(self._pcap).decode("utf-8", "replace"))

    def pending(self) -> bool:
        self._counters.look()
        return self._counters.received - self._counters.dropped != self._taken

    def freeze(self) -> None:
        shut(self._socket)

    def flush(self) -> None:
        if self._dumper:
            written = self._library.pcap_dump_flush(self._dumper)
            # pcap_dump() says nothing of what it could not write.
            if _stdio().ferror(self._stream):
                written = -1
            self._library.pcap_dump_close(self._dumper)
            self._dumper = None
            # Not when the garbage of a hundred captures is collected.
            del self._buffer, self._stream
            if written < 0:
                raise CaptureError(f"{self._device}: no memory for the recording")

    def drops(self) -> Drops:
        return self._counters.drops()

    def _stat(self) -> tuple[int, int, int]:
        stat = _Stat()
        if self._library.pcap_stats(self._pcap, byref(stat)) < 0:
            raise CaptureError(f"{self._device}: {self._text()}")
        return stat.received, stat.dropped, stat.ifdropped

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._library.pcap_close(self._pcap)
            self._socket.close()


@implementer(ICaptureSystem)
class LibpcapSystem(Devices):
    """
    The devices of this machine, through the system's libpcap.
    """

    # Opening and closing wait for the kernel, some 25 ms each, and hold nothing: a
    # thousand take 1.4 s with so many, 2.5 s with eight, and no less with more.
    openers = 32
    drainers = 2
    nanoseconds = True

    def __init__(self, library: str = LIBRARY) -> None:
        """
        @param library: The name of the shared library.
        @raise OSError: It is not there, or too old.
        """
        super().__init__()
        self._library = _Functions(library)
        self._large = Lock()
        version = self._library.pcap_lib_version().decode()
        found = re.search(r"version (\d+)\.(\d+)", version)
        if found is None or (int(found[1]), int(found[2])) < _OLDEST:
            # One short filter keeps an older one busy for ever (its issue 112).
            raise OSError(f"{version} is older than 1.10")
        self.name = f"libpcap ({version.partition(' (')[0]})"

    def open(self, device: str, options: OpenOptions) -> LibpcapHandle:
        library = self._library
        errors = ctypes.create_string_buffer(_ERRBUF_SIZE)
        pcap = library.pcap_create(os.fsencode(device), errors)
        if not pcap:
            raise CaptureError(f"{device}: {errors.value.decode('utf-8', 'replace')}")
        try:
            library.pcap_set_snaplen(pcap, options.snaplength)
            library.pcap_set_promisc(pcap, options.promiscuous)
            library.pcap_set_timeout(pcap, BLOCK_TIMEOUT)
            library.pcap_set_buffer_size(pcap, options.buffersize)
            library.pcap_set_tstamp_precision(pcap, options.nanoseconds)
            library.pcap_set_immediate_mode(pcap, _isOfFrames(options))
            with self._large if options.buffersize >= _LARGE else nullcontext():
                status = library.pcap_activate(pcap)
            text = library.pcap_geterr(pcap).decode("utf-8", "replace")
            activated(device, status, text)
            linkType = library.pcap_datalink(pcap)
            if linkType != options.linkType:
                self.learn(device, linkType)
            if options.filter:
                if linkType != options.linkType:
                    raise LinkTypeMismatch(device, linkType, options.linkType)
                self._filter(device, pcap, options.filter)
            library.pcap_setdirection(pcap, PCAP_DIRECTION[options.direction])
            library.pcap_setnonblock(pcap, 1, errors)
            return LibpcapHandle(library, device, pcap, options)
        except BaseException:
            library.pcap_close(pcap)
            raise

    def _filter(self, device: str, pcap: int, filter: str) -> None:
        library, program = self._library, _Program()
        text = filter.encode()
        status = library.pcap_compile(pcap, byref(program), text, 1, _NETMASK)
        if status == 0:
            status = library.pcap_setfilter(pcap, byref(program))
            library.pcap_freecode(byref(program))
        if status < 0:
            error = library.pcap_geterr(pcap).decode("utf-8", "replace")
            raise CaptureError(f"{device}: {error}")
