# See LICENSE for details.
"""
A demonstration: start a daemon without any configuration, ask it over HTTP for
packets of C{lo}, make a little traffic, and show what it captured. Then the same by
every bus and to every sink; see C{original.py}.

    python demo/demo.py

Everything lands in C{demo-captures} of the current directory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from traffic import HOST, Traffic

from twisted.internet.task import react

PORT = 8477
PACKETS = 20

REQUEST = {
    "node": "any",
    "interface": ["lo"],
    "packets": PACKETS,
    "timeout": 3,
    "tags": "demo",
}

NO_PRIVILEGE = """\
This user may not capture packets. Run one of:

    sudo make demo

or give the right to a copy of the interpreter, which only you can run:

    cp "$(readlink -f .venv/bin/python)" .venv/bin/python-capture
    chmod 700 .venv/bin/python-capture
    sudo setcap cap_net_raw+ep .venv/bin/python-capture
    .venv/bin/python-capture demo/demo.py
"""


class Failed(Exception):
    """The demonstration cannot go on; the text says why."""


def call(method: str, path: str, body: object = None) -> Any:
    """One exchange with the daemon."""
    request = urllib.request.Request(
        f"http://{HOST}:{PORT}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method=method,
    )
    # No proxy: this is a conversation of one machine with itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return json.load(response)
    except urllib.error.HTTPError as e:
        said = e.read().decode(errors="replace")
        raise Failed(f"{method} {path} was answered {e.code}: {said}") from e


def until(what: str, seconds: float, ask: Callable[[], Any]) -> Any:
    """Ask until there is an answer."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return answer


def mayCapture() -> bool:
    """Whether this process could open a packet socket."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except PermissionError:
        return False
    return True


def portTaken() -> bool:
    """Whether somebody listens where the daemon would."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((HOST, PORT))
        except OSError:
            return True
    return False


def decoded(path: Path) -> list[str]:
    """The first packets of a file, in words."""
    if tcpdump := shutil.which("tcpdump", path=os.environ["PATH"] + ":/usr/sbin"):
        command = [tcpdump, "-nr", str(path), "-c", "5"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.splitlines()
    from scapy.utils import rdpcap

    return [packet.summary() for packet in rdpcap(str(path), count=5)]


def capture(daemon: subprocess.Popen[bytes]) -> None:
    """Order one capture, feed it and show it."""

    def healthy() -> bool:
        if (status := daemon.poll()) is not None:
            raise Failed(f"the daemon ended at once, with status {status}")
        try:
            call("GET", "/healthz")
        except (OSError, Failed):
            return False
        return True

    until("the daemon answers", 30, healthy)
    print(f"the daemon answers on http://{HOST}:{PORT}")

    with Traffic() as traffic:
        order = {**REQUEST, "bpf": traffic.filter}
        print("POST /captures", json.dumps(order))
        [id] = call("POST", "/captures", order)["ids"]

        def state(wanted: str) -> Any:
            summary = call("GET", f"/captures/{id}")
            over = summary["state"] == "completed" and not summary["packets"]
            if summary["state"] == "failed" or over:
                raise Failed(f"no pcap came of it: {json.dumps(summary)}")
            return summary if summary["state"] == wanted else None

        until("the capture is armed", 10, lambda: state("armed"))
        traffic.send(PACKETS)
        summary = until("the pcap is stored", 10, lambda: state("stored"))

    path = Path(unquote(urlsplit(summary["stored"][0]["url"]).path))
    print()
    print("pcap     ", path)
    print("size     ", path.stat().st_size, "bytes")
    print("packets  ", summary["packets"])
    print("stopped  ", summary["stop"])
    print()
    for line in decoded(path):
        print("  ", line)
    print()


def alone(where: Path) -> int:
    """
    The first part.

    @return: The exit status.
    """
    log = where / "twistd.log"
    # The twistd of this very interpreter, whatever PATH says.
    twistd = "from twisted.scripts.twistd import run; run()"
    command = [sys.executable, "-c", twistd, "--nodaemon", "--pidfile=", "pcapdaemon"]
    print("starting twistd --nodaemon pcapdaemon in", where)
    with log.open("wb") as out:
        daemon = subprocess.Popen(
            command, cwd=where, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        capture(daemon)
        daemon.send_signal(signal.SIGTERM)
        status = daemon.wait(timeout=20)
        if status:
            raise Failed(f"the daemon ended with status {status}")
    except (Failed, OSError, subprocess.TimeoutExpired) as e:
        print(f"demo: {e}\n\nthe end of {log}:", file=sys.stderr)
        tail = log.read_text(errors="replace").splitlines()[-15:]
        print(*tail, sep="\n", file=sys.stderr)
        return 1
    finally:
        daemon.kill()
        daemon.wait()
    print("the daemon has ended cleanly; its log is", log)
    return 0


def main() -> int:
    """
    @return: The exit status.
    """
    if not mayCapture():
        print(NO_PRIVILEGE, file=sys.stderr)
        return 1
    if portTaken():
        print(f"demo: port {PORT} of {HOST} is taken, perhaps by a daemon", end=" ")
        print(f"that runs already; see: ss -ltnp sport = :{PORT}")
        return 1
    where = Path("demo-captures").resolve()
    where.mkdir(exist_ok=True)
    if status := alone(where):
        return status
    print()
    # Only here, since it needs more than the first part.
    import original

    react(original.run, [where])


if __name__ == "__main__":
    sys.exit(main())
