# See LICENSE for details.
"""
Many short captures, some at a time, and what the daemon holds meanwhile: resident
memory, descriptors and threads, which are to be the same after the last as after
the first tenth. There is no peer. Both engines, one after the other.
"""

from __future__ import annotations

import time
from contextlib import suppress

import attrs

from benchmarks.report import asked, mebibytes, parser, table
from benchmarks.stage import NODE, Daemon, Failed, Stage, run, stage, until
from pcapdaemon.capture.engines import LIBPCAP, PCAPY

#: Bytes that may have been added to the resident memory: 4 MiB of events are
#: remembered for C{GET /events}, and an allocator does not give all back at once.
GROWTH = 10 << 20


@attrs.frozen
class Held:
    """
    What the daemon holds when nothing runs.
    """

    captures: int
    resident: int
    descriptors: int
    threads: int


def _held(daemon: Daemon, captures: int) -> Held:
    """
    Wait until all devices are closed.
    """
    usage = daemon.usage
    last = -1

    def quiet() -> bool:
        nonlocal last
        before, last = last, usage.descriptors()
        time.sleep(0.2)
        return before == last

    until("nothing is opened or closed any more", 20, quiet)
    return Held(captures, usage.resident(), usage.descriptors(), usage.threads())


def _some(made: Stage, daemon: Daemon, count: int) -> None:
    """
    So many captures of two packets each, at once.
    """
    since = len(daemon.events)
    request = {"node": NODE, "interface": "vb", "packets": 2, "timeout": 30}
    for _ in range(count):
        answer = daemon.ask("POST", "/captures", {**request, "bpf": "udp port 9"})
        if "ids" not in answer:
            raise Failed(f"the request was refused: {answer}")
    daemon.wait("armed", count, since=since)
    made.pair.flood(2).start()
    for event in daemon.wait("stored", count, since=since):
        with suppress(FileNotFoundError):
            (made.captures / event["filename"]).unlink()
    del daemon.events[:]


def grow(made: Stage, engine: str, captures: int, together: int) -> list[Held]:
    """
    @return: What was held after each tenth.
    """
    # What can still be asked about is no growth.
    daemon = Daemon(made, capture={"engine": engine, "keep": 1})
    found, done = [], 0
    for tenth in range(1, 11):
        while done < captures * tenth // 10:
            count = min(together, captures * tenth // 10 - done)
            _some(made, daemon, count)
            done += count
        found.append(_held(daemon, done))
    daemon.stop()
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--captures", type=int, default=10_000, help="how many")
    options.add_argument("--together", type=int, default=50, help="so many at once")
    options.add_argument(
        "--engines", nargs="+", choices=(LIBPCAP, PCAPY), default=(LIBPCAP, PCAPY)
    )
    arguments = options.parse_args()
    for engine in arguments.engines:
        with stage() as made:
            held = grow(made, engine, arguments.captures, arguments.together)
        table(
            f"{arguments.captures:,} captures, {arguments.together} at once, {engine}",
            ("after", "resident, MiB", "descriptors", "threads"),
            [
                (
                    f"{each.captures:,}",
                    mebibytes(each.resident),
                    *(str(each.descriptors), str(each.threads)),
                )
                for each in held
            ],
        )
        first, last = held[0], held[-1]
        grown = (last.resident - first.resident) / 2**20
        what = f"{engine}, after {arguments.captures:,} captures: more"
        asked(f"{what} resident memory", grown, GROWTH / 2**20, "MiB")
        asked(f"{what} descriptors", last.descriptors - first.descriptors, 0)
        asked(f"{what} threads", last.threads - first.threads, 0)


if __name__ == "__main__":
    run(main)
