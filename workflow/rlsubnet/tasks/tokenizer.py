"""The demo's character tokenizer, and how prompts and responses become token ids."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
CHARACTERS = "0123456789+-*=,;()"
VOCAB_SIZE = 24
# Nobody writes the last three tokens; they fill the vocabulary up to a multiple of 8.
VOCABULARY = (PAD, BOS, EOS, *CHARACTERS, UNKNOWN, "<reserved0>", "<reserved1>")


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the tokenizer with one token per character: ``VOCAB_SIZE`` tokens in all.

    Called on a text it puts the start token in front, as the models were trained; it never appends
    the end token.

    >>> tokenizer = build_tokenizer()
    >>> tokenizer("07+5=").input_ids
    [1, 3, 10, 13, 8, 16]
    >>> tokenizer.decode([18, 4, 5, 2])
    ';12</s>'
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, token in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        # Declared for AutoTokenizer, which reads a folder with a Qwen2 model as Qwen2Tokenizer
        # whatever tokenizer_config.json says; that class would add a token of its own.
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def load_tokenizer(folder: "Path | str") -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model folder, exactly as its ``tokenizer.json`` describes it.

    ``AutoTokenizer`` gives the same ids for texts out of ``CHARACTERS``, but it rebuilds the
    tokenizer of a Qwen2 folder as ``Qwen2Tokenizer``, which drops unknown characters in silence.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (Path(folder) / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """Return the token ids of ``prompt`` behind the start token, if the tokenizer has one.

    >>> encode_prompt(build_tokenizer(), "7+5=")
    [1, 10, 13, 8, 16]
    """
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return start + encode_text(tokenizer, prompt)


def encode_response(tokenizer: "PreTrainedTokenizerBase", response: str) -> list[int]:
    """Return the token ids of ``response`` and the end token.

    >>> encode_response(build_tokenizer(), ";12")
    [18, 4, 5, 2]
    """
    return [*encode_text(tokenizer, response), end_token(tokenizer)]


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Return the token ids of ``text`` alone, without start and end token."""
    ids = list(tokenizer(text, add_special_tokens=False).input_ids) if text else []
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise ValueError(f"the tokenizer has no tokens for a part of {text!r}")
    return ids


def end_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {tokenizer.name_or_path!r} has no end token (eos_token)")
    return int(tokenizer.eos_token_id)


def padding_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id of the token that fills rows: the padding token, or else the end token.

    >>> padding_token(build_tokenizer())
    0
    """
    pad = tokenizer.pad_token_id
    return end_token(tokenizer) if pad is None else int(pad)


class Completion(NamedTuple):
    """One generated response: its text without the end token, and whether it ended by itself."""

    text: str
    finished: bool
