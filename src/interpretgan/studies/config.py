"""What a study is: cases, variants, seeds and rules, all checked, and everything that it compares."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from interpretgan.errors import ConfigError
from interpretgan.models import POOLS, published_pool
from interpretgan.pipeline.options import TrainingOptions
from interpretgan.pipeline.settings import Settings
from interpretgan.studies.rules import POOLED, Condition, Rule

ACTIONS = ("finetune-blamed", "finetune-cleared", "finetune-random", "finetune-equal", "finetune-best", "finetune-all",
           "swap-blamed", "swap-cleared")  # fmt: skip
"""What a repair changes: `random` a layer that is drawn, `equal` the one nearest in size to the blamed, `best` the one
that turns out to gain most, of all that are fine-tuned in turn."""
BEST = "finetune-best"
ALONE = ("-blamed", "-all")  #: Repairs that the blamed ones are not compared with.
UNTOUCHED = "untouched"  #: The network that is repaired, as it was trained.
DEFINITIONS = ("vulnerability", "vulnerability_bits", "vulnerability_probe", "relative_error")
"""Ways to say how vulnerable a layer is: from accuracy, in bits, from class probes, from activations."""
LOSSES = ("information_loss", "class_loss")  #: Ways to say what a layer loses: of the image, and of the class.
TEST_ACCURACY = "test_accuracy"  #: Natural accuracy on all test images; not compared in a repair study.
DEPTH = "depth"  #: The place of a layer in its network, which may explain both what it loses and what it contributes.

Pool = Literal["max", "avg", "stride", "blur"]
AtLeastOne = Annotated[int, Field(ge=1)]
Record = TypeVar("Record")


@dataclass(frozen=True)
class Case:
    """One network with its data, its training and the size of the attack: what the variants are compared in."""

    name: str  #: Unique in the study; folders are called by it.
    settings: Settings  #: Of each run, but for seed and variant.
    variants: tuple[str, ...]  #: Those of the study that are run here.
    diagnosed: tuple[str, ...]  #: Those whose layers are compared as well.


@dataclass(frozen=True, kw_only=True)
class Repair(TrainingOptions):
    """How a network is repaired, and how it is fine-tuned for that: without an eps, against that of the attack."""

    objective: Literal["natural", "fast", "pgd", "trades"] = "pgd"
    layers: AtLeastOne = 1  #: How many are fine-tuned, of those with weights.
    pool: Pool = "avg"  #: What a pooling is swapped for.
    epochs: AtLeastOne | None = None  #: Of the fine-tuning; `None`: by the recipe.


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study and its file both say."""

    kind: Literal["information", "pooling", "repair"]
    seeds: tuple[int, ...]  #: Runs of the same seed are compared with each other.
    variants: tuple[str, ...]  #: The others are compared with the first, but in a repair study.
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    replicates: Annotated[int, Field(ge=100)] = 2000  #: Of fewer, the ends of an interval are among the outermost.
    threads: AtLeastOne | None = None  #: Of a run; `None`: cores / workers, which decides the last digits of results.
    gpus: Annotated[float, Field(ge=0, lt=math.inf)] = 0.0  #: That each run asks a Ray cluster for.
    repair: Repair | None = None  #: In a repair study.


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Study):
    """A study. One whose parts do not fit each other is a `ConfigError`."""

    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        kind, seeds, names = self.kind, self.seeds, [case.name for case in self.cases]
        _require(len({*seeds}) == len(seeds) >= 2, "at least 2 different seeds", seeds, "add seeds: one says little")
        _require_among(self.variants, ACTIONS if kind == "repair" else POOLS, f"variants of a {kind} study")
        repaired = (kind == "repair") == (self.repair is not None)
        _require(repaired, "a table [repair] in a study of kind repair, and in no other", kind, "add it or remove it")
        for case in self.cases:
            of, pool = f"of the case {case.name}", case.settings.model.pool
            named = re.fullmatch(r"[\w.-]+", case.name) and case.name != POOLED and names.count(case.name) == 1
            what = f"a name of letters, digits, dots and hyphens, not {POOLED!r} and not that of another case"
            _require(named, what, case.name, "give it another name")
            _require_among(case.variants, self.variants, f"variants {of}", least=2 if kind == "pooling" else 1)
            _require_among(case.diagnosed, case.variants, f"diagnosed variants {of}", least=0)
            if kind == "pooling":
                _require_among(self.variants[:1], case.variants, f"the variant that others are compared with {of}")
            else:
                what = f"all variants {of} diagnosed in a study of kind {kind}"
                _require(case.diagnosed == case.variants, what, case.diagnosed, "remove the key")
            if kind != "repair":
                _require(pool is None, f"no pool {of}: the variants are the poolings", pool, "remove it")
            if self.repair is not None:
                many = BEST in self.variants and self.repair.layers > 1
                _require(not many, f"layers = 1 in repair with {BEST}, which tries them one by one", self.repair.layers,
                         "fine-tune one layer, or leave that variant out")  # fmt: skip
                fine_tuning(self.repair, case).build()
                swaps = any(variant.startswith("swap") for variant in self.variants)
                same = swaps and (pool or published_pool(case.settings.model.model)) == self.repair.pool
                _require(not same, f"a pool to swap for that {case.name} has not", self.repair.pool, "choose another")
        for rule in self.rules:
            of, compared = f"of the rule {rule.claim!r}", conditions(self)
            _require_among([rule.quantity], quantities(self), f"the quantity {of}")
            covered = {condition[0] for condition in compared if rule.covers(condition)}
            pairs = dict.fromkeys(f"{variant} against {against}" for _, variant, against in compared if against)
            wanted = {name: getattr(rule, name) for name in ("variant", "against", "cases")}
            do = f"it compares {', '.join(pairs)}" if pairs else "name no variant with the case all, and no against"
            right = covered and covered >= set(rule.cases)
            _require(right, f"a comparison {of} that the study makes, in {', '.join(names)}", wanted, do)


def _require(right: object, expected: str, got: object, do: str) -> None:
    if not right:
        raise ConfigError(expected=expected, got=repr(got), do=do)


def _require_among(chosen: Sequence[str], known: Sequence[str], what: str, least: int = 1) -> None:
    expected = f"{what} among {', '.join(known)}, each once" + f", at least {least}" * (least > 1)
    right = len(set(chosen)) == len(chosen) >= least and set(chosen) <= set(known)
    _require(right, expected, chosen, "choose among them")


def conditions(config: StudyConfig) -> list[Condition]:
    """Everything that a study compares, in order: what its effects are of, whether or not the runs succeed."""
    if config.kind == "information":
        return [*((case.name, name, None) for case in config.cases for name in case.variants), (POOLED, None, None)]
    pairs = [(variant, config.variants[0]) for variant in config.variants[1:]]
    if config.kind == "repair":
        pairs = [(variant, UNTOUCHED) for variant in config.variants]
        pairs += [(f"{action.partition('-')[0]}-blamed", action) for action in ACTIONS if not action.endswith(ALONE)]
    return [(case.name, *pair) for case in config.cases for pair in pairs if {*pair} <= {*case.variants, UNTOUCHED}]


def correlations() -> list[tuple[str, str, str | None]]:
    """What an information study correlates over layers, and what is held fixed."""
    pairs = [(loss, definition) for loss in LOSSES for definition in DEFINITIONS]
    pairs += [(DEFINITIONS[0], other) for other in DEFINITIONS[1:]]
    alone = [(*pair, None) for pair in [*pairs, (DEPTH, DEFINITIONS[0])]]
    return [*alone, *((loss, DEFINITIONS[0], DEPTH) for loss in LOSSES)]


def correlation_name(first: str, second: str, given: str | None = None) -> str:
    """The name of a correlation as a quantity: `spearman(first, second | given)`."""
    return f"spearman({first}, {second}{'' if given is None else f' | {given}'})"


GIVEN_DEPTH = {correlation_name(loss, DEFINITIONS[0]): correlation_name(loss, DEFINITIONS[0], DEPTH) for loss in LOSSES}
"""For the correlations of losses and vulnerability the same with each layer's place held fixed, which rules go by."""


def quantities(config: StudyConfig) -> list[str]:
    """The effects that rules can be about."""
    if config.kind == "information":
        return [correlation_name(*names) for names in correlations()]
    attacks = [name for case in config.cases for name in case.settings.evaluation.names()]
    return ["natural", *dict.fromkeys(attacks), "worst_case", *[TEST_ACCURACY] * (config.kind == "pooling")]


def fine_tuning(repair: Repair, case: Case) -> TrainingOptions:
    """The fine-tuning of a case: against its own attack where no other eps is stated; a norm alone must be its own."""
    training, attack = training_of(repair), case.settings.attack
    if training.eps is not None or training.objective == "natural":
        return training
    right = training.norm in (TrainingOptions().norm, attack.norm)
    what = f"an eps beside norm = {training.norm!r} in repair, as the attack's is of {attack.norm}"
    _require(right, what, None, "state it, or leave the norm out: then both are the attack's")
    return replace(training, eps=attack.eps, norm=attack.norm)


def training_of(table: TrainingOptions) -> TrainingOptions:
    """The options of a training alone, of a table that has other keys as well."""
    return TrainingOptions(**{item.name: getattr(table, item.name) for item in fields(TrainingOptions)})


def read_record(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """Plain values, from TOML or JSON, as a dataclass, whose fields may be dataclasses and tuples of these.

    Raises:
        ConfigError: An unknown or missing key, or a value of another type or out of range: the first of them.
    """
    try:
        # As JSON, a list can be a tuple and a text a path, and yet no text is a number.
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as invalid:
        error = invalid.errors(include_url=False)[0]
    *place, key = [str(step + 1) if isinstance(step, int) else step for step in error["loc"]]
    if error["type"] != "unexpected_keyword_argument":
        words = {"missing": "there", "float_type": "a number or a fraction like '8/255'", "dataclass_type": "a table"}
        wanted = words.get(error["type"], error["msg"].removeprefix("Input should be "))
        got = "none" if error["type"] == "missing" else repr(error["input"])
        raise ConfigError(expected=f"{'.'.join([*place, key])} to be {wanted}", got=got, do="correct it")
    for step in error["loc"][:-1]:
        if isinstance(step, str):
            kind = get_type_hints(kind)[step]
        while arguments := get_args(kind):
            kind = arguments[0]  # of `tuple[...]` and of `... | None`
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]  # a table is a dataclass
    near = get_close_matches(key, known, n=1)
    do = f"did you mean {near[0]}?" if near else "remove it"
    raise ConfigError(expected=f"the keys {', '.join(known)} in {'.'.join(place) or 'the study'}", got=repr(key), do=do)
