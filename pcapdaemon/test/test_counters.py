# See LICENSE for details.
"""
Tests for L{pcapdaemon.capture.counters}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.counters import Counters
from pcapdaemon.interfaces import Drops


class CountersTests(SynchronousTestCase):
    """
    Tests for L{Counters}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.true = (0, 0, 0)
        self.asked = 0
        self.counters = Counters(self.read, self.clock.seconds)

    def read(self) -> tuple[int, int, int]:
        """What 32 bits hold of the truth."""
        self.asked += 1
        received, dropped, interface = (each % 2**32 for each in self.true)
        return received, dropped, interface

    def test_few(self) -> None:
        """Small numbers are as they are, also when they do not change."""
        self.true = (100, 20, 3)
        for _ in range(2):
            self.assertEqual(self.counters.drops(), Drops(20, 3))
            self.assertEqual(self.counters.received, 100)

    def test_wrap(self) -> None:
        """What has counted through 32 bits goes on, any number of times."""
        step = 2**32 - 1
        for number in range(1, 6):
            self.true = (number * step, number * (step - 7), number * (2**31 - 1))
            drops = self.counters.drops()
            self.assertEqual(self.counters.received, self.true[0])
            self.assertEqual((drops.kernel, drops.interface), self.true[1:])

    def test_reset(self) -> None:
        """A device whose driver begins anew has not lost billions."""
        self.true = (5, 0, 1000)
        self.counters.look()
        self.true = (6, 0, 0)
        self.counters.look()
        self.true = (7, 0, 2)
        self.assertEqual(self.counters.drops(), Drops(0, 1002))

    def test_keep(self) -> None:
        """
        While packets flow they are asked for once a minute: often enough for a
        device that could count through half of it in that time, and no more.
        """
        for second in range(1, 600):
            self.true = (second * 35_000_000, second * 30_000_000, 0)
            self.counters.keep()
            self.clock.advance(1)
        self.assertEqual(self.asked, 9)
        self.assertEqual(self.counters.drops().kernel, self.true[1])
        self.assertEqual(self.counters.received, self.true[0])
