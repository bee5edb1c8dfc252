"""The JSON schemas of workflow/schemas: reading them, filling defaults, wording their errors.

jsonschema is imported where a sheet or a config is checked: the commands that rules call read
neither, and work without it.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlsubnet.config.faults import unknown_name

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

FOLDER = Path(__file__).resolve().parents[2] / "schemas"

_NOUNS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping",
    "string": "a text",
}


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Return the schema ``workflow/schemas/{name}.schema.yaml``."""
    from jsonschema import Draft202012Validator

    schema = yaml.safe_load((FOLDER / f"{name}.schema.yaml").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return schema


def _filling(base: Callable[..., Iterator["ValidationError"]]) -> Callable[..., Any]:
    def properties(
        validator: Any, schemas: Mapping[str, Any], instance: Any, schema: Any
    ) -> Iterator["ValidationError"]:
        if isinstance(instance, dict):
            for key, subschema in schemas.items():
                if "default" in subschema:
                    # A copy: nested defaults are filled into it afterwards.
                    instance.setdefault(key, copy.deepcopy(subschema["default"]))
        yield from base(validator, schemas, instance, schema)

    return properties


def _is_integer(checker: object, value: object) -> bool:
    # JSON Schema takes 1000.0 for an integer; training, which counts with it, does not.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: object, value: object) -> bool:
    # Every bound lets NaN pass: `nan < minimum` is false.
    return _is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))


@cache
def _filling_validator() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    types = {"integer": _is_integer, "number": _is_number}
    return extend(
        Draft202012Validator,
        {"properties": _filling(Draft202012Validator.VALIDATORS["properties"])},
        type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(types),
    )


def first_error(instance: Any, schema: Mapping[str, Any]) -> "ValidationError | None":
    """Fill the defaults of ``schema`` into ``instance``, in place; return its first error."""
    return next(_filling_validator()(schema).iter_errors(instance), None)


def describe(error: "ValidationError") -> str:
    """Return what was found and what the schema expects, without where it stands.

    >>> describe(first_error("dop", {"enum": ["sft", "dpo"]}))
    "unknown value 'dop' (did you mean 'dpo'?); known: sft, dpo"
    >>> describe(first_error({"a": 1, "lrr": 2}, load_schema("config")["$defs"]["recipe"]))
    "unknown key 'a'; known: backend, steps, ..."
    """
    found, expected = error.instance, error.validator_value
    match error.validator:
        case "enum":
            return unknown_name("value", str(found), map(str, expected))
        case "additionalProperties":
            known = list(error.schema["properties"])
            unknown = next(key for key in found if key not in known)
            return unknown_name("key", str(unknown), known)
        case "required":
            missing = [key for key in expected if key not in found]
            return f"missing key {', '.join(missing)}"
        case "oneOf":
            names = [alternative["required"][0] for alternative in expected]
            return f"expected exactly one of the keys {', '.join(names)}"
        case "type":
            return f"expected {_type_noun(expected)}, found {_say(found)}{_type_hint(found)}"
        case "pattern":
            return f"found {found!r}, expected {error.schema.get('description', expected)}"
        case _:
            return error.message


def _type_noun(expected: str | list[str]) -> str:
    kinds = [expected] if isinstance(expected, str) else expected
    return " or ".join(_NOUNS[kind] for kind in kinds)


def _say(found: Any) -> str:
    return f"the text {found!r}" if isinstance(found, str) else repr(found)


def _type_hint(found: Any) -> str:
    """Say why a value that looks like a number or a truth value was read as text."""
    if not isinstance(found, str):
        return ""
    if found.lower() in {"true", "false"}:
        return f"; on the command line write {found.capitalize()}"
    try:
        float(found)
    except ValueError:
        return ""
    return "; YAML 1.1 reads 2e-3 as text, write 2.0e-3"
