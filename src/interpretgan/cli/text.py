"""Plain text for the terminal: tables of words and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interpretgan.attacks import fraction

if TYPE_CHECKING:
    from interpretgan.robustness import Evaluation


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as they need, a line under the first row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def evaluation_table(result: Evaluation) -> str:
    """The figures of an evaluation as a table, then its flags."""
    shares = {**result.accuracy, "random noise": result.controls["noise"]}
    level = f"{100 * result.provenance['confidence']:g} % interval"
    rows = [("attack", "accuracy %", level)]
    rows += [
        (
            name.replace("worst_case", "worst case"),
            f"{100 * share.value:.1f}",
            f"[{100 * share.low:.1f}, {100 * share.high:.1f}]",
        )
        for name, share in shares.items()
    ]
    tm, count = result.threat_model, result.data["examples"]
    title = f"{count} images, {tm['norm']}, eps {fraction(tm['eps'])}"
    return "\n".join([title, "", table(rows), *(f"! {flag}" for flag in result.flags)])
