"""What the paper prints and a card shows beside a pair; in per cent, as printed.

A copy of what config/published.yaml holds, since a card is made where no clone of the repository
is; a test compares the two.
"""

from typing import NamedTuple


class Model(NamedTuple):
    """A model of the paper.

    ``sparsity`` is that at 1e-5, ``without`` that at 1e-8, in effect without a tolerance; None
    where the paper does not print it.
    """

    name: str
    method: str
    sparsity: float
    without: float | None


# Table 6, then what Table 1 alone has.
MODELS = (
    Model("Llama-3.1-Tulu-3-8B-DPO", "DPO", 81.38, 76.04),
    Model("Llama-3.1-Tulu-3-70B-DPO", "DPO", 95.24, 87.58),
    Model("deepseek-math-7b-rl", "GRPO", 68.53, 68.14),
    Model("mistral-orpo-beta", "ORPO", 76.94, 73.16),
    Model("mistral-orpo-alpha", "ORPO", 53.23, 50.40),
    Model("Eurus-7b-kto", "KTO", 95.98, 71.78),
    Model("math-shepherd-mistral-7b-rl", "PPO", 80.77, 52.45),
    Model("Eurus-2-7B-PRIME", "PRIME", 77.04, 75.26),
    Model("Llama-3-Instruct-8B-SimPO", "SimPO", 76.42, 71.00),
    Model("Llama-3-Base-8B-SFT-SimPO", "SimPO", 86.52, 79.47),
    Model("Mistral-7B-Instruct-SimPO", "SimPO", 89.07, 59.37),
    Model("Mistral-7B-Base-SFT-SimPO", "SimPO", 91.44, 62.58),
    Model("DeepSeek-R1-Zero", "GRPO", 86.0, None),
    Model("Llama-3-Base-8B-SFT-KTO", "KTO", 81.2, None),
)
# Lowest and highest sparsity of Table 6 at each of its tolerances.
TOLERANCE_RANGE = {
    1e-8: (50.40, 87.58),
    1e-7: (50.41, 87.59),
    1e-6: (50.48, 87.79),
    1e-5: (53.23, 95.98),
}
SFT_RANGE = (6.0, 15.0)
RANK_RANGE = (99.2, 99.8)
