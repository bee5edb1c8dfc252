"""Update sparsity by the formula of the paper, through transformers and torch.

usage: python -m benchmarks.authors_way INIT TUNED COUNTS.json [TOLERANCE ...]

Both models are loaded in bfloat16, parameters subtracted, and `isclose` asked at every tolerance:
what the authors' script computes, written anew. COUNTS gets, per tensor, the number of unchanged
weights.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Load, subtract, compare, and write the counts."""
    init, tuned, out, *tolerances = sys.argv[1:]
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        for folder in (init, tuned)
    ]
    before, after = (dict(model.named_parameters()) for model in models)
    with torch.no_grad():
        deltas = {name: after[name] - before[name] for name in before}
        counts = {
            name: {
                atol: int(torch.isclose(delta, torch.zeros_like(delta), atol=float(atol)).sum())
                for atol in tolerances
            }
            for name, delta in deltas.items()
        }
    Path(out).write_text(json.dumps(counts))


if __name__ == "__main__":
    main()
