"""How many threads work at once; imports nothing, so that it can be settled before numpy loads."""

import os

MOST_THREADS = 16
# What the libraries of linear algebra ask for when they are loaded, and only then.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def default_threads() -> int:
    """Return OMP_NUM_THREADS where it is set, as in a job, else the processors this process has."""
    wish = os.environ.get("OMP_NUM_THREADS")
    if wish is None:
        return min(len(os.sched_getaffinity(0)), MOST_THREADS)
    if not wish.isdigit() or int(wish) == 0:
        raise ValueError(f"OMP_NUM_THREADS: expected a number of threads, found {wish!r}")
    return min(int(wish), MOST_THREADS)


def checked_threads(wish: int | None) -> int | None:
    """Return what ``--threads`` asks for, None where it is left to the environment."""
    if wish is not None and wish < 1:
        raise ValueError(f"--threads must be 1 or more, found {wish}")
    return wish


def bound_linear_algebra(wish: int | None) -> None:
    """Bound the threads of the linear algebra that is loaded from now on.

    Left alone, each library takes all processors of a node. A variable that is set stays as it is,
    unless ``wish`` overrides it.
    """
    for name in VARIABLES:
        if wish is not None:
            os.environ[name] = str(wish)
        else:
            os.environ.setdefault(name, str(default_threads()))
