# See LICENSE for details.
"""
The daemon as a process of its own: what an embedded one leaves to its program.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

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

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        load: Callable[[], Settings],
        detached: bool = False,
    ) -> None:
        """
        @param load: Reads the configuration again; raises L{ConfigError}.
        @param detached: Whether at the start there is another process, which
            waits for what twistd tells it of this one.
        """
        try:
            super().__init__(reactor, settings)
        except StartError as error:
            self._giveUp(error)
        self._load = load
        self._detached = detached
        self._signals = {
            signal.SIGHUP: self._again,
            signal.SIGTERM: self._end,
            signal.SIGINT: self._end,
        }

    def startService(self) -> None:
        # They wait until the reactor has set its own handlers, with which twistd
        # would end by the signal instead of with status 0, and those are replaced.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._reactor.callWhenRunning(self._handleSignals)
        try:
            super().startService()
        except StartError as error:
            if self._detached:
                # twistd tells only of ordinary exceptions, and shows this one.
                self._log.critical("{error}", error=error)
                raise
            self._giveUp(error)

    def _giveUp(self, error: StartError) -> NoReturn:
        self._log.critical("{error}", error=error)
        # twistd has made a part of the log of sys.stderr.
        print(error, file=sys.__stderr__)
        raise SystemExit(1) from None

    def _handleSignals(self) -> None:
        for number, f in self._signals.items():
            signal.signal(number, partial(self._handle, f))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)

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
