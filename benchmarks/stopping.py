# See LICENSE for details.
"""
How soon a daemon ends that is asked to while Redis, Kafka and SQS are idle; and
what a Kafka broker costs that is not there, until it is.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.report import asked, parser, table
from benchmarks.servers import runWithReactor, servers
from benchmarks.stage import CHANNEL, REDIS_PORT, Daemon, Failed, Stage, stage, until
from pcapdaemon.test.servers import RedisServer, freePort
from pcapdaemon.test.servers_kafka import KafkaServer
from pcapdaemon.test.servers_moto import MotoServer

#: The most seconds that an end may take, and percent of a core.
END, PERCENT = 2.0, 2.0
#: Seconds until the second poll of SQS has begun for sure, which takes long.
POLLING = 0.5
#: Seconds until a daemon has done all that it does once.
SETTLED = 5.0


def ended(daemon: Daemon) -> float:
    """
    End a daemon.

    @return: The seconds that it took.
    """
    started = time.perf_counter()
    daemon.process.terminate()
    status = daemon.process.wait(60)
    took = time.perf_counter() - started
    if status:
        raise Failed(f"the daemon ended with {status}")
    return took


def absent(made: Stage, daemon: Daemon, seconds: float) -> list[tuple[str, ...]]:
    """
    See what a daemon uses while its broker is not there.

    @return: Rows of the table.
    """
    time.sleep(SETTLED)
    usage = daemon.usage
    looks = []
    before, started = usage.cpu(), time.perf_counter()
    end = started + seconds
    while time.perf_counter() < end:
        looks.append((usage.threads(), usage.descriptors()))
        time.sleep(0.25)
    percent = (usage.cpu() - before) / (time.perf_counter() - started) * 100
    threads, descriptors = zip(*looks, strict=True)
    return [
        (
            "CPU, % of a core",
            f"{percent:.2f}",
            f"{PERCENT:.2f}",
            asked("without the Kafka broker: CPU", percent, PERCENT, "% of a core"),
        ),
        ("threads, from first to last", f"{threads[0]} to {threads[-1]}", "", ""),
        ("- at most", f"{max(threads)}", "", ""),
        ("descriptors", f"{descriptors[0]} to {descriptors[-1]}", "", ""),
        ("- at most", f"{max(descriptors)}", "", ""),
    ]


async def main(reactor: Any) -> None:
    options = parser(__doc__)
    options.add_argument("--times", type=int, default=20, help="starts and ends")
    options.add_argument("--seconds", type=float, default=60, help="without Kafka")
    arguments = options.parse_args()
    with stage() as made:
        async with servers(made, reactor, RedisServer, KafkaServer, MotoServer) as all:
            redis, kafka, moto = all
            await redis.start(REDIS_PORT)
            await kafka.start()
            kafka.create(CHANNEL)
            await moto.start()
            client = moto.client("sqs")
            sqs = {
                "listen": True,
                "url": client.create_queue(QueueName=CHANNEL)["QueueUrl"],
                "region": "us-east-1",
                "accessid": "id",
                "accesskey": "key",
            }
            client.close()
            server = {"listen": True, "server": [f"127.0.0.1:{kafka.port}"]}
            took = []
            for _ in range(arguments.times):
                daemon = Daemon(made, redis=True, kafka=server, sqs=sqs)
                time.sleep(POLLING)
                took.append(ended(daemon))
            soon = sum(each <= END for each in took)
            await kafka.kill()

            port = freePort()
            server = {"listen": True, "server": [f"127.0.0.1:{port}"]}
            daemon = Daemon(made, status="degraded", kafka=server)
            rows = absent(made, daemon, arguments.seconds)
            await kafka.start(port)
            kafka.create(CHANNEL)
            started = time.perf_counter()
            joined = lambda: daemon.ask("GET", "/healthz")["status"] == "ok"  # noqa: E731
            until("the daemon reads the topic", 120, joined)
            came = time.perf_counter() - started
            rows.append(
                ("reads it so many seconds after it came", f"{came:.1f}", "", "")
            )
            ended(daemon)
    inTime = asked("SIGTERM to the end: slowest", max(took), END, "s")
    table(
        "From SIGTERM to the end, with Redis, Kafka and SQS idle: seconds",
        ("", "", "at most", "kept"),
        [
            ("slowest", f"{max(took):.2f}", f"{END:.2f}", inTime),
            ("median", f"{statistics.median(took):.2f}", "", ""),
            ("in time, with status 0", f"{soon} of {len(took)}", "", ""),
        ],
    )
    table(
        f"{arguments.seconds:g} s without the Kafka broker",
        ("", "", "at most", "kept"),
        rows,
    )


if __name__ == "__main__":
    runWithReactor(main)
