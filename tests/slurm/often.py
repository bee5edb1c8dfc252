"""Has Snakemake look after its jobs every two seconds; on a cluster it is ``sitecustomize``.

The plugin comes ten seconds later each time that no job has ended well, which tests wait for.
"""

import sys

if sys.orig_argv[1:3] == ["-m", "snakemake"]:
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    # What the plugin sets is not taken.
    often = property(lambda self: 2.0, lambda self, seconds: None)
    RemoteExecutor.next_seconds_between_status_checks = often
