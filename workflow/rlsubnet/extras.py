"""What a plain install leaves out: which extra brings a module, and what to say without it."""

from collections.abc import Iterable
from importlib.util import find_spec

# Module -> extra of pyproject.toml.
EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "tokenizers": "train",
    "safetensors": "train",
    "wandb": "train",
    "matplotlib": "workflow",
    "pandas": "workflow",
    "psutil": "workflow",
    "scipy": "workflow",
    "snakemake": "workflow",
    "numba": "fast",
    "math_verify": "words",
    "pyarrow": "paper",
}


def how_to_install(*modules: str) -> str:
    """Return what brings these modules.

    >>> how_to_install("torch", "pandas")
    "in a clone of rlsubnet: pip install '.[train,workflow]'"
    """
    extras = dict.fromkeys(EXTRAS[module] for module in modules)
    return f"in a clone of rlsubnet: pip install '.[{','.join(extras)}]'"


def require(modules: Iterable[str]) -> None:
    """Raise ValueError if one of ``modules`` is not installed; imports none of them."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ValueError(f"needs {', '.join(missing)}; {how_to_install(*missing)}")
