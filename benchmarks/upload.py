# See LICENSE for details.
"""
A large capture on its way to CloudShark and to S3: how fast it gets there, beside
treq and boto3 with the same bytes in a file; how much memory that takes beyond
the recording; and how the daemon answers meanwhile. Both servers are on this
machine and take part of it: the figures are what the programs cost, not what a
network does.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from benchmarks.report import addEngine, asked, mebibytes, parser, ratio, table
from benchmarks.servers import certified, runWithReactor, servers
from benchmarks.stage import NODE, Daemon, Event, Failed, Stage, Watch, stage, warm
from benchmarks.usage import Usage
from pcapdaemon.test.cloudshark import TOKEN
from pcapdaemon.test.servers_cloudshark import CloudSharkServer
from pcapdaemon.test.servers_weed import ACCESSID, ACCESSKEY, WeedServer

#: What is allowed: of the plain library's speed at least, and at most bytes of
#: memory beyond the recording and milliseconds for an answer.
SPEED, MEMORY, ANSWER = 0.8, 16 * 2**20, 100.0
#: Bytes of a frame, and frames a second, slow enough that none is lost.
FRAME, RATE = 1400, 60_000

Rows = list[tuple[str, str, str, str]]


class Memory:
    """
    Looks at the memory of a process all the time, while in a C{with} statement.

    @ivar most: The most bytes that it had of its own; neither kernel rings nor
        recordings count.
    """

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most = 0

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, self._usage.anonymous())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()


def capture(
    made: Stage, daemon: Daemon, size: int, upload: AbstractContextManager[object]
) -> tuple[float, Event]:
    """
    Have one capture of so many bytes.

    @param upload: Entered while it is uploaded.
    @return: The seconds from its completion until it was stored, and the event
        of the latter.
    """
    since = len(daemon.events)
    flood = made.pair.flood(size // FRAME + 1, FRAME, RATE)
    order = {"node": NODE, "interface": "vb", "bytes": size, "snap": 2000}
    [id] = daemon.ask("POST", "/captures", order)["ids"]
    daemon.wait("armed", since=since, id=id)
    flood.start()
    [completed] = daemon.wait("completed", since=since, id=id)
    if completed["stop"] != "bytes":
        raise Failed(f"the capture ended by {completed['stop']}")
    with upload:
        [stored] = daemon.wait("stored", since=since, id=id)
    flood.result(30)
    times = [datetime.fromisoformat(each["time"]) for each in (completed, stored)]
    return (times[1] - times[0]).total_seconds(), stored


def plain(made: Stage, function: str, **arguments: Any) -> float:
    """
    Upload with the plain library.

    @return: The seconds that it took.
    """
    argv = [sys.executable, "-m", "benchmarks.bare_upload"]
    argv += [function, json.dumps(arguments)]
    done = made.pair.spawn("b", argv, stdout=subprocess.PIPE, text=True)
    output, _ = done.communicate(timeout=120)
    if done.returncode:
        raise Failed(f"the plain library failed: {function}")
    return float(output)


def watched(made: Stage, daemon: Daemon, to: str, size: int, rounds: int) -> Rows:
    """
    Look at a daemon that has uploaded nothing large yet.

    @return: Rows of the table.
    """
    capture(made, daemon, 1_000_000, nullcontext())
    memory = Memory(daemon.usage)
    before = daemon.usage.anonymous()
    answers = []
    with memory:
        for _ in range(rounds):
            watch = Watch(daemon, 0.005)
            capture(made, daemon, size, watch)
            answers += watch.milliseconds
    grown, slowest = memory.most - before, max(answers)
    return [
        (
            "memory beyond the recording, MiB",
            mebibytes(grown),
            mebibytes(MEMORY),
            asked(
                f"upload to {to}: memory beyond the recording",
                grown / 2**20,
                MEMORY / 2**20,
                "MiB",
            ),
        ),
        (
            f"slowest of {len(answers)} GET /healthz, ms",
            f"{slowest:.1f}",
            f"{ANSWER:.0f}",
            asked(f"upload to {to}: slowest answer meanwhile", slowest, ANSWER, "ms"),
        ),
    ]


def compared(
    made: Stage,
    daemon: Daemon,
    to: str,
    size: int,
    rounds: int,
    others: dict[str, Any],
) -> Rows:
    """
    Upload by turns with a daemon and with plain libraries. Nobody watches, for
    that takes time.

    @param others: The arguments of each plain upload.
    @return: Rows of the table.
    """
    times: dict[str, list[float]] = {name: [] for name in ("", *others)}
    for _ in range(rounds):
        times[""].append(capture(made, daemon, size, nullcontext())[0])
        for name, arguments in others.items():
            times[name].append(plain(made, name, **arguments))
    medians = {name: statistics.median(each) for name, each in times.items()}
    own, fastest = medians.pop(""), min(medians.values())
    rows = [("the daemon, MB/s", f"{size / own / 1e6:.0f}", "", "")]
    for name, seconds in medians.items():
        rows.append((f"plain {name}, MB/s", f"{size / seconds / 1e6:.0f}", "", ""))
    what = f"upload to {to}: of the fastest plain library's speed"
    holds = asked(what, fastest / own, SPEED, least=True)
    share = ratio(fastest, own), f"at least {SPEED}", holds
    return [*rows, ("of the fastest of these", *share)]


async def main(reactor: Any) -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=100_000_000, help="bytes of it")
    options.add_argument("--rounds", type=int, default=5, help="uploads by each")
    addEngine(options)
    arguments = options.parse_args()
    size, rounds = arguments.size, arguments.rounds
    general = {"writelocal": False, "maxbytes": size, "maxpackets": size}
    sections: dict[str, Any] = {
        "general": general,
        "capture": {"engine": arguments.engine},
    }
    with stage() as made:
        warm()
        files = certified(made)
        async with servers(made, reactor, CloudSharkServer, WeedServer) as both:
            cloudshark, weed = both
            await cloudshark.start()
            await weed.start(certificate=files["certificate"], key=files["key"])
            server = {"host": "localhost", "port": cloudshark.port, "token": TOKEN}
            server["cafile"] = cloudshark.cafile
            sections["cloudshark"] = {"upload": True, **server}
            daemon = Daemon(made, **sections)
            rows = watched(made, daemon, "CloudShark", size, rounds)
            _, stored = capture(made, daemon, size, nullcontext())
            url = stored["url"].partition("/captures/")[0]
            id = stored["url"].rpartition("/")[2]
            upload = {
                "file": str(cloudshark.uploads / f"{id}.pcap"),
                "url": f"{url}/api/v1/{quote(TOKEN, safe='')}/upload",
                "cafile": cloudshark.cafile,
            }
            plainly = {"cloudshark": upload}
            rows += compared(made, daemon, "CloudShark", size, rounds, plainly)
            daemon.stop()
            table(f"{size:,} bytes to CloudShark", ("", "", "limit", "kept"), rows)

            s3 = {
                "endpoint": f"https://127.0.0.1:{weed.httpsPort}",
                "bucket": weed.bucket,
                "accessid": ACCESSID,
                "accesskey": ACCESSKEY,
                "cafile": files["ca"],
            }
            del sections["cloudshark"]
            daemon = Daemon(made, **sections, s3={"upload": True, **s3})
            rows = watched(made, daemon, "S3", size, rounds)
            file = upload["file"]
            ways = {
                name: {"file": file, "s3": s3} for name in ("putObject", "uploadFile")
            }
            rows += compared(made, daemon, "S3", size, rounds, ways)
            daemon.stop()
            table(f"{size:,} bytes to S3", ("", "", "limit", "kept"), rows)


if __name__ == "__main__":
    runWithReactor(main)
