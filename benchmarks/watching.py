# See LICENSE for details.
"""
What it costs to be watched: a capture at 500,000 packets a second while nobody wants
to know, with C{progress} in C{[events]}, and with an open page, which reads
C{/events} and asks for what the page asks for. The three take turns, each with a
daemon of its own; what is compared are runs of the same round. The reader's own time
is not counted, for it is that of a browser.
"""

from __future__ import annotations

import http.client
import statistics
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import attrs

from benchmarks.report import addEngine, asked, parser, ratio, table
from benchmarks.stage import NODE, Daemon, Failed, Stage, run, stage, warm

FILTER, SIZE = "udp port 9", 128
#: The most that being watched may cost, in percent of a core.
LIMIT = 3.0
NOBODY, PROGRESS, PAGE = "nobody", "[events] progress = 1", "an open page"


@attrs.frozen
class Watched:
    """
    @ivar cpu: Seconds of processor time, children included.
    @ivar seconds: For how long the frames came.
    @ivar lost: Packets that are missing.
    @ivar told: How many C{progress} events were read.
    """

    cpu: float
    seconds: float
    lost: int
    told: int

    @property
    def share(self) -> float:
        """Percent of a core."""
        return self.cpu / self.seconds * 100


class _Reader:
    """
    Reads C{/events}, as a page does, in a thread.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._connection = daemon.connect()
        self._connection.request("GET", "/events")
        self._answer = self._connection.getresponse()
        if self._answer.status != http.HTTPStatus.OK:
            raise Failed(f"/events was answered {self._answer.status}")
        self.told = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._answer:
            self.told += line == b"event: progress\n"


@contextmanager
def opened(daemon: Daemon, health: float) -> Iterator[_Reader]:
    """
    A page that is open meanwhile.

    @param health: Seconds between two looks at C{/healthz}.
    """
    reader, over = _Reader(daemon), threading.Event()
    for path in ("/captures", "/refusals", "/interfaces"):
        daemon.ask("GET", path)

    def look() -> None:
        while not over.wait(health):
            daemon.ask("GET", "/healthz")

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield reader
    finally:
        over.set()
        looking.join()


def capture(made: Stage, daemon: Daemon, count: int, rate: float) -> Watched:
    """
    One capture, from just before its first packet until it is stored.
    """
    request = {"node": NODE, "interface": "vb", "bpf": FILTER, "timeout": 3}
    answer = daemon.ask("POST", "/captures", {**request, "packets": count})
    if "ids" not in answer:
        raise Failed(f"the request was refused: {answer}")
    daemon.wait("armed")
    flood = made.pair.flood(count, SIZE, rate)
    warm()
    before = daemon.usage.cpu() + daemon.usage.childrensCPU()
    flood.start()
    [stored] = daemon.wait("stored")
    used = daemon.usage.cpu() + daemon.usage.childrensCPU() - before
    (made.captures / stored["filename"]).unlink()
    [completed] = daemon.wait("completed")
    seconds = count / float(flood.result(120)["rate"])
    return Watched(used, seconds, count - completed["packets"], 0)


def measure(made: Stage, how: str, count: int, rate: float, engine: str) -> Watched:
    """
    One run.

    @param how: L{NOBODY}, L{PROGRESS} or L{PAGE}.
    """
    daemon = Daemon(
        made,
        general={"maxpackets": count, "maxbytes": 10**9, "writelocal": True},
        capture={"engine": engine},
        events={"progress": 1 if how == PROGRESS else 0},
    )
    try:
        if how != PAGE:
            return capture(made, daemon, count, rate)
        with opened(daemon, 5) as reader:
            found = capture(made, daemon, count, rate)
            return attrs.evolve(found, told=reader.told)
    finally:
        daemon.stop()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=2_000_000, help="frames")
    options.add_argument("--rate", type=float, default=500_000, help="frames a second")
    options.add_argument("--repeat", type=int, default=7, help="rounds")
    addEngine(options)
    arguments = options.parse_args()
    ways = (NOBODY, PROGRESS, PAGE)
    found: dict[str, list[Watched]] = {way: [] for way in ways}
    with stage() as made:
        for number in range(arguments.repeat):
            # Whoever is first in a round is another one each time.
            for n in range(len(ways)):
                way = ways[(number + n) % len(ways)]
                found[way].append(
                    measure(
                        made, way, arguments.count, arguments.rate, arguments.engine
                    )
                )

    def median(values: Iterable[float]) -> float:
        return statistics.median(values)

    pairs = {way: list(zip(found[way], found[NOBODY], strict=True)) for way in ways}
    more = {way: median(a.share - b.share for a, b in pairs[way]) for way in ways}
    table(
        f"{arguments.count:,} frames of {SIZE} bytes at {arguments.rate / 1e3:g} kpps, "
        f"{arguments.repeat} rounds: medians, most lost",
        ("watched by", "% of a core", "more, %", "ratio", "progress read", "lost"),
        [
            (
                way,
                f"{median(each.share for each in found[way]):.2f}",
                f"{more[way]:+.2f}" if way != NOBODY else "",
                ratio(median(a.cpu / b.cpu for a, b in pairs[way]), 1),
                str(round(median(each.told for each in found[way]))),
                str(max(each.lost for each in found[way])),
            )
            for way in ways
        ],
    )
    for way in ways[1:]:
        what = f"{arguments.rate / 1e3:g} kpps, watched by {way}: CPU more"
        asked(what, more[way], LIMIT, "% of a core")


if __name__ == "__main__":
    run(main)
