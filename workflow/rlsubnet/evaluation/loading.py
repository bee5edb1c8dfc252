"""Model folders opened with transformers, and the device and the kernels that compute them."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlsubnet.tasks.tokenizer import load_tokenizer

# Attention whose backward pass adds in a fixed order; others are as quick, and differ run by run.
DETERMINISTIC_ATTENTION = (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)


def pick_device(device: str) -> torch.device:
    """Return the device called ``device``; ``auto`` is the GPU if there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let torch use only kernels that give the same bits each time, or raise where it has none."""
    # cuBLAS needs a fixed workspace for that; read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor would cost time and is of use only to find bugs.
    settings.fill_uninitialized_memory = False
    try:
        with attention_on(device):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = filled


@contextmanager
def any_kernels() -> Iterator[None]:
    """Let decoding, and vLLM, use any kernels.

    The quick one that writes the cache is not on torch's list of those that repeat their bits; it
    does here, where no two writes of one call meet.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def attention_on(device: torch.device) -> AbstractContextManager[None]:
    return sdpa_kernel(list(DETERMINISTIC_ATTENTION)) if device.type == "cuda" else nullcontext()


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' progress bars for loading and saving out of the logs."""
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def load_model(folder: Path | str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the model of a Hugging Face folder, with weights of ``dtype``, in eval mode.

    It stays in eval mode in training, too: the models of the paper have no dropout.

    Raises:
        ValueError: ``folder`` is no folder, holds a broken weight file, or its weights are not
            exactly those that its config.json asks for (transformers would fill the gaps with
            random numbers and a warning).
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: expected a model folder")
    try:
        with without_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise ValueError(f"{folder}: broken weight file: {error}") from error
    model, report = loaded
    faults = "; ".join(
        f"{kind.replace('_', ' ')}: {sorted(map(str, names))}"
        for kind, names in report.items()
        if names
    )
    if faults:
        raise ValueError(f"{folder}: the weights do not fit the architecture: {faults}")
    return cast(PreTrainedModel, model.eval())


def load_policy(
    folder: Path | str, device: str = "auto", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model of a Hugging Face folder on its device, and its tokenizer.

    The bf16 weights on disk are widened to float32 by default: exact, and on a CPU faster than
    bf16 arithmetic.
    """
    model: Any = load_model(folder, dtype)
    return model.to(pick_device(device)), load_tokenizer(folder)
