"""Update ranks by the formula of the paper, through transformers and torch.

usage: python -m benchmarks.authors_rank INIT TUNED RANKS.json
Matrices outside layer norms count, as in the authors' script. RANKS gets the rank of each.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Load, subtract, decompose, and write the ranks."""
    init, tuned, out = sys.argv[1:]
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16) for path in (init, tuned)
    ]
    before, after = (dict(model.named_parameters()) for model in models)
    ranks = {}
    with torch.no_grad():
        for name, weights in before.items():
            if "layernorm" not in name and weights.dim() > 1:
                delta = (after[name] - weights).float()
                ranks[name] = int(torch.linalg.matrix_rank(delta))
    Path(out).write_text(json.dumps(ranks))


if __name__ == "__main__":
    main()
