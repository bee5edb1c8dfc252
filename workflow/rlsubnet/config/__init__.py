"""What a scale consists of: its config and its three sheets, checked before any job starts."""

from rlsubnet.config.errors import SheetError
from rlsubnet.config.layout import (
    checkpoint_folder,
    contamination_file,
    contamination_files,
    data_file,
    item_files,
    mask_file,
    mask_of,
    results_files,
    start_of,
)
from rlsubnet.config.read import complete_config, job_resources, load_config, load_site
from rlsubnet.config.scale import (
    Scale,
    load_scale,
    suite_kind,
)
from rlsubnet.config.schema import (
    WORD_KINDS,
    Comparison,
    Pair,
    Run,
    olmes_settings,
    read_sampling,
)

__all__ = [
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
    "mask_of",
    "olmes_settings",
    "read_sampling",
    "results_files",
    "start_of",
    "suite_kind",
]
