# See LICENSE for details.
"""
Two network namespaces joined by a veth pair: real packets for tests and
benchmarks, without touching the machine's own network.

Namespace C{a} holds the sender on device C{va} (192.0.2.1). Namespace C{b}
holds the capturing side on device C{vb}, which has no address and is not whom
the frames are for: they count as foreign, so that the kernel of C{b} answers
none of them, and what a capture sees is exactly what was sent. Nothing else
moves there: IPv6 is off, and ARP is not needed.

Needs root and C{ip} of iproute2, see L{skipReason}.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import itertools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self
from unittest import SkipTest, TestCase

Side = Literal["a", "b"]

#: Where frames go; nobody has this address.
TARGET = "192.0.2.2"
_SENDER_MAC, _TARGET_MAC, _CAPTURE_MAC = (f"02:00:00:00:00:0{n}" for n in (1, 2, 3))

_RUN = Path("/run/netns")
_ENDS: tuple[tuple[Side, str], ...] = (("a", "va"), ("b", "vb"))
_NAME = re.compile(r"pcd(\d+)x\d+[ab]")
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


class Unavailable(Exception):
    """
    This machine cannot make what was asked for; the text says what.
    """


def _try(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run C{ip}, whatever comes of it."""
    command = ["ip", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _ip(*arguments: str) -> str:
    """
    Run C{ip} and return what it printed.

    @raise Unavailable: It refused.
    """
    done = _try(*arguments)
    if done.returncode:
        complaint = done.stderr.strip() or f"status {done.returncode}"
        raise Unavailable(f"ip {' '.join(arguments)}: {complaint}")
    return done.stdout


def environment() -> dict[str, str]:
    """
    The environment of this process, in which Python finds this package, wherever
    it is started.
    """
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def _setns(descriptor: int) -> None:
    """Move the calling thread into a network namespace."""
    # os.setns came with Python 3.12.
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@functools.cache
def skipReason() -> str | None:
    """
    Why no L{Pair} can be made here, or L{None} where it can.
    """
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need ip (iproute2)"
    name = f"pcd{os.getpid()}x0a"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "va", "type", "veth", "peer", "name", "vb")
    except Unavailable as refusal:
        return str(refusal)
    finally:
        _try("netns", "delete", name)
    return None


def removeLeftovers() -> list[str]:
    """
    Remove the namespaces of processes that are no more.

    @return: The names of what was removed.
    """
    removed = []
    for path in _RUN.glob("pcd*"):
        match = _NAME.fullmatch(path.name)
        if match is None or Path("/proc", match[1]).exists():
            continue
        # Another process may be at it too.
        if _try("netns", "delete", path.name).returncode == 0:
            removed.append(path.name)
    return removed


class Flood:
    """
    A generator of numbered frames in a process of its own, prepared to start.

    @ivar process: The process of L{pcapdaemon.test.frames}.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def start(self) -> None:
        """Let the frames flow."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """
        Wait until all frames are sent.

        @return: What the generator reports: C{frames}, C{size}, C{seconds},
            C{rate}.
        """
        output, _ = self.process.communicate(timeout=timeout)
        if self.process.returncode:
            raise RuntimeError(f"the generator ended with {self.process.returncode}")
        report: dict[str, Any] = json.loads(output)
        return report


class Tunnel:
    """
    A tunnel device whose packets come from this process; closing it deletes it.

    @ivar name: The name of the device.
    """

    def __init__(self, name: str) -> None:
        """Make the device in the namespace of the calling thread."""
        self.name = name
        self._descriptor = os.open("/dev/net/tun", os.O_RDWR)
        flags = _IFF_TUN | _IFF_NO_PI
        request = struct.pack("16sH22x", name.encode("ascii"), flags)
        try:
            fcntl.ioctl(self._descriptor, _TUNSETIFF, request)
        except OSError:
            self.close()
            raise

    def deliver(self, packet: bytes) -> None:
        """Let an IP packet arrive on the device."""
        os.write(self._descriptor, packet)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Pair:
    """
    The two namespaces. L{open} makes them and L{close} removes them, with
    every process that was started in them; a C{with} statement does both.

    @ivar names: The name of each namespace, as C{ip netns} lists it.
    """

    def __init__(self, mtu: int = 1500) -> None:
        self.mtu = mtu
        number = next(_numbers)
        self.names: dict[Side, str] = {
            "a": f"pcd{os.getpid()}x{number}a",
            "b": f"pcd{os.getpid()}x{number}b",
        }
        self._sockets: dict[tuple[str, Side], socket.socket] = {}
        self._processes: list[subprocess.Popen[Any]] = []
        self._tunnels: list[Tunnel] = []

    def open(self) -> Self:
        """
        Make the namespaces and devices; all are up when this returns.

        @raise Unavailable: This machine does not allow it.
        """
        removeLeftovers()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def _make(self) -> None:
        a, b = self.names["a"], self.names["b"]
        for side in self.names:
            _ip("netns", "add", self.names[side])
            self._disableIPv6(side)
        mtu = str(self.mtu)
        _ip(
            *("-n", a, "link", "add", "va", "mtu", mtu, "address", _SENDER_MAC),
            *("type", "veth", "peer", "name", "vb"),
            *("mtu", mtu, "address", _CAPTURE_MAC, "netns", b),
        )
        # Else datagrams of one system call would cross the pair as one frame.
        _ip("-n", a, "link", "set", "va", "gso_max_segs", "1")
        _ip("-n", a, "address", "add", "192.0.2.1/24", "dev", "va")
        self._neighbour(TARGET, "va")
        for side, device in _ENDS:
            _ip("-n", self.names[side], "link", "set", "lo", "up")
            _ip("-n", self.names[side], "link", "set", device, "up")
        for side, device in _ENDS:
            self._awaitCarrier(side, device)

    def _disableIPv6(self, side: Side) -> None:
        """Keep neighbour and router solicitations off the devices to come."""
        with self.enter(side):
            for which in ("all", "default"):
                path = Path("/proc/sys/net/ipv6/conf", which, "disable_ipv6")
                if path.exists():
                    path.write_text("1")

    def _neighbour(self, address: str, device: str) -> None:
        _ip(
            *("-n", self.names["a"], "neighbour", "replace", address),
            *("lladdr", _TARGET_MAC, "nud", "permanent", "dev", device),
        )

    def _awaitCarrier(self, side: Side, device: str) -> None:
        pause = threading.Event()
        for _ in range(500):
            shown = _ip("-json", "-n", self.names[side], "link", "show", device)
            if json.loads(shown)[0]["operstate"] == "UP":
                return
            pause.wait(0.01)
        raise Unavailable(f"{device} got no carrier")

    def close(self) -> None:
        """
        Remove everything, also after L{open} failed half-way. Idempotent.
        """
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for link in self._sockets.values():
            link.close()
        for tunnel in self._tunnels:
            tunnel.close()
        self._processes.clear()
        self._sockets.clear()
        self._tunnels.clear()
        # A namespace lives on while something holds it open: its devices go first.
        for side, device in _ENDS:
            name = self.names[side]
            if (_RUN / name).exists():
                _try("-n", name, "link", "delete", device)
                _ip("netns", "delete", name)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def enter(self, side: Side) -> Iterator[None]:
        """
        Have the calling thread, and no other, in a namespace meanwhile.

        What it opens there keeps working afterwards, from any thread. C{/sys}
        stays that of the machine, unlike in L{run} and L{spawn}.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            there = os.open(_RUN / self.names[side], os.O_RDONLY)
            try:
                _setns(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def command(self, side: Side, *argv: str) -> list[str]:
        """
        The command that runs another one in a namespace. Its process becomes
        that of the other one, so that signals arrive.
        """
        return ["ip", "netns", "exec", self.names[side], *argv]

    def run(self, side: Side, *argv: str) -> str:
        """
        Run a command in a namespace until it ends, and return what it printed.

        @raise subprocess.CalledProcessError: Its exit status is not 0.
        """
        command = self.command(side, *argv)
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment()
        ).stdout

    def spawn(
        self, side: Side, argv: Sequence[str], **options: Any
    ) -> subprocess.Popen[Any]:
        """
        Start a command in a namespace. L{close} kills it, if it still runs.

        @param options: Those of L{subprocess.Popen}.
        """
        options.setdefault("env", environment())
        process = subprocess.Popen(self.command(side, *argv), **options)
        self._processes.append(process)
        return process

    def send(
        self, frames: Iterable[bytes], device: str = "va", side: Side = "a"
    ) -> None:
        """
        Send whole frames out of a device, unchanged.
        """
        link = self._sockets.get((device, side))
        if link is None:
            with self.enter(side):
                link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._sockets[device, side] = link
            link.bind((device, 0))
        for frame in frames:
            link.send(frame)

    def flood(
        self,
        count: int,
        size: int = 128,
        rate: float = 0,
        first: int = 0,
        to: str = TARGET,
    ) -> Flood:
        """
        Prepare many numbered frames in another process, to be started at will.
        The arguments are those of L{pcapdaemon.test.frames}.
        """
        options = {"to": to, "count": count, "size": size, "rate": rate}
        argv = [sys.executable, "-m", "pcapdaemon.test.frames", "--wait"]
        argv += [f"--{name}={value}" for name, value in options.items()]
        argv.append(f"--first={first}")
        pipe = subprocess.PIPE
        process = self.spawn("a", argv, stdin=pipe, stdout=pipe, text=True)
        assert process.stdout is not None
        ready = process.stdout.readline()
        if ready != "ready\n":
            raise RuntimeError(f"the generator did not get ready: {ready!r}")
        return Flood(process)

    def vlan(self, id: int) -> str:
        """
        Make a VLAN device on each side.

        Datagrams from C{a} to C{198.18.ID.2} and tagged frames out of C{va}
        arrive on it.

        @param id: The VLAN identifier, 1 to 255.
        @return: The name of the device in C{b}.
        @raise Unavailable: The kernel has no VLAN devices.
        """
        kind = ("type", "vlan", "id", str(id))
        for side, parent in _ENDS:
            name = self.names[side]
            device = f"{parent}.{id}"
            _ip("-n", name, "link", "add", "link", parent, "name", device, *kind)
            _ip("-n", name, "link", "set", device, "up")
        address = f"198.18.{id}.1/24"
        _ip("-n", self.names["a"], "address", "add", address, "dev", f"va.{id}")
        self._neighbour(f"198.18.{id}.2", f"va.{id}")
        self._awaitCarrier("b", f"vb.{id}")
        return f"vb.{id}"

    def tunnel(self, name: str = "tun0") -> Tunnel:
        """
        Make a tunnel device in C{b}, whose packets have no link header.

        @raise Unavailable: The kernel has no tunnel devices.
        """
        try:
            with self.enter("b"):
                tunnel = Tunnel(name)
        except OSError as error:
            raise Unavailable(f"no tunnel device: {error}") from error
        self._tunnels.append(tunnel)
        _ip("-n", self.names["b"], "link", "set", name, "up")
        return tunnel

    def delete(self, device: str = "vb", side: Side = "b") -> None:
        """Delete a device; C{va} goes with C{vb}."""
        _ip("-n", self.names[side], "link", "delete", device)

    def down(self, device: str = "vb", side: Side = "b") -> None:
        """Take a device down."""
        _ip("-n", self.names[side], "link", "set", device, "down")

    def up(self, device: str = "vb", side: Side = "b") -> None:
        """Bring a device up again."""
        _ip("-n", self.names[side], "link", "set", device, "up")
        self._awaitCarrier(side, device)


def makePair(case: TestCase, mtu: int = 1500) -> Pair:
    """
    A pair for one test, removed when the test ends.

    @raise SkipTest: Network namespaces cannot be had here.
    """
    reason = skipReason()
    if reason is not None:
        raise SkipTest(reason)
    pair = Pair(mtu)
    case.addCleanup(pair.close)
    return pair.open()
