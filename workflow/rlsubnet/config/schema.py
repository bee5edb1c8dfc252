"""The config, the sheets' columns and the cluster's settings, each key once."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic.dataclasses import dataclass

from rlsubnet.config.model import (
    Amount,
    Architecture,
    Commit,
    Count,
    Decay,
    Model,
    OpenInstructRecipe,
    Positive,
    Recipe,
    SamplerName,
    Sampling,
    Several,
    Share,
    Text,
    VerlRecipe,
    Whole,
    key,
    unfit,
)

Name = Annotated[str, Field(pattern="^[A-Za-z0-9]+([._+-][A-Za-z0-9]+)*$")]
Word = Annotated[str, Field(pattern=r"^\S*$")]
Split = Literal["train", "dev", "test", "preference"]


def _each_once(names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands twice")
    return names


Digits = Annotated[int, Field(ge=2, le=4)]
Slots = Annotated[int, Field(ge=5, multiple_of=5)]
Levels = Annotated[list[Whole], Field(min_length=5, max_length=5)]
Rows = Annotated[list[Whole], Field(min_length=2, max_length=2)]
Names = Annotated[
    list[str], AfterValidator(_each_once), Field(json_schema_extra={"uniqueItems": True})
]

SPLIT = "the prompts it may use; splits share none"
SEED = "seed of the generator"


class Released(Model):
    """A starting point that no run makes."""

    architecture: Architecture = key("random weights, for `pretrain`", None, omit=True)
    source: Text = key("`hf:OWNER/NAME`, or a folder in Hugging Face layout", None, omit=True)
    revision: str = key("branch, tag or commit on the hub", "main")
    parameters: Positive = key("number of parameters, for `rlsubnet plan`", None, omit=True)
    bytes_per_parameter: Positive = key("of the source, for `rlsubnet plan`", 2)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.architecture is None) == (self.source is None):
            raise ValueError("expected exactly one of the keys architecture, source")
        return self


class DataSet(Model):
    """A data set, made into one JSON-lines file."""

    kind: str = key("what makes it")


class MadeUp(DataSet):
    """Made-up problems: the demo's, five steps on numbers of two digits, unless keys say more."""

    seed: Whole = key(SEED)
    digits: Digits = key("of every number but the operands", 2, omit=True)
    slots: Slots = key("steps of a problem, a fifth real for each level", 5, omit=True)


class BaseText(MadeUp):
    """Texts to learn from, some of their facts wrong."""

    kind: Literal["base_text"]
    documents: Count = key("number of texts")
    characters: Count = key("length of each")
    wrong_facts: Share = key("share of wrong facts", 0.1)


class Asking(MadeUp):
    """Problems of one split."""

    split: Split = key(SPLIT)


class Demonstrations(Asking):
    """Problems with right answers."""

    kind: Literal["demonstrations"]
    style: Literal["mixed", "terse", "worked", "reversed"] = key("how answers are written")
    terse_share: Share = key("share of terse answers, for style `mixed`", None, omit=True)
    problems: Count = key("how many")

    @model_validator(mode="after")
    def _mixes(self) -> Self:
        if self.style == "mixed" and self.terse_share is None:
            raise ValueError("missing key terse_share")
        return self


class DemonstrationPairs(Asking):
    """Problems with a right answer and a wrong one."""

    kind: Literal["demonstration_pairs"]
    style: Literal["terse", "worked", "reversed"] = key("how both answers are written")
    problems: Count = key("how many")


class Drawn(Asking):
    """Made of answers of a run or model, which is made first."""

    policy: Text = key("the run or model that answers")
    prompts: Count = key("how many")
    temperature: Positive = key("of the sampling", 1.0)
    max_new_tokens: Count = key("a longer answer is cut off and counts as wrong", 12)
    batch_size: Count = key("answers generated at once", 512)
    sampler: SamplerName = key("what draws them, as in recipes", "own", omit=True)


class Preferences(Drawn):
    """Right answers against wrong ones, of the policy's own."""

    kind: Literal["preferences"]
    samples: Several = key("answers per prompt")


class RejectionSamples(Drawn):
    """The policy's own right answers; equal ones count once."""

    kind: Literal["rejection_samples"]
    samples: Count = key("answers per prompt")
    per_prompt: Count = key("different correct answers kept of each prompt, at most")


class Problems(Asking):
    """Problems by level."""

    kind: Literal["problems"]
    per_level: Levels = key("problems of levels 1 to 5")


class Choices(Asking):
    """Questions with several choices."""

    kind: Literal["choices"]
    per_task: Count = key("questions of each of the five tasks")


class WordData(DataSet):
    """Word problems in the form of GSM8K or SVAMP."""

    source: Text = key("the local file, JSON or JSON lines")
    policy: Text = key("the run or model that is asked, in its tokenizer's way")
    rows: Rows = key("first row and the one behind the last, from 0; or all", None, omit=True)
    template: Literal["chat", "plain"] = key("the tokenizer's, or plain text", "chat")
    split: Split = key("what they are for; `rows` keep the data sets of one file apart")


class WordProblems(WordData):
    """The questions alone, to be answered."""

    kind: Literal["word_problems"]


class WordDemonstrations(WordData):
    """The answers to imitate are those of the file."""

    kind: Literal["word_demonstrations"]


class WordPreferences(WordData):
    """The policy's right answers against its wrong ones."""

    kind: Literal["word_preferences"]
    samples: Several = key("answers per problem")
    temperature: Positive = key("of the sampling", 1.0)
    max_new_tokens: Count = key("a longer answer is cut off and counts as wrong")
    batch_size: Count = key("answers generated at once", 512)
    sampler: SamplerName = key("what draws them, as in recipes", "own", omit=True)
    seed: Whole = key(SEED)


class PublishedData(DataSet):
    """A published data set: fetched, then adapted."""

    source: Text = key("`hf:OWNER/NAME` of a data set on the hub, a folder, or a file")
    revision: Text = key("branch, tag or commit", "main")
    files: Text = key("pattern of the files to fetch; `*` also stands for folders", "*.parquet")


class TuluPreferences(PublishedData):
    """`chosen` and `rejected`, two conversations, rows in their published order."""

    kind: Literal["tulu_preferences"]


class AnswerColumns(Model):
    """Where things stand in a row; a dot goes into a mapping, or into each one of a list."""

    prompt: Text = key("a text, or a conversation")
    response: Text = key("one answer, or a list of them")
    correct: Text = key("true or 1 for a right answer; as many as answers")


class RolloutPairs(PublishedData):
    """Each right answer with a random wrong one of the same prompt."""

    kind: Literal["rollout_pairs"]
    columns: AnswerColumns = key("where things stand in a row")
    seed: Whole = key(SEED)


class ItemColumns(Model):
    """Where things stand in a row."""

    prompt: Text = key("a text, or a conversation")
    id: Text = key("a name; without one, items are numbered", None, omit=True)


class EvalItems(PublishedData):
    """What models are evaluated on, to look for it in training prompts."""

    kind: Literal["eval_items"]
    columns: ItemColumns = key("where things stand in a row")
    where: dict[str, str] = key("columns and the values that they must have", {})


class GradedPrompts(PublishedData):
    """Problems with an answer that verl's graders check."""

    kind: Literal["graded_prompts"]
    grader: Literal["gsm8k", "math"] = key("verl's, and what columns there are")
    split: Literal["train"] = key("what the problems are for", "train")


class Mixture(DataSet):
    """Other data sets, one after the other."""

    kind: Literal["mixture"]
    parts: Annotated[Names, Field(min_length=2)] = key("entries of `data`, all of one kind")


MadeData = BaseText | Demonstrations | DemonstrationPairs | Preferences | RejectionSamples
Questions = Problems | Choices | WordProblems | WordDemonstrations | WordPreferences
OtherData = TuluPreferences | RolloutPairs | EvalItems | GradedPrompts | Mixture
AnyData = Annotated[MadeData | Questions | OtherData, Field(discriminator="kind")]
# The kinds of data sets, each with its keys.
DATA: dict[str, type[DataSet]] = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind
    for kind in get_args(get_args(AnyData)[0])
}
# Read from a local file of word problems.
WORD_KINDS = tuple(kind for kind, block in DATA.items() if issubclass(block, WordData))
# Made of the answers of the policy that they name.
ANSWERED_KINDS = ("preferences", "rejection_samples", "word_preferences")
ITEM_KIND = "eval_items"
# Parts of one kind, one after the other: it counts as of that kind.
MIXTURE = "mixture"
# Made of published files, which are fetched first; all other data are made up here.
FETCHED_KINDS = tuple(kind for kind, block in DATA.items() if issubclass(block, PublishedData))


def _backend_of(recipe: Any) -> str:
    found = recipe.get("backend") if isinstance(recipe, dict) else getattr(recipe, "backend", None)
    return str(found or "native")


RecipeBlock = Annotated[
    Annotated[Recipe, Tag("native")]
    | Annotated[OpenInstructRecipe, Tag("open_instruct")]
    | Annotated[VerlRecipe, Tag("verl")],
    Discriminator(_backend_of),
]


class Measure(Model):
    """How pairs are measured."""

    tolerances: Annotated[list[Amount], Field(min_length=1)] = key(
        "absolute tolerances, in weight units (Table 6)", [1e-8, 1e-7, 1e-6, 1e-5, 1e-4]
    )
    table_tolerance: Amount = key("one of them: that of all other tables and of overlaps", 1e-5)
    seed: Whole = key("seed of random controls and of bootstrap intervals", 0)

    @model_validator(mode="after")
    def _measures_what_tables_show(self) -> Self:
        if self.table_tolerance not in self.tolerances:
            expected = f"one of measure.tolerances ({', '.join(map(str, self.tolerances))})"
            raise unfit("table_tolerance", expected, self.table_tolerance)
        return self


OlmesTemplate = Literal["tulu", "olmo", "llama2", "xwin", "zephyr"]
OLMES_COMMIT = "4f04122642bcee6d74393ec2ecfb0e572a64da53"


class Olmes(Model):
    """Settings of backend olmes; the GPUs of a job are `resources.evaluate.gpus`."""

    commit: Commit | None = key("of the checkout; `null`: any", OLMES_COMMIT)
    environment: Text | None = key("folder; `null`: on the search path", None)
    chat_template: OlmesTemplate | None = key("one of olmes; `null`: the model's own", None)
    max_length: Count = key("longest prompt and answer together, in tokens", 4096)
    limit: Several | None = key("items asked of each task, for a trial; `null`: all", None)


class Evaluation(Sampling):
    """How every run is evaluated; olmes's tasks bring their own sampling."""

    backend: Literal["native", "olmes"] = key("what evaluates", "native")
    suites: Names = key("entries of `data` to evaluate on; with olmes, suites of the paper", [])
    step_suites: Names = key("the same, for the saved steps of runs in `fig7`", [])
    step_samples: Count = key("answers sampled per problem at each saved step", 8)
    olmes: Olmes = key("settings of backend olmes", Olmes())


def read_sampling(block: Mapping[str, Any]) -> Sampling:
    """Return how answers are sampled, from a config's ``evaluation`` block.

    >>> read_sampling({"samples": 32, "temperature": 1, "suites": ["arith"]}).samples
    32
    """
    return Sampling(**{name: block[name] for name in Sampling.model_fields if name in block})


def olmes_settings(block: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return what olmes is asked, from a config's ``evaluation`` block: the suites of some keys.

    Where olmes is installed is left out: it changes no answer.
    """
    named = dict.fromkeys(name for key in keys for name in block[key])
    how = {key: value for key, value in block["olmes"].items() if key != "environment"}
    return {"suites": [*named], **how}


class Contamination(Model):
    """Whether training prompts of published data sets hold evaluation items.

    The three numbers are Tulu 3's (arXiv 2411.15124, section 3.2).
    """

    items: Names = key("entries of `data`, of kind `eval_items`, to look for", [])
    ngram: Count = key("words in a row that an item and a prompt must share", 8)
    enough: Decay = key("share of its words above which an item matches", 0.5)
    threshold: Share = key("largest share of the items that may match", 0.02)
    action: Literal["warn", "refuse"] = key("above the threshold", "warn")


class OpenInstruct(Model):
    """Where open-instruct is installed."""

    checkout: str = key("its clone; empty: `$OPEN_INSTRUCT_DIR`", "")
    python: str = key("its interpreter; empty: `$OPEN_INSTRUCT_PYTHON`, or ours", "")


class Verl(Model):
    """Where verl is installed."""

    python: str = key("its interpreter; empty: `$VERL_PYTHON`, or ours", "")


class Backends(Model):
    """Where other projects' trainers are installed; changes no result."""

    open_instruct: OpenInstruct = key("open-instruct", OpenInstruct())
    verl: Verl = key("verl", Verl())


WandbMode = Literal["disabled", "offline", "online"]


class Wandb(Model):
    """Logging of training runs to Weights & Biases."""

    mode: WandbMode = key("only `online` needs an account", "disabled")
    project: str = key("name of the project", "rlsubnet")


class Job(Model):
    """What a job of one kind asks for, locally and on Slurm."""

    mem_mb: Count = key("memory in MB; a retry gets as much more", 1500)
    runtime: Count = key("time limit in minutes", 60)
    threads: Count = key("CPU threads", 1)
    gpus: Whole = key("GPUs on each node; of `data` only where a policy answers", 0)
    nodes: Count = key("nodes of one job; more than 1 only for `train_BACKEND`", 1)
    disk_mb: Whole = key("disk in MB that a job fills while it runs, at most; `0`: not stated", 0)


class Resources(Model):
    """What jobs ask for; rule `fetch` as `download`, `adapt`, `mix`, `contamination` as `data`."""

    download: Job = key("fetching models and data", Job())
    data: Job = key("making data sets", Job())
    train: Job = key("training with our own trainer", Job())
    measure: Job = key("measuring checkpoints", Job())
    evaluate: Job = key("evaluating runs", Job())
    train_open_instruct: Job = key("training with open-instruct", Job())
    train_verl: Job = key("training with verl", Job())

    @model_validator(mode="after")
    def _is_one_process(self) -> Self:
        for kind, job in self:
            if job.nodes > 1 and not kind.startswith("train_"):
                raise unfit(f"{kind}.nodes", "1, as these jobs are one process each", job.nodes)
        return self


class Config(Model):
    """The config of one scale."""

    scale: Name = key("name of the scale, part of log paths")
    cached: bool = key("`true`: only tables and figures, from what lies in `results`", False)
    runs: str = key("sheet with one row per training run")
    pairs: str = key("sheet with one row per measured pair of checkpoints")
    comparisons: str = key("sheet with one row per overlap of two subnetworks")
    results: Text = key("folder of small files, tables and figures of yours")
    reference: str = key("committed results to compare with; empty: none", "")
    work: Text = key("folder of data, checkpoints, masks; may be large, never committed")
    model: Text = key("source of a model called `own`", None, omit=True)
    models: dict[Name, Released] = key("starting points that no run makes, by name", {})
    data: dict[Name, AnyData] = key("data sets, by name", {})
    recipes: dict[Name, RecipeBlock] = key("hyperparameters, by name", {})
    measure: Measure = key("tolerances and the seed of random controls", Measure())
    evaluation: Evaluation = key("what every run is evaluated on, and how", Evaluation())
    contamination: Contamination = key("looking for evaluation items", Contamination())
    backends: Backends = key("where other projects' trainers are installed", Backends())
    wandb: Wandb = key("logging of training runs", Wandb())
    resources: Resources = key("what a job asks for", Resources())

    @model_validator(mode="after")
    def _can_evaluate(self) -> Self:
        if self.evaluation.backend == "olmes" and not self.resources.evaluate.gpus:
            raise ValueError("evaluation.backend: olmes needs resources.evaluate.gpus, at least 1")
        return self


def _listed(cell: Any) -> Any:
    return tuple(p.strip() for p in cell.split(",") if p.strip()) if isinstance(cell, str) else cell


def _number(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    if not re.fullmatch("[0-9]{1,9}", cell):
        raise ValueError(f"found {cell!r}, expected a whole number of at most nine digits")
    return int(cell)


Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Seed = Annotated[int, Field(ge=0), BeforeValidator(_number)]

OnlineOne = Literal["grpo", "raft", "ppo", "prime"]
PreferenceMethod = Literal["DPO", "DPO_NORM", "KTO", "SimPO", "ORPO"]
Algorithm = Literal["pretrain", "sft", "rft", "dpo", "dpo_norm", "simpo", "kto", "orpo", OnlineOne]
Method = Literal[PreferenceMethod, "PRETRAIN", "SFT", "PPO", "GRPO", "PRIME", "RFT", "RAFT++"]
# Rows are made from cells, which are text.
ROW = ConfigDict(extra="forbid")

RANDOM = "random"


@dataclass(frozen=True, config=ROW)
class Run:
    """One training run, a row of runs.tsv."""

    run: Name = key("name, unique")
    algorithm: Algorithm = key("what trains it")
    init: Text = key("what it starts from: a model of the config or another run")
    data: Text = key("entry of `data`; the kind must fit the algorithm")
    recipe: Text = key("entry of `recipes`")
    seed: Seed = key("whole number, at most nine digits")
    mask: str = key(
        "a pair whose bitwise mask limits the update; `dpo:random`: a control with as many weights "
        "of each tensor at random positions (`measure.seed`); or empty"
    )
    set: str = key("recipe keys to override, separated by spaces, or empty")
    label: str = key("name in tables and figures")

    @property
    def mask_pair(self) -> str:
        """The pair whose update the mask is made from, or empty."""
        return self.mask.partition(":")[0]

    @property
    def mask_kind(self) -> str:
        """Empty, or ``random``: a control, which only has the size of that pair's subnetwork."""
        return self.mask.partition(":")[2]

    @property
    def has_random_mask(self) -> bool:
        return self.mask_kind == RANDOM


@dataclass(frozen=True, config=ROW)
class Pair:
    """Two checkpoints whose difference is measured, a row of pairs.tsv."""

    pair: Name = key("name, unique")
    init: Text = key("run or model before")
    tuned: Text = key("run or model after")
    method: Method = key("what made tuned out of init")
    items: Listed = key(
        "what it feeds, separated by commas: `table1` to `table6`, `section4`, `section6`, "
        "`gains`, `fig1` to `fig7`; empty: measured, not printed. `verdicts` judges the rows of "
        "all of them and is named by none"
    )
    paper_model: str = key(
        "the paper's model whose number stands beside ours, without its owner, or empty"
    )
    common_rows: Listed = key(
        "tensors that may differ in their number of rows (a resized vocabulary), separated by "
        "commas; their common rows are compared and the rest is reported; or empty"
    )
    label: str = key("name in tables and figures")


@dataclass(frozen=True, config=ROW)
class Comparison:
    """Two pairs whose subnetworks are compared, a row of comparisons.tsv."""

    comparison: Name = key("name, unique")
    pair1: Text = key("the pair that gives the first subnetwork")
    pair2: Text = key("the pair that gives the second; its `init` is that of `pair1`")
    axis: str = key(
        "what differs; where Table 4 has the axis (`Seed`, `Data`, `Seed + Data + Algo.`), its "
        "numbers stand beside ours"
    )
    items: Listed = key("normally `table4`")
    setting1: str = key("the first pair's setting on the axis")
    setting2: str = key("the second pair's setting on the axis")
    label: str = key("name in tables and figures")


class JobOnCluster(Model):
    """Other values for one kind of job."""

    partition: str = key("instead of partition or gpu_partition", None, omit=True)
    gpu_type: str = key("a type of GPU", None, omit=True)
    qos: str = key("sbatch --qos", None, omit=True)
    constraint: str = key("sbatch --constraint", None, omit=True)
    extra: str = key("further options of sbatch", None, omit=True)


if TYPE_CHECKING:
    JobKind = str
else:
    JobKind = Literal[tuple(Resources.model_fields)]


class Site(Model):
    """What one cluster wants of every job: config/site.yaml, the only file that its user edits."""

    account: Word = key("whom jobs are charged to: sbatch --account", "")
    partition: Word = key("sbatch --partition; empty: the cluster's default", "")
    gpu_partition: Word = key("the same for jobs with GPUs; empty: as for the others", "")
    gpu_type: Word = key("a type of GPU, as in --gres=gpu:TYPE:8; empty: any", "")
    qos: Word = key("sbatch --qos", "")
    constraint: str = key("sbatch --constraint: features of a node", "")
    extra: str = key("further options of sbatch, such as --exclusive", "")
    kinds: dict[JobKind, JobOnCluster] = key("other values for kinds of jobs", {})
    max_jobs: Count = key("jobs that wait or run at one time", 50)
    per_group: Count = key("measurements or evaluations that share one Slurm job", 1)
    retries: Whole = key("attempts after a failure, the n-th with n times the memory", 2)
    requeue: bool = key("Slurm restarts jobs whose node was lost or preempted", True)
    status_command: Literal["squeue", "sacct"] = key("how to ask for the state of jobs", "squeue")
    status_seconds: Count = key("before the first look at new jobs", 40)
    latency_wait: Whole = key("seconds until a file made on another node must be seen", 60)
    log_folder: Text = key("what Slurm and Snakemake say about each job", "logs/slurm")
