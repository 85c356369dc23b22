# See LICENSE for details.
"""
The network devices of this machine, as far as no libpcap is needed to know
them, and the packet socket under each capture.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import struct
from contextlib import suppress

from pcapdaemon.interfaces import (
    CaptureError,
    Direction,
    InterfaceLost,
    PrivilegeError,
)

#: How long the kernel may keep packets back to hand over more at once, in ms:
#: C{pcap_set_timeout}, the retirement time of a ring block.
BLOCK_TIMEOUT = 10

#: Bytes of a pcap file header and of a packet header in it:
#: U{https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-06.html}.
FILE_HEADER, PACKET_HEADER = 24, 16

#: libpcap puts a VLAN tag that the kernel took off back in front.
VLAN_TAG = 4

#: Bytes and packets that one drain takes before it lets others have a turn.
SLICE_BYTES, SLICE_PACKETS = 8 << 20, 16384

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

#: linux/sockios.h and net/if.h.
_SIOCGIFFLAGS, _SIOCGIFHWADDR, _IFF_UP = 0x8913, 0x8927, 1
#: C{SO_GET_FILTER} has the same number.
_SO_ATTACH_FILTER = 26

#: The instructions of a BPF program, of which a socket takes C{BPF_MAXINSNS}:
#: C{ret #n}, which keeps so many bytes of a packet; none keeps it out.
_INSTRUCTION, _MAXIMUM = struct.Struct("=HBBI"), 4096
_RETURN = 0x06
_REJECT = _INSTRUCTION.pack(_RETURN, 0, 0, 0)

#: C{ld #type}, and C{jeq #PACKET_OUTGOING} over the C{ret #0} behind it where what
#: came in is to be kept out, or else to it.
_TYPE = _INSTRUCTION.pack(0x20, 0, 0, 0xFFFFF004)
_ONLY = {
    Direction.IN: _TYPE + _INSTRUCTION.pack(0x15, 0, 1, 4) + _REJECT,
    Direction.OUT: _TYPE + _INSTRUCTION.pack(0x15, 1, 0, 4) + _REJECT,
    Direction.BOTH: b"",
}

_libc = ctypes.CDLL(None, use_errno=True)

#: C{pcap_direction_t}.
PCAP_DIRECTION = {Direction.BOTH: 0, Direction.IN: 1, Direction.OUT: 2}

#: What libpcap's C{pcap_activate} says (pcap/pcap.h).
_ACTIVATE_ERRORS = {
    -5: "no such device",
    -6: "the device does not support monitor mode",
    -9: "the device is down",
}
_PERMISSION = (-8, -11)

#: What libpcap says when a device is no longer there or no longer up.
_LOST = re.compile(r"went down|disappeared|[Nn]etwork is down|[Nn]o such device")


class Devices:
    """
    What devices there are, and what kind they are of.
    """

    def __init__(self) -> None:
        #: What devices turned out to be, by name and kernel type.
        self._known: dict[tuple[str, int], int] = {}

    def check(self) -> None:
        """
        See L{ICaptureSystem.check}.
        """
        try:
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
        except PermissionError as error:
            raise PrivilegeError(str(error)) from None
        except OSError as error:
            raise CaptureError(f"packet sockets: {error}") from None

    def linkType(self, device: str) -> int:
        """
        See L{ICaptureSystem.linkType}.
        """
        kind = self._kind(device)
        return self._known.get((device, kind), _LINK_TYPES.get(kind, _COOKED))

    def learn(self, device: str, linkType: int) -> None:
        """
        Remember what a device was when it was opened.
        """
        self._known[device, self._kind(device)] = linkType

    def _kind(self, device: str) -> int:
        """
        The kernel's C{ARPHRD_} number of a device; -1 for C{any}.
        """
        if device == "any":
            return -1
        name = device.encode("utf-8", "surrogateescape")
        # libpcap gives other names a meaning of its own ("rpcap://", "usbmon0"), and
        # the kernel takes "eth0:1" for another name of eth0.
        if not 0 < len(name) < 16 or b"\0" in name or b":" in name:
            raise CaptureError(f"{device!r}: no such device")
        # Not by asking for it: of a name that it does not know, the kernel has a
        # module loaded.
        if all(device != known for _, known in socket.if_nameindex()):
            raise CaptureError(f"{device!r}: no such device")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                answer = fcntl.ioctl(s, _SIOCGIFHWADDR, struct.pack("16s24x", name))
        except OSError as error:
            raise CaptureError(f"{device!r}: {error.strerror}") from None
        return int(struct.unpack_from("H", answer, 16)[0])


def shut(packets: socket.socket) -> None:
    """
    Let no further packet into the ring of a packet socket. libpcap's own filter
    would also be put to what is there already.
    """
    _attach(packets, _REJECT)


def narrow(
    packets: socket.socket, device: str, direction: str, snaplength: int
) -> None:
    """
    Let only packets of one direction into the ring of a packet socket, and no
    more of each than is kept. libpcap would see to both when it takes them out:
    by then they have been in the way of others, and been counted as dropped.

    Nor will the C{inbound} and C{outbound} of its filters do, since it puts a new
    filter to what is in the ring by itself, where it knows no direction.

    Of C{lo} each packet comes out and in, and libpcap shows only the latter.

    @param direction: One of the words of L{Direction}.
    """
    if device == "lo" and direction == Direction.BOTH:
        direction = Direction.IN
    # A kernel that does not say what is attached, or has no room for more, must do
    # without.
    with suppress(OSError):
        program = _attached(packets) or _INSTRUCTION.pack(_RETURN, 0, 0, snaplength)
        if len(_ONLY[direction]) + len(program) <= _MAXIMUM * _INSTRUCTION.size:
            _attach(packets, _ONLY[direction] + program)


def _attach(packets: socket.socket, program: bytes) -> None:
    instructions = ctypes.create_string_buffer(program, len(program))
    count = len(program) // _INSTRUCTION.size
    fields = struct.pack("HP", count, ctypes.addressof(instructions))
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fields)


def _attached(packets: socket.socket) -> bytes:
    """
    The filter of a socket; empty where it has none.
    """
    # In instructions, not in bytes, which is why Python's own cannot be used.
    count = ctypes.c_uint(_MAXIMUM)
    program = ctypes.create_string_buffer(_MAXIMUM * _INSTRUCTION.size)
    status = _libc.getsockopt(
        packets.fileno(),
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        program,
        ctypes.byref(count),
    )
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return program.raw[: count.value * _INSTRUCTION.size]


def isDown(packets: socket.socket, device: str) -> bool:
    """
    @param packets: A packet socket, in the namespace of the device.
    @return: Whether the device is down or gone; never for C{any}.
    """
    if device == "any":
        return False
    request = struct.pack("16s24x", device.encode("utf-8", "surrogateescape"))
    try:
        answer = fcntl.ioctl(packets, _SIOCGIFFLAGS, request)
    except OSError:
        return True
    return not struct.unpack_from("H", answer, 16)[0] & _IFF_UP


def activated(device: str, status: int, text: str = "") -> None:
    """
    @param status: What C{pcap_activate} returned.
    @param text: What libpcap has to say of it.
    @raise PrivilegeError: It means that we may not.
    @raise CaptureError: It means something else that is not good.
    """
    if status in _PERMISSION:
        raise PrivilegeError(f"{device}: no permission to capture")
    if status < 0:
        why = _ACTIVATE_ERRORS.get(status, text or f"libpcap error {status}")
        raise CaptureError(f"{device}: {why}")


def trouble(device: str, text: str) -> CaptureError:
    """
    @param text: What libpcap says when it cannot read.
    """
    kind = InterfaceLost if _LOST.search(text) else CaptureError
    return kind(f"{device}: {text}")
