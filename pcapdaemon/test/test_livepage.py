# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Tests for L{pcapdaemon.listeners.http.livepage}: what the page is made of, without a
browser. What it does is in C{test_page.py}.
"""

from __future__ import annotations

import re
from importlib.resources import files

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from pcapdaemon.listeners.http.livepage import HEADERS, KINDS, addPage
from pcapdaemon.test.test_http import ListenerTestCase

FOLDER = files("pcapdaemon.listeners.http").joinpath("page")
FILES = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}


class FileTests(SynchronousTestCase):
    """
    The files as they are.
    """

    def test_served(self) -> None:
        """
        All of them are, and nothing else is.
        """
        root = Resource()
        addPage(root)
        served = set(root.children[b"page"].children)
        self.assertEqual(served | {b"index.html"}, {name.encode() for name in FILES})

    def test_inside(self) -> None:
        """
        Each file that one of them names is there, all are named, and nothing from
        elsewhere is.
        """
        named = {"index.html"}
        for name, text in FILES.items():
            named.update(re.findall(r'(?:href|src)="page/([^"]+)"', text))
            named.update(re.findall(r'from "\./([^"]+)"', text))
            outside = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
            self.assertEqual([], [x for x in outside if "www.w3.org" not in x], name)
        self.assertEqual(named, set(FILES))

    def test_markup(self) -> None:
        """
        Nothing stands in the markup that the policy forbids, and no script makes
        markup of text.
        """
        page = FILES["index.html"]
        self.assertEqual([], re.findall(r"\s(?:style|on[a-z]+)=", page))
        self.assertEqual([""], re.findall(r"<script[^>]*>(.*?)</script>", page, re.S))
        self.assertNotIn("<style", page)
        forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\("
        for name, text in FILES.items():
            self.assertEqual([], re.findall(forbidden, text), name)

    def test_labels(self) -> None:
        """
        Every field has a label, and what describes one is there.
        """
        page = FILES["index.html"]
        ids = re.findall(r'\sid="([^"]+)"', page)
        self.assertEqual(len(ids), len(set(ids)))
        labelled = set(re.findall(r'<label [^>]*for="([^"]+)"', page))
        fields = re.findall(r'<(?:input|textarea|select) id="([^"]+)"', page)
        self.assertEqual(set(fields), labelled)
        for names in re.findall(r'aria-(?:describedby|labelledby)="([^"]+)"', page):
            self.assertLessEqual(set(names.split()), set(ids))


class ServingTests(ListenerTestCase):
    """
    The files over HTTP.
    """

    token = "correct-horse-battery"

    async def test_public(self) -> None:
        """
        They need no token, have a type each and the policy, and are not sent
        twice to who has them.
        """
        for name in FILES:
            path = "/" if name == "index.html" else f"/page/{name}"
            response = await self.request("GET", path)
            self.assertEqual(response.code, 200, path)
            self.assertEqual(response.body.decode(), FILES[name])
            get = response.headers.getRawHeaders
            self.assertEqual(get("Content-Type"), [KINDS[name.rpartition(".")[2]]])
            for header, value in HEADERS.items():
                self.assertEqual(get(header), [value])
            self.assertEqual(get("X-Content-Type-Options"), ["nosniff"])
            known = {"If-None-Match": list(get("ETag", []))}
            response = await self.request("GET", path, known)
            self.assertEqual((response.code, response.body), (304, b""))

    async def test_nothingElse(self) -> None:
        """
        There is no way from there to any other file.
        """
        for path in ("/page/../guard.py", "/page/%2e%2e/guard.py", "/page/index.html"):
            bearer = {"Authorization": [f"Bearer {self.token}"]}
            response = await self.request("GET", path, bearer)
            self.assertEqual(response.code, 404, path)
        response = await self.request("POST", "/")
        self.assertEqual(response.code, 405)
        response = await self.request("GET", "/captures")
        self.assertEqual(response.code, 401)
