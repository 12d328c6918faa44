"""One interface for scores of layers: name, source, which end blames, cost, and one number a layer.

Measured and printed, with the place of the layer that each blames::

    inputs = ScoreInputs(classifier, layers, images, labels, adversarial, train, threat_model, seed)
    for found in measure_scores(LAYER_SCORES, inputs, say=print):
        print(found.name, found.error or found.top)

The scores themselves are defined in `definitions.py` and `probes.py`; controls, and what is measured elsewhere, here.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np
import torch

from interpretgan.baselines import definitions, probes
from interpretgan.baselines.inputs import ScoreInputs
from interpretgan.errors import ConfigError, InterpretGANError, in_a_line
from interpretgan.statistics import Floats

__all__ = [
    "LAYER_SCORES", "LayerScore", "MeasuredScore", "ScoreInputs", "measure_scores", "top_layer",
]  # fmt: skip

Direction = Literal["high", "low"]


@dataclass(frozen=True)
class LayerScore:
    """A score that gives each layer a number."""

    name: str
    what: str  #: What it measures, in half a sentence.
    source: str  #: Where it comes from.
    direction: Direction  #: Which end blames a layer.
    cost: str  #: In words.
    measure: Callable[[ScoreInputs], Floats]  #: One number for each layer, `[layers]`.


@dataclass(frozen=True)
class MeasuredScore:
    """A score as it was measured on one network, or why it was not."""

    name: str
    what: str
    source: str
    direction: Direction
    cost: str
    seconds: float  #: That it took.
    values: tuple[float | None, ...] = ()  #: One for each layer; `None`: not a finite number. Empty after an error.
    error: str | None = None  #: In a line. `None`: it could be measured.

    @property
    def top(self) -> int | None:
        """Which of the values blames most, from 0; `None` where none is a number, or several blame alike.

        Rows beside each other may share a tensor, and so its value: of these the first is taken, unless all are alike.
        """
        if all(value is None for value in self.values):
            return None
        place = top_layer(self, [math.nan if v is None else v for v in self.values])
        alike = [other for other, value in enumerate(self.values) if value == self.values[place]]
        beside = alike[-1] - place < len(alike) < max(2, len(self.values))
        return place if beside else None


def top_layer(score: LayerScore | MeasuredScore, values: Sequence[float] | Floats) -> int:
    """Which layer a score blames, from 0: that of the highest or the lowest value, by its direction.

    Of equal values the earliest layer is taken. What is not a number is never blamed; where there is no number at all,
    there is a `ConfigError`.
    """
    signed = np.asarray(values, dtype=np.float64) * (1 if score.direction == "high" else -1)
    if not len(signed) or np.isnan(signed).all():
        raise ConfigError(expected=f"a number of {score.name} for a layer", got="none", do="measure it again")
    return int(np.nanargmax(signed))


def measure_scores(
    names: Iterable[str], inputs: ScoreInputs, *, say: Callable[[str], None] | None = None
) -> list[MeasuredScore]:
    """Measure the named scores on one network, in the order of the names.

    One that cannot run has its error in a line, and the others go on. The classifier comes back untouched. `say` is
    told of each what it took, or why it could not run.

    Raises:
        ConfigError: A name that is no score's, or inputs without a layer or an image, or of different lengths.
    """
    chosen = [_known(name) for name in names]
    sizes = [len(inputs.images), len(inputs.adversarial), len(inputs.labels)]
    if not inputs.layers or not sizes[0] or len(set(sizes)) > 1:
        expected = "layers, and as many adversarial images and labels as images"
        got = f"{len(inputs.layers)} layers, {', '.join(map(str, sizes))} images, adversarial images and labels"
        raise ConfigError(expected=expected, got=got, do="pass one of each for each image")
    found = []
    with torch.inference_mode(False), torch.enable_grad(), inputs.classifier.borrowed():
        for score in chosen:
            began, values, error = time.perf_counter(), np.array([]), None
            try:
                values = score.measure(inputs)
            except InterpretGANError as refused:
                error = str(refused)
            except Exception as failed:  # noqa: BLE001  # whatever the user's model does
                error = in_a_line(failed)
            seconds = time.perf_counter() - began
            numbers = tuple(float(value) if math.isfinite(value) else None for value in values)
            about = (score.name, score.what, score.source, score.direction, score.cost)
            found.append(MeasuredScore(*about, seconds, numbers, error))
            if say is not None:
                say(f"{score.name}: {f'{seconds:.1f} s' if error is None else f'not measured: {error}'}")
    return found


def _known(name: str) -> LayerScore:
    if name not in LAYER_SCORES:
        near = get_close_matches(name, LAYER_SCORES, n=1, cutoff=0.6)
        do = f"did you mean {near[0]}?" if near else "choose one of them"
        raise ConfigError(expected=f"a score of {', '.join(LAYER_SCORES)}", got=f"'{name}'", do=do)
    return LAYER_SCORES[name]


# --- the scores --------------------------------------------------------------------------------------------------


def information_loss(inputs: ScoreInputs) -> Floats:
    """`u_l - u_{l-1}`: the share of the image's variance that the layer loses, as the decoders measured it."""
    if inputs.information is None:
        do = "leave --information-steps at its default"
        raise ConfigError(expected="the information loss of each layer", got="none measured", do=do)
    return inputs.information


def random_order(inputs: ScoreInputs) -> Floats:
    """Numbers drawn uniformly from 0 to 1 by the seed."""
    return np.random.default_rng(inputs.seed).random(len(inputs.layers))


def last_layer(inputs: ScoreInputs) -> Floats:
    """1 for the last layer, the logits, and 0 for all others."""
    return np.concatenate([np.zeros(len(inputs.layers) - 1), [1.0]])


def depth(inputs: ScoreInputs) -> Floats:
    """`l / L`, the share of the layers that end here: the first layer is blamed, and the rank is that of the depth."""
    return np.arange(1, len(inputs.layers) + 1) / len(inputs.layers)


_LATENTS = "one forward pass of the natural and one of the attacked images"
_PER_LAYER = "forward and backward passes of the natural images at each layer"
_FEW = f"of up to {definitions.SEARCHED} images"
_PROBES = "forward passes of 2,000 training images and the attacked ones, and a probe trained for each layer"
_SCORES = (
    LayerScore(
        "relative_error", "how far the attack moves the latent, relative to its length",
        "LSA, arXiv 2202.02626", "high", _LATENTS, definitions.relative_error,
    ),
    LayerScore(
        "feature_distortion", "how far the attack moves a unit, on average",
        "ANP-VS, ICML 2020, arXiv 1908.04355", "high", _LATENTS, definitions.feature_distortion,
    ),
    LayerScore(
        "robust_criticality", "how much a tenth of the layer's weights can raise the loss on the attacked images",
        "module robust criticality of RiFT, ICCV 2023, arXiv 2308.02533", "high",
        f"{definitions.ASCENT_STEPS + 1} passes of the attacked images, with gradient, for each layer with weights",
        definitions.robust_criticality,
    ),
    LayerScore(
        "latent_margin", "the smallest change of the latent, relative to its length, that gives another class",
        "DeepFool, arXiv 1511.04599, from the layer on", "low",
        f"{definitions.NEWTON_STEPS} {_PER_LAYER}, and {2 * definitions.HALVINGS + 2} forward passes, {_FEW}",
        definitions.latent_margin,
    ),
    LayerScore(
        "secant_lipschitz", "by how much the layer stretches what the attack did before it, at most",
        "the local Lipschitz constant along the attack", "high", _LATENTS, definitions.secant_lipschitz,
    ),
    LayerScore(
        "jacobian_norm", "by how much the layer can stretch a small change of its input",
        "spectral norms of layers, arXiv 1312.6199, at each latent", "high",
        f"{2 * definitions.POWER_STEPS + 2} passes back through each layer", definitions.jacobian_norm,
    ),
    LayerScore(
        "gradient_norm", "by how much the loss changes with the natural latent, in proportion",
        "gradient times input, arXiv 1605.01713", "high",
        "one forward and backward pass of the natural images at each layer", definitions.gradient_norm,
    ),
    LayerScore(
        "linear_probe", "how far a linear probe's accuracy on attacked latents falls at the layer",
        "linear probes, arXiv 1610.01644, read under attack", "high", _PROBES, probes.linear_probe,
    ),
    LayerScore(
        "mlp_probe", "the same of a probe with one hidden layer",
        "probes of one hidden layer, read under attack", "high", _PROBES, probes.mlp_probe,
    ),
    LayerScore(
        "information_loss", "the share of the image's variance that the layer loses",
        "our decoders, as the paper's claim, arXiv 2007.08716", "high", "the training of the decoders",
        information_loss,
    ),
    LayerScore(
        "path_alignment", "how much more than before the units' contributions to the wrong class pull the same way",
        "integrated gradients, arXiv 1703.01365, from each natural latent to the attacked one", "high",
        f"{definitions.PATH_POINTS} {_PER_LAYER}, {_FEW}", definitions.path_alignment,
    ),
    LayerScore("random", "numbers drawn by chance", "a control", "high", "none", random_order),
    LayerScore("last", "always the last layer", "a control", "high", "none", last_layer),
    LayerScore("depth", "the earlier, the more to blame", "a control", "low", "none", depth),
)  # fmt: skip
LAYER_SCORES: dict[str, LayerScore] = {score.name: score for score in _SCORES}
"""All scores, by name; the controls come last."""
