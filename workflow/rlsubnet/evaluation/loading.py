"""A model folder, ready to be evaluated."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rlsubnet.tasks.tokenizer import load_tokenizer


def pick_device(device: str) -> torch.device:
    """Return the device called ``device``; ``auto`` is the GPU if there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def load_policy(
    folder: Path | str, device: str = "auto", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model of a Hugging Face folder in evaluation mode, and its tokenizer.

    The bf16 weights on disk are widened to float32 by default: exact, and on a CPU faster than
    bf16 arithmetic.

    Raises:
        ValueError: ``folder`` is no folder, holds a broken weight file, or its weights are not
            exactly those that its config.json asks for (transformers would fill the gaps with
            random numbers and a warning).
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: expected a model folder")
    disable_progress_bar()  # a log file has no use for it
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(f"{folder}: broken weight file: {error}") from error
    model, found = loaded
    for defect in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[defect]:
            raise ValueError(f"{folder}: {defect.replace('_', ' ')}: {sorted(found[defect])}")
    return model.to(pick_device(device)).eval(), load_tokenizer(folder)
