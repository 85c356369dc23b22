# See LICENSE for details.
"""
The daemon and the programs that it is compared with, each as something that
captures the same frames, and what that cost.

The daemon's cost is that of the whole process and its children from just before
the first frame until every file is stored and every device closed, its copy and
checksum included; that of the others is from just before the first frame to
their end.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs

from benchmarks.stage import HTTP_PORT, NODE, Daemon, Failed, Stage, until, warm
from benchmarks.usage import cpu, cpuAtEnd
from pcapdaemon.test.pcapfile import PACKET_HEADER, sequences

#: What all are asked for, and the daemon's default settings, for those that are
#: to have the same.
FILTER, SNAP, RING = "udp port 9", 500, 32 << 20
#: Seconds in which a program has taken what it will ever take.
_REST = 1.0
#: What the daemon does in pools of threads of these names, in the order of charts.
STEPS = {"draining": "capture", "work": "SHA-256", "local": "copy to the sink"}
REST = "everything else"


@attrs.frozen
class Load:
    """
    What is sent, each time.

    @ivar rate: Frames a second; 0 for as many as can be sent.
    """

    count: int
    size: int
    rate: float = 0

    @property
    def pace(self) -> str:
        """The rate, in words."""
        return f"{self.rate / 1e3:g} kpps" if self.rate else "flat out"

    def __str__(self) -> str:
        return f"{self.size:,} bytes, {self.pace}"


@attrs.frozen
class Run:
    """
    One run of one contender.

    @ivar rate: Frames a second, as sent.
    @ivar captured: Packets in all files.
    @ivar wanted: How many there should be.
    @ivar ordered: Whether their numbers only rise.
    @ivar drops: What the kernel dropped, by the program's own account.
    @ivar cpu: Seconds of processor time, children included.
    @ivar steps: Of which each of L{STEPS}, and L{REST}; empty where unknown.
    """

    rate: float
    captured: int
    wanted: int
    ordered: bool
    drops: int
    cpu: float
    steps: dict[str, float] = attrs.Factory(dict)

    @property
    def each(self) -> float:
        """Microseconds of processor time for a packet."""
        return self.cpu / self.wanted * 1e6

    @property
    def lost(self) -> float:
        """Percent of the packets that are in no file."""
        return 100 * (1 - self.captured / self.wanted)


def _numbers(path: Path) -> tuple[int, bool]:
    """
    Read a file and remove it.

    @return: How many packets it has, and whether their numbers only rise.
    """
    numbers = sequences(path)
    path.unlink()
    if numbers == array("Q", range(len(numbers))):
        return len(numbers), True
    return len(numbers), all(a < b for a, b in pairwise(numbers))


class Contender(ABC):
    """
    Something that captures.

    @ivar name: How tables call it.
    @ivar own: Whether it is the daemon.
    """

    def __init__(self, name: str, own: bool = False) -> None:
        self.name = name
        self.own = own

    def measure(self, stage: Stage, load: Load, captures: int = 1) -> Run:
        """
        Have so many captures of the same frames.
        """
        flood = stage.pair.flood(load.count, load.size, load.rate)
        # Twice, since the daemon has a recording and a file of it.
        kept = PACKET_HEADER + min(load.size, self.snap)
        warm(min(2 * captures * load.count * kept + (64 << 20), 4 << 30))
        self.arm(stage, load, captures)
        flood.start()
        rate = float(flood.result(120)["rate"])
        return self.end(load, rate)

    @property
    def snap(self) -> int:
        """The most bytes of a packet that it keeps."""
        return 262_144

    @abstractmethod
    def arm(self, stage: Stage, load: Load, captures: int) -> None:
        """Start the captures, and wait until all take packets."""

    @abstractmethod
    def end(self, load: Load, rate: float) -> Run:
        """Wait until all is over, and remove what was captured."""


class Pcapdaemon(Contender):
    """
    A daemon that stays, with nothing set but the limits of its requests.
    """

    def __init__(
        self,
        name: str,
        stage: Stage,
        engine: str,
        number: int = 0,
        request: dict[str, Any] | None = None,
    ) -> None:
        """
        @param engine: What brings the packets.
        @param number: A number of its own among the daemons of the stage.
        @param request: Keys that every request has.
        """
        super().__init__(name, own=True)
        most = {"maxpackets": 10**8, "maxbytes": 10**10}
        self.daemon = Daemon(
            stage, port=HTTP_PORT + number, general=most, capture={"engine": engine}
        )
        self._stage = stage
        self._request = request or {}
        # The first capture also imports modules and starts threads.
        self.measure(stage, Load(1000, 128), 2)

    @property
    def snap(self) -> int:
        return int(self._request.get("snap", SNAP))

    def arm(self, stage: Stage, load: Load, captures: int) -> None:
        self._since, self._captures = len(self.daemon.events), captures
        for _ in range(captures):
            request = {"node": NODE, "interface": "vb", "bpf": FILTER, **self._request}
            limits = {"timeout": _REST, "packets": load.count}
            answer = self.daemon.ask("POST", "/captures", {**request, **limits})
            if "ids" not in answer:
                raise Failed(f"the request was refused: {answer}")
        self.daemon.wait("armed", captures, self._since)
        self._before = self._used()

    def _used(self) -> tuple[float, dict[str, float]]:
        usage = self.daemon.usage
        return usage.cpu() + usage.childrensCPU(), usage.byPool()

    def end(self, load: Load, rate: float) -> Run:
        stored = self.daemon.wait("stored", self._captures, self._since)
        # Devices are closed after that.
        time.sleep(0.1)
        (total, pools), (before, earlier) = self._used(), self._before
        completed = self.daemon.wait("completed", self._captures, self._since)
        steps = {
            step: pools.get(pool, 0) - earlier.get(pool, 0)
            for pool, step in STEPS.items()
        }
        used = total - before
        steps[REST] = max(0.0, used - sum(steps.values()))
        found = [_numbers(self._stage.captures / e["filename"]) for e in stored]
        return Run(
            rate,
            sum(count for count, _ in found),
            load.count * self._captures,
            all(ordered for _, ordered in found),
            sum(sum(event["dropped"].values()) for event in completed),
            used,
            steps,
        )


class _Process:
    """
    A process of a program that captures into a file.
    """

    def __init__(
        self, stage: Stage, command: Sequence[str], path: Path, ready: str
    ) -> None:
        """
        Start it, and wait until it captures.

        @param ready: What it says on standard error then.
        """
        path.touch()
        self.path, self._program, self.said = path, command[0], ""
        self.process = stage.pair.spawn("b", command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self._errors = self.process.stderr
        while ready not in self.said:
            line = self._errors.readline()
            if not line:
                raise Failed(f"{self._program} ended at once: {self.said}")
            self.said += line

    def start(self) -> None:
        self._before = cpu(self.process.pid)

    def _ended(self) -> bool:
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self.process.pid, options) is not None

    def end(self, seconds: float) -> float:
        """
        @param seconds: How long to wait until it ends by itself.
        @return: Seconds of processor time since L{start}.
        """
        try:
            until("the end", seconds, self._ended)
        except Failed:
            # It waits for packets that were lost.
            self.process.send_signal(signal.SIGINT)
        used = cpuAtEnd(self.process) - self._before
        self.said += self._errors.read()
        return used

    def dropped(self, pattern: str) -> int:
        found = re.search(pattern, self.said)
        if found is None:
            raise Failed(f"{self._program} did not say its drops: {self.said}")
        return int(found[1])


class Program(Contender):
    """
    Another program, one process for each capture.
    """

    #: The command, what it says when it captures, and what it says of drops.
    command: str
    ready: str
    drops: str

    def __init__(self, same: bool = False) -> None:
        """
        @param same: Whether ring and snap length are to be those of the daemon,
            not its own defaults.
        """
        super().__init__(self.command + (", same ring" if same else ""))
        self._same = same

    @classmethod
    def installed(cls) -> bool:
        """Whether it is there."""
        return shutil.which(cls.command) is not None

    @property
    def snap(self) -> int:
        return SNAP if self._same else 262_144

    @abstractmethod
    def options(self, path: str, count: int, same: bool) -> list[str]:
        """Its command line."""

    def finish(self, path: Path) -> float:
        """
        Do with a file what else there is to do.

        @return: Seconds of processor time that it took.
        """
        return 0.0

    def arm(self, stage: Stage, load: Load, captures: int) -> None:
        self._running = []
        for number in range(captures):
            path = stage.directory / f"{self.command}-{number}.pcap"
            options = self.options(str(path), load.count, self._same)
            command = [self.command, *options]
            self._running.append(_Process(stage, command, path, self.ready))
        for each in self._running:
            each.start()

    def end(self, load: Load, rate: float) -> Run:
        last = time.monotonic() + _REST
        used = sum(p.end(last - time.monotonic()) for p in self._running)
        used += sum(self.finish(each.path) for each in self._running)
        found = [_numbers(each.path) for each in self._running]
        return Run(
            rate,
            sum(count for count, _ in found),
            load.count * len(self._running),
            all(ordered for _, ordered in found),
            sum(each.dropped(self.drops) for each in self._running),
            used,
        )


class Tcpdump(Program):
    """
    C{tcpdump -w}.
    """

    command = "tcpdump"
    ready = "listening on"
    drops = r"(\d+) packets? dropped by kernel"

    def options(self, path: str, count: int, same: bool) -> list[str]:
        ring = f"-B {RING >> 10} -s {SNAP}".split() if same else []
        # Not as another user, who may not write here.
        return ["-i", "vb", "-Z", "root", *ring, "-c", str(count), "-w", path, FILTER]


class Finished(Tcpdump):
    """
    C{tcpdump -w}, and then what the daemon does too: the checksum of the file, and
    a copy of it. Both are made here, which spares the start of two programs.
    """

    def __init__(self) -> None:
        super().__init__(same=True)
        self.name += ", then SHA-256 and a copy"

    def finish(self, path: Path) -> float:
        began = time.thread_time()
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        copy = path.with_suffix(".copy")
        shutil.copyfile(path, copy)
        used = time.thread_time() - began
        copy.unlink()
        return used


class Dumpcap(Program):
    """
    C{dumpcap -w}, which writes a pcap file as the others do.
    """

    command = "dumpcap"
    ready = "File: "
    drops = r"on interface .*: \d+/(\d+)"

    def options(self, path: str, count: int, same: bool) -> list[str]:
        ring = f"-B {RING >> 20} -s {SNAP}".split() if same else []
        begin = ["-q", "-P", "-i", "vb", *ring, "-c", str(count)]
        return [*begin, "-w", path, "-f", FILTER]
