# See LICENSE for details.
"""
What is in a recorded packet, in words, for C{packetdebug}.

The decoder is scapy. It is imported when the first packet is to be described,
and no further than link, network and transport headers: beyond them a port
number is no proof of a protocol. Two of its settings belong to the process; they
are changed for the moment of one packet, and put back.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

#: The magic numbers of a pcap file, as read in the byte order of its writer, and
#: the parts of a second that its time stamps count.
_MAGIC = {0xA1B2C3D4: 1_000_000, 0xA1B23C4D: 1_000_000_000}

#: The most characters of a summary or an error, and the most bytes that are put in
#: the place of those that were not captured: no datagram is longer.
_TEXT, _DATAGRAM = 500, 65535

_lock = threading.Lock()


class Undecodable(Exception):
    """
    A packet that is not what its headers claim.

    @ivar number: Its number in the file, from 1.
    @ivar detail: What the decoder said.
    """

    def __init__(self, number: int, detail: str) -> None:
        super().__init__(f"packet {number} cannot be decoded: {detail}")
        self.number = number
        self.detail = detail


def describe(stream: BinaryIO, strict: bool) -> Iterator[dict[str, Any]]:
    """
    Describe the packets of a pcap file, one after the other. Call it, and take
    what it yields, in a worker thread: it takes some 0.2 ms a packet, and the
    first call in a process imports the decoder.

    A packet is undecodable when the decoder fails at one of its headers. One that
    was cut by the snap length is so only when it would be whatever the missing
    bytes were: a header that the cut runs through is not broken.

    @param stream: The file, at its beginning.
    @param strict: Whether to stop at the first packet that is undecodable.
    @return: For each packet C{number} (from 1), C{time} (seconds since the epoch),
        C{length} (on the wire), C{captured}, C{layers} (names, outermost first,
        C{Raw} for what is unknown), C{summary} (one line of printable ASCII) and
        C{malformed} (what the decoder said of an undecodable one, else C{None}).
    @raise Undecodable: With C{strict}, instead of the first such packet.
    @raise ValueError: It is not a pcap file, or ends within a packet.
    """
    header = stream.read(24)
    for order in "<>":
        if len(header) == 24:
            magic, link = struct.unpack(f"{order}I16xI", header)
            if magic in _MAGIC:
                break
    else:
        raise ValueError("not a pcap file")
    record, number = struct.Struct(f"{order}IIII"), 0
    while header := stream.read(record.size):
        number += 1
        if len(header) < record.size:
            raise ValueError(f"the file ends within the header of packet {number}")
        seconds, part, captured, length = record.unpack(header)
        data = stream.read(captured)
        if len(data) < captured:
            raise ValueError(f"the file ends within packet {number}")
        layers, summary, malformed = _dissect(link, data, length - captured)
        if strict and malformed is not None:
            raise Undecodable(number, malformed)
        yield {
            "number": number,
            "time": seconds + part / _MAGIC[magic],
            "length": length,
            "captured": captured,
            "layers": layers,
            "summary": summary,
            "malformed": malformed,
        }


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")[:_TEXT]


def _load() -> Any:
    """
    Import what is needed of scapy.

    @return: Its configuration.
    """
    if "scapy" not in sys.modules:
        # In a process that has scapy for this alone it need not read routes, nor
        # leave a cache in somebody's home.
        import scapy.main
        from scapy.config import conf

        scapy.main.SCAPY_CACHE_FOLDER = None
        conf.route_autoload = conf.route6_autoload = False
    import scapy.layers.inet
    import scapy.layers.inet6
    import scapy.layers.l2
    from scapy.config import conf

    return conf


@contextmanager
def _settings(conf: Any) -> Iterator[None]:
    """
    Have scapy raise what it finds, rather than log it and take the rest for raw.
    """
    from scapy.error import log_runtime

    before = conf.debug_dissector, log_runtime.disabled
    conf.debug_dissector, log_runtime.disabled = True, True
    try:
        yield
    finally:
        conf.debug_dissector, log_runtime.disabled = before


def _dissect(link: int, data: bytes, missing: int) -> tuple[list[str], str, str | None]:
    """
    @param link: The link type of the file.
    @param data: What was captured of a packet.
    @param missing: How many bytes of it were not.
    @return: Its layers, a summary, and what is wrong with it.
    """
    with _lock:
        conf = _load()
        outermost = conf.l2types.num2layer.get(link, conf.raw_layer)
        if not data:
            outermost = conf.raw_layer  # any other would make its own fields up
        with _settings(conf):
            malformed = None
            try:
                packet = outermost(data)
            except Exception as e:
                if missing <= 0 or _hopeless(outermost, data, missing):
                    malformed = _printable(f"{type(e).__name__}: {e}")
                # Once more, for as many layers as there are.
                conf.debug_dissector = False
                try:
                    packet = outermost(data)
                except Exception:
                    packet = conf.raw_layer(data)
            try:
                summary = packet.summary()
            except Exception as e:
                summary = f"{type(packet).__name__} ({type(e).__name__}: {e})"
            names = [layer.__name__ for layer in packet.layers()]
    return names, _printable(summary), malformed


def _hopeless(outermost: Any, data: bytes, missing: int) -> bool:
    """
    Whether a packet cannot be dissected even when it is made whole, be it with
    zeros or with ones.
    """
    for filling in b"\x00", b"\xff":
        try:
            outermost(data + filling * min(missing, _DATAGRAM))
        except Exception:
            continue
        return False
    return True
