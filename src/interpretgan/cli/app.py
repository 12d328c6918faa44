"""The command line: parse, call, print. Heavy packages are imported by the commands that use them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter

from interpretgan.cli.benchmark import benchmark
from interpretgan.cli.study import study
from interpretgan.cli.text import print_json, print_table
from interpretgan.errors import ConfigError, InterpretGANError, RunFolderError
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
    from interpretgan.diagnosis.result import Diagnosis
    from interpretgan.pipeline.run_diagnosis import Run

BAD_INPUT = 2
INTERRUPTED = 130
DEMO_STEPS, DEMO_INFORMATION_STEPS = 200, 120  # enough for the digits

DryRun = Annotated[
    bool, Parameter(negative="", group="Run", help="Print the resolved settings, of a long run its price, and stop.")
]

app = App(
    name="interpretgan",
    help="Which layer of an image classifier lets adversarial perturbations through, and what do they change there?\n\n"
    "Start with `interpretgan demo`, then `interpretgan diagnose --help` for your own model.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # told by run_command, in our own words
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
    from interpretgan.diagnosis.branches import find_branches
    from interpretgan.pipeline.layer_choice import choose_layers

    with _open(Settings(data=data, model=model, run=run), TRAIN) as started:
        classifier, probe = started.inputs.classifier, started.inputs.probe
        anatomy = started.inputs.anatomy(classifier)
        blocks = find_branches(classifier, anatomy, anatomy.distinct, probe)
    branches = {block.layer.name: [branch.name for branch in block.branches] for block in blocks}
    notes = {name: f"branches: {', '.join(names)}" for name, names in branches.items()}
    notes |= {layer.name: f"the same tensor as {layer.same_as}" for layer in anatomy.layers if layer.same_as}
    found = [(layer.name, layer.kind, _shape(layer.shape), notes.get(layer.name, "")) for layer in anatomy.layers]
    print_table(("layer", "kind", "shape", ""), found)
    if anatomy.refused:
        print()
        refused = [(r.name, r.kind, _shape(r.shape), f"{r.reason}; {r.nearest or '-'}") for r in anatomy.refused]
        print_table(("no layer", "kind", "shape", "why; use instead"), refused)
    print(f"\n{len(anatomy.distinct)} layers to diagnose, {len(anatomy.refused)} module calls that are none")
    if len(chosen := choose_layers(anatomy)) < len(anatomy.distinct):
        print(f"without --layers {len(chosen)} of them are explained: {', '.join(layer.name for layer in chosen)}")
    if run.out is not None:
        from dataclasses import asdict

        from interpretgan.store.files import write_json

        record = {
            "layers": [asdict(layer) for layer in anatomy.layers],
            "branches": branches,
            "refused": [asdict(r) for r in anatomy.refused],
        }
        write_json(run.out / "layers.json", {"schema": 2, **record})


@app.command
def models() -> None:
    """The architectures that --model takes, and the pretrained classifiers with their accuracy.

    A pretrained classifier is taken with its name and --weights pretrained, e.g.
    `interpretgan diagnose --data mnist --model lenet5-avg-trades --weights pretrained`.

    The first "at eps" is the size that a classifier was trained at, the second that of the attacks. "warnings" counts
    the reasons to distrust these accuracies, which `interpretgan evaluate` prints.
    """
    from interpretgan.attacks import fraction
    from interpretgan.models import MODELS, card_names, read_card

    known = [(name, f"{spec.parameters:,}", ", ".join(spec.pools), spec.source) for name, spec in MODELS.items()]
    print_table(("architecture", "parameters", "--pool", "source"), known)
    print(
        "\nParameters are for 10 classes and width 1; the first pooling is the default. Any wrn-DEPTH-WIDENING works.\n"
    )
    rows = []
    for card in map(read_card, card_names()):
        figures = [card.figure(name) for name in ("natural", "pgd", "autoattack")]
        shown = ["-" if figure is None else f"{figure['value']:.1%}" for figure in figures]
        measured = ["-", "-", "-"]
        if card.figures is not None and figures[0] is not None:
            attacked = fraction(card.figures["threat_model"]["eps"])
            measured = [attacked, f"{figures[0]['examples']:,}", str(len(card.figures["flags"]))]
        trained = "-" if card.eps is None else fraction(card.eps)
        rows.append((card.name, card.data["name"], card.objective["name"], trained, *shown, *measured))
    head = ("pretrained", "data", "objective", "at eps", "natural", "PGD", "AutoAttack", "at eps", "images", "warnings")
    print_table(head, rows)


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
        raise ConfigError(
            expected="a model to train", got="one with weights", do="leave --weights and --pretrained out"
        )
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
        record = started.attack()
        shares = record["accuracy"]
        print(
            f"accuracy on {record['examples']} images: natural {shares['natural']:.1%}, "
            f"adversarial {shares['adversarial']:.1%}, random noise of the same size {shares['noise']:.1%}"
        )


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
    examples are right.

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
    *,
    index: str = "0,1,2,3,4,5",
    data: DataOptions = DataOptions(),
    model: ModelOptions = ModelOptions(),
    attack: AttackOptions = AttackOptions(),
    judge: JudgeOptions = JudgeOptions(),
    generator: GeneratorOptions = GeneratorOptions(),
    run: RunOptions = RunOptions(),
    dry_run: DryRun = False,
) -> None:
    """Show what each layer holds of some test images, and of their adversarial counterparts.

    Writes figures/explained.png, and says for each image where its explanation turns into another class.

    Args:
        index: Test images, by their number from 0: a,b,c.
    """
    settings = Settings(data=data, model=model, attack=attack, judge=judge, generator=generator, run=run)
    try:
        indices = [int(part) for part in index.split(",")]
    except ValueError:
        raise ConfigError(expected="whole numbers a,b,c", got=f"'{index}'", do="e.g. --index 0,3,7") from None
    from interpretgan.cli.text import turn_sentence
    from interpretgan.report import draw_explanation

    with _open(settings, EXPLAIN, "explain", dry_run=dry_run) as started:
        explanation, classes = started.explanation(indices), started.inputs.test.classes
        file = draw_explanation(explanation, started.path("figures/explained.png"), classes)
        for row, number in enumerate(indices):
            print(f"image {number}: {turn_sentence(explanation, row, classes)}")
        print(f"pictures: {file}")


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
    from interpretgan.diagnosis.result import Diagnosis
    from interpretgan.report import load_explanation, write_report

    if not (folder / "diagnosis.json").exists():
        expected = f"a finished diagnosis in {folder}"
        raise RunFolderError(expected=expected, got="no diagnosis.json", do="run `interpretgan diagnose` first")
    result, pictures = Diagnosis.load(folder), folder / "explanations.npz"
    explanation = load_explanation(pictures) if pictures.exists() else None
    _print_answer(result, write_report(result, out or folder, explanation))


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
    _print_answer(result, file)


class _DryRunEnds(Exception):
    """A dry run has printed its settings."""


def _open(settings: Settings, sections: Sequence[str], command: str = "", *, dry_run: bool = False) -> Run:
    """A run in its folder, by default runs/COMMAND. A dry run prints the resolved settings, and ends the command."""
    from interpretgan.pipeline.inputs import Inputs
    from interpretgan.pipeline.run_diagnosis import Run

    folder = (settings.run.out or Path("runs") / command) if command and not dry_run else None
    run = Run(Inputs(settings), sections, folder)
    if dry_run:
        print_json(run.config)
        if sections == DIAGNOSE:
            run.tell_price()
        raise _DryRunEnds
    return run


def _print_answer(result: Diagnosis, file: Path) -> None:
    from interpretgan.report import answer_sentence, summary_table

    print(f"{summary_table(result)}\n\n{answer_sentence(result)}\n\nreport: {file}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "×".join(map(str, shape))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0, 2 for bad input (one line on stderr), or 130 after Ctrl-C."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except _DryRunEnds:
        return 0
    except (InterpretGANError, CycloptsError) as error:
        print(f"interpretgan: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterpretgan: interrupted; run the same command again to go on from there", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
