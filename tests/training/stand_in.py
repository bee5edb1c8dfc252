"""A stand-in for a GPU: tensors without numbers whose device is called ``cuda:0``.

A tensor on torch's ``meta`` device has a shape, a dtype and no memory. Operations on it check both,
whatever asks for a number raises, and models of any size take a step in a second. Inside
:func:`stand_in` such tensors answer that they are on a GPU, so that what runs is what a GPU runs
but for the kernels. Refused is what a GPU would refuse or wait for: tensors of two devices in one
operation, a copy to the device that is not sent from pinned memory, attention that no quick kernel
computes.

torch's own fake tensors may have the device ``cuda``, too, but a torch that was built without CUDA
computes no gradients of them.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, META = torch.device("cuda", 0), torch.device("meta")
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)


class Waits(AssertionError):
    """A program on a GPU would wait here, or fail."""


def _translated(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("cuda"):
        return META
    return META if isinstance(value, torch.device) and value.type == "cuda" else value


def _pinned(tensor: Tensor) -> Tensor:
    # Of a tensor with gaps torch sends a copy that is not pinned.
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise Waits(f"pinned: a tensor on {tensor.device} with strides {tensor.stride()}")
    copy = tensor.clone()
    copy.pinned = True  # type: ignore[attr-defined]
    return copy


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what a GPU's attention returns, by the first kernel that is allowed and fits.

    The conditions are those of torch's ``sdp_utils.cpp``: flash attention takes 16-bit numbers and
    no mask, the memory-efficient one takes as many keys as queries. The third, which writes all
    scores to memory, is refused: nothing here is to need it.
    """
    allowed = _cur_sdpa_kernel_backends()
    if SDPBackend.CUDNN_ATTENTION in allowed:
        raise Waits("cuDNN's attention, first on an H100, is not kept out")
    learns = torch.is_grad_enabled() and query.requires_grad
    half = query.dtype in (torch.bfloat16, torch.float16)
    if SDPBackend.FLASH_ATTENTION in allowed and half and attn_mask is None:
        return aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    if SDPBackend.EFFICIENT_ATTENTION in allowed and not enable_gqa:
        if learns and torch.are_deterministic_algorithms_enabled():
            raise Waits("the backward pass of memory-efficient attention is not deterministic")
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype)
        if attn_mask is not None:
            shape = (*query.shape[:3], key.shape[2])
            attn_mask = attn_mask.expand(shape)
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, learns, dropout_p, is_causal, scale=scale
        )[0]
    raise Waits(f"attention in {query.dtype}, mask {attn_mask is not None}: no quick kernel fits")


READINGS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")


def _read(name: str, tensor: Tensor) -> Any:
    """Return ones, as the caller of a reading wants them."""
    ones = torch.ones(tensor.shape, dtype=tensor.dtype)
    return getattr(ones, name)()


class _Names(TorchFunctionMode):
    """Lets meta tensors be called by the name of a GPU, and takes that name for them.

    Args:
        readings: takes the name of every reading, which is answered; None refuses them.
    """

    def __init__(self, readings: list[str] | None) -> None:
        super().__init__()
        self._readings = readings

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {key: _translated(value) for key, value in (kwargs or {}).items()}
        args = tuple(_translated(value) for value in args)
        if getattr(func, "__self__", None) is Tensor.device:
            device = func(*args)
            return GPU if device.type == "meta" else device
        name = getattr(func, "__name__", "")
        if name in READINGS and args[0].is_meta:
            if self._readings is None:
                raise Waits(f"{name}: a number is read from the device")
            self._readings.append(name)
            return _read(name, args[0])
        if func is Tensor.pin_memory:
            return _pinned(args[0])
        if func is Tensor.exponential_ and args[0].is_meta:
            kwargs.pop("generator")  # there is none of a GPU to be had
        return func(*args, **kwargs)


class Watch(TorchDispatchMode):
    """Refuses mixed devices and copies that wait; counts the memory of the device.

    Args:
        waits: whether copies may wait, as where a run begins.

    Attributes:
        held: bytes of tensors that are alive, of those made since the watch began.
        peak: most bytes that were held at a time.
        operations: that ran.
    """

    def __init__(self, waits: bool = False) -> None:
        super().__init__()
        self._waits = waits
        self.held = self.peak = self.operations = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in given:  # from before the watch, or counted
            self._note(tensor, 0)
        # torch knows no shapes of fused SGD, which makes nothing.
        result = None if func is aten._fused_sgd_.default else func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._check(func, given, made)
        for tensor in made:
            self._note(tensor, tensor.untyped_storage().nbytes())
        self.operations += 1
        return result

    def _check(self, func: Any, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        here = [tensor for tensor in given if tensor.is_cpu and tensor.ndim]
        if not here or not any(tensor.is_meta for tensor in (*given, *made)):
            return
        if func not in COPIES:
            raise Waits(f"{func}: tensors of two devices")
        if not (self._waits or all(hasattr(tensor, "pinned") for tensor in here)):
            raise Waits(f"{func}: copied from memory that is not pinned")

    def _note(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if not tensor.is_meta or key in self._known:
            return
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


class Noise(torch.Generator):
    """Stands for a generator on the device."""

    device = GPU


@contextmanager
def stand_in(readings: list[str] | None = None) -> Iterator[None]:
    """Let tensors without numbers be those of a GPU.

    Args:
        readings: takes the name of every reading, which is answered with ones; None refuses them.
    """
    # Groups of tensors are formed in C++, where their device has its own name.
    with pytest.MonkeyPatch.context() as patch, _Names(readings):
        patch.setattr("torch.nn.utils.clip_grad._device_has_foreach_support", lambda device: True)
        # Not by the mode: autograd leaves it where it computes activations once more.
        patch.setattr("torch.nn.functional.scaled_dot_product_attention", _attention)
        yield
