import numpy as np
import pytest

from rlsubnet.measure.trajectory import StepCounts, trajectory_counts

START = np.zeros(6, np.float32)
# weight          0  1  2  3  4  5      what becomes of it
STEPS = [
    np.array([0, 1, 1, 0, 0, 1], np.float32),
    np.array([0, 1, 0, 2, 0, 1], np.float32),
    np.array([0, 1, 0, 0, 3, 2], np.float32),
]
# 0: never updated; 1: subnetwork, moved once; 2 and 3: cancelled; 4: subnetwork, late; 5: twice


def test_toy_run_by_hand():
    counts = trajectory_counts(START, STEPS)
    assert counts == [
        # {1, 2, 5} differ; 2 is not in the final subnetwork {1, 4, 5}.
        StepCounts(6, never=3, cancelled=0, subnetwork=3, moved=3, updated_outside_final=1),
        # {1, 3, 5} differ, 2 went back; 3 is outside; 2 and 3 moved.
        StepCounts(6, never=2, cancelled=1, subnetwork=3, moved=2, updated_outside_final=1),
        # {1, 4, 5} differ, 2 and 3 are back; 3, 4 and 5 moved.
        StepCounts(6, never=1, cancelled=2, subnetwork=3, moved=3, updated_outside_final=0),
    ]


def test_counts_of_two_halves_add_up_to_those_of_the_whole():
    halves = [
        trajectory_counts(START[part], [step[part] for step in STEPS])
        for part in (slice(0, 2), slice(2, 6))
    ]
    whole = trajectory_counts(START, STEPS)
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_a_step_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="saved step 2: expected float32"):
        trajectory_counts(START, [START, START.astype(np.float16)])
    with pytest.raises(ValueError, match="at least one saved step"):
        trajectory_counts(START, [])
