"""Ways of a latent, drawn frame by frame: to the adversarial latent, and towards a class that the user names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from interpretgan.data import ImageData, ImageSource, as_source
from interpretgan.errors import ConfigError, DataError, LabelError, LayerError
from interpretgan.features.conductance import by_unit, of_units, rest_of_network
from interpretgan.features.modified import BATCH, LayerUnits
from interpretgan.interpreter import InterpretGAN, Predictor
from interpretgan.layers import Layer, capture
from interpretgan.torch_state import as_seed

FRAMES = 9
NEAREST = 10  #: Natural latents of a class whose mean is the end of the way towards it.
OF_CLASS, SEARCHED = 200, 20_000  #: Natural latents of a class that are enough, and images searched for them at most.

Look: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  #: A latent's picture, class, and judged class.


@dataclass(frozen=True, eq=False)
class LatentPath:
    """Frames of a straight way from the natural latent `z` at one layer, for `N` images, drawn with the same noise."""

    layer: str
    shares: tuple[float, ...]  #: How far along the way each frame is, 0 to 1.
    frames: Tensor  #: Explanations `[T, N, C, H, W]` of the latents on the way.
    classified: Tensor  #: The class that the rest of the network shows for each latent, int64 `[T, N]`.
    judged: Tensor  #: The class that the judge predicts for each frame, int64 `[T, N]`.


@dataclass(frozen=True, eq=False)
class AdversarialPath(LatentPath):
    """The way to `z'`, and what stands there with units put back."""

    patched: Tensor  #: Explanations `[N, C, H, W]` of `z'` with the most responsible tenth of the units put back.
    patched_classified: Tensor  #: The class that the network shows for these, int64 `[N]`.
    patched_judged: Tensor  #: The class that the judge predicts for them, int64 `[N]`.


@dataclass(frozen=True, eq=False)
class CounterfactualPath(LatentPath):
    """The way towards a class: what would have to change for the network to see it."""

    towards: int  #: The class.
    change: Tensor  #: What changes of each unit on the whole way, the mean over its places, `[N, units]`.

    @property
    def agreed(self) -> tuple[int | None, ...]:
        """For each image the first frame at which network and judge both see the class; `None`: they never do."""
        both = (self.classified == self.towards) & (self.judged == self.towards)
        return tuple(next(iter(column.nonzero()[:, 0].tolist()), None) for column in both.T)


def latent_path(
    interpreter: InterpretGAN,
    images: Tensor,
    adversarial: Tensor,
    layer: str,
    *,
    judge: Predictor,
    units: LayerUnits,
    indices: Sequence[int] | None = None,
    frames: int = FRAMES,
    seed: int | None = None,
) -> AdversarialPath:
    """Draw the way from each natural latent to its adversarial one, at one layer.

    Args:
        interpreter: A fitted one.
        images: `[N, C, H, W]` within the classifier's bounds.
        adversarial: `x'` of each.
        layer: Name of one of the interpreter's layers.
        judge: Predicts the class that each frame shows.
        units: The same images' units at this layer: their most responsible tenth is put back.
        indices: The numbers of the images in their set, see `InterpretGAN.explain`.
        frames: How many, at least 2.
        seed: Of the noise. `None`: the interpreter's, as `explain` takes it.
    """
    classifier, found = interpreter.classifier, _layer(interpreter, layer)
    images, adversarial = classifier.check_images(images), classifier.check_images(adversarial)
    z, changed = (capture(classifier, x, [found])[1][found.name] for x in (images, adversarial))
    noise = interpreter.noise_of(_numbers(images, indices), seed=seed)
    look = _looking(interpreter, found, z, images, judge=judge, noise=noise)
    first = torch.as_tensor(units.in_first_tenth(), device=z.device)
    back = look(torch.where(of_units(first, z), z, changed))
    return AdversarialPath(layer, *_frames(look, z, changed, frames), *back)


def counterfactual_path(
    interpreter: InterpretGAN,
    images: Tensor,
    layer: str,
    towards: int,
    *,
    judge: Predictor,
    reference: ImageData,
    indices: Sequence[int] | None = None,
    frames: int = FRAMES,
    seed: int | None = None,
) -> CounterfactualPath:
    """Draw the way from each natural latent towards a class, at one layer.

    The way is straight. It ends at the mean of those ten natural latents, of images that the network takes for the
    class, that are nearest to the image's own latent. So it stays among latents that natural images have; a descent on
    the loss of the class leaves them, and is an attack. The judge has no part in it: what it says of the frames is
    evidence. The idea of such images is that of ExplainGAN and of progressive exaggeration (arXiv 1911.00483).

    Args:
        interpreter: A fitted one.
        images: `[N, C, H, W]` within the classifier's bounds; the network takes none of them for the class.
        layer: Name of one of the interpreter's layers.
        towards: Number of the class.
        judge: Predicts the class that each frame shows.
        reference: Natural images; up to 20,000 of them, drawn at random, are searched for 200 of the class.
        indices: The numbers of the images in their set, see `InterpretGAN.explain`.
        frames: How many, at least 2.
        seed: Of the noise and of the search. `None`: the interpreter's, as `explain` takes it.

    Raises:
        LayerError, LabelError: A layer or a class that is none.
        ConfigError: An image that the network takes for the class already.
        DataError: No reference image that it takes for the class.
    """
    classifier, found = interpreter.classifier, _layer(interpreter, layer)
    images = classifier.check_images(images)
    logits, latents = capture(classifier, images, [found])
    z, numbers = latents[found.name], _numbers(images, indices)
    if not 0 <= towards < logits.shape[1]:
        raise LabelError(expected=f"a class from 0 to {logits.shape[1] - 1}", got=str(towards), do="name one of them")
    if len(has := (logits.argmax(dim=1) == towards).nonzero()[:, 0] + 1):
        got = f"{towards}, which it sees at place {', '.join(map(str, has.tolist()))} of the {len(images)} images"
        do = "name another class, or leave these images out"
        raise ConfigError(expected="a class that the network does not see already", got=got, do=do)
    seed = interpreter.seed if seed is None else as_seed(seed)
    natural = _of_class(interpreter, found, towards, as_source(reference, None, classifier.bounds), seed)
    end = nearest(z, natural)
    look = _looking(interpreter, found, z, images, judge=judge, noise=interpreter.noise_of(numbers, seed=seed))
    change = by_unit(end - z).double().mean(dim=2)
    return CounterfactualPath(layer, *_frames(look, z, end, frames), towards, change)


def nearest(z: Tensor, natural: Tensor) -> Tensor:
    """For each latent `[N, *shape]` the mean of the ten of the natural ones `[M, *shape]` that are nearest to it."""
    distances = torch.cdist(z.flatten(1).float(), natural.flatten(1).float())
    return natural[distances.topk(min(NEAREST, len(natural)), largest=False).indices].mean(dim=1)


def _layer(interpreter: InterpretGAN, name: str) -> Layer:
    """The distinct layer behind a name of the interpreter's; a `LayerError` where there is none."""
    names = [each.name for each in interpreter.layers]
    if name not in names:
        raise LayerError(expected=f"one of the layers {', '.join(names)}", got=f"'{name}'", do="choose one of them")
    return interpreter.distinct_layers[interpreter.rows[names.index(name)]]


def _numbers(images: Tensor, indices: Sequence[int] | None) -> Sequence[int]:
    return range(len(images)) if indices is None else indices


def _looking(
    interpreter: InterpretGAN, layer: Layer, z: Tensor, images: Tensor, *, judge: Predictor, noise: Tensor
) -> Look:
    """What draws latents of these images, and says what the rest of the network and the judge see."""
    logits = rest_of_network(interpreter.classifier, layer, z, images)
    everyone = torch.arange(len(images), device=z.device)

    def look(latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        picture = interpreter.draw_from(layer, latent, noise)
        with torch.no_grad():
            return picture, logits(latent, everyone).argmax(dim=1), judge.predict(picture)

    return look


def _frames(look: Look, z: Tensor, end: Tensor, count: int) -> tuple[tuple[float, ...], Tensor, Tensor, Tensor]:
    """The straight way from `z`: shares, pictures, and the classes that network and judge see."""
    shares = tuple(torch.linspace(0, 1, count).tolist())
    drawn, classes, judged = zip(*(look(z + share * (end - z)) for share in shares), strict=True)
    return shares, torch.stack(drawn), torch.stack(classes), torch.stack(judged)


def _of_class(interpreter: InterpretGAN, layer: Layer, wanted: int, source: ImageSource, seed: int) -> Tensor:
    """Latents `[M, *shape]` of natural images that the network takes for a class."""
    classifier, found = interpreter.classifier, list[Tensor]()
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:SEARCHED]
    for index in torch.split(order, BATCH):
        logits, latents = capture(classifier, source.batch(index)[0].to(classifier.device), [layer])
        found.append(latents[layer.name][logits.argmax(dim=1) == wanted])
        if sum(map(len, found)) >= OF_CLASS:
            break
    if not any(map(len, found)):
        expected, got = f"natural images that the network takes for class {wanted}", f"none among {len(order)}"
        raise DataError(expected=expected, got=got, do="pass some, or name another class")
    return torch.cat(found)
