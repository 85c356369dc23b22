# See LICENSE for details.
"""
Packets by way of pcapy-ng.

The loop over the packets stays in C: C{Reader.dispatch} calls C{Dumper.dump},
which writes to the recording's memory file through C{/proc/self/fd}. Only the
last few kilobytes before a byte limit go packet by packet through Python,
since the dumper cannot say how much it holds in its buffer.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import struct
from collections.abc import Callable
from typing import Any

import pcapy
from zope.interface import implementer

from pcapdaemon.interfaces import (
    CaptureError,
    Drained,
    Drops,
    ICaptureHandle,
    ICaptureSystem,
    InterfaceLost,
    LinkTypeMismatch,
    OpenOptions,
    PrivilegeError,
)

#: How long the kernel may keep packets back to hand over more at once, in ms:
#: C{pcap_set_timeout}, the retirement time of a ring block.
BLOCK_TIMEOUT = 10

#: Bytes of a pcap file header and of a packet header in it:
#: U{https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-06.html}.
FILE_HEADER, PACKET_HEADER = 24, 16

#: libpcap puts a VLAN tag that the kernel took off back in front.
_VLAN_TAG = 4

#: Bytes and packets that one drain takes before it lets others have a turn.
_SLICE_BYTES, _SLICE_PACKETS = 8 << 20, 16384

#: C{ARPHRD_} numbers (linux/if_arp.h) to C{DLT_} numbers, as libpcap's
#: C{map_arphrd_to_dlt} has them; what is not here is captured cooked.
_ETHERNET, _RAW, _COOKED = 1, 12, 113
_LINK_TYPES = {
    1: _ETHERNET,
    772: _ETHERNET,  # loopback
    519: _RAW,  # raw IP
    768: _RAW,  # IPIP
    769: _RAW,  # IPv6 in IPv6
    776: _RAW,  # SIT
    778: _RAW,  # GRE over IP
    65534: _RAW,  # none: tun devices, WireGuard
    801: 105,  # IEEE 802.11
    803: 127,  # IEEE 802.11 radiotap
}

_SIOCGIFHWADDR = 0x8927
_SO_ATTACH_FILTER = 26

#: One BPF instruction: return 0, which keeps every packet out.
_REJECT = struct.pack("=HBBI", 0x06, 0, 0, 0)

_ACTIVATE_ERRORS = {
    -5: "no such device",
    -6: "the device does not support monitor mode",
    -9: "the device is down",
}
_PERMISSION = (-8, -11)  # PCAP_ERROR_PERM_DENIED, PCAP_ERROR_PROMISC_PERM_DENIED

#: What libpcap says when a device is no longer there or no longer up.
_LOST = re.compile(r"went down|disappeared|[Nn]etwork is down|[Nn]o such device")

_record = struct.Struct("=IIII")


@implementer(ICaptureHandle)
class PcapyHandle:
    """
    An activated pcapy-ng Reader.
    """

    def __init__(self, device: str, reader: pcapy.Reader, snaplength: int) -> None:
        self._device = device
        self._reader = reader
        # Of our own, so that freeze() needs nothing of the Reader's.
        self._socket = socket.socket(fileno=os.dup(reader.getfd()))
        self._longest = PACKET_HEADER + snaplength + _VLAN_TAG
        self._batch = max(32, min(_SLICE_PACKETS, _SLICE_BYTES // self._longest))
        self._dumper: pcapy.Dumper | None = None
        self._file = -1
        self._size = 0  # without a dumper: the exact size of the file
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
        packets = min(packets, _SLICE_PACKETS)
        more = True
        most = os.fstat(self._file).st_size + _SLICE_BYTES
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
            text = f"{self._device}: {error}"
            lost = _LOST.search(text) is not None
            self._error = InterfaceLost(text) if lost else CaptureError(text)
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

    def freeze(self) -> None:
        instruction = ctypes.create_string_buffer(_REJECT)
        program = struct.pack("HP", 1, ctypes.addressof(instruction))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def flush(self) -> None:
        if self._dumper is not None:
            self._dumper.close()
            self._dumper = None
            self._size = os.fstat(self._file).st_size

    def drops(self) -> Drops:
        _received, kernel, interface = self._reader.stats()
        return Drops(kernel, interface)

    def close(self) -> None:
        if self._dumper is not None:
            # Not flush(): the recording's descriptor may be gone by now.
            self._dumper.close()
            self._dumper = None
        self._socket.close()
        self._reader.close()


@implementer(ICaptureSystem)
class PcapySystem:
    """
    The devices of this machine, through pcapy-ng.
    """

    name = "pcapy"

    #: pcapy-ng holds the GIL while it opens, and takes it for every packet: more
    #: threads would only wait for each other.
    threads = 1

    def __init__(self) -> None:
        #: What devices turned out to be, by name and kernel type.
        self._known: dict[tuple[str, int], int] = {}

    def check(self) -> None:
        try:
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
        except PermissionError as error:
            raise PrivilegeError(str(error)) from None
        except OSError as error:
            raise CaptureError(f"packet sockets: {error}") from None

    def linkType(self, device: str) -> int:
        kind = self._kind(device)
        return self._known.get((device, kind), _LINK_TYPES.get(kind, _COOKED))

    def _kind(self, device: str) -> int:
        """
        The kernel's C{ARPHRD_} number of a device; -1 for C{any}.
        """
        if device == "any":
            return -1
        name = device.encode("utf-8", "surrogateescape")
        # libpcap gives other names a meaning of its own ("rpcap://", "usbmon0").
        if not 0 < len(name) < 16 or b"\0" in name:
            raise CaptureError(f"{device!r}: no such device")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            try:
                answer = fcntl.ioctl(s, _SIOCGIFHWADDR, struct.pack("16s24x", name))
            except OSError:
                raise CaptureError(f"{device!r}: no such device") from None
        return int(struct.unpack_from("H", answer, 16)[0])

    def open(self, device: str, options: OpenOptions) -> PcapyHandle:
        kind = self._kind(device)
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
            if status in _PERMISSION:
                raise PrivilegeError(f"{device}: no permission to capture")
            if status < 0:
                why = _ACTIVATE_ERRORS.get(status, f"libpcap error {status}")
                raise CaptureError(f"{device}: {why}")
            linkType = reader.datalink()
            self._known[device, kind] = linkType
            if options.filter:
                if linkType != options.linkType:
                    raise LinkTypeMismatch(
                        f"{device}: link type {linkType}, not {options.linkType}",
                        linkType,
                    )
                reader.setfilter(options.filter)
            reader.setnonblock(1)
            return PcapyHandle(device, reader, options.snaplength)
        except pcapy.PcapError as error:
            reader.close()
            raise CaptureError(f"{device}: {error}") from None
        except BaseException:
            reader.close()
            raise
