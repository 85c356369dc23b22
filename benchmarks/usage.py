# See LICENSE for details.
"""
What another process uses.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

_libc = ctypes.CDLL(None)
_TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """
    @return: Seconds of processor time that a process has used, all its threads
        counted, also those that have ended; to the nanosecond.
    """
    clock = ctypes.c_int()
    if _libc.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise ProcessLookupError(f"there is no process {pid}")
    return time.clock_gettime(clock.value)


def cpuAtEnd(process: subprocess.Popen[str]) -> float:
    """
    Wait for the end of a process.

    @return: Seconds of processor time that it has used.
    """
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


class Usage:
    """
    What a process and its children use.

    @ivar pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def children(self) -> list[int]:
        """
        @return: The processes that it has started and that still run.
        """
        lists = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(child) for each in lists for child in each.read_text().split()]

    def cpu(self) -> float:
        """
        @return: Seconds of processor time of the process itself.
        """
        return cpu(self.pid)

    def byPool(self) -> dict[str, float]:
        """
        @return: Seconds of processor time of the threads that there are, by the
            name of their pool; that of the reactor's thread is C{reactor}.
        """
        used: Counter[str] = Counter()
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                name = (task / "comm").read_text().strip()
                # Nanoseconds on a processor come first.
                ran = (task / "schedstat").read_text().split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue  # has just ended
            own = int(task.name) == self.pid
            used["reactor" if own else name.rpartition("-")[0]] += int(ran)
        return {name: ran / 1e9 for name, ran in used.items()}

    def childrensCPU(self) -> float:
        """
        @return: Seconds of processor time of its children, also former ones.
        """
        # What follows the name, which may hold anything: man 5 proc_pid_stat.
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        ended = (int(stat[13]) + int(stat[14])) / _TICK
        return ended + sum(cpu(child) for child in self.children())

    def resident(self) -> int:
        """
        @return: Bytes of resident memory of the process, mapped kernel rings
            included.
        """
        return _resident(self.pid)

    def anonymous(self) -> int:
        """
        @return: The part of L{resident} that is neither mapped from a file nor
            from a kernel ring or a memory file.
        """
        return _resident(self.pid, "RssAnon")

    def childrensResident(self) -> int:
        """
        @return: Bytes of resident memory of its children.
        """
        return sum(_resident(child) for child in self.children())

    def descriptors(self) -> int:
        """
        @return: How many descriptors the process has open.
        """
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        """
        @return: How many threads it has.
        """
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def rings(self) -> int:
        """
        @return: The part of L{resident} that is kernel rings.
        """
        size, ring = 0, False
        with open(f"/proc/{self.pid}/smaps") as maps:
            for line in maps:
                if re.match("[0-9a-f]+-", line):
                    ring = "socket:" in line
                elif ring and line.startswith("Rss:"):
                    size += int(line.split()[1]) * 1024
        return size


def _resident(pid: int, kind: str = "VmRSS") -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{kind}:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
