"""A checkpoint from what a user names: a folder, a file, or a repository of the hub."""

from pathlib import Path

from rlsubnet.checkpoints.delta_source import StoredWeights
from rlsubnet.checkpoints.store import Checkpoint

PREFIX = "hf:"


def is_remote(source: Path | str) -> bool:
    """Return whether a source is one of the hub.

    >>> is_remote("hf:allenai/Llama-3.1-Tulu-3-8B-DPO"), is_remote("models/sft")
    (True, False)
    """
    return str(source).startswith(PREFIX)


def open_checkpoint(source: Path | str) -> Checkpoint:
    """Return the weights of a folder, a file, or ``hf:organization/name@revision``."""
    if is_remote(source):
        # The hub's library takes a while to import, and local files do without it.
        from rlsubnet.checkpoints.remote import RemoteCheckpoint, RemoteShards

        return RemoteCheckpoint(RemoteShards(str(source)))
    return Checkpoint(source)


def open_weights(source: Path | str) -> StoredWeights:
    """Return all that a folder, a file, or ``hf:organization/name@revision`` stores."""
    if is_remote(source):
        from rlsubnet.checkpoints.remote import RemoteShards, RemoteWeights

        return RemoteWeights(RemoteShards(str(source)))
    return StoredWeights(source)
