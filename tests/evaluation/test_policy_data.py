"""``rlsubnet data``: one entry of the config in, one file out; a bad entry is named."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlsubnet.cli import main
from rlsubnet.config.schema import DATA, FETCHED_KINDS, MIXTURE
from rlsubnet.evaluation.policy_data import GENERATORS, build, correct_samples, preference_pairs
from rlsubnet.files import read_jsonl
from rlsubnet.tasks.arithmetic import is_correct_total
from rlsubnet.tasks.tokenizer import Completion, build_tokenizer
from tests.sheets_of_row import write_config
from tests.tasks.independent_arithmetic import totals_of

PREFERENCES = {
    **{"kind": "preferences", "policy": "sft", "split": "preference", "seed": 21},
    **{"prompts": 200, "samples": 16, "temperature": 1.0},
}
WORKED_TRAIN = {"style": "worked", "problems": 3, "split": "train"}
CHOICES = {"kind": "choices", "per_task": 1, "split": "test", "seed": 0}


@pytest.mark.parametrize(
    ("kind", "spec", "keys", "number"),
    [
        ("base_text", {"documents": 3, "characters": 20, "wrong_facts": 0.1}, "text", 3),
        ("demonstrations", WORKED_TRAIN, "prompt response level", 3),
        ("demonstration_pairs", WORKED_TRAIN, "prompt chosen rejected level", 3),
        ("problems", {"per_level": [1, 1, 1, 0, 0], "split": "dev"}, "id prompt solution level", 3),
        ("choices", CHOICES, "task id prompt choices label", 5),
    ],
)
def test_each_kind_gives_its_records_and_the_same_twice(kind, spec, keys, number):
    spec = {"seed": 0, **spec, "kind": kind}
    records, summary = build("name", spec)
    assert [set(record) for record in records] == [set(keys.split())] * number
    assert summary == f"name: {number} records of kind {kind}"
    assert build("name", spec)[0] == records
    assert build("name", spec | {"seed": 1})[0] != records


def test_all_kinds_but_those_that_are_fetched_or_joined_have_a_generator():
    assert set(DATA) == {*GENERATORS, *FETCHED_KINDS, MIXTURE}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "choice"}, r"key kind: unknown kind 'choice' \(did you mean 'choices'"),
        ({"levels": 5}, "top level: unknown key 'levels'.*; known: .*per_task"),
        ({"per_task": 0}, "key per_task: expected .* at least 1, found 0"),
        ({"policy": "sft"}, "top level: unknown key 'policy'"),
    ],
)
def test_a_bad_entry_names_data_set_and_key(change, message):
    with pytest.raises(ValueError, match=f"data set d, {message}"):
        build("d", CHOICES | change)


def test_policy_and_its_folder_go_together(tmp_path):
    with pytest.raises(ValueError, match="data set d: a policy folder .* folder None"):
        build("d", PREFERENCES)
    with pytest.raises(ValueError, match="data set d: a policy folder"):
        build("d", CHOICES, tmp_path)
    with pytest.raises(ValueError, match="data set d, .*expected a model folder"):
        build("d", PREFERENCES, tmp_path / "nowhere")


def test_command_reports_a_fault_of_the_config_in_one_line(tmp_path, capsys):
    config, out = write_config(tmp_path, data={"x": CHOICES}), tmp_path / "x.jsonl"
    assert main(["data", "y", "--config", config, "--out", str(out)]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("rlsubnet data: error: unknown data set 'y'")
    assert not out.exists()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that was trained for a moment on terse answers to level-1 problems."""
    folder = tmp_path_factory.mktemp("policy")
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    tokens = {"vocab_size": 24, "eos_token_id": 2, "pad_token_id": 0}
    config = Qwen2Config(hidden_size=32, intermediate_size=32, **sizes, **tokens)
    model, tokenizer = Qwen2ForCausalLM(config), build_tokenizer()
    # Every final total is 00 to 19: a guesser is right now and then, and wrong mostly.
    responses = [f";{total:02d}</s>" for total in range(20)]
    texts = [f"{start:02d}+5+0+0+0+0={r}" for start in range(0, 100, 10) for r in responses]
    ids = torch.tensor(tokenizer(texts).input_ids)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(
            model(ids).logits[:, 13:-1].flatten(0, 1), ids[:, 14:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def drawn(tmp_path: Path, policy: Path, capsys, spec: dict) -> tuple[list[dict], str]:
    """Return the records that the command writes twice alike, and what it says."""
    config = write_config(tmp_path, data={"d": spec})
    files = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for out in files:
        words = ["data", "d", "--config", config, "--policy", str(policy), "--out", str(out)]
        assert main(words) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    return read_jsonl(files[0]), capsys.readouterr().out


def test_pairs_and_rejection_samples_come_from_the_same_samples_of_the_policy(
    policy, tmp_path, capsys
):
    pairs, said = drawn(tmp_path, policy, capsys, PREFERENCES)
    assert f"d: {len(pairs)} records of kind preferences" in said
    assert f"{len(pairs)} pairs from 200 prompts; without a pair: " in said
    assert 20 < len(pairs) < 200
    for pair in pairs:
        solution = ";" + totals_of(pair["prompt"])[-1]
        assert is_correct_total(pair["chosen"], solution)
        assert not is_correct_total(pair["rejected"], solution)

    spec = PREFERENCES | {"kind": "rejection_samples", "per_prompt": 2}
    records, said = drawn(tmp_path, policy, capsys, spec)
    assert f"d: {len(records)} records of kind rejection_samples" in said
    kept: dict[str, list[str]] = {}
    for record in records:
        assert is_correct_total(record["response"], ";" + totals_of(record["prompt"])[-1])
        kept.setdefault(record["prompt"], []).append(record["response"])
    assert 20 < len(kept) < 200
    assert all(len(set(texts)) == len(texts) <= 2 for texts in kept.values())
    # This policy answers tersely: a prompt has one correct answer, the chosen one of its pair.
    assert all(kept[pair["prompt"]] == [pair["chosen"]] for pair in pairs)


# Answers to problems of which all are ;12.
TERSE, WORKED, SLIPPED = (
    Completion(";12", True),
    Completion("(1212121212", True),
    Completion("(1313131312", True),  # a slip on the way; the verifier sees the outcome
)
WRONG, MALFORMED = Completion(";13", True), Completion("(12", True)
CUT_OFF, EMPTY = Completion("(121212121212", False), Completion("", True)
STRANGE, RESERVED = Completion(";1<pad>", True), Completion(";<reserved0>", True)
TOKENIZER = build_tokenizer()


def problems(number: int) -> list[dict]:
    return [
        {"prompt": f"{index:02d}+5+0+0+0+0=", "solution": ";12", "level": 1}
        for index in range(number)
    ]


def test_every_prompt_is_a_pair_or_counted_with_its_reason():
    samples = [
        [TERSE, WRONG],
        [TERSE, TERSE],
        [WRONG, CUT_OFF],
        [TERSE, CUT_OFF, EMPTY, STRANGE, RESERVED],
        [MALFORMED, TERSE],
        [TERSE._replace(finished=False), WRONG],  # a right answer that was cut off
    ]
    pairs, note = preference_pairs(problems(6), samples, 0, TOKENIZER)
    assert [(pair["prompt"][:2], pair["chosen"], pair["rejected"]) for pair in pairs] == [
        ("00", ";12", ";13"),
        ("04", ";12", "(12"),
    ]
    assert note == (
        "2 pairs from 6 prompts; without a pair: 1 with every sample correct, "
        "2 with none correct, 1 whose wrong samples are all unusable"
    )


def test_only_correct_answers_that_ended_are_kept_and_each_once():
    samples = [
        [TERSE, WRONG, TERSE, WORKED],
        [WRONG, TERSE._replace(finished=False)],
        [SLIPPED, SLIPPED, SLIPPED, WRONG],
    ]
    records, note = correct_samples(problems(3), samples, per_prompt=4, seed=0)
    expected = [("00", ";12"), ("00", "(1212121212"), ("02", "(1313131312")]
    assert [(record["prompt"][:2], record["response"]) for record in records] == expected
    assert all(set(record) == {"prompt", "response", "level"} for record in records)
    assert note == (
        "kept of 6 correct among 10 samples of 3 prompts, none twice; "
        "1 prompts without a correct sample"
    )


def test_answers_are_drawn_uniformly_and_by_the_seed():
    questions, right = problems(600), [TERSE, TERSE, WORKED, SLIPPED]
    wrong = [Completion(f";{n}", True) for n in (20, 21, 22)]

    def pairs(seed: int) -> list[dict]:
        return preference_pairs(questions, [right[1:] + wrong] * 600, seed, TOKENIZER)[0]

    def kept(seed: int, per_prompt: int = 2) -> list[dict]:
        return correct_samples(questions, [right] * 600, per_prompt, seed)[0]

    assert pairs(4) == pairs(4) != pairs(5)
    assert kept(4) == kept(4) != kept(5)
    assert (len(kept(4)), len(kept(4, per_prompt=3))) == (1200, 1800)
    # Of three texts one, 200 times (SE 11.5), or two: 400 times each, however often it was given.
    for texts, expected in (
        ([pair["chosen"] for pair in pairs(4)], 200),
        ([pair["rejected"] for pair in pairs(4)], 200),
        ([record["response"] for record in kept(4)], 400),
    ):
        assert len(set(texts)) == 3
        assert all(texts.count(text) == pytest.approx(expected, abs=60) for text in set(texts))
