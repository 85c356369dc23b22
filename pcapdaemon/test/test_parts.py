# See LICENSE for details.
"""
Tests for L{pcapdaemon.parts}.
"""

from __future__ import annotations

from typing import Any

import attrs

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.config import Settings
from pcapdaemon.parts import PARTS


class NeedsTests(SynchronousTestCase):
    """
    What is made anew when settings change.
    """

    def changed(self, section: str, **keys: Any) -> set[str]:
        """
        The parts that other values of some keys change.
        """
        old = Settings()
        new = attrs.evolve(
            old, **{section: attrs.evolve(getattr(old, section), **keys)}
        )
        return {
            name for name, part in PARTS.items() if part.needs(old) != part.needs(new)
        }

    def test_buses(self) -> None:
        """
        Where events go is nothing to a listener, which would miss requests while
        it is made anew; nor is where requests come from to a publisher.
        """
        for bus, source in ("redis", "channel"), ("kafka", "topic"), ("sqs", "url"):
            self.assertEqual(self.changed(bus, events="e"), {f"{bus}-events"})
            self.assertEqual(self.changed(bus, **{source: "s"}), {bus})
            self.assertEqual(self.changed(bus, listen=True), {bus})
        for bus, shared in ("redis", "auth"), ("kafka", "password"), ("sqs", "region"):
            self.assertEqual(self.changed(bus, **{shared: "x"}), {bus, f"{bus}-events"})
        self.assertEqual(
            self.changed("events", backlog=1),
            {"redis-events", "kafka-events", "sqs-events", "webhook"},
        )

    def test_files(self) -> None:
        """
        Nobody's connection is closed because of the files that are kept.
        """
        self.assertEqual(self.changed("http", files=1), set())
        self.assertEqual(self.changed("http", token="x" * 16), {"http"})
