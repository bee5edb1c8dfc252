"""Whether olmes will read a model folder as it was meant, known before a GPU is used.

olmes needs transformers below 5. What transformers 5 saves it refuses when the engine starts, or
reads otherwise in silence: rope_theta 10,000 without scaling, where 500,000 with scaling was saved.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlsubnet.backends.olmes.settings import Settings
from rlsubnet.backends.transformers4 import CURE, rotary_faults
from rlsubnet.checkpoints.layout import read_config, read_tensors
from rlsubnet.files import read_object

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_model(folder: Path, settings: Settings) -> None:
    """Check a Hugging Face folder; return nothing if olmes can evaluate it.

    Raises:
        ValueError: weights are incomplete, or one or more of the faults that
            :func:`config_faults` and :func:`tokenizer_faults` find; the message names all.
    """
    read_tensors(folder)
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file; olmes needs it")
    faults = [
        *config_faults(read_config(folder), settings.max_length),
        *tokenizer_faults(folder, settings.chat_template),
    ]
    if faults:
        raise ValueError(f"{folder}: olmes cannot evaluate this checkpoint: {'; '.join(faults)}")


def config_faults(config: Mapping[str, Any], max_length: int) -> Iterator[str]:
    """Yield what transformers 4 would read otherwise in config.json, and a context too short.

    >>> list(config_faults({"max_position_embeddings": 4096, "rope_theta": 10000.0}, 4096))
    []
    >>> list(config_faults({"max_position_embeddings": 2048}, 4096))
    ['config.json: max_position_embeddings is 2048, expected at least max_length 4096']
    """
    longest = config.get("max_position_embeddings")
    if not isinstance(longest, int) or longest < max_length:
        yield (
            f"config.json: max_position_embeddings is {longest}, "
            f"expected at least max_length {max_length}"
        )
    yield from rotary_faults(config)


def tokenizer_faults(folder: Path, chat_template: str | None) -> Iterator[str]:
    """Yield what transformers 4 cannot read of a folder's tokenizer, and a missing template."""
    path = folder / "tokenizer_config.json"
    config = read_object(str(path), path.read_text(encoding="utf-8"))
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        yield f"no tokenizer: none of {', '.join(TOKENIZER_FILES)}"
    name = config.get("tokenizer_class")
    # Transformers 5 writes names such as TokenizersBackend, which 4 does not know.
    if not str(name).removesuffix("Fast").endswith("Tokenizer"):
        yield f"tokenizer_config.json: tokenizer_class {name} is unknown to transformers 4; {CURE}"
    if isinstance(config.get("extra_special_tokens"), list):
        yield (
            f"tokenizer_config.json: extra_special_tokens is a list, transformers 4 reads a "
            f"mapping; {CURE}"
        )
    own = config.get("chat_template") or (folder / "chat_template.jinja").is_file()
    if not chat_template and not own:
        yield (
            "no chat template: neither chat_template in tokenizer_config.json nor "
            "chat_template.jinja; name one of olmes's in evaluation.olmes.chat_template"
        )
