"""What a benchmark does: which plants, drawn or of the table, and how each is verified and diagnosed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from interpretgan.attacks import ThreatModel
from interpretgan.errors import ConfigError, DataError
from interpretgan.planted.kinds import KINDS
from interpretgan.planted.plants import NETWORKS, Plan, plans, usual_layers
from interpretgan.store.files import file_sha256, read_json
from interpretgan.store.training_checkpoint import fingerprint_of
from interpretgan.training.checks import Checked, Count, Share, WholeNumber

FULL: dict[str, Any] = {
    "networks": tuple(NETWORKS), "kinds": tuple(KINDS), "layers": None, "seeds": (0,), "held_out": 0,
    "examples": 1000, "verified_on": 500, "restarts": 3,
}  # fmt: skip
SMALL: dict[str, Any] = {
    **FULL, "networks": ("lenet5-max-pgd",), "kinds": ("gate", "twin", "none"), "layers": ("conv1", "conv2", "fc1"),
    "examples": 250, "verified_on": 250, "restarts": 1, "generator_steps": 150,
}  # fmt: skip
"""The reduced size: a network, seven plants."""
JUDGE_FACTS = ("name", "natural", "adversarial")  #: What is told of a judge, beside its weights.
DRAWN_SEEDS = 2**31  #: Seeds of drawn plants are below this.


@dataclass(frozen=True)
class BenchmarkSettings(Checked):
    """All that decides what a benchmark finds; a value out of range, or an unknown name, is a `ConfigError`."""

    networks: tuple[str, ...]  #: Keys of `NETWORKS`.
    kinds: tuple[str, ...]  #: Keys of `KINDS`.
    layers: tuple[str, ...] | None  #: Where plants are made. `None`: where the table says.
    seeds: tuple[int, ...]  #: Of the plants of the table, of their generators and attacks.
    held_out: WholeNumber  #: Plants that are drawn beside the table.
    draw_seed: int  #: What they are drawn from.
    examples: Count  #: Test images that a diagnosis is made of.
    verified_on: Count  #: Test images that a plant is verified on.
    restarts: Count  #: Random starts of the attacks that verify.
    generator_steps: Count | None = None  #: Of InterpretGAN's training. `None`: the package's default.
    image_noise: Share | None = None  #: In that training, see `GANConfig.image_noise`.
    information_steps: WholeNumber = 0  #: Of the decoders, for the information loss as a rival; 0: it is left out.
    rivals: bool = True  #: Whether rivals are measured.

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("networks", NETWORKS), ("kinds", KINDS)):
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown or not getattr(self, name):
                got = repr(unknown[0]) if unknown else "none"
                raise ConfigError(expected=f"{name} among {', '.join(known)}", got=got, do="choose some of them")
        if wrong := [seed for seed in self.seeds if not 0 <= seed < DRAWN_SEEDS]:
            raise ConfigError(expected="0 <= seed < 2^31", got=str(wrong[0]), do="choose other seeds")
        for name in ("seeds", "layers"):
            if getattr(self, name) == ():
                raise ConfigError(expected=f"at least one of {name}", got="none", do="leave it out for the default")
        if self.information_steps and not self.rivals:
            expected, do = "information steps where rivals are measured: its loss is one", "leave one of the two out"
            raise ConfigError(expected=expected, got=f"{self.information_steps} without rivals", do=do)

    @property
    def table(self) -> tuple[Plan, ...]:
        """The plants of the table, each once."""
        return tuple(dict.fromkeys(plans(self.networks, self.kinds, self.layers, self.seeds)))

    @property
    def drawn(self) -> tuple[Plan, ...]:
        """The held-out plants: network, kind, place and seed are drawn, none is in the table."""
        return tuple(_drawn(self))

    @property
    def plans(self) -> tuple[Plan, ...]:
        """All plants, those of a network together."""
        chosen = (*self.table, *self.drawn)
        return tuple(sorted(chosen, key=lambda plan: self.networks.index(plan.network)))


def _drawn(settings: BenchmarkSettings) -> Iterator[Plan]:
    choose, table = random.Random(settings.draw_seed), set(settings.table)

    def places_of(name: str, kind: str) -> tuple[str, ...]:
        return usual_layers(name, kind) if settings.layers is None else settings.layers

    known = [(name, kind) for name in settings.networks for kind in settings.kinds if kind in NETWORKS[name].kinds]
    pairs = [(name, kind) for name, kind in known if len(places_of(name, kind)) >= KINDS[kind].layers]
    if settings.held_out and not pairs:
        do = "choose other networks or kinds, or more layers"
        raise ConfigError(expected="a kind that is planted in one of the networks", got="none", do=do)
    left = settings.held_out
    while left:
        # A kind first, so that no kind is rare because few networks have it.
        kind = choose.choice(sorted({kind for _, kind in pairs}))
        name = choose.choice([name for name, other in pairs if other == kind])
        layers = places_of(name, kind)
        places = sorted(choose.sample(range(len(layers)), KINDS[kind].layers))
        plan = Plan(name, kind, tuple(layers[place] for place in places), choose.randrange(DRAWN_SEEDS))
        if plan not in table:
            table.add(plan)
            left -= 1
            yield plan


def resolved(given: dict[str, Any], *, small: bool, draw_seed: int) -> BenchmarkSettings:
    """The settings: what is given and not `None`, else the full or the small size."""
    values = (SMALL if small else FULL) | {name: value for name, value in given.items() if value is not None}
    return BenchmarkSettings(draw_seed=draw_seed, **values)


def judged_against(data: str) -> ThreatModel:
    """What the judge of a data set is trained against: the threat model of its first network."""
    return next(network.threat_model for network in NETWORKS.values() if network.data == data)


def judge_files(named: Sequence[str], networks: Sequence[str]) -> dict[str, Path]:
    """Weights of judges by data set, from `DATA=FILE`, or `FILE` alone where there is one data set.

    Raises:
        ConfigError: An unknown data set, or a file for several.
        DataError: A file that is not there, or without its JSON file beside it.
    """
    found: dict[str, Path] = {}
    data = list(dict.fromkeys(NETWORKS[name].data for name in networks))
    for text in named:
        name, has_name, rest = text.partition("=")
        if not has_name:
            name, rest = data[0], text
            if len(data) > 1:
                expected = f"a judge for each of {', '.join(data)}, as DATA=FILE"
                raise ConfigError(expected=expected, got=text, do=f"say --judge {data[0]}={text}")
        if name not in data:
            raise ConfigError(expected=f"a data set among {', '.join(data)}", got=repr(name), do="say DATA=FILE")
        file = Path(rest)
        for needed in (file, file.with_suffix(".json")):
            if not needed.is_file():
                expected = f"a judge in {file}, with its accuracy in {file.with_suffix('.json').name} beside it"
                raise DataError(expected=expected, got=f"no {needed}", do="take both from a run folder")
        known = read_json(file.with_suffix(".json"))
        missing = [key for key in JUDGE_FACTS if key not in known] if isinstance(known, dict) else list(JUDGE_FACTS)
        if missing:
            expected, got = f"{', '.join(JUDGE_FACTS)} in {file.with_suffix('.json')}", f"no {missing[0]}"
            raise DataError(expected=expected, got=got, do="take the judge from a run folder")
        found[name] = file
    return found


def fingerprint(plan: Plan, settings: BenchmarkSettings, judge: Path | None) -> str:
    """Hash of all that decides the record of a plant; where it is the same, the record is used again."""
    chosen = ("examples", "verified_on", "restarts", "generator_steps", "image_noise", "information_steps", "rivals")
    values = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name in chosen}
    from interpretgan.gan.train import GANConfig

    weights = None if judge is None else file_sha256(judge)
    return fingerprint_of(plan, NETWORKS[plan.network], values, GANConfig(), weights)
