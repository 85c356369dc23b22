# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Tests for L{pcapdaemon.listeners.http.openapi}: it describes what there is.
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator, validate

from pcapdaemon.events import CATALOGUE
from pcapdaemon.listeners.http import Served
from pcapdaemon.listeners.http.openapi import paths
from pcapdaemon.listeners.http.reply import STATUSES
from pcapdaemon.listeners.http.routes import makeRoot
from pcapdaemon.listeners.http.schemas import SCHEMAS
from pcapdaemon.request import KEYS
from pcapdaemon.test.test_http import TAKEN, ListenerTestCase, makeServed
from pcapdaemon.test.test_triggers import make
from pcapdaemon.triggers.service import Triggers


class OpenApiTests(ListenerTestCase):
    """
    The description, and a listener with all that there can be.
    """

    def makeServed(self) -> Served:
        """
        Everything.
        """
        triggers = Triggers(self.receiver, lambda *_: TAKEN, lambda: 0.0)
        triggers.configure([make("test")])
        return makeServed(
            self.receiver,
            self.control,
            exposition=lambda accept: (b"", "text/plain"),
            triggers=triggers,
        )

    async def description(self) -> Any:
        """
        What is said.
        """
        response = await self.request("GET", "/openapi.json")
        self.assertEqual(response.code, 200)
        return response.json()

    async def test_routes(self) -> None:
        """
        Every route is described, with its methods; what is described is there.
        """
        described = (await self.description())["paths"]
        root = makeRoot(self.makeServed())
        there = {name.decode("ascii") for name in root.listStaticNames()}
        self.assertEqual(there, {path.split("/")[1] for path in described})
        self.assertEqual(
            described, {p: m for p, m in paths().items() if p in described}
        )
        for path, methods in described.items():
            name = "page.js" if path.startswith("/page") else "test"
            real = path.replace("{id}", "a1").replace("{name}", name)
            response = await self.request("BREW", real)
            self.assertEqual(response.code, 405, path)
            allowed = {method.upper() for method in methods}
            if "GET" in allowed:
                allowed.add("HEAD")
            self.assertEqual(allowed, set(response.header("Allow").split(", ")), path)

    async def test_public(self) -> None:
        """
        Without a token none is asked for.
        """
        self.assertNotIn("security", await self.description())

    def test_schemas(self) -> None:
        """
        The schemas are sound, have the keys and words that there are, and are
        all used.
        """
        used = str([paths(), SCHEMAS])
        for name, schema in SCHEMAS.items():
            Draft202012Validator.check_schema(schema)
            if name not in ("Event", "Gap"):  # in a stream, which has no schema
                self.assertIn(f"schemas/{name}'", used)
        self.assertEqual(tuple(SCHEMAS["Request"]["properties"]), KEYS)
        self.assertEqual(SCHEMAS["Event"]["properties"]["event"]["enum"], [*CATALOGUE])
        codes = set(map(int, paths()["/captures"]["post"]["responses"]))
        self.assertEqual({status.value for status in STATUSES.values()} - codes, set())

    def test_request(self) -> None:
        """
        Requests are as they are described.
        """
        for good in (
            {"node": "any", "interface": "eth0"},
            {"nodere": "^web", "alias": ["a"], "bpf": "", "colour": "red"},
        ):
            validate(good, SCHEMAS["Request"])
        validator = Draft202012Validator(SCHEMAS["Request"])
        for bad in (
            {"node": "any"},
            {"interface": "eth0"},
            {"node": "any", "nodere": "x", "interface": "eth0"},
            {"node": "any", "interface": "eth0", "alias": "a"},
            {"node": "any", "interface": []},
            {"node": "any", "interface": "eth0", "snap": 0},
            {"node": "any", "interface": "eth0", "request_id": ""},
            {"node": "any", "cancel": "x"},
        ):
            self.assertFalse(validator.is_valid(bad), bad)
