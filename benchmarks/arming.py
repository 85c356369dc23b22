# See LICENSE for details.
"""
How soon packets are taken: from the publishing of a request to Redis to the
sending of the first packet that is in the file, on an idle daemon, while frames
that carry their send time pass all the time. In turn, with the same ring and a
filter of the same kind, the plain library does what it must by itself:
C{create}, C{activate}, C{setfilter}.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.report import addEngine, kept, parser, ratio, table
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
from pcapdaemon.test.frames import sentOf
from pcapdaemon.test.pcapfile import read

#: The most ms that the daemon may add, with a new filter and with one that it
#: has seen before.
NEW, REPEATED = 15.0, 5.0
SAME = "udp dst port 9"


def first(stage: Stage, daemon: Daemon, redis: Redis, filter: str) -> tuple[float, int]:
    """
    One capture of one packet.

    @return: Seconds from publishing to the sending of the packet, and the bytes
        of its ring.
    """
    fields = {"bpf": filter, "packets": 1, "timeout": 5}
    message = json.dumps({"node": NODE, "interface": "vb", **fields}).encode()
    since = len(daemon.events)
    started = time.time_ns()
    redis.publish([message])
    [stored] = daemon.wait("stored", since=since)
    [armed] = daemon.wait("armed", since=since)
    path = stage.captures / stored["filename"]
    [packet] = read(path).records
    path.unlink()
    # It is not idle before the device is closed too.
    time.sleep(0.1)
    return (sentOf(packet.data) - started) / 1e9, armed["ring"]


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
    bare, new, repeated = [], [], []
    with stage() as made:
        redis = Redis(made)
        daemon = Daemon(made, True, capture={"engine": arguments.engine})
        library = BareCapture(made)
        with frames(made, arguments.rate):
            _, ring = first(made, daemon, redis, SAME)
            library.do("first", "vb", ring, SAME)
        for number in range(arguments.trials):
            filter = f"{SAME} and not port {1000 + number}"
            with frames(made, arguments.rate):
                warm(1 << 27)
                bare.append(library.do("first", "vb", ring, filter))
                warm(1 << 27)
                new.append(first(made, daemon, redis, filter)[0])
                warm(1 << 27)
                repeated.append(first(made, daemon, redis, SAME)[0])

    plain = statistics.median(bare) * 1e3

    def row(what: str, trials: list[float], limit: float) -> tuple[str, ...]:
        median = statistics.median(trials) * 1e3
        beyond = median - plain
        return (
            what,
            *(f"{median:.1f}", f"{max(trials) * 1e3:.1f}", ratio(median, plain)),
            *(f"{beyond:.1f}", f"{limit:g}", kept(beyond, limit)),
        )

    table(
        f"From publishing to the first packet, ms, {arguments.trials} trials of each "
        f"kind, ring of {ring >> 20} MiB",
        ("", "median", "slowest", "ratio", "beyond the library", "at most", "kept"),
        [
            ("plain library", f"{plain:.1f}", f"{max(bare) * 1e3:.1f}", *[""] * 4),
            row("pcapdaemon, new filters", new, NEW),
            row("pcapdaemon, the same filter", repeated, REPEATED),
        ],
    )


if __name__ == "__main__":
    run(main)
