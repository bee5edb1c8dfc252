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
    missing = missing_programs()
    if missing:
        reason = f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and there is {reason}")
        pytest.skip(reason)
    cluster = Cluster()
    # As Ctrl-C, which a process in the background ignores: whoever ends the tests leaves no job
    # behind, be it by a signal or by ending the process that gave this one its part of them.
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: lambda *_: signal.raise_signal(signal.SIGINT),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
