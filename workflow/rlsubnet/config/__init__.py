"""What a scale consists of: its config and its three sheets, checked before any job starts."""

from rlsubnet.config.backends import WORD_KINDS
from rlsubnet.config.config import complete_config, load_config
from rlsubnet.config.faults import SheetError
from rlsubnet.config.layout import (
    checkpoint_folder,
    contamination_file,
    contamination_files,
    data_file,
    item_files,
    mask_file,
    source_folder,
    waist_files,
)
from rlsubnet.config.recipes import resolved_row, saves_steps
from rlsubnet.config.scale import ITEMS, Comparison, Pair, Run, Scale, load_scale
from rlsubnet.config.site import job_resources, load_site
from rlsubnet.config.suites import suite_kind

__all__ = [
    "ITEMS",
    "Comparison",
    "Pair",
    "Run",
    "Scale",
    "SheetError",
    "WORD_KINDS",
    "checkpoint_folder",
    "complete_config",
    "contamination_file",
    "contamination_files",
    "data_file",
    "item_files",
    "job_resources",
    "load_config",
    "load_scale",
    "load_site",
    "mask_file",
    "resolved_row",
    "saves_steps",
    "source_folder",
    "suite_kind",
    "waist_files",
]
