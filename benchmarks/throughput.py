# See LICENSE for details.
"""
Two million small frames through a veth pair into one capture: what is lost, and
what a packet costs. tcpdump, and dumpcap where it is installed, get the same
frames in turn, with the same filter, snap length and size of ring; all write to
memory.

The daemon's cost is that of the whole process and its children from just before
the first frame until the file is stored, its copy and checksum included; that
of the others is from just before the first frame to their end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
from array import array
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import attrs

from benchmarks.report import addEngine, kept, parser, ratio, table
from benchmarks.stage import NODE, Daemon, Failed, Stage, run, stage, until, warm
from benchmarks.usage import cpu, cpuAtEnd
from pcapdaemon.test.pcapfile import sequences

FILTER, SNAP, RING = "udp port 9", 500, 64 << 20
#: The most µs of CPU that a packet may cost.
LIMIT = 0.4


@attrs.frozen
class Result:
    """
    One run of one program.

    @ivar rate: Frames a second, as sent.
    @ivar captured: Packets in the file.
    @ivar ordered: Whether their numbers only rise.
    @ivar drops: What the kernel dropped, by the program's own account.
    @ivar cpu: Seconds of processor time, children included.
    @ivar children: Of which its children.
    """

    rate: float
    captured: int
    ordered: bool
    drops: int
    cpu: float
    children: float = 0


@attrs.frozen
class Load:
    """
    What is sent, each time.
    """

    count: int
    size: int
    rate: float

    def send(self, stage: Stage, before: Callable[[], None]) -> float:
        """
        Send it.

        @param before: Called when all is prepared.
        @return: The rate that was reached.
        """
        flood = stage.pair.flood(self.count, self.size, self.rate)
        warm()
        before()
        flood.start()
        return float(flood.result(120)["rate"])


def _numbers(path: Path) -> tuple[int, bool]:
    """
    @return: How many packets a file has, and whether their numbers only rise.
    """
    numbers = sequences(path)
    path.unlink()
    if numbers == array("Q", range(len(numbers))):
        return len(numbers), True
    return len(numbers), all(a < b for a, b in pairwise(numbers))


def daemon(stage: Stage, load: Load, engine: str) -> Result:
    """
    One capture by a fresh daemon.
    """
    general = {"maxpackets": load.count, "maxbytes": 10**9}
    it = Daemon(stage, general=general, capture={"engine": engine})
    before = [0.0, 0.0]

    def arm() -> None:
        request = {"node": NODE, "interface": "vb", "bpf": FILTER, "timeout": 3}
        answer = it.ask("POST", "/captures", {**request, "packets": load.count})
        if "ids" not in answer:
            raise Failed(f"the request was refused: {answer}")
        it.wait("armed")
        before[:] = it.usage.cpu(), it.usage.childrensCPU()

    rate = load.send(stage, arm)
    [stored] = it.wait("stored")
    own = it.usage.cpu() - before[0]
    children = it.usage.childrensCPU() - before[1]
    [completed] = it.wait("completed")
    it.stop()
    captured, ordered = _numbers(stage.captures / stored["filename"])
    drops = sum(completed["dropped"].values())
    return Result(rate, captured, ordered, drops, own + children, children)


def _ended(process: subprocess.Popen[str]) -> bool:
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    return os.waitid(os.P_PID, process.pid, options) is not None


def _other(
    stage: Stage, load: Load, command: list[str], path: Path, ready: str, drops: str
) -> Result:
    """
    One capture by a program that ends after so many packets.

    @param ready: What it says on standard error when it is ready.
    @param drops: A regular expression for what it says at its end.
    """
    path.touch()
    process = stage.pair.spawn("b", command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    errors, said, before = process.stderr, "", 0.0

    def arm() -> None:
        nonlocal said, before
        while ready not in said:
            line = errors.readline()
            if not line:
                raise Failed(f"{command[0]} ended at once: {said}")
            said += line
        before = cpu(process.pid)

    rate = load.send(stage, arm)
    try:
        until("the end", 2, lambda: _ended(process))
    except Failed:
        # It waits for packets that were lost.
        process.send_signal(signal.SIGINT)
    used = cpuAtEnd(process) - before
    said += errors.read()
    found = re.search(drops, said)
    if found is None:
        raise Failed(f"{command[0]} did not say what was dropped: {said}")
    captured, ordered = _numbers(path)
    return Result(rate, captured, ordered, int(found[1]), used)


def tcpdump(stage: Stage, load: Load) -> Result:
    """
    One capture by tcpdump.
    """
    path = stage.directory / "tcpdump.pcap"
    options = f"-n -i vb -s {SNAP} -B {RING >> 10} -c {load.count} -Z root".split()
    command = ["tcpdump", *options, "-w", str(path), FILTER]
    return _other(stage, load, command, path, "listening on", r"(\d+) packets? dropped")


def dumpcap(stage: Stage, load: Load) -> Result:
    """
    One capture by dumpcap.
    """
    path = stage.directory / "dumpcap.pcap"
    options = f"-q -P -i vb -s {SNAP} -B {RING >> 20} -c {load.count}".split()
    command = ["dumpcap", *options, "-w", str(path), "-f", FILTER]
    return _other(stage, load, command, path, "File: ", r"on interface .*: \d+/(\d+)")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=2_000_000, help="frames")
    options.add_argument("--size", type=int, default=128, help="bytes of a frame")
    options.add_argument(
        "--rate", type=float, default=1.4e6, help="frames a second; 0: flat out"
    )
    options.add_argument("--repeat", type=int, default=5, help="runs of each program")
    addEngine(options)
    arguments = options.parse_args()
    load = Load(arguments.count, arguments.size, arguments.rate)
    programs: dict[str, Callable[[Stage, Load], Result]] = {
        "pcapdaemon": partial(daemon, engine=arguments.engine),
        "tcpdump": tcpdump,
        "dumpcap": dumpcap,
    }
    for name in ("tcpdump", "dumpcap"):
        if shutil.which(name) is None:
            del programs[name]
            print(f"{name} is not installed")
    results: dict[str, list[Result]] = {name: [] for name in programs}
    for _ in range(arguments.repeat):
        for name, program in programs.items():
            with stage() as made:
                results[name].append(program(made, load))

    def microseconds(name: str, what: str = "cpu") -> float:
        used: list[float] = [getattr(each, what) for each in results[name]]
        return statistics.median(used) / load.count * 1e6

    reference = microseconds("tcpdump") if "tcpdump" in results else 0
    rows = []
    for name, runs in results.items():
        cost = microseconds(name)
        rows.append(
            (
                name,
                f"{statistics.median(each.rate for each in runs) / 1e6:.2f}",
                str(min(each.captured for each in runs)),
                "yes" if all(each.ordered for each in runs) else "NO",
                str(max(each.drops for each in runs)),
                f"{cost:.3f}",
                f"{microseconds(name, 'children'):.3f}",
                ratio(cost, reference),
                kept(cost, LIMIT) if name == "pcapdaemon" else "",
            )
        )
    table(
        f"{load.count} frames of {load.size} bytes, {arguments.repeat} runs: medians, "
        "fewest captured, most dropped",
        (
            *("program", "Mpps sent", "captured", "in order", "kernel drops"),
            *("µs/packet", "of children", "to tcpdump", f"at most {LIMIT}"),
        ),
        rows,
    )


if __name__ == "__main__":
    run(main)
