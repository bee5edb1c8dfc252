import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import load_file, save_file

from rlsubnet.checkpoints.masks import Mask, save_mask, write_mask

METADATA = {"rule": "bitwise", "atol": "0.0", "init_sha256": "a", "tuned_sha256": "b"}


def test_bits_are_packed_from_the_lowest(tmp_path):
    # Weights 0, 2 and 8 of 9: bytes 0b101 and 0b1.
    mask = np.zeros((3, 3), bool)
    mask.ravel()[[0, 2, 8]] = True
    save_mask(tmp_path / "m.safetensors", {"w": mask}, METADATA)
    assert load_file(tmp_path / "m.safetensors")["w"].tolist() == [0b101, 0b1]


@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=4),
        npst.arrays(np.bool_, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)),
        max_size=4,
    )
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
def test_a_mask_reads_back_as_it_was_saved(tmp_path, masks):
    save_mask(tmp_path / "m.safetensors", masks, METADATA)
    mask = Mask(tmp_path / "m.safetensors")
    assert mask.shapes == {name: bits.shape for name, bits in masks.items()}
    assert METADATA.items() <= mask.metadata.items()
    for name, bits in masks.items():
        assert (mask.read(name) == bits).all()
        for start in range(bits.size + 1):
            for count in (0, 1, 8, 9, bits.size - start):
                piece = mask.read_range(name, start, min(count, bits.size - start))
                assert (piece == bits.ravel()[start : start + count]).all()


def test_a_mask_without_weights_is_empty(tmp_path):
    masks = {"a": np.zeros(9, bool), "b": np.zeros((2, 3), bool)}
    save_mask(tmp_path / "m", masks, METADATA)
    assert Mask(tmp_path / "m").is_empty()
    masks["b"][1, 2] = True
    save_mask(tmp_path / "m", masks, METADATA)
    assert not Mask(tmp_path / "m").is_empty()


@pytest.mark.parametrize(
    "masks",
    [
        [("a", (2, 5), bool)],
        [("b", (3,), bool), ("a", (2, 5), bool)],
        [("a", (2, 5), bool), ("b", (4,), bool)],
        [("a", (2, 5), bool), ("b", (3,), bool), ("b", (3,), bool)],
        [("a", (2, 5), bool), ("c", (3,), bool)],
        [("a", (2, 5), bool), ("b", (3,), np.uint8)],
    ],
)
def test_masks_that_do_not_fit_their_shapes_leave_the_old_file(tmp_path, masks):
    save_mask(tmp_path / "m", {"a": np.zeros(16, bool)}, METADATA)
    before = (tmp_path / "m").read_bytes()
    arrays = [(name, np.ones(shape, kind)) for name, shape, kind in masks]
    with pytest.raises(ValueError, match="expected a bool mask of|argument 2 is"):
        write_mask(tmp_path / "m", {"a": (2, 5), "b": (3,)}, arrays, METADATA)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_what_is_no_mask_is_refused(tmp_path):
    weights = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, weights)
    with pytest.raises(ValueError, match=r"model\.safetensors: not a mask"):
        Mask(weights)
    with pytest.raises(ValueError, match="no such mask file"):
        Mask(tmp_path / "absent")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ('{"w": [3, 9]}', r"mask of w: shape \[3, 9\] needs U8 \[4\], found U8 \[2\]"),
        ('{"v": [9]}', "shapes and tensors differ: v, w"),
        ("[", "metadata `shapes` is damaged"),
        ("[1]", "metadata `shapes` is damaged"),
        ('{"w": [7]}', "needs U8"),
    ],
)
def test_damaged_shapes_are_named(tmp_path, shapes, message):
    metadata = METADATA | {"format": "rlsubnet-mask-1", "shapes": shapes}
    save_file({"w": np.zeros(2, np.uint8)}, tmp_path / "m", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        Mask(tmp_path / "m")


def test_bits_beyond_the_last_weight_would_be_counted_and_are_refused(tmp_path):
    metadata = METADATA | {"format": "rlsubnet-mask-1", "shapes": '{"w": [9]}'}
    save_file({"w": np.array([0, 0b10], np.uint8)}, tmp_path / "m", metadata=metadata)
    mask = Mask(tmp_path / "m")
    with pytest.raises(ValueError, match="mask of w: bits set beyond the last weight"):
        list(mask.read_packed_chunks("w"))


def test_a_mask_of_other_parameters_is_refused_with_all_of_them(tmp_path):
    save_mask(tmp_path / "m", {"a": np.ones(3, bool), "b": np.ones(4, bool)}, METADATA)
    mask = Mask(tmp_path / "m")
    mask.check_shapes({"b": (4,), "a": (3,)}, "model")
    with pytest.raises(ValueError) as error:
        mask.check_shapes({"b": (5,), "c": (1,)}, "model")
    assert str(error.value) == (
        f"{tmp_path / 'm'}: does not fit model: a only in the mask; c only in model; "
        "b is [4] in the mask, [5] in model"
    )
