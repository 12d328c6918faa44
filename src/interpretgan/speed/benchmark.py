"""What explanations of all layers cost: ours beside others, measured in turns in one run."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel
from interpretgan.baselines.definitions import relative_error
from interpretgan.baselines.inputs import ScoreInputs
from interpretgan.baselines.inversion import STEPS as INVERSION_STEPS, invert
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet, TensorImages, load_data
from interpretgan.errors import ConfigError, RunFolderError
from interpretgan.gan.train import GREY_STEPS, GANConfig
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge, train_judge
from interpretgan.layers import Layer, find_layers
from interpretgan.models import build_model
from interpretgan.pipeline.price import Stamps, timed_steps
from interpretgan.speed.flops import Flops
from interpretgan.speed.invertible import STEPS as INVERTIBLE_STEPS, train_invertible
from interpretgan.speed.one_by_one import Alone, train_alone
from interpretgan.speed.page import write_chart
from interpretgan.speed.per_image import integrated_gradients
from interpretgan.store.files import read_json, write_json
from interpretgan.store.machine import PeakMemory, describe, wait_for
from interpretgan.store.provenance import package_version, provenance
from interpretgan.store.training_checkpoint import fingerprint_of
from interpretgan.training import Natural, default_recipe, train_classifier
from interpretgan.training.precision import uses_bf16

SCHEMA = 2
SUMMARY_FILE, CHART_FILE, PARTS = "speed.json", "speed.svg", "parts"
OURS, ALONE, LSA, GRADIENTS, INVERSION = "ours", "one_by_one", "lsa", "integrated_gradients", "inversion"
INVERTIBLE = "invertible"
CONTENDERS = {
    OURS: "one generator for all layers", ALONE: "one generator a layer, fp32, as in the paper",
    LSA: "layer sustainability, a number a layer and no image", GRADIENTS: "integrated gradients of Captum, an image",
    INVERSION: f"inversion by {INVERSION_STEPS} steps an image",
    INVERTIBLE: f"an invertible network a layer, {INVERTIBLE_STEPS:,} steps as published, whatever their quality",
}  # fmt: skip
EXPLAINED = 1000  # images whose explanation at all layers is the cost that is compared
TOLERANCE = 0.005  # by which fewer natural explanations may be predicted right at equal quality
THREAT = ThreatModel("linf", 0.2, steps=10)


@dataclass(frozen=True)
class Size:
    """How much a run of the benchmark measures."""

    data: str  #: Name of the data set of the comparison at equal quality.
    steps: int  #: Of our training there.
    most: int  #: Steps that a generator of one layer may take.
    trained: int | None  #: How many layers are trained one by one, evenly spread; `None`: all.
    judged: int  #: Held-out images that the quality is measured on.
    rounds: int  #: Measurements of each cost, in turns, of which the best counts.
    layers: tuple[int, ...]  #: Numbers of layers.
    pixels: tuple[int, ...]  #: Sides of the images.
    widths: tuple[int, ...]  #: Channels of the classifiers.


SMALL = Size("digits", 100, 150, 3, 200, 2, (3, 11, 30), (28, 56), (16, 64))
FULL = Size("mnist", GREY_STEPS, 4000, None, 1000, 3, (3, 6, 11, 20, 30), (28, 56, 112, 224), (16, 64, 256))


def run_speed(
    size: Size, out: Path, *, device: torch.device, say: Callable[[str], None], seed: int = 0
) -> dict[str, Any]:
    """Measure, write `speed.json` and `speed.svg` to a folder, and return what the former has.

    Seconds depend on the machine and on what else it does; the contenders take turns, so that their ratios hardly do.
    Each part is kept in the folder as soon as it is measured: a run that was stopped goes on after the last.
    """
    here = provenance(seed, device=str(device))
    here |= {"created": None} | {extra: package_version(extra) for extra in ("captum", "FrEIA")}
    settings = fingerprint_of(SCHEMA, size, here)
    folder = out / PARTS / settings[:8]  # what is measured otherwise replaces none of them

    def part(name: str, what: str, work: Callable[[], dict[str, Any]], after: object = None) -> dict[str, Any]:
        file, wanted = folder / f"{name}.json", fingerprint_of(settings, after)
        with suppress(RunFolderError):  # none, or damaged
            match read_json(file):
                case {"fingerprint": made, "part": dict(found)} if made == wanted:
                    say(f"{what}: measured before")
                    return found
        say(what)
        write_json(file, {"fingerprint": wanted, "part": work()})
        return dict(read_json(file)["part"])

    def peaks() -> dict[str, Any]:
        return describe(device=str(device), repeats=3, convolutions=True, fp32="float32", bf16="bfloat16")

    def quality() -> dict[str, Any]:
        return at_equal_quality(size, machine, device=device, say=say, seed=seed)

    machine = part("machine", "the machine", peaks)
    equal = part("equal-quality", f"at equal quality: LeNet-5 on {size.data}", quality, after=machine)
    cases = []
    for axis, values in (("layers", size.layers), ("pixels", size.pixels), ("width", size.widths)):
        for value in values:
            chosen = {"layers": 11, "pixels": 28, "width": 16} | {axis: value}
            name, what = "{layers}-{pixels}-{width}", "cost: {layers} layers, {pixels} pixels, width {width}"
            work = partial(costs, **chosen, size=size, equal=equal, device=device, seed=seed)
            measured = part(name.format(**chosen), what.format(**chosen), work, after=equal)
            cases.append({"axis": axis, **chosen, **measured})
    result = {
        "schema": SCHEMA, "benchmark": "speed", "size": dataclasses.asdict(size), "machine": machine,
        "contenders": CONTENDERS, "explained": EXPLAINED, "equal_quality": equal, "cases": cases,
    }  # fmt: skip
    write_json(out / SUMMARY_FILE, result)
    write_chart(result, out / CHART_FILE)
    return result


# --- at equal quality --------------------------------------------------------------------------------------------


def at_equal_quality(
    size: Size, machine: Mapping[str, Any], *, device: torch.device, say: Callable[[str], None], seed: int
) -> dict[str, Any]:
    """Our training of all layers of a LeNet-5, and generators of single layers until they are read as well as ours."""
    train, test = load_data(size.data, "train"), load_data(size.data, "test")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape: dict[str, Any] = {"in_channels": train.shape[0], "image_size": train.shape[1:]}
        model = build_model("lenet5", num_classes=len(train.classes), **shape)
    classifier = Classifier(model.to(device))
    train_classifier(classifier, train, objective=Natural(), recipe=default_recipe(train, "natural"), seed=seed)
    judge = train_judge(train, test, threat_model=THREAT, seed=seed + 1, device=device, on_progress=False)
    x, y = (part.to(device) for part in test.batch(range(min(size.judged, len(test)))))
    layers, config = find_layers(classifier, x[:4]), GANConfig(steps=size.steps)

    def ours() -> tuple[InterpretGAN, float, Stamps]:
        stamps = Stamps()
        interpreter = InterpretGAN(classifier, layers, config=config, seed=seed).fit(train, on_progress=stamps)
        wait_for(str(device))
        return interpreter, time.perf_counter() - stamps.began, stamps

    with PeakMemory(device) as memory:
        interpreter, seconds, stamps = ours()
    noise = interpreter.noise(len(x), generator=torch.Generator().manual_seed(seed))
    right = [_right(judge, pictures, y) for pictures in interpreter.draw(x, noise)]
    places = range(len(layers)) if size.trained is None else _spread(len(layers), size.trained)
    rows = list[dict[str, Any]]()
    with PeakMemory(device) as memory_alone:
        for place in places:
            wanted = right[place] - TOLERANCE

            def good(draw: Callable[[Tensor], Tensor], wanted: float = wanted) -> bool:
                return _right(judge, draw(x), y) >= wanted

            alone = train_alone(classifier, layers[place], train, steps=size.most, seed=seed, good=good)
            rows.append({**dataclasses.asdict(alone), "wanted": wanted})
            end = "" if alone.reached else ", not as good as ours"
            say(f"  {alone.layer}: {alone.steps} steps, {alone.seconds:.1f} s{end}")
    again, repeated = ours()[1:]  # the machine may do something else meanwhile
    best, step = min(seconds, again), min(stamps.step, repeated.step)
    one_by_one = statistics.mean(row["seconds"] for row in rows) * len(layers)
    flops = step_flops(classifier, layers, train, config)
    kind = "bf16" if uses_bf16(device, config.precision) else "fp32"
    return {
        "data": test.name, "classifier": "lenet5", "layers": [layer.name for layer in layers], "judged": len(x),
        OURS: {
            "steps": config.steps, "seconds": best, "all_seconds": [seconds, again], "step_seconds": step,
            "before_seconds": min(stamps.before, repeated.before), "right": right, "memory_mib": memory.mib,
            "step_gflop": flops / 1e9, "precision": kind,
            "share_of_matmul_peak": flops / 1e9 / step / machine["matmul_gflops"][kind],
            "share_of_conv_peak": flops / 1e9 / step / machine["conv_gflops"][kind],
        },
        ALONE: {
            "trained": rows, "seconds": one_by_one, "memory_mib": memory_alone.mib,
            "steps": statistics.mean(row["steps"] for row in rows), "reached": sum(row["reached"] for row in rows),
        },
        "speedup": one_by_one / best,
    }  # fmt: skip


def _right(judge: Judge, pictures: Tensor, labels: Tensor) -> float:
    return float((judge.predict(pictures) == labels).float().mean())


def _spread(count: int, chosen: int) -> list[int]:
    """So many of the first `count` numbers, at even distances, with both ends."""
    return sorted({round(place * (count - 1) / max(1, chosen - 1)) for place in range(min(chosen, count))})


def step_flops(classifier: Classifier, layers: Sequence[Layer], images: ImageSet, config: GANConfig) -> float:
    """Floating point operations of one training step: those of three steps less those of two."""
    few, counts = images.head(64), []
    for steps in (2, 3):
        with Flops() as counter:  # type: ignore[no-untyped-call]  # torch has no types here
            InterpretGAN(classifier, layers, config=dataclasses.replace(config, steps=steps)).fit(
                few, on_progress=False
            )
        counts.append(counter.total)
    return float(counts[1] - counts[0])


# --- cost --------------------------------------------------------------------------------------------------------


def plain_network(depth: int, width: int) -> nn.Sequential:
    """A classifier of so many layers: convolutions and ReLUs by turns, halved three times, and a linear one."""
    stages, channels = list[nn.Module](), 3
    for number in range(depth // 2):
        halved = number in {depth // 8, depth // 4, 3 * depth // 8}
        conv = nn.Conv2d(channels, width, 3, 2 if halved else 1, 1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # else nothing of the image is left after some layers
        stages += [conv, nn.ReLU()]
        channels = width
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def costs(
    *, layers: int, pixels: int, width: int, size: Size, equal: Mapping[str, Any], device: torch.device, seed: int
) -> dict[str, Any]:
    """What each contender takes for one network: measured on few steps and images, the best of several rounds.

    Weights are random: they hardly decide what a step costs. `seconds` are those of explaining `EXPLAINED` images at
    all layers, training included, with the steps of the comparison at equal quality.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(plain_network(32, width).to(device))
    x = torch.rand(64, 3, pixels, pixels, generator=random).to(device)
    y = torch.randint(10, (64,), generator=random).to(device)
    found = find_layers(classifier, x[:2])
    chosen = [found[place] for place in _spread(len(found), layers)]
    middle, few = chosen[len(chosen) // 2], x[:4]
    source, config = TensorImages(x, y), GANConfig(steps=timed_steps(device))
    inputs = ScoreInputs(classifier, tuple(chosen), x, y, (x + 0.01).clamp(0, 1), source, THREAT, seed)
    interpreter = InterpretGAN(classifier, chosen, config=config, seed=seed)

    def ours() -> dict[str, float]:
        stamps = Stamps()
        interpreter.fit(x, on_progress=stamps)
        drawn = torch.zeros(len(few), config.noise, device=device)
        image = timed(lambda: interpreter.draw(few, drawn), device) / len(few)
        return {"step_seconds": stamps.step, "image_seconds": image}

    def alone() -> dict[str, float]:
        one: Alone = train_alone(classifier, middle, source, steps=3, seed=seed)
        return {"step_seconds": one.step_seconds * len(chosen), "image_seconds": 0.0}

    def lsa() -> dict[str, float]:
        return {"image_seconds": timed(lambda: relative_error(inputs), device) / len(x)}

    def gradients() -> dict[str, float]:
        took = timed(lambda: integrated_gradients(classifier, middle, few, y[: len(few)]), device)
        return {"image_seconds": took / len(few) * len(chosen)}

    def inversion() -> dict[str, float]:
        took = timed(lambda: invert(classifier, middle, few, steps=5), device) * INVERSION_STEPS / 5
        return {"image_seconds": took / len(few) * len(chosen)}

    def invertible() -> dict[str, float]:
        one = train_invertible(classifier, middle, x, steps=3, seed=seed)
        return {name: seconds * len(chosen) for name, seconds in one.items()}

    sides = {
        OURS: ours, ALONE: alone, LSA: lsa, GRADIENTS: gradients, INVERSION: inversion, INVERTIBLE: invertible,
    }  # fmt: skip
    measured, errors = dict[str, list[dict[str, float]]](), dict[str, str]()
    for _, (name, side) in itertools.product(range(size.rounds), sides.items()):
        if name in errors:
            continue
        try:
            with PeakMemory(device) as memory:
                took = side()
            measured.setdefault(name, []).append({**took, "memory_mib": memory.mib})
        except ConfigError as error:  # what an extra is needed for
            errors[name] = str(error)
    best = {name: {key: min(row[key] for row in rows) for key in rows[0]} for name, rows in measured.items()}
    steps = {OURS: GREY_STEPS, ALONE: equal[ALONE]["steps"] * _longer(equal), INVERTIBLE: INVERTIBLE_STEPS}
    for name in best.keys() & steps.keys():
        best[name]["training_seconds"] = steps[name] * best[name]["step_seconds"]
    for row in best.values():
        row["seconds"] = row.get("training_seconds", 0.0) + EXPLAINED * row["image_seconds"]
    parameters = sum(p.numel() for p in classifier.model.parameters())
    ratio = best[ALONE]["training_seconds"] / best[OURS]["training_seconds"]
    return {"parameters": parameters, "cost": best, "errors": errors, "training_speedup": ratio}


def _longer(equal: Mapping[str, Any]) -> float:
    """How many times the default steps are those that were compared at equal quality."""
    return float(GREY_STEPS / equal[OURS]["steps"])


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a piece of work, to its end on the device."""
    wait_for(str(device))
    began = time.perf_counter()
    work()
    wait_for(str(device))
    return max(time.perf_counter() - began, math.ulp(1.0))
