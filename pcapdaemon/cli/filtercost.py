# See LICENSE for details.
"""
What a filter costs: a program that L{pcapdaemon.cli.filters} runs by its path,
with the limits of the daemon's own filter child.

It reads one line C{[filter, linkType, snaplength]} and answers with one line
C{[reason, words, seconds, instructions]}, both JSON.
"""

from __future__ import annotations

import json
import signal
import sys
import time


def main(options: str) -> None:
    """
    @param options: As with L{pcapdaemon.capture.filterchild.main}.
    """
    settings = json.loads(options)
    sys.path[:] = settings["path"]
    from pcapdaemon.capture import filterchild

    filterchild.confine(settings["memory"])
    import pcapy

    # The first port name loads the tables of services.
    filterchild.judge("tcp port http", 1, 65535, 1.0, 1.0)
    text, linkType, snaplength = json.loads(sys.stdin.readline())
    reason, words = filterchild.judge(
        text, linkType, snaplength, settings["cheap"], settings["most"]
    )
    seconds, instructions = 0.0, 0
    if not reason:
        # It has just been proven to be cheap.
        signal.setitimer(signal.ITIMER_PROF, settings["most"])
        before = time.thread_time()
        program = pcapy.compile(linkType, snaplength, text, 1, 0)
        seconds = time.thread_time() - before
        instructions = len(program.get_bpf())
    print(json.dumps([reason, words, seconds, instructions]))


if __name__ == "__main__":
    main(sys.argv[1])
