"""Split the vulnerability of a block among its branches and their groups of channels: arithmetic on predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import factorial
from typing import Any

import numpy as np

from interpretgan.diagnosis.predictions import Predictions
from interpretgan.diagnosis.result import BranchResult
from interpretgan.diagnosis.vulnerability import accuracy, shares, survival, vulnerability
from interpretgan.layers import Layer
from interpretgan.layers.branches import Block, subsets
from interpretgan.statistics import Floats, Weights, intervals


def shapley(right: dict[tuple[int, ...], Floats], members: Sequence[tuple[int, ...]]) -> Floats:
    """What each branch, or group of a branch, carries of the loss of each image, `φ` `[m, N]`.

    `right` says for every choice of branches that the block's `coalitions` has, none and all included, how far the
    judge is right when these are attacked, `[N]`. The parts of an image add up to `right[()] - right[all]`. `members`
    are the places of each branch's groups, or its own, `m` in all. The mean is over all orders in which the groups of a
    branch come one after the other (Owen's value), so they add up to what the branch carries unsplit.
    """
    found = np.zeros((sum(map(len, members)), len(right[()])))
    for own in members:
        others = [places for places in members if places != own]
        for chosen in subsets(others):
            rest, weight = [place for places in chosen for place in places], _weight(len(chosen), len(members))
            for some in subsets(own):
                for place in (each for each in own if each not in some):
                    before, after = (tuple(sorted((*rest, *here))) for here in (some, (*some, place)))
                    found[place] += weight * _weight(len(some), len(own)) * (right[before] - right[after])
    return found


def _weight(before: int, count: int) -> float:
    """The share of all orders of `count` in which just these `before` come before a certain other one."""
    return factorial(before) * factorial(count - before - 1) / factorial(count)


def brought_in(carried: Floats, before: Floats, part: Floats) -> Floats:
    """Of what each image had lost before the block, the part of each branch or group, `ι` `[m, N]`.

    `carried` is `φ` `[m, N]`, and `before` `[N]` what was lost before: 1, 0, or -1 where the judge was right on the
    attacked image alone. Where as much is lost behind the block, the branches that carry it there brought it in.
    Elsewhere the block changes what it got, and all branches, which got it alike, brought in equal parts, and so did
    the groups of a branch: `part` `[m]`, which adds up to 1.
    """
    same = before == carried.sum(axis=0).round()  # the sum is a difference of two rights, a whole number
    found: Floats = np.where(same, carried * (before != 0), before * part[:, None])
    return found


def branch_figures(
    predictions: Sequence[Predictions], block: Block, row: int, weights: Weights, confidence: float
) -> tuple[BranchResult, ...]:
    """The figures of a block's branches, means over the generators.

    There are predictions of each generator, for the same images; `row` is the block's among theirs, at least 1. Of a
    layer that is split among groups of channels these are the groups.
    """
    of_all: dict[str, list[Floats]] = {"vulnerability": [], "carried": [], "alone": [], "others": []}
    members, whole = block.members, list[Floats]()
    everyone = tuple(place for own in members for place in own)
    part = np.array([1 / len(members) / len(own) for own in members for _ in own])
    shown = [*members, *((place,) for place in everyone)]  # the branches, then all groups, or itself where none
    sums = np.array([[place in own for place in everyone] for own in shown], dtype=np.float64)
    for found in predictions:
        natural, attacked = (shown == found.labels for shown in (found.natural, found.adversarial))
        some = found.branches[block.layer.name] == found.labels
        right = {chosen: shown.astype(np.float64) for chosen, shown in zip(block.coalitions, some, strict=True)}
        right |= {(): natural[row].astype(np.float64), everyone: attacked[row].astype(np.float64)}
        carried = shapley(right, members)
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

        lost, came = mean(carried, here), mean(brought_in(carried, before, part), there)
        # Without a natural explanation that is right, survival is that of the row before (see `survival`).
        came = np.where((there > 0)[:, None], came, (1 - kept[:, row - 1])[:, None] * part)
        of_all["vulnerability"].append(np.where((here > 0)[:, None], lost - came, 0.0))
        of_all["carried"].append(lost)
        rest = [tuple(place for place in everyone if place not in own) for own in shown]
        of_all["alone"].append(mean(np.stack([right[own] for own in shown]), here))
        of_all["others"].append(mean(np.stack([right[others] for others in rest]), here))
        whole.append(vulnerability(kept))
    stacked = {name: np.stack(tables) for name, tables in of_all.items()}
    stacked["share"] = _shares(stacked["vulnerability"], np.stack(whole), row, confidence)
    for name in ("vulnerability", "carried", "share"):  # these add up
        stacked[name] = stacked[name] @ sums.T
    estimates = {name: intervals(table, confidence) for name, table in stacked.items()}

    def result(place: int, name: str, calls: Sequence[Layer], parts: tuple[BranchResult, ...] = ()) -> BranchResult:
        figures: dict[str, Any] = {name: found[place] for name, found in estimates.items()}
        return BranchResult(name, tuple(call.name for call in calls), **figures, parts=parts)

    results = []
    for place, (branch, own) in enumerate(zip(block.branches, members, strict=True)):
        pairs = zip(branch.groups, own, strict=False)  # of a branch without groups there are none
        parts = [
            replace(result(len(members) + at, group.name, [group.call]), channels=(group.start, group.stop))
            for group, at in pairs
        ]
        results.append(result(place, branch.name, branch.calls, tuple(parts)))
    return results[0].parts if len(results) == 1 else tuple(results)


def _shares(lost: Floats, of_rows: Floats, row: int, confidence: float) -> Floats:
    """`V_lb / Σ V` `[S, 1 + B, k]` of `V_lb`, the vulnerabilities of all rows `[S, 1 + B, L + 1]` being known."""
    table = np.concatenate([of_rows[..., :row], lost, of_rows[..., row + 1 :]], axis=-1)
    return shares(table, confidence)[..., row : row + lost.shape[-1]]
