"""What one training run is told: its sheet row with the recipe spelled out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlsubnet.config.backends import BACKENDS
from rlsubnet.config.faults import unknown_name
from rlsubnet.config.schemas import describe, first_error, load_schema

if TYPE_CHECKING:
    from rlsubnet.config.scale import Scale


# Keys of native recipes that only some algorithms use; others are of the loop and the optimizer.
OBJECTIVE_KEYS = {
    "beta": ("dpo", "dpo_norm", "simpo", "kto"),
    "gamma": ("simpo",),
    "odds_weight": ("orpo",),
}
_ROLLOUTS = (
    *("samples", "temperature", "max_new_tokens", "oversample", "accuracy_low", "accuracy_high"),
    *("sampler", "updates", "clip_ratio", "kl_coef", "entropy_coef"),
)
ONLINE_KEYS = {
    **dict.fromkeys(_ROLLOUTS, ("grpo", "raft", "ppo", "prime")),
    **dict.fromkeys(("gae_lambda", "value_lr", "value_coef"), ("ppo",)),
    **dict.fromkeys(("reward_beta", "reward_lr", "reward_updates", "reward_clip"), ("prime",)),
}


def parse_value(text: str) -> int | float | bool | str | None:
    """Return the value a cell or a command line means.

    >>> [parse_value(text) for text in ("400", "1e-6", "null", "true", "linear")]
    [400, 1e-06, None, True, 'linear']
    """
    words: dict[str, bool | None] = {"true": True, "false": False, "null": None}
    if text in words:
        return words[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def recipe_schemas(backend: str = "native") -> dict[str, Any]:
    """Return the schema of every key of a backend's recipes but ``backend`` itself."""
    properties = load_schema("config")["$defs"][BACKENDS[backend].schema]["properties"]
    return {key: schema for key, schema in properties.items() if key != "backend"}


def parse_set(text: str, backend: str = "native") -> dict[str, Any]:
    """Return the keys that column ``set`` overrides, ``lr=1e-6 steps=400``.

    Args:
        text: the cell.
        backend: whose keys may be overridden: that of the row's recipe.

    Raises:
        ValueError: an entry is not ``key=value``, a key is unknown or stands twice, or a value
            has the wrong type for its key.

    >>> parse_set("lr=1e-6 steps=400")
    {'lr': 1e-06, 'steps': 400}
    >>> parse_set("lrr=1")
    Traceback (most recent call last):
    ValueError: unknown key 'lrr' (did you mean 'lr'?); known: steps, batch_size, lr, ...
    """
    schemas = recipe_schemas(backend)
    result: dict[str, Any] = {}
    for entry in text.split():
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise ValueError(f"found {entry!r}, expected entries key=value separated by spaces")
        if key not in schemas:
            raise ValueError(unknown_name("key", key, schemas))
        if key in result:
            raise ValueError(f"key {key!r} stands twice")
        result[key] = parse_value(value)
        error = first_error(result[key], schemas[key])
        if error is not None:
            raise ValueError(f"{key}: {describe(error)}")
    return result


def check_used(overrides: Mapping[str, Any], algorithm: str, optimizer: str = "adamw") -> None:
    """Check that a native algorithm, and its optimizer, use what one of its rows sets.

    A recipe may hold keys for several algorithms; a row sets a key because it should matter.

    Raises:
        ValueError: the key has no effect; the message names the algorithms that use it.

    >>> check_used({"lr": 1e-6, "beta": 5.0}, "dpo")
    >>> check_used({"gamma": 1.0}, "dpo")
    Traceback (most recent call last):
    ValueError: gamma: has no effect on dpo; used by simpo
    """
    for key in ("beta2", "eps") if optimizer == "sgd" else ():
        if key in overrides:
            raise ValueError(f"{key}: has no effect on optimizer sgd; used by adamw")
    for key in overrides:
        users = {**OBJECTIVE_KEYS, **ONLINE_KEYS}.get(key, (algorithm,))
        if algorithm not in users:
            raise ValueError(f"{key}: has no effect on {algorithm}; used by {', '.join(users)}")


def resolved_recipe(recipe: Mapping[str, Any], overrides: str) -> dict[str, Any]:
    """Return a recipe with the column ``set`` laid over it, keys in the schema's order.

    Its ``backend`` is left out: it says what the others mean and is no setting among them.
    """
    backend = recipe["backend"]
    values = {**recipe, **parse_set(overrides, backend)}
    return {key: values[key] for key in recipe_schemas(backend)}


def saves_steps(scale: "Scale", run_name: str) -> bool:
    """Return whether a run saves models along its way."""
    run = scale.runs[run_name]
    recipe = resolved_recipe(scale.config["recipes"][run.recipe], run.set)
    return bool(recipe.get("checkpoint_every"))


def resolved_row(scale: "Scale", run_name: str) -> dict[str, Any]:
    """Return everything that the training command is told about one run.

    What the run computes follows from this mapping and from its input files alone. The label is
    left out: it changes what a table prints, not what is trained.
    """
    run = scale.runs[run_name]
    model = scale.config["models"].get(run.init, {})
    return {
        "run": run.run,
        "backend": scale.backend_of(run_name),
        "algorithm": run.algorithm,
        "init": run.init,
        "data": run.data,
        "recipe": resolved_recipe(scale.config["recipes"][run.recipe], run.set),
        "seed": run.seed,
        "mask": run.mask,
        "architecture": model.get("architecture"),
        "wandb": dict(scale.config["wandb"]),
    }
