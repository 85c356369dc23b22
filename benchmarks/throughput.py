# See LICENSE for details.
"""
Frames through a veth pair into captures that write to memory: what is lost, and
what a packet costs, beside tcpdump, and dumpcap where it is installed, which get
the same frames in turn. All have their default settings; where one of the others
has the daemon's ring and snap length, it says so.

In four parts: small frames flat out; sizes and rates; eight captures at once;
large frames, which fill rings fast.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks.contenders import (
    REST,
    RING,
    SNAP,
    STEPS,
    Contender,
    Dumpcap,
    Finished,
    Load,
    Pcapdaemon,
    Program,
    Run,
    Tcpdump,
)
from benchmarks.report import asked, chart, parser, ratio, table
from benchmarks.results import Bar
from benchmarks.stage import Failed, Stage, run, stage

#: The most CPU of a packet, as a multiple of tcpdump's: with each engine, and with
#: eight captures at once.
LIBPCAP, PCAPY, EIGHT = 1.0, 3.5, 1.0
#: The daemon with each engine, and with whole packets.
OWN, OLD, WHOLE = "pcapdaemon", "pcapdaemon, pcapy engine", "pcapdaemon, whole packets"
REFERENCE = Tcpdump.command
#: What does all that the daemon does.
FINISHED = Finished().name
SIZES, RATES = (128, 512, 1400), (200_000, 500_000, 1_000_000, 0)
#: Seconds for which frames are sent in one run of the matrix, and the rate that is
#: reckoned with flat out.
_SECONDS, _FLAT_OUT = 0.5, 1_000_000
#: Bytes and rate of what fills a ring fast.
LARGE, LARGE_RATE = 1400, 300_000
COLUMNS = ("Mpps sent", "lost", "in order", "kernel drops", "µs/packet", "to tcpdump")

Runs = dict[str, list[Run]]


class Field:
    """
    All contenders, on one stage.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._made: dict[str, Contender] = {}
        self._makers: dict[str, Callable[[], Contender]] = {
            OWN: lambda: Pcapdaemon(OWN, stage, "auto"),
            OLD: lambda: Pcapdaemon(OLD, stage, "pcapy", 1),
            WHOLE: lambda: Pcapdaemon(WHOLE, stage, "auto", 2, {"snap": 262_144}),
        }
        kinds: tuple[type[Program], ...] = (Tcpdump, Dumpcap)
        for kind in kinds:
            if not kind.installed():
                print(f"{kind.command} is not installed")
                continue
            for same in (False, True):
                other = kind(same)
                self._makers[other.name] = lambda other=other: other  # type: ignore[misc]
        if Tcpdump.installed():
            self._makers[FINISHED] = Finished

    def measure(
        self, names: Iterable[str], load: Load, repeat: int, captures: int = 1
    ) -> Runs:
        """
        Have some of the contenders capture by turns.
        """
        runs: Runs = {name: [] for name in names if name in self._makers}
        for _ in range(repeat):
            for name, done in runs.items():
                if name not in self._made:
                    self._made[name] = self._makers[name]()
                done.append(self._made[name].measure(self._stage, load, captures))
        return runs


def cost(runs: Sequence[Run]) -> float:
    """
    @return: The median of the microseconds for a packet.
    """
    return statistics.median(each.each for each in runs)


def times(runs: Runs, name: str) -> float:
    """
    @return: How many times tcpdump's the median cost is; 0 without tcpdump.
    """
    return cost(runs[name]) / cost(runs[REFERENCE]) if REFERENCE in runs else 0


def cells(runs: Runs, name: str) -> list[str]:
    """
    @return: What stands in the columns of L{COLUMNS}.
    """
    own = runs[name]
    return [
        f"{statistics.median(each.rate for each in own) / 1e6:.2f}",
        percent(max(each.lost for each in own)),
        "yes" if all(each.ordered for each in own) else "NO",
        str(max(each.drops for each in own)),
        f"{cost(own):.3f}",
        ratio(cost(own), cost(runs[REFERENCE]) if REFERENCE in runs else 0),
    ]


def percent(value: float) -> str:
    return "0" if not value else f"{value:.2f} %"


def shares(runs: Sequence[Run]) -> dict[str, float]:
    """
    @return: Microseconds for a packet of each step of the daemon, in the run of
        median cost.
    """
    middle = sorted(runs, key=lambda each: each.cpu)[(len(runs) - 1) // 2]
    return {step: used / middle.wanted * 1e6 for step, used in middle.steps.items()}


def bar(name: str, runs: Sequence[Run]) -> Bar:
    parts = list(shares(runs).values())
    return Bar(name, parts or [cost(runs)], name.startswith(OWN))


def flatOut(field: Field, load: Load, repeat: int) -> None:
    """
    Small frames, as fast as they can be sent.
    """
    same = [f"{kind.command}, same ring" for kind in (Tcpdump, Dumpcap)]
    names = [OWN, OLD, REFERENCE, same[0], FINISHED, Dumpcap.command, same[1]]
    runs = field.measure(names, load, repeat)
    title = f"{load.count:,} frames of {load}, {repeat} runs by turns"
    table(
        f"{title}: medians, most lost; same ring: {RING >> 20} MiB, snap length {SNAP}",
        ("", *COLUMNS),
        [[name, *cells(runs, name)] for name in runs],
    )
    own = [name for name in runs if name.startswith(OWN)]
    steps = {name: shares(runs[name]) for name in own}
    reference = cost(runs[REFERENCE]) if REFERENCE in runs else 0
    table(
        "Where the daemon's own CPU goes, µs a packet, in the run of median cost",
        ("", *STEPS.values(), REST, "capture to tcpdump"),
        [
            [
                name,
                *(f"{each:.3f}" for each in steps[name].values()),
                ratio(steps[name]["capture"], reference),
            ]
            for name in own
        ],
    )
    chart(
        f"CPU, µs a packet: one capture, {load}",
        [bar(name, done) for name, done in runs.items()],
        [*STEPS.values(), REST],
    )
    if REFERENCE in runs:
        for name, limit in ((OWN, LIBPCAP), (OLD, PCAPY)):
            what = f"{load}: CPU a packet of {name}, to tcpdump"
            asked(what, times(runs, name), limit)
    asked(f"{load}: lost by {OWN}", lost(runs[OWN]), 0, "packets")


def lost(runs: Sequence[Run]) -> int:
    """
    @return: The most packets that any run has lost.
    @raise Failed: There are packets twice, or not in the order in which they were
        sent, so that their count says nothing.
    """
    if not all(each.ordered for each in runs):
        raise Failed("packets in a file are not in order, or there twice")
    return max(each.wanted - each.captured for each in runs)


def matrix(field: Field, sizes: Sequence[int], seconds: float, repeat: int) -> None:
    """
    Every size at every rate.
    """
    most, bars = 0, []
    for size in sizes:
        rows = []
        for rate in RATES:
            load = Load(int(seconds * (rate or _FLAT_OUT)), size, rate)
            runs = field.measure([OWN, REFERENCE, Dumpcap.command], load, repeat)
            rows += [[f"{load.pace}: {name}", *cells(runs, name)] for name in runs]
            most = max(most, lost(runs[OWN]))
            if rate == RATES[1]:
                bars += [
                    Bar(f"{size:,} bytes: {name}", [cost(done)], name == OWN)
                    for name, done in runs.items()
                ]
        table(
            f"Rates of {size:,} bytes, {seconds:g} s of frames each, {repeat} times by "
            "turns: medians, most lost",
            ("", *COLUMNS),
            rows,
        )
    chart(f"CPU, µs a packet: one capture at {RATES[1] // 1000} kpps", bars)
    asked("all sizes and rates: lost by pcapdaemon", most, 0, "packets")


def several(field: Field, load: Load, captures: int, repeat: int) -> None:
    """
    Several captures at once on one device.
    """
    same = f"{REFERENCE}, same ring"
    runs = field.measure([OWN, REFERENCE, same, FINISHED], load, repeat, captures)
    table(
        f"{captures} captures at once on one device, {load.count:,} frames of {load}, "
        f"{repeat} runs by turns: medians, most lost of all captures together",
        ("", *COLUMNS),
        [[f"{captures} x {name}", *cells(runs, name)] for name in runs],
    )
    chart(
        f"CPU, µs a packet: {captures} captures at once, {load}",
        [bar(name, done) for name, done in runs.items()],
        [*STEPS.values(), REST],
    )
    what = f"{captures} captures at once, {load}"
    asked(f"{what}: lost", lost(runs[OWN]), 0, "packets")
    if REFERENCE in runs:
        ofTcpdump = f"{what}: CPU to {captures} tcpdumps"
        asked(ofTcpdump, times(runs, OWN), EIGHT)


def large(field: Field, load: Load, repeat: int) -> None:
    """
    Large frames, which fill a ring fast.
    """
    same = f"{REFERENCE}, same ring"
    names = [OWN, WHOLE, REFERENCE, Dumpcap.command, same]
    runs = field.measure(names, load, repeat)
    table(
        f"{load.count:,} frames of {load}, {repeat} runs by turns: medians, most lost; "
        f"{OWN} and same ring keep {SNAP} bytes of each packet, the others all",
        ("", *COLUMNS),
        [[name, *cells(runs, name)] for name in runs],
    )
    chart(
        f"Lost, %, the worst of {repeat} runs: {load}",
        [
            Bar(name, [max(each.lost for each in done)], name.startswith(OWN))
            for name, done in runs.items()
        ],
    )
    for name in (OWN, WHOLE):
        asked(f"{load}: lost by {name}", lost(runs[name]), 0, "packets")


def main() -> None:
    options = parser(__doc__)
    parts = ("flatout", "matrix", "eight", "large")
    options.add_argument("--only", choices=parts, nargs="+", default=parts)
    options.add_argument("--count", type=int, default=1_000_000, help="flat out")
    options.add_argument("--size", type=int, default=128, help="bytes, flat out")
    options.add_argument("--captures", type=int, default=8, help="at once")
    options.add_argument("--frames", type=int, default=500_000, help="for the last two")
    options.add_argument(
        "--seconds", type=float, default=_SECONDS, help="of each size and rate"
    )
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes")
    options.add_argument("--repeat", type=int, default=5, help="runs flat out")
    options.add_argument("--others", type=int, default=3, help="runs of the last two")
    options.add_argument("--each", type=int, default=2, help="of each size and rate")
    arguments = options.parse_args()
    with stage() as made:
        field = Field(made)
        if "flatout" in arguments.only:
            load = Load(arguments.count, arguments.size)
            flatOut(field, load, arguments.repeat)
        if "eight" in arguments.only:
            load = Load(arguments.frames, 128, 500_000)
            several(field, load, arguments.captures, arguments.others)
        if "large" in arguments.only:
            load = Load(arguments.frames, LARGE, LARGE_RATE)
            large(field, load, arguments.others)
        if "matrix" in arguments.only:
            matrix(field, arguments.sizes, arguments.seconds, arguments.each)


if __name__ == "__main__":
    run(main)
