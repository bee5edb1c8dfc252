"""Has Snakemake look after its jobs every two seconds; Python reads this when it starts.

The plugin comes ten seconds later each time that no job has ended well, which tests wait for.
"""

import sys

if sys.orig_argv[1:3] == ["-m", "snakemake"]:
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    def ignore(self: RemoteExecutor, seconds: float) -> None:
        """Keep to what is below."""

    RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 2.0, ignore)
