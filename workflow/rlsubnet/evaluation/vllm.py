"""Responses drawn by vLLM in the place of a model, with the weights the model has at that moment.

vLLM keeps a copy of the weights and takes new ones whenever the model's were written since. It
computes with other kernels, so that its probabilities are the model's up to rounding, and with a
random stream of its own: a seed means other samples than :func:`rlsubnet.evaluation.generate`'s.
"""

import os
from collections.abc import Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from rlsubnet.evaluation.generate import SampleRequest
from rlsubnet.evaluation.loading import any_kernels

# Of a GPU's memory, for the keys and values of all responses under way; vLLM lets the others wait.
CACHE_SHARE = 0.1
CPU_CACHE_BYTES = 256 * 1024**2
# Responses under way at a time, at most.
ROWS = 512
# Tokens computed at a time, at least.
TOKENS = 8192
# How far vLLM's log-probabilities of the likeliest tokens may be from the model's, nats. Rounding
# moves them by hundredths (bfloat16; a GPU may also round factors of float32), other weights by
# whole numbers.
AGREEMENT = 0.5
COMPARED = 5

# Where nothing else is said: the engine in this process, which alone can share weights with it;
# quiet; and no report of its use sent anywhere.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def vllm_version() -> str:
    """Return the version of vLLM; its build for CPUs has a name of its own."""
    names = packages_distributions().get("vllm")
    if not names:
        raise ValueError(
            "sampler vllm: vLLM is not installed in this environment; "
            "envs/vllm.txt lists one that has it"
        )
    return version(names[0])


def longest_sequence(config: Any, size: int, memory: int) -> int:
    """Return how many tokens a sequence may have: no more than positions, or than fit into memory.

    Args:
        size: bytes of a number.

    Two layers with one head of 32 numbers keep 2 * 2 * 32 numbers for each token:

    >>> from transformers import Qwen2Config
    >>> config = Qwen2Config(num_hidden_layers=2, hidden_size=64, num_attention_heads=2,
    ...                      num_key_value_heads=1, max_position_embeddings=4096)
    >>> longest_sequence(config, 2, memory=256 * 1000), longest_sequence(config, 2, 10**9)
    (1000, 4096)
    """
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * width * size
    return int(min(config.max_position_embeddings, memory // per_token))


class VllmSampler:
    """Draws by vLLM what :func:`rlsubnet.evaluation.generate.generate` would draw of a model.

    The model is on the device that vLLM is to use; its memory is needed again for vLLM's copy.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        vllm_version()  # raises where there is none
        self._model = model
        self._versions: list[tuple[int, int]] = []
        memory = CPU_CACHE_BYTES
        if model.device.type == "cuda":
            of_device = torch.cuda.get_device_properties(model.device).total_memory
            memory = int(CACHE_SHARE * of_device)
        self.longest = longest_sequence(model.config, model.dtype.itemsize, memory)
        self._compared = False
        with any_kernels():
            self._engine = _new_engine(model, self.longest, memory)

    def __call__(self, wanted: SampleRequest) -> Tensor:
        longest = max(map(len, wanted.prompts))
        if longest + wanted.max_new_tokens > self.longest:
            raise ValueError(
                f"sampler vllm: a prompt of {longest} tokens and a response of "
                f"{wanted.max_new_tokens}, expected at most {self.longest} together: the model's "
                "positions, or what fits into the memory for keys and values"
            )
        from vllm import SamplingParams

        prompts, noise = wanted.prompts, wanted.generator
        seeds: list[int | None] = [None] * len(prompts)
        if wanted.temperature > 0 and noise is not None:
            # vLLM adds the number of the sample to its prompt's seed.
            drawn = torch.randint(2**62, (len(prompts),), generator=noise, device=noise.device)
            seeds = list(drawn.tolist())
        settings = [
            SamplingParams(
                n=wanted.samples,
                temperature=wanted.temperature,
                max_tokens=wanted.max_new_tokens,
                seed=seed,
                # This token alone ends a response, whatever the model's files say.
                ignore_eos=True,
                stop_token_ids=[wanted.eos],
                detokenize=False,
            )
            for seed in seeds
        ]
        with any_kernels():
            self._bring_weights()
            self._compare(prompts[0])
            groups = self._generate(prompts, settings)
        rows = [
            list(response.token_ids)
            for group in groups
            for response in sorted(group.outputs, key=lambda response: response.index)
        ]
        for row in rows:
            if len(row) != wanted.max_new_tokens and row[-1:] != [wanted.eos]:
                raise ValueError(f"vLLM returned a response without its end: {row}")
        tokens = list(map(torch.tensor, rows))
        return pad_sequence(tokens, batch_first=True, padding_value=wanted.pad)

    def _generate(self, prompt_ids: Sequence[Sequence[int]], wanted: Any) -> list[Any]:
        prompts: Any = [{"prompt_token_ids": list(prompt)} for prompt in prompt_ids]
        return list(self._engine.generate(prompts, wanted, use_tqdm=False))

    def _bring_weights(self) -> None:
        """Give vLLM the model's weights, if any of them was written since it last had them."""
        items = [(name, weight.detach()) for name, weight in self._model.named_parameters()]
        versions = [(id(weight), weight._version) for weight in self._model.parameters()]
        if versions == self._versions:
            return
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(items)})
        self._versions = versions

    @torch.no_grad()
    def _compare(self, prompt: Sequence[int]) -> None:
        """Check once that vLLM has read the weights as they are meant."""
        if self._compared:
            return
        from vllm import SamplingParams

        wanted = SamplingParams(
            temperature=0.0, max_tokens=1, logprobs=COMPARED, ignore_eos=True, detokenize=False
        )
        (group,) = self._generate([prompt], wanted)
        found = group.outputs[0].logprobs[0]
        logits = self._model(torch.tensor([list(prompt)], device=self._model.device)).logits
        expected = logits[0, -1].float().log_softmax(-1)
        for token, entry in found.items():
            own = expected[token].item()
            # `not <=` also refuses NaN.
            if not abs(entry.logprob - own) <= AGREEMENT:
                raise ValueError(
                    f"vLLM's probabilities are not the model's: behind a prompt of {len(prompt)} "
                    f"tokens, token {token} has log-probability {entry.logprob:.4f} there and "
                    f"{own:.4f} here"
                )
        self._compared = True

    def close(self) -> None:
        """Give back what vLLM holds; the sampler cannot be used afterwards."""
        self._engine.llm_engine.engine_core.shutdown()


def _new_engine(model: PreTrainedModel, longest: int, memory: int) -> Any:
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from vllm import LLM

    with TemporaryDirectory(prefix="rlsubnet-vllm-") as folder:
        settings = model.config.to_dict() | {"architectures": [type(model).__name__]}
        type(model.config).from_dict(settings).save_pretrained(Path(folder))
        return LLM(
            folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            # Not what generation_config.json says beside the arguments.
            generation_config="vllm",
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=longest,
            max_num_seqs=ROWS,
            # A prompt is read whole: where it was cut, the noise drawn for its first part would
            # have to be taken back, which a CPU's generator cannot.
            enable_chunked_prefill=False,
            max_num_batched_tokens=max(TOKENS, longest),
            kv_cache_memory_bytes=memory,
            # So much must be free; the model's own process has its part of the rest.
            gpu_memory_utilization=CACHE_SHARE,
            # Keys and values of other weights must not be found again.
            enable_prefix_caching=False,
            # Compiling takes longer on a CPU than all that is drawn there.
            enforce_eager=model.device.type != "cuda",
            disable_log_stats=True,
            seed=0,
        )
