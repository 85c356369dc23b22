# See LICENSE for details.
"""
Amazon's services for tests: moto's server, which keeps everything in memory.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pcapdaemon.test.servers import Server, freePort


def missingMoto() -> str | None:
    """
    @return: Why a test that needs moto must be skipped, or L{None} if it can
        run: a value for C{skip}.
    """
    # Only the extra "server" brings Flask.
    absent = [name for name in ("moto", "flask") if find_spec(name) is None]
    return "not installed: moto[server]" if absent else None


class MotoServer(Server):
    """
    A moto server: SQS, S3 and more at one address. It checks no signatures, and
    forgets everything when it ends.
    """

    program = "moto"

    def __init__(self, case: TestCase, reactor: Any) -> None:
        super().__init__(case, reactor)
        # Its script need not be in the path.
        self.program = sys.executable

    def start(self, port: int | None = None) -> Deferred[None]:
        """
        Start the server.

        @return: A Deferred that fires when it accepts connections.
        """
        self.port = port or freePort()
        return self._launch()

    def commandLine(self) -> Sequence[str]:
        return ["-m", "moto.server", "-H", self.host, "-p", str(self.port)]

    @property
    def url(self) -> str:
        """
        @return: What to give a client as its endpoint.
        """
        return f"http://{self.host}:{self.port}"

    def client(self, service: str) -> Any:
        """
        @return: A client of one of the services, such as C{"sqs"}.
        """
        from boto3.session import Session

        session: Any = Session("id", "key", region_name="us-east-1")
        return session.client(service, endpoint_url=self.url)
