"""The character tokenizer: fixed ids, exact decoding, the same after saving."""

import pytest
from transformers import AutoTokenizer, Qwen2Config

from rlsubnet.tasks.tokenizer import (
    CHARACTERS,
    VOCAB_SIZE,
    VOCABULARY,
    build_tokenizer,
    encode_prompt,
    encode_response,
    encode_text,
    load_tokenizer,
)

EVERY_CHARACTER = "07+5*3-2=;(91,46)8"


def test_ids_follow_the_written_vocabulary_and_give_the_text_back():
    tokenizer = build_tokenizer()
    assert len(tokenizer) == VOCAB_SIZE == len(VOCABULARY) == 24
    assert tokenizer.get_vocab() == {token: number for number, token in enumerate(VOCABULARY)}
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert encode_text(tokenizer, CHARACTERS) == list(range(3, 21))
    assert encode_prompt(tokenizer, "3+4=") == [1, 6, 13, 7, 16]
    assert encode_response(tokenizer, ";07") == [18, 3, 10, 2]
    assert encode_prompt(tokenizer, "") == [1]
    assert set(EVERY_CHARACTER) == set(CHARACTERS)
    assert tokenizer.decode(encode_text(tokenizer, EVERY_CHARACTER)) == EVERY_CHARACTER
    assert tokenizer.decode([18, 0, 4, 22], skip_special_tokens=False) == ";<pad>1<reserved0>"


@pytest.mark.parametrize("load", [AutoTokenizer.from_pretrained, load_tokenizer])
def test_saved_tokenizer_beside_a_qwen2_model_keeps_every_id(load, tmp_path):
    original = build_tokenizer()
    Qwen2Config(vocab_size=VOCAB_SIZE).save_pretrained(tmp_path)
    original.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    # Twice: a folder is copied on, with its tokenizer, from init to tuned.
    loaded.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert len(loaded) == VOCAB_SIZE
    assert loaded.get_vocab() == original.get_vocab()
    for text in (EVERY_CHARACTER, "00*9-9+0+0+0=", "((", ";;", "1"):
        assert encode_prompt(loaded, text) == encode_prompt(original, text)
        assert encode_response(loaded, text) == encode_response(original, text)
        assert loaded(text).input_ids == encode_prompt(original, text)
    every_id = list(range(VOCAB_SIZE))
    assert loaded.decode(every_id) == original.decode(every_id) == "".join(VOCABULARY)
    assert loaded.padding_side == "left"
    # Only ours reads tokenizer.json as it stands: AutoTokenizer's drops what it does not know.
    if load is load_tokenizer:
        with pytest.raises(ValueError, match="no tokens"):
            encode_text(loaded, "1 2")
