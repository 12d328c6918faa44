"""Split the vulnerability of a block among its branches: pure arithmetic on predictions, see `vulnerability`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import factorial

import numpy as np

from interpretgan.diagnosis.predictions import Predictions
from interpretgan.diagnosis.result import BranchResult
from interpretgan.diagnosis.vulnerability import accuracy, shares, survival, vulnerability
from interpretgan.layers.branches import Block
from interpretgan.statistics import Floats, Weights, intervals


def shapley(right: dict[tuple[int, ...], Floats], count: int) -> Floats:
    """What each of `count` branches carries of the loss of each image, `φ` `[count, N]`.

    `right` says for every choice of branches, none and all included, how far the judge is right when these are
    attacked, `[N]`. The parts of an image add up to `right[()] - right[all]`.
    """
    found = np.zeros((count, len(right[()])))
    for branch in range(count):
        rest = [place for place in range(count) if place != branch]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for chosen in combinations(rest, size):
                found[branch] += weight * (right[chosen] - right[tuple(sorted((*chosen, branch)))])
    return found


def brought_in(carried: Floats, before: Floats) -> Floats:
    """Of what each image had lost before the block, the part of each branch, `ι` `[k, N]`.

    `carried` is `φ` `[k, N]`, and `before` `[N]` what was lost before: 1, 0, or -1 where the judge was right on the
    attacked image alone. Where as much is lost behind the block, the branches that carry it there brought it in.
    Elsewhere the block changes what it got, and all branches, which got it alike, brought in equal parts.
    """
    same = before == carried.sum(axis=0).round()  # the sum is a difference of two rights, a whole number
    found: Floats = np.where(same, carried * (before != 0), before / len(carried))
    return found


def branch_figures(
    predictions: Sequence[Predictions], block: Block, row: int, weights: Weights, confidence: float
) -> tuple[BranchResult, ...]:
    """The figures of a block's branches, means over the generators.

    There are predictions of each generator, for the same images; `row` is the block's among theirs, at least 1.
    """
    of_all: dict[str, list[Floats]] = {"vulnerability": [], "carried": [], "alone": [], "others": []}
    count, whole = len(block.branches), []
    for found in predictions:
        natural, attacked = (shown == found.labels for shown in (found.natural, found.adversarial))
        some = found.branches[block.layer.name] == found.labels
        right = {chosen: shown.astype(np.float64) for chosen, shown in zip(block.coalitions, some, strict=True)}
        right |= {(): natural[row].astype(np.float64), tuple(range(count)): attacked[row].astype(np.float64)}
        carried = shapley(right, count)
        before = natural[row - 1].astype(np.float64) - attacked[row - 1]
        shown_natural, kept = (
            accuracy(natural, weights),
            survival(accuracy(natural, weights), accuracy(attacked, weights)),
        )
        here, there = shown_natural[:, row], shown_natural[:, row - 1]
        examples = weights.sum(axis=1, keepdims=True, dtype=np.float64)

        def mean(of_images: Floats, right_naturally: Floats, examples: Floats = examples) -> Floats:
            """`[1 + B, k]` of `[k, N]`, over the share that is right without an attack; 0 where nothing is."""
            means = weights.astype(np.float64) @ of_images.T / examples
            known = (right_naturally > 0)[:, None]
            return np.divide(means, right_naturally[:, None], out=np.zeros_like(means), where=known)

        lost, came = mean(carried, here), mean(brought_in(carried, before), there)
        # Without a natural explanation that is right, survival is that of the row before (see `survival`).
        came = np.where((there > 0)[:, None], came, (1 - kept[:, row - 1])[:, None] / count)
        of_all["vulnerability"].append(np.where((here > 0)[:, None], lost - came, 0.0))
        of_all["carried"].append(lost)
        rest = [tuple(place for place in range(count) if place != branch) for branch in range(count)]
        of_all["alone"].append(mean(np.stack([right[branch,] for branch in range(count)]), here))
        of_all["others"].append(mean(np.stack([right[others] for others in rest]), here))
        whole.append(vulnerability(kept))
    stacked = {name: np.stack(tables) for name, tables in of_all.items()}
    stacked["share"] = _shares(stacked["vulnerability"], np.stack(whole), row, confidence)
    estimates = {name: intervals(table, confidence) for name, table in stacked.items()}
    return tuple(
        BranchResult(
            branch.name,
            tuple(call.name for call in branch.calls),
            **{name: found[place] for name, found in estimates.items()},
        )
        for place, branch in enumerate(block.branches)
    )


def _shares(lost: Floats, of_rows: Floats, row: int, confidence: float) -> Floats:
    """`V_lb / Σ V` `[S, 1 + B, k]` of `V_lb`, the vulnerabilities of all rows `[S, 1 + B, L + 1]` being known."""
    table = np.concatenate([of_rows[..., :row], lost, of_rows[..., row + 1 :]], axis=-1)
    return shares(table, confidence)[..., row : row + lost.shape[-1]]
