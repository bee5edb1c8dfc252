"""What a scale consists of: its config and its three sheets, checked before any job starts."""

from rlsubnet.config.errors import SheetError
from rlsubnet.config.read import load_config
from rlsubnet.config.scale import Scale, load_scale
from rlsubnet.config.schema import Comparison, Pair, Run

__all__ = ["Comparison", "Pair", "Run", "Scale", "SheetError", "load_config", "load_scale"]
