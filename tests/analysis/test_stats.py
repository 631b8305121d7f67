"""Statistics against scipy and closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from eef.analysis import stats


@given(st.integers(1, 800).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_is_scipys(sample):
    wins, total = sample
    expected = reference.binomtest(wins, total).proportion_ci(0.95, method="wilson")
    assert stats.wilson_interval(wins, total) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


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


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 1200))
def test_bootstrap_draws_one_resample_after_the_other(values, resamples):
    generator, sample = np.random.default_rng(7), np.asarray(values)
    indices = (generator.integers(0, len(sample), len(sample)) for _ in range(resamples))
    means = [sample[each].mean() for each in indices]
    expected = tuple(np.quantile(means, [0.025, 0.975]))
    assert stats.bootstrap_interval(values, resamples=resamples, seed=7) == pytest.approx(
        expected, abs=1e-12
    )


def test_pairing_removes_the_difficulty_of_tasks():
    hard_and_easy = np.random.default_rng(0).random(200)
    result = stats.paired_difference(hard_and_easy + 0.1, hard_and_easy)
    assert result.mean == pytest.approx(0.1)
    assert result.interval == pytest.approx((0.1, 0.1))


def test_a_higher_confidence_is_wider():
    values = [0.0] * 30 + [1.0] * 20
    narrow, wide = (stats.bootstrap_interval(values, confidence=part) for part in (0.5, 0.99))
    assert wide.low < narrow.low < 0.4 < narrow.high < wide.high


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_the_same_as_the_stepwise_procedure(p_values):
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


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.wilson_interval(3, 2),
        lambda: stats.wilson_interval(0, 0),
        lambda: stats.bootstrap_interval([]),
        lambda: stats.mcnemar([True], [True, False]),
        lambda: stats.paired_difference([1.0], [1.0, 0.0]),
    ],
)
def test_an_invalid_sample_is_an_error(call):
    with pytest.raises(ValueError):
        call()


# tables of seeds and tasks

wins = st.integers(0, 1).map(float)


@st.composite
def tables(draw, *, seeds=3, tasks=7):
    rows, columns = draw(st.integers(1, seeds)), draw(st.integers(1, tasks))
    table = st.lists(
        st.lists(wins, min_size=columns, max_size=columns), min_size=rows, max_size=rows
    )
    return draw(table), draw(table)


@given(tables())
def test_the_sign_flip_test_counts_all_sign_patterns(pair):
    first, second = (np.asarray(table) for table in pair)
    gaps = (first - second).sum(axis=0)
    sums = [
        abs((gaps * signs).sum()) for signs in np.array(list(np.ndindex(*(2,) * len(gaps)))) * 2 - 1
    ]
    expected = np.mean([total >= abs(gaps.sum()) for total in sums])
    assert stats.sign_flip_test(*pair) == pytest.approx(expected)


def test_the_sign_flip_test_is_scipys():
    generator = np.random.default_rng(2)
    first, second = generator.integers(0, 2, (2, 3, 9)).astype(float)
    gaps = (first - second).sum(axis=0)
    expected = reference.permutation_test(
        (gaps,), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert stats.sign_flip_test(first, second) == pytest.approx(expected.pvalue)


@given(st.lists(st.tuples(wins, wins), min_size=1, max_size=200))
def test_with_one_seed_the_sign_flip_test_is_mcnemars(pairs):
    first, second = (list(values) for values in zip(*pairs, strict=True))
    expected = stats.mcnemar([bool(win) for win in first], [bool(win) for win in second]).p_value
    assert stats.sign_flip_test([first], [second]) == pytest.approx(expected)


def test_identical_seeds_add_no_evidence():
    first, second = [1.0] * 4 + [0.0] * 6, [0.0] * 8 + [1.0] * 2
    assert stats.sign_flip_test([first] * 5, [second] * 5) == stats.sign_flip_test(
        [first], [second]
    )
    one, five = (
        stats.difference_over_seeds([first] * seeds, [second] * seeds, over="both")
        for seeds in (1, 5)
    )
    assert one.interval == pytest.approx(five.interval, abs=0.02)


def test_the_difference_over_seeds_has_the_spread_of_the_closed_form():
    """The mean of a two-way sample without interaction has variance σ_seeds² / S + σ_tasks² / T."""
    generator = np.random.default_rng(4)
    of_seeds, of_tasks = generator.normal(0, 0.2, (30, 1)), generator.normal(0.1, 0.4, (1, 200))
    gaps = of_seeds + of_tasks
    tasks, both = (
        stats.difference_over_seeds(gaps, np.zeros_like(gaps), over=over)
        for over in ("tasks", "both")
    )
    assert tasks.mean == both.mean == pytest.approx(gaps.mean())
    half = 1.96 * of_tasks.std() / np.sqrt(200)
    assert tasks.interval == pytest.approx((gaps.mean() - half, gaps.mean() + half), abs=0.005)
    half = 1.96 * np.sqrt(of_tasks.var() / 200 + of_seeds.var() / 30)
    assert both.interval == pytest.approx((gaps.mean() - half, gaps.mean() + half), abs=0.008)


def test_one_seed_is_the_paired_bootstrap():
    generator = np.random.default_rng(5)
    first, second = generator.random((2, 1, 150))
    ours = stats.difference_over_seeds(first, second)
    other = stats.paired_difference(first[0], second[0])
    assert ours.mean == pytest.approx(other.mean)
    assert ours.interval == pytest.approx(other.interval, abs=0.004)


@given(
    st.integers(2, 12).flatmap(
        lambda n: st.lists(st.lists(wins, min_size=7, max_size=7), min_size=n, max_size=n)
    )
)
def test_the_t_test_over_seeds_is_scipys(rows):
    first = np.asarray(rows)
    second = np.roll(first, 1, axis=1) * 0.5
    gaps = (first - second).mean(axis=1)
    ours = stats.t_test_over_seeds(first, second)
    assert (ours.mean, ours.deviation) == pytest.approx((gaps.mean(), gaps.std(ddof=1)))
    if ours.deviation > 1e-6:
        plain = reference.ttest_1samp(gaps, 0.0)
        assert ours.p_value == pytest.approx(plain.pvalue, abs=1e-9)
        assert ours.interval == pytest.approx(tuple(plain.confidence_interval(0.95)))


def test_the_t_test_over_seeds_of_students_sleep_data():
    """Student (1908): ten patients, additional hours of sleep by two drugs, t = 4.06, p = 0.003."""
    one = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    other = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    test = stats.t_test_over_seeds([[hours] for hours in one], [[hours] for hours in other])
    assert test.mean == pytest.approx(1.58)
    assert test.p_value == pytest.approx(0.00283, abs=1e-5)


def test_equal_seeds_leave_no_doubt_and_no_difference_leaves_all():
    first, second = np.eye(8), np.zeros((8, 8))
    test = stats.t_test_over_seeds(first, second)
    assert (test.mean, test.deviation) == pytest.approx((1 / 8, 0.0))
    assert test.interval == pytest.approx((1 / 8, 1 / 8), abs=1e-5)
    assert test.p_value < 1e-9
    assert stats.t_test_over_seeds(first, first).p_value == 1.0


def test_seeds_that_agree_by_luck_are_given_away_by_their_tasks():
    """Both seeds win two of four tasks more, but not the same ones: each outcome varies."""
    lucky = stats.t_test_over_seeds([[1, 1, 0, 0], [0, 0, 1, 1]], np.zeros((2, 4)))
    assert (lucky.deviation, lucky.expected_deviation) == pytest.approx((0.0, np.sqrt(0.5 / 4)))
    assert lucky.p_value < 1e-6 < 0.2 < lucky.floor_p_value
    steady = stats.t_test_over_seeds([[1, 1, 0, 0], [1, 1, 1, 0]], np.zeros((2, 4)))
    assert steady.deviation >= steady.expected_deviation
    assert steady.floor_p_value == steady.p_value


def chance_within(t, freedom):
    """Chance that Student's t is between -t and t.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.
    """
    angle = np.arctan(t / np.sqrt(freedom))
    terms = [np.cos(angle) if freedom % 2 else 1.0] if freedom > 1 else []
    for k in range(2 + freedom % 2, freedom - 1, 2):
        terms.append(terms[-1] * np.cos(angle) ** 2 * (k - 1) / k)
    if freedom % 2:
        return 2 / np.pi * (angle + np.sin(angle) * sum(terms))
    return np.sin(angle) * sum(terms)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 19, 30])
def test_students_t_agrees_with_the_closed_form(freedom):
    for t in (0.0, 0.3, -1.0, 2.776, 12.7, 80.0):
        _, p_value = stats._student_t(t, freedom, 0.95)
        assert p_value == pytest.approx(1 - chance_within(abs(t), freedom), abs=1e-12)
    for confidence in (0.5, 0.95, 0.999):
        half, _ = stats._student_t(0.0, freedom, confidence)
        assert chance_within(half, freedom) == pytest.approx(confidence, abs=1e-12)


def test_seeds_that_differ_widen_the_interval():
    generator = np.random.default_rng(6)
    second = np.zeros((6, 100))
    alike = (generator.random((6, 100)) < 0.3).astype(float)
    apart = (generator.random((6, 100)) < np.linspace(0, 0.6, 6)[:, None]).astype(float)
    calm, wild = (stats.t_test_over_seeds(rows, second) for rows in (alike, apart))
    assert calm.deviation < 0.07 < 0.15 < wild.deviation
    assert wild.interval.high - wild.interval.low > 2 * (calm.interval.high - calm.interval.low)
    assert stats.t_test_over_seeds(alike[:1], second[:1]) is None


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.integers(0, n), st.just(n), st.integers(1, n))
    )
)
def test_pass_at_k_is_the_hypergeometric_chance(sample):
    won, rollouts, k = sample
    expected = 1 - reference.hypergeom(rollouts, won, k).pmf(0)
    assert stats.pass_at_k(won, rollouts, k) == pytest.approx(expected)
    assert stats.chance_of_wins(won, rollouts, k, 1) == pytest.approx(expected)


@given(
    st.integers(1, 20).flatmap(
        lambda n: st.tuples(st.integers(0, n), st.just(n), st.integers(0, n), st.integers(0, n))
    )
)
def test_the_chance_of_wins_is_scipys(sample):
    won, total, draws, least = sample
    expected = reference.hypergeom(total, won, draws).sf(least - 1)
    assert stats.chance_of_wins(won, total, draws, least) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.sign_flip_test([[1.0]], [[1.0, 0.0]]),
        lambda: stats.sign_flip_test([], []),
        lambda: stats.difference_over_seeds([1.0], [0.0]),
        lambda: stats.pass_at_k(1, 2, 3),
        lambda: stats.pass_at_k(3, 2, 1),
        lambda: stats.chance_of_wins(1, 2, 3, 1),
    ],
)
def test_an_invalid_table_is_an_error(call):
    with pytest.raises(ValueError):
        call()
