import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlsubnet.checkpoints.sources import COMPANIONS
from rlsubnet.config.model import Recipe
from rlsubnet.evaluation.loading import load_model
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training.model import move_model, new_model, save_model
from rlsubnet.training.optimizer import MasterOptimizer
from tests.training.training_runs import ARCHITECTURE

TOKENIZER = build_tokenizer()
RECIPE = Recipe(steps=1, batch_size=1, lr=1.0)
IDS = torch.tensor([[1, 4, 13, 5, 16]])


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_folder_loads_with_the_same_logits(tmp_path, tied):
    model = new_model({**ARCHITECTURE, "tie_word_embeddings": tied}, TOKENIZER, seed=1)
    MasterOptimizer(dict(model.named_parameters()), RECIPE)  # rounds
    with torch.no_grad():
        before = model(IDS).logits
    save_model(model, TOKENIZER, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    with torch.no_grad():
        assert torch.equal(loaded.float()(IDS).logits, before)
    assert AutoTokenizer.from_pretrained(tmp_path)("1+2=").input_ids == IDS[0].tolist()
    assert (tmp_path / "generation_config.json").is_file()


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_that_learns_in_bfloat16_turns_by_the_angles_of_its_saved_folder(tmp_path, tied):
    model = new_model({**ARCHITECTURE, "tie_word_embeddings": tied}, TOKENIZER, seed=1)
    exact = model.model.rotary_emb.inv_freq.clone()
    assert not torch.equal(exact, exact.bfloat16().float())
    move_model(model, torch.device("cpu"), torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    with torch.no_grad():
        learned = model(IDS).logits
    assert torch.equal(model.model.rotary_emb.inv_freq, exact)
    save_model(model, TOKENIZER, tmp_path)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path, torch.bfloat16)(IDS).logits, learned)


def test_first_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    one = new_model(ARCHITECTURE, TOKENIZER, seed=1)
    following = torch.rand(1)
    same, other = (new_model(ARCHITECTURE, TOKENIZER, seed=seed) for seed in (1, 2))
    weight = one.lm_head.weight
    assert torch.equal(weight, same.lm_head.weight)
    assert not torch.equal(weight, other.lm_head.weight)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), following)  # global random numbers are left alone


def test_what_stands_beside_the_weights_is_copied_from_init_byte_by_byte(base, tmp_path):
    init, out = tmp_path / "init", tmp_path / "out"
    shutil.copytree(base, init)
    out.mkdir()
    config = json.loads((init / "config.json").read_text())
    (init / "config.json").write_text(json.dumps({**config, "a_key_of_another_version": 1}))
    (init / "chat_template.jinja").write_text("{{ messages }}")
    save_model(load_model(init), TOKENIZER, out, init)
    copied = [name for name in COMPANIONS if (init / name).exists()]
    assert {"config.json", "chat_template.jinja", "tokenizer.json"} < set(copied)
    for name in copied:
        assert (out / name).read_bytes() == (init / name).read_bytes()


def test_weights_in_another_precision_start_the_masters_unrounded(tmp_path):
    model = new_model(ARCHITECTURE, TOKENIZER, seed=1)
    weight = model.lm_head.weight.detach().clone()
    model.save_pretrained(tmp_path)  # float32
    loaded = load_model(tmp_path)
    optimizer = MasterOptimizer(dict(loaded.named_parameters()), RECIPE)
    assert torch.equal(optimizer.masters["lm_head.weight"].detach(), weight)
    assert torch.equal(loaded.lm_head.weight.detach(), weight.bfloat16().float())
