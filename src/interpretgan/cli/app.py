"""The command line: parse, call, print. Heavy packages are imported by the commands that use them."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter

from interpretgan.cli.benchmark import benchmark
from interpretgan.cli.models import models
from interpretgan.cli.study import study
from interpretgan.cli.text import print_answer, print_attack, print_json, print_layers, print_table
from interpretgan.errors import ConfigError, InterpretGANError
from interpretgan.pipeline.numbers import parse_value
from interpretgan.pipeline.options import (
    AttackOptions,
    DataOptions,
    DiagnosisOptions,
    EvaluationOptions,
    GeneratorOptions,
    InformationOptions,
    JudgeOptions,
    ModelOptions,
    RunOptions,
    TrainingOptions,
)
from interpretgan.pipeline.settings import DIAGNOSE, Settings

if TYPE_CHECKING:
    from interpretgan.pipeline.inputs import Inputs
    from interpretgan.pipeline.run_diagnosis import Run

BAD_INPUT = 2
INTERRUPTED = 130
DEMO_STEPS, DEMO_INFORMATION_STEPS = 120, 90  # enough for the digits

DryRun = Annotated[
    bool, Parameter(negative="", group="Run", help="Print the resolved settings, of a long run its price, and stop.")
]

app = App(
    name="interpretgan",
    help="Which layer of an image classifier lets adversarial perturbations through, and what do they change there?\n\n"
    "Start with `interpretgan demo`, then `interpretgan diagnose --help` for your own model.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # told by run_command, in our own words
    default_parameter=Parameter(converter=parse_value),
)

TRAIN = ("data", "model")
ATTACK = (*TRAIN, "attack", "diagnosis")
EVALUATE = (*TRAIN, "evaluation")
FIT = (*TRAIN, "generator")
EXPLAIN = (*TRAIN, "attack", "judge", "generator")


@app.command
def demo(*, run: RunOptions = RunOptions(), dry_run: DryRun = False) -> None:
    """The whole job on the embedded digits, in a few minutes: train, attack, explain, diagnose, report."""
    generator, information = GeneratorOptions(generator_steps=DEMO_STEPS), InformationOptions(DEMO_INFORMATION_STEPS)
    _diagnose("demo", Settings(generator=generator, information=information, run=run), dry_run=dry_run)


@app.command
def layers(
    *, data: DataOptions = DataOptions(), model: ModelOptions = ModelOptions(), run: RunOptions = RunOptions()
) -> None:
    """Which layers can be diagnosed, which branches the blocks among them have, and why other calls are no layers.

    With --out, the same as layers.json in that folder.
    """
    from interpretgan.layers.branches import find_branches
    from interpretgan.pipeline.layer_choice import choose_layers

    with _open(Settings(data=data, model=model, run=run), TRAIN) as started:
        classifier, probe = started.inputs.classifier, started.inputs.probe
        anatomy = started.inputs.anatomy(classifier)
        blocks = find_branches(classifier, anatomy, anatomy.distinct, probe)
    branches = {block.layer.name: [branch.name for branch in block.branches] for block in blocks}
    print_layers(anatomy, branches, choose_layers(anatomy))
    if run.out is not None:
        from dataclasses import asdict

        from interpretgan.store.files import write_json

        found, refused = ([asdict(call) for call in calls] for calls in (anatomy.layers, anatomy.refused))
        record = {"schema": 2, "layers": found, "branches": branches, "refused": refused}
        write_json(run.out / "layers.json", record)


@app.command
def train(
    *,
    data: DataOptions = DataOptions(),
    model: ModelOptions = ModelOptions(),
    training: TrainingOptions = TrainingOptions(),
    run: RunOptions = RunOptions(),
    dry_run: DryRun = False,
) -> None:
    """Train a classifier, for natural accuracy or for robustness.

    Its weights go to classifier.safetensors: those of the best epoch on images held out of the training, where the
    recipe holds some out; classifier-last.safetensors then has those of the last epoch. classifier.json says how it was
    trained. To diagnose it: `interpretgan diagnose --weights FOLDER/classifier.safetensors`, with the same --data,
    --model and --pool.

    Example: `interpretgan train --data cifar10 --model vgg-small --pool avg --objective trades --eps 8/255`
    """
    if model.given:
        do = "name another, or leave --weights and --pretrained out"
        raise ConfigError(expected="a model to train", got="one with weights", do=do)
    settings = Settings(data=data, model=model, run=run, training=training)
    with _open(settings, TRAIN, "train", dry_run=dry_run) as started:
        _ = started.classifier
        print(f"weights: {started.path('classifier.safetensors')}")


@app.command
def attack(
    *,
    data: DataOptions = DataOptions(),
    model: ModelOptions = ModelOptions(),
    attack: AttackOptions = AttackOptions(),
    diagnosis: DiagnosisOptions = DiagnosisOptions(),
    run: RunOptions = RunOptions(),
    dry_run: DryRun = False,
) -> None:
    """Attack a classifier; the adversarial images go to adversarial.npy, as floating point numbers."""
    settings = Settings(data=data, model=model, attack=attack, diagnosis=diagnosis, run=run)
    with _open(settings, ATTACK, "attack", dry_run=dry_run) as started:
        print_attack(started.attack())


@app.command
def evaluate(
    *,
    data: DataOptions = DataOptions(),
    model: ModelOptions = ModelOptions(),
    evaluation: EvaluationOptions = EvaluationOptions(),
    run: RunOptions = RunOptions(),
    dry_run: DryRun = False,
) -> None:
    """Measure how robust a classifier is: its accuracy under several attacks, and whether that figure can be trusted.

    Prints the accuracy under each attack and in the worst case per example, with intervals, then every warning.
    evaluation.json has that and all settings, and the accuracy over eps and over steps; evaluation.npz has which
    examples are right, and autoattack.npy the images of AutoAttack, for `interpretgan diagnose --adversarial`.

    Example: `interpretgan evaluate --data mnist --model lenet5-avg-trades --weights pretrained --eps 0.3`
    """
    from interpretgan.cli.text import print_evaluation

    settings = Settings(data=data, model=model, evaluation=evaluation, run=run)
    with _open(settings, EVALUATE, "evaluate", dry_run=dry_run) as started:
        print_evaluation(started.evaluation())
        print(f"\nevaluation: {started.path('evaluation.json')}")


@app.command
def fit(
    *,
    data: DataOptions = DataOptions(),
    model: ModelOptions = ModelOptions(),
    generator: GeneratorOptions = GeneratorOptions(),
    run: RunOptions = RunOptions(),
    dry_run: DryRun = False,
) -> None:
    """Train InterpretGAN for all layers of a classifier, on natural images."""
    settings = Settings(data=data, model=model, generator=generator, run=run)
    with _open(settings, FIT, "fit", dry_run=dry_run) as started:
        _ = started.interpreters
        print(f"generator: {started.path(f'generator-{run.seed}.safetensors')}")


@app.command
def explain(
    folder: Path | None = None,
    *,
    images: str = "0,1,2,3,4,5",
    label: str | None = None,
    at: str | None = None,
    towards: str | None = None,
    data: DataOptions = DataOptions(),
    model: ModelOptions = ModelOptions(),
    attack: AttackOptions = AttackOptions(),
    judge: JudgeOptions = JudgeOptions(),
    generator: GeneratorOptions = GeneratorOptions(),
    run: RunOptions = RunOptions(),
    dry_run: DryRun = False,
) -> None:
    """Show which features an attack modifies in some images, layer by layer, unit by unit, and beside other explainers.

    Writes explanation.html, with all of it on one page, explanation.npz and explanation.csv; and figures/explained.png,
    the pictures of all layers. Says for each image where its explanation turns into another class.

    Args:
        folder: A finished run, whose options are taken.
        images: Test images by their number from 0, or image files: a,b,c.
        label: True class of the files, by name: one for all, or a,b,c.
        at: The layer whose units are looked at [default: for each image the one where it turns].
        towards: A class, by name: draw what would have to change at that layer for the network to see it.
    """
    from interpretgan.cli.text import turn_sentence, way_sentence
    from interpretgan.pipeline.chosen_images import ChosenImages
    from interpretgan.report import draw_explanation, write_explanation

    chosen = ChosenImages.parse(images, label, at, towards)
    settings = Settings(data=data, model=model, attack=attack, judge=judge, generator=generator, run=run)
    if folder is not None:
        _refuse_more_options(settings)
        settings = Settings.load(folder)
    with _open(settings, EXPLAIN, "explain", dry_run=dry_run, check=chosen.check) as started:
        classes = started.inputs.test.classes
        found = started.findings(chosen)
        draw_explanation(found.explanation, started.path("figures/explained.png"), classes)
        page = write_explanation(found, started.path("."), chosen.names, classes)
        for row, name in enumerate(chosen.names):
            print(f"{name}: {turn_sentence(found.explanation, row, classes)}{way_sentence(found, row, classes)}")
        print(f"explanation: {page}")


@app.command
def diagnose(
    *,
    data: DataOptions = DataOptions(),
    model: ModelOptions = ModelOptions(),
    attack: AttackOptions = AttackOptions(),
    judge: JudgeOptions = JudgeOptions(),
    generator: GeneratorOptions = GeneratorOptions(),
    information: InformationOptions = InformationOptions(),
    diagnosis: DiagnosisOptions = DiagnosisOptions(),
    run: RunOptions = RunOptions(),
    dry_run: DryRun = False,
) -> None:
    """Diagnose a classifier: how much each layer contributes to the accuracy lost under attack, and what it loses.

    Does whatever is still missing in the run folder (train the classifier, train the judge, fit InterpretGAN), says so,
    and ends with the answer and the path of the report. Run the same command again to go on after an interruption.
    """
    settings = Settings(data, model, attack, judge, generator, diagnosis, run, information=information)
    _diagnose("diagnose", settings, dry_run=dry_run)


@app.command
def report(folder: Path, *, out: Path | None = None) -> None:
    """Draw the report of a finished diagnosis again, from the run folder alone, into another folder with --out."""
    from interpretgan.report import finished_diagnosis, redraw_report

    result = finished_diagnosis(folder)
    print_answer(result, redraw_report(result, folder, out))


@app.command
def compare(*folders: Path, out: Path | None = None) -> None:
    """Put the profiles of several runs side by side, with the differences from the first one.

    Intervals of differences are paired where the runs diagnosed the same images.

    Args:
        folders: Two or more finished runs.
        out: File for the table as CSV. Beside it, comparison.html shows profiles, differences and settings.
    """
    from interpretgan.report import compare_runs, write_comparison

    if len(folders) < 2:
        do = "e.g. interpretgan compare runs/a runs/b"
        raise ConfigError(expected="two or more run folders", got=str(len(folders)), do=do)
    found = compare_runs(folders)
    page = None if out is None else write_comparison(found, out)
    print_table(found.head, found.rows)
    for note in found.notes:
        print(f"! {note}")
    if page is not None:
        print(f"\ntable: {out}\npage: {page}")


app.command(models)
app.command(study)
app.command(benchmark)


# --- shared ------------------------------------------------------------------------------------------------------


def _diagnose(command: str, settings: Settings, *, dry_run: bool) -> None:
    from interpretgan.store.progress import duration

    with _open(settings, DIAGNOSE, command, dry_run=dry_run) as started:
        result = started.diagnosis()
        file = started.report(result)
    seconds = result.provenance["seconds"].items()
    took = ", ".join(f"{name} {duration(value)}" for name, value in seconds if name != "total")
    print(f"took {took}", file=sys.stderr, flush=True)
    print_answer(result, file)


def _refuse_more_options(settings: Settings) -> None:
    """Refuse options beside a run folder, which has its own."""
    if settings != Settings(data=DataOptions(data_dir=settings.data.data_dir)):  # which may come from the environment
        do = "leave the folder out, or all options but --images, --label, --at and --towards"
        raise ConfigError(expected="a finished run, or the options of one", got="both", do=do)


def _refuse_inside(images: str, folder: Path) -> None:
    """Refuse a run folder among the images: it would be taken for a class, and its pictures for images."""
    from interpretgan.data.folders import splits
    from interpretgan.data.readers import NAMES

    if images in NAMES or not os.path.isdir(images):  # noqa: PTH112  # a name may be too long for a path
        return
    for root in splits(Path(images)) or (Path(images),):
        if folder.resolve().is_relative_to(root.resolve()):
            got, do = str(folder), "choose another one with --out"
            raise ConfigError(expected=f"a run folder outside that of the images, {root}", got=got, do=do)


class _DryRunEnds(Exception):
    """A dry run has printed its settings."""


def _open(
    settings: Settings,
    sections: Sequence[str],
    command: str = "",
    *,
    dry_run: bool = False,
    check: Callable[[Inputs], object] | None = None,
) -> Run:
    """A run in its folder, by default runs/COMMAND. A dry run prints the resolved settings, and ends the command.

    `check` is called with what the run is given, before a folder is claimed.
    """
    from interpretgan.pipeline.inputs import Inputs
    from interpretgan.pipeline.run_diagnosis import Run

    folder = (settings.run.out or Path("runs") / command) if command and not dry_run else None
    if (written := folder or settings.run.out) is not None:
        _refuse_inside(settings.data.data, written)
    inputs = Inputs(settings)
    if check is not None:
        check(inputs)
    run = Run(inputs, sections, folder)
    if run.folder is not None:
        settings.save(run.folder.path, sections)
    if dry_run:
        print_json(run.config)
        if sections == DIAGNOSE:
            run.tell_price()
        raise _DryRunEnds
    return run


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0, 2 for bad input (one line on stderr), or 130 after Ctrl-C."""
    warnings.formatwarning = lambda message, *_: f"warning: {' '.join(str(message).split())}\n"  # not with our source
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed by whoever runs us
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # until the end
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    try:
        with suppress(_DryRunEnds):
            app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (InterpretGANError, CycloptsError) as error:
        print(f"interpretgan: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterpretgan: interrupted; run the same command again to go on from there", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        _print_no_more()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            words = f"expected the path of a file, got {error.filename!s:.40}..., longer than any; check the options"
        elif isinstance(error, PermissionError):  # even to ask whether a file is there may be forbidden
            words = f"expected a path that you may use, got {error.filename}, permission denied; choose another one"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:  # files are written by the store
            _print_no_more()
            words = "expected room for what is printed, got a full disk; free some space, then run the command again"
        else:
            raise
        print(f"interpretgan: {words}", file=sys.stderr)
        return BAD_INPUT
    return 0


def _print_no_more() -> None:
    """Let go what is printed, which would be tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
