"""verl's saved steps, one file a process, merged into Hugging Face folders."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from rlsubnet.backends.processes import run_checked
from rlsubnet.backends.transformers4 import rotary_faults
from rlsubnet.checkpoints.export import export_trained
from rlsubnet.checkpoints.layout import read_config
from rlsubnet.files import replacing


def check_rotary(init: Path) -> None:
    """Check that verl, with transformers 4, reads a start's config as it is meant.

    Raises:
        ValueError: it would take other rotary embeddings, in silence.
    """
    if faults := list(rotary_faults(read_config(init))):
        raise ValueError(f"{init}: verl cannot train this checkpoint: {'; '.join(faults)}")


def merge_step(
    actor: Path, init: Path, out: Path, python: Path, variables: Mapping[str, str]
) -> None:
    """Write one saved step as a Hugging Face folder: weights in bfloat16, all else from ``init``.

    ``verl.model_merger`` joins the processes' shards and rounds their float32 masters.

    Args:
        actor: the policy's files of one save; they stay.
        init: folder that the run started from.
        out: folder to make.
        python: interpreter of verl's environment.
        variables: of the environment, beside those that are set.

    Raises:
        ValueError: the merger failed, or what it wrote is not a whole model like ``init``, with
            finite weights.
    """
    merger = (str(python), "-m", "verl.model_merger", "merge", "--backend", "fsdp")
    with replacing(out) as folder, TemporaryDirectory(dir=out.parent) as merged:
        words = [*merger, "--local_dir", str(actor), "--target_dir", merged]
        run_checked(words, variables, f"{actor}: verl.model_merger")
        folder.mkdir()
        export_trained(init, Path(merged), folder)
