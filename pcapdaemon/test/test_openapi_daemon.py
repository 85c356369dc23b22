# See LICENSE for details.
"""
The whole daemon keeps what its description of itself promises, whatever it is
asked: requests good and bad, made up from C{/openapi.json} by schemathesis.
"""

from __future__ import annotations

from typing import Any

import hypothesis
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.frames import frame
from pcapdaemon.test.process import Daemon

TOKEN = "0123456789abcdef"

#: What does not hold here: a good request may ask for more than there is.
UNFIT = ("positive_data_acceptance",)


class DescriptionTests(DaemonTestCase):
    """
    C{/openapi.json}, and what is answered.
    """

    def describe(self, daemon: Daemon, **headers: str) -> dict[str, Any]:
        """
        What the daemon says of itself, and which nodes, devices, captures and
        triggers it has: nobody would guess them.
        """
        ids = []
        for number in range(2):
            body = {"node": "any", "interface": "vb", "packets": 1 + number}
            status, answer = daemon.http("POST", "/captures", body, **headers)
            self.assertEqual(status, 202)
            ids += answer["ids"]
        daemon.waitForEvents("armed", ids)
        self.pair.send([frame(1)])
        daemon.waitForEvent("completed", ids[0])
        status, description = daemon.http("GET", "/openapi.json", **headers)
        self.assertEqual(status, 200)
        schemas = description["components"]["schemas"]
        there = {"interface": ["vb", ["lo", "vb"]], "alias": ["main"]}
        names = {"triggers": ["test", "other"], "page": ["page.js", "page.html"]}
        schemas["Request"]["properties"]["node"]["enum"] = ["any", "node-a", "node-b"]
        for name in "Request", "Filter":
            for key, values in there.items():
                schemas[name]["properties"][key] = {"enum": values}
        for path, methods in description["paths"].items():
            values = names.get(path.split("/")[1], [*ids, "x"])
            for operation in methods.values():
                for parameter in operation.get("parameters", []):
                    if parameter["in"] == "path":
                        parameter["schema"] = {"enum": values}
        # It has no end; test_daemon_http is about it.
        del description["paths"]["/events"]
        return dict(description)

    def examine(
        self, daemon: Daemon, examples: int, **headers: str
    ) -> dict[str, set[int]]:
        """
        Ask for everything, and see that each answer is one that is promised.

        @param examples: How many requests for each method of a path, at most.
        @return: The method and path to the status codes that came.
        """
        schema = schemathesis.openapi.from_dict(self.describe(daemon, **headers))
        schema.config.update(base_url=f"http://127.0.0.1:{daemon.port}")
        # What is wrong with a request for another node, nobody looks at.
        schema.config.checks.negative_data_rejection.expected_statuses = ["4xx"]
        checks = [c for c in CHECKS.get_all() if c.__name__ not in UNFIT]
        settings = hypothesis.settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        answered: dict[str, set[int]] = {}

        def ask(case: Any) -> None:
            answer = case.call_and_validate(headers=headers, checks=checks)
            answered[case.operation.label].add(answer.status_code)

        for result in schema.get_all_operations():
            operation: Any = result.ok()  # type: ignore[union-attr]
            answered[operation.label] = set()
            good, bad = map(operation.as_strategy, GenerationMode)
            settings(hypothesis.given(case=good | bad)(ask))()
        return answered

    def test_all(self) -> None:
        """
        Every answer is as promised, good ones and refusals.
        """
        daemon = self.started(
            http={"files": 100_000},
            interface=[{"name": "vb", "alias": ["main"]}],
            trigger=[{"name": "test", "request": {"node": "any", "alias": "main"}}],
        )
        answered = self.examine(daemon, 30)
        for label, codes in {
            "GET /": {200},
            "GET /page/{name}": {200, 404},
            "GET /captures": {200},
            "POST /captures": {202, 421},
            "GET /captures/{id}": {200, 404},
            "DELETE /captures/{id}": {202, 404, 409},
            "GET /captures/{id}/file": {200, 404},
            "POST /filters": {200, 422},
            "GET /healthz": {200},
            "GET /interfaces": {200},
            "GET /metrics": {200},
            "GET /openapi.json": {200},
            "GET /refusals": {200},
            "POST /triggers/{name}": {404, 422},
        }.items():
            self.assertEqual(codes - answered[label], set(), label)
        self.assertEqual(daemon.stop(), 0)

    def test_token(self) -> None:
        """
        With a token it says that one is needed, and it is.
        """
        daemon = self.daemon(http={"token": TOKEN})
        daemon.start()
        answered = self.examine(daemon, 2, Authorization=f"Bearer {TOKEN}")
        self.assertIn("GET /captures", answered)
        self.assertEqual(daemon.http("GET", "/openapi.json")[0], 401)
