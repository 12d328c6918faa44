"""Where bfloat16 pays, autocast that uses it only there, and what makes convolutions fast."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated

import torch
from torch import nn

from interpretgan.classifier import Classifier
from interpretgan.torch_state import tf32

Precision = Annotated[str, ("auto", "bf16", "fp32")]


def has_fast_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether the device has bfloat16 instructions, so that bfloat16 autocast is faster and not slower."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Private names: no public call tells; their absence means a torch that cannot use the instructions either.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """Autocast to bfloat16 under `bf16`, or under `auto` where the device is fast at it; off under `fp32`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(device, precision))


def uses_bf16(device: torch.device, precision: Precision) -> bool:
    """Whether `autocast` is on."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


@contextmanager
def fast_convolutions(*, bf16: bool) -> Iterator[None]:
    """For a training on a GPU: of the ways to convolve each shape, which recurs, the fastest, once tried.

    Where the training is in bfloat16, what it leaves in float32 is in TF32, which is finer; else nothing is changed.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with tf32(True) if bf16 else nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def quick_layout(classifier: Classifier, *, training: bool = False) -> AbstractContextManager[None]:
    """On a CPU, a network of this package with its channels last inside: an attack on LeNet-5 takes half the time.

    With `training`, as it is built: what is trained with it has the same weights however quick attacks are. Networks of
    others stay as they are: some call `view`, which fails with channels last.
    """
    if classifier.device.type != "cpu" or not type(classifier.model).__module__.startswith("interpretgan.models."):
        return nullcontext()
    return laid_out(classifier.model, torch.contiguous_format if training else torch.channels_last)


@contextmanager
def laid_out(model: nn.Module, layout: torch.memory_format) -> Iterator[None]:
    """A model in this layout inside; the last digits of what it computes depend on it."""
    maps = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    last = any(not parameter.is_contiguous() for parameter in maps)  # those of one channel are both
    _lay_out(model, layout)
    try:
        yield
    finally:
        _lay_out(model, torch.channels_last if last else torch.contiguous_format)


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    model.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
