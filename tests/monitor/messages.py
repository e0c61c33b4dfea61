"""The schema of the channel's messages, held against real ones, more strictly than readers may."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

__all__ = ["check", "schema"]


def schema() -> dict[str, Any]:
    """The schema as it is published."""
    found: dict[str, Any] = json.loads(files("tftp.monitor").joinpath("schema.json").read_text())
    return found


def check(message: dict[str, Any]) -> None:
    """Fail unless the message is as documented, down to its last member."""
    problem = next(iter(_by_event()[message["event"]].iter_errors(message)), None)
    assert problem is None, f"{problem.message} at {problem.json_path} in {message}"


@cache
def _by_event() -> dict[str, Draft202012Validator]:
    """A validator for each kind: what fails in a choice of all kinds does not say why."""
    strict = _closed(schema())
    definitions = strict["$defs"]
    names = [reference["$ref"].rpartition("/")[2] for reference in strict["oneOf"]]
    return {
        name.removesuffix("_event"): Draft202012Validator(
            {"$ref": f"#/$defs/{name}", "$defs": definitions}
        )
        for name in names
    }


def _closed(part: Any) -> Any:
    """The schema without room for members that it does not name."""
    if isinstance(part, list):
        return [_closed(value) for value in part]
    if not isinstance(part, dict):
        return part
    closed = {name: _closed(value) for name, value in part.items()}
    if part.get("type") == "object" and "additionalProperties" not in part:
        closed["additionalProperties"] = False
    return closed
