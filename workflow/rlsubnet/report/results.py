"""What stands in a results folder and in the paper: files, the numbers in them, printed values.

A bad file is refused by name, never half read. Numbers are weighted by parameters, ratios in
[0, 1]; the paper's, from `data/published.yaml`, are never mixed with ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from rlsubnet.columns import KEY, RATIO, RESULTS_FILES, PartOf, results_file
from rlsubnet.data import Published
from rlsubnet.measure import rank

RULES = ("official", "exact")
_DTYPES = {str: "str", int: "int64", float: "float64", int | None: "Int64"}


def read_results(path: Path, kind: str) -> pd.DataFrame:
    """Return a results file as a table with typed columns; `attrs["path"]` holds where it stood.

    It may hold columns that are not asked for. A missing column, a value of the wrong type, a row
    that stands twice, a count above its whole, a ratio outside [0, 1] or no row is a ValueError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make it with: snakemake {path}")
    hints = get_type_hints(RESULTS_FILES[kind], include_extras=True)
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in hints if column not in text.columns]
    if missing:
        raise ValueError(f"{path}: columns missing: {missing}; found: {list(text.columns)}")
    if text.empty:
        raise ValueError(f"{path}: no rows below the header")
    kinds = {name: _kind_and_marks(hint) for name, hint in hints.items()}
    frame = pd.DataFrame({name: _typed(text[name], kinds[name][0], path) for name in hints})
    _check(frame, {name: marks for name, (_, marks) in kinds.items()}, path)
    frame.attrs["path"] = str(path)
    return frame


def _kind_and_marks(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a column's type and its marks; the values that a text may have are a mark, too."""
    base, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(base) is Literal:
        return str, (*marks, frozenset(get_args(base)))
    return base, tuple(marks)


def _typed(column: pd.Series, kind: Any, path: Path) -> pd.Series:
    if kind is str:
        return column
    dtype, filled = _DTYPES[kind], column.where(column != "")
    try:
        numbers = pd.to_numeric(filled)
        if kind is int and numbers.isna().any():
            raise ValueError("an empty cell")
        return numbers.astype(dtype)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}, column {column.name}: expected {dtype}: {error}") from error


def _check(frame: pd.DataFrame, marks: Mapping[str, Sequence[Any]], path: Path) -> None:
    keys = [name for name, found in marks.items() if KEY in found]
    if frame.duplicated(keys).any():
        row = frame[frame.duplicated(keys)].iloc[0]
        raise ValueError(f"{path}: a second row with {', '.join(f'{k}={row[k]}' for k in keys)}")
    for name, mark in ((name, mark) for name, found in marks.items() for mark in found):
        values = frame[name].dropna()
        if isinstance(mark, PartOf):
            wrong = frame[(frame[name] < 0) | (frame[name] > frame[mark.whole])]
            if not wrong.empty:
                row = wrong.iloc[0]
                raise ValueError(
                    f"{path}, row {wrong.index[0] + 1}: {name} = {row[name]}, "
                    f"expected between 0 and {mark.whole} = {row[mark.whole]}"
                )
        elif mark == RATIO and not values.between(0.0, 1.0).all():
            wrong_value = values[~values.between(0.0, 1.0)].iloc[0]
            raise ValueError(f"{path}, column {name}: {wrong_value}, expected a ratio in [0, 1]")
        elif isinstance(mark, frozenset) and not values.isin(mark).all():
            found = sorted(set(values) - mark)
            raise ValueError(f"{path}, column {name}: {found}, expected {sorted(mark)}")


@dataclass(frozen=True)
class Results:
    """The files of one scale's results folder, each read when first asked for."""

    folder: Path
    _read: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, repr=False)

    def get(self, kind: str, name: str) -> pd.DataFrame:
        """Return file `name` of `kind`, such as ("updates", "dpo"); see `read_results`."""
        key = (kind, name)
        if key not in self._read:
            self._read[key] = read_results(self.folder / results_file(kind, name), kind)
        return self._read[key]

    def updates(self, pair: str) -> pd.DataFrame:
        return self.get("updates", pair)


def at_tolerance(updates: pd.DataFrame, atol: float, rule: str = "official") -> pd.DataFrame:
    """Return the rows of one tolerance and rule, one per tensor."""
    path = updates.attrs.get("path", "updates")
    close = np.isclose(updates["atol"].to_numpy(float), atol, rtol=1e-9, atol=0.0)
    rows = updates[close & (updates["rule"] == rule).to_numpy()]
    if rows.empty:
        found = [f"{value:g}" for value in sorted(set(updates["atol"]))]
        raise ValueError(f"{path}: no rows with atol {atol:g} and rule {rule}; tolerances: {found}")
    absent = set(updates["tensor"]) - set(rows["tensor"])
    if absent:
        raise ValueError(f"{path}: no row with atol {atol:g}, rule {rule} for {sorted(absent)}")
    return rows


def sparsity(updates: pd.DataFrame, atol: float, rule: str = "official") -> float:
    """Return the share of weights that finetuning left unchanged (section 2.2).

    The counts of all tensors are summed first: a tensor weighs as much as it has parameters.

    >>> rows = {"tensor": ["a", "b"], "numel": [4, 6], "unchanged": [1, 6]}
    >>> sparsity(pd.DataFrame(rows).assign(atol=1e-5, rule="official"), 1e-5)
    0.7
    """
    rows = at_tolerance(updates, atol, rule)
    return float(rows["unchanged"].sum() / rows["numel"].sum())


def bitwise_sparsity(updates: pd.DataFrame) -> float:
    """Return the share of weights whose stored bits are the same in both checkpoints.

    >>> rows = {"tensor": ["a", "b"], "numel": [4, 6], "bitwise_changed": [4, 1]}
    >>> bitwise_sparsity(pd.DataFrame(rows))
    0.5
    """
    rows = updates.drop_duplicates("tensor")
    return float(1.0 - rows["bitwise_changed"].sum() / rows["numel"].sum())


def parameters(updates: pd.DataFrame) -> int:
    return int(updates.drop_duplicates("tensor")["numel"].sum())


def layer_sparsity(updates: pd.DataFrame, atol: float, rule: str = "official") -> pd.DataFrame:
    """Return the sparsity of each matrix in each layer and of each layer as a whole (Figure 3).

    Returns:
        Columns layer, matrix, sparsity; matrix `average` is the layer as a whole, weighted by
        parameters. Tensors outside the layers (embedding, head, last norm) have no row.

    >>> rows = {"tensor": ["a", "b"], "layer": [0, 0], "matrix": ["q_proj", "norm"],
    ...         "numel": [8, 2], "unchanged": [4, 2]}
    >>> table = layer_sparsity(pd.DataFrame(rows).assign(atol=1e-5, rule="official"), 1e-5)
    >>> table["matrix"].tolist(), table["sparsity"].tolist()
    (['q_proj', 'norm', 'average'], [0.5, 1.0, 0.6])
    """
    rows = at_tolerance(updates, atol, rule)
    rows = rows[rows["layer"].notna()]
    counts = ["unchanged", "numel"]
    by_matrix = rows.groupby(["layer", "matrix"], sort=False)[counts].sum().reset_index()
    by_layer = rows.groupby("layer", sort=False)[counts].sum().reset_index()
    table = pd.concat([by_matrix, by_layer.assign(matrix="average")], ignore_index=True)
    table["layer"] = table["layer"].astype(int)
    table["sparsity"] = table["unchanged"] / table["numel"]
    return table[["layer", "matrix", "sparsity"]]


def mean_rank_share(ranks: pd.DataFrame, column: str = "rank") -> float:
    """Return the mean over matrices of rank / maximum possible rank (Table 2).

    Every matrix weighs the same, as in the paper's "average rank of individual update matrices".

    >>> mean_rank_share(pd.DataFrame({"rank": [4, 3], "max_rank": [4, 6]}))
    0.75
    """
    return rank.mean_rank_share(zip(ranks[column], ranks["max_rank"], strict=True))


def clipped_share(norms: pd.Series, clip: float | None) -> float:
    """Return the share of steps whose gradient norm was clipped; None clips nothing.

    >>> clipped_share(pd.Series([0.5, 1.0, 1.5, 3.0]), 1.0)
    0.5
    """
    return 0.0 if clip is None else float((norms > clip).mean())


def saved_steps(results: Results, run: str) -> pd.DataFrame:
    """Return the saved steps of a run, with shares in per cent of all weights.

    `sparsity_percent` is against the start, `step_sparsity_percent` against the saved step before,
    `outside_percent` what is updated outside the final subnetwork.
    """
    steps = results.get("trajectory", run)
    parts = ["never", "cancelled", "subnetwork"]
    numel = steps[parts].sum(axis="columns")
    return steps.assign(
        sparsity_percent=100 * steps["sparsity"],
        step_sparsity_percent=100 * steps["step_sparsity"],
        outside_percent=100 * steps["updated_outside_final"],
        **{f"{part}_percent": 100 * steps[part] / numel for part in parts},
    )


def late_fall(steps: pd.Series, sparsity: pd.Series) -> tuple[float, float]:
    """Return how far sparsity fell over the last quarter of a run, and over all of it.

    The quarter starts at the last saved step that is not inside it; before the first saved step
    every weight is as it was.

    >>> late_fall(pd.Series([10, 20, 30, 40]), pd.Series([0.75, 0.625, 0.5, 0.375]))
    (0.125, 0.625)
    >>> late_fall(pd.Series([40]), pd.Series([0.5]))
    (0.5, 0.5)
    """
    before = sparsity[steps <= 0.75 * steps.iloc[-1]]
    last = float(sparsity.iloc[-1])
    return (float(before.iloc[-1]) if len(before) else 1.0) - last, 1.0 - last


NOT_RUN = "not run at this scale"
# Table 2 prints short names; the models are those of Table 1 with the same algorithm and family.
TABLE2_MODELS = {
    "Tulu 8B": "Llama-3.1-Tulu-3-8B-DPO",
    "Eurus 7B": "Eurus-2-7B-PRIME",
    "Llama-3 8B": "Llama-3-Base-8B-SFT-KTO",
    "DeepSeek Math 7B": "deepseek-math-7b-rl",
}
# Table 5 shortens two names. Table 1, too, prints 81.4 for the first; the second is what it starts
# from.
TABLE5_NAMES = {
    "Llama-3.1-Tulu-3-8B-DPO": "Llama-3.1-8B-DPO",
    "Llama-3.1-Tulu-3-8B-SFT": "Llama-3.1-8B-SFT",
}


def model_name(identifier: str) -> str:
    """Return a model's name without its owner, as sheets and most tables of the paper write it.

    >>> model_name("allenai/Llama-3.1-Tulu-3-8B-DPO")
    'Llama-3.1-Tulu-3-8B-DPO'
    """
    return identifier.rsplit("/", 1)[-1]


def spelling(name: str) -> str:
    """Return a name without case and punctuation, in which two places may differ.

    >>> spelling("DeepSeek v3 base") == spelling("DeepSeek-V3-Base")
    True
    """
    return "".join(character for character in name.lower() if character.isalnum())


def paper_models(published: Published) -> set[str]:
    figure1 = published["figures"]["fig1"]
    names = [name for pair in figure1["sft_pairs"] + figure1["rl_pairs"] for name in pair]
    for table, key in (("table1", "rl"), ("table6", "rl"), ("table5", "model")):
        names += [row[key] for row in published[table]["rows"]]
    return {model_name(name) for name in (*names, *TABLE2_MODELS.values())}


def check_paper_models(models: Iterable[tuple[str, str]], published: Published) -> None:
    """Refuse a `paper_model` of a (pair, paper_model) that the paper has no number for."""
    known = paper_models(published)
    for pair, model in models:
        if model and model_name(model) not in known:
            raise ValueError(
                f"pair {pair}, column paper_model: the paper has no model {model!r}; "
                f"expected one of {sorted(known)}"
            )


def rows_of(published: Published, table: str, key: str) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a published table by the model name in column `key`, in print order."""
    return {model_name(row[key]): row for row in published[table]["rows"]}
