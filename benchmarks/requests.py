# See LICENSE for details.
"""
Two hundred thousand requests for another node over Redis: what a message costs
the daemon, beside what receiving it and decoding its JSON costs the plain
library. Then one for this node, which must be taken, and ten thousand of which
nothing can be made: each must be refused for the right reason, and cost no
memory.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

import attrs

from benchmarks.report import asked, chart, mebibytes, parser, ratio, table
from benchmarks.results import Bar
from benchmarks.stage import (
    NODE,
    REDIS_PORT,
    Daemon,
    Failed,
    Redis,
    Stage,
    run,
    stage,
)

#: The most µs of CPU that a message for another node may cost.
LIMIT = 12.0
#: What one cost the Go program once on such a machine.
GO = 11.0
#: Bounds of the daemon that some of the malformed ones exceed.
MAXPACKETS, MAXMESSAGE = 50_000, 65_536
_WHEN = ("before", "after once", "after twice")


def foreign(number: int) -> bytes:
    """
    A request for another node.
    """
    return json.dumps(
        {
            "node": f"sensor-{number % 997}.example.net",
            "interface": ["eth0", "eth1"],
            "bpf": f"tcp port 443 and host 192.0.2.{number % 256}",
            "packets": 10_000,
            "timeout": 30,
            "alertid": number,
            "customer": "example",
            "tags": "benchmark,foreign",
        }
    ).encode()


def _ours(**fields: object) -> bytes:
    return json.dumps({"node": NODE, "interface": ["vb"], **fields}).encode()


#: Reason to messages that are refused for it; each is made from a number.
_BAD: list[tuple[str, Callable[[int], bytes]]] = [
    ("malformed", lambda n: b""),
    ("malformed", lambda n: b"\xff\xfe%d" % n),
    ("malformed", lambda n: b'{"node": "%d' % n),
    ("malformed", lambda n: b"[%d]" % n),
    ("malformed", lambda n: b"[" * (1000 + n)),
    ("malformed", lambda n: b'{"node":' * (1000 + n % 1000)),
    ("malformed", lambda n: b'{"packets": NaN}'),
    ("malformed", lambda n: b'{"packets": %s}' % (b"9" * (4301 + n))),
    ("invalid", lambda n: b"{}"),
    ("invalid", lambda n: _ours(alias=["main"])),
    ("invalid", lambda n: _ours(interface=[n])),
    ("invalid", lambda n: _ours(packets=str(n))),
    ("invalid", lambda n: _ours(packets=-n)),
    ("invalid", lambda n: _ours(timeout=10 ** (309 + n % 1000))),
    ("invalid", lambda n: _ours(bpf={"port": n})),
    ("invalid", lambda n: _ours(tags=["a", "b"])),
    ("invalid", lambda n: _ours(alertid=1e3)),
    ("invalid", lambda n: _ours(packetdebug=1)),
    ("invalid", lambda n: b'{"nodere": "(", "interface": "vb"}'),
    ("limit", lambda n: _ours(packets=MAXPACKETS + 1 + n)),
    ("limit", lambda n: _ours(bpf="udp " * 1000)),
    ("unknown-interface", lambda n: _ours(interface=[f"none{n}"])),
    ("unknown-alias", lambda n: b'{"node": "any", "alias": "none%d"}' % n),
    ("bad-filter", lambda n: _ours(bpf=f"port {n} and and")),
    ("too-large", lambda n: _ours(tags="x" * (MAXMESSAGE + n))),
]


def bad(count: int) -> list[tuple[str, bytes]]:
    """
    @return: Messages of all kinds, and the reason for which to refuse each; some
        are of 10 MB.
    """
    made = [
        (reason, make(n))
        for n in range(count // len(_BAD) + 1)
        for reason, make in _BAD
    ]
    return [*made[: count - 3], *[("too-large", b"x" * 10_000_000)] * 3]


def bare(stage: Stage, redis: Redis, messages: list[bytes]) -> float:
    """
    @return: Seconds of CPU of the plain library.
    """
    module = [sys.executable, "-m", "benchmarks.bare_subscriber"]
    process = stage.pair.spawn(
        "b",
        [*module, str(REDIS_PORT), "bare", str(len(messages))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise Failed("the plain subscriber did not get ready")
    redis.publish(messages, "bare")
    return float(process.stdout.readline())


@attrs.frozen
class Foreign:
    """
    What messages for another node cost.

    @ivar cpu: Seconds of CPU.
    @ivar seconds: Until all were looked at.
    @ivar logged: Lines of the log above debug.
    """

    cpu: float
    seconds: float
    logged: int


def measure(daemon: Daemon, redis: Redis, messages: list[bytes]) -> Foreign:
    """
    Publish messages for another node, and see when the daemon is through.
    """

    def logged() -> int:
        return daemon.levels.total() - daemon.levels["debug"]

    since, lines, before = len(daemon.events), logged(), daemon.usage.cpu()
    started = time.perf_counter()
    # The last one tells: messages are looked at in order.
    redis.publish([*messages, _ours(packets=0)])
    daemon.wait("rejected", since=since, reason="invalid")
    seconds = time.perf_counter() - started
    return Foreign(daemon.usage.cpu() - before, seconds, logged() - lines - 1)


def refuse(daemon: Daemon, redis: Redis, count: int) -> Counter[str]:
    """
    Publish messages of which nothing can be made.

    @return: How many more, or fewer, were refused for a reason than should have
        been.
    """
    messages = bad(count)
    since = len(daemon.events)
    redis.publish([message for _, message in messages], chunk=50)
    found = daemon.wait("rejected", count, since)
    difference = Counter(event["reason"] for event in found)
    difference.subtract(reason for reason, _ in messages)
    return difference


def take(daemon: Daemon, redis: Redis) -> None:
    """
    See that a request for this node is taken.

    @raise Failed: It is not.
    """
    since = len(daemon.events)
    redis.publish([_ours(bpf="udp port 9", duration=0.1)])
    daemon.wait("completed", since=since, stop="duration")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=200_000, help="foreign requests")
    options.add_argument("--bad", type=int, default=10_000, help="malformed ones")
    options.add_argument("--repeat", type=int, default=3, help="runs; medians count")
    arguments = options.parse_args()
    count = arguments.count
    messages = [foreign(number) for number in range(count)]
    plain, results = [], []
    with stage() as made:
        redis = Redis(made)
        daemon = Daemon(
            made, True, general={"maxpackets": MAXPACKETS, "maxmessage": MAXMESSAGE}
        )
        for _ in range(arguments.repeat):
            plain.append(bare(made, redis, messages))
            results.append(measure(daemon, redis, messages))
        take(daemon, redis)
        resident = [daemon.usage.resident()]
        wrong = 0
        for _ in _WHEN[1:]:
            wrong += sum(map(abs, refuse(daemon, redis, arguments.bad).values()))
            resident.append(daemon.usage.resident())
        take(daemon, redis)
    own = statistics.median(each.cpu for each in results) / count * 1e6
    library = statistics.median(plain) / count * 1e6
    pace = count / statistics.median(each.seconds for each in results)
    logged = sum(each.logged for each in results)
    chart(
        "CPU, µs for a request for another node, median",
        [
            Bar("pcapdaemon", [own], True),
            Bar("plain Redis library", [library]),
            Bar("Go program", [GO], cited=True),
        ],
    )
    table(
        f"{arguments.repeat} times {count} requests for another node, of "
        f"{len(messages[0])} bytes and more: medians; then one for this node, twice "
        f"{arguments.bad} malformed ones, and one for this node again",
        ("", "pcapdaemon", "library", "ratio", "at most", "kept"),
        [
            (
                "foreign: µs of CPU a message",
                *(f"{own:.1f}", f"{library:.1f}", ratio(own, library)),
                f"{LIMIT:g}",
                asked("a request for another node: CPU", own, LIMIT, "µs"),
            ),
            ("foreign: messages a second", f"{pace:.0f}", *[""] * 4),
            _none("foreign: lines in the log above debug", logged),
            _none("malformed: not refused for the right reason", wrong),
            _none("tracebacks", daemon.tracebacks),
            *(
                (f"malformed: MiB resident {when}", mebibytes(size), *[""] * 4)
                for when, size in zip(_WHEN, resident, strict=True)
            ),
            ("for this node: taken", "2 of 2", *[""] * 4),
        ],
    )


def _none(what: str, count: int) -> tuple[str, ...]:
    return (what, str(count), "", "", "0", asked(what, count, 0))


if __name__ == "__main__":
    run(main)
