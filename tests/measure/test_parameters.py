import pytest

from rlsubnet.measure.parameters import canonical_name, natural_order, parse_parameter


@pytest.mark.parametrize(
    ("name", "layer", "matrix"),
    [
        ("model.embed_tokens.weight", None, "embed_tokens"),
        ("model.layers.0.self_attn.k_proj.weight", 0, "k_proj"),
        ("model.layers.12.self_attn.v_proj.bias", 12, "v_proj.bias"),
        ("model.layers.5.input_layernorm.weight", 5, "input_layernorm"),
        ("model.layers.5.self_attn.q_norm.weight", 5, "q_norm"),
        ("model.layers.2.mlp.experts.63.gate_proj.weight", 2, "gate_proj"),
        ("model.layers.2.mlp.gate.weight", 2, "mlp.gate"),
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


def test_only_what_wraps_a_module_is_removed():
    for wrapper in ("_orig_mod", "_fsdp_wrapped_module._checkpoint_wrapped_module"):
        wrapped = f"model.layers.0.{wrapper}.mlp.up_proj.weight"
        assert canonical_name(wrapped) == "model.layers.0.mlp.up_proj.weight"
    assert canonical_name("model.actor_head.weight") == "model.actor_head.weight"


def test_natural_order_never_compares_a_number_with_a_word():
    names = ["b", "a.10", "a.9", "a", "1"]
    assert sorted(names, key=natural_order) == ["a", "a.9", "a.10", "b", "1"]
