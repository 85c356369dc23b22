# See LICENSE for details.
"""
Whether the daemon answers while it works: how long C{GET /healthz} takes at most
while a hundred captures are opened and closed, beside how long the plain
library keeps any other thread from running when it opens and closes as many;
and while filters are refused that would stop a naive daemon for minutes or for
ever.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import addEngine, asked, parser, ratio, table
from benchmarks.stage import (
    NODE,
    BareCapture,
    Daemon,
    Redis,
    Stage,
    Watch,
    run,
    stage,
    warm,
)

#: The most ms of an answer beyond what the library holds everything up for, and
#: the most ms until a filter is refused.
ANSWER, REFUSAL = 100.0, 2000.0
#: Name, filter, and the reason for which it is refused.
EVIL = [
    (
        "never compiled",
        "(ip[1]=1||ip[2]=1)&&!(ip[1]=2||ip[2]=2)",
        "filter-too-complex",
    ),
    (
        "1,000 hosts",
        " or ".join(f"host 10.0.{n // 250}.{n % 250}" for n in range(1000)),
        "filter-too-complex",
    ),
    ("a name, dead resolver", "host slow.example.net", "bad-filter"),
]


@contextmanager
def deadResolver(stage: Stage) -> Iterator[None]:
    """
    Have the daemon's namespace resolve names by a server that says nothing.
    """
    # What ip netns exec puts over /etc.
    etc = Path("/etc/netns", stage.pair.names["b"])
    etc.mkdir(parents=True)
    file = etc / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n")
    with stage.pair.enter("b"):
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        silent.bind(("127.0.0.1", 53))
        yield
    finally:
        silent.close()
        file.unlink()
        etc.rmdir()


def _request(**fields: object) -> bytes:
    return json.dumps({"node": NODE, "interface": "vb", **fields}).encode()


def opening(daemon: Daemon, redis: Redis, count: int) -> tuple[list[float], list[int]]:
    """
    Open many captures at once, and cancel them.

    @return: How many ms each answer took meanwhile, and the rings.
    """
    since = len(daemon.events)
    requests = [_request(bpf=f"udp port {n + 1}", timeout=60) for n in range(count)]
    with Watch(daemon, 0.005) as watch:
        redis.publish(requests)
        armed = daemon.wait("armed", count, since)
        for event in armed:
            daemon.ask("DELETE", f"/captures/{event['id']}")
        daemon.wait("completed", count, since)
        # Until the devices are closed.
        time.sleep(0.03 * count)
    return watch.milliseconds, [event["ring"] for event in armed]


def refusing(
    daemon: Daemon, redis: Redis, filter: str, reason: str
) -> tuple[float, list[float], bool]:
    """
    Have one filter refused.

    @return: After how many ms, how many ms each answer took meanwhile, and
        whether for the right reason.
    """
    since = len(daemon.events)
    with Watch(daemon, 0.005) as watch:
        started = time.perf_counter()
        redis.publish([_request(bpf=filter)])
        [event] = daemon.wait("rejected", since=since)
        taken = time.perf_counter() - started
    return taken * 1e3, watch.milliseconds, event["reason"] == reason


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--captures", type=int, default=100, help="opened at once")
    addEngine(options)
    arguments = options.parse_args()
    general = {"maxfilter": 65_536, "maxmessage": 1 << 20}
    capture = {"resolve": True, "engine": arguments.engine}
    rows = []
    with stage() as made, deadResolver(made):
        redis = Redis(made)
        daemon = Daemon(made, True, general=general, capture=capture)
        warm()
        answers, rings = opening(daemon, redis, arguments.captures)
        library = BareCapture(made)
        library.do("hold", "vb", [1 << 20])
        warm()
        held = library.do("hold", "vb", rings) * 1e3
        most = ANSWER + held
        rows.append(
            (
                f"{arguments.captures} captures open and close",
                *("", "", *_times(answers), f"{held:.1f}"),
                *(ratio(max(answers), held), f"{most:.1f}"),
                asked(
                    f"slowest answer, {arguments.captures} captures open and close",
                    max(answers),
                    most,
                    "ms",
                ),
            )
        )
        for name, filter, reason in EVIL:
            taken, answers, right = refusing(daemon, redis, filter, reason)
            soon = asked(f"refused, {name}", taken, REFUSAL, "ms")
            quick = asked(f"slowest answer, {name}", max(answers), ANSWER, "ms")
            inTime = soon == quick == "yes" and right
            rows.append(
                (
                    name,
                    *(f"{taken:.0f}", reason if right else "NO", *_times(answers)),
                    *("", "", f"{ANSWER:g}", "yes" if inTime else "NO"),
                )
            )
    table(
        "GET /healthz meanwhile, ms",
        (
            *("", "refused after", "as", "median answer", "slowest"),
            *("library holds", "ratio", "at most", "kept"),
        ),
        rows,
    )


def _times(answers: list[float]) -> tuple[str, str]:
    return f"{statistics.median(answers):.1f}", f"{max(answers):.1f}"


if __name__ == "__main__":
    run(main)
