# See LICENSE for details.
"""
What C{docs/events.schema.json} says of an event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

#: The schema as it is published.
SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "events.schema.json"


@cache
def _validator(kind: str) -> Any:
    """
    @param kind: The only event that is looked for, which is quicker and finds
        better words.
    """
    schema = json.loads(SCHEMA.read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    if kind in schema["$defs"]:
        schema["oneOf"] = [{"$ref": f"#/$defs/{kind}"}]
    return Draft202012Validator(schema)


def mistake(event: Mapping[str, Any]) -> str | None:
    """
    @return: What is wrong with an event, or L{None}.
    """
    error = best_match(_validator(event["event"]).iter_errors(event))
    return f"{error.message}: {dict(event)}" if error is not None else None
