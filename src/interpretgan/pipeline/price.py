"""What a diagnosis will cost, measured on a few steps of each stage."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from interpretgan.attacks import attack
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.diagnosis.controls import perturbing_controls
from interpretgan.diagnosis.diagnose import CHECKED, diagnose
from interpretgan.diagnosis.let_in import PAIRED, let_in, mending_images, most_examples
from interpretgan.diagnosis.mending import mended_weights
from interpretgan.diagnosis.predictions import attacker, batch_size, collect, drawn_at_once, explained_at_once
from interpretgan.errors import ModelError
from interpretgan.gan.linear_start import LinearStart, most_images
from interpretgan.information import Decoders
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import ATTACKED, Judge
from interpretgan.layers import distinct
from interpretgan.pipeline.inputs import TRAINED, Inputs
from interpretgan.store.machine import PeakMemory
from interpretgan.store.progress import Progress, duration
from interpretgan.training import Objective, Recipe, adversarial_objective, train_classifier
from interpretgan.training.precision import quick_layout
from interpretgan.training.steps import READ_EVERY

LONG = 15_000_000  # pixels of explanations in the training of a generator from which on a run is long,
LONG_ON_GPU = 200_000_000  # and on a GPU: there the price of LeNet-5 on MNIST took 25 s, the run that it told of 42
TRIED = 16  # images that a diagnosis is tried on,
FEWER = 4  # fewer of them, which tells what it takes once from what each takes,
JUDGED = 64  # and a judge alone, which costs less
STARTED = 400  # images that the start of a generator is tried on
COPIES = 4  # of each explanation, as numbers of four bytes: parts, all, and as the judge is given them


@dataclass(frozen=True)
class StagePrice:
    """What a stage of a run will take, about."""

    stage: str  #: Its name in the progress, and among the seconds of the result.
    fixed: float  #: Seconds that no option lowers.
    per: Mapping[str, float] = field(default_factory=dict)  #: Seconds for each unit of an option, by its name.
    memory_mib: int = 0  #: The most memory that the process holds meanwhile.
    needs: tuple[str, int] | None = None  #: An option, and the number that it must be above for there to be the stage.
    times: str = ""  #: An option that what `per` says is multiplied by.

    def seconds(self, values: Mapping[str, float]) -> float:
        """With these options."""
        if self.needs is not None and values[self.needs[0]] <= self.needs[1]:
            return 0.0
        times = values[self.times] if self.times else 1
        return self.fixed + times * sum(each * values[name] for name, each in self.per.items())


def is_long(inputs: Inputs) -> bool:
    """Whether a run takes so long that its price is told before it starts."""
    options, layers = inputs.settings.generator, len(inputs.layers(inputs.classifier))
    drawn = options_of(inputs)["generator_steps"] * options.generator_seeds * options.images_per_layer * layers
    return drawn * math.prod(inputs.test.shape) >= (LONG if inputs.device.type == "cpu" else LONG_ON_GPU)


def options_of(inputs: Inputs) -> dict[str, int]:
    """The options that decide the price, by their names."""
    settings = inputs.settings
    steps = settings.generator.config(inputs.train.shape[0]).steps
    assert steps is not None
    epochs = {"epochs": inputs.recipe.epochs, "judge_epochs": inputs.judge_recipe.epochs}
    return {
        **epochs, "generator_steps": steps, "generator_seeds": settings.generator.generator_seeds,
        "information_steps": settings.information.information_steps,
        "let_in_steps": settings.diagnosis.let_in_steps,
        "examples": min(settings.diagnosis.examples, len(inputs.test)),
    }  # fmt: skip


def table(prices: Collection[StagePrice], values: Mapping[str, float]) -> list[str]:
    """The prices as lines of text, with what lowers each."""
    rows = [("stage", "about", "memory", "lowered by")]
    for price in prices:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in price.per)
        rows.append((price.stage, duration(price.seconds(values)), f"{price.memory_mib} MiB", flags))
    most = max((price.memory_mib for price in prices), default=0)
    rows.append(("in all", duration(sum(price.seconds(values) for price in prices)), f"{most} MiB", "--time-budget"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


# --- measuring ---------------------------------------------------------------------------------------------------


def timed_steps(device: torch.device) -> int:
    """Steps of a short training whose first is not timed; on a GPU more, as only every tenth is told there."""
    return 3 if device.type == "cpu" else 3 * READ_EVERY


class Stamps:
    """When the steps of a short training ended, so that they can be timed without what comes before the first."""

    def __init__(self) -> None:
        self.began, self.stamps = time.perf_counter(), list[tuple[int, float]]()

    def __call__(self, progress: Progress) -> None:
        """An `on_progress`."""
        self.stamps.append((progress.done, time.perf_counter()))

    @property
    def step(self) -> float:
        """Seconds of a step, but the first."""
        (first, begun), (last, ended) = self.stamps[0], self.stamps[-1]
        return (ended - begun) / max(1, last - first)

    @property
    def before(self) -> float:
        """Seconds before the first step."""
        return max(0.0, self.stamps[0][1] - self.began - self.step * self.stamps[0][0])


@torch.random.fork_rng(devices=[])
def price(inputs: Inputs, folder: Path | None = None) -> list[StagePrice]:
    """What each stage will take, in the order of a run; the networks that its folder has need no training.

    Two steps of each training are timed on copies, twenty on a GPU, at the sizes of the run, and the rest on
    few images. Nothing is kept, and the classifier comes back untouched.
    """
    settings, found = inputs.settings, list[StagePrice]()
    there = set() if folder is None else {file.stem for file in folder.glob("*.safetensors")}
    seeds, device = settings.generator.generator_seeds, inputs.device
    train, test = (given.scaled(inputs.classifier.bounds) for given in (inputs.train, inputs.test))
    x, y = (part.to(device) for part in test.batch(range(min(JUDGED, len(test)))))
    classifier = inputs.classifier if inputs.is_trained else copy.deepcopy(inputs.classifier)
    if not inputs.is_trained:
        objective, recipe = settings.training.build(), inputs.recipe
        with PeakMemory(device) as memory:
            epoch = _epoch_seconds(classifier, train, objective, recipe)
        if "classifier" not in there:
            found.append(StagePrice("classifier", 0.0, {"epochs": epoch}, memory.mib))
    judge, judged = _judge(inputs, train, len(test), x, y)
    if inputs.given_judge is None and "judge" not in there:
        found.append(judged)
    recognition = inputs.recognition_network
    if settings.generator.recognition_network == TRAINED:
        recognition = judge.classifier
        if "recognition_network" not in there:
            found.append(_recognition_network(inputs, train, judged))

    layers = inputs.layers(classifier)
    config, stamps = replace(settings.generator.config(len(x[0])), steps=timed_steps(device)), Stamps()
    with PeakMemory(device) as memory:
        interpreter = InterpretGAN(classifier, layers, config=config)
        interpreter.fit(train.head(STARTED), recognition_network=recognition, on_progress=stamps)
    before, per, generators = stamps.before * _times_started(train), {"generator_steps": stamps.step}, len(found)
    for number in range(seeds):
        if (stage := f"generator-{settings.run.seed + number}") not in there:
            held = memory.mib + _more_to_start(interpreter.network.start, train)
            found.append(StagePrice(stage, before, per, held, ("generator_seeds", number)))
    if settings.information.information_steps:
        place = generators if settings.generator.diversity else len(found)  # with diversity decoders come first
        found.insert(place, _information(inputs, interpreter, train, test, "information" in there))
    with quick_layout(classifier), quick_layout(judge.classifier):  # as a run has them
        if settings.diagnosis.let_in_steps and (mended := _let_in(inputs, classifier, train, test)) is not None:
            found.append(mended)
        found.append(_diagnosis(inputs, interpreter, judge, test))
    return found


def _times_started(train: ImageSet) -> float:
    """How often as many images as were tried the start of a generator is fitted to."""
    most = min(most_images(train.shape), len(train))
    return most / min(most, STARTED)


def _more_to_start(start: LinearStart | None, train: ImageSet) -> int:
    """MiB that the fit of a start holds beyond those of the images that it was tried on."""
    most = min(most_images(train.shape), len(train))
    return 0 if start is None else start.fitting_mib(most) - start.fitting_mib(min(most, STARTED))


def _epoch_seconds(classifier: Classifier, train: ImageSet, objective: Objective, recipe: Recipe) -> float:
    """Of a training whose epochs have one step each here."""
    batch, stamps = min(recipe.batch_size, len(train)), Stamps()
    short = replace(recipe, epochs=3, validation=0)
    train_classifier(classifier, train.head(batch), objective=objective, recipe=short, seed=0, on_progress=stamps)
    return stamps.step * max(1, (len(train) - recipe.validation) // batch)


def _judge(inputs: Inputs, train: ImageSet, tested: int, x: Any, y: Any) -> tuple[Judge, StagePrice]:
    """A judge that is hardly trained, or the one that is given, and the price of its stage."""
    given, options, device = inputs.given_judge, inputs.settings.judge, inputs.device
    if given is not None:
        return given, StagePrice("judge", 0.0)
    classifier, per = copy.deepcopy(inputs.judge_network), dict[str, float]()
    with PeakMemory(device) as memory:
        if not options.comes_trained:
            objective = adversarial_objective(train, inputs.threat_model)
            per["judge_epochs"] = _epoch_seconds(classifier, train, objective, inputs.judge_recipe)
        with quick_layout(classifier):
            classifier.logits(x)  # the first pass of a network takes longer than all others
            began = time.perf_counter()
            attack(classifier, x, y, replace(inputs.threat_model, restarts=1), seed=0)
            attacked = time.perf_counter() - began
            classifier.logits(x)
            looked = time.perf_counter() - began - attacked
    measured = (attacked * min(ATTACKED, tested) + looked * tested) / len(x)
    judge = Judge(classifier, 0.0, 0.0, options.judge)
    return judge, StagePrice("judge", measured, per, memory.mib)


def _recognition_network(inputs: Inputs, train: ImageSet, judged: StagePrice) -> StagePrice:
    """Of training it: as the judge's; where that comes trained, no option lowers it."""
    if not (inputs.settings.judge.comes_trained or inputs.given_judge is not None):
        return replace(judged, stage="recognition_network")
    network = Classifier(inputs.build(inputs.robust_architecture, 0), bounds=inputs.classifier.bounds)
    objective, recipe = adversarial_objective(train, inputs.threat_model), inputs.judge_recipe
    with PeakMemory(inputs.device) as memory:
        seconds = recipe.epochs * _epoch_seconds(network, train, objective, recipe)
    return StagePrice("recognition_network", judged.fixed + seconds, memory_mib=memory.mib)


def _information(inputs: Inputs, started: InterpretGAN, train: ImageSet, test: ImageSet, there: bool) -> StagePrice:
    config, stamps = inputs.settings.information.config(inputs.settings.generator.precision), Stamps()
    assert config is not None
    with PeakMemory(inputs.device) as memory:
        short = replace(config, steps=timed_steps(inputs.device))
        decoders = Decoders(started.classifier, started.layers, config=short)
        start = None if inputs.settings.generator.diversity else started.natural_start
        decoders.fit(train.head(STARTED), start=start, on_progress=stamps)
        began, few = time.perf_counter(), test.head(TRIED)
        decoders.measure(few, on_progress=False)
        image = (time.perf_counter() - began) / len(few)
    per = {"examples": image} if there else {"information_steps": stamps.step, "examples": image}
    before = 0.0 if there else stamps.before * _times_started(train)
    held = memory.mib + (0 if there else _more_to_start(decoders.network.decoder.start, train))
    return StagePrice("information", before, per, held, ("information_steps", 0))


def _let_in(inputs: Inputs, classifier: Classifier, train: ImageSet, test: ImageSet) -> StagePrice | None:
    """Of the mending, tried on a layer with weights; `None` where the network cannot be mended."""
    layers, _ = distinct(inputs.layers(classifier))
    examples = min(most_examples(test.shape), len(test), inputs.settings.diagnosis.examples)
    x, y = test.batch(range(min(TRIED, examples)))
    natural, seconds = mending_images(train, classifier.bounds, seed=0), list[float]()
    with PeakMemory(inputs.device) as memory:
        try:
            owned = mended_weights(classifier, layers, x[:1])
            weighted = [layer for layer, names in zip(layers, owned, strict=True) if names]
            of = weighted or layers
            for steps in (1, 1, 3):  # the first pass of a network takes longer than all others
                began = time.perf_counter()
                let_in(
                    classifier, [of[len(of) // 2]], x, y, x, natural=natural, threat_model=inputs.threat_model, seed=0,
                    steps=steps, bootstrap=0, on_progress=False,
                )  # fmt: skip
                seconds.append(time.perf_counter() - began)
        except ModelError:
            return None
    _, once, thrice = seconds
    step = max(0.0, thrice - once) / 2
    # Here one attack ran for all and one or two for the layer: one with weights needs two, one without needs one.
    attack_once = max(0.0, once - step) / (3 if weighted else 2) * (examples / len(x)) ** 0.5
    mended = len(weighted) + math.comb(min(PAIRED, len(weighted)), 2)  # alone, and some in pairs
    attacks = attack_once * (len(layers) + mended)
    return StagePrice("let in", attacks, {"let_in_steps": step * mended}, memory.mib, ("let_in_steps", 0))


def _diagnosis(inputs: Inputs, interpreter: InterpretGAN, judge: Judge, test: ImageSet) -> StagePrice:
    """Of predictions and checks; each takes something for itself, and something for each image."""
    classifier, model, few = interpreter.classifier, inputs.threat_model, test.head(TRIED)
    perturb, controls = attacker(classifier, model, seed=0), perturbing_controls(classifier, seed=0)
    blocks = inputs.blocks(classifier, interpreter.distinct_layers)

    def predict(some: ImageSet) -> None:
        collect([interpreter], judge, some, len(some), adversarial=perturb, controls=controls, blocks=blocks, seed=0)

    def whole(some: ImageSet) -> None:
        diagnose(interpreter, judge, some, threat_model=model, blocks=blocks, bootstrap=0, on_progress=False)

    def attacked(some: ImageSet) -> None:
        x, y = some.batch(range(len(some)))
        perturb(classifier.check_images(x), y.to(inputs.device), 0)

    predict(few.head(FEWER))  # the first pass of a network takes longer than all others
    _, image, held, more = _line(predict, few, inputs.device)
    *_, alone, each_alone = _line(attacked, few, inputs.device)
    once, checked, *_ = _line(whole, few, inputs.device)
    examples, layers = min(inputs.settings.diagnosis.examples, len(test)), len(interpreter.distinct_layers)
    checks = once + max(0.0, checked - image) * min(CHECKED, examples)
    batch = min(batch_size(test), examples)
    drawn = min(batch, drawn_at_once(layers, inputs.device))
    kept = COPIES * 4 * layers * math.prod(test.shape) * min(batch, explained_at_once(test, layers)) / 2**20
    most = max(held + more * max(drawn, len(few)), alone + each_alone * batch) + kept
    return StagePrice("diagnosis", checks, {"examples": image}, int(most), times="generator_seeds")


def _line(work: Callable[[ImageSet], None], few: ImageSet, device: torch.device) -> tuple[float, float, float, float]:
    """Seconds that some work takes once and for each image, and MiB likewise, from two numbers of images."""
    sizes, seconds, held = (min(FEWER, len(few)), len(few)), list[float](), list[int]()
    for size in sizes:
        with PeakMemory(device) as memory:
            began = time.perf_counter()
            work(few.head(size))
            seconds.append(time.perf_counter() - began)
        held.append(memory.mib)
    step = max(1, sizes[1] - sizes[0])
    each, more = (max(0.0, (second - first) / step) for first, second in (seconds, held))
    return max(0.0, seconds[1] - each * sizes[1]), each, held[1] - more * sizes[1], more
