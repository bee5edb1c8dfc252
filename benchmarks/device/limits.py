"""What the device can do at most, and how near the operations of this project come to it.

Each finding is the milliseconds of an operation and its floor: the larger of its bytes at the
bandwidth of a copy and its operations at the rate of a matrix product, both measured here.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import cache

import torch

from benchmarks.device.parts import Finding, Part, Place
from benchmarks.gpu.clock import seconds
from benchmarks.gpu.size import HALF_BILLION, MINIATURE, Size, forward_flops
from benchmarks.gpu.training import Bench, make_bench, new_online, offline_step
from rlsubnet.config.read import read_yaml
from rlsubnet.evaluation.loading import deterministic
from rlsubnet.measure.rank import update_rank
from rlsubnet.tasks.tokenizer import VOCAB_SIZE
from rlsubnet.training.device import count_changed
from rlsubnet.training.online import gather, policy_step
from rlsubnet.training.optimizer import MasterOptimizer

Action = Callable[[], object]


def took(place: Place, action: Action, repeats: int = 5, times: int = 1) -> float:
    """Return the median milliseconds of an action, after two calls that warm up."""
    found = [seconds(action, place.device, times) for _ in range(repeats + 2)]
    return 1e3 * statistics.median(found[2:])


@cache
def reached(place: Place) -> tuple[float, float]:
    """Return bytes a second of a copy, read and written, and bfloat16 operations a second."""
    size, edge = (1 << 20, 128) if place.miniature else (1 << 31, 8192)
    source = torch.randint(0, 99, (size // 2,), device=place.device, dtype=torch.int16)
    target = torch.empty_like(source)
    factors = torch.randn(2, edge, edge, device=place.device).bfloat16()
    copying = took(place, lambda: target.copy_(source))
    multiplying = took(place, lambda: factors[0] @ factors[1])
    return 2e3 * size / copying, 2e3 * edge**3 / multiplying


def beside_floor(
    place: Place, what: str, action: Action, nbytes: float = 0, flops: float = 0
) -> Finding:
    """Return what an operation took beside the least that it could take."""
    bandwidth, rate = reached(place)
    ms, floor = took(place, action), 1e3 * max(nbytes / bandwidth, flops / rate)
    return {"what": what, "ms": ms, "floor_ms": floor, "times": ms / floor}


def hardware(place: Place) -> Iterator[Finding]:
    """Bandwidth, products, and what handing over a small operation costs."""
    if place.is_gpu:
        yield {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    bandwidth, rate = reached(place)
    yield {"what": "copy", "tb_s": bandwidth / 1e12}
    yield {"what": "bfloat16 product", "tflop_s": rate / 1e12}
    edge = 64 if place.miniature else 4096
    factor = torch.randn(edge, edge, device=place.device, dtype=torch.float64)
    ms = took(place, lambda: factor @ factor)
    yield {"what": "float64 product", "tflop_s": 2e-9 * edge**3 / ms}
    number = torch.zeros(8, device=place.device)
    yield {"what": "small operation", "us": 1e3 * took(place, lambda: number.add_(1), times=1000)}


def sizes(place: Place) -> list[Size]:
    """Return the batches of config/gpu/short.yaml and config/gpu/config.yaml."""
    if place.miniature:
        return [MINIATURE]
    found = []
    for name, rows, prompt, response in (("short", 128, 14, 13), ("config", 256, 25, 33)):
        model = read_yaml(f"config/gpu/{name}.yaml")["models"]["small"]["architecture"]
        found.append(Size(name, model, VOCAB_SIZE, rows, 8, prompt, response, 5, (768, 2048)))
    return found


def steps(place: Place) -> Iterator[Finding]:
    """Steps beside the operations that they cannot do without, and the optimizer's pass alone."""
    for size in sizes(place):
        bench, rows = make_bench(size, place.device), size.sequences
        learned = 3 * forward_flops(size, rows, size.prompt + size.response, size.response)
        for name, members in (("sft", 1), ("dpo", 2)):
            step = offline_step(bench, name, bench.examples(rows // members, members))
            yield beside_floor(place, f"{size.name}: step of {name}", step, flops=learned)
        # Forward passes: drawing and the reference; PRIME's reward model learns (3) and scores.
        for name, forward in (("grpo", 2), ("prime", 2 + 3 + 1)):
            yield from steps_online(place, bench, name, learned, forward / 3 * learned)
        yield optimizer_pass(place, bench)


def steps_online(
    place: Place, bench: Bench, name: str, learned: float, drawn: float
) -> Iterator[Finding]:
    """A step's two halves: drawing and scoring, and learning."""
    learner, questions = new_online(bench, name)
    experience = gather(learner, questions, seed=0)

    def draw() -> object:
        return gather(learner, questions, seed=0)

    def learn() -> object:
        return policy_step(learner, experience, 1)

    size = bench.size.name
    yield beside_floor(place, f"{size}: drawing for {name}", draw, flops=drawn)
    yield beside_floor(place, f"{size}: learning by {name}", learn, flops=learned)


def optimizer_pass(place: Place, bench: Bench) -> Finding:
    """One update of all weights: masters and moments are read and written, gradients read."""
    parameters = dict(bench.model.named_parameters())
    optimizer = MasterOptimizer(parameters, bench.recipe(1, 1))
    numel = sum(parameter.numel() for parameter in parameters.values())

    def update() -> object:
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer.accumulate()
        return optimizer.step(1e-6, divisor=1)

    # Float32 master and two moments twice, a bfloat16 gradient, and the rounded weight.
    nbytes = (6 * 4 + 2 + 2) * numel
    return beside_floor(place, f"{bench.size.name}: optimizer pass", update, nbytes)


def measures(place: Place) -> Iterator[Finding]:
    """Counting and rank, at the shapes of half a billion weights."""
    size = MINIATURE if place.miniature else HALF_BILLION
    model = make_bench(size, place.device).model
    init = [weight.detach() for weight in model.parameters()]
    pairs = [(weight, weight + 2e-5 * torch.randn_like(weight)) for weight in init]
    numel = sum(weight.numel() for weight in init)
    yield beside_floor(place, "count", lambda: count_changed(pairs), 4.0 * numel)
    rows, columns = size.matrix
    before = torch.randn(size.matrix, device=place.device).bfloat16()
    after = before + 0.01 * torch.randn_like(before)
    delta = (after - before).float()
    host = delta.cpu().numpy()
    for name, action in (
        ("matrix_rank", lambda: torch.linalg.matrix_rank(delta)),
        ("rlsubnet rank", lambda: update_rank(host, place.device.type)),
    ):
        ms = took(place, action, repeats=2)
        yield {"what": f"{name} of {rows} x {columns}", "ms": ms}


def steadily(part: Part) -> Part:
    """Return a part that runs as training does: with kernels that repeat their bits."""

    def run(place: Place) -> Iterator[Finding]:
        with deterministic(place.device):
            yield from part(place)

    run.__name__ = part.__name__
    return run


LIMITS = tuple(steadily(part) for part in (hardware, steps, measures))
