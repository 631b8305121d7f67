"""Statistics against scipy and closed forms."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from eef import stats


def test_doctests():
    assert doctest.testmod(stats).failed == 0


@given(st.integers(1, 800).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_is_scipys(sample):
    wins, total = sample
    expected = reference.binomtest(wins, total).proportion_ci(0.95, method="wilson")
    assert stats.wilson_interval(wins, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300))
def test_mcnemar_is_the_exact_binomial_test(pairs):
    first, second = zip(*pairs, strict=True)
    result = stats.mcnemar(first, second)
    discordant = result.only_first + result.only_second
    expected = reference.binomtest(result.only_first, discordant).pvalue if discordant else 1.0
    assert result.p_value == pytest.approx(expected)
    assert result.only_first - result.only_second == sum(first) - sum(second)


def test_bootstrap_agrees_with_scipy_and_with_the_normal_approximation():
    values = np.random.default_rng(3).random(400)
    ours = stats.bootstrap_interval(values)
    scipys = reference.bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert ours == pytest.approx((scipys.low, scipys.high), abs=0.004)
    assert ours == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)


def test_bootstrap_depends_on_the_seed_alone():
    values = [0.0, 0.3, 1.0, 0.7]
    assert stats.bootstrap_interval(values, seed=5) == stats.bootstrap_interval(values, seed=5)
    assert stats.bootstrap_interval(values, seed=5, resamples=50) != stats.bootstrap_interval(
        values, seed=6, resamples=50
    )


def test_pairing_removes_what_tasks_have_in_common():
    hard_and_easy = np.random.default_rng(0).random(200)
    result = stats.paired_difference(hard_and_easy + 0.1, hard_and_easy)
    assert result.mean == pytest.approx(0.1)
    assert result.interval == pytest.approx((0.1, 0.1))


def test_a_higher_confidence_is_wider():
    values = [0.0] * 30 + [1.0] * 20
    narrow, wide = (stats.bootstrap_interval(values, confidence=part) for part in (0.5, 0.99))
    assert wide.low < narrow.low < 0.4 < narrow.high < wide.high


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_the_stepwise_procedure_rejects(p_values):
    adjusted = stats.holm(p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, index in enumerate(order):
            if (len(p_values) - rank) * p_values[index] > level:
                break
            rejected.add(index)
        assert rejected == {index for index, value in enumerate(adjusted) if value <= level}


def test_holm_keeps_the_order_given():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_success_rate():
    assert stats.success_rate([True, False, False, True]) == 0.5


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.success_rate([]),
        lambda: stats.wilson_interval(3, 2),
        lambda: stats.wilson_interval(0, 0),
        lambda: stats.bootstrap_interval([]),
        lambda: stats.mcnemar([True], [True, False]),
        lambda: stats.paired_difference([1.0], [1.0, 0.0]),
    ],
)
def test_what_is_no_sample_is_an_error(call):
    with pytest.raises(ValueError):
        call()
