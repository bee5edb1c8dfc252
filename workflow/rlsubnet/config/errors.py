"""How a fault in a config or a sheet is said: where, what was found, what was expected."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

M = TypeVar("M")

# What a pattern of the model says, in words.
PATTERNS = {
    "^[A-Za-z0-9]+([._+-][A-Za-z0-9]+)*$": "a name of letters and digits, single . _ + - between "
    "them (two underscores separate names in file names)",
    "^[0-9a-f]{40}$": "the full commit, 40 hexadecimal digits",
    r"^\S*$": "a text without spaces",
    "=": "KEY=VALUE",
}
_NOUNS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping",
    "string": "a text",
}


class SheetError(ValueError):
    """A config or a sheet that no job may start from."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return what to say about a name that nothing has.

    >>> unknown_name("run", "dop", ["sft", "dpo"])
    "unknown run 'dop' (did you mean 'dpo'?); known: sft, dpo"
    >>> unknown_name("recipe", "rl", [])
    "unknown recipe 'rl'; known: none"
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}; known: {', '.join(names) or 'none'}"


def key_at(path: list[str]) -> str:
    """Return how a key is named in an error."""
    return f"key {'.'.join(path)}" if path else "top level"


def in_words(schema: Mapping[str, Any]) -> str:
    """Return what a key may hold, from its JSON schema.

    >>> in_words({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]})
    'a number above 0 or null'
    >>> in_words({"type": "number", "minimum": 0, "exclusiveMaximum": 1})
    'a number from 0 to below 1'
    """
    if "anyOf" in schema:
        return " or ".join(in_words(one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if "pattern" in schema:
        return PATTERNS[schema["pattern"]]
    noun = _NOUNS[schema.get("type", "object")] + (" that is not empty" * ("minLength" in schema))
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    end = f"{high}" if high is not None else f"below {below}"
    if low is None:
        noun += "" if above is None else f" above {above}"
        return noun if end == "below None" else f"{noun} and at most {end}"
    return f"{noun} of at least {low}" if end == "below None" else f"{noun} from {low} to {end}"


def checked(model: type[M], values: Any, where: Callable[[list[str]], str]) -> M:
    """Return the block of keys, or row of a sheet, of plain values.

    A SheetError names the first fault: ``where`` it stands, what was found and what was expected.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        path, message = first_fault(error, model)
        raise SheetError(f"{where(path)}: {message}") from error


def first_fault(error: ValidationError, model: type[Any]) -> tuple[list[str], str]:
    """Return (path of a key, what is wrong with it); an unknown key comes before all others."""
    faults = error.errors(include_url=False)
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    path, owner, kind = _along(model, fault["loc"])
    found, about = fault["input"], fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            return path[:-1], unknown_name("key", path[-1], owner.__pydantic_fields__)
        case "missing":
            beside = [one for one in faults if one["type"] == "missing"]
            names = [str(one["loc"][-1]) for one in beside if one["loc"][:-1] == fault["loc"][:-1]]
            return path[:-1], f"missing key {', '.join(names)}"
        case "value_error":
            message = str(about["error"])
            named = re.match(r"([\w.]+): ", message)
            if named and named[1].split(".")[0] in getattr(kind, "__pydantic_fields__", {}):
                return [*path, *named[1].split(".")], message[named.end() :]
            return path, message
        case "union_tag_invalid":
            known = re.findall(r"'([^']*)'", about["expected_tags"])
            return [*path, _tag(kind)], unknown_name("value", str(about["tag"]), known)
        case "union_tag_not_found":
            return path, f"missing key {_tag(kind)}"
        case "literal_error":
            known = re.findall(r"'([^']*)'", about["expected"])
            return path, unknown_name("value", str(found), known)
        case "string_pattern_mismatch":
            return path, f"found {found!r}, expected {PATTERNS[about['pattern']]}"
        case "too_short" | "too_long" | "multiple_of":
            return path, f"{fault['msg']}, found {found!r}"
    return path, f"expected {_expected(owner, fault['loc'])}, found {_say(found)}{_hint(found)}"


def _bare(kind: Any) -> Any:
    """Return a type without its bounds and without null."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        others = [one for one in get_args(kind) if one is not type(None)]
        return _bare(others[0]) if len(others) == 1 else kind
    return kind


def _along(model: Any, place: tuple[int | str, ...]) -> tuple[list[str], Any, Any]:
    """Return (the path without pydantic's marks, the model that holds its last key, its type)."""
    path, owner, kind = [], model, model
    for part in place:
        if part == "[key]":
            continue
        kind = _bare(kind)
        members = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
        if members:
            named = {tag: one for one in map(_bare, members) for tag in get_args(_first(one))}
            kind = owner = named[part]
        else:
            path.append(str(part))
            if fields := getattr(kind, "__pydantic_fields__", {}):
                owner, field = kind, fields.get(part)
                kind = field.annotation if field else Any
            else:
                kind = (get_args(kind) or (Any,))[-1]
    return path, owner, _bare(kind)


def _first(model: Any) -> Any:
    return next(iter(model.model_fields.values())).annotation


def _tag(kind: Any) -> str:
    """Return the key that tells the kinds of a block apart: its first."""
    return str(next(iter(_bare(get_args(kind)[0]).model_fields)))


def _expected(owner: Any, place: tuple[int | str, ...]) -> str:
    schema = TypeAdapter(owner).json_schema()["properties"]
    names = [part for part in place if part in schema]
    if not names:
        return "a mapping"
    schema = schema[names[-1]]
    return in_words(schema["items"] if isinstance(place[-1], int) else schema)


def _say(found: Any) -> str:
    return f"the text {found!r}" if isinstance(found, str) else repr(found)


def _hint(found: Any) -> str:
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
