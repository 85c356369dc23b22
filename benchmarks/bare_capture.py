# See LICENSE for details.
"""
The plain capture library, C{create/activate/setfilter} and nothing else, for
figures to compare with. Every line of standard input is a JSON array of what to
do, and every line of standard output is the answer.
"""

from __future__ import annotations

import json
import select
import sys
import threading
import time
from collections.abc import Callable

import pcapy

from pcapdaemon.capture.devices import BLOCK_TIMEOUT
from pcapdaemon.test.frames import sentOf

SNAP = 500


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


def first(device: str, ring: int, filter: str) -> float:
    """
    @return: Seconds from the start to the sending of the first frame of
        L{pcapdaemon.test.frames} that is captured.
    """
    started = time.time_ns()
    reader = opened(device, ring, filter)
    sent: list[int] = []
    while not sent:
        if not select.select([reader.getfd()], [], [], 5)[0]:
            raise TimeoutError(f"no frame for {filter}")
        reader.dispatch(1, lambda _, data: sent.append(sentOf(data)))
    reader.close()
    return (sent[0] - started) / 1e9


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


_TASKS: dict[str, Callable[..., float]] = {"first": first, "hold": hold}


if __name__ == "__main__":
    for line in sys.stdin:
        task, *arguments = json.loads(line)
        print(json.dumps(_TASKS[task](*arguments)), flush=True)
