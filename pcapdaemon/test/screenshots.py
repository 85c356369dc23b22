# See LICENSE for details.
"""
The pictures of the live page in the documentation::

    python -m pcapdaemon.test.screenshots DIRECTORY

A real daemon in a network of its own captures, has captured and refuses; what a
browser shows of it is saved as C{page-light.png} (1280 wide) and C{page-dark.png} (390
wide). Needs root, C{ip} and chromium.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from unittest import SkipTest
from unittest import TestCase as UnitTestCase

from pcapdaemon.test.browser import Tab
from pcapdaemon.test.daemoncase import enterPair
from pcapdaemon.test.frames import frame
from pcapdaemon.test.network import Pair
from pcapdaemon.test.process import Daemon

#: For how long traffic flows before the pictures are taken, in seconds.
FLOWING = 60

LABELS = {"customer": "Initech", "alertid": 655443, "tags": "ddos,edge"}


def prepare(daemon: Daemon, pair: Pair) -> None:
    """
    Have something of everything to be seen.
    """
    for fields in (
        {"bpf": "udp port 9", "packets": 2000, **LABELS, "request_id": "inc-2041"},
        {"bpf": "tcp port 443", "timeout": 0.5, "customer": "ACME", "tags": "tls"},
        {"bpf": "udp port 9 and less 200", "duration": 1.5, "alertid": 655440},
    ):
        id = daemon.arm(alias=["uplink"], **fields)
        pair.send(frame(n) for n in range(2100))
        daemon.waitForEvent("completed", id)
    ask = {"node": "any", "interface": "vb"}
    for refused in (
        {"packets": 5_000_000, **LABELS},
        {"bpf": "udp prot 53", "tags": "dns"},
    ):
        daemon.http("POST", "/captures", {**ask, **refused})
    daemon.arm(
        interface=["lo"],
        bpf="tcp port 8477 and tcp[tcpflags] & tcp-rst != 0",
        timeout=90,
        customer="ACME",
        tags="resets",
    )
    daemon.arm(
        alias=["uplink"],
        bpf="udp port 9 and greater 1000",
        snap=256,
        packets=30_000,
        timeout=15,
        duration=90,
        request_id="inc-2042",
        **LABELS,
    )
    daemon.arm(alias=["uplink"], bpf="udp port 9", packets=20_000, duration=300)


def flow(pair: Pair, seconds: float) -> None:
    """
    Let frames come, more and less: of two sizes, each with waves of its own.
    """
    begun = time.monotonic()
    while (now := time.monotonic() - begun) < seconds:
        large = 20 + 14 * math.sin(now / 3) + 6 * math.sin(now * 2.1)
        small = 9 + 5 * math.sin(now / 1.7)
        pair.send(frame(n, 1200) for n in range(max(0, round(large))))
        pair.send(frame(n) for n in range(round(small)))
        time.sleep(0.05)


def main(arguments: list[str]) -> int:
    """
    @param arguments: The directory.
    @return: The exit status.
    """
    if len(arguments) != 1:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    case = UnitTestCase()
    try:
        pair = enterPair(case)
        daemon = Daemon(
            case,
            general={"node": "edge-1", "maxpackets": 50_000},
            http={"files": 1 << 24},
        )
        daemon.configure(interface=[{"name": "vb", "alias": ["uplink"]}])
        daemon.start()
        prepare(daemon, pair)
        origin = f"http://127.0.0.1:{daemon.port}"
        light = Tab(case, origin, color_scheme="light")
        phone = {"width": 390, "height": 844}
        dark = Tab(case, origin, color_scheme="dark", viewport=phone)
        for tab in (light, dark):
            tab.page.goto(f"{origin}/")
        flow(pair, FLOWING)
        for tab, name in ((light, "light"), (dark, "dark")):
            tab.page.wait_for_timeout(500)
            tab.page.screenshot(path=directory / f"page-{name}.png")
            print(directory / f"page-{name}.png", *tab.complaints())
    except SkipTest as reason:
        print(reason, file=sys.stderr)
        return 1
    finally:
        case.doCleanups()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
