"""Borrow any image classifier, and give it back untouched."""

import hashlib
import math
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from interpretgan.errors import ImageError, InterpretGANError, LabelError, ModelError, in_a_line, kind_of
from interpretgan.torch_state import eager, has_own_train, leave_train_mode, plain

RANGE_TOLERANCE = 1e-5  #: How far a pixel may leave the bounds, as a share of their width, before it is an error.
COMPILED = "_orig_mod"  #: The attribute under which the module that `torch.compile` returns has the given one.
EXPORT_ANY_BATCH = (
    "export it with torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim('batch')},))"
)


class Classifier(nn.Module):
    """An image classifier `f`, with the range of its pixels and its normalisation.

    The model is borrowed, not owned. While it is in use it runs in eval mode with frozen parameters. Afterwards, also
    after an exception, its train/eval flags, `requires_grad`, gradients, buffers, hooks and the global random state are
    as they were.

    Called as a module it gives logits with gradients to the images, without checks, so that attribution and attack
    libraries take it as it is. `logits` checks the images and the output.

    Inside, the model runs eagerly and without checkpointing, and with the default type and device that torch had when
    the classifier was made. Where it cannot run in the mixed precision of our own networks, it runs in full.

    Args:
        model: Any module that maps `[N, C, H, W]` to logits `[N, K]` with `K >= 2`, or to something that has them as
            `logits`. What `torch.compile`, `DataParallel` or `torch.export` made of one is unwrapped.
        bounds: Lowest and highest value of a pixel, e.g. `(0, 1)`. Rounded to float32, as pixels are.
        mean: Subtracted from each channel before the model, in units of the bounds. `None`: zero.
        std: Each channel is divided by it after that. `None`: one.

    Raises `ModelError` where `model` is not an `nn.Module`, `ImageError` where bounds, mean or std are unusable.
    """

    def __init__(
        self,
        model: nn.Module | torch.export.ExportedProgram,
        bounds: tuple[float, float] = (0, 1),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        model = unwrapped(model)
        for usable, expected, got in (
            (_finite(bounds, 2) and bounds[0] < bounds[1], "bounds (low, high) with low < high", bounds),
            (mean is None or _finite(mean), "a finite mean in every channel", mean),
            (std is None or (_finite(std) and all(s > 0 for s in std)), "std > 0 in every channel", std),
        ):
            if not usable:
                raise ImageError(expected=expected, got=f"{got}", do="pass e.g. bounds=(0, 1), mean=(0.5,), std=(0.2,)")
        _check_units(bounds, mean, std)
        super().__init__()
        self.training = False
        self.model = model
        low, high = torch.tensor(bounds, dtype=torch.float32).tolist()
        self.bounds = (float(low), float(high))
        self.mean = None if mean is None else tuple(float(m) for m in mean)
        self.std = None if std is None else tuple(float(s) for s in std)
        self._depth = 0
        self._defaults = torch.get_default_dtype(), torch.get_default_device()
        self._full_precision = False

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are (the CPU for a model without any)."""
        return next((t.device for t in (*self.model.parameters(), *self.model.buffers())), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model's first matrix of weights, else of its first parameter, else float32."""
        floating = [p for p in self.model.parameters() if p.is_floating_point() and p.dtype.itemsize > 1]
        return next((p.dtype for p in [*(p for p in floating if p.ndim > 1), *floating]), torch.float32)

    @property
    def name(self) -> str:
        """Name of the model's class."""
        return type(self.model).__name__

    def train(self, mode: bool = True) -> Self:
        """Nothing: the mode of a borrowed model is its owner's, and while it is in use it is eval."""
        return self

    def identity(self) -> tuple[object, ...]:
        """What is known of a classifier beside its weights: its modules, the range of its pixels, its normalisation."""
        modules = re.sub(r" at 0x[0-9a-f]+", "", repr(self.model))  # addresses differ in the next process
        return modules, self.bounds, self.mean, self.std

    def answers(self, images: Tensor) -> list[float]:
        """What the model computes, in two numbers for each of some images `[N, C, H, W]` and of as many of noise.

        They change with any code of the model that matters for these images, and by rounding, e.g. on other hardware.
        """
        low, high = self.bounds
        noise = low + (high - low) * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        with self.borrowed(), torch.no_grad():
            found = self.try_run(torch.cat([images, noise.to(images)]))
        check_logits(found, 2 * len(images))
        logits = found.double().cpu()
        weights = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        answers: list[float] = torch.stack([logits.logsumexp(dim=1), logits @ weights]).flatten().tolist()
        return answers

    def state_sha256(self) -> str:
        """Hash of the model's parameters, buffers and further state: 64 hexadecimal digits."""
        digest, state = hashlib.sha256(), self.model.state_dict()
        unsaved = {name: buffer for name, buffer in self.model.named_buffers() if name not in state}
        for name, value in {**state, **unsaved}.items():
            digest.update(name.encode())
            if isinstance(value, Tensor):
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            else:  # what a module's `get_extra_state` returns
                digest.update(pickle.dumps(value))
        return digest.hexdigest()

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Eval mode and frozen parameters inside; everything as it was outside. Nests."""
        if self._depth:
            yield
            return
        require_values(self.model)
        modes = [(module, module.training) for module in self.model.modules()]
        parameters = [(p, p.requires_grad, p.grad) for p in self.model.parameters()]
        # What a model's own `train` may change beside the flags, e.g. merge an adapter into the weights.
        switches = [(module, training) for module, training in modes if training and has_own_train(module)]
        weights = [(p, p.detach().clone()) for p in self.model.parameters()] if switches else []
        buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in self.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        leave_train_mode(self.model, modes)
        self._depth += 1
        try:
            for parameter, _, _ in parameters:
                parameter.requires_grad_(False)
            with eager(), torch.random.fork_rng(range(torch.cuda.device_count())):
                yield
        finally:
            self._depth -= 1
            for module, training in switches:
                if not module.training:  # one that never left it may train, of which its method has the name
                    module.train(training)
            for module, was_training in modes:
                module.training = was_training
            for parameter, requires_grad, grad in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
            with torch.no_grad():
                for parameter, value in weights:
                    if not torch.equal(parameter, value):
                        parameter.copy_(value)
                for module, name, buffer, saved in buffers:
                    if not torch.equal(buffer, saved):  # writing what is there already would disturb autograd
                        buffer.copy_(saved)
                    module._buffers[name] = buffer

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]` within `bounds`, of the model in eval mode; gradients flow."""
        with self.borrowed():
            return self.run(images)

    def run(self, images: Tensor) -> Tensor:
        """Normalise and classify, without checks; gradients flow to `images`.

        Call it inside `borrowed()`. Hooks on the model see what they would see in the user's own code.
        """
        images = self.normalise(images)
        with self._its_defaults():
            try:
                output = self.model(images)
            except InterpretGANError:
                raise
            except Exception as error:
                if not torch.is_autocast_enabled(images.device.type):
                    raise
                with torch.autocast(images.device.type, enabled=False):
                    output = self.model(images)
                self._full_precision = True
                told = f"{self.name} runs in full precision, as it fails in mixed precision: {in_a_line(error)}"
                warnings.warn(told, RuntimeWarning, stacklevel=2)
        logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
        if not isinstance(logits, Tensor):
            expected, do = "a model that returns one tensor of logits [N, K]", "wrap it so that it returns logits alone"
            raise ModelError(expected=expected, got=kind_of(output), do=do)
        return logits

    @contextmanager
    def _its_defaults(self) -> Iterator[None]:
        """What the model takes for torch's defaults, and the precision that it can run in."""
        dtype, device, kind = *self._defaults, self.device.type
        given = torch.get_default_dtype()
        with ExitStack() as stack:
            if device != torch.get_default_device():
                stack.enter_context(device)
            if self._full_precision and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
            torch.set_default_dtype(dtype)
            try:
                yield
            finally:
                torch.set_default_dtype(given)

    def try_run(self, images: Tensor) -> Tensor:
        """`run` for a first pass: whatever the model raises becomes one line, a `ModelError`."""
        try:
            self._check_channels(images)
            return self.run(images)
        except InterpretGANError:
            raise
        except Exception as error:
            expected = f"a model that takes images {list(images.shape)}"
            do = "check channels, mean and std, and bring the images to the size that it takes (--image-size)"
            if is_exported(self.model):
                do = f"if it was exported for batches of one size, {EXPORT_ANY_BATCH}"
            if str(error).startswith(f"{getattr(self.model.forward, '__qualname__', None)}() missing"):
                do = "it needs more than images: wrap it in a module that takes images alone"
            raise ModelError(expected=expected, got=in_a_line(error), do=do) from error

    def normalise(self, images: Tensor) -> Tensor:
        """`(images - mean) / std`, per channel, in the precision of the model's parameters; always a new tensor.

        It is contiguous, as an image that was loaded is: many a model begins with a `view`.
        """
        given = images
        for values, change in ((self.mean, torch.sub), (self.std, torch.div)):
            if values is not None:
                made = _per_channel if type(images) is Tensor else _per_channel.__wrapped__  # no tracer's is kept
                images = change(images, made(values, images.dtype, images.device))
        images = images.to(self.dtype).contiguous()
        return images.clone() if images is given else images  # a model may change its input in place

    def logits(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of floating point images `[N, C, H, W]` within `bounds`, both checked, without gradient.

        Raises:
            ImageError: Wrong shape or type, NaN, or pixels outside the bounds.
            ModelError: The output is not a finite `[N, K]` tensor, or looks like probabilities.
        """
        images = self.check_images(images)
        with self.borrowed(), torch.no_grad():
            logits = self.try_run(images)
        check_logits(logits, len(images))
        return logits

    def check_images(self, images: Tensor) -> Tensor:
        """The images on the model's device, with what rounding moved out of the bounds moved back; see `logits`."""
        given: object = images  # whatever a caller without type checks hands in
        if not isinstance(given, Tensor) or given.ndim != 4 or not given.is_floating_point() or not len(given):
            expected = "a floating point tensor [N, C, H, W] with N >= 1"
            raise ImageError(expected=expected, got=kind_of(given), do="stack and convert them, e.g. uint8 / 255")
        if given.layout is not torch.strided:
            raise ImageError(expected="a dense tensor of images", got=f"{given.layout}", do="call to_dense() on it")
        images = plain(given)
        self._check_channels(images)
        low, high = self.bounds
        least, most = (float(v) for v in images.aminmax())
        if not math.isfinite(least) or not math.isfinite(most):
            broken = int((~images.isfinite()).sum())
            raise ImageError(expected="finite pixels", got=f"{broken} NaN or infinite", do="remove the broken images")
        slack = RANGE_TOLERANCE * (high - low)
        if least < low - slack or most > high + slack:
            expected, got = f"pixels within the bounds [{low:g}, {high:g}]", f"[{least:.4g}, {most:.4g}]"
            do = "scale the images, or pass their true range to Classifier(model, bounds, mean, std)"
            raise ImageError(expected=expected, got=got, do=do)
        require_values(self.model)  # its device may hold none
        return images.to(self.device).clamp(low, high)

    def _check_channels(self, images: Tensor) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and images.shape[1] != len(values):
                expected, got = f"images of {len(values)} channels, as {name} has", f"{images.shape[1]} channels"
                raise ImageError(expected=expected, got=got, do=f"pass one {name} per image channel")

    def check_labels(self, labels: Tensor, images: Tensor) -> Tensor:
        """True classes of checked images: int64 `[N]` on the model's device. One image is classified to count logits.

        `LabelError` for labels of the wrong shape, type or range.
        """
        given: object = labels  # whatever a caller without type checks hands in
        if not isinstance(given, Tensor) or given.shape != (len(images),) or given.is_floating_point():
            expected = f"an integer tensor of {len(images)} labels, one per image"
            raise LabelError(expected=expected, got=kind_of(given), do="pass true classes as int64 [N]")
        labels = plain(labels).to(images.device, torch.int64, copy=True)
        classes, least, most = self.logits(images[:1]).shape[1], int(labels.min()), int(labels.max())
        if least < 0 or most >= classes:
            expected = f"labels from 0 to {classes - 1}, as the classifier has {classes} classes"
            do = "check that the data and the classifier belong together"
            raise LabelError(expected=expected, got=f"labels from {least} to {most}", do=do)
        return labels


def unwrapped(model: object) -> nn.Module:
    """The module that others were made of, else the given one; `ModelError` for what is no module."""
    if isinstance(model, torch.export.ExportedProgram):
        program = torch.export.unflatten(model)
        for part in program.modules():
            if isinstance(graph := getattr(part, "graph", None), torch.fx.Graph):
                for node in graph.nodes:
                    node.meta.clear()  # sizes of the export, which cannot be copied
        return program
    while isinstance(inner := getattr(model, COMPILED, None), nn.Module):
        model = inner
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    if not isinstance(model, nn.Module):
        raise ModelError(expected="a torch.nn.Module", got=kind_of(model), do="pass the module, not its path")
    if any(isinstance(module, torch.fx.GraphModule) and "eval" in vars(module) for module in model.modules()):
        got, do = "the module() of an exported program", "pass the ExportedProgram itself, not its module()"
        raise ModelError(expected="a model with an eval mode", got=got, do=do)
    return model


def require_values(model: nn.Module) -> None:
    """Refuse (`ModelError`) weights that have no values yet, or that autograd may not use."""
    expected, tensors = "a model whose weights have values", (*model.parameters(), *model.buffers())
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
        do = "run one batch of images through the model first"
        raise ModelError(expected=expected, got="lazy layers without any", do=do)
    if any(tensor.is_meta for tensor in tensors):
        do = 'call to_empty(device="cpu") and load the weights first'
        raise ModelError(expected=expected, got="some on the meta device", do=do)
    if any(tensor.is_inference() for tensor in tensors):
        expected, got = "a model whose weights autograd may use", "one made in torch.inference_mode()"
        raise ModelError(expected=expected, got=got, do="build and load it outside of torch.inference_mode()")


def is_exported(module: nn.Module) -> bool:
    """Whether a module is a program of `torch.export`, or a part of one."""
    return type(module).__module__ == "torch.export.unflatten"


@cache
def _per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`[1, C, 1, 1]`, made once, as a GPU waits for what comes from the CPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)


def _finite(values: Any, count: int | None = None) -> bool:
    """Whether these are several finite numbers, or so many, whatever a caller without type checks hands in."""
    try:
        return math.isfinite(values[0]) and all(map(math.isfinite, values)) and count in (None, len(values))
    except (TypeError, ValueError, IndexError):
        return False


def _check_units(bounds: tuple[float, float], mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuse (`ImageError`) a mean or std in other units than the bounds, e.g. 255ths for pixels in [0, 1]."""
    low, high = bounds
    units = f"for pixels within [{low:g}, {high:g}]"
    if mean is not None and not all(low <= m <= high for m in mean):
        expected, do = f"a mean within the bounds, {units}", "state it in the units of the bounds, e.g. 123.675 / 255"
        raise ImageError(expected=expected, got=f"{tuple(mean)}", do=do)
    if std is not None and not all((high - low) / 256 <= s <= high - low for s in std):
        expected, do = f"a std up to {high - low:g}, {units}", "state it in the units of the bounds, e.g. 58.395 / 255"
        raise ImageError(expected=expected, got=f"{tuple(std)}", do=do)


def check_logits(logits: Tensor, count: int) -> None:
    """Raise `ModelError` unless `logits` is a finite real `[count, K >= 2]` tensor, and no probabilities."""
    if logits.ndim != 2 or logits.shape[0] != count or logits.shape[1] < 2:
        do = "wrap the model so that it returns one row of class scores per image"
        raise ModelError(expected=f"logits of shape [{count}, K] with K >= 2", got=f"{tuple(logits.shape)}", do=do)
    if not logits.is_floating_point():
        do = "return the scores of the classes as they are before argmax, of complex ones a real score"
        raise ModelError(expected="floating point logits", got=kind_of(logits), do=do)
    if not bool(torch.isfinite(logits).all()):
        broken, masked = int((~torch.isfinite(logits)).sum()), int(logits.isneginf().all(dim=0).sum())
        got, do = f"{broken} NaN or infinite", "check weights and mean and std"
        if broken == masked * count and masked < logits.shape[1] and count > 1:
            got, do = f"-inf for {masked} of the classes in every row", "mask them with a finite number, e.g. -1e4"
        raise ModelError(expected="finite logits", got=got, do=do)
    rows, rounding = logits.detach().float(), 1e-3 if logits.dtype.itemsize >= 4 else 1e-2
    rounding = rounding if count > 1 else rounding / 100  # one image's logits may sum to 1 by chance
    if bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < rounding).all()):
        got = "probabilities (every row is >= 0 and sums to 1)"
        raise ModelError(expected="logits", got=got, do="remove the final softmax: it hides gradients from attacks")


def require_classifier(classifier: object) -> None:
    """Refuse (`ModelError`) what is no `Classifier`, most of all a bare module."""
    if not isinstance(classifier, Classifier):
        do = "wrap the model: Classifier(model, bounds=..., mean=..., std=...)"
        raise ModelError(expected="a Classifier", got=kind_of(classifier), do=do)
