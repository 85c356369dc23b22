# See LICENSE for details.
"""
The live page, in a real browser, with a real daemon that captures what really
passes C{lo}.
"""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.test import pcapfile
from pcapdaemon.test.browser import Tab, owner, shared, skipReason
from pcapdaemon.test.process import Daemon

EVIL = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
TOKEN = "correct-horse-battery"

#: What a browser's console says of an answer that says no, whoever expects it.
NO = "the server responded with a status of"

_idle: list[Daemon] = []


class PageTestCase(SynchronousTestCase):
    """
    One daemon and one page for each test, in a browser that all of them share.
    """

    def setUp(self) -> None:
        """
        @raise SkipTest: There is no browser here, or no privilege.
        """
        reason = skipReason()
        if reason is not None:
            raise SkipTest(reason)

    def begin(self, **sections: Any) -> Daemon:
        """
        Start a daemon.
        """
        sections = {"http": {"files": 1 << 20}, **sections}
        daemon = Daemon(self, **sections)
        daemon.start()
        return daemon

    @staticmethod
    def idle() -> Daemon:
        """
        A daemon that all tests share that have it capture nothing.
        """
        if not _idle:
            shared()  # which sees to it that both are ended
            daemon = Daemon(owner)
            daemon.start()
            _idle.append(daemon)
        return _idle[0]

    def tab(self, daemon: Daemon, *expected: str, **options: Any) -> Tab:
        """
        A page for it. The test fails if anything is wrong with it that should
        never be: errors, what its policy forbids, and requests of anything but
        the daemon.

        @param expected: Parts of complaints that are expected.
        """
        tab = Tab(self, f"http://127.0.0.1:{daemon.port}", **options)
        tab.expected.extend(expected)
        self.addCleanup(lambda: self.assertEqual([], tab.complaints()))
        return tab

    def port(self) -> int:
        """
        A UDP port of C{lo} that nobody else sends to.
        """
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(taken.close)
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])

    def send(self, port: int, count: int) -> None:
        """
        Send some packets there.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for n in range(count):
                sender.sendto(b"packet %d" % (n,), ("127.0.0.1", port))

    def device(self, page: Any, name: str) -> Any:
        """
        The check box of a device.
        """
        return page.locator(f'#choices input[value="{name}"]')

    def meter(self, page: Any, name: str) -> Any:
        """
        A meter of the first running capture.
        """
        return page.locator("#running .meter").filter(has_text=name).locator(".value")


class LifeTests(PageTestCase):
    """
    From a request to its file.
    """

    def test_life(self) -> None:
        """
        A capture that is asked for by the form shows, its packets count while it
        runs, its cancellation is asked for twice, its file's address is there, and
        the file can be had.
        """
        daemon, port = self.begin(), self.port()
        page = self.tab(daemon).open()
        self.assertEqual("node-a", page.locator("#node").text_content())
        page.locator("#running-empty").filter(has_text="Nothing is captured").wait_for()
        self.assertEqual(
            "at most 50,000", page.locator("#packets").get_attribute("placeholder")
        )
        self.device(page, "lo").check()
        page.locator("#bpf").fill(f"udp port {port}")
        page.locator('#check[data-kind="ok"]').wait_for()
        page.locator("#packets").fill("400")
        page.locator("#timeout").fill("50")
        page.locator("#more > summary").click()
        page.locator("#customer").fill("ACME")
        page.locator("#alertid").fill("77")
        page.locator("#send").click()
        card = page.locator("#running .card")
        card.locator(".badge", has_text="running").wait_for()
        self.assertIn(f"udp port {port}", card.inner_text())
        self.assertIn("ACME", card.inner_text())
        (accepted,) = daemon.waitForCount("accepted", 1)
        daemon.waitForEvent("armed", accepted["id"])
        self.send(port, 100)
        self.meter(page, "Packets").filter(has_text="100 of 400").wait_for()
        self.meter(page, "Idle").filter(has_text="of 50 s").wait_for()
        bar = card.get_by_role("meter", name="Packets")
        self.assertEqual("25", bar.get_attribute("aria-valuenow"))
        drawn = re.compile("^Packets per second: now .*, at most [1-9]")
        card.get_by_role("img", name=drawn).wait_for()
        self.assertEqual(4, card.get_by_role("meter").count())

        card.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Keep running").click()
        self.assertEqual([], daemon.told("completed"))
        card.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="End capture").click()

        row = page.locator("#finished tbody tr")
        link = row.locator("a.address")
        link.wait_for()
        stored = daemon.waitForEvent("stored", accepted["id"])
        self.assertEqual(stored["url"], link.get_attribute("href"))
        self.assertIn("cancelled", row.inner_text())
        self.assertEqual(0, card.count())
        with page.expect_download() as waiting:
            row.get_by_role("link", name="Download").click()
        file = Path(waiting.value.path())
        self.assertEqual(100, len(pcapfile.read(file).records))
        self.assertEqual(stored["filename"], waiting.value.suggested_filename)

    def test_reload(self) -> None:
        """
        What was before the page was opened is there, also what was refused, and
        how the daemon is.
        """
        daemon, port = self.begin(), self.port()
        id = daemon.arm(interface=["lo"], bpf=f"udp port {port}", packets=1)
        self.send(port, 1)
        daemon.waitForEvent("stored", id)
        daemon.http("POST", "/captures", {"node": "any", "interface": "none-such"})
        later = self.port()
        running = daemon.arm(interface=["lo"], bpf=f"udp port {later}", packets=1)
        page = self.tab(daemon).open()
        page.locator(f'#finished tr[data-id="{id}"] a.address').wait_for()
        self.assertIn("packet limit", page.locator("#finished").inner_text())
        page.locator("#refused .badge", has_text="unknown-interface").wait_for()
        page.locator("#health .states", has_text="1 stored").wait_for()
        self.assertIn("connected", page.locator("#health").inner_text())
        # What ends later than the page was opened has its file, too.
        self.send(later, 1)
        row = page.locator(f'#finished tr[data-id="{running}"]')
        row.get_by_role("link", name="Download").wait_for()

    def test_lost(self) -> None:
        """
        A daemon that has gone is missed, and found again.
        """
        daemon = self.begin()
        page = self.tab(daemon, "net::ERR_", "Failed to load").open()
        daemon.configure(http={"port": daemon.port})
        daemon.kill()
        page.locator('#connection[data-state="lost"]').wait_for()
        daemon.start()
        page.locator('#connection[data-state="live"]').wait_for()
        daemon.http("POST", "/captures", {"node": "any", "interface": "none-such"})
        page.locator("#refused .badge", has_text="unknown-interface").wait_for()

    def test_gaps(self) -> None:
        """
        However many events were missed while all is asked for anew, it is asked for
        once more, and after that: no answer of before undoes a later one.
        """
        tab = self.tab(self.idle())
        gap = 'event: gap\ndata: {"event":"gap"}\n\n'
        tab.page.route(
            "**/events",
            lambda route: route.fulfill(body=gap * 5, content_type="text/event-stream"),
            times=1,
        )
        held: list[Any] = []
        tab.page.route(
            "**/captures",
            lambda route: route.continue_() if held else held.append(route),
        )
        tab.page.goto(tab.origin)
        tab.page.locator('#connection[data-state="lost"]').wait_for()
        self.assertEqual(1, len(held))
        with tab.page.expect_request("**/captures"):
            held[0].continue_()
        tab.page.locator("#running-empty").filter(has_text="Nothing").wait_for()


class RefusalTests(PageTestCase):
    """
    What is wrong is said where it is wrong.
    """

    def test_fields(self) -> None:
        """
        The daemon's own words stand at the field that they mean, which has the
        focus.
        """
        daemon = self.idle()
        page = self.tab(daemon, NO).open()
        page.locator("#send").click()
        page.locator("#error-interface").filter(has_text="at least one").wait_for()
        self.device(page, "lo").check()
        self.assertFalse(page.locator("#error-interface").is_visible())
        for name, text, words in (
            ("packets", "many", "packets is 'many'; allowed is an integer"),
            ("bytes", "999999999999", "bytes is 999999999999; allowed is"),
            ("duration", "-1", "duration is -1; allowed is"),
            ("alertid", "x", "alertid is 'x'; allowed is"),
            ("bpf", "no such filter", ""),
        ):
            field = page.locator(f"#{name}")
            if not field.is_visible():
                page.locator("#more > summary").click()
            field.fill(text)
            page.locator("#send").click()
            error = page.locator(f"#error-{name}")
            error.filter(has_text=words).wait_for()
            self.assertEqual("true", field.get_attribute("aria-invalid"))
            self.assertEqual(name, page.evaluate("document.activeElement.id"))
            field.fill("")
            self.assertFalse(error.is_visible())
        self.assertEqual([], daemon.told("accepted"))

    def test_filter(self) -> None:
        """
        A filter is checked as it is typed, and only the last answer counts,
        however the answers come.
        """
        daemon = self.idle()
        page = self.tab(daemon, NO).open()
        late: list[Any] = []

        def slow(route: Any) -> None:
            if json.loads(route.request.post_data)["bpf"] == "udp por":
                late.append(route)  # it is answered when all is over
            else:
                route.continue_()

        page.route("**/filters", slow)
        with page.expect_request("**/filters"):
            page.locator("#bpf").fill("udp por")
        page.locator("#bpf").fill("udp port 53")
        page.locator('#check[data-kind="ok"]').wait_for()
        for route in late:
            # It was given up: there is nobody to answer.
            route.abort()
        self.assertEqual("ok", page.locator("#check").get_attribute("data-kind"))
        page.locator("#bpf").fill("udp porty")
        page.locator('#check[data-kind="bad"]').wait_for()
        page.locator("#bpf").fill("")
        self.assertEqual("", page.locator("#check").text_content())


class TextTests(PageTestCase):
    """
    What strangers write is text.
    """

    def test_text(self) -> None:
        """
        Markup in requests, taken and refused, shows as it was written and does
        nothing, and nothing outside is asked for.
        """
        daemon, port = self.begin(), self.port()
        tab = self.tab(daemon)
        page = tab.open()
        labels = {"tags": f"{EVIL},x", "customer": IMAGE, "request_id": EVIL}
        bpf = f"udp port {port} and ip[8] < 255"
        id = daemon.arm(interface=["lo"], bpf=bpf, packets=1, **labels)
        card = page.locator("#running .card")
        card.locator(".badge", has_text="running").wait_for()
        for text in (EVIL, IMAGE, bpf):
            self.assertIn(text, card.inner_text())
        refused = {"node": "any", "interface": "lo", "bpf": EVIL, **labels}
        daemon.http("POST", "/captures", refused)
        page.locator("#refused li .badge", has_text="bad-filter").wait_for()
        self.assertIn(EVIL, page.locator("#refused").inner_text())
        self.send(port, 1)
        row = page.locator(f'#finished tr[data-id="{id}"]')
        row.locator("a.address").wait_for()
        for text in (EVIL, IMAGE, bpf):
            self.assertIn(text, row.inner_text())
        page.reload()
        row.locator("a.address").wait_for()
        self.assertIn(IMAGE, row.inner_text())
        self.assertEqual(1, page.locator("script").count())
        self.assertEqual(1, page.locator("img").count())
        # The policy would forbid it, even if the page wrote it as markup.
        self.assertEqual([], tab.faults)
        # Only what is an address of files becomes a link.
        made = page.evaluate(
            """async () => {
                const { link } = await import("/page/draw.js");
                const urls = ["https://s3.example.net/x", "file:///x", "s3://b/x",
                    "javascript:alert(1)", "data:text/html,x", "JAVASCRIPT:alert(1)",
                    "//x", "x", " java\\nscript:alert(1)"];
                return urls.map((url) => link(url).tagName);
            }"""
        )
        self.assertEqual(["A"] * 3 + ["SPAN"] * 6, made)
        broken = page.evaluate(
            "() => { try { document.body.innerHTML = '<b>x</b>' } catch (e)"
            " { return e.name } }"
        )
        self.assertEqual("TypeError", broken)
        tab.expected.append("TrustedHTML")
        tab.expected.append("trusted-types")


class TokenTests(PageTestCase):
    """
    A daemon with a token.
    """

    def test_token(self) -> None:
        """
        The page asks for it, says when it is wrong, keeps it for this tab alone,
        and uses it for all that it does, downloads too.
        """
        port = self.port()
        daemon = self.begin(http={"token": TOKEN, "files": 1 << 20})
        tab = self.tab(daemon, NO)
        page = tab.page
        page.goto(tab.origin)
        page.locator("#ask[open]").wait_for()
        page.locator("#token").fill("wrong-wrong-wrong-wrong")
        page.keyboard.press("Enter")
        page.locator("#ask-error").filter(has_text="not the daemon").wait_for()
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.locator('#connection[data-state="live"]').wait_for()
        self.device(page, "lo").check()
        page.locator("#bpf").fill(f"udp port {port}")
        page.locator("#packets").fill("2")
        page.locator("#send").click()
        (accepted,) = daemon.waitForCount("accepted", 1)
        daemon.waitForEvent("armed", accepted["id"])
        self.send(port, 2)
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Download").click()
        self.assertEqual(2, len(pcapfile.read(Path(waiting.value.path())).records))
        self.assertEqual(0, page.evaluate("localStorage.length"))
        self.assertEqual("", page.evaluate("document.cookie"))
        self.assertNotIn(TOKEN, page.content() + page.url)
        page.reload()
        page.locator('#connection[data-state="live"]').wait_for()
        page.get_by_role("button", name="Forget token").click()
        page.locator("#ask[open]").wait_for()
        self.assertEqual(0, page.evaluate("sessionStorage.length"))


class UseTests(PageTestCase):
    """
    Whoever uses it, and on whatever.
    """

    def test_keyboard(self) -> None:
        """
        A request is made, and ended, with nothing but keys, and it is seen where
        one is.
        """
        daemon = self.begin()
        page = self.tab(daemon).open()

        def tabTo(what: str) -> None:
            for _ in range(60):
                page.keyboard.press("Tab")
                if page.evaluate(f"document.activeElement.matches({what!r})"):
                    style = page.evaluate(
                        """() => {
                            const it = document.activeElement;
                            const at = it.closest(".choice") ?? it;
                            const near = it.matches("[type=radio]")
                                ? it.nextElementSibling : at;
                            return getComputedStyle(near).outlineStyle;
                        }"""
                    )
                    self.assertEqual("solid", style, what)
                    return
            self.fail(f"no way to {what}")

        tabTo(".skip")
        tabTo("#request > summary")
        tabTo("[name=by]")
        tabTo('#choices input[value="lo"]')
        page.keyboard.press("Space")
        tabTo("#bpf")
        page.keyboard.type("udp port 9")
        tabTo("#duration")
        page.keyboard.type("60")
        page.keyboard.press("Enter")
        page.locator("#running .badge", has_text="running").wait_for()
        page.locator("#news").filter(has_text="started").wait_for(state="attached")
        tabTo("#running .card button")
        page.keyboard.press("Enter")
        self.assertEqual("confirm-no", page.evaluate("document.activeElement.id"))
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator("#finished .badge", has_text="cancelled").wait_for()
        (completed,) = daemon.waitForCount("completed", 1)
        self.assertEqual("cancelled", completed["stop"])
        # The card is gone, and the focus with it, but not to nowhere.
        self.assertEqual("running-title", page.evaluate("document.activeElement.id"))

    def test_narrow(self) -> None:
        """
        On a phone nothing is wider than it, whatever is written; what one presses
        is large enough; and in the dark it is dark.
        """
        daemon = self.begin()
        long = "x" * 300
        daemon.arm(
            interface=["lo"],
            bpf=" or ".join(f"udp port {n}" for n in range(2000, 2030)),
            tags=f"{long},b",
            customer=long,
            timeout=60,
        )
        daemon.http(
            "POST", "/captures", {"node": "any", "interface": long, "tags": long}
        )
        grounds = []
        for scheme in ("light", "dark"):
            tab = self.tab(
                daemon,
                color_scheme=scheme,
                viewport={"width": 390, "height": 844},
            )
            tab.page.goto(tab.origin)
            page = tab.page
            page.locator("#running .card").wait_for()
            page.locator("#refused > li").wait_for()
            page.locator("#request > summary").click()
            page.locator("#choices input").first.wait_for()
            width = page.evaluate("document.documentElement.scrollWidth")
            self.assertLessEqual(width, 390)
            for each in page.locator("button:visible").all():
                self.assertGreaterEqual(each.bounding_box()["height"], 44)
            grounds.append(
                page.evaluate("getComputedStyle(document.body).backgroundColor")
            )
        light, dark = (
            sum(map(int, re.findall(r"\d+", ground)[:3])) for ground in grounds
        )
        self.assertGreater(light, 600)
        self.assertLess(dark, 150)

    def test_many(self) -> None:
        """
        A thousand captures do not make a document of a thousand cards, and can be
        searched.
        """
        daemon = self.idle()
        tab = self.tab(daemon)
        limits = {"packets": 10, "bytes": 1000, "timeout": 10, "duration": 60}
        captures = [
            {
                "id": f"c{n}",
                "state": "armed",
                "node": "node-a",
                "interface": f"eth{n}",
                "limits": limits,
                "packets": 1,
                "bytes": 50,
            }
            for n in range(1000)
        ]
        answer = json.dumps({"captures": captures})
        tab.page.route(
            "**/captures",
            lambda route: route.fulfill(body=answer, content_type="application/json"),
        )
        page = tab.open()
        page.locator("#running-count", has_text="1,000").wait_for()
        self.assertEqual(20, page.locator("#running .card").count())
        self.assertIn("1–20 of 1,000", page.locator("#running-pages").inner_text())
        page.locator("#running-pages").get_by_role("button", name="Older").click()
        page.locator("#running h3", has_text=re.compile("^eth979$")).wait_for()
        self.assertEqual(20, page.locator("#running .card").count())
        page.locator("#find").fill("ETH123")
        page.locator("#running-count", has_text=re.compile("^1$")).wait_for()
        self.assertEqual("eth123", page.locator("#running h3").text_content())
        page.locator("#find").fill("nothing like it")
        page.locator("#running-empty").wait_for()
