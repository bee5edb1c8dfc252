"""What transformers 5 saves and 4, which other projects need, reads otherwise in silence."""

from collections.abc import Iterator, Mapping
from typing import Any

CURE = (
    "copy config.json, generation_config.json and all tokenizer files of the checkpoint that "
    "training started from over it"
)


def rotary_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield where transformers 4 would take other rotary embeddings than config.json means.

    >>> list(rotary_faults({"rope_theta": 500000.0}))
    []
    >>> list(rotary_faults({"rope_parameters": {"rope_theta": 5.0}}))
    ['config.json: rope_theta is 5.0 in rope_parameters and None beside it, ...']
    """
    rope = config.get("rope_parameters")
    if rope is None:
        return
    rope = rope if isinstance(rope, Mapping) else {}
    theta, scaled = rope.get("rope_theta"), rope.get("rope_type", "default") != "default"
    if config.get("rope_theta") is None or config["rope_theta"] != theta:
        yield (
            f"config.json: rope_theta is {theta} in rope_parameters and "
            f"{config.get('rope_theta')} beside it, where transformers 4 reads it; {CURE}"
        )
    if scaled and not config.get("rope_scaling"):
        yield (
            f"config.json: rope_type {rope['rope_type']} stands in rope_parameters and there is no "
            f"rope_scaling, which transformers 4 reads; {CURE}"
        )
