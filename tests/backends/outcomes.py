"""What a case did to the weights, beside what it should have done."""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.backends.tiny import Case, initial_weights, make_mask, train_in_one_process


class Changes(NamedTuple):
    """How many weights outside and inside the mask have other bits than at the start."""

    frozen: int
    frozen_changed: int
    subnetwork: int
    subnetwork_changed: int


def changes(case: Case, weights: dict[str, Tensor]) -> Changes:
    init, mask = initial_weights(case.tied), make_mask(case.tied)
    assert weights.keys() == init.keys()
    changed = {
        name: weights[name].float().view(torch.int32) != start.view(torch.int32)
        for name, start in init.items()
    }
    return Changes(
        frozen=sum(int((~inside).sum()) for inside in mask.values()),
        frozen_changed=sum(int((changed[name] & ~inside).sum()) for name, inside in mask.items()),
        subnetwork=sum(int(inside.sum()) for inside in mask.values()),
        subnetwork_changed=sum(int((changed[n] & inside).sum()) for n, inside in mask.items()),
    )


_train_once = cache(train_in_one_process)


def reference(case: Case) -> tuple[dict[str, Tensor], list[float]]:
    engine = "zero" if case.is_zero and case.compute == "bfloat16" else ""
    return _train_once(replace(case, name="", engine=engine, fault="", options="{}"))


def differences(case: Case, result: dict[str, Any]) -> Tensor:
    expected, _ = reference(case)
    assert result["masters"].keys() == expected.keys()
    return torch.cat(
        [(result["masters"][name] - weights).abs().flatten() for name, weights in expected.items()]
    )


def size(case: Case) -> int:
    return sum(weights.numel() for weights in initial_weights(case.tied).values())
