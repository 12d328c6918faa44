"""Borrow any image classifier, and give it back untouched."""

from __future__ import annotations

import hashlib
import math
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from interpretgan.errors import ImageError, LabelError, ModelError

RANGE_TOLERANCE = 1e-5
"""How far a pixel may leave the bounds, as a share of their width, before it counts as an error."""


class Classifier(nn.Module):
    """An image classifier `f`, with the range of its pixels and its normalisation.

    The model is borrowed, not owned: while it is in use it runs in eval mode with frozen parameters, and
    afterwards, also after an exception, its train/eval flags, `requires_grad`, gradients, buffers, hooks and the global
    random state are as they were.

    Called as a module it gives logits with gradients to the images, unchecked, so that attribution and attack libraries
    take it as it is; `logits` checks what it is given and what comes out.

    Args:
        model: Any module that maps `[N, C, H, W]` to logits `[N, K]` with `K >= 2`.
        bounds: Lowest and highest value of a pixel, e.g. `(0, 1)`. Rounded to float32, as pixels are.
        mean: Per-channel mean that is subtracted before the model, in units of the bounds. `None`: zero.
        std: Per-channel scale that is divided by after that. `None`: one.

    Raises:
        ModelError: `model` is no `nn.Module`.
        ImageError: The bounds, mean or std are not usable.
    """

    def __init__(
        self,
        model: nn.Module,
        bounds: tuple[float, float] = (0, 1),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ModelError(
                expected="a torch.nn.Module",
                got=type(model).__name__,
                do="pass the module itself, not its output or path",
            )
        if not all(map(math.isfinite, bounds)) or not bounds[0] < bounds[1]:
            raise ImageError(
                expected="bounds (low, high) with low < high", got=f"{bounds}", do="pass e.g. bounds=(0, 1)"
            )
        if mean is not None and not all(map(math.isfinite, mean)):
            raise ImageError(
                expected="a finite mean in every channel", got=f"{tuple(mean)}", do="pass the mean per channel"
            )
        if std is not None and any(not 0 < s < math.inf for s in std):
            raise ImageError(
                expected="std > 0 in every channel", got=f"{tuple(std)}", do="pass the standard deviation per channel"
            )
        super().__init__()
        self.training = False
        self.model = model
        low, high = torch.tensor(bounds, dtype=torch.float32).tolist()
        self.bounds = (float(low), float(high))
        self.mean = None if mean is None else tuple(float(m) for m in mean)
        self.std = None if std is None else tuple(float(s) for s in std)
        self._depth = 0

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are (the CPU for a model without any)."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model's parameters (float32 for a model without any)."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def name(self) -> str:
        """Name of the model's class."""
        return type(self.model).__name__

    def identity(self) -> tuple[object, ...]:
        """What is known of a classifier beside its weights: its modules, the range of its pixels, its normalisation."""
        modules = re.sub(r" at 0x[0-9a-f]+", "", repr(self.model))  # addresses differ in the next process
        return modules, self.bounds, self.mean, self.std

    def state_sha256(self) -> str:
        """Hash of the model's parameters, buffers and further state: 64 hexadecimal digits."""
        digest = hashlib.sha256()
        state = self.model.state_dict()
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
        flags = [(module, module.training) for module in self.model.modules()]
        parameters = [(p, p.requires_grad, p.grad) for p in self.model.parameters()]
        buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in self.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        rng = torch.get_rng_state()
        cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
        self._depth += 1
        try:
            self.model.eval()
            for parameter, _, _ in parameters:
                parameter.requires_grad_(False)
            yield
        finally:
            self._depth -= 1
            for module, training in flags:
                module.training = training
            for parameter, requires_grad, grad in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
            with torch.no_grad():
                for module, name, buffer, saved in buffers:
                    if not torch.equal(buffer, saved):  # writing what is there already would disturb autograd
                        buffer.copy_(saved)
                    module._buffers[name] = buffer
            torch.set_rng_state(rng)
            if cuda_rng is not None:
                torch.cuda.set_rng_state_all(cuda_rng)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]` within `bounds`, of the model in eval mode; gradients flow."""
        with self.borrowed():
            return self.run(images)

    def run(self, images: Tensor) -> Tensor:
        """Normalise and classify, without any check. Gradients flow to `images`.

        Call it inside `borrowed()`; hooks on the model see exactly what they would see in the user's own code.
        """
        output = self.model(self.normalise(images))
        if not isinstance(output, Tensor):
            raise ModelError(
                expected="a model that returns one tensor of logits [N, K]",
                got=f"a {type(output).__name__}",
                do="wrap the model so that it returns the logits alone",
            )
        return output

    def try_run(self, images: Tensor) -> Tensor:
        """`run`, where a model that cannot take such images is told in one line: for a first pass.

        Raises:
            ModelError: The model raised an error, or returned no tensor.
        """
        try:
            return self.run(images)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ModelError(
                expected=f"a model that takes images {list(images.shape)}",
                got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
                do="check the number of channels and the size of the images, and mean and std",
            ) from error

    def normalise(self, images: Tensor) -> Tensor:
        """`(images - mean) / std`, per channel, in the precision of the model's parameters; always a new tensor."""
        given = images
        if self.mean is not None:
            images = images - images.new_tensor(self.mean).view(1, -1, 1, 1)
        if self.std is not None:
            images = images / images.new_tensor(self.std).view(1, -1, 1, 1)
        images = images.to(self.dtype)
        return images.clone() if images is given else images  # a model may change its input in place

    def logits(self, images: Tensor) -> Tensor:
        """Logits of images, both checked.

        Args:
            images: Floating point `[N, C, H, W]`, within `bounds`.

        Returns:
            Logits `[N, K]`, without gradient.

        Raises:
            ImageError: Wrong shape or type, NaN, or pixels outside the bounds.
            ModelError: The output is no finite `[N, K]` tensor, or looks like probabilities.
        """
        images = self.check_images(images)
        with self.borrowed(), torch.no_grad():
            logits = self.try_run(images)
        check_logits(logits, len(images))
        return logits

    def check_images(self, images: Tensor) -> Tensor:
        """The images on the model's device, clipped by no more than the rounding tolerance.

        Raises:
            ImageError: See `logits`.
        """
        given: object = images  # whatever a caller without type checks hands in
        if not isinstance(given, Tensor) or given.ndim != 4 or not given.is_floating_point() or not len(given):
            got = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise ImageError(
                expected="a floating point tensor [N, C, H, W] with N >= 1",
                got=got,
                do="stack the images and convert them, e.g. uint8 / 255",
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and images.shape[1] != len(values):
                raise ImageError(
                    expected=f"images of {len(values)} channels, as {name} has",
                    got=f"{images.shape[1]} channels",
                    do=f"pass one {name} per image channel",
                )
        low, high = self.bounds
        least, most = (float(v) for v in images.detach().aminmax())
        if not math.isfinite(least) or not math.isfinite(most):
            raise ImageError(
                expected="finite pixels",
                got=f"{int((~images.isfinite()).sum())} NaN or infinite",
                do="remove or repair the broken images",
            )
        slack = RANGE_TOLERANCE * (high - low)
        if least < low - slack or most > high + slack:
            raise ImageError(
                expected=f"pixels within the bounds [{low:g}, {high:g}]",
                got=f"[{least:.4g}, {most:.4g}]",
                do="scale the images, or pass the true range as Classifier(model, bounds=(low, high)) "
                "with any normalisation as mean and std",
            )
        return images.to(self.device).clamp(low, high)


def check_logits(logits: Tensor, count: int) -> None:
    """Raise unless `logits` is a finite `[count, K >= 2]` tensor that does not look like probabilities.

    Raises:
        ModelError: It is not.
    """
    if logits.ndim != 2 or logits.shape[0] != count or logits.shape[1] < 2:
        raise ModelError(
            expected=f"logits of shape [{count}, K] with K >= 2",
            got=f"{tuple(logits.shape)}",
            do="wrap the model so that it returns one row of class scores per image",
        )
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            expected="finite logits",
            got=f"{int((~torch.isfinite(logits)).sum())} NaN or infinite values",
            do="check the weights and the normalisation",
        )
    rows = logits.detach().float()
    if bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all()):
        raise ModelError(
            expected="logits",
            got="probabilities (every row is >= 0 and sums to 1)",
            do="remove the final softmax: it hides gradients from attacks",
        )


def check_labels(labels: object, count: int, classifier: Classifier, probe: Tensor) -> Tensor:
    """The labels on the classifier's device, int64.

    Args:
        labels: True classes.
        count: How many there must be.
        classifier: Its number of classes is read from its output on `probe`.
        probe: At least one checked image.

    Raises:
        LabelError: Wrong shape, type or range.
        ModelError: The output is no logits.
    """
    if not isinstance(labels, Tensor) or labels.shape != (count,) or labels.is_floating_point():
        got = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise LabelError(
            expected=f"an integer tensor of {count} labels, one per image", got=got, do="pass true classes as int64 [N]"
        )
    with classifier.borrowed(), torch.no_grad():
        logits = classifier.run(probe)
    check_logits(logits, len(probe))
    classes = logits.shape[1]
    least, most = (int(v) for v in labels.aminmax())
    if least < 0 or most >= classes:
        raise LabelError(
            expected=f"labels from 0 to {classes - 1}, as the classifier has {classes} classes",
            got=f"labels from {least} to {most}",
            do="check that the data and the classifier belong together",
        )
    return labels.detach().to(probe.device, torch.int64).clone()
