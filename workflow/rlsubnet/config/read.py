"""Reading what users write: config files, merged in order; sheets; the cluster's settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar
from unicodedata import category

import yaml

from rlsubnet.config.errors import SheetError, checked, key_at, unknown_name
from rlsubnet.config.schema import Comparison, Config, Pair, Run, Site

M = TypeVar("M", Run, Pair, Comparison)


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
    """Return the mapping of one config file."""
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


def complete_config(config: Mapping[str, Any], files: Sequence[Path | str] = ()) -> dict[str, Any]:
    """Return a merged config, for example Snakemake's, with every default filled.

    The files that it was read from are searched for duplicate keys, and the last one that sets a
    faulty key is named.
    """
    contents = {str(path): read_yaml(path) for path in files}

    def where(path: list[str]) -> str:
        return f"{_setting_file(contents, path)}, {key_at(path)}"

    if "model" in config:  # on a command line only the keys of the top level can be given
        config = merged(config, {"models": {"own": {"source": config["model"]}}})
    return checked(Config, dict(config), where).model_dump()


def load_config(
    paths: Sequence[Path | str], changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the config of ``paths``, later files and then ``changes`` laid over earlier ones."""
    config: dict[str, Any] = {}
    for path in paths:
        config = merged(config, read_yaml(path))
    return complete_config(merged(config, changes or {}), paths)


def _setting_file(contents: Mapping[str, Mapping[str, Any]], path: Sequence[str]) -> str:
    """Return the last file that sets the key at ``path``, or all of them."""
    for file in reversed(list(contents)):
        value: Any = contents[file]
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and path:
            return file
    return ", ".join(contents) or "config"


@dataclass(frozen=True)
class SheetRow(Generic[M]):
    """One row of a sheet; ``line`` is its line number in the file, counted from 1."""

    file: str
    line: int
    cells: M

    def fault(self, column: str, message: str) -> SheetError:
        """Return the error that names file, row and column."""
        name = astuple(self.cells)[0]
        return SheetError(f"{self.file}, row {self.line} ({name}), column {column}: {message}")


def read_sheet(path: Path | str, model: type[M]) -> dict[str, SheetRow[M]]:
    """Return the rows of a sheet by name, in the order of the file.

    The first column that the model declares holds the names. Lines that start with ``#`` and empty
    lines are skipped; cells missing at the end of a row are empty.
    """
    columns = [column.name for column in fields(model)]
    lines = _content_lines(path)
    if not lines:
        raise SheetError(f"{path}: empty, expected a header with the columns {', '.join(columns)}")
    header = lines[0][1]
    _check_header(path, header, columns)
    rows: dict[str, SheetRow[M]] = {}
    for number, values in lines[1:]:
        cells = dict(zip(header, values + [""] * (len(header) - len(values)), strict=False))
        name = cells[columns[0]]
        place = f"{path}, row {number} ({name})"
        if len(values) > len(header):
            expected = f"expected at most {len(header)} as in the header"
            raise SheetError(f"{place}: {len(values)} cells, {expected}")
        for column, cell in cells.items():
            if control := next((c for c in cell if category(c) == "Cc"), None):
                found = f"control character {control!r} in {cell!r}"
                raise SheetError(f"{place}, column {column}: {found}")
        row = checked(model, cells, _column_of(place))
        if name in rows:
            first = f"duplicate name {name!r}, first used in row {rows[name].line}"
            raise SheetError(f"{place}, column {columns[0]}: {first}")
        rows[name] = SheetRow(str(path), number, row)
    return rows


def _column_of(place: str) -> Callable[[list[str]], str]:
    return lambda path: f"{place}, column {path[0]}"


def _content_lines(path: Path | str) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of every line that is neither empty nor a comment."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SheetError(f"{path}: not UTF-8 text ({error.reason})") from error
    return [
        (number, [cell.strip() for cell in line.split("\t")])
        # Not splitlines: it ends lines where no editor does, such as at U+2028 inside a label.
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.startswith("#")
    ]


def _check_header(path: Path | str, header: list[str], columns: list[str]) -> None:
    for number, column in enumerate(header):
        if column not in columns:
            raise SheetError(f"{path}, header: {unknown_name('column', column, columns)}")
        if column in header[:number]:
            raise SheetError(f"{path}, header: duplicate column {column!r}")
    if missing := [column for column in columns if column not in header]:
        raise SheetError(f"{path}, header: missing column {', '.join(missing)}")


SITE = Path("config/site.yaml")


def load_site(path: Path | str = SITE) -> dict[str, Any]:
    """Return the settings of the cluster, defaults filled; all defaults where there is no file."""
    site = read_yaml(path) if Path(path).is_file() else {}
    return checked(Site, site, lambda place: f"{path}, {key_at(place)}").model_dump()


def job_resources(wanted: Mapping[str, Any], site: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what a job of a kind asks of Snakemake and Slurm, beside memory.

    GPUs are counted on each node, and several nodes are one job in which the rule's command runs
    once, on the first; see :mod:`rlsubnet.backends.launch`.

    >>> wanted = {"mem_mb": 1000, "runtime": 60, "threads": 4, "gpus": 8, "nodes": 1}
    >>> job_resources(wanted, {"gpu_partition": "gpu", "gpu_type": "a100"}, "train")
    {'runtime': 60, 'gres': 'gpu:a100:8', 'gpu_slots': 8, 'slurm_partition': 'gpu'}
    >>> job_resources({"runtime": 9, "gpus": 0, "nodes": 2}, {"account": "me"}, "train_verl")
    {'runtime': 9, 'mpi': 'srun', 'nodes': 2, 'tasks': 2, 'slurm_account': 'me'}
    """
    of_kind = site.get("kinds", {}).get(kind, {})
    chosen, gpus, nodes = {**site, **of_kind}, wanted["gpus"], wanted["nodes"]
    found = {"runtime": wanted["runtime"]}
    if size := wanted.get("disk_mb"):  # where it is not stated, Snakemake takes a guess of its own
        found["disk_mb"] = size
    if gpus:
        # `gres` counts on each node; the plugin makes of `gpu` a number without a node.
        of_type = f"{chosen['gpu_type']}:" if chosen.get("gpu_type") else ""
        found |= {"gres": f"gpu:{of_type}{gpus}", "gpu_slots": gpus}
    if nodes > 1:
        # `mpi` leaves it to the command to call srun. With GPUs the plugin would make of `tasks` a
        # number for each GPU, which `tasks_per_gpu` prevents.
        found |= {"mpi": "srun", "nodes": nodes, "tasks": nodes}
        found |= {"tasks_per_gpu": 0} if gpus else {}
    of_gpus = site.get("gpu_partition") if gpus else ""
    slurm = {
        "slurm_account": chosen.get("account"),
        "slurm_partition": of_kind.get("partition") or of_gpus or site.get("partition"),
        "qos": chosen.get("qos"),
        "constraint": chosen.get("constraint"),
        "slurm_extra": chosen.get("extra"),
    }
    return {**found, **{key: value for key, value in slurm.items() if value}}
