"""Masked training under DeepSpeed ZeRO in two CPU processes, against one process without it."""

import json
from importlib.util import find_spec
from typing import Any

import pytest

from tests.backends.outcomes import changes, differences, reference, size
from tests.backends.processes import run_cases
from tests.backends.tiny import LR, Case, write_masks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.backends,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed"),
]


def zero(**settings: Any) -> str:
    return json.dumps({"zero_optimization": settings})


OFFLOAD = zero(offload_optimizer={"device": "cpu"})
FLOAT32_SUMS = json.dumps({"data_types": {"grad_accum_dtype": "fp32"}})
FLOAT32 = [
    Case("zero1", "zero1"),
    Case("zero2", "zero2"),
    Case("zero3", "zero3"),
    Case("zero3_sub_groups", "zero3", options=zero(sub_group_size=400), accumulate=1),
    Case("zero3_no_clip", "zero3", clip=0.0),
    Case("zero1_tied", "zero1", tied=True),
    Case("zero3_tied", "zero3", tied=True),
    Case("zero2_offload", "zero2", options=OFFLOAD),
    Case("zero3_offload", "zero3", options=OFFLOAD),
    Case("zero2_pre_clip", "zero2", mask_at="pre_clip"),
    Case("zero3_pre_clip", "zero3", mask_at="pre_clip"),
]
BFLOAT16 = [
    Case("zero1_bf16", "zero1", compute="bfloat16"),
    Case("zero1_bf16_float32_sums", "zero1", compute="bfloat16", options=FLOAT32_SUMS),
    Case("zero2_bf16", "zero2", compute="bfloat16"),
    Case("zero3_bf16", "zero3", compute="bfloat16"),
]
FULL = [Case("zero2_full", "zero2", mask="none"), Case("zero3_full", "zero3", mask="none")]
FAILING = {
    Case("zero2_incomplete", "zero2", mask="incomplete"): "model.norm.weight only in the model",
    Case("zero3_incomplete", "zero3", mask="incomplete"): "model.norm.weight only in the model",
    Case("other_optimizer", "zero2", fault="other_optimizer"): "applied in 0 of 5 updates",
    Case("round_robin", "zero2", options=zero(round_robin_gradients=True)): "does not hold its",
    Case("without_zero", "zero0"): "DeepSpeed optimizer AdamW: expected ZeRO stage 1, 2 or 3",
}
MASKED = FLOAT32 + BFLOAT16

masked = pytest.mark.parametrize("case", MASKED, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("zero")
    write_masks(folder)
    # Last, those that stop half-way.
    return run_cases(folder, [*MASKED, *FULL, *FAILING])


@masked
def test_no_frozen_weight_changes_a_bit(case: Case, results: dict[str, Any]) -> None:
    result = results[case.name][0]
    assert changes(case, result["masters"]).frozen_changed == 0
    assert changes(case, result["model"]).frozen_changed == 0


@masked
def test_the_subnetwork_moves(case: Case, results: dict[str, Any]) -> None:
    for weights in ("masters", "model"):
        found = changes(case, results[case.name][0][weights])
        assert found.subnetwork_changed > 0.9 * found.subnetwork


@pytest.mark.parametrize("case", FLOAT32 + FULL, ids=lambda case: case.name)
def test_two_processes_train_the_weights_of_one(case: Case, results: dict[str, Any]) -> None:
    assert differences(case, results[case.name][0]).max() < 4e-7


@pytest.mark.parametrize("case", BFLOAT16, ids=lambda case: case.name)
def test_in_bfloat16_few_weights_are_a_step_apart(case: Case, results: dict[str, Any]) -> None:
    # DeepSpeed sums micro-batches in bfloat16. A gradient that this rounds to 0 makes a step of
    # Adam, lr, of difference, if it is the first.
    found = differences(case, results[case.name][0])
    assert found.max() <= 1.001 * LR
    assert (found > LR / 10).sum() < 0.001 * size(case)


@masked
def test_the_clip_sees_the_norm_of_the_whole_gradient_unless_told_before(
    case: Case, results: dict[str, Any]
) -> None:
    # The reference's norm is that of the masked gradient for pre_clip, 0.34, otherwise of all.
    _, norms = reference(case)
    exact = 1e-3 if case.compute == "bfloat16" else 1e-6
    assert results[case.name][0]["norms"] == pytest.approx(norms, rel=exact)


@pytest.mark.parametrize(
    "case", [c for c in MASKED if c.mask_at == "post_clip"], ids=lambda case: case.name
)
def test_each_process_reads_its_half_of_the_mask(case: Case, results: dict[str, Any]) -> None:
    read = [result["bits"] for result in results[case.name]]
    assert sum(read) == size(case)
    assert max(read) < 0.6 * size(case)


@pytest.mark.parametrize("case", FULL, ids=lambda case: case.name)
def test_without_a_mask_the_same_weights_do_change(case: Case, results: dict[str, Any]) -> None:
    found = changes(case, results[case.name][0]["masters"])
    assert found.frozen_changed > 0.99 * found.frozen


@pytest.mark.parametrize("case", FAILING, ids=lambda case: case.name)
def test_what_would_not_be_a_masked_run_fails_in_every_process(
    case: Case, results: dict[str, Any]
) -> None:
    for result in results[case.name]:
        assert FAILING[case] in result["error"]


def test_the_cases_are_what_they_claim_to_be(results: dict[str, Any]) -> None:
    kinds = {name: result[0].get("kind") for name, result in results.items()}
    assert kinds["zero1"] == kinds["zero2"] == kinds["zero1_bf16"] == "DeepSpeedZeroOptimizer"
    assert kinds["zero1_bf16_float32_sums"] == "BF16_Optimizer"
    assert kinds["zero3"] == kinds["zero3_bf16"] == "DeepSpeedZeroOptimizer_Stage3"
    assert results["zero3_sub_groups"][0]["sub_groups"] >= 10
