# See LICENSE for details.
"""
A capture at 500,000 packets a second while the same daemon uploads 100 MB over TLS
to CloudShark, beside the same capture without: what is lost. One recording of that
size, or several at the same moment, so that uploads go on for as long as the small
frames of the capture that is measured, which begin then. Generator, daemon and
server share the machine.
"""

from __future__ import annotations

import statistics
import time
from datetime import datetime
from typing import Any

import attrs

from benchmarks.report import addEngine, asked, parser, table
from benchmarks.servers import runWithReactor, servers
from benchmarks.stage import NODE, Daemon, Stage, stage, warm
from pcapdaemon.test.cloudshark import TOKEN
from pcapdaemon.test.servers_cloudshark import CloudSharkServer

#: Bytes of the frames that are uploaded and of those that are counted, and filters
#: that tell them apart.
LARGE, SMALL = 1400, 128
UPLOADED, COUNTED = "udp port 9 and greater 1000", "udp port 9 and less 1000"
#: How many recordings are uploaded at once: none, the one that is asked for, and as
#: many as keep on being uploaded for as long as the small frames come.
UPLOADS = 0, 1, 4
#: Frames a second of what is uploaded, and how long the capture that is measured
#: waits for more, in seconds: longer than that takes.
_FILLING, _REST = 100_000, 5


@attrs.frozen
class Busy:
    """
    @ivar lost: Packets that are missing.
    @ivar drops: What the kernel dropped, by the daemon's own account.
    @ivar rate: Frames a second, as sent.
    @ivar overlap: The share of the frames' time in which an upload was going on.
    @ivar speed: Bytes a second of the uploads together.
    """

    lost: int
    drops: int
    rate: float
    overlap: float = 0
    speed: float = 0


def _at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def start(daemon: Daemon, **fields: object) -> str:
    """
    @return: The identifier of a capture that is armed.
    """
    since = len(daemon.events)
    order = {"node": NODE, "interface": "vb", "timeout": _REST, **fields}
    [id] = daemon.ask("POST", "/captures", order)["ids"]
    daemon.wait("armed", since=since, id=id)
    return str(id)


def counted(
    made: Stage, daemon: Daemon, count: int, rate: float, size: int, number: int
) -> Busy:
    """
    One capture that is measured.

    @param size: Bytes of each of the recordings that are uploaded meanwhile.
    @param number: How many these are.
    """
    measured = start(daemon, bpf=COUNTED, packets=count)
    flood = made.pair.flood(count, SMALL, rate)
    uploads = []
    if number:
        large = {"bpf": UPLOADED, "bytes": size, "snap": 2000}
        uploads = [start(daemon, **large) for _ in range(number)]
        filling = made.pair.flood(size // LARGE + 1, LARGE, _FILLING)
        warm()
        filling.start()
        daemon.wait("completed", id=uploads[0])
    begun = time.time()
    flood.start()
    rate = float(flood.result(120)["rate"])
    over = begun + count / rate
    [completed] = daemon.wait("completed", id=measured)
    if completed["packets"]:
        daemon.wait("stored", id=measured)
    drops = sum(completed["dropped"].values())
    lost = count - completed["packets"]
    if not number:
        return Busy(lost, drops, rate)
    stored = [daemon.wait("stored", id=each)[0] for each in uploads]
    last = max(map(_at, stored))
    speed = size * number / (last - begun)
    return Busy(lost, drops, rate, min(1.0, (last - begun) / (over - begun)), speed)


async def main(reactor: Any) -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=100_000_000, help="bytes")
    options.add_argument("--count", type=int, default=500_000, help="frames")
    options.add_argument("--rate", type=float, default=500_000, help="frames a second")
    options.add_argument("--repeat", type=int, default=5, help="of each")
    addEngine(options)
    arguments = options.parse_args()
    count, rate, size = arguments.count, arguments.rate, arguments.size
    with stage() as made:
        async with servers(made, reactor, CloudSharkServer) as [cloudshark]:
            await cloudshark.start()
            server = {"host": "localhost", "port": cloudshark.port, "token": TOKEN}
            daemon = Daemon(
                made,
                general={
                    "writelocal": False,
                    "maxpackets": 10**8,
                    "maxbytes": 10**9,
                },
                capture={"engine": arguments.engine},
                cloudshark={"upload": True, "cafile": cloudshark.cafile, **server},
            )
            counted(made, daemon, 1000, rate, 0, 0)
            found = {
                number: [
                    counted(made, daemon, count, rate, size, number)
                    for _ in range(arguments.repeat)
                ]
                for number in UPLOADS
            }
            daemon.stop()

    def row(number: int) -> tuple[str, ...]:
        runs, middle = found[number], statistics.median
        name = f"{number} x {size // 10**6} MB to CloudShark"
        return (
            name if number else "nothing else",
            f"{middle(each.rate for each in runs) / 1e3:.0f}",
            str(max(each.lost for each in runs)),
            str(max(each.drops for each in runs)),
            f"{middle(each.overlap for each in runs):.0%}" if number else "",
            f"{middle(each.speed for each in runs) / 1e6:.0f}" if number else "",
        )

    table(
        f"{count:,} frames of {SMALL} bytes, {arguments.repeat} times: most lost, "
        "else medians",
        ("", "kpps sent", "lost", "kernel drops", "uploading for", "MB/s uploaded"),
        [row(number) for number in UPLOADS],
    )
    for number in UPLOADS[1:]:
        uploads = f"{number} TLS upload{'s' * (number > 1)} of {size // 10**6} MB"
        what = f"{rate / 1e3:g} kpps during {uploads}: lost"
        asked(what, max(each.lost for each in found[number]), 0, "packets")


if __name__ == "__main__":
    runWithReactor(main)
