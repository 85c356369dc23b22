# See LICENSE for details.
"""
How exactly the limits are kept: by how many ms C{timeout} and C{duration} are
late, by the capture's own account and by when it is said to be complete, in
silence, with one packet a second and in a flood; and whether C{packets} and
C{bytes} end a capture with the very packet that reaches them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from benchmarks.report import addEngine, asked, parser, table
from benchmarks.stage import NODE, Daemon, Stage, run, stage
from pcapdaemon.test.frames import frame

#: The most ms that a limit may be late.
LATE = 50.0
#: Bytes of a pcap file header, and of a record of the flood's frames.
HEADER, RECORD = 24, 16 + 128


def _seconds(event: dict[str, Any], field: str) -> float:
    return datetime.fromisoformat(event[field]).timestamp()


@contextmanager
def traffic(stage: Stage, kind: str) -> Iterator[None]:
    """
    Traffic of one kind, for some seconds.
    """
    if kind != "flood":
        yield
        return
    flood = stage.pair.flood(1_500_000, rate=300_000)
    flood.start()
    try:
        yield
    finally:
        flood.process.kill()


def timed(
    stage: Stage, daemon: Daemon, kind: str, limit: str, asked: float
) -> tuple[float, float, bool]:
    """
    One capture that ends by time.

    @return: The ms by which it was late by its own account and by when its
        event came, and whether the right limit ended it.
    """
    fields = {"timeout": 60.0, "duration": 60.0, limit: asked}
    since = len(daemon.events)
    with traffic(stage, kind):
        daemon.ask(
            "POST",
            "/captures",
            {"node": NODE, "interface": "vb", "snap": 64, **fields},
        )
        [armed] = daemon.wait("armed", since=since)
        begun = _seconds(armed, "time")
        if kind == "1 a second":
            # The last packet begins the time of idleness.
            for number in range(3):
                stage.pair.send([frame(number)])
                if limit == "timeout":
                    begun = time.time()
                time.sleep(1 if number < 2 else 0)
        [completed] = daemon.wait("completed", since=since)
    own = _seconds(completed, "finished") - begun - asked
    told = _seconds(completed, "time") - begun - asked
    return own * 1e3, told * 1e3, completed["stop"] == limit


def counted(
    stage: Stage, daemon: Daemon, limit: str, asked: int
) -> tuple[int, int, bool]:
    """
    One capture in a flood that ends by size.

    @return: The packets, the bytes, and whether both are exact.
    """
    since = len(daemon.events)
    with traffic(stage, "flood"):
        daemon.ask("POST", "/captures", {"node": NODE, "interface": "vb", limit: asked})
        [completed] = daemon.wait("completed", since=since)
    packets, size = completed["packets"], completed["bytes"]
    needed = -(-(asked - HEADER) // RECORD)
    exact = packets == (asked if limit == "packets" else needed)
    return (
        packets,
        size,
        exact and size == HEADER + packets * RECORD and completed["stop"] == limit,
    )


def _late(what: str, milliseconds: float, right: bool) -> str:
    """
    @param right: Whether the right limit ended the capture.
    @return: Whether it was in time.
    """
    # Too early, or ended by something else, is as bad as never.
    late = milliseconds if right and milliseconds >= 0 else math.inf
    return asked(f"late, {what}", late, LATE, "ms")


def main() -> None:
    options = parser(__doc__)
    addEngine(options)
    arguments = options.parse_args()
    late, exact = [], []
    with stage() as made:
        general = {"maxpackets": 10_000_000, "maxbytes": 1_000_000_000}
        daemon = Daemon(made, general=general, capture={"engine": arguments.engine})
        for kind in ("silence", "1 a second", "flood"):
            for limit in ("timeout", "duration"):
                if (kind, limit) == ("flood", "timeout"):
                    continue  # it never comes
                limited = 1.5 if (kind, limit) == ("1 a second", "timeout") else 2.5
                own, told, right = timed(made, daemon, kind, limit, limited)
                late.append(
                    (
                        f"{limit} {limited} s, {kind}",
                        *(f"{own:.1f}", f"{told:.1f}", f"{LATE:.0f}"),
                        _late(f"{limit} {limited} s, {kind}", own, right),
                    )
                )
        for limit, size in (
            *(("packets", n) for n in (1, 1000, 33_333)),
            *(("bytes", n) for n in (25, 24 + RECORD, 100_000, 9_999_999)),
        ):
            packets, found, right = counted(made, daemon, limit, size)
            exact.append(
                (
                    f"{limit} {size}",
                    str(packets),
                    str(found),
                    "yes" if right else "NO",
                )
            )
        daemon.stop()
    wrong = sum(row[-1] != "yes" for row in exact)
    asked("limits of packets and bytes in a flood: not exact", wrong, 0)
    table(
        "Limits of time: ms late",
        ("", "by its own account", "when told", "at most", "kept"),
        late,
    )
    table(
        "Limits of size, in a flood of 300,000 packets/s of 128 bytes",
        ("", "packets", "bytes", "exact"),
        exact,
    )


if __name__ == "__main__":
    run(main)
