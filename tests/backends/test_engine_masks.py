"""Masked training in two CPU processes, under DeepSpeed ZeRO and FSDP, against one without both."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backends import worker
from tests.backends.tiny import LR, WORLD, Case, changes, differences, reference, size, write_masks

pytestmark = [pytest.mark.slow, pytest.mark.backends]

TIMEOUT = 240  # seconds for all cases of DeepSpeed, or of FSDP


def zero(**settings: Any) -> str:
    return json.dumps({"zero_optimization": settings})


OFFLOAD = zero(offload_optimizer={"device": "cpu"})
FLOAT32_SUMS = json.dumps({"data_types": {"grad_accum_dtype": "fp32"}})
ZERO = [
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
    Case("zero1_bf16", "zero1", compute="bfloat16"),
    Case("zero1_bf16_float32_sums", "zero1", compute="bfloat16", options=FLOAT32_SUMS),
    Case("zero2_bf16", "zero2", compute="bfloat16"),
    Case("zero3_bf16", "zero3", compute="bfloat16"),
]
FSDP = [
    Case("fsdp1_flat", "fsdp1_flat", tied=True),
    Case("fsdp1_orig", "fsdp1_orig", tied=True),
    Case("fsdp2", "fsdp2", tied=True),
    # Cut along other dimensions than the first, as verl does where that one is odd.
    Case("fsdp2_columns", "fsdp2", tied=True, options='{"columns": true}'),
]
COPIES = Case("fsdp2_copies", "fsdp2", tied=True, options='{"copies": true}')
MASKED = [
    *ZERO,
    *FSDP,
    COPIES,
    Case("fsdp1_untied", "fsdp1_flat"),
    *(replace(case, name=f"{case.name}_bf16", compute="bfloat16") for case in FSDP),
    *(replace(case, name=f"{case.name}_pre_clip", mask_at="pre_clip") for case in FSDP),
]
FULL = [replace(case, name=f"{case.name}_full", mask="none") for case in (*ZERO[1:3], *FSDP)]
ABSENT = "model.norm.weight only in the model"
FAILING = {
    **{
        replace(case, name=f"{case.name}_incomplete", mask="incomplete"): ABSENT
        for case in (*ZERO[1:3], *FSDP)
    },
    **{
        replace(case, name=f"{case.name}_other", fault="other_optimizer"): "applied in 0 of 5"
        for case in (ZERO[1], *FSDP[1:3])
    },
    **{
        replace(case, name=f"{case.name}_forgotten", mask_at="pre_clip", fault="no_apply"): (
            "the trainer must call apply() before it clips"
        )
        for case in FSDP[1:3]
    },
    Case("round_robin", "zero2", options=zero(round_robin_gradients=True)): "does not hold its",
    Case("without_zero", "zero0"): "DeepSpeed optimizer AdamW: expected ZeRO stage 1, 2 or 3",
}


def of(cases: Sequence[Case]) -> pytest.MarkDecorator:
    deepspeed = pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")
    marks = {True: [deepspeed], False: []}
    found = [pytest.param(case, id=case.name, marks=marks[case.is_zero]) for case in cases]
    return pytest.mark.parametrize("case", found)


def run_cases(folder: Path, cases: Sequence[Case]) -> dict[str, list[dict[str, Any]]]:
    """Return by case what each process wrote. Masks must lie in ``folder``."""
    started = torch.multiprocessing.spawn(worker.main, (folder, cases), WORLD, join=False)
    deadline = time.monotonic() + TIMEOUT
    try:
        while not started.join(timeout=1):
            assert time.monotonic() < deadline
    finally:
        for process in started.processes:
            process.kill()
    return {
        case.name: [torch.load(folder / f"{case.name}.{rank}.pt") for rank in range(WORLD)]
        for case in cases
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for is_zero in (True, False):
        if is_zero and not find_spec("deepspeed"):
            continue
        folder = tmp_path_factory.mktemp("masks")
        write_masks(folder)
        # Last, those that stop half-way.
        cases = [case for case in (*MASKED, *FULL, *FAILING) if case.is_zero is is_zero]
        found |= run_cases(folder, cases)
    return found


@of(MASKED)
def test_no_frozen_weight_changes_a_bit_and_the_subnetwork_moves(case, results):
    for weights in ("masters", "model"):
        found = changes(case, results[case.name][0][weights])
        assert found.frozen_changed == 0
        assert found.subnetwork_changed > 0.9 * found.subnetwork


@of(MASKED + FULL)
def test_two_processes_train_the_weights_of_one(case, results):
    found = differences(case, results[case.name][0])
    if case.is_zero and case.compute == "bfloat16":
        # DeepSpeed sums micro-batches in bfloat16; FSDP, as the reference, in float32. A gradient
        # that this rounds to 0 makes a step of Adam, lr, of difference, if it is the first.
        assert found.max() <= 1.001 * LR
        assert (found > LR / 10).sum() < 0.001 * size(case)
    else:
        assert found.max() < 5e-7


@of(MASKED)
def test_the_clip_sees_the_norm_of_the_whole_gradient_unless_told_before(case, results):
    # The reference's norm is that of the masked gradient for pre_clip, 0.35, otherwise of all.
    _, norms = reference(case)
    exact = 1e-3 if case.is_zero and case.compute == "bfloat16" else 1e-6
    assert results[case.name][0]["norms"] == pytest.approx(norms, rel=exact)


@of([c for c in MASKED if not (c.is_zero and c.mask_at == "pre_clip")])
def test_each_process_reads_its_part_of_the_mask(case, results):
    read = [result["bits"] for result in results[case.name]]
    if case == COPIES:
        assert read == [size(case)] * 2
    else:
        assert sum(read) == size(case)
        assert max(read) < 0.6 * size(case)


@of(FULL)
def test_without_a_mask_the_same_weights_do_change(case, results):
    found = changes(case, results[case.name][0]["masters"])
    assert found.frozen_changed > 0.99 * found.frozen


@of(list(FAILING))
def test_what_would_not_be_a_masked_run_fails_in_every_process(case, results):
    for result in results[case.name]:
        assert FAILING[case] in result["error"]


@pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")
def test_the_cases_are_what_they_claim_to_be(results):
    kinds = {name: result[0].get("kind") for name, result in results.items()}
    assert kinds["zero1"] == kinds["zero2"] == kinds["zero1_bf16"] == "DeepSpeedZeroOptimizer"
    assert kinds["zero1_bf16_float32_sums"] == "BF16_Optimizer"
    assert kinds["zero3"] == kinds["zero3_bf16"] == "DeepSpeedZeroOptimizer_Stage3"
    assert results["zero3_sub_groups"][0]["sub_groups"] >= 10
