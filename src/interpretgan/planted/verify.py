"""The proof by intervention that the planted layers, and no others, make a network fragile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from interpretgan.attacks import ThreatModel, equal_norm_noise, iterated, predicted_right, search, survivors
from interpretgan.attacks.named_attacks import search_margin
from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, as_image_set
from interpretgan.layers import examine
from interpretgan.planted.kinds import Planted
from interpretgan.torch_state import as_seed

NATURAL_TOLERANCE = 0.01  #: Natural accuracy moves by no more than this.
ROBUST_FALL = 0.15  #: Robust accuracy falls by no less than this.
MENDED_TOLERANCE = 0.05  #: Mended, it comes back to within this.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Verification:
    """Whether a plant is what it claims to be, by interventions alone; shares of test images, 0 to 1.

    `None` is what was not measured, as a check before it had failed.
    """

    natural: float  #: Natural accuracy of the planted network.
    original_natural: float  #: Natural accuracy of the network before.
    original_robust: float | None  #: Its robust accuracy.
    robust: float | None  #: Robust accuracy of the planted network.
    mended: float | None  #: Robust accuracy where all planted layers are mended.
    #: Robust accuracy, or a bound above it that is low enough, where one layer alone is mended, for each layer of the
    #: network that neither contains nor is inside a planted one, until one brings robust accuracy back.
    alone: Mapping[str, float]
    examples: int  #: Number of test images.
    threat_model: Mapping[str, Any]  #: Every setting of the attacks.
    seed: int  #: Of the attacks.
    #: Accuracy of the planted network under random noise of the same size, as it was measured for a verified plant. It
    #: proves nothing: where it is low the plant needs no attack, and a diagnosis is right to see noise turn the class.
    noise: float | None = None
    failed: str = ""  #: Which check failed: `natural`, `robust`, `mended` or `alone`; empty where none did.
    reason: str = ""  #: Why the plant is not verified, in words.

    @property
    def verified(self) -> bool:
        """Whether the plant is what it claims to be."""
        return not self.failed


class Interventions:
    """Proves plants in one robust network, which is measured once for all of them.

    A proof says that the planted layers, and no others, make the network fragile. Robust accuracy is the worst case of
    PGD on the cross-entropy and on the margin, over all restarts of both. Natural accuracy must stay within a point,
    robust accuracy fall by 15 points, come within 5 points of where it was when the planted layers are mended, and stay
    15 points below when any other layer, or one of two, is mended instead. A network without a plant must keep both
    accuracies. What follows a check that fails is not measured.

    Args:
        original: The robust network that plants are made from.
        data: Test images with classes.
        threat_model: Norm, eps and steps of the attacks.
        examples: How many images, from the first.
        restarts: Random starts of each attack.
        seed: Of the attacks.
    """

    def __init__(
        self,
        original: Classifier,
        data: ImageData,
        threat_model: ThreatModel,
        *,
        examples: int = 500,
        restarts: int = 3,
        seed: int = 0,
    ) -> None:
        source = as_image_set(data, "test", bounds=original.bounds).head(examples)
        self._images, self._labels = (tensor.to(original.device) for tensor in source.batch(slice(0, len(source))))
        self._strong, self._seed = replace(iterated(threat_model), restarts=restarts), as_seed(seed)
        self.original = original

    @cached_property
    def natural(self) -> float:
        """Natural accuracy of the network without a plant."""
        return self._natural(self.original)

    @cached_property
    def robust(self) -> float:
        """Its robust accuracy."""
        return self._robust(self.original)

    def verify(self, planted: Planted) -> Verification:
        """Check one claim after the other, until one fails."""
        found = Verification(
            self._natural(planted.classifier), self.natural, None, None, None, {}, len(self._labels),
            self._strong.to_dict(), self._seed,
        )  # fmt: skip
        if abs(found.natural - self.natural) > NATURAL_TOLERANCE + ROUNDING:
            reason = f"natural accuracy moves from {self.natural:.3f} to {found.natural:.3f}"
            return replace(found, failed="natural", reason=reason)
        same = planted.classifier.state_sha256() == self.original.state_sha256()
        robust = self.robust if same else self._robust(planted.classifier)
        found, fall = replace(found, original_robust=self.robust, robust=robust), self.robust - robust
        if not planted.layers:
            if abs(fall) <= MENDED_TOLERANCE:
                return replace(found, mended=robust, noise=self._noise(planted.classifier))
            return replace(found, failed="robust", reason=f"without a plant robust accuracy falls by {fall:.3f}")
        if fall < ROBUST_FALL - ROUNDING:
            reason = f"robust accuracy falls by {fall:.3f}, from {self.robust:.3f}, and not by {ROBUST_FALL}"
            return replace(found, failed="robust", reason=reason)
        repaired = planted.mended(*planted.layers)
        # The same network under the same attack has the same accuracy.
        mended = self.robust if repaired.state_sha256() == self.original.state_sha256() else self._robust(repaired)
        found = replace(found, mended=mended)
        if self.robust - mended > MENDED_TOLERANCE + ROUNDING:
            names = " and ".join(planted.layers)
            reason = f"with {names} mended robust accuracy is {mended:.3f}, not as before"
            return replace(found, failed="mended", reason=reason)
        alone: dict[str, float] = {}
        for layer in examine(self.original, self._images).distinct:
            name = layer.module
            near = [other for other in planted.layers if _contains(name, other) or _contains(other, name)]
            if name and (not near or (name in planted.layers and len(planted.layers) > 1)):
                unchanged, enough = _same(planted.classifier, self.original, name), self.robust - ROBUST_FALL + ROUNDING
                value = robust if unchanged else self._robust(planted.mended(name), enough)
                alone[layer.name] = value
                if value > enough:
                    reason = f"with {layer.name} mended instead robust accuracy is {value:.3f}"
                    return replace(found, alone=alone, failed="alone", reason=reason)
        return replace(found, alone=alone, noise=self._noise(planted.classifier))

    def _natural(self, classifier: Classifier) -> float:
        return float(predicted_right(classifier, self._images, self._labels).double().mean())

    def _noise(self, classifier: Classifier) -> float:
        noisy = equal_norm_noise(self._images, self._strong, classifier.bounds, seed=self._seed)
        return float(predicted_right(classifier, noisy, self._labels).double().mean())

    def _robust(self, classifier: Classifier, enough: float = -1.0) -> float:
        """Worst case of PGD on cross-entropy and margin over all restarts, until it is low `enough`: then a bound."""
        right = torch.ones_like(self._labels, dtype=torch.bool)
        once, share = replace(self._strong, restarts=1), 1.0
        for method in (search, search_margin):
            for restart in range(self._strong.restarts):
                left = right.nonzero().flatten()
                if not len(left) or share <= enough:
                    return share
                seed, images, labels = self._seed + restart, self._images[left], self._labels[left]
                right[left] = survivors(classifier, images, labels, once, seed=seed, method=method)
                share = float(right.double().mean())
        return share


def _contains(name: str, other: str) -> bool:
    """Whether a module is another one or contains it, by their qualified names."""
    return f"{other}.".startswith(f"{name}.")


def _same(classifier: Classifier, other: Classifier, name: str) -> bool:
    """Whether a module is the same in two networks, so that to exchange it changes nothing."""
    one, two = (Classifier(network.model.get_submodule(name)) for network in (classifier, other))
    return one.identity() == two.identity() and one.state_sha256() == two.state_sha256()
