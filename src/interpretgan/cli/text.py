"""What the commands print: tables, sentences, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interpretgan.diagnosis.result import Diagnosis
    from interpretgan.features.findings import Findings
    from interpretgan.interpreter import Explanation
    from interpretgan.layers import Anatomy, Layer
    from interpretgan.robustness import Evaluation


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need, a line under the head."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    print("\n".join(line.rstrip() for line in (lines[0], "-" * len(lines[0].rstrip()), *lines[1:])))


def print_json(value: object) -> None:
    """A value as indented JSON."""
    from interpretgan.store.files import plain

    print(json.dumps(plain(value), indent=2))


def print_layers(anatomy: Anatomy, branches: Mapping[str, Sequence[str]], chosen: Sequence[Layer]) -> None:
    """The layers of a network with the branches of blocks, why other calls are none, and which are explained."""

    def shape(sizes: tuple[int, ...] | None) -> str:
        return "-" if sizes is None else "×".join(map(str, sizes))

    notes = {name: f"branches: {', '.join(names)}" for name, names in branches.items()}
    notes |= {layer.name: f"the same tensor as {layer.same_as}" for layer in anatomy.layers if layer.same_as}
    found = [(layer.name, layer.kind, shape(layer.shape), notes.get(layer.name, "")) for layer in anatomy.layers]
    print_table(("layer", "kind", "shape", ""), found)
    if anatomy.refused:
        print()
        refused = [(r.name, r.kind, shape(r.shape), f"{r.reason}; {r.nearest or '-'}") for r in anatomy.refused]
        print_table(("no layer", "kind", "shape", "why; use instead"), refused)
    print(f"\n{len(anatomy.distinct)} layers to diagnose, {len(anatomy.refused)} module calls that are none")
    if len(chosen) < len(anatomy.distinct):
        print(f"without --layers {len(chosen)} of them are explained: {', '.join(layer.name for layer in chosen)}")


def print_attack(record: Mapping[str, Any]) -> None:
    """The accuracies of an attack, then its warnings."""
    shares = record["accuracy"]
    print(
        f"accuracy on {record['examples']} images: natural {shares['natural']:.1%}, "
        f"adversarial {shares['adversarial']:.1%}, random noise of the same size {shares['noise']:.1%}"
    )
    for flag in record["flags"]:
        print(f"! {flag['message']}")


def print_answer(result: Diagnosis, report: Path) -> None:
    """The table of a diagnosis, its answer, and where its report is."""
    from interpretgan.report import answer_sentence, summary_table

    print(f"{summary_table(result)}\n\n{answer_sentence(result)}\n\nreport: {report}")


def print_evaluation(result: Evaluation) -> None:
    """The figures of an evaluation as a table, then its warnings."""
    from interpretgan.attacks import fraction

    threat_model, count = result.threat_model, result.data["examples"]
    print(f"{count} images, {threat_model['norm']}, eps {fraction(threat_model['eps'])}\n")
    level = f"{100 * result.provenance['confidence']:g} % interval"
    rows = [
        (name.replace("_", " "), f"{100 * share.value:.1f}", f"[{100 * share.low:.1f}, {100 * share.high:.1f}]")
        for name, share in {**result.accuracy, "random noise": result.controls["noise"]}.items()
    ]
    print_table(("attack", "accuracy %", level), rows)
    for flag in result.flags:
        print(f"! {flag}")


def turn_sentence(explanation: Explanation, row: int, classes: Sequence[str]) -> str:
    """Where the explanation of one adversarial image turns into another class: `7 → 3 at fc1`."""
    from interpretgan.report.explanation_grid import no_turn

    labels, predictions, turn = explanation.labels, explanation.adversarial_predictions, explanation.turns[row]
    assert labels is not None
    assert predictions is not None
    if turn is None:
        return no_turn(explanation, row, classes)
    true = classes[int(labels[row])]
    place = ("image", *explanation.layers).index(turn)
    return f"{true} → {classes[int(predictions[place, row])]} at {turn}"


def way_sentence(found: Findings, row: int, classes: Sequence[str]) -> str:
    """How far the way towards a class gets, `; towards 9 at fc1: seen from 62 % of the way on`; empty without one."""
    if not found.towards:
        return ""
    path = found.towards[found.layers[row]]
    first = path.agreed[row]
    seen = [classes[int(each[-1, row])] for each in (path.classified, path.judged)]
    said = (
        f"at its end the network sees {seen[0]}, the judge {seen[1]}" if first is None
        else f"network and judge see it at {path.shares[first]:.0%} of the way"
    )  # fmt: skip
    return f"; towards {classes[path.towards]} at {path.layer}: {said}"
