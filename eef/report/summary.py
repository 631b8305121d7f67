"""The result of a run in sentences."""

from __future__ import annotations

from eef.analysis.results import Comparison, MethodResult, Results, Score
from eef.pipeline.stages import BC, EXPERT
from eef.report.formatting import (
    NBSP,
    chance,
    display_name,
    p_value,
    percent,
    points,
)

SIGNIFICANT = 0.05


def rivals(results: Results) -> tuple[MethodResult, MethodResult] | None:
    """What the headline compares: `eef`, or else the best method, with the best of the others.

    Behaviour cloning stands in where no other method has a result; None while there are not two results.
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
    against = f"{display_name(other.name)}{_same_budget(subject, rival)} {_rate(other)}"
    if _win_rate(best) == _win_rate(other):
        return f"{share}, and so does {display_name(other.name)}{_same_budget(subject, rival)}."
    return f"{share}, {against}."


def verdict(results: Results) -> str:
    """What the headline's difference is worth, in plain words with its p value."""
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
        return f"They win as many tasks, though not all the same ones: this run shows no difference ({evidence})."
    return (
        f"{_weigh(comparison)} If the two were equally good, chance alone would set them as far apart "
        f"{chance(comparison.p_value)} ({evidence})."
    )


def _weigh(comparison: Comparison) -> str:
    gap = abs(100 * comparison.wins.mean)
    low, high = sorted(comparison.wins.interval, key=lambda end: end * comparison.wins.mean)
    sign = 1 if comparison.wins.mean > 0 else -1
    span = f"{gap:.1f} points (95{NBSP}% interval {points(sign * low)} to {points(sign * high)})"
    if comparison.p_adjusted < SIGNIFICANT:
        return f"The difference of {span} is more than chance."
    if comparison.p_value < SIGNIFICANT:
        return (
            f"The difference of {span} hints at an advantage, but does not hold after correction."
        )
    return f"The difference of {span} may well be chance: this run does not show that either is better."


def setting(results: Results) -> str:
    """What stands around the headline: the start, the expert, tasks that became solvable."""
    sentences = []
    bc, expert = results[BC], results[EXPERT]
    if results.round_methods and bc.last:
        sentences.append(f"Behaviour cloning, from which every method starts, wins {_rate(bc)}.")
    if expert.last:
        sentences.append(f"The expert itself wins {_rate(expert)}.")
    solved = [
        f"{display_name(item.name)} solves {last.newly_solved or 'none'}"
        for item in results.round_methods
        if (last := item.last) and last.newly_solved is not None
    ]
    if solved and results.unsolved_before:
        sentences.append(
            f"Of the {results.unsolved_before} tasks that neither of these wins, {' and '.join(solved)}."
        )
    return " ".join(sentences)


def progress(results: Results) -> str:
    """A word on a run that is not finished, else nothing."""
    done, planned = results.stages
    return (
        "" if done == planned else f"This run is not finished: {done} of {planned} stages are done."
    )


def _first_result(results: Results) -> str:
    method = next((item for item in (results[BC], results[EXPERT]) if item.last), None)
    if method is None:
        return "Nothing has been evaluated yet."
    names = {BC: "Behaviour cloning", EXPERT: "The expert"}
    return f"{names[method.name]} wins {_rate(method)} of {_score(method).tasks} test tasks; no other result yet."


def _same_budget(first: MethodResult, second: MethodResult) -> str:
    """Said where it is so: as many rollouts up to the rounds compared."""
    return " with as many rollouts" if second.rollouts and first.rollouts == second.rollouts else ""


def _win_rate(method: MethodResult) -> float:
    return _score(method).win_rate


def _rate(method: MethodResult) -> str:
    return f"{percent(_win_rate(method))}{NBSP}%"


def _score(method: MethodResult) -> Score:
    assert method.score is not None, "only evaluated methods are ranked"
    return method.score
