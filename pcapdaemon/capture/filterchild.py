# See LICENSE for details.
"""
The process in which a filter from outside is compiled before anything else
sees it: a program that L{pcapdaemon.capture.filters} runs by its path, so that
it needs the standard library and pcapy alone.

It says C{ready} once, then answers each line C{[filter, linkType, snaplength]}
with a line C{[reason, words]}, both JSON; an empty reason means that the
filter is sound and cheap. One that takes more CPU than it may have ends the
process by C{SIGPROF}.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import struct
import sys
import time
from functools import lru_cache
from typing import Any

#: What the child says when it can be asked.
READY = b"ready\n"

_PR_SET_PDEATHSIG = 1

#: The C{DLT_} number of Ethernet.
_ETHERNET = 1

_vlan = re.compile(r"\bvlan\b")
_direction = re.compile(r"(?<![-_.:/\\A-Za-z0-9])(in|out)bound(?![-_.:/A-Za-z0-9])")


def confine(memory: int) -> None:
    """
    Give up what compiling does not need.

    @param memory: Bytes of address space that this process may have.
    """
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    # The end of the input ends this process; the signals of a terminal or of a
    # service manager, which go to the daemon's whole group, do not.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    libc = ctypes.CDLL(None)
    # In the midst of a compile nobody looks at the input.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Without this libpcap would ask the DNS, and wait for it.
    for database in (b"hosts", b"networks", b"ethers"):
        try:
            status = libc.__nss_configure_lookup(database, b"none")
        except AttributeError:
            sys.exit("this C library cannot be kept from looking up host names")
        if status != 0:
            sys.exit(f"the look-up of {database.decode()} cannot be switched off")


def judge(
    text: str, linkType: int, snaplength: int, cheap: float, most: float
) -> tuple[str, str]:
    """
    Compile a filter.

    @param cheap: Seconds of CPU that a good filter takes at most.
    @param most: Seconds of CPU after which this process ends.
    @return: The reason to refuse it, or an empty string, and the words for it.
    """
    import pcapy

    def compiled() -> float:
        # The clock of the process stands still between ticks while a timer runs.
        before = time.thread_time()
        # Zero is the netmask that a live handle of pcapy has, too.
        pcapy.compile(linkType, snaplength, text, 1, 0)
        if linkType == _ETHERNET and _vlan.search(text):
            # For a live handle libpcap makes other instructions of it, in which
            # the optimizer may find what it did not see here.
            live().setfilter(text)
        return time.thread_time() - before

    signal.setitimer(signal.ITIMER_PROF, most)
    try:
        spent = compiled()
        # A second look is fair to a good filter on a busy machine.
        if cheap < spent < most / 3:
            spent = min(spent, compiled())
    except (pcapy.PcapError, ValueError):
        return "bad-filter", complaint(text, linkType, snaplength)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if spent > cheap:
        words = f"compiling it takes {spent:.3f} s of CPU time, more than {cheap:g} s"
        return "filter-too-complex", words
    return "", ""


def complaint(text: str, linkType: int, snaplength: int) -> str:
    """
    What libpcap has against a filter. C{pcapy.compile} reads freed memory for
    that; a reader does not, but leaks each filter that it takes.
    """
    import pcapy

    # These are a live capture's alone; in their place something of their kind.
    text = _direction.sub("greater 0", text)
    try:
        opened(linkType, snaplength).setfilter(text)
        if linkType == _ETHERNET and _vlan.search(text):
            live().setfilter(text)
    except (pcapy.PcapError, ValueError) as error:
        return str(error)
    return "libpcap does not take it"


@lru_cache(maxsize=1)
def live() -> Any:
    """
    A live reader of an Ethernet device. Other kinds know no VLAN.
    """
    import pcapy

    reader = pcapy.create("lo")
    reader.set_snaplen(64)
    reader.set_timeout(1000)
    reader.set_buffer_size(1 << 18)
    status = reader.activate()
    if status < 0:
        raise pcapy.PcapError(
            f"vlan cannot be checked without CAP_NET_RAW and lo up ({status})"
        )
    return reader


@lru_cache(maxsize=16)
def opened(linkType: int, snaplength: int) -> Any:
    """
    A reader of an empty capture of this kind.
    """
    import pcapy

    descriptor = os.memfd_create("filter")
    try:
        header = (0xA1B2C3D4, 2, 4, 0, 0, snaplength, linkType)
        os.write(descriptor, struct.pack("=IHHiIII", *header))
        return pcapy.open_offline(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def main(options: str) -> None:
    """
    Answer until the input ends.

    @param options: A JSON object: C{path} (where modules are found), C{memory},
        C{cheap} and C{most}.
    """
    settings = json.loads(options)
    confine(settings["memory"])
    # From here on pcapy is found where the daemon finds it.
    sys.path[:] = settings["path"]
    cheap, most = settings["cheap"], settings["most"]
    # The first port name loads the tables of services.
    for text in ("tcp port http", "udp port domain"):
        judge(text, 1, 65535, cheap, most)
    answers = sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        text, linkType, snaplength = json.loads(line)
        answer = judge(text, linkType, snaplength, cheap, most)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
