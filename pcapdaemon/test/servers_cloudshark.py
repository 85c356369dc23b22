# See LICENSE for details.
"""
The stand-in for CloudShark as a process of its own, for tests that wait without
letting their reactor run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pcapdaemon.test.cloudshark import TOKEN
from pcapdaemon.test.servers import Server, freePort


class CloudSharkServer(Server):
    """
    L{pcapdaemon.test.cloudshark}. What it has been given stays when it is killed
    and started again.

    @ivar uploads: Where that is.
    @ivar cafile: What clients are to trust; another authority at each start.
    """

    program = "cloudshark"

    def __init__(self, case: TestCase, reactor: Any) -> None:
        super().__init__(case, reactor)
        self.program = sys.executable
        self.uploads = Path(self.directory, "uploads")
        self.cafile = str(self.uploads / "ca.pem")

    def start(
        self, port: int | None = None, token: str = TOKEN, tls: bool = True
    ) -> Deferred[None]:
        """
        Start the server.

        @return: A Deferred that fires when it accepts connections.
        """
        self.port = port or freePort()
        self._args = ["--token", token] if tls else ["--token", token, "--plain"]
        return self._launch()

    def commandLine(self) -> Sequence[str]:
        options = f"-m pcapdaemon.test.cloudshark --port {self.port}".split()
        return [*options, "--directory", str(self.uploads), *self._args]

    def kept(self) -> list[dict[str, Any]]:
        """
        @return: All uploads: C{id}, C{filename}, C{tags}, C{contentType}, and as
            C{content} the bytes.
        """
        return [
            {
                **json.loads(about.read_text()),
                "content": about.with_suffix(".pcap").read_bytes(),
            }
            for about in self.uploads.glob("*.json")
        ]
