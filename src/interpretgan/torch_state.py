"""Torch's own settings, borrowed as a user's model is: set for what runs inside, and given back as they were."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from interpretgan.errors import ConfigError, ModelError, in_a_line


def as_seed(seed: object) -> int:
    """A seed as torch and numpy take it, of a whole number of any kind; else a `ConfigError`."""
    if not isinstance(seed, bool) and isinstance(seed, Integral) and 0 <= int(seed) < 2**63:
        return int(seed)
    raise ConfigError(expected="a whole number 0 <= seed < 2^63", got=repr(seed), do="choose another seed")


def plain(tensor: Tensor) -> Tensor:
    """The same values as a tensor of torch's own class, without gradient; what is no tensor stays what it is."""
    given: object = tensor  # whatever a source of the user's own hands over
    return tensor.detach().as_subclass(Tensor) if isinstance(given, Tensor) else tensor


@contextmanager
def plain_torch() -> Iterator[None]:
    """Torch as it is at first, whatever the caller has set: float32, on the CPU, no autocast, no inference mode.

    Gradients stay off where inference mode had them off. What a user's model sees of it is up to `Classifier.run`.
    """
    given = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(given)


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Inside, a GPU convolves float32 in TF32, or in full precision; afterwards as the caller had it."""
    cudnn: Any = torch.backends.cudnn
    # Since torch 2.9 it has another name. Where that was set, the old one says nothing, or cannot be read.
    old: Any = None
    if getattr(cudnn, "fp32_precision", "none") == "none":
        with suppress(RuntimeError):
            old = cudnn.allow_tf32
    where, name = (cudnn.conv, "fp32_precision") if old is None else (cudnn, "allow_tf32")
    before = getattr(where, name)
    setattr(where, name, wanted if where is cudnn else "tf32" if wanted else "ieee")
    try:
        yield
    finally:
        setattr(where, name, before)


@contextmanager
def eager() -> Iterator[None]:
    """No TF32; nothing compiled, nor attention in one function, where no hook runs; nothing twice for its gradients."""
    with ExitStack() as stack:
        stack.enter_context(tf32(False))  # with it an image may have other logits in another batch
        # The function for whole attentions and encoders, which packs padded tokens into nested tensors.
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        if "torch._dynamo" in sys.modules:  # it compiles, and takes long to import
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        # The first is public; the second is what `checkpoint` goes through where it is not reentrant.
        for owner, name, instead in (
            (checkpoint.CheckpointFunction, "apply", lambda run, _, *given: run(*given)),
            (checkpoint, "_checkpoint_without_reentrant_generator", lambda *_, **__: iter([None])),
        ):
            stack.callback(_restore, owner, name, vars(owner).get(name))
            setattr(owner, name, instead)
        yield


def has_own_train(module: nn.Module) -> bool:
    """Whether a module's `train` or `eval` is not torch's, so that it may change more than the flags."""
    return type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval


def leave_train_mode(model: nn.Module, modes: Sequence[tuple[nn.Module, bool]]) -> None:
    """Call `model.eval()`; where it fails, its modules have these modes again and there is a `ModelError`."""
    try:
        model.eval()
    except Exception as error:  # a method of the user's, e.g. one called train that trains
        for module, training in modes:
            module.training = training
        do = "give its own methods train and eval other names, or let them call torch's"
        raise ModelError(expected="a model that eval() puts in eval mode", got=in_a_line(error), do=do) from error


def _restore(owner: Any, name: str, own: object) -> None:
    if own is None:
        delattr(owner, name)
    else:
        setattr(owner, name, own)
