"""Slow oracles: the formulas as docs/method.md writes them, number by number, sharing nothing with the package."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Row = Sequence[float]
Ints = Sequence[int]


def softmax(row: Row) -> list[float]:
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def information_bound(logits: Sequence[Row], explained: Sequence[Row]) -> float:
    """L_I = E_x sum_y p(y|x) log p(y|x_hat)."""
    total = 0.0
    for row, other in zip(logits, explained, strict=True):
        p, q = softmax(row), softmax(other)
        total += sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return total / len(logits)


def discriminator_hinge(real: Row, fake: Row) -> float:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(x_hat))."""
    return sum(max(0.0, 1 - r) for r in real) / len(real) + sum(max(0.0, 1 + f) for f in fake) / len(fake)


def latent_consistency(latent: Sequence[Row], explained: Sequence[Row]) -> float:
    """||z_hat - z||^2 / ||z||^2 over the batch."""
    above = sum((b - a) ** 2 for x, y in zip(latent, explained, strict=True) for a, b in zip(x, y, strict=True))
    return above / sum(a**2 for x in latent for a in x)


def survival(labels: Sequence[int], natural: Sequence[Ints], adversarial: Sequence[Ints]) -> list[float]:
    """P[J(G_l(z_l(x'))) = y] / P[J(G_l(z_l(x))) = y], the image first."""
    kept = []
    for nat, adv in zip(natural, adversarial, strict=True):
        right_nat = sum(shown == y for shown, y in zip(nat, labels, strict=True))
        right_adv = sum(shown == y for shown, y in zip(adv, labels, strict=True))
        kept.append(right_adv / right_nat)
    return kept


def vulnerability(kept: Row) -> list[float]:
    """V_l = kept_{l-1} - kept_l, and nothing for the image."""
    return [0.0, *(kept[i - 1] - kept[i] for i in range(1, len(kept)))]


def information_bits(labels: Sequence[int], shown: Sequence[int]) -> float:
    """I(Y; J) from counts, each entropy jackknifed: n H less n - 1 times the mean of those without one example."""

    def plug_in(counts: Counter[object]) -> float:
        n = sum(counts.values())
        return -sum(c / n * math.log2(c / n) for c in counts.values() if c)

    def entropy(outcomes: Sequence[object]) -> float:
        n, counts = len(outcomes), Counter(outcomes)
        without = sum(c * plug_in(counts - Counter([outcome])) for outcome, c in counts.items())
        return n * plug_in(counts) - (n - 1) / n * without

    return entropy(labels) + entropy(shown) - entropy(list(zip(labels, shown, strict=True)))


def turns(labels: Ints, natural: Sequence[Ints], adversarial: Sequence[Ints]) -> list[int | None]:
    """The first row, of those with a right natural prediction, from which on none of them is right under attack."""
    found: list[int | None] = []
    for example, label in enumerate(labels):
        turn = None
        for row in reversed(range(len(natural))):
            if natural[row][example] == label:
                if adversarial[row][example] == label:
                    break
                turn = row
        found.append(turn)
    return found


def unexplained(images: Sequence[Row], decoded: Sequence[Row], mean: Row) -> float:
    """E||x - D(z)||^2 / E||x - mean||^2."""
    above = sum((a - b) ** 2 for x, y in zip(images, decoded, strict=True) for a, b in zip(x, y, strict=True))
    return above / sum((a - m) ** 2 for x in images for a, m in zip(x, mean, strict=True))


def class_information(labels: Sequence[int], logits: Sequence[Row], frequencies: Row) -> float:
    """E[log2 q(y|z) - log2 p(y)]."""
    said = [math.log2(softmax(row)[y]) - math.log2(frequencies[y]) for y, row in zip(labels, logits, strict=True)]
    return sum(said) / len(said)
