"""What draws responses is chosen by name, and must be there."""

from importlib.util import find_spec

import pytest

from rlsubnet.config.schema import read_sampling
from rlsubnet.evaluation.sampler import make_sampler
from tests.evaluation.tiny_models import tiny_model

BLOCK = {"samples": 2, "temperature": 1.0, "batch_size": 8, "max_new_tokens": 6, "seed": 7}


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="sampler: expected one of .*'vllm'.*, found 'sglang'"):
        make_sampler("sglang", tiny_model())
    with pytest.raises(ValueError, match="unknown value 'sglang'"):
        read_sampling({**BLOCK, "sampler": "sglang"})


def test_settings_without_a_sampler_mean_the_model_itself() -> None:
    assert read_sampling(BLOCK).sampler == "own"


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_name_is_refused_with_a_place_to_get_it() -> None:
    with pytest.raises(ValueError, match=r"vLLM is not installed .* envs/vllm\.txt"):
        make_sampler("vllm", tiny_model())
