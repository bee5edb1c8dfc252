"""Prompts as verl wants them: a Parquet file whose rows name their own grader."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsubnet.files import iterate_jsonl, read_jsonl, replacing

KEYS = ("data_source", "prompt", "ability", "reward_model", "extra_info")


def check_record(record: Mapping[str, Any]) -> None:
    """Check one record.

    Raises:
        ValueError: it is not of the form that verl's reward managers read.

    >>> question = [{"role": "user", "content": "1 + 1?"}]
    >>> answer = {"style": "rule", "ground_truth": "2"}
    >>> check_record({"data_source": "openai/gsm8k", "prompt": question, "ability": "math",
    ...               "reward_model": answer, "extra_info": {"index": 0, "level": None}})
    >>> check_record({"data_source": "openai/gsm8k", "prompt": question})
    Traceback (most recent call last):
    ValueError: missing keys ability, reward_model, extra_info
    """
    if missing := [key for key in KEYS if key not in record]:
        raise ValueError(f"missing keys {', '.join(missing)}")
    prompt, reward = record["prompt"], record["reward_model"]
    if not (isinstance(prompt, list) and prompt and set(prompt[0]) == {"role", "content"}):
        raise ValueError(f"prompt: expected a list of messages, found {prompt!r}")
    if not (isinstance(reward, dict) and isinstance(reward.get("ground_truth"), str)):
        raise ValueError(f"reward_model: expected a text ground_truth, found {reward!r}")


def check_prompts(records: Path, row: Mapping[str, Any]) -> None:
    """Check that verl can read all prompts, and that they are enough for the run's steps.

    Raises:
        ValueError: a record is not what verl reads (names file and line), or there are too few:
            verl drops what is left of an epoch after whole batches.
    """
    count = 0
    for count, record in enumerate(iterate_jsonl(records), start=1):
        try:
            check_record(record)
        except ValueError as error:
            raise ValueError(f"{records}, line {count}: {error}") from error
    recipe = row["recipe"]
    drawn = recipe["batch_size"] * (recipe["oversample"] if row["algorithm"] == "prime" else 1)
    steps, wanted = count // drawn * recipe["epochs"], recipe["steps"]
    if steps < (wanted or 1):
        raise ValueError(
            f"{records}: {count} prompts, {drawn} of them a step, are {steps} steps in "
            f"{recipe['epochs']} epochs; expected at least {wanted or 1}"
        )


def write_parquet(records: Path, out: Path) -> None:
    """Write JSON lines as Parquet; needs pyarrow, which verl's environment has."""
    import pyarrow
    from pyarrow import parquet

    with replacing(out) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(read_jsonl(records)), temporary)


if __name__ == "__main__":
    write_parquet(Path(sys.argv[1]), Path(sys.argv[2]))
