"""Make a pretrained classifier from the run folder of its training: weights, then a card, then its figures.

    python -m tools.pack_zoo weights RUN NAME
    interpretgan evaluate --model NAME --weights pretrained --out DIR ...
    python -m tools.pack_zoo figures DIR NAME

Weights are rounded before they are measured, so that the figures are those of what is shipped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError, InterpretGANError, RunFolderError, WeightsError
from interpretgan.models.weights import load_weights
from interpretgan.models.zoo.cards import Card, build, proper_name, read_card, weights_file
from interpretgan.robustness import Evaluation
from interpretgan.store.files import atomic_write_bytes, file_sha256, read_json
from interpretgan.training.steps import copy_of

HALF_ABOVE = 2**18  #: Parameters above which the weights are stored in half precision: a MiB in single precision.
# What a card takes over from classifier.json as it is: all that it needs but the name and the architecture.
FROM_RECORD = [field.name for field in fields(Card)[2:] if field.default is MISSING]


def pack(run: Path, name: str) -> Card:
    """Put the classifier of a run folder of `interpretgan train` among the pretrained ones; its card has no figures."""
    record = read_json(run / "classifier.json")
    missing = [key for key in ("model", *FROM_RECORD) if not isinstance(record, dict) or key not in record]
    if missing:
        expected = f"{', '.join(missing)} in {run / 'classifier.json'}"
        raise RunFolderError(expected=expected, got="none", do="make the folder again")
    proper = proper_name(record["model"], record["pool"], record["objective"]["name"])
    if name != proper:
        raise ConfigError(expected=f"the name {proper} for the classifier in {run}", got=name, do=f"call it {proper}")
    card = Card(name=name, architecture=record["model"], **{key: record[key] for key in FROM_RECORD})
    model = build(card)
    load_weights(model, run / "classifier.safetensors")
    parameters, file = sum(p.numel() for p in model.parameters()), weights_file(name)
    half = parameters > HALF_ABOVE
    atomic_write_bytes(file, save({key: _stored(key, value, half) for key, value in copy_of(model).items()}))
    load_weights(model, file)
    state = Classifier(model).state_sha256()
    precision = "float16" if half else "float32"
    replace(card, precision=precision, parameters=parameters, sha256=file_sha256(file), state_sha256=state).save()
    return read_card(name)


def _stored(key: str, value: Tensor, half: bool) -> Tensor:
    """A tensor as it is written: matrices and kernels in half precision, if asked for, and vectors as they are."""
    rounded = value.half() if half and value.is_floating_point() and value.ndim > 1 else value
    if not bool(torch.isfinite(rounded).all()):
        raise WeightsError(expected="weights within half precision", got=f"larger ones in {key}", do="train again")
    return rounded


def add_figures(folder: Path, name: str) -> Card:
    """Put the figures in evaluation.json on the card of a classifier; a `WeightsError` where another was evaluated."""
    card, found = read_card(name), Evaluation.load(folder)
    state = found.classifier.get("state_sha256")
    if state != card.state_sha256:
        expected = f"an evaluation of {name}, whose state has the SHA-256 {card.state_sha256[:12]}..."
        got, do = f"one of {str(state)[:12]}... in {folder}", f"evaluate --model {name} --weights pretrained"
        raise WeightsError(expected=expected, got=got, do=do)
    record, examples = asdict(found), found.data["examples"]
    accuracy = {kind: {**interval, "examples": examples} for kind, interval in record["accuracy"].items()}
    rest = {part: record[part] for part in ("threat_model", "attacks", "data", "flags", "provenance")}
    replace(card, figures={**accuracy, **rest}).save()
    return read_card(name)


def main(arguments: Sequence[str]) -> int:
    """`weights RUN NAME` or `figures DIR NAME`; the exit code, 2 for bad input."""
    steps = {"weights": pack, "figures": add_figures}
    try:
        if len(arguments) != 3 or arguments[0] not in steps:
            got, do = " ".join(arguments) or "nothing", "name the step, the folder and the classifier"
            raise ConfigError(expected="weights RUN NAME, or figures DIR NAME", got=got, do=do)
        card = steps[arguments[0]](Path(arguments[1]), arguments[2])
    except InterpretGANError as error:
        print(f"pack: {error}", file=sys.stderr)
        return 2
    print(f"{card.name}: {card.parameters:,} parameters in {card.precision}, sha256 {card.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
