# See LICENSE for details.
"""
Tests for L{pcapdaemon.outcomes}.
"""

from __future__ import annotations

from typing import Any

from zope.interface.verify import verifyObject

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import IEventObserver
from pcapdaemon.outcomes import Outcomes


class OutcomesTests(SynchronousTestCase):
    """
    Tests for L{Outcomes}.
    """

    def setUp(self) -> None:
        self.outcomes = Outcomes()

    def tell(self, event: str, **fields: Any) -> None:
        """Let something happen."""
        self.outcomes.observe({"event": event, "id": "abc", **fields})

    def test_observer(self) -> None:
        """It learns of them by events."""
        verifyObject(IEventObserver, self.outcomes)

    def test_counts(self) -> None:
        """What happened last is the state, and everything counts."""
        self.tell("stored", sink="local")
        self.tell("failed", sink="s3", stage="store", reason="refused")
        self.tell("stored", sink="local")
        self.tell("failed", sink="local", stage="store", reason="no space")
        self.tell("failed", stage="capture", reason="no device")
        self.tell("accepted")
        self.assertEqual(
            self.outcomes.summary(["local", "s3", "cloudshark"]),
            {
                "local": {"stored": 2, "failed": 1, "state": "failing"},
                "s3": {"stored": 0, "failed": 1, "state": "failing"},
                "cloudshark": {"stored": 0, "failed": 0, "state": "unused"},
            },
        )
        self.tell("stored", sink="s3")
        self.assertEqual(
            self.outcomes.summary(["s3"]),
            {"s3": {"stored": 1, "failed": 1, "state": "ok"}},
        )
