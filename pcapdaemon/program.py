# See LICENSE for details.
"""
The daemon as a process of its own: what an embedded one leaves to its program.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.logger import Logger

from pcapdaemon.config import ConfigError, Settings
from pcapdaemon.daemon import CaptureDaemon
from pcapdaemon.interfaces import StartError


class Program(CaptureDaemon):
    """
    A daemon that reads its configuration again at SIGHUP, and ends its process
    with status 1 and one line when it cannot start.
    """

    _log = Logger()

    def __init__(self, reactor: Any, settings: Settings, load: Callable[[], Settings]):
        """
        @param load: Reads the configuration again; raises L{ConfigError}.
        """
        super().__init__(reactor, settings)
        self._load = load

    def startService(self) -> None:
        try:
            super().startService()
        except StartError as error:
            self._log.critical("{error}", error=error)
            # twistd has made a part of the log of sys.stderr.
            print(error, file=sys.__stderr__)
            raise SystemExit(1) from None
        self._reactor.callWhenRunning(self._handleSignals)

    def _handleSignals(self) -> None:
        """
        After the reactor has set its own handlers, with which twistd would end
        by the signal instead of with status 0.
        """
        for number, f in (
            (signal.SIGHUP, self._again),
            (signal.SIGTERM, self._end),
            (signal.SIGINT, self._end),
        ):
            signal.signal(number, partial(self._handle, f))

    def _handle(self, f: Callable[[], None], number: int, frame: object) -> None:
        self._reactor.callFromThread(f)

    def _end(self) -> None:
        self._log.info("ending, as asked by signal")
        if self.running:
            self._reactor.stop()

    def _again(self) -> None:
        try:
            settings = self._load()
        except ConfigError as error:
            for mistake in error.mistakes:
                self._log.error("not taken over: {mistake}", mistake=mistake)
            return
        self.reload(settings)
