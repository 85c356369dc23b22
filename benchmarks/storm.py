# See LICENSE for details.
"""
Many requests at once: so many requests with different filters are published to
Redis together, to a daemon that has just started. Shows after how long all are
armed, how much memory that takes, and how the daemon answers meanwhile. The Go
program stands beside with what it took once on such a machine; it is not run.
"""

from __future__ import annotations

import json
import statistics
import time

import attrs

from benchmarks.report import addEngine, asked, chart, mebibytes, parser, table
from benchmarks.results import Bar
from benchmarks.stage import NODE, Daemon, Redis, Stage, Watch, run, stage, warm

#: What is allowed for as many requests: seconds until all are armed, and
#: milliseconds for an answer meanwhile.
REQUESTS, ARMED, ANSWER = 1000, 2.0, 100.0
#: What the Go program took for as many: seconds, and bytes of memory.
GO_ARMED, GO_MEMORY = 2.6, 2.07e9


@attrs.frozen
class Storm:
    """
    @ivar armed: Seconds from publishing to the last capture armed.
    @ivar memory: Bytes of memory of the daemon and its children then, kernel rings
        included, also those that are not mapped.
    @ivar rings: Bytes of them that are kernel rings.
    @ivar answers: Milliseconds of each C{GET /healthz} meanwhile.
    @ivar over: Seconds from cancelling all to the last one completed.
    """

    armed: float
    memory: int
    rings: int
    answers: list[float]
    over: float


def storm(stage: Stage, redis: Redis, engine: str, count: int) -> Storm:
    """
    So many requests at once, to a daemon of their own.
    """
    daemon = Daemon(stage, True, capture={"engine": engine})
    usage = daemon.usage
    message = {"node": NODE, "interface": "vb", "timeout": 600}
    requests = [
        json.dumps({**message, "bpf": f"udp dst port {10_001 + number}"}).encode()
        for number in range(count)
    ]
    warm()
    with Watch(daemon, 0.005) as watch:
        started = time.perf_counter()
        redis.publish(requests)
        armed = daemon.wait("armed", count)
        took = time.perf_counter() - started
    rings = sum(event["ring"] for event in armed)
    unmapped = max(0, rings - usage.rings())
    memory = usage.resident() + usage.childrensResident() + unmapped
    started = time.perf_counter()
    for event in armed:
        daemon.ask("DELETE", f"/captures/{event['id']}")
    daemon.wait("completed", count)
    over = time.perf_counter() - started
    daemon.stop()
    return Storm(took, memory, rings, watch.milliseconds, over)


def main() -> None:
    options = parser(__doc__)
    sizes = (10, 100, REQUESTS)
    options.add_argument("--requests", type=int, nargs="+", default=sizes)
    options.add_argument("--repeat", type=int, default=3, help="runs; medians count")
    addEngine(options)
    arguments = options.parse_args()
    with stage() as made:
        redis = Redis(made)
        found = {
            count: [
                storm(made, redis, arguments.engine, count)
                for _ in range(arguments.repeat)
            ]
            for count in arguments.requests
        }
    rows, bars = [], []
    for count, storms in found.items():
        took = statistics.median(each.armed for each in storms)
        slowest = max(max(each.answers) for each in storms)
        memory = statistics.median(each.memory for each in storms)
        rings = statistics.median(each.rings for each in storms)
        over = statistics.median(each.over for each in storms)
        if count == REQUESTS:
            what = f"{count:,} requests at once"
            asked(f"{what}: all armed after (median)", took, ARMED, "s")
            asked(f"{what}: slowest answer meanwhile", slowest, ANSWER, "ms")
        answers = statistics.median(a for each in storms for a in each.answers)
        rows.append(
            (
                f"{count:,} requests",
                *(f"{took:.3f}", f"{max(each.armed for each in storms):.3f}"),
                *(f"{answers:.1f}", f"{slowest:.1f}"),
                *(mebibytes(memory), mebibytes(rings), f"{over:.2f}"),
            )
        )
        bars.append(Bar(f"{count:,} requests", [took], True))
    cited = f"{REQUESTS:,} requests: Go program"
    rows.append((cited, f"{GO_ARMED:.1f}", "", "", "", mebibytes(GO_MEMORY), "", ""))
    bars.append(Bar(cited, [GO_ARMED], cited=True))
    table(
        f"Requests at once to a new daemon, {arguments.repeat} times: medians",
        (
            *("", "all armed, s", "at worst", "median healthz, ms", "slowest"),
            *("memory, MiB", "of it rings", "all cancelled, s"),
        ),
        rows,
    )
    chart("Requests at once: seconds until all are armed, median", bars)


if __name__ == "__main__":
    run(main)
