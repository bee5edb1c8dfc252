"""One config out of its files: merged in order, checked against the schema, defaults filled."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlsubnet.config.faults import SheetError
from rlsubnet.config.schemas import describe, first_error, load_schema


class _StrictLoader(yaml.SafeLoader):
    """A YAML loader that refuses a key that stands twice, where the last would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise SheetError(f"{self.name}, line {line}: duplicate key {key.value!r}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Return the mapping of one config file.

    Raises:
        SheetError: the file is not YAML, holds no mapping or the same key twice.
    """
    try:
        with Path(path).open(encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SheetError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SheetError(f"{path}: expected a mapping of keys, found {content!r}")
    return content


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` with the keys of ``above`` laid over it, mappings key by key.

    >>> merged({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}})
    {'a': {'x': 1, 'y': 5}, 'b': 3}
    """
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def with_own_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` with its ``model`` as the source of the model called ``own``.

    On a command line only the keys of the top level can be given.

    >>> with_own_model({"model": "/models/small"})["models"]
    {'own': {'source': '/models/small'}}
    """
    if "model" not in config:
        return dict(config)
    return merged(config, {"models": {"own": {"source": config["model"]}}})


def complete_config(config: Mapping[str, Any], files: Sequence[Path | str] = ()) -> dict[str, Any]:
    """Return ``config`` with every default filled; its own values are left as they are.

    Args:
        config: the merged config, for example Snakemake's.
        files: the files it was read from; they are searched for duplicate keys, and the last
            one that sets a faulty key is named.

    Raises:
        SheetError: the config breaks the schema, or a file holds the same key twice.
    """
    contents = {str(path): read_yaml(path) for path in files}
    result = with_own_model(copy.deepcopy(dict(config)))
    error = first_error(result, load_schema("config"))
    if error is not None:
        path = [str(part) for part in error.absolute_path]
        file = _setting_file(contents, path)
        place = f"key {'.'.join(path)}" if path else "top level"
        raise SheetError(f"{file}, {place}: {describe(error)}")
    for path, message in _misfits(result):
        raise SheetError(f"{_setting_file(contents, path)}, key {'.'.join(path)}: {message}")
    return result


def _misfits(config: Mapping[str, Any]) -> Iterator[tuple[list[str], str]]:
    """Yield the path of a key and what is wrong with it beside another key.

    A job would find these, too: the tables after all others, training with an error about tensors.
    """
    wanted, measured = config["measure"]["table_tolerance"], config["measure"]["tolerances"]
    if wanted not in measured:
        listed = ", ".join(map(str, measured))
        yield (
            ["measure", "table_tolerance"],
            f"expected one of measure.tolerances ({listed}), found {wanted}",
        )
    if config["evaluation"]["backend"] == "olmes" and not config["resources"]["evaluate"]["gpus"]:
        yield ["evaluation", "backend"], "olmes needs resources.evaluate.gpus, at least 1"
    for kind, wanted in config["resources"].items():
        if wanted["nodes"] > 1 and not kind.startswith("train_"):
            yield (
                ["resources", kind, "nodes"],
                f"expected 1, as these jobs are one process each, found {wanted['nodes']}",
            )
    for name, model in config["models"].items():
        if "architecture" not in model:
            continue
        path, shape = ["models", name, "architecture"], model["architecture"]
        width, heads = shape["hidden_size"], shape["num_attention_heads"]
        if width % (2 * heads):  # rotary embeddings turn pairs of a head's numbers
            yield (
                [*path, "num_attention_heads"],
                f"expected heads of an even whole size, found {heads} in hidden_size {width}",
            )
        if heads % shape["num_key_value_heads"]:
            yield (
                [*path, "num_key_value_heads"],
                f"expected a divisor of num_attention_heads {heads}, "
                f"found {shape['num_key_value_heads']}",
            )


def load_config(paths: Sequence[Path | str]) -> dict[str, Any]:
    """Return the config of ``paths``, later files laid over earlier ones, defaults filled.

    Raises:
        SheetError: a file is no config, or together they break the schema.
    """
    config: dict[str, Any] = {}
    for path in paths:
        config = merged(config, read_yaml(path))
    return complete_config(config, paths)


def _setting_file(contents: Mapping[str, Mapping[str, Any]], path: Sequence[str]) -> str:
    """Return the last file that sets the key at ``path``, or all of them."""
    for file in reversed(list(contents)):
        value: Any = contents[file]
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and path:
            return file
    return ", ".join(contents) or "config"
