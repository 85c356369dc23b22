# See LICENSE for details.
"""
A thousand captures at once: as many requests with different filters are
published to Redis together. Shows how long arming takes and how the daemon
answers meanwhile, what all of them use while nothing happens, and whether each
then ends with exactly its own packets. There is no peer: the figures stand
beside what is allowed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator

from benchmarks.report import addEngine, asked, mebibytes, parser, table
from benchmarks.stage import NODE, Daemon, Redis, Stage, Watch, run, stage, warm
from pcapdaemon.test.frames import Sender
from pcapdaemon.test.network import TARGET
from pcapdaemon.test.pcapfile import sequences

#: The most that is allowed: bytes of memory in all, percent of a core while
#: nothing happens, and milliseconds for an
#: answer while captures are armed.
MEMORY, PERCENT, ANSWER = 1.5 * 2**30, 2.0, 250.0
#: Packets for each capture, and the port of the first one.
PACKETS, FIRST = 3, 10_001


def request(port: int) -> bytes:
    """
    A request for some packets to one port, with the port for an C{alertid}.
    """
    fields = {"bpf": f"udp dst port {port}", "packets": PACKETS, "alertid": port}
    where = {"node": NODE, "interface": "vb", "timeout": 600}
    return json.dumps({**where, **fields}).encode()


def send(stage: Stage, ports: range) -> None:
    """
    Send each capture its packets, numbered by port.
    """
    for port in ports:
        with stage.pair.enter("a"):
            sender = Sender(TARGET, port=port)
        sender.send(PACKETS, first=port * PACKETS)
        sender.close()


def exact(stage: Stage, port: int, name: str) -> bool:
    """
    Whether a file holds the packets for a port and no others.
    """
    wanted = range(port * PACKETS, (port + 1) * PACKETS)
    return list(sequences(stage.captures / name)) == list(wanted)


def _bounded(count: int, what: str, value: float, limit: float) -> tuple[str, ...]:
    name, _, unit = what.rpartition(", ")
    holds = asked(f"{count} captures at once: {name}", value, limit, unit)
    return what, f"{value:.4g}", f"{limit:g}", holds


def _answers(
    when: str, watch: Watch, count: int = 0, limit: float | None = None
) -> Iterator[tuple[str, ...]]:
    times = watch.milliseconds
    what = f"slowest of {len(times)} GET /healthz while {when}, ms"
    slowest = f"{max(times):.1f}"
    bound = ("", "")
    if limit is not None:
        name = f"{count} captures at once: slowest answer while {when}"
        bound = f"{limit:g}", asked(name, max(times), limit, "ms")
    yield what, slowest, *bound
    yield "- median", f"{statistics.median(times):.1f}", "", ""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--captures", type=int, default=1000, help="how many")
    options.add_argument("--seconds", type=float, default=10, help="time of idleness")
    addEngine(options)
    arguments = options.parse_args()
    count = arguments.captures
    ports = range(FIRST, FIRST + count)
    with stage() as made:
        redis = Redis(made)
        daemon = Daemon(made, True, capture={"engine": arguments.engine})
        usage = daemon.usage
        bare = usage.resident()
        warm()
        started = time.perf_counter()
        with Watch(daemon, 0.05) as arming:
            redis.publish([request(port) for port in ports])
            armed = daemon.wait("armed", count, seconds=120)
            tookArming = time.perf_counter() - started
        resident, rings = usage.resident(), usage.rings()
        # Memory files are no part of what is mapped, and nor is an unmapped ring.
        beside = max(0, sum(event["ring"] for event in armed) - rings)
        beside += daemon.ask("GET", "/healthz")["memory"]["used"]
        children = usage.childrensResident()
        total = resident + beside + children
        before = usage.cpu() + usage.childrensCPU()
        time.sleep(arguments.seconds)
        used = usage.cpu() + usage.childrensCPU() - before
        percent = used / arguments.seconds * 100
        started = time.perf_counter()
        with Watch(daemon, 0.05) as ending:
            send(made, ports)
            stored = daemon.wait("stored", count, seconds=120)
            tookEnding = time.perf_counter() - started
        files = {event["alertid"]: event["filename"] for event in stored}
        right = sum(exact(made, port, files[port]) for port in ports)
    table(
        f"{count} captures at once, by one burst over Redis",
        ("", "measured", "at most", "kept"),
        [
            ("all armed after, s", f"{tookArming:.2f}", "", ""),
            *_answers("arming", arming, count, ANSWER),
            _bounded(count, "memory in all, MiB", total / 2**20, MEMORY / 2**20),
            ("- resident, rings mapped into it too", mebibytes(resident), "", ""),
            ("- kernel rings of it", mebibytes(rings), "", ""),
            ("- the same before the captures", mebibytes(bare), "", ""),
            ("- beside: children that check filters", mebibytes(children), "", ""),
            ("- beside: rings and recordings not mapped", mebibytes(beside), "", ""),
            _bounded(count, "CPU while idle, % of a core", percent, PERCENT),
            ("all ended and stored after, s", f"{tookEnding:.2f}", "", ""),
            *_answers("ending", ending),
            ("files with exactly their packets", f"{right} of {count}", "", ""),
        ],
    )


if __name__ == "__main__":
    run(main)
