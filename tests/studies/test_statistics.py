from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import pearsonr, rankdata, spearmanr, ttest_1samp

from interpretgan.studies.statistics import (
    Profile,
    _permuted,
    correct,
    effect_of,
    holm,
    paired,
    rank_correlation,
    spearman_rows,
)

DIFFERENCES = [0.02, 0.05, -0.01, 0.03, 0.04]


def test_paired_differences_are_those_of_the_paired_t_test() -> None:
    found, reference = paired(DIFFERENCES), ttest_1samp(DIFFERENCES, 0)
    assert found.p == pytest.approx(reference.pvalue)
    assert found.interval(0.9) == pytest.approx(tuple(reference.confidence_interval(0.9)))
    assert found.size == pytest.approx(np.mean(DIFFERENCES) / np.std(DIFFERENCES, ddof=1))


def test_the_choice_of_examples_widens_the_interval_and_moves_nothing_else() -> None:
    examples = np.random.default_rng(0).integers(-1, 2, size=(5, 60)).astype(np.int8)
    low, high = paired(DIFFERENCES).interval(0.95)
    wider = paired(DIFFERENCES, examples)
    assert wider.value == pytest.approx(np.mean(DIFFERENCES))
    assert wider.interval(0.95)[0] < low < high < wider.interval(0.95)[1]
    same = paired(DIFFERENCES, np.ones((5, 60), dtype=np.int8))  # every example says the same
    assert same.interval(0.95) == pytest.approx((low, high))


def test_the_interval_over_seeds_and_examples_errs_about_as_often_as_it_says() -> None:
    """True effect zero; seeds and examples vary. With the seeds' four degrees of freedom it errs more rarely still."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        chance = 0.5 + 0.02 * random.standard_normal((5, 1)) + 0.3 * random.uniform(-1, 1, (1, 200))
        one, two = (random.random((5, 200)) < np.clip(chance, 0, 1) for _ in range(2))
        examples = one.astype(np.int8) - two.astype(np.int8)
        low, high = paired(list(examples.mean(axis=1)), examples).interval(0.95)
        wrong += low > 0 or high < 0
    assert wrong / 400 <= 0.06


@pytest.mark.parametrize(("pairs", "least"), [(2, 0.0), (3, 0.0), (5, 0.01)])
def test_where_trainings_differ_the_interval_errs_no_oftener_than_it_says(pairs: int, least: float) -> None:
    """True effect zero; trainings differ by ten points, and examples by chance. Of few pairs it errs more rarely."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        chance = 0.5 + 0.07 * random.standard_normal((2, pairs, 1)) + 0.3 * random.uniform(-1, 1, (1, 1, 300))
        one, two = (random.random((pairs, 300)) < np.clip(rate, 0, 1) for rate in chance)
        examples = one.astype(np.int8) - two.astype(np.int8)
        low, high = paired(list(examples.mean(axis=1)), examples).interval(0.95)
        wrong += low > 0 or high < 0
    assert least <= wrong / 400 <= 0.05


def test_degrees_of_freedom_are_those_of_the_larger_part() -> None:
    sure, examples = [0.01, 0.01, 0.01, 0.01, 0.01001], np.resize(np.array([1, -1, 0, 0], dtype=np.int8), (5, 400))
    assert paired(sure, examples).degrees == pytest.approx(399, rel=0.01)
    assert paired(sure[1:], examples[1:]).degrees == 3  # of few seeds their own alone
    assert paired(DIFFERENCES, np.zeros((5, 400), dtype=np.int8)).degrees == pytest.approx(4)
    assert paired(DIFFERENCES).degrees == pytest.approx(4)


@pytest.mark.parametrize("differences", [[0.0, 0.0], [0.1, 0.1]])
def test_differences_that_do_not_vary_are_no_evidence(differences: list[float]) -> None:
    found = paired(differences)
    assert (found.p, found.size, found.interval(0.95), found.interval(0.9999)) == (1.0, None, (-1, 1), (-1, 1))


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_more_comparisons_widen_the_corrected_interval_alone() -> None:
    one = effect_of(paired(DIFFERENCES), 0.95, quantity="q", case="c")
    (alone,), many = correct([one], 0.95), correct([one] * 4, 0.95)
    assert (alone.corrected_low, alone.corrected_high) == (alone.low, alone.high)
    assert many[0].corrected_low < alone.low < alone.high < many[0].corrected_high
    assert (many[0].low, many[0].high, many[0].comparisons) == (alone.low, alone.high, 4)


def test_ranks_agree_with_scipy_with_ties_and_gaps() -> None:
    random = np.random.default_rng(1)
    first = random.integers(0, 4, size=(20, 7)).astype(float)
    second = random.random((20, 7))
    second[:, 2] = np.nan
    kept = [column for column in range(7) if column != 2]
    expected = [spearmanr(a[kept], b[kept]).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman_rows(first, second), expected)
    few = np.full((1, 7), np.nan)
    few[0, :2] = 1, 2
    assert np.isnan(spearman_rows(few, few)).all()
    assert np.isnan(spearman_rows(np.ones((1, 7)), second[:1])).all()


def test_partial_ranks_agree_with_a_regression_of_ranks() -> None:
    random = np.random.default_rng(5)
    given = np.arange(9.0)
    first, second = given + 5 * random.random(9), -given + 9 * random.random(9)
    second[4] = np.nan
    kept = np.isfinite(second)
    left = []
    for values in (first, second):
        ranks, line = rankdata(values[kept]), rankdata(given[kept])
        left.append(ranks - np.polyval(np.polyfit(line, ranks, 1), line))
    found = spearman_rows(first[None], second[None], given[None])
    assert found == pytest.approx(pearsonr(*left).statistic)
    assert np.isnan(spearman_rows(first[None], given[None], given[None])).all()  # nothing is left of the second


def test_partial_ranks_in_other_orders_are_cleared_again() -> None:
    random = np.random.default_rng(7)
    depth = np.arange(8.0)
    profile = Profile("g", "s", depth + 4 * random.random(8), depth + 4 * random.random(8), depth)
    orders = np.argsort(random.random((5, 8)), axis=1)

    def left(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        cleared: npt.NDArray[np.float64] = values - np.polyval(np.polyfit(rankdata(depth), values, 1), rankdata(depth))
        return cleared

    first, second = left(rankdata(profile.first)), left(rankdata(profile.second))
    expected = [pearsonr(first, left(second[order])).statistic for order in orders]
    np.testing.assert_allclose(_permuted(profile, orders), expected)


def test_what_only_follows_depth_has_no_correlation_given_depth() -> None:
    random = np.random.default_rng(6)
    depth = np.arange(12.0)
    made = [depth + 0.01 * random.standard_normal(12) for _ in range(2)]
    loose = [np.round(depth + 3 * random.standard_normal(12), 3) for _ in range(2)]
    raw, given = (rank_correlation([Profile("g", "s", made[0], made[1], held)], 500, seed=0) for held in (None, depth))
    assert raw is not None
    assert raw.value == pytest.approx(1)
    assert given is None  # depth is all that there is
    partial = rank_correlation([Profile("g", "s", loose[0], loose[1], depth)], 2000, seed=0)
    assert partial is not None
    assert partial.interval(0.95)[0] < 0 < partial.interval(0.95)[1]
    assert partial.p > 0.05
    follows = rank_correlation([Profile("g", "s", loose[0], loose[0] ** 3, depth)], 2000, seed=0)
    assert follows is not None
    assert follows.value == pytest.approx(1)
    assert follows.p < 0.01


def runs(seeds: int, *, agree: bool) -> list[Profile]:
    random = np.random.default_rng(3)
    loss = random.random(8)
    vulnerability = (loss**3 if agree else np.roll(np.argsort(np.argsort(loss)), 3)).astype(np.float64)
    return [Profile("net", "case", loss, vulnerability)] * seeds


def test_a_rank_correlation_and_its_chance() -> None:
    found = rank_correlation(runs(3, agree=True), 500, seed=0)
    assert found is not None
    assert found.value == pytest.approx(1)
    assert found.p == pytest.approx(1 / 501)
    assert found.interval(0.95)[0] > 0.8
    other = rank_correlation(runs(3, agree=False), 500, seed=0)
    assert other is not None
    assert other.p > 0.05
    assert other.interval(0.95)[0] < 0 < other.interval(0.95)[1]


def test_more_seeds_of_one_network_are_no_more_layers() -> None:
    few, many = (rank_correlation(runs(seeds, agree=False), 2000, seed=0) for seeds in (1, 20))
    assert few is not None
    assert many is not None
    assert many.p == few.p
    assert many.interval(0.95)[1] - many.interval(0.95)[0] > 0.5


def test_nothing_to_rank() -> None:
    gap = np.full(5, np.nan)
    assert rank_correlation([Profile("net", "case", gap, np.arange(5.0))], 100, seed=0) is None
    assert rank_correlation([], 100, seed=0) is None


@pytest.mark.parametrize(("layers", "low"), [(5, -1.0), (6, 1.0)])
def test_a_perfect_order_of_few_layers_tells_nothing(layers: int, low: float) -> None:
    values = np.arange(8.0)
    values[layers:] = np.nan
    estimate = rank_correlation([Profile("g", "s", values, values)], 300, seed=0)
    assert estimate is not None
    assert estimate.value == pytest.approx(1)
    assert estimate.interval(0.95)[0] == pytest.approx(low)


def test_chance_orders_the_layers_that_are_known() -> None:
    first, second = np.arange(8.0), np.array([3.0, np.nan, 1.0, 2.0, np.nan, np.nan, 5.0, 9.0])
    known = np.isfinite(second)
    (with_gaps, without) = (
        rank_correlation([Profile("g", "s", a, b)], 4000, seed=0)
        for a, b in ((first, second), (first[known], second[known]))
    )
    assert with_gaps is not None
    assert without is not None
    assert with_gaps.value == pytest.approx(without.value)
    assert with_gaps.p == pytest.approx(without.p, abs=0.03)
