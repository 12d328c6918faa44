"""Networks that cannot enlarge a perturbation by theorem, except at one layer."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import ModelError
from interpretgan.store.progress import OnProgress
from interpretgan.training import Batch, Objective, Recipe, train_classifier

#: The logits of such a network differ by little; they are multiplied by this in its loss and nowhere else.
TEMPERATURE = 2.0
TOLERANCE = 1e-3  #: How far rounding may take a constant above one.


class MaxMin(nn.Module):
    """The larger and the smaller of each pair of features, which sorts them: as long as its input, in every direction.

    Source: Anil et al. 2019, Sorting out Lipschitz function approximation.
    """

    def forward(self, latent: Tensor) -> Tensor:
        """`[N, C, ...]` of `[N, C, ...]`, C even."""
        first, second = latent.chunk(2, dim=1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


class _Orthonormal(nn.Module):
    """A matrix with orthonormal rows or columns, whichever are fewer, from one without."""

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        wide = matrix.shape[0] < matrix.shape[1]
        q, r = torch.linalg.qr(matrix.T if wide else matrix)
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)  # else a column would jump when its sign flips
        orthonormal: Tensor = (q.T if wide else q).reshape(weight.shape)
        return orthonormal


@dataclass(frozen=True)
class _Tempered(Objective):
    """Cross-entropy of logits that are multiplied by a constant."""

    temperature: float = TEMPERATURE

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        logits = classifier.run(batch.images).float()
        return F.cross_entropy(self.temperature * logits, batch.labels), logits


def lipschitz_model(data: ImageSet) -> nn.Sequential:
    """An untrained network for `train_lipschitz`, its weights drawn from torch's global random state.

    Two convolutions over patches that do not overlap, and three linear layers; `MaxMin` between them.

    Raises:
        ModelError: Images whose sides are no multiples of 4.
    """
    channels, height, width = data.shape
    if height % 4 or width % 4:
        raise ModelError(
            expected="images whose sides are multiples of 4", got=f"{height}x{width}", do="load them with image_size=28"
        )
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(channels, 16, 2, stride=2), act1=MaxMin(),
            conv2=nn.Conv2d(16, 64, 2, stride=2), act2=MaxMin(), flatten=nn.Flatten(),
            fc1=nn.Linear(64 * (height // 4) * (width // 4), 128), act3=MaxMin(),
            fc2=nn.Linear(128, 64), act4=MaxMin(),
            fc3=nn.Linear(64, len(data.classes)),
        )
    )  # fmt: skip


def train_lipschitz(
    classifier: Classifier,
    train: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Train a network on natural images with all its weights orthonormal, so that every layer has the constant 1.

    A perturbation of L2 size eps cannot change a class whose logit leads by more than `√2 · eps`.

    Args:
        classifier: Of a `lipschitz_model`; its weights are changed.
        train: Training images.
        recipe: See `train_classifier`.
        seed: See there.
        checkpoint: See there.
        on_progress: See there.
    """
    weighted = [module for module in classifier.model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for module in weighted:
        parametrize.register_parametrization(module, "weight", _Orthonormal())
    train_classifier(
        classifier, train, objective=_Tempered(), recipe=recipe, seed=seed, checkpoint=checkpoint,
        on_progress=on_progress,
    )  # fmt: skip
    for module in weighted:
        parametrize.remove_parametrizations(module, "weight")


def lipschitz_constants(model: nn.Module) -> dict[str, float]:
    """An upper bound of the Lipschitz constant in L2 of each child of a model; infinity where none is known."""
    return {name: _constant(module) for name, module in model.named_children()}


def _constant(module: nn.Module) -> float:
    if isinstance(module, MaxMin | nn.ReLU | nn.Flatten | nn.Identity):
        return 1.0
    patches = isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and module.padding in (0, (0, 0))
    if isinstance(module, nn.Linear) or (patches and module.groups == 1 and module.dilation == (1, 1)):
        weight = module.weight
        assert isinstance(weight, Tensor)
        return float(torch.linalg.matrix_norm(weight.detach().flatten(1), ord=2))
    return math.inf


def require_lipschitz(classifier: Classifier, layer: str) -> dict[str, float]:
    """The constants of all layers but one, where none is above 1; else `ModelError`."""
    model = classifier.model
    constants = {name: value for name, value in lipschitz_constants(model).items() if name != layer}
    above = [name for name, value in constants.items() if value > 1 + TOLERANCE]
    if not isinstance(model, nn.Sequential) or above:
        got = f"'{above[0]}' of {constants[above[0]]:.3g}" if above else f"a {type(model).__name__}, not a sequence"
        raise ModelError(
            expected="a network whose layers have a Lipschitz constant of at most 1",
            got=got,
            do="train one with train_lipschitz",
        )
    return constants
