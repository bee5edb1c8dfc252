import pytest

from rlsubnet.measure.parameters import canonical_name, natural_order, parse_parameter


@pytest.mark.parametrize(
    ("name", "layer", "matrix"),
    [
        ("model.embed_tokens.weight", None, "embed_tokens"),
        ("lm_head.weight", None, "lm_head"),
        ("model.norm.weight", None, "norm"),
        ("model.layers.0.self_attn.k_proj.weight", 0, "k_proj"),
        ("model.layers.12.self_attn.v_proj.bias", 12, "v_proj.bias"),
        ("model.layers.31.mlp.down_proj.weight", 31, "down_proj"),
        ("model.layers.5.input_layernorm.weight", 5, "input_layernorm"),
        ("model.layers.5.post_attention_layernorm.weight", 5, "post_attention_layernorm"),
        ("model.layers.5.self_attn.q_norm.weight", 5, "q_norm"),
        ("model.layers.2.mlp.experts.63.gate_proj.weight", 2, "gate_proj"),
        ("model.layers.2.mlp.gate.weight", 2, "mlp.gate"),
        ("module.model.layers.1.self_attn.o_proj.weight", 1, "o_proj"),
        ("_orig_mod.module.model.layers.1.mlp.up_proj.weight", 1, "up_proj"),
        ("actor.lm_head.weight", None, "lm_head"),
        ("transformer.h.7.attn.c_proj.weight", 7, "attn.c_proj"),
        ("transformer.h.7.mlp.c_proj.bias", 7, "mlp.c_proj.bias"),
        ("transformer.wte.weight", None, "wte"),
        ("gpt_neox.layers.3.attention.dense.weight", 3, "attention.dense"),
        ("backbone.layers.4.mixer.A_log", 4, "mixer.A_log"),
        ("weight", None, "weight"),
        ("7", None, "7"),
    ],
)
def test_layer_and_matrix_kind_of_every_architecture(name, layer, matrix):
    assert parse_parameter(name) == (layer, matrix)


@pytest.mark.parametrize(
    "wrapper",
    ["_orig_mod", "_fsdp_wrapped_module", "_fsdp_wrapped_module._checkpoint_wrapped_module"],
)
def test_a_wrapper_around_one_layer_is_removed(wrapper):
    wrapped = f"model.layers.0.{wrapper}.mlp.up_proj.weight"
    assert canonical_name(wrapped) == "model.layers.0.mlp.up_proj.weight"


def test_a_module_that_is_only_called_like_a_wrapper_keeps_its_name():
    assert canonical_name("model.actor_head.weight") == "model.actor_head.weight"


def test_natural_order_never_compares_a_number_with_a_word():
    names = ["b", "a.10", "a.9", "a", "1"]
    assert sorted(names, key=natural_order) == ["a", "a.9", "a.10", "b", "1"]
