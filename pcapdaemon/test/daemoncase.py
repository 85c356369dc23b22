# See LICENSE for details.
"""
What tests of the whole daemon have in common: a network of their own, and a
strict look at what the daemon says and stores.
"""

from __future__ import annotations

import hashlib
import stat
from contextlib import ExitStack
from typing import Any
from unittest import TestCase

from twisted.trial.unittest import TestCase as TrialTestCase

from pcapdaemon.test import pcapfile
from pcapdaemon.test.network import Pair, makePair
from pcapdaemon.test.pcapfile import PcapFile
from pcapdaemon.test.process import Daemon


def enterPair(case: TestCase, mtu: int = 1500) -> Pair:
    """
    A pair whose capturing side C{b} the calling thread, and all processes that
    it starts, are in until the test ends.

    @raise SkipTest: Network namespaces cannot be had here.
    """
    pair = makePair(case, mtu)
    stack = ExitStack()
    stack.enter_context(pair.enter("b"))
    case.addCleanup(stack.close)
    return pair


class DaemonTestCase(TrialTestCase):
    """
    Tests of daemons that capture in a namespace of their own.

    @ivar pair: Where the frames come from; the test itself is in its side C{b}.
    """

    def setUp(self) -> None:
        """
        Make the namespaces, and go into one of them.
        """
        self.pair = enterPair(self)

    def daemon(self, **sections: Any) -> Daemon:
        """
        Make a daemon. The test fails if it ever says what it never should.

        @param sections: As with L{Daemon}.
        """
        daemon = Daemon(self, **sections)
        self.addCleanup(self.checkSilence, daemon)
        return daemon

    def started(self, **sections: Any) -> Daemon:
        """
        Make a daemon and start it.
        """
        daemon = self.daemon(**sections)
        daemon.start()
        return daemon

    def pcap(self, daemon: Daemon, id: str) -> PcapFile:
        """
        Wait until a capture is stored, and see that its file is what the events
        say of it.
        """
        stored = daemon.stored(id)
        file, event = pcapfile.read(stored), daemon.waitForEvent("completed", id)
        data = stored.read_bytes()
        self.assertEqual(event["sha256"], hashlib.sha256(data).hexdigest())
        self.assertEqual(event["bytes"], len(data))
        self.assertEqual(event["packets"], len(file.records))
        self.assertEqual(event["dropped"], {"kernel": 0, "interface": 0})
        self.assertEqual(stored, daemon.captures / event["filename"])
        self.assertEqual(stat.S_IMODE(stored.stat().st_mode), 0o640)
        return file

    def checkSilence(self, daemon: Daemon) -> None:
        """
        See that nothing was said that must never be.
        """
        daemon.kill()
        self.assertEqual(daemon.complaints(), [])
