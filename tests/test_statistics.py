from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import pearsonr, rankdata, spearmanr, ttest_1samp

from interpretgan.statistics import (
    Interval,
    Profile,
    bootstrap_weights,
    difference_intervals,
    holm,
    intervals,
    paired,
    rank_correlation,
    spearman_rows,
)

DIFFERENCES = [0.02, 0.05, -0.01, 0.03, 0.04]


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_paired_differences_are_those_of_the_paired_t_test() -> None:
    found, reference = paired(DIFFERENCES), ttest_1samp(DIFFERENCES, 0)
    assert found.p == pytest.approx(reference.pvalue)
    assert ends(found.interval(0.9)) == pytest.approx(tuple(reference.confidence_interval(0.9)))
    assert found.size == pytest.approx(np.mean(DIFFERENCES) / np.std(DIFFERENCES, ddof=1))


def test_the_choice_of_examples_widens_the_interval_and_moves_nothing_else() -> None:
    examples = np.random.default_rng(0).integers(-1, 2, size=(5, 60)).astype(np.int8)
    low, high = ends(paired(DIFFERENCES).interval(0.95))
    wider = paired(DIFFERENCES, examples).interval(0.95)
    assert wider.value == pytest.approx(np.mean(DIFFERENCES))
    assert wider.low < low < high < wider.high
    same = paired(DIFFERENCES, np.ones((5, 60), dtype=np.int8))  # every example says the same
    assert ends(same.interval(0.95)) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("pairs", "spread", "least", "most"), [(2, 0.07, 0.0, 0.05), (5, 0.07, 0.01, 0.05), (5, 0.0, 0.0, 0.06)]
)
def test_the_interval_errs_no_oftener_than_it_says(pairs: int, spread: float, least: float, most: float) -> None:
    """True effect zero; trainings differ by `spread`, and examples by chance. Of few pairs it errs more rarely."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        common = 0.5 + 0.3 * random.uniform(-1, 1, 300)
        rates = (common + spread * random.standard_normal((pairs, 1)) for _ in range(2))
        one, two = (random.random((pairs, 300)) < np.clip(rate, 0, 1) for rate in rates)
        examples = one.astype(np.int8) - two.astype(np.int8)
        found = paired(examples.mean(axis=1), examples).interval(0.95)
        wrong += found.low > 0 or found.high < 0
    assert least <= wrong / 400 <= most


def test_degrees_of_freedom_are_those_of_the_larger_part() -> None:
    sure, examples = [0.01, 0.01, 0.01, 0.01, 0.01001], np.resize(np.array([1, -1, 0, 0], dtype=np.int8), (5, 400))
    assert paired(sure, examples).degrees == pytest.approx(399, rel=0.01)
    assert paired(sure[1:], examples[1:]).degrees == 3  # of few seeds their own alone
    assert paired(DIFFERENCES, np.zeros((5, 400), dtype=np.int8)).degrees == pytest.approx(4)
    assert paired(DIFFERENCES).degrees == pytest.approx(4)


@pytest.mark.parametrize("differences", [[0.0, 0.0], [0.1, 0.1]])
def test_differences_that_do_not_vary_are_no_evidence(differences: list[float]) -> None:
    found = paired(differences)
    assert (found.p, found.size) == (1.0, None)
    assert [ends(found.interval(level)) for level in (0.95, 0.9999)] == [(-1, 1), (-1, 1)]


def test_holm() -> None:
    assert list(holm([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert list(holm([0.9, 0.8])) == [1.0, 1.0]


def test_ranks_agree_with_scipy_with_ties_and_gaps() -> None:
    random = np.random.default_rng(1)
    first = random.integers(0, 4, size=(20, 7)).astype(float)
    second = random.random((20, 7))
    second[:, 2] = np.nan
    kept = [column for column in range(7) if column != 2]
    expected = [spearmanr(a[kept], b[kept]).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman_rows(first, second), expected)
    two = np.array([[1.0, 2.0, *[np.nan] * 5]])
    assert np.isnan(spearman_rows(two, two)).all()
    assert np.isnan(spearman_rows(np.ones((1, 7)), second[:1])).all()


def left(values: npt.NDArray[np.float64], line: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The reference: what is left after a regression."""
    residual: npt.NDArray[np.float64] = values - np.polyval(np.polyfit(line, values, 1), line)
    return residual


def test_partial_ranks_agree_with_a_regression_of_ranks() -> None:
    random = np.random.default_rng(5)
    given = np.arange(9.0)
    first, second = given + 5 * random.random(9), -given + 9 * random.random(9)
    second[4] = np.nan
    kept = np.isfinite(second)
    one, other = (left(rankdata(values[kept]), rankdata(given[kept])) for values in (first, second))
    assert spearman_rows(first[None], second[None], given[None]) == pytest.approx(pearsonr(one, other).statistic)
    assert np.isnan(spearman_rows(first[None], given[None], given[None])).all()  # nothing is left of the second


def test_waves_with_their_own_signs_are_the_profile_itself() -> None:
    random, depth = np.random.default_rng(5), np.arange(8.0)
    for held in (None, depth):
        gaps = np.where(np.arange(8) == 2, np.nan, random.random(8))
        profile = Profile("g", "s", depth + 4 * random.random(8), gaps, held)
        rho = profile.rho()
        np.testing.assert_allclose(profile.flipped(np.stack([np.ones(8), -np.ones(8)])), [rho, -rho])
        chance = profile.flipped(random.choice([-1.0, 1.0], size=(500, 8)))
        assert (np.abs(chance) <= 1 + 1e-9).all()
        assert abs(chance.mean()) < 0.1


def smooth(random: np.random.Generator, layers: int) -> npt.NDArray[np.float64]:
    """A profile whose layers have most in common with their neighbours."""
    return np.convolve(random.standard_normal(layers + 4), np.ones(5), "valid")


def test_smooth_profiles_that_have_nothing_in_common_pass_no_oftener_than_they_should() -> None:
    """Permutations of layers take the same profiles for evidence three times as often."""
    random, depth, wrong, permuted = np.random.default_rng(0), np.arange(12.0), 0, 0
    for _ in range(250):
        first, second = smooth(random, 12), smooth(random, 12)
        found = rank_correlation([Profile("g", "s", first, second, depth)], 199, seed=0)
        assert found is not None
        wrong += found.p < 0.05
        one, other = (left(rankdata(values), depth) for values in (first, second))
        chance = np.abs(random.permuted(np.tile(other, (99, 1)), axis=1) @ one)
        permuted += (chance >= abs(other @ one)).sum() < 5
    assert wrong / 250 <= 0.08
    assert permuted / 250 >= 0.14


def test_few_layers_decide_nothing() -> None:
    depth = np.arange(6.0)
    values = np.array([3.0, 1.0, 4.0, 1.5, 5.0, 2.0])
    found = rank_correlation([Profile("g", "s", values, values, depth)], 4000, seed=0)
    assert found is not None
    assert found.value == pytest.approx(1)
    assert found.p > 2 ** (2 - 6) - 0.01
    assert found.interval(0.95).low < 0


def test_what_only_follows_depth_has_no_correlation_given_depth() -> None:
    random = np.random.default_rng(6)
    depth = np.arange(12.0)
    follows = [depth + 0.01 * random.standard_normal(12) for _ in range(2)]
    loose = [np.round(depth + 3 * random.standard_normal(12), 3) for _ in range(2)]
    raw, given = (
        rank_correlation([Profile("g", "s", follows[0], follows[1], held)], 500, seed=0) for held in (None, depth)
    )
    assert raw is not None
    assert raw.value == pytest.approx(1)
    assert given is None  # depth is all that there is
    partial = rank_correlation([Profile("g", "s", loose[0], loose[1], depth)], 2000, seed=0)
    assert partial is not None
    assert partial.interval(0.95).low < 0 < partial.interval(0.95).high
    assert partial.p > 0.05
    exact = rank_correlation([Profile("g", "s", loose[0], loose[0] ** 3, depth)], 2000, seed=0)
    assert exact is not None
    assert exact.value == pytest.approx(1)
    assert exact.p < 0.01


@pytest.mark.parametrize("agree", [True, False])
def test_a_rank_correlation_and_its_chance(agree: bool) -> None:
    loss = np.random.default_rng(3).random(8)
    vulnerability = (loss**3 if agree else np.roll(np.argsort(np.argsort(loss)), 3)).astype(np.float64)
    profile = Profile("net", "case", loss, vulnerability)
    one, many = (rank_correlation([profile] * seeds, 2000, seed=0) for seeds in (1, 20))
    assert one is not None
    assert many is not None
    assert many.p == one.p  # more seeds of one network are no more layers
    interval = many.interval(0.95)
    if agree:
        assert one.value == pytest.approx(1)
        assert one.p == pytest.approx(2 ** (2 - 8), abs=0.01)
        assert interval.low > 0.2
    else:
        assert one.p > 0.05
        assert interval.low < 0 < interval.high
        assert interval.high - interval.low > 0.5


def test_nothing_to_rank() -> None:
    gap = np.full(5, np.nan)
    assert rank_correlation([Profile("net", "case", gap, np.arange(5.0))], 100, seed=0) is None
    assert rank_correlation([], 100, seed=0) is None


@pytest.mark.parametrize("layers", [5, 6])
def test_a_perfect_order_of_few_layers_says_nothing(layers: int) -> None:
    values = np.arange(8.0)
    values[layers:] = np.nan
    estimate = rank_correlation([Profile("g", "s", values, values)], 300, seed=0)
    assert estimate is not None
    assert ends(estimate.interval(0.95)) == pytest.approx((-1, 1), abs=0.01)


def test_chance_orders_the_layers_that_are_known() -> None:
    first, second = np.arange(8.0), np.array([3.0, np.nan, 1.0, 2.0, np.nan, np.nan, 5.0, 9.0])
    known = np.isfinite(second)
    pairs = ((first, second), (first[known], second[known]))
    gaps, none = (rank_correlation([Profile("g", "s", a, b)], 4000, seed=0) for a, b in pairs)
    assert gaps is not None
    assert none is not None
    assert gaps.value == pytest.approx(none.value)
    assert gaps.p == pytest.approx(none.p, abs=0.03)


def test_a_difference_of_runs_covers_what_their_generators_differ_by() -> None:
    """Two runs of the same truth, five generators each, on the same images."""
    random = np.random.default_rng(0)
    held = {"all": 0, "images": 0}
    for trial in range(300):
        weights = bootstrap_weights(150, 100, seed=trial) / 150
        images = 0.3 * random.standard_normal(150)
        first, other = (
            np.stack([weights @ (images + level + 0.3 * random.standard_normal(150)) for level in levels])[..., None]
            for levels in 0.05 * random.standard_normal((2, 5))
        )
        (whole,) = difference_intervals(first, other, 0.95)
        (alone,) = intervals(other.mean(axis=0) - first.mean(axis=0), 0.95)
        assert whole.value == pytest.approx(alone.value)
        held["all"] += whole.low <= 0 <= whole.high
        held["images"] += alone.low <= 0 <= alone.high
        few = difference_intervals(first[:4], other, 0.95)
        assert few == intervals(other.mean(axis=0) - first[:4].mean(axis=0), 0.95)
    assert 0.92 < held["all"] / 300 <= 1.0
    assert held["images"] / 300 < 0.7
