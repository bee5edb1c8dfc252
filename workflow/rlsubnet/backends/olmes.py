"""The installed olmes: is it the right one, and running it."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlsubnet.backends.olmes_outputs import BACKEND, Settings, read_outputs, read_requests
from rlsubnet.backends.processes import (
    CURE,
    check_commit,
    rotary_faults,
    run_checked,
    run_to_end,
)
from rlsubnet.checkpoints.delta import step_file, unpack
from rlsubnet.checkpoints.delta_file import is_delta
from rlsubnet.checkpoints.sources import FileSource, read_config, read_tensors
from rlsubnet.evaluation.results import Answer, score_rows
from rlsubnet.files import read_object

# Where its package lies and which versions would run, told by its own Python; imports none of them.
_PROBE = """
import importlib.metadata, importlib.util, json
spec = importlib.util.find_spec("oe_eval")
versions = {}
for name in ("ai2-olmes", "vllm", "transformers", "lm_eval"):
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        versions[name] = None
folders = list(spec.submodule_search_locations or []) if spec else []
print(json.dumps({"folder": folders[0] if folders else None, "versions": versions}))
"""


def check_program(environment: Mapping[str, str], commit: str | None) -> dict[str, Any]:
    """Return where olmes lies and the versions it would run with, of transformers below 5."""
    search = environment.get("PATH", os.defpath)
    if not (shutil.which("olmes", path=search) and shutil.which("python", path=search)):
        raise ValueError(
            "olmes: no such program; install it (docs/BACKENDS.md) and name its environment in "
            "evaluation.olmes.environment"
        )
    python = str(shutil.which("python", path=search))
    said = run_checked([python, "-c", _PROBE], f"{python}: asking for olmes", environment)
    found: dict[str, Any] = json.loads(said)
    if not found["folder"]:
        raise ValueError(
            f"{python}: has no package oe_eval; olmes calls `python` by name, and the first on the "
            f"search path must be its own"
        )
    version = found["versions"]["transformers"]
    if version is None or int(version.split(".")[0]) >= 5:
        raise ValueError(f"{python}: transformers is {version}, expected a version below 5")
    if commit is not None:
        cure = "install olmes from a clone, or set evaluation.olmes.commit to another or null"
        check_commit(Path(found["folder"]), commit, cure)
    return found


def remove_outputs(folder: Path) -> None:
    """Remove the folder of an earlier evaluation, in which olmes skips the tasks it finds done.

    A folder with something that olmes does not write is refused.
    """
    if not folder.exists():
        return
    theirs = ("metrics.json", "metrics-all.jsonl")
    names = sorted(path.name for path in folder.iterdir())
    if foreign := [n for n in names if n not in theirs and not n.startswith("task-")]:
        raise ValueError(
            f"{folder}: holds {foreign[0]}, which olmes does not write; expected a folder of its "
            f"own for its outputs, which is emptied first"
        )
    shutil.rmtree(folder)


def run_program(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run olmes to its end; it starts a shell, that a Python, and that an engine."""
    program = str(shutil.which(words[0], path=environment.get("PATH")) or words[0])
    run_to_end([program, *words[1:]], "olmes", environment)


# Requests handed over at once; both engines order them by length. vLLM makes its own batches of
# them, so 10,000, as in open-instruct's evaluations, is all items of a task.
BATCH_SIZES = {"vllm": 10_000, "hf": 8}
# Variables that would lead past the caches named below.
_OTHER_CACHES = ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")
_OTHER_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def olmes_arguments(
    model: Path, settings: Settings, out: Path, gpus: int, model_type: str = "vllm"
) -> list[str]:
    """Return the command line that evaluates a model folder on all tasks of the settings.

    One engine at a time: with several GPUs it is spread over them (tensor parallelism). At this
    commit olmes's own ``--num-workers`` cannot share a node's GPUs: a worker that sees one GPU
    calls it number 0, and vLLM 0.8 starts processes, which a daemon such as a worker may not.
    """
    limit = [] if settings.limit is None else ["--limit", str(settings.limit)]
    template = settings.chat_template
    told = {
        "model_path": str(model),
        "max_length": settings.max_length,  # olmes's default is 2048
        # "auto" reads `torch_dtype`, which transformers 5 does not write; vLLM then takes float16.
        "dtype": "bfloat16",
        **({"chat_template": template} if template else {}),
    }
    return [
        "olmes",
        # A name of olmes's model library would bring that model's settings along.
        *("--model", "rlsubnet"),
        *("--model-type", model_type),
        *("--model-args", json.dumps(told, sort_keys=True)),
        *("--task", *(task.argument for task in settings.tasks)),
        *limit,
        *("--gpus", str(gpus)),
        *("--num-workers", "1"),
        *("--batch-size", str(BATCH_SIZES[model_type])),
        *("--output-dir", str(out)),
    ]


def olmes_environment(
    base: Mapping[str, str], cache: Path, folder: Path | None, gpus: int = 0, *, offline: bool
) -> dict[str, str]:
    """Return the variables that olmes is started with; ``offline``, its data come from ``cache``.

    Without ``folder`` it is the olmes on the search path; 0 GPUs leave the visible devices alone.
    """
    variables = {key: value for key, value in base.items() if key not in _OTHER_CACHES}
    if folder is not None:
        variables = {key: value for key, value in variables.items() if key not in _OTHER_PYTHON}
        # olmes calls `python` in a shell: the environment's must come first.
        path = (str(folder.absolute() / "bin"), base.get("PATH", os.defpath))
        variables["PATH"] = os.pathsep.join(path)
    variables |= {
        "HF_HOME": str(cache / "huggingface"),
        "TIKTOKEN_CACHE_DIR": str(cache / "tiktoken"),  # read when AGIEval's loader is imported
        # vLLM would refuse a `max_length` above what it derives itself; ours was checked before.
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if offline:
        variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = visible_devices(base.get("CUDA_VISIBLE_DEVICES"), gpus)
    return variables


def visible_devices(given: str | None, gpus: int) -> str:
    """Return the devices that olmes may see, which are the ones that it uses.

    It ignores ``--gpus`` where one engine runs: the engine spreads over all it sees. A single GPU
    it calls 0, whichever was given. Where other devices were given, that is refused.

    >>> visible_devices(None, 2), visible_devices("4,5", 2), visible_devices("0", 1)
    ('0,1', '4,5', '0')
    """
    if not given:
        return ",".join(map(str, range(gpus)))
    devices = given.split(",")
    if len(devices) != gpus:
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES={given}: expected {gpus} devices, found {len(devices)}; "
            f"olmes would use all of them"
        )
    if gpus == 1 and given != "0":
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES={given}: olmes would move to device 0; give the job a GPU of "
            f"its own (Slurm: ConstrainDevices=yes in cgroup.conf), which is then number 0"
        )
    return given


def check_model(folder: Path, settings: Settings) -> None:
    """Check that olmes can evaluate a Hugging Face folder; the error names all faults."""
    read_tensors(folder)
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file; olmes needs it")
    config = read_config(folder)
    faults = [*rotary_faults(config), *tokenizer_faults(folder, settings.chat_template)]
    longest = config.get("max_position_embeddings")
    if not isinstance(longest, int) or longest < settings.max_length:
        faults.append(
            f"config.json: max_position_embeddings is {longest}, "
            f"expected at least max_length {settings.max_length}"
        )
    if faults:
        raise ValueError(f"{folder}: olmes cannot evaluate this checkpoint: {'; '.join(faults)}")


def tokenizer_faults(folder: Path, chat_template: str | None) -> Iterator[str]:
    """Yield what transformers 4 cannot read of a folder's tokenizer, and a missing template."""
    path = folder / "tokenizer_config.json"
    config = read_object(str(path), path.read_text(encoding="utf-8"))
    files = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in files):
        yield f"no tokenizer: none of {', '.join(files)}"
    name = config.get("tokenizer_class")
    # Transformers 5 writes names such as TokenizersBackend, which 4 does not know.
    if not str(name).removesuffix("Fast").endswith("Tokenizer"):
        yield f"tokenizer_config.json: tokenizer_class {name} is unknown to transformers 4; {CURE}"
    if isinstance(config.get("extra_special_tokens"), list):
        yield (
            f"tokenizer_config.json: extra_special_tokens is a list, transformers 4 reads a "
            f"mapping; {CURE}"
        )
    own = config.get("chat_template") or (folder / "chat_template.jinja").is_file()
    if not chat_template and not own:
        yield (
            "no chat template: neither chat_template in tokenizer_config.json nor "
            "chat_template.jinja; name one of olmes's in evaluation.olmes.chat_template"
        )


class Olmes:
    """The installed olmes, once all is checked that is not the model, with what it is asked."""

    def __init__(
        self, settings: Settings, cache: Path, folder: Path | None, gpus: int, model_type: str
    ) -> None:
        if model_type == "vllm" and gpus < 1:
            raise ValueError(f"--gpus {gpus}: vLLM needs at least 1, --model-type hf none")
        cache = cache.resolve()
        if not cache.is_dir():
            raise ValueError(f"{cache}: no such folder; make it with: rlsubnet prefetch_olmes")
        self.settings, self.gpus, self.model_type = settings, gpus, model_type
        self.variables = olmes_environment(os.environ, cache, folder, gpus, offline=True)
        print(check_program(self.variables, settings.commit), flush=True)

    def evaluate(self, model: Path, raw: Path) -> tuple[list[Answer], list[dict[str, Any]]]:
        """Return the answers and the scores of a model folder; ``raw`` holds what olmes wrote."""
        model, raw = model.resolve(), raw.resolve()
        check_model(model, self.settings)
        remove_outputs(raw)
        words = olmes_arguments(model, self.settings, raw, self.gpus, self.model_type)
        run_program(words, self.variables)
        answers, digests = read_outputs(raw, self.settings, model)
        return answers, score_rows(answers, digests, BACKEND)

    def evaluate_steps(
        self, init: Path, steps: Mapping[int, Path], raw: Path
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield each step, 0 for the start, and its scores; one delta at a time is unpacked."""
        whole = raw / "unpacked-step"
        for step, path in {0: init, **steps}.items():
            shutil.rmtree(whole, ignore_errors=True)
            packed = step > 0 and is_delta(path)
            if packed:
                unpack(FileSource(init), path, whole)
            own = raw / Path(step_file(step)).stem
            yield step, self.evaluate(whole if packed else path, own)[1]
        shutil.rmtree(whole, ignore_errors=True)


def prefetch(settings: Settings, cache: Path, folder: Path | None) -> dict[str, Any]:
    """Let olmes fetch the data of its tasks; return the items of each, and the program."""
    cache = cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    variables = olmes_environment(os.environ, cache, folder, offline=False)
    found, requests = check_program(variables, settings.commit), cache / "requests"
    remove_outputs(requests)
    # It writes all requests and asks no model; data come on the way.
    tasks = (task.argument for task in settings.tasks)
    run_program(["olmes", "--task", *tasks, "--output-dir", str(requests)], variables)
    return {"tasks": read_requests(requests, settings), "program": found}


def contamination_lines(reports: Sequence[Path]) -> Iterator[str]:
    """Yield what the reports of ``rlsubnet contamination`` found, a line a set of items."""
    for path in reports:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                yield (
                    f"trained on {path.stem}: its prompts hold {row['matched']} of the {row['n']} "
                    f"items of {row['items']} ({path})"
                )
