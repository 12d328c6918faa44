"""Pretrained classifiers by name, and their cards: what each is, what it was trained on and how, and what it reaches.

A card and its weights lie side by side in this folder, as NAME.json and NAME.safetensors.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from interpretgan.classifier import Classifier
from interpretgan.errors import ModelError, WeightsError
from interpretgan.models.build import build_model
from interpretgan.models.named import find_named, is_named
from interpretgan.models.weights import load_weights
from interpretgan.store.files import file_sha256, read_json, write_json

ZOO = Path(__file__).parent  #: Folder of the cards and weights.
SCHEMA = 2
PRETRAINED_EXPECTED = tuple(
    f"{architecture}-{pool}{objective}"
    for architecture in ("lenet5", "vgg-small")
    for objective in ("", "-pgd", "-trades")
    for pool in ("max", "avg")
)
"""The classifiers that a release ships."""


@dataclass(frozen=True)
class Card:
    """What there is to know about a pretrained classifier."""

    name: str  #: `architecture-pool`, and `-objective` unless that is the natural one.
    architecture: str  #: What `build_model` makes it of, with the five that follow.
    pool: str
    width: float
    in_channels: int
    num_classes: int
    image_size: tuple[int, int]  #: Height and width.
    bounds: tuple[float, float]  #: See `Classifier`, also for mean and std.
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    classes: tuple[str, ...]  #: Their names.
    data: Mapping[str, Any]  #: `name`, `sha256` and `note` of the training images.
    objective: Mapping[str, Any]  #: `name`, and the settings of the training objective.
    recipe: Mapping[str, Any]  #: Settings of the training.
    seed: int  #: Of the training.
    training: Mapping[str, Any]  #: What the training did: steps, seconds, and which epoch the weights are of.
    versions: Mapping[str, str]  #: Of the packages that trained it.
    #: Accuracy on test images as `interpretgan evaluate` measures it: for `natural`, each attack and `worst_case` a
    #: mapping of value, low and high (0 to 1, a confidence interval) and examples. Beside them `threat_model`,
    #: `attacks`, `data`, `flags` and `provenance`; see `Evaluation`. `None`: not measured yet.
    figures: Mapping[str, Any] | None = None
    precision: str = ""  #: What the weights are stored in, `"float32"` or `"float16"`; they are loaded as float32.
    parameters: int = 0  #: Number of its parameters.
    sha256: str = ""  #: Of the weights file.
    state_sha256: str = ""  #: Of what is loaded of it; see `Classifier.state_sha256`.

    @property
    def eps(self) -> float | None:
        """Size of the perturbation that it was trained against; `None` after natural training."""
        threat_model = self.objective.get("threat_model")
        return None if threat_model is None else float(threat_model["eps"])

    def figure(self, name: str) -> Mapping[str, Any] | None:
        """An accuracy with its interval, of `natural`, an attack or `worst_case`; `None` if it was not measured."""
        return None if self.figures is None else self.figures.get(name)

    def save(self) -> None:
        """Write the card into `ZOO`."""
        write_json(ZOO / f"{self.name}.json", {"schema": SCHEMA, **asdict(self)})


def proper_name(architecture: str, pool: str, objective: str) -> str:
    """The name of the classifier of this kind."""
    return f"{architecture}-{pool}" + ("" if objective == "natural" else f"-{objective}")


def weights_file(name: str) -> Path:
    """Where the weights of a pretrained classifier are."""
    return ZOO / f"{name}.safetensors"


def card_names() -> tuple[str, ...]:
    """Names of the pretrained classifiers there are: first those that a release ships, in their order."""
    found = {file.stem for file in ZOO.glob("*.json")}
    return (*(name for name in PRETRAINED_EXPECTED if name in found), *sorted(found - {*PRETRAINED_EXPECTED}))


def read_card(name: str) -> Card:
    """The card of a pretrained classifier; `ModelError` for an unknown name, `WeightsError` for a damaged card."""
    names = card_names()
    if name not in names:
        related = [known for known in names if known.startswith(f"{name}-")] or get_close_matches(name, names, n=3)
        do = f"choose {' or '.join(related)}" if related else "see `interpretgan models` for the list"
        raise ModelError(expected="the name of a pretrained classifier", got=repr(name), do=do)
    file = ZOO / f"{name}.json"
    content = read_json(file)
    wanted = {"schema", *(field.name for field in fields(Card))}
    if not isinstance(content, dict) or content.keys() != wanted or content.pop("schema") != SCHEMA:
        raise WeightsError(expected=f"a card of schema {SCHEMA}", got=str(file), do="install the package again")
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
    card = Card(**values)
    if card.name != name or card.name != proper_name(card.architecture, card.pool, card.objective["name"]):
        raise WeightsError(expected=f"the card of {name}", got=f"that of {card.name}", do="install the package again")
    return card


def load_classifier(name: str, *, device: torch.device | str = "cpu") -> Classifier:
    """A trained classifier by name, on a device.

    One that comes with the package, such as `"lenet5-avg-trades"` (`interpretgan models` lists them), or a public one
    with its own normalisation, such as `"timm:resnet18"`; see `find_named`, also for the size of its images.
    `ModelError` for a name that does not exist or a public model that cannot be
    loaded, `WeightsError` for weights that are missing or not those of the card.
    """
    if is_named(name):
        named = find_named(name)
        return Classifier(named.load(None).to(device).eval(), mean=named.mean, std=named.std)
    card = read_card(name)
    file = weights_file(name)
    if not file.is_file():
        raise WeightsError(expected=f"the weights of {name}", got=f"no file at {file}", do="install the package again")
    found = file_sha256(file)
    if found != card.sha256:
        expected, got = f"weights with the SHA-256 of their card, {card.sha256[:12]}...", f"{found[:12]}... in {file}"
        raise WeightsError(expected=expected, got=got, do="install the package again: the file is damaged")
    model = build(card)
    load_weights(model, file)
    return Classifier(model.to(device).eval(), bounds=card.bounds, mean=card.mean, std=card.std)


def build(card: Card) -> torch.nn.Module:
    """The network of a card, without its weights; the global random state stays as it is."""
    settings = {key: getattr(card, key) for key in ("in_channels", "num_classes", "image_size", "pool", "width")}
    with torch.random.fork_rng(devices=()):
        return build_model(card.architecture, **settings)
