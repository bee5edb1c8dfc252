import numpy as np
import pytest
import torch

from rlsubnet.evaluation.loading import load_model
from rlsubnet.files import read_jsonl
from rlsubnet.objectives.logps import response_logps
from rlsubnet.tasks.tokenizer import load_tokenizer
from rlsubnet.training.batches import (
    Sample,
    collate,
    example_order,
    mismatched_examples,
    split_batch,
)
from rlsubnet.training.loop import find_algorithm, make_examples, reference_logps
from rlsubnet.training.model import score_batch

CPU = torch.device("cpu")


def test_an_epoch_draws_every_example_once_and_the_next_in_another_order():
    batches = [batch.tolist() for batch in example_order(12, 4, seed=0, first=1, last=6)]
    first, second = sum(batches[:3], []), sum(batches[3:], [])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    other_seed = next(example_order(12, 12, seed=1, first=1, last=1)).tolist()
    assert other_seed not in (first, second)


def test_the_batch_of_a_step_does_not_depend_on_where_a_run_resumes():
    whole = [batch.tolist() for batch in example_order(10, 4, seed=7, first=1, last=9)]
    for first in range(1, 10):
        resumed = [batch.tolist() for batch in example_order(10, 4, seed=7, first=first, last=9)]
        assert resumed == whole[first - 1 :]


def test_the_parts_of_a_batch_are_the_batch():
    examples = [(Sample([1] * (2 + n % 5), 1),) for n in range(12)]
    indices = np.array([7, 3, 11, 0, 2, 5])
    parts = split_batch(examples, indices, 3)
    assert [len(part) for part in parts] == [2, 2, 2]
    assert sorted(sum(parts, [])) == sorted(indices.tolist())


def test_rows_of_a_pair_batch_are_all_chosen_then_all_rejected():
    examples = [
        (Sample([1, 10 + n, 2], given=1), Sample([1, 20 + n, 2], given=1)) for n in range(3)
    ]
    batch = collate(examples, [2, 0], pad=0, device=CPU)
    assert batch.targets.tolist() == [[12, 2], [10, 2], [22, 2], [20, 2]]
    assert batch.indices.tolist() == [4, 0, 5, 1]


def test_prompts_of_different_lengths_are_scored_from_their_own_end():
    examples = [(Sample([1, 5, 6, 7, 2], given=4),), (Sample([1, 5, 8, 2], given=2),)]
    batch = collate(examples, [0, 1], pad=0, device=CPU)
    # The shortest prompt has 2 tokens: targets start at the third.
    assert batch.targets.tolist() == [[6, 7, 2], [8, 2, 0]]
    assert batch.mask.tolist() == [[False, False, True], [True, True, False]]
    assert batch.inputs.tolist() == [[1, 5, 6, 7], [1, 5, 8, 2]]


def test_a_block_is_as_wide_as_its_longest_row_needs():
    examples = [(Sample([1] + [5] * length, given=1),) for length in (11, 2, 11, 3)]
    batch = collate(examples, [0, 1, 2, 3], pad=0, device=CPU)
    # 4 tokens with the start token; the last of them is not an input.
    assert [(rows.tolist(), width) for rows, width in batch.blocks] == [([1, 3], 3), ([0, 2], 11)]


def test_rows_computed_in_blocks_come_back_in_their_order(base):
    model = load_model(base)
    examples = [
        (Sample([1, 7, 5, *range(3, 3 + length), 2], given=3),) for length in (9, 1, 8, 2, 9)
    ]
    together = collate(examples, [0, 1, 2, 3, 4], pad=0, device=CPU)
    assert len(together.blocks) == 2
    with torch.no_grad():
        scores = score_batch(model, together)
        for row in range(5):
            alone = score_batch(model, collate(examples, [row], pad=0, device=CPU))[0]
            torch.testing.assert_close(scores[row, : len(alone)], alone)
            assert not scores[row, len(alone) :].any()


def test_padding_and_company_do_not_change_what_a_response_scores(base, data):
    model, algorithm = load_model(base), find_algorithm("dpo")
    examples = make_examples(read_jsonl(data["dpo"]), algorithm, load_tokenizer(base))
    with torch.no_grad():
        together = reference_logps(model, examples, pad=0, batch_size=16)
        for index, example in enumerate(examples[:8]):
            for member, sample in enumerate(example):
                batch = collate([(sample,)], [0], 0, CPU)
                alone = response_logps(score_batch(model, batch))
                torch.testing.assert_close(together[2 * index + member], alone[0])


def test_scores_equal_those_of_the_whole_logits(base):
    model = load_model(base)
    tokens = [1, 7, 13, 5, 16, 9, 2]
    batch = collate([(Sample(tokens, given=5),)], [0], 0, CPU)
    with torch.no_grad():
        logps = model(torch.tensor([tokens])).logits.log_softmax(-1)[0]
        expected = [logps[4, 9].item(), logps[5, 2].item()]
        assert score_batch(model, batch)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_mismatched_pair_has_its_own_prompt_and_both_responses_of_the_next():
    first = Sample([1, 5, 6], given=2), Sample([1, 5, 7, 2], given=2)
    second = Sample([1, 8, 8, 9], given=3), Sample([1, 8, 8, 4, 2], given=3)
    assert mismatched_examples([first, second]) == [
        (Sample([1, 5, 9], given=2), Sample([1, 5, 4, 2], given=2)),
        (Sample([1, 8, 8, 6], given=3), Sample([1, 8, 8, 7, 2], given=3)),
    ]
    with pytest.raises(ValueError, match="two examples or more to mismatch, found 1"):
        mismatched_examples([first])
