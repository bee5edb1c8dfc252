"""What a scale consists of: its config and its three sheets, checked before any job starts."""

from rlsubnet.sheets.backends import WORD_KINDS
from rlsubnet.sheets.config import complete_config, load_config
from rlsubnet.sheets.faults import SheetError
from rlsubnet.sheets.layout import (
    checkpoint_folder,
    contamination_file,
    contamination_files,
    data_file,
    item_files,
    mask_file,
    source_folder,
    waist_files,
)
from rlsubnet.sheets.recipes import resolved_row, saves_steps
from rlsubnet.sheets.scale import ITEMS, Comparison, Pair, Run, Scale, load_scale
from rlsubnet.sheets.site import job_resources, load_site
from rlsubnet.sheets.suites import suite_kind

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
