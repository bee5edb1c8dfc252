"""How the columns of all tables are headed and rounded in print; CSV keeps the plain names."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """Heading and number of decimals of one column; `digits` is None for text and counts.

    A `positive` number is never printed as 0: below the last decimal it is printed as a bound. A
    `scientific` one is printed as the paper writes tolerances; `digits` are those of its mantissa.
    Sentences have a `width`, a share of LaTeX's line, and are broken within it.
    """

    header: str
    digits: int | None = None
    positive: bool = False
    scientific: bool = False
    width: float = 0.0


# Two decimals for differences: those of full and sub may be a few hundredths of a point.
_PERCENT, _DELTA, _RANK, _LIFT, _P, _SAME = 1, 2, 1, 2, 3, 4

COLUMNS = {
    "part": Column("Part"),
    "algorithm": Column("Algorithm"),
    "method": Column("Method"),
    "stage": Column("Stage"),
    "label": Column("Label"),
    "init": Column("Init"),
    "tuned": Column("Tuned"),
    "full": Column("Full"),
    "sub": Column("Sub"),
    "compared": Column("Compared"),
    "rule": Column("Rule"),
    "numel": Column("Parameters", 0),
    "sparsity_percent": Column("Sparsity (%)", _PERCENT),
    "sparsity_exact_percent": Column("Sparsity, exact rule (%)", _PERCENT),
    "sparsity_bitwise_percent": Column("Same bits (%)", _PERCENT),
    "source": Column("Source"),
    "paper_init": Column("Paper: init"),
    "paper_model": Column("Paper: model"),
    "paper_algorithm": Column("Paper: algorithm"),
    "paper_sparsity_percent": Column("Paper: sparsity (%)", _PERCENT),
    "paper_on_policy": Column("Paper: on-policy"),
    "paper_kl": Column("Paper: KL"),
    "paper_online": Column("Paper: online"),
    "paper_stage": Column("Paper: stage"),
    "paper_in_distribution": Column("Paper: in distribution"),
    # Tables with seeds
    "row": Column("Row"),
    "seed": Column("Seed"),
    # What the sheet says about the training
    "lr": Column("Peak learning rate"),
    "steps": Column("Steps", 0),
    "lr_sum": Column("Sum of learning rates", 1, scientific=True),
    "in_distribution": Column("In distribution"),
    "data_origin": Column("Data"),
    # Table 2
    "matrices": Column("Matrices", 0),
    "update_rank_percent": Column("Update rank (%)", _RANK),
    "control_rank_percent": Column("Rank of random control (%)", _RANK),
    "stable_rank": Column("Stable rank", _RANK),
    "effective_rank": Column("Effective rank", _RANK),
    "paper_update_rank_percent": Column("Paper: update rank (%)", _RANK),
    # Table 3
    "task": Column("Task"),
    "level": Column("Level"),
    "decoding": Column("Decoding"),
    "n": Column("n", 0),
    "full_correct": Column("Full: k", 0),
    "sub_correct": Column("Sub: k", 0),
    "full_percent": Column("Full (%)", _PERCENT),
    "full_interval": Column("Full: 95 % interval"),
    "sub_percent": Column("Sub (%)", _PERCENT),
    "sub_interval": Column("Sub: 95 % interval"),
    "delta_points": Column("Delta (points)", _DELTA),
    "delta_se_points": Column("SE of delta", _DELTA),
    "full_sd_points": Column("Full: SD of seeds", _PERCENT),
    "sub_sd_points": Column("Sub: SD of seeds", _PERCENT),
    "delta_sd_points": Column("Delta: SD of seeds", _DELTA),
    "delta_total_se_points": Column("SE, items and seeds", _DELTA),
    "p_value": Column("p", _P, positive=True),
    "p_by_seed": Column("p of each seed"),
    "test": Column("Test"),
    "verdict": Column("Verdict"),
    "chance_percent": Column("Chance (%)", _PERCENT),
    "paper_task": Column("Paper: task"),
    "paper_full_percent": Column("Paper: full (%)", _PERCENT),
    "paper_sub_percent": Column("Paper: sub (%)", _PERCENT),
    "paper_delta_points": Column("Paper: delta (points)", _PERCENT),
    "paper_n": Column("Paper: n", 0),
    "paper_full_correct": Column("Paper: full k", 0),
    "paper_sub_correct": Column("Paper: sub k", 0),
    "paper_full_interval": Column("Paper: full, 95 % interval"),
    "paper_sub_interval": Column("Paper: sub, 95 % interval"),
    "paper_delta_se_points": Column("Paper: SE of delta", _PERCENT),
    "paper_p_value": Column("Paper: p (unpaired)", _P, positive=True),
    "paper_verdict": Column("Paper: verdict"),
    # Gains
    "init_percent": Column("Init (%)", _PERCENT),
    "tuned_percent": Column("Tuned (%)", _PERCENT),
    "gain_points": Column("Gain (points)", _PERCENT),
    "gain_se_points": Column("SE of gain", _PERCENT),
    "gain_interval": Column("Gain: 95 % interval"),
    "gain_excludes_zero": Column("Excludes 0"),
    "gain_sd_points": Column("Gain: SD of seeds", _PERCENT),
    "gain_total_se_points": Column("SE, items and seeds", _PERCENT),
    "gain_seeds_interval": Column("Gain: 95 % interval of the seeds (t)"),
    "gain_seeds_excludes_zero": Column("Seeds exclude 0"),
    # Table 4
    "axis": Column("Axis"),
    "setting1": Column("Setting 1"),
    "setting2": Column("Setting 2"),
    "sparsity1_percent": Column("Sparsity 1 (%)", _PERCENT),
    "sparsity2_percent": Column("Sparsity 2 (%)", _PERCENT),
    "o1_percent": Column("o1 (%)", _PERCENT),
    "o2_percent": Column("o2 (%)", _PERCENT),
    "null": Column("Null"),
    "o1_null_percent": Column("o1, null (%)", _PERCENT),
    "o2_null_percent": Column("o2, null (%)", _PERCENT),
    "lift": Column("Lift", _LIFT),
    "lift_ci_low": Column("Lift: 95 % low", _LIFT),
    "lift_ci_high": Column("Lift: 95 % high", _LIFT),
    "paper_setting1": Column("Paper: setting 1"),
    "paper_setting2": Column("Paper: setting 2"),
    "paper_o1_percent": Column("Paper: o1 (%)", _PERCENT),
    "paper_o2_percent": Column("Paper: o2 (%)", _PERCENT),
    "paper_o1_random_percent": Column("Paper: o1, random (%)", _PERCENT),
    "paper_o2_random_percent": Column("Paper: o2, random (%)", _PERCENT),
    "paper_sparsity1_percent": Column("Paper: sparsity 1 (%)", _PERCENT),
    "paper_sparsity2_percent": Column("Paper: sparsity 2 (%)", _PERCENT),
    # Section 4; four decimals, so that a few changed weights of a small model do not round away
    "same_1e-5_percent": Column("Same at 1e-5 (%)", _SAME),
    "same_1e-5_exact_percent": Column("Same at 1e-5, exact rule (%)", _SAME),
    "same_1e-4_percent": Column("Same at 1e-4 (%)", _SAME),
    "same_1e-4_exact_percent": Column("Same at 1e-4, exact rule (%)", _SAME),
    "same_bitwise_percent": Column("Same bits (%)", _SAME),
    "max_abs_diff": Column("Largest difference", 6),
    "frozen_weights": Column("Frozen weights", 0),
    "frozen_changed": Column("Frozen and changed", 0),
    "subnetwork_weights": Column("Subnetwork weights", 0),
    "subnetwork_changed": Column("Subnetwork and changed", 0),
    "paper_same_1e-5_percent": Column("Paper: same at 1e-5 (%)", _PERCENT),
    "paper_same_1e-4_percent": Column("Paper: same at 1e-4 (%)", _PERCENT),
    # Section 6
    "kl_coef": Column("KL weight"),
    "clip": Column("Clipping at"),
    "kl_mean": Column("KL to the start, mean (nats a token)", 1, scientific=True),
    "grad_norm_mean": Column("Gradient norm, mean", 3),
    "clipped_percent": Column("Steps clipped (%)", _PERCENT),
    "sparsity_sd_points": Column("Sparsity: SD of seeds", _PERCENT),
    "schedule": Column("Schedule"),
    "saved_steps": Column("Saved steps", 0),
    "last_sparsity_percent": Column("Same bits at the end (%)", _PERCENT),
    "never_percent": Column("Never updated (%)", _PERCENT),
    "cancelled_percent": Column("Updated, then cancelled (%)", _PERCENT),
    "subnetwork_percent": Column("Final subnetwork (%)", _PERCENT),
    "outside_most_percent": Column("Outside final subnetwork, most (%)", 2),
    "outside_most_step": Column("at step", 0),
    "step_updated_percent": Column("Updated between saved steps, mean (%)", _PERCENT),
    "late_fall_points": Column("Fall over the last quarter (points)", _PERCENT),
    "still_falling": Column("Still falling"),
    "paper_never_percent": Column("Paper: never (%)", _PERCENT),
    "paper_cancelled_percent": Column("Paper: cancelled (%)", _PERCENT),
    "paper_subnetwork_percent": Column("Paper: subnetwork (%)", _PERCENT),
    "paper_outside_percent": Column("Paper: ever updated outside (%)", _PERCENT),
    "paper_step_updated_percent": Column("Paper: updated between saved steps (%)", _PERCENT),
    # Verdicts
    "id": Column("Id", width=0.12),
    "claim": Column("Claim", width=0.16),
    "where": Column("Where", width=0.08),
    "paper": Column("Paper", width=0.12),
    "here": Column("Here", width=0.19),
    "decided_by": Column("Decided by", width=0.12),
    # Comparison of two results folders
    "what": Column("What", width=0.3),
    "yours": Column("Yours", width=0.12),
    "reference": Column("Reference", width=0.12),
    "reference_interval": Column("Reference: interval", width=0.12),
    "comparison": Column("Comparison", width=0.1),
}
_AT_TOLERANCE = re.compile(r"(paper_)?sparsity_(1e-\d+)_percent")


def column(name: str) -> Column:
    """Return heading and decimals of a column.

    Raises:
        ValueError: nothing is declared for it.

    >>> column("paper_sparsity_1e-8_percent").header
    'Paper: 1e-8 (%)'
    """
    if name in COLUMNS:
        return COLUMNS[name]
    if match := _AT_TOLERANCE.fullmatch(name):
        return Column(f"{'Paper: ' if match[1] else ''}{match[2]} (%)", 2)
    raise ValueError(f"no heading declared for column {name!r}")


def tolerance_name(atol: float) -> str:
    """Return a tolerance as the paper writes it.

    >>> tolerance_name(1e-05), tolerance_name(2.5e-4)
    ('1e-5', '2.5e-4')
    """
    mantissa, exponent = f"{atol:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
