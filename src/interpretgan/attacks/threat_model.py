"""What the adversary may do: norm, eps, the search, and whether a perturbation keeps to them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor

from interpretgan.errors import ThreatModelError

NORMS = ("linf", "l2")
ATTACKS = ("fgsm", "pgd")
TOLERANCE = 1e-6  #: Rounding allowed above eps, relative to the largest of one, eps and the size of a pixel.
SMALL = 0.1  #: Sizes below this are written in 255ths, of pixels from 0 to 1.

USUAL_EPS = {"digits": 0.2, "mnist": 0.2, "cifar10": 8 / 255}  #: In L-infinity, of pixels from 0 to 1.

EXAMPLES = {
    "eps": "8/255 for 8 of 255 levels, in the units of the pixels", "step_size": "2/255, in the units of the pixels",
    "steps": "20", "restarts": "1",
}  # fmt: skip

Bounds: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class ThreatModel:
    """What the adversary may do: `x'` with `||x' - x|| <= eps` inside the pixel bounds, and how it searches.

    Raises `ThreatModelError` for a setting out of range.
    """

    norm: str  #: `"linf"` (largest change of a pixel) or `"l2"` (Euclidean length over all pixels and channels).
    eps: float  #: Size of the perturbation, > 0, in the units of the pixels.
    attack: str = "pgd"  #: `"pgd"` [25], iterated with a random start, or `"fgsm"` [27], one step of size eps.
    steps: int = 20  #: Iterations of PGD; FGSM has one.
    restarts: int = 1  #: Random starts, of which the worst case per example counts. FGSM has no random start.
    #: Length of a step. `None`: eps for FGSM; eps / 4 for L-infinity PGD of 10 steps or more (the usual choice, e.g.
    #: 0.05 at 0.2 and 2/255 at 8/255); else 2.5 eps / steps (as in Madry et al. [25]), at most eps.
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Check every setting."""
        for name, known in (("norm", NORMS), ("attack", ATTACKS)):
            if getattr(self, name) not in known:
                got = repr(getattr(self, name))
                raise ThreatModelError(expected=f"{name} {' or '.join(known)}", got=got, do="choose one of them")
        number, whole = (int, float), (int,)
        for name, types in (("eps", number), ("step_size", number), ("steps", whole), ("restarts", whole)):
            value = getattr(self, name)
            value = value.item() if getattr(value, "shape", None) == () else value  # a number of numpy's or torch's
            if value is None and name == "step_size":
                continue
            if isinstance(value, bool) or not isinstance(value, types) or not 0 < value < math.inf:
                expected = f"a finite {name} > 0" if float in types else f"a whole number of {name} >= 1"
                do = f"choose e.g. {EXAMPLES[name]}"
                raise ThreatModelError(expected=expected, got=repr(value), do=do)
            object.__setattr__(self, name, types[-1](value))
        if self.attack == "fgsm":
            if self.restarts > 1 or self.step_size not in (None, self.eps):
                step = "" if self.step_size is None else f" and a step of {self.step_size:g}"
                expected, do = "fgsm with one restart and a step of eps", "leave both at their defaults, or use pgd"
                raise ThreatModelError(expected=expected, got=f"{self.restarts}{step}", do=do)
            object.__setattr__(self, "steps", 1)  # the default belongs to PGD; the record states what is run

    @property
    def resolved_step_size(self) -> float:
        """The step that is taken, in the units of the pixels."""
        if self.step_size is not None:
            return self.step_size
        if self.attack == "fgsm":
            return self.eps
        if self.norm == "linf" and self.steps >= 10:
            return self.eps / 4
        return min(self.eps, 2.5 * self.eps / self.steps)

    def allowed(self, bounds: Bounds) -> float:
        """Eps with the rounding that is allowed above it."""
        return self.eps + TOLERANCE * max(1.0, self.eps, *map(abs, bounds))

    def to_dict(self) -> dict[str, Any]:
        """All settings, the step size resolved."""
        return asdict(self) | {"step_size": self.resolved_step_size}


def usual_eps(data: str, norm: str) -> float:
    """The eps that is usual on a data set by name; a `ThreatModelError` on other data and in other norms."""
    if norm != "linf" or data not in USUAL_EPS:
        do = "pass e.g. --eps 8/255 in linf on photographs, 0.3 on drawings, or 0.5 in l2"
        raise ThreatModelError(expected=f"an eps for {data} in {norm}, which has no usual one", got="none", do=do)
    return USUAL_EPS[data]


def iterated(threat_model: ThreatModel) -> ThreatModel:
    """The threat model itself, or PGD of the same size in place of FGSM."""
    return threat_model if threat_model.attack == "pgd" else ThreatModel(threat_model.norm, threat_model.eps)


def resized(threat_model: ThreatModel, eps: float) -> ThreatModel:
    """The same PGD at another eps, its step in proportion."""
    step = threat_model.step_size
    return replace(threat_model, eps=eps, step_size=None if step is None else step * eps / threat_model.eps)


def perturbation_size(difference: Tensor, norm: str) -> Tensor:
    """Norm of each example of `difference` `[N, C, H, W]`: `[N]`, in the units of the pixels."""
    flat = difference.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)


def check_perturbation(images: Tensor, adversarial: Tensor, threat_model: ThreatModel, bounds: Bounds) -> None:
    """Raise `ThreatModelError` unless every perturbed image is within eps (up to rounding), and within the bounds."""
    largest = float(perturbation_size(adversarial - images, threat_model.norm).max())
    (low, high), (least, most) = bounds, (float(v) for v in adversarial.aminmax())
    if not (largest <= threat_model.allowed(bounds) and least >= low and most <= high):
        expected = f"a {threat_model.norm} perturbation <= {threat_model.eps:g} within [{low:g}, {high:g}]"
        got = f"size {largest:.8g}, pixels within [{least:.8g}, {most:.8g}]"
        raise ThreatModelError(expected=expected, got=got, do="state the threat model that the images were made under")


def largest_eps(norm: str, bounds: Bounds, shape: Sequence[int]) -> float:
    """The distance between the darkest and the brightest image `[C, H, W]`: no perturbation can be larger."""
    width = bounds[1] - bounds[0]
    return width if norm == "linf" else width * math.sqrt(math.prod(shape))


def require_eps_within_range(threat_model: ThreatModel, bounds: Bounds, shape: Sequence[int]) -> None:
    """Refuse (`ThreatModelError`) an eps beyond the whole range of the pixels: it is in other units than theirs."""
    most = largest_eps(threat_model.norm, bounds, shape)
    if threat_model.eps > most:
        expected = f"a {threat_model.norm} eps <= {most:g}, for pixels within [{bounds[0]:g}, {bounds[1]:g}]"
        do = "state it in the units of the pixels, e.g. 8/255 for 8 of 255 levels"
        raise ThreatModelError(expected=expected, got=f"{threat_model.eps:g}", do=do)


def fraction(eps: float) -> str:
    """A size as people write it: a small one in 255ths, as on photographs, where it is a whole number of them."""
    levels = eps * 255
    return f"{round(levels)}/255" if eps < SMALL and abs(levels - round(levels)) < 1e-6 else f"{eps:g}"
