# See LICENSE for details.
"""
The plain capture libraries, C{create/activate/setfilter} and nothing else, for
figures to compare with: pcapy-ng, and the system's libpcap by ctypes. Every
line of standard input is a JSON array of what to do, and every line of standard
output is the answer.
"""

from __future__ import annotations

import ctypes
import json
import select
import struct
import sys
import threading
import time
from collections.abc import Callable

import pcapy

from pcapdaemon.capture.devices import BLOCK_TIMEOUT
from pcapdaemon.capture.libpcap_engine import LIBRARY
from pcapdaemon.test.frames import MINIMUM, sentOf

SNAP = 500

_LONG = struct.calcsize("l")
#: Without types of arguments, as all are pointers or small numbers; the pointers
#: are handed over as such.
_libpcap = ctypes.CDLL(LIBRARY)
_libpcap.pcap_create.restype = ctypes.c_void_p


def opened(device: str, ring: int, filter: str) -> pcapy.Reader:
    """
    Open a device as the daemon does.
    """
    reader = pcapy.create(device)
    reader.set_snaplen(SNAP)
    reader.set_promisc(False)
    reader.set_timeout(BLOCK_TIMEOUT)
    reader.set_buffer_size(ring)
    status = reader.activate()
    if status < 0:
        raise OSError(f"{device}: libpcap error {status}")
    reader.setfilter(filter)
    reader.setnonblock(1)
    return reader


def since(started: int, data: bytes, captured: int) -> float:
    """
    @param started: Nanoseconds since the epoch.
    @param data: The beginning of a frame of L{pcapdaemon.test.frames}.
    @param captured: Its time stamp, in nanoseconds since the epoch.
    @return: Seconds from the start to the sending of the frame.
    """
    sent = sentOf(data)
    # Frames of a sender that was held up carry the time at which it was prepared.
    return ((sent if sent >= started else captured) - started) / 1e9


def first(device: str, ring: int, filter: str) -> float:
    """
    @return: Seconds from the start to the sending of the first frame of
        L{pcapdaemon.test.frames} that is captured.
    """
    started = time.time_ns()
    reader = opened(device, ring, filter)
    taken: list[float] = []

    def take(header: pcapy.Pkthdr, data: bytes) -> None:
        seconds, micro = header.getts()
        taken.append(since(started, data, seconds * 10**9 + micro * 1000))

    while not taken:
        if not select.select([reader.getfd()], [], [], 5)[0]:
            raise TimeoutError(f"no frame for {filter}")
        reader.dispatch(1, take)
    reader.close()
    return taken[0]


def _check(status: int, what: str) -> None:
    if status < 0:
        raise OSError(f"{what}: libpcap error {status}")


def firstOfC(device: str, ring: int, filter: str) -> tuple[float, float]:
    """
    The same with the calls of C that are the least, in the order of libpcap's
    manual.

    @return: As L{first}; and the seconds that the calls took.
    """
    errors, program = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    started = time.time_ns()
    pcap = ctypes.c_void_p(_libpcap.pcap_create(device.encode(), errors))
    _libpcap.pcap_set_snaplen(pcap, SNAP)
    _libpcap.pcap_set_timeout(pcap, BLOCK_TIMEOUT)
    _libpcap.pcap_set_buffer_size(pcap, ring)
    _check(_libpcap.pcap_activate(pcap), device)
    _check(_libpcap.pcap_compile(pcap, program, filter.encode(), 1, 0), filter)
    _check(_libpcap.pcap_setfilter(pcap, program), filter)
    opened = time.time_ns()
    header, data = ctypes.c_void_p(), ctypes.c_void_p()
    while True:
        into = ctypes.byref(header), ctypes.byref(data)
        got = _libpcap.pcap_next_ex(pcap, *into)
        _check(got, device)
        if got:
            break
        if time.time_ns() - started > 5e9:
            raise TimeoutError(f"no frame for {filter}")
    seconds, micro = struct.unpack("ll", ctypes.string_at(header, 2 * _LONG))
    captured = seconds * 10**9 + micro * 1000
    took = since(started, ctypes.string_at(data, MINIMUM), captured)
    _libpcap.pcap_freecode(program)
    _libpcap.pcap_close(pcap)
    return took, (opened - started) / 1e9


def hold(device: str, rings: list[int]) -> float:
    """
    @return: The most seconds for which another thread did not get to run while
        so many devices were opened, and closed.
    """
    longest = 0.0
    over = threading.Event()

    def tick() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not over.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            longest = max(longest, now - last)
            last = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    readers = [opened(device, r, f"udp port {n + 1}") for n, r in enumerate(rings)]
    for reader in readers:
        reader.close()
    over.set()
    ticking.join()
    return longest


_TASKS: dict[str, Callable[..., object]] = {
    each.__name__: each for each in (first, firstOfC, hold)
}


if __name__ == "__main__":
    for line in sys.stdin:
        task, *arguments = json.loads(line)
        print(json.dumps(_TASKS[task](*arguments)), flush=True)
