# See LICENSE for details.
"""
A real browser for tests of the page: Debian's Chromium, one for the whole run.
"""

from __future__ import annotations

import atexit
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import SkipTest, TestCase

from pcapdaemon.test.process import PATIENCE

#: Where a Chromium may be, in the order in which they are preferred.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

_running: list[Any] = []
#: Owns what all tests of this process share, as a test owns what is its own.
owner = TestCase()


def skipReason() -> str | None:
    """
    Why the page cannot be tested here, or L{None} where it can.
    """
    if os.geteuid() != 0:
        return "capturing for the page's tests needs root"
    if program() is None:
        return "the page's tests need chromium"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError as error:
        return f"the page's tests need playwright: {error}"
    return None


def program() -> str | None:
    """
    Chromium, if it is installed.
    """
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def start() -> Any:
    """
    @return: A Playwright and the browser that it has started. Both are to be closed
        by L{stop}.
    """
    from playwright.sync_api import sync_playwright

    play = sync_playwright().start()
    try:
        browser = play.chromium.launch(
            executable_path=program(),
            # As root it has no sandbox; the pages are our own.
            args=["--no-sandbox"],
            # What ends a test run is for the test run.
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
        )
    except BaseException:
        play.stop()
        raise
    return play, browser


def stop(running: Any) -> None:
    """
    End the browser and its Playwright.
    """
    play, browser = running
    browser.close()
    play.stop()


def shared() -> Any:
    """
    The browser of this process: started when the first test wants it, and ended
    with the test run.
    """
    if not _running:
        _running.extend(start())
        atexit.register(_end)
        from twisted.internet import reactor

        # trial fires this when all tests are over.
        reactor.addSystemEventTrigger("during", "shutdown", _end)
    return _running[1]


def _end() -> None:
    running, _running[:] = list(_running), []
    if running:
        stop(running)
    owner.doCleanups()


class Tab:
    """
    A page in a profile of its own, that remembers what should never happen.

    @ivar page: Playwright's page.
    @ivar faults: What the console, the page's errors and its policy complain of,
        and requests that went anywhere else than to C{origin}.
    """

    def __init__(self, case: TestCase, origin: str, **options: Any) -> None:
        """
        @param origin: The daemon's address, without a slash at its end.
        @param options: Of the browser's context: C{viewport}, C{color_scheme}.
        @raise SkipTest: There is no browser here.
        """
        reason = skipReason()
        if reason is not None:
            raise SkipTest(reason)
        options.setdefault("viewport", {"width": 1280, "height": 900})
        options.setdefault("reduced_motion", "reduce")
        context = shared().new_context(accept_downloads=True, **options)
        case.addCleanup(context.close)
        context.set_default_timeout(PATIENCE * 1000)
        self.origin = origin
        self.faults: list[str] = []
        #: Parts of complaints that a test expects.
        self.expected: list[str] = []
        self.page = page = context.new_page()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", self._asked)
        page.on("request", self._requested)
        page.on("popup", lambda popup: self.faults.append(f"popup: {popup.url}"))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) =>"
            " console.error('policy: ' + event.violatedDirective"
            " + ' ' + event.blockedURI))"
        )

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def _asked(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((f"{self.origin}/", f"blob:{self.origin}/")):
            self.faults.append(f"request: {request.url}")

    def complaints(self) -> list[str]:
        """
        The faults that no test expects.
        """
        return [
            fault
            for fault in self.faults
            if not any(part in fault for part in self.expected)
        ]

    def open(self) -> Any:
        """
        Open the page and wait until it follows the daemon.

        @return: Playwright's page.
        """
        self.page.goto(f"{self.origin}/")
        self.page.locator('#connection[data-state="live"]').wait_for()
        self.page.locator("#choices input").first.wait_for()
        return self.page

    def shot(self, path: Path) -> None:
        """
        Save what is seen.
        """
        self.page.screenshot(path=path)
