#!/usr/bin/env python3
"""Write the schemas for editors and the tables of config/README.md from the models of the config.

Run it in the repository's folder after a key has changed.
A table of the README stands below a line `<!-- keys: NAMES -->`: blocks, or rows of sheets, of
`rlsubnet.config.schema`, each perhaps with what stands before its keys (`Measure=measure.`), or
kinds of data sets.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rlsubnet.config import model, schema
from rlsubnet.config.errors import in_words

README = Path("config/README.md")
SCHEMAS = {schema.Config: "config", schema.Site: "site"}
SHEETS = (schema.Run, schema.Pair, schema.Comparison)
# Keys that many kinds of data sets share are explained once.
CHANGES = {"nothing": "; changes no bit", "files": "; changes no weight"}
TOLD_APART = (model.AnyRecipe, schema.DataSet)  # explained by a table of their own
SHARED = ("seed", "split", "digits", "slots", "source", "revision", "files")


def json_schema(block: type[Any]) -> str:
    """Return the schema of a file, for editors."""
    found = block.model_json_schema()
    for key, tag, kinds in (("recipes", "backend", model.RECIPES), ("data", "kind", schema.DATA)):
        for pattern in found["properties"].get(key, {}).get("patternProperties", ()):
            found["properties"][key]["patternProperties"][pattern] = told_apart(tag, kinds)
    return json.dumps(_without_nulls(found), indent=1) + "\n"


def told_apart(tag: str, kinds: Mapping[str, type[Any]]) -> dict[str, Any]:
    """Return the schema of a block whose kind one key tells, so that editors say what is wrong."""
    cases = []
    for value, block in kinds.items():
        needed = [tag] if block.model_fields[tag].is_required() else []
        case = {"properties": {tag: {"const": value}}, "required": needed}
        cases.append({"if": case, "then": {"$ref": f"#/$defs/{block.__name__}"}})
    return {"properties": {tag: {"enum": [*kinds]}}, "allOf": cases}


def _without_nulls(part: Any) -> Any:
    """Leave out `default: null` of keys that may not be null: they are left out themselves."""
    if isinstance(part, list):
        return [_without_nulls(one) for one in part]
    if not isinstance(part, dict):
        return part
    nullable = {"type": "null"} in part.get("anyOf", [])
    return {
        name: _without_nulls(value)
        for name, value in part.items()
        if not (name == "default" and value is None and not nullable)
    }


def keys_of(block: type[Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (name, type, default, source, meaning) of the keys of a block or the row of a sheet."""
    properties = TypeAdapter(block).json_schema()["properties"]
    for name, field in block.__pydantic_fields__.items():
        if name in ("backend", "kind") and issubclass(block, TOLD_APART):
            continue
        marks = field.json_schema_extra or {}
        users = ", ".join(f"`{algorithm}`" for algorithm in marks.get("of", ()))
        meaning = f"{users}: {field.description}" if users else field.description
        meaning += CHANGES.get(marks.get("changes"), "")
        kind = in_words(properties[name])
        yield name, kind, _default(field, properties[name]), marks.get("source", ""), meaning


def _default(field: Any, schema: Any) -> str:
    found = field.default
    if field.is_required():
        return "required"
    if isinstance(found, model.Model):
        return "below"
    if found is None and "anyOf" not in schema:
        return "none"
    return f"`{found if isinstance(found, str) and found else json.dumps(found)}`"


def table(names: str) -> str:
    """Return the table below a mark of the README."""
    blocks = [word.partition("=")[::2] for word in names.split()]
    found = {name: getattr(schema, name, None) or schema.DATA[name] for name, _ in blocks}
    if all(name in schema.DATA for name in found):
        return _table(("kind", "what it is, and its keys"), [*map(kind_row, found)])
    rows = [(f"{prefix}{k[0]}", *k[1:]) for name, prefix in blocks for k in keys_of(found[name])]
    heads, columns = ["key", "type", "default", "source", "meaning"], [0, 1, 2, 3, 4]
    if not any(row[3] for row in rows):
        columns.remove(3)
    if any(block in SHEETS for block in found.values()):
        heads[0], columns = "column", [0, 4]
    cells = [(f"`{row[0]}`", *row[1:]) for row in rows]
    return _table([heads[i] for i in columns], [[row[i] for i in columns] for row in cells])


def kind_row(kind: str) -> tuple[str, str]:
    """Return the row of a kind of data set: its name, and what it is with its keys."""
    block = schema.DATA[kind]
    said = [
        f"`{name}`{'' if default in ('required', 'none') else f' ({default})'}: {meaning}"
        for name, _, default, _, meaning in keys_of(block)
        if name not in SHARED
    ]
    return f"`{kind}`", "; ".join([str(block.__doc__).rstrip("."), *said])


def _table(heads: Any, rows: Any) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def readme(text: str) -> str:
    """Return the README with its tables made anew."""
    return re.sub(
        r"(<!-- keys: ([^>]*) -->\n\n)(?:\|.*\n)*", lambda mark: mark[1] + table(mark[2]), text
    )


def documents() -> dict[Path, str]:
    """Return what every generated file should hold."""
    found = {
        Path(f"workflow/schemas/{name}.schema.json"): json_schema(block)
        for block, name in SCHEMAS.items()
    }
    return {**found, README: readme(README.read_text(encoding="utf-8"))}


if __name__ == "__main__":
    for path, content in documents().items():
        path.write_text(content, encoding="utf-8")
