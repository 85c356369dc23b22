# See LICENSE for details.
"""
A strict reader of pcap files, independent of any capture library, so that tests
can say exactly what a file holds.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from array import array

import attrs

from pcapdaemon.test.frames import HEADERS

#: Bytes of the file header, and of the header of each packet.
FILE_HEADER, PACKET_HEADER = 24, 16

#: Magic number as it lies in the file: byte order, and whether the fractions of
#: time stamps are nanoseconds.
_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", False),
    b"\xa1\xb2\xc3\xd4": (">", False),
    b"\x4d\x3c\xb2\xa1": ("<", True),
    b"\xa1\xb2\x3c\x4d": (">", True),
}

Source = str | os.PathLike[str] | int | bytes


class BadFile(Exception):
    """
    This is no pcap file, or a damaged one; the text says where.
    """


@attrs.frozen
class Record:
    """
    One packet.

    @ivar time: Nanoseconds since the epoch.
    @ivar data: The bytes that were kept.
    @ivar original: How many bytes there were on the wire.
    """

    time: int
    data: bytes
    original: int


@attrs.frozen
class PcapFile:
    """
    A whole file.

    @ivar nanoseconds: Whether time stamps are that fine, not microseconds.
    @ivar snaplength: The most bytes kept of a packet, as the header says.
    @ivar linkType: The C{LINKTYPE_} number.
    @ivar records: The packets, in the order of the file.
    """

    nanoseconds: bool
    snaplength: int
    linkType: int
    records: tuple[Record, ...]


def _bytes(source: Source) -> bytes | mmap.mmap:
    """
    What is in a file, without moving the offset of a descriptor.
    """
    if isinstance(source, bytes):
        return source
    if not isinstance(source, int):
        with open(source, "rb") as opened:
            return _bytes(opened.fileno())
    if os.fstat(source).st_size == 0:
        return b""  # which cannot be mapped
    return mmap.mmap(source, 0, prot=mmap.PROT_READ)


def _header(data: bytes | mmap.mmap) -> tuple[str, bool, int, int]:
    """
    @return: Byte order, whether fractions are nanoseconds, snap length and
        link type.
    """
    if len(data) < FILE_HEADER:
        raise BadFile(f"{len(data)} bytes are less than a file header")
    if data[:4] not in _MAGIC:
        raise BadFile(f"magic number {data[:4].hex()}")
    order, nanoseconds = _MAGIC[data[:4]]
    fields = struct.unpack_from(order + "HHiIII", data, 4)
    major, minor, _zone, _accuracy, snaplength, network = fields
    if (major, minor) != (2, 4):
        raise BadFile(f"version {major}.{minor}")
    return order, nanoseconds, snaplength, network & 0x0FFFFFFF


def read(source: Source) -> PcapFile:
    """
    Read a pcap file and check all of it.

    @param source: A path, a descriptor, whose offset stays, or the bytes.
    @raise BadFile: Any byte is not as it must be, after the last packet too.
    """
    data = _bytes(source)
    order, nanoseconds, snaplength, linkType = _header(data)
    factor, units = (1, 10**9) if nanoseconds else (1000, 10**6)
    record = struct.Struct(order + "IIII")
    records: list[Record] = []
    position, end = FILE_HEADER, len(data)
    while position < end:
        where = f"packet {len(records) + 1} at byte {position}"
        if end - position < PACKET_HEADER:
            raise BadFile(f"{where}: {end - position} bytes are less than a header")
        seconds, fraction, kept, original = record.unpack_from(data, position)
        position += PACKET_HEADER
        if fraction >= units:
            raise BadFile(f"{where}: fraction {fraction} of a second")
        if kept > snaplength:
            raise BadFile(f"{where}: {kept} bytes, snap length {snaplength}")
        if kept > original:
            raise BadFile(f"{where}: {kept} bytes of {original}")
        if kept > end - position:
            raise BadFile(f"{where}: {end - position} of {kept} bytes are there")
        packet = data[position : position + kept]
        records.append(Record(seconds * 10**9 + fraction * factor, packet, original))
        position += kept
    return PcapFile(nanoseconds, snaplength, linkType, tuple(records))


def sequences(source: Source, headers: int = HEADERS) -> array[int]:
    """
    The sequence numbers in a file of L{pcapdaemon.test.frames}, also in one of
    millions of packets.

    @param source: As in L{read}.
    @param headers: Bytes in front of the payload, as the link type has them.
    @raise BadFile: As in L{read}; where all packets have one size only file
        header and sizes are checked.
    """
    data = _bytes(source)
    order, _nanoseconds, snaplength, _linkType = _header(data)
    numbers = array("Q")
    if len(data) == FILE_HEADER:
        return numbers
    (kept,) = struct.unpack_from(order + "I", data, min(32, len(data) - 4))
    stride = PACKET_HEADER + kept
    count, rest = divmod(len(data) - FILE_HEADER, stride)
    size = struct.pack(order + "I", kept)
    with memoryview(data) as view:

        def column(offset: int) -> bytes:
            """One byte of each packet."""
            return view[FILE_HEADER + offset :: stride].tobytes()

        equal = not rest and all(
            column(8 + i) == size[i : i + 1] * count for i in range(4)
        )
        if equal and headers + 8 <= kept <= snaplength:
            packed = bytearray(8 * count)
            for i in range(8):
                packed[i::8] = column(PACKET_HEADER + headers + i)
            numbers.frombytes(packed)
            if sys.byteorder == "little":
                numbers.byteswap()
            return numbers
    number = struct.Struct("!Q")
    for index, record in enumerate(read(data[:]).records, 1):
        if len(record.data) < headers + 8:
            raise BadFile(f"packet {index}: no number in {len(record.data)} bytes")
        numbers.append(number.unpack_from(record.data, headers)[0])
    return numbers
