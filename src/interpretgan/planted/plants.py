"""The table of plants: which networks, which kinds, at which layers, from which seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet, load_data
from interpretgan.errors import ConfigError, InterpretGANError
from interpretgan.models import build_model, load_classifier, load_weights, save_weights
from interpretgan.planted.kinds import KINDS, Planted, plant
from interpretgan.planted.lipschitz import lipschitz_model, train_lipschitz
from interpretgan.store.progress import OnProgress
from interpretgan.store.training_checkpoint import fingerprint_of
from interpretgan.training import Recipe, build_objective, train_classifier

LIPSCHITZ = "lipschitz"  #: Architecture of `lipschitz_model`, trained on natural images.


@dataclass(frozen=True)
class RobustTraining:
    """How a network that does not come with the package is trained."""

    architecture: str  #: A name that `build_model` knows, trained on PGD; or `LIPSCHITZ`.
    epochs: int  #: Passes over the training images.
    lr: float = 2e-3  #: Highest learning rate.
    batch_size: int = 128  #: Images per step.
    eps: float = 0.3  #: L-infinity size that is trained against; it grows over the first part of the training.
    steps: int = 5  #: Steps of the inner attack.


@dataclass(frozen=True)
class Network:
    """A robust network to plant in: its data, what it withstands, and the layers that plants are made at."""

    data: str  #: Name of the data set.
    threat_model: ThreatModel  #: What it withstands and a plant is fragile to.
    layers: tuple[str, ...]  #: Early to late, for gates.
    weighted: tuple[str, ...]  #: Those with weights, for the other kinds.
    kinds: tuple[str, ...] = ("gate", "twin", "substitution", "two", "none")  #: Which kinds are planted in it.
    training: RobustTraining | None = None  #: How it is made. `None`: it comes with the package.
    recognition_network: str | None = None  #: Of the generator, by its name. `None`: the planted network itself.


def _lenet() -> Network:
    layers = ("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "fc1", "relu3", "fc2")
    return Network("mnist", ThreatModel("linf", 0.2), layers, ("conv1", "conv2", "fc1", "fc2"))


def _vgg(recognition_network: str) -> Network:
    layers = ("conv1_1", "pool1", "conv2_1", "pool2", "conv3_1", "pool3", "conv4_1")
    weighted = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv4_1")
    # Within 4/255 a plant hardly leaves what natural images do, and costs natural accuracy: none of seven was verified.
    threat_model = ThreatModel("linf", 8 / 255)
    return Network("cifar10", threat_model, layers, weighted, recognition_network=recognition_network)


BLOCKS = ("conv1", "block1.layer.0", "block2.layer.0", "block3.layer.0")
NETWORKS: dict[str, Network] = {
    "lenet5-max-pgd": _lenet(),
    "lenet5-avg-pgd": _lenet(),
    "mnist-wide": Network(
        "mnist", ThreatModel("linf", 0.2), ("conv1", "pool1", "conv2", "pool2", "fc1"), ("conv1", "conv2", "fc1"),
        training=RobustTraining("mnist-wide", epochs=3, lr=1e-3),
    ),
    "residual": Network(
        "mnist", ThreatModel("linf", 0.2), BLOCKS, BLOCKS, training=RobustTraining("wrn-10-1", epochs=3)
    ),
    "lipschitz": Network(
        "mnist", ThreatModel("l2", 1.0), (), ("conv1", "conv2", "fc1", "fc2"), ("lipschitz", "none"),
        training=RobustTraining(LIPSCHITZ, epochs=3),
    ),
    "vgg-small-max-pgd": _vgg("vgg-small-avg-pgd"),
    "vgg-small-avg-pgd": _vgg("vgg-small-max-pgd"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Setting:
    """What a plant is made in and verified on."""

    classifier: Classifier
    train: ImageSet
    test: ImageSet
    threat_model: ThreatModel


def setting(
    name: str, folder: str | Path, *, device: torch.device | str = "cpu", on_progress: OnProgress | None = None
) -> Setting:
    """A network of `NETWORKS`, trained where it does not come with the package and is not in the folder yet.

    Args:
        name: A key of `NETWORKS`.
        folder: Where trained networks are kept, and found the next time.
        device: Where the network is, and all that is made from it.
        on_progress: See `train_classifier`.

    Raises:
        ConfigError: An unknown name.
        DataError: The data set is missing.
    """
    network = _network(name)
    train, test = (load_data(network.data, split) for split in ("train", "test"))
    if network.training is None:
        classifier = load_classifier(name, device=device)
    else:
        classifier = robust_network(network.training, train, folder, device=device, on_progress=on_progress)
    return Setting(classifier, train, test, network.threat_model)


def robust_network(
    training: RobustTraining,
    train: ImageSet,
    folder: str | Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_progress: OnProgress | None = None,
) -> Classifier:
    """Train a robust network and keep its weights in a folder, or find them there; a training that stopped goes on."""
    stem = f"{training.architecture}-{fingerprint_of(training, train.sha256, seed)[:12]}"
    file, checkpoint = Path(folder) / f"{stem}.safetensors", Path(folder) / f"{stem}.checkpoint"
    if not file.is_file():
        network = _fresh(training, train, seed, device)
        recipe = Recipe(training.epochs, training.batch_size, training.lr)
        Path(folder).mkdir(parents=True, exist_ok=True)
        if training.architecture == LIPSCHITZ:
            train_lipschitz(network, train, recipe, seed=seed, checkpoint=checkpoint, on_progress=on_progress)
        else:
            objective = build_objective("pgd", eps=training.eps, steps=training.steps)
            train_classifier(
                network, train, objective=objective, recipe=recipe, seed=seed, checkpoint=checkpoint,
                on_progress=on_progress,
            )  # fmt: skip
        save_weights(network.model, file)
        checkpoint.unlink(missing_ok=True)
    classifier = _fresh(training, train, seed, device)
    load_weights(classifier.model, file)
    return classifier


def _fresh(training: RobustTraining, train: ImageSet, seed: int, device: torch.device | str) -> Classifier:
    """The untrained network, the same on every device."""
    (channels, *size), name = train.shape, training.architecture
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        if name == LIPSCHITZ:
            return Classifier(lipschitz_model(train).to(device).eval(), train.bounds)
        model = build_model(name, in_channels=channels, num_classes=len(train.classes), image_size=(size[0], size[1]))
        return Classifier(model.to(device).eval(), train.bounds)


@dataclass(frozen=True)
class Plan:
    """One plant of the table, before it is made."""

    network: str
    kind: str
    layers: tuple[str, ...]
    seed: int

    @property
    def key(self) -> str:
        """Its name in files and tables, e.g. `lenet5-max-pgd/two/conv1+fc1/0`."""
        return f"{self.network}/{self.kind}/{'+'.join(self.layers) or '-'}/{self.seed}"


def plans(
    networks: Sequence[str] = tuple(NETWORKS),
    kinds: Sequence[str] = tuple(KINDS),
    layers: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
) -> Iterator[Plan]:
    """The table of plants: each kind of each network, at each of its layers, from each seed.

    Two gates go to pairs of an early and a late layer. What cannot be made (an unknown network or kind) has a plan all
    the same, so that its error has a place.

    Args:
        networks: Keys of `NETWORKS`.
        kinds: Keys of `KINDS`; a kind that is not planted in a network has no plan there.
        layers: Only these. `None`: those of the network.
        seeds: Of the plants.
    """
    for network in networks:
        for seed in seeds:
            for kind in kinds:
                for place in _places(network, kind, layers):
                    yield Plan(network, kind, place, seed)


def usual_layers(name: str, kind: str) -> tuple[str, ...]:
    """Where a kind is planted in a network, unless it is said."""
    return NETWORKS[name].layers if kind in ("gate", "two") else NETWORKS[name].weighted


def _places(name: str, kind: str, layers: Sequence[str] | None) -> list[tuple[str, ...]]:
    if name not in NETWORKS or kind not in KINDS:
        return [()]
    network = NETWORKS[name]
    if kind not in network.kinds:
        return []
    if not KINDS[kind].layers:
        return [()]
    chosen = usual_layers(name, kind) if layers is None else tuple(layers)
    if KINDS[kind].layers == 1:
        return [(layer,) for layer in chosen]
    half = (len(chosen) + 1) // 2
    return list(zip(chosen[:half], chosen[half:], strict=False))


def make(plan: Plan, setting: Setting) -> Planted | InterpretGANError:
    """Make one plant of a table, or return the error that says why it cannot be made."""
    try:
        return plant(plan.kind, setting.classifier, plan.layers, setting.train, setting.threat_model, seed=plan.seed)
    except InterpretGANError as error:
        return error


def _network(name: str) -> Network:
    if name not in NETWORKS:
        raise ConfigError(expected=f"a network among {', '.join(NETWORKS)}", got=repr(name), do="choose one of them")
    return NETWORKS[name]
