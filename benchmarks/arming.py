# See LICENSE for details.
"""
How soon packets are taken: from the publishing of a request to Redis to the
sending of the first packet that is in the file, on an idle daemon, while frames
that carry their send time pass all the time. In turn, with the same ring and a
filter of the same kind, a bare process that waits for it does what must be done
and no more: C{pcap_create}, C{pcap_activate}, C{pcap_compile}, C{pcap_setfilter},
once in C by ctypes and once with pcapy-ng.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.bare_capture import since
from benchmarks.report import addEngine, asked, chart, parser, ratio, table
from benchmarks.results import Bar
from benchmarks.stage import (
    NODE,
    BareCapture,
    Daemon,
    Redis,
    Stage,
    run,
    stage,
    warm,
)
from pcapdaemon.test.pcapfile import read

#: The most ms that the daemon may add to the bare cost of opening in C, by the
#: median.
BEYOND = 2.0
#: The Go program, measured once on such a machine; ms.
GO = 8.0
SAME = "udp dst port 9"
C, PCAPY = "bare process, C", "bare process, pcapy-ng"
CALLS = "- of which the calls"
OWN = "pcapdaemon, new filters", "pcapdaemon, the same filter"


def first(stage: Stage, daemon: Daemon, redis: Redis, filter: str) -> tuple[float, int]:
    """
    One capture of one packet.

    @return: Seconds from publishing to the sending of the packet, and the bytes
        of its ring.
    """
    fields = {"bpf": filter, "packets": 1, "timeout": 5}
    message = json.dumps({"node": NODE, "interface": "vb", **fields}).encode()
    position = len(daemon.events)
    started = time.time_ns()
    redis.publish([message])
    [stored] = daemon.wait("stored", since=position)
    [armed] = daemon.wait("armed", since=position)
    path = stage.captures / stored["filename"]
    [packet] = read(path).records
    path.unlink()
    # It is not idle before the device is closed too.
    time.sleep(0.1)
    return since(started, packet.data, packet.time), armed["ring"]


@contextmanager
def frames(stage: Stage, rate: float) -> Iterator[None]:
    """
    Have frames pass meanwhile, for ten seconds at most.
    """
    flood = stage.pair.flood(int(10 * rate), rate=rate)
    flood.start()
    try:
        yield
    finally:
        flood.process.kill()
        flood.process.wait()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=30, help="of each kind")
    options.add_argument("--rate", type=float, default=20_000, help="frames a second")
    addEngine(options)
    arguments = options.parse_args()
    taken: dict[str, list[float]] = {each: [] for each in (C, CALLS, PCAPY, *OWN)}
    with stage() as made:
        redis = Redis(made)
        daemon = Daemon(made, True, capture={"engine": arguments.engine})
        library = BareCapture(made)
        with frames(made, arguments.rate):
            _, ring = first(made, daemon, redis, SAME)
            for task in ("first", "firstOfC"):
                library.do(task, "vb", ring, SAME)
        for number in range(arguments.trials):
            filter = f"{SAME} and not port {1000 + number}"
            with frames(made, arguments.rate):
                warm(1 << 27)
                bare, calls = library.do("firstOfC", "vb", ring, filter)
                taken[C].append(bare)
                taken[CALLS].append(calls)
                warm(1 << 27)
                taken[PCAPY].append(library.do("first", "vb", ring, filter))
                for own, each in zip(OWN, (filter, SAME)):
                    warm(1 << 27)
                    taken[own].append(first(made, daemon, redis, each)[0])

    medians = {name: statistics.median(each) * 1e3 for name, each in taken.items()}

    def row(name: str) -> tuple[str, ...]:
        median, plain = medians[name], medians[C]
        quick, slow = min(taken[name]) * 1e3, max(taken[name]) * 1e3
        times = f"{median:.1f}", f"{quick:.1f}", f"{slow:.1f}", ratio(median, plain)
        if name not in OWN:
            return (name, *times, "", "", "")
        beyond = median - plain
        what = f"publish to first packet, {name}: median beyond the bare cost in C"
        return (
            name,
            *times,
            *(f"{beyond:.1f}", f"{BEYOND:g}", asked(what, beyond, BEYOND, "ms")),
        )

    table(
        f"From publishing to the first packet, ms, {arguments.trials} trials of each "
        f"kind, ring of {ring >> 20} MiB",
        ("", "median", "fastest", "slowest", "ratio", "beyond C", "at most", "kept"),
        [row(name) for name in taken],
    )
    chart(
        "From publishing to the first packet, ms, median",
        [
            *(Bar(name, [medians[name]], name in OWN) for name in (C, PCAPY, *OWN)),
            Bar("Go program", [GO], cited=True),
        ],
    )


if __name__ == "__main__":
    run(main)
