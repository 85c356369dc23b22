# See LICENSE for details.
"""
The servers of the tests on a stage.

They need a reactor, while what is measured is waited for without one. So a
benchmark with servers is a coroutine that lets the reactor run only to start and
end them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from unittest import TestCase

import trustme

from twisted.internet.task import react

from benchmarks.report import recording
from benchmarks.stage import Failed, Stage
from pcapdaemon.test.servers import Server


def runWithReactor(main: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """
    Run a program; what prevents it is one line and status 1.

    @param main: Takes the reactor.
    """

    async def guarded(reactor: Any) -> None:
        try:
            with recording():
                await main(reactor)
        except Failed as error:
            print(error, file=sys.stderr)
            raise SystemExit(1) from None

    react(guarded)


@asynccontextmanager
async def servers(
    stage: Stage, reactor: Any, *makers: Callable[[Any, Any], Server]
) -> AsyncIterator[list[Any]]:
    """
    Make servers that run in namespace C{b} and keep what they keep in memory, as
    far as the machine has that.

    @raise Failed: One of the programs is not there.
    """
    case = TestCase()
    before = tempfile.tempdir
    tempfile.tempdir = str(stage.directory)
    made: list[Server] = []
    try:
        with stage.pair.enter("b"):
            made += [maker(case, reactor) for maker in makers]
            yield made
    finally:
        for server in made:
            await server.kill()
        tempfile.tempdir = before
        case.doCleanups()


def certified(stage: Stage) -> dict[str, str]:
    """
    Make an authority and a certificate for 127.0.0.1 and C{localhost}.

    @return: Files: C{ca}, C{certificate}, C{key}.
    """
    names = ("ca", "certificate", "key")
    files = {name: str(stage.directory / f"{name}.pem") for name in names}
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(files["ca"])
    issued.cert_chain_pems[0].write_to_path(files["certificate"])
    issued.private_key_pem.write_to_path(files["key"])
    return files
