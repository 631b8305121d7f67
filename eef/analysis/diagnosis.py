"""Diagnosis: the problems of a run, with the next step, read from its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eef.analysis.losses import (
    MANY,
    Cause,
    causes_of,
    cut_turns,
    rollouts_of,
    share_without_action,
    whole_percent,
)
from eef.analysis.stats import mcnemar
from eef.pipeline.run_directory import RunData
from eef.pipeline.stages import BC, COLLECT, EXPERT, Stage, round_methods, trained_before

FEW = 5
"""Fewer requests to a role say nothing about it."""

LEVEL = 0.05
"""Level of the test that names a student that got worse."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that keeps a run from learning: its subject, its reason, and the next step."""

    subject: str
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


def diagnose(run: RunData) -> tuple[Finding, ...]:
    """The problems of a run so far; empty if there are none.

    In order: the expert, behavior cloning, the other methods (in each the last round that was
    played), stages with wins whose lost rollouts have cut turns, roles whose answers were skipped,
    methods whose student got worse, then methods that explored different numbers of rollouts. A
    student that explored without a win is not named if its own evaluation already is.
    """
    found = [_of_stage(run, COLLECT, "trajectories")]
    named: set[Stage] = set()
    for method in (BC, *round_methods(run.recipe)):
        for stage in _last_done(run, method, "evaluate"):
            finding = _of_stage(run, stage, "test rollouts")
            named |= {stage.sibling("train")} if finding else set()
            found.append(finding)
    for method in round_methods(run.recipe):
        for stage in _last_done(run, method, "explore"):
            if trained_before(stage) not in named:
                found.append(_of_stage(run, stage, "rollouts"))
    found += _cut_though_won(run)
    found += _roles_without_answers(run)
    found += [_worse(run, method) for method in round_methods(run.recipe)]
    return tuple(item for item in (*found, _unequal_rollouts(run)) if item is not None)


def _of_stage(run: RunData, stage: Stage, what: str) -> Finding | None:
    """A finding if a stage is done and none of its rollouts was won, all were truncated, or most
    turns hold no action.
    """
    if not run.is_done(stage):
        return None
    rollouts = rollouts_of(run, stage)
    won = sum(item.success for item in rollouts)
    truncated = sum(item.status == "truncated" for item in rollouts)
    played = truncated < len(rollouts) and share_without_action(rollouts) < MANY
    if not rollouts or (won and played):
        return None
    subject = (
        stage.method if stage.method in (EXPERT, BC) else f"{stage.method}, round {stage.round}"
    )
    causes = causes_of(run, stage, rollouts)
    result = f"won {f'only {won}' if won else 'none'} of {len(rollouts)} {what}"
    if stage.kind == "explore":
        result = f"the student that explored {result}"
    if stage.kind == "collect":
        result += ", so there is nothing to clone" if not won else ""
    reasons = "; ".join(cause.reason for cause in causes)
    return Finding(subject, f"{result}: {reasons}", _advice(causes))


def _advice(causes: Sequence[Cause]) -> str:
    """The next step, and the one after it if there are two causes."""
    return ", then ".join(dict.fromkeys(cause.advice for cause in causes[:2]))


def _cut_though_won(run: RunData) -> list[Finding]:
    """A finding for each limit that cut turns of most lost rollouts in stages with wins."""
    found: dict[tuple[str, int], list[tuple[Stage, float]]] = {}
    stages = [COLLECT] if run.is_done(COLLECT) else []
    for method in (BC, *round_methods(run.recipe)):
        for kind in ("explore", "evaluate"):
            stages += _last_done(run, method, kind)
    for stage in stages:
        rollouts = rollouts_of(run, stage)
        if any(item.success for item in rollouts) and (cut := cut_turns(run, stage, rollouts)):
            found.setdefault((cut.key, cut.max_tokens), []).append((stage, cut.share))
    findings = []
    for (key, max_tokens), shares in found.items():
        where = ", ".join(f"{stage} ({whole_percent(share)})" for stage, share in shares)
        findings.append(
            Finding(
                "cut turns",
                f"in {where}, most lost rollouts have a turn that was cut at `{key}` "
                f"({max_tokens})",
                f"raise `{key}` above {max_tokens}",
            )
        )
    return findings


def _roles_without_answers(run: RunData) -> list[Finding]:
    """A finding for each role that gave no usable answer to most requests of a stage."""
    found = []
    for method in round_methods(run.recipe):
        stages = [*_last_done(run, method, "explore"), *_last_done(run, method, "evaluate")]
        costs = run.costs(method)
        for stage in stages:
            for usage in costs[stage].roles if stage in costs else ():
                requests = usage.completions - usage.repeated
                if requests < FEW or usage.skipped < MANY * requests:
                    continue
                found.append(
                    Finding(
                        f"roles.{usage.role}",
                        f"gave no usable answer to {usage.skipped} of {requests} requests in "
                        f"{stage}, although each was asked twice; they were skipped",
                        f"read some (`eef view {run.path}`), and use a model that answers in the "
                        f"form that is asked for, or raise `roles.{usage.role}.max_tokens`",
                    )
                )
    return found


def _worse(run: RunData, method: str) -> Finding | None:
    """A finding if a method's student wins fewer test tasks than an earlier one or the BC student.

    The best of the earlier ones is tested against the last one. Its p value is multiplied by their
    number, since the best is chosen (Bonferroni).
    """
    rounds = [0, *range(1, run.rounds_of(method) + 1)]
    results = [run.evaluation(method if round else BC, round) for round in rounds]
    done = [result for result in results if result is not None]
    if len(done) < 2 or done[-1].method != method:
        return None
    *earlier, last = done
    best = max(earlier, key=lambda result: len(result.wins))
    tasks = [outcome.task for outcome in last.outcomes]
    test = mcnemar([task in best.wins for task in tasks], [task in last.wins for task in tasks])
    p = min(1.0, test.p_value * len(earlier))
    if test.only_first <= test.only_second or p >= LEVEL:
        return None
    after = f"round {best.round}" if best.round else "behavior cloning"
    return Finding(
        method,
        f"won {len(best.wins)} of {len(tasks)} {last.split} tasks after {after} and "
        f"{len(last.wins)} after round {last.round} (p = {p:.2g})",
        _use_roles_better(run, method) or _train_less(run, method, last.round),
    )


def _use_roles_better(run: RunData, method: str) -> str:
    """What to try if roles take part in the evaluation of a method; empty if none does."""
    asked = [f"`roles.{name}`" for name in run.roles_at_test(method)]
    if not asked:
        return ""
    return (
        f"it acts with {' and '.join(asked)} at test time: read what it makes of their texts "
        f"(`eef view {run.path}`); a student that has not seen such texts may not be able to use "
        "them"
    )


def _train_less(run: RunData, method: str, round: int) -> str:
    """How to train less on what a round selected."""
    recipe = run.recipes.get(method, run.recipe)
    selected = run.summary(Stage(method, round, "select")) or {}
    amount = "train.updates" if recipe.train.updates else "train.epochs"
    if selected.get("acts"):
        changes = ["a lower `policy_gradient.learning_rate`"]
    elif selected.get("pairs"):
        changes = [f"fewer `{amount}`", "a lower `dpo.learning_rate`"]
    else:
        changes = [f"fewer `{amount}`", "a lower `train.learning_rate`"]
        if recipe.train.init_from == "last":
            changes.append('each round from the base (`train.init_from = "base"`, more updates)')
    return (
        f"if it overfits, train less: {', '.join(changes)}, or fewer `rounds`, chosen on the tasks "
        "of `validation` (`evaluate.split`)"
    )


def _last_done(run: RunData, method: str, kind: str) -> Iterator[Stage]:
    """The last finished stage of a kind, if any."""
    done = [
        stage
        for stage in run.stages
        if (stage.method, stage.kind) == (method, kind) and run.is_done(stage)
    ]
    yield from done[-1:]


def _unequal_rollouts(run: RunData) -> Finding | None:
    """A finding if no budget is set and methods played different numbers of rollouts."""
    recipe = run.recipe
    if recipe.budget.of_round(1).rollouts or recipe.budget.tokens:
        return None
    done = {
        method: {
            stage.round
            for stage in run.stages
            if (stage.method, stage.kind) == (method, "explore") and run.is_done(stage)
        }
        for method in round_methods(recipe)
    }
    exploring = [method for method, rounds in done.items() if rounds]
    shared = set.intersection(*(done[method] for method in exploring)) if exploring else set()
    counts = {
        method: sum(
            (run.summary(Stage(method, round, "explore")) or {}).get("rollouts", 0)
            for round in shared
        )
        for method in exploring
    }
    counts = {method: count for method, count in counts.items() if count}
    if len(set(counts.values())) < 2:
        return None
    each = ", ".join(f"{method} {count:,}" for method, count in counts.items())
    return Finding(
        "no budget",
        f"methods explored different numbers of rollouts ({each}), so their costs differ",
        "set `budget.rollouts_per_task` in the recipe to compare them at equal cost",
    )
