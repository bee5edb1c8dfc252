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
)
from rlsubnet.training.loop import pair_example, reference_logps
from rlsubnet.training.model import score_batch

CPU = torch.device("cpu")


def test_an_epoch_draws_every_example_once_and_the_next_in_another_order():
    batches = [batch.tolist() for batch in example_order(12, 4, seed=0, first=1, last=6)]
    first, second = sum(batches[:3], []), sum(batches[3:], [])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    other_seed = next(example_order(12, 12, seed=1, first=1, last=1)).tolist()
    assert other_seed not in (first, second)


def test_a_single_example_has_no_other_to_be_mismatched_with():
    with pytest.raises(ValueError, match="two examples or more to mismatch, found 1"):
        mismatched_examples([(Sample([1, 5, 6], given=2),)])


def test_rows_of_a_pair_batch_are_all_chosen_then_all_rejected():
    examples = [(Sample([1, 10 + n, 2], 1), Sample([1, 20 + n, 2], 1)) for n in range(3)]
    batch = collate(examples, [2, 0], pad=0, device=CPU)
    assert batch.targets.tolist() == [[12, 2], [10, 2], [22, 2], [20, 2]]
    assert batch.indices.tolist() == [4, 0, 5, 1]


def test_rows_are_scored_from_the_shortest_prompt_in_blocks_as_wide_as_they_need():
    examples = [(Sample([1, 5, 6, 7, 2], given=4),), (Sample([1, 5, 8, 2], given=2),)]
    batch = collate(examples, [0, 1], pad=0, device=CPU)
    assert batch.targets.tolist() == [[6, 7, 2], [8, 2, 0]]
    assert batch.mask.tolist() == [[False, False, True], [True, True, False]]
    assert batch.inputs.tolist() == [[1, 5, 6, 7], [1, 5, 8, 2]]
    examples = [(Sample([1] + [5] * length, given=1),) for length in (11, 2, 11, 3)]
    batch = collate(examples, [0, 1, 2, 3], pad=0, device=CPU)
    # 4 tokens with the start token; the last of them is not an input.
    assert [(rows.tolist(), width) for rows, width in batch.blocks] == [([1, 3], 3), ([0, 2], 11)]


def test_padding_and_company_do_not_change_what_a_response_scores(base, data):
    model, tokenizer = load_model(base), load_tokenizer(base)
    examples = [pair_example(record, tokenizer) for record in read_jsonl(data["dpo"])]
    with torch.no_grad():
        together = reference_logps(model, examples, pad=0, batch_size=16)
        for index, example in enumerate(examples[:8]):
            for member, sample in enumerate(example):
                batch = collate([(sample,)], [0], 0, CPU)
                alone = response_logps(score_batch(model, batch))
                torch.testing.assert_close(together[2 * index + member], alone[0])
