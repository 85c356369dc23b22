# See LICENSE for details.
"""
A generator of sequence-numbered Ethernet frames, for tests and benchmarks.

Every frame is a UDP datagram whose payload begins with a 64-bit sequence
number and a 64-bit time (nanoseconds since the epoch), so that a reader can
prove that nothing is missing, repeated or out of order, and how late the first
frame was. The time is that at which the frame was handed to the kernel, or,
where eight or more leave together, the one at which it was prepared.

Run as a program it sends and prints one JSON object with what it reached::

    python -m pcapdaemon.test.frames --to 192.0.2.2 --count 2000000 --size 128

The speed comes from C{UDP_SEGMENT}: one system call hands the kernel many
datagrams, which it cuts apart before the device when the device's own
segmentation is off (L{pcapdaemon.test.network.Pair} sees to that).
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import time

#: Bytes of Ethernet, IPv4 and UDP in front of the payload.
HEADERS = 14 + 20 + 8
#: The smallest frame that carries a sequence number and a time.
MINIMUM = HEADERS + 16

#: C{UDP_SEGMENT} of C{linux/udp.h}, and C{UDP_MAX_SEGMENTS} of older kernels.
_UDP_SEGMENT, _MAX_SEGMENTS = 103, 64

_pair = struct.Struct("!QQ")


def frame(sequence: int, size: int = 128, vlan: int | None = None) -> bytes:
    """
    One whole frame, for a packet socket.

    @param sequence: The sequence number.
    @param size: Bytes of the frame, the VLAN tag not counted.
    @param vlan: An 802.1Q VLAN identifier to tag the frame with.
    """
    payload = _pair.pack(sequence, time.time_ns()) + bytes(size - MINIMUM)
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0x4000, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", ip))
    checksum = ~(total % 0xFFFF) & 0xFFFF
    ip = ip[:10] + struct.pack("!H", checksum) + ip[12:]
    udp = struct.pack("!HHHH", 4000, 9, size - 34, 0)
    tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
    ethernet = b"\x02\0\0\0\0\2\x02\0\0\0\0\1" + tag + b"\x08\x00"
    return ethernet + ip + udp + payload


def sequenceOf(data: bytes, headers: int = HEADERS) -> int:
    """
    The sequence number in captured bytes.

    @param headers: Bytes in front of the payload, as the link type has them.
    """
    return int(_pair.unpack_from(data, headers)[0])


def sentOf(data: bytes, headers: int = HEADERS) -> int:
    """The time in captured bytes, in nanoseconds since the epoch."""
    return int(_pair.unpack_from(data, headers)[1])


class Sender:
    """
    Sends numbered frames of one size to one address.

    @ivar size: Bytes of each frame, Ethernet header included.
    """

    def __init__(self, address: str, size: int = 128, port: int = 9) -> None:
        if size < MINIMUM:
            raise ValueError(f"size {size}: at least {MINIMUM} bytes are needed")
        self.size = size
        self._payload = size - HEADERS
        self._batch = min(_MAX_SEGMENTS, 65000 // self._payload)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, self._payload)
        self._socket.connect((address, port))

    def close(self) -> None:
        self._socket.close()

    def prepare(self, first: int, count: int) -> bytearray:
        """The payloads of C{count} frames numbered from C{first}."""
        prepared = bytearray(self._payload * count)
        now = time.time_ns()
        for i in range(count):
            _pair.pack_into(prepared, i * self._payload, first + i, now)
        return prepared

    def _write(self, view: memoryview) -> None:
        while True:
            try:
                self._socket.send(view)
                return
            except ConnectionRefusedError:
                continue  # the answer to an earlier datagram; this one is unsent

    def send(self, count: int, rate: float = 0, first: int = 0) -> float:
        """
        Prepare and send frames, and return how many seconds the sending took.

        @param rate: Frames a second; 0 sends as fast as the kernel takes
            them. Frames that are due at the same moment leave together.
        @param first: The number of the first frame.
        """
        return self.sendPrepared(self.prepare(first, count), rate, first)

    def sendPrepared(
        self, prepared: bytearray, rate: float = 0, first: int = 0
    ) -> float:
        """
        Send what L{prepare} made for the same C{first}, as L{send} does.
        """
        view = memoryview(prepared)
        step = self._payload
        count = len(prepared) // step
        started = time.perf_counter()
        number = 0
        while number < count:
            end = min(number + self._batch, count)
            if rate:
                elapsed = time.perf_counter() - started
                end = min(end, int(elapsed * rate) + 1)
                if end <= number:
                    wait = number / rate - elapsed
                    if wait > 0.0002:
                        time.sleep(wait - 0.0001)
                    continue
                if end - number < 8:
                    # Slow enough to be asked for delays: say when it left.
                    now = time.time_ns()
                    for i in range(number, end):
                        _pair.pack_into(view, i * step, first + i, now)
            self._write(view[number * step : end * step])
            number = end
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--to", required=True, help="IPv4 address to send to")
    parser.add_argument("--count", type=int, default=1000, help="frames")
    parser.add_argument("--size", type=int, default=128, help="bytes of a frame")
    parser.add_argument("--port", type=int, default=9, help="UDP destination port")
    parser.add_argument("--first", type=int, default=0, help="first number")
    parser.add_argument(
        "--rate", type=float, default=0, help="frames a second; 0: flat out"
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="print 'ready', and send when a line comes on standard input",
    )
    arguments = parser.parse_args()
    sender = Sender(arguments.to, arguments.size, arguments.port)
    prepared = sender.prepare(arguments.first, arguments.count)
    if arguments.wait:
        print("ready", flush=True)
        sys.stdin.readline()
    seconds = sender.sendPrepared(prepared, arguments.rate, arguments.first)
    sender.close()
    report = {
        "frames": arguments.count,
        "size": arguments.size,
        "seconds": round(seconds, 4),
        "rate": round(arguments.count / seconds),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
