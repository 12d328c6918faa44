"""All that can be said of a few images, at the layer where each turns: what `interpretgan explain` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interpretgan.baselines.explainers import EXPLAINERS, Explainer, ExplainerError
from interpretgan.baselines.patterns import pattern_explainers
from interpretgan.data import ImageData
from interpretgan.errors import LayerError
from interpretgan.features.exciting_patches import ExcitingPatch, exciting_patches
from interpretgan.features.latent_paths import AdversarialPath, CounterfactualPath, counterfactual_path, latent_path
from interpretgan.features.modified import ModifiedFeatures, modified_features
from interpretgan.interpreter import Explanation, InterpretGAN, Predictor
from interpretgan.layers import Layer, find_layers

UNITS = 5  #: Of each image that are looked at, the most responsible ones.
MORE_DRAWS = 3  #: Of the same latents, where the generator was trained to vary.


@dataclass(frozen=True, eq=False)
class Shown:
    """What another explainer shows of `N` images, or why it does not; maps `[N, H, W]` or pictures `[N, C, H, W]`."""

    explainer: Explainer
    layers: tuple[str, ...]  #: For each image the layer that was explained, where the method has one.
    natural: Tensor | None = None  #: Of the natural images, for the true class. `None`: see `error`.
    adversarial: Tensor | None = None  #: Of the adversarial images, for the true class.
    adversarial_shown: Tensor | None = None  #: The same for the class that is shown.
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Findings:
    """All that was found of `N` images."""

    explanation: Explanation
    layers: tuple[str, ...]  #: For each image the layer that is looked at.
    units: ModifiedFeatures  #: At these layers.
    patches: Mapping[str, Mapping[int, Sequence[ExcitingPatch]]]  #: By layer and unit: what excites it.
    paths: Mapping[str, AdversarialPath]  #: By layer, of all images.
    others: tuple[Shown, ...]
    draws: tuple[Explanation, ...] = ()  #: The natural images again, with other noise; see `GANConfig.diversity`.
    #: By layer, of all images: the way towards the class that was asked for, if one was.
    towards: Mapping[str, CounterfactualPath] = field(default_factory=dict)

    def arrays(self) -> dict[str, Any]:
        """Everything but the units as arrays by name, for an .npz file."""
        found: dict[str, Any] = {name: value for name, value in vars(self.explanation).items() if value is not None}
        found["looked_at"] = list(self.layers)
        for kind, paths in (("path", self.paths), ("towards", self.towards)):
            for layer, path in paths.items():
                found |= {f"{kind}/{layer}/{name}": value for name, value in vars(path).items() if name != "layer"}
        for other in self.others:
            values = {name: getattr(other, name) for name in ("natural", "adversarial", "adversarial_shown")}
            found |= {f"{other.explainer.name}/{name}": value for name, value in values.items() if value is not None}
        if self.draws:
            found["draws"] = torch.stack([draw.natural_explanations for draw in self.draws])
        return found


def look_closely(
    interpreter: InterpretGAN,
    judge: Predictor,
    images: Tensor,
    adversarial: Tensor,
    labels: Tensor,
    *,
    reference: ImageData,
    layer: str | None = None,
    towards: int | None = None,
    explainers: Sequence[Explainer] | None = None,
    indices: Sequence[int] | None = None,
    seed: int | None = None,
    say: Callable[[str], None] | None = None,
) -> Findings:
    """Explain images at every layer, and look closely at one: its units, the way there, and other explainers.

    Args:
        interpreter: A fitted one.
        judge: Predicts the class that explanations show.
        images: `[N, C, H, W]` within the classifier's bounds.
        adversarial: `x'` of each.
        labels: True classes `[N]`.
        reference: Natural images with their classes, for the deviation of units and the patches that excite them.
        layer: The layer to look at. `None`: for each image the one where it turns, and where it turns at none or as an
            image, the last before the logits.
        towards: A class that the network sees in none of the images, for `counterfactual_path`.
        explainers: Other methods to show; one that the network does not allow leaves its reason. `None`: those of
            `EXPLAINERS`, and the two of `pattern_explainers`.
        indices: The numbers of the images in their set, see `InterpretGAN.explain`.
        seed: Of the noise. `None`: the interpreter's.
        say: Told in a line what happens.

    Raises:
        InterpretGANError: See `InterpretGAN.explain`, `modified_features` and `counterfactual_path`; a `LayerError` for
            an unknown layer.
    """
    say, classifier = say or (lambda _: None), interpreter.classifier
    known = {each.name: each for each in interpreter.layers}
    if layer is not None and layer not in known:
        raise LayerError(expected=f"one of the layers {', '.join(known)}", got=f"'{layer}'", do="choose one of them")
    explanation = interpreter.explain(images, adversarial, labels=labels, judge=judge, indices=indices, seed=seed)
    noise = interpreter.seed if seed is None else seed
    seeds = range(noise + 1, noise + 1 + MORE_DRAWS) if interpreter.resolved_config.diversity else ()
    draws = tuple(interpreter.explain(images, judge=judge, indices=indices, seed=each) for each in seeds)
    images, adversarial = classifier.check_images(images), classifier.check_images(adversarial)
    last = interpreter.layers[max(0, len(interpreter.layers) - 2)].name
    places = tuple(layer or (turn if turn in known else last) for turn in explanation.turns)
    used = [each for name, each in known.items() if name in places]
    say(f"looking closely at {', '.join(each.name for each in used)}")
    ways = {} if towards is None else {
        each.name: counterfactual_path(
            interpreter, images, each.name, towards, judge=judge, reference=reference, indices=indices, seed=seed
        )
        for each in used
    }  # fmt: skip
    units = modified_features(
        classifier, images, adversarial, labels, layers=used, reference=reference, seed=interpreter.seed
    )
    tops = {
        each: {u for row, place in enumerate(places) if place == each.name for u in units[each.name].top(row, UNITS)}
        for each in used
    }
    patches = exciting_patches(classifier, {each: sorted(top) for each, top in tops.items()}, reference)
    paths = {}
    for each in used:
        paths[each.name] = latent_path(
            interpreter, images, adversarial, each.name,
            judge=judge, units=units[each.name], indices=indices, seed=seed,
        )  # fmt: skip
    others, shown = list[Shown](), torch.as_tensor(units.shown)
    for explainer in (*EXPLAINERS, *pattern_explainers(reference)) if explainers is None else explainers:
        others.append(_shown(explainer, interpreter, places, (images, adversarial), (labels, shown)))
        say(f"{explainer.name}: {others[-1].error or f'{others[-1].seconds:.1f} s'}")
    return Findings(explanation, places, units, patches, paths, tuple(others), draws, ways)


def _shown(
    explainer: Explainer,
    interpreter: InterpretGAN,
    places: Sequence[str],
    images: tuple[Tensor, Tensor],
    classes: tuple[Tensor, Tensor],
) -> Shown:
    """What an explainer shows of natural and adversarial images, those of one layer at a time."""
    began, layers = time.perf_counter(), interpreter.layers
    if explainer.needs_maps and not any(len(layer.shape) == 3 for layer in layers):
        layers = tuple(find_layers(interpreter.classifier, images[0][:1]))  # others than those that are explained
    used = [_suiting(explainer, layers, place) for place in places]
    names, (natural, adversarial), (true, shown) = tuple(layer.name for layer in used), images, classes

    def explain(x: Tensor, targets: Tensor) -> Tensor:
        found: dict[int, Tensor] = {}
        for layer in dict.fromkeys(used):
            rows = [row for row, other in enumerate(used) if other == layer]
            pictures = explainer.explain(interpreter.classifier, layer, x[rows], targets[rows]).cpu()
            found |= dict(zip(rows, pictures, strict=True))
        return torch.stack([found[row] for row in range(len(x))])

    try:
        before, after = explain(natural, true), explain(adversarial, true)
        # A picture shows a latent, whatever class is asked for.
        as_shown = after if explainer.kind == "picture" else explain(adversarial, shown)
    except ExplainerError as error:
        return Shown(explainer, names, error=str(error))
    return Shown(explainer, names, before, after, as_shown, seconds=time.perf_counter() - began)


def _suiting(explainer: Explainer, layers: Sequence[Layer], place: str) -> Layer:
    """The layer that a method is given: that place, or where it needs maps the last layer up to there that has some."""
    upto = layers[: [layer.name for layer in layers].index(place) + 1]
    maps = [layer for layer in upto if len(layer.shape) == 3]
    return maps[-1] if explainer.needs_maps and maps else upto[-1 if explainer.uses_layer else 0]
