"""The result of a run, and of a study, in sentences."""

from __future__ import annotations

from eef.analysis.aggregate import Aggregate, MethodAggregate, PairAggregate
from eef.analysis.results import Comparison, MethodResult, Results, Score
from eef.pipeline.stages import BC, EXPERT
from eef.report.formatting import (
    NBSP,
    chance,
    count_of,
    display_name,
    p_value,
    percent,
    points,
    signed_reward,
)

SIGNIFICANCE_LEVEL = 0.05


def rivals(results: Results) -> tuple[MethodResult, MethodResult] | None:
    """The two methods of the headline: `eef`, or the best method, and the best of the others.

    Behavior cloning is the rival if no other method has a result. None without two results.
    """
    played = sorted(
        (method for method in results.round_methods if method.last), key=_win_rate, reverse=True
    )
    subject = next((method for method in played if method.name == "eef"), next(iter(played), None))
    others = [method for method in played if method is not subject]
    rival = others[0] if others else results[BC]
    return (subject, rival) if subject and rival.last else None


def headline(results: Results) -> str:
    """The result in one sentence."""
    pair = rivals(results)
    if pair is None:
        return _first_result(results)
    subject, rival = pair
    best, other = sorted(pair, key=_win_rate, reverse=True)
    share = f"{display_name(best.name)} wins {_rate(best)} of {_score(best).tasks} test tasks"
    if _win_rate(best) == _win_rate(other):
        return f"{share}, and so does {display_name(other.name)}{_same_budget(subject, rival)}."
    return f"{share}; {display_name(other.name)} wins {_rate(other)}{_same_budget(subject, rival)}."


def verdict(results: Results) -> str:
    """How certain the headline's difference is, with its p value."""
    pair = rivals(results)
    comparison = results.comparison(pair[0].name, pair[1].name) if pair else None
    if comparison is None:
        return ""
    tests = len(results.comparisons)
    corrected = (
        f"; {p_value(comparison.p_adjusted)} when corrected for {tests} comparisons"
        if tests > 1
        else ""
    )
    evidence = f"exact McNemar test, {p_value(comparison.p_value)}{corrected}"
    if comparison.only_first + comparison.only_second == 0:
        return f"Both win exactly the same tasks: this run shows no difference ({evidence})."
    if comparison.wins.mean == 0:
        return (
            "They win equally many tasks, but not all the same ones: this run shows no difference "
            f"({evidence})."
        )
    return (
        f"{_assess(comparison)} If the two were equally good, a difference this large would occur "
        f"by chance {chance(comparison.p_value)} ({evidence})."
    )


def _assess(comparison: Comparison) -> str:
    gap = abs(100 * comparison.wins.mean)
    low, high = sorted(comparison.wins.interval, key=lambda end: end * comparison.wins.mean)
    sign = 1 if comparison.wins.mean > 0 else -1
    span = f"{gap:.1f} points (95{NBSP}% interval {points(sign * low)} to {points(sign * high)})"
    if comparison.p_adjusted < SIGNIFICANCE_LEVEL:
        return f"The difference of {span} is statistically significant."
    if comparison.p_value < SIGNIFICANCE_LEVEL:
        return f"The difference of {span} is significant by itself, but not after correction."
    return (
        f"The difference of {span} may be due to chance: this run does not show that either is "
        "better."
    )


def setting(results: Results) -> str:
    """The context of the headline: behavior cloning, the expert, and the newly solved tasks."""
    sentences = []
    bc, expert = results[BC], results[EXPERT]
    if results.round_methods and bc.last:
        sentences.append(f"Behavior cloning, the start of every method, wins {_rate(bc)}.")
    if expert.last:
        sentences.append(f"The expert wins {_rate(expert)}.")
    solved = [
        f"{display_name(item.name)} solves {last.newly_solved or 'none'}"
        for item in results.round_methods
        if (last := item.last) and last.newly_solved is not None
    ]
    if solved and results.unsolved_before:
        sentences.append(
            f"Of the {results.unsolved_before} tasks that neither of these wins, "
            f"{' and '.join(solved)}."
        )
    return " ".join(sentences)


def progress(results: Results) -> str:
    """A note on a run that is not finished; "" if it is."""
    done, planned = results.stages
    return (
        "" if done == planned else f"This run is not finished: {done} of {planned} stages are done."
    )


def study_verdict(aggregate: Aggregate) -> str:
    """The result of a study at one budget in sentences.

    It compares `eef`, or the best method, with the pairs of `Aggregate.headline_pairs`; "" if no
    two methods have a finished seed in common.
    """
    found = aggregate.headline_pairs()
    return " ".join(
        _pair_sentence(
            aggregate, subject, rival, pair, after=found[index - 1][2] if index else None
        )
        for index, (subject, rival, pair) in enumerate(found)
    )


def _pair_sentence(
    aggregate: Aggregate,
    subject: MethodAggregate,
    rival: MethodAggregate,
    pair: PairAggregate,
    *,
    after: PairAggregate | None,
) -> str:
    """One comparison; that `after` another of the same seeds does not repeat them."""
    sign = 1 if pair.first == subject.name else -1
    ours, theirs = (percent(aggregate.mean_in(item, pair.seeds)) for item in (subject, rival))
    low, high = sorted(sign * end for end in pair.over_both.interval)
    test = pair.over_seeds
    retrained = (
        f"; for newly trained students on these tasks, {p_value(test.floor_p_value)} (t test)"
        if test
        else ""
    )
    name, leader = display_name(rival.name), display_name(subject.name)
    clause = ", which keeps one win per task," if rival.is_control else ""
    seeds = f"In {count_of(len(pair.seeds), 'seed')}"
    if after is None:
        wins = (
            f"{seeds} {leader} wins {ours} % of the test tasks and {name} {theirs} %. On the same "
            "tasks the difference is "
        )
    elif after.seeds == pair.seeds:
        wins = f"{name}{clause} wins {theirs} %; the difference from it is "
    else:
        wins = f"{seeds} {name}{clause} wins {theirs} % and {leader} {ours} %; the difference is "
    return (
        f"{wins}{points(sign * pair.over_tasks.mean)} points (95 % over tasks and seeds: "
        f"{points(low)} to {points(high)}). For these trained students on other tasks, "
        f"{p_value(pair.p_value)}{retrained}. The mean reward differs by "
        f"{_reward_difference(pair, sign)}."
    )


def _reward_difference(pair: PairAggregate, sign: int) -> str:
    low, high = sorted(sign * end for end in pair.reward.interval)
    test = pair.reward_over_seeds
    evidence = f", {p_value(test.floor_p_value)} over seeds" if test else ""
    return (
        f"{signed_reward(sign * pair.reward.mean)} ({signed_reward(low)} to "
        f"{signed_reward(high)}{evidence})"
    )


def _first_result(results: Results) -> str:
    method = next((item for item in (results[BC], results[EXPERT]) if item.last), None)
    if method is None:
        return "Nothing has been evaluated yet."
    name = {BC: "Behavior cloning", EXPERT: "The expert"}[method.name]
    tasks = _score(method).tasks
    return f"{name} wins {_rate(method)} of {tasks} test tasks; no other result yet."


def _same_budget(first: MethodResult, second: MethodResult) -> str:
    """A remark if both explored the same number of rollouts; "" otherwise."""
    same = second.rollouts and first.rollouts == second.rollouts
    return " with the same number of rollouts" if same else ""


def _win_rate(method: MethodResult) -> float:
    return _score(method).win_rate


def _rate(method: MethodResult) -> str:
    return f"{percent(_win_rate(method))}{NBSP}%"


def _score(method: MethodResult) -> Score:
    assert method.score is not None, "only evaluated methods are ranked"
    return method.score
