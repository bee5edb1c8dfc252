"""One cluster for all tests of this folder."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, missing_programs

# Set by .ci/run: there a missing Slurm is a failure, not a reason to skip.
REQUIRED = "RLSUBNET_REQUIRE_SLURM"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Yield two nodes of a real Slurm, started here by process id and stopped at the end."""
    missing = missing_programs()
    if missing:
        reason = f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and there is {reason}")
        pytest.skip(reason)
    cluster = Cluster()
    # As Ctrl-C, so that whoever ends the tests leaves no job behind.
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        signal.signal(signal.SIGTERM, before)
