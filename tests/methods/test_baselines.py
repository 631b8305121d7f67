"""The baselines of EEF: SFT-ALL, NAT, ETO, IPR, ATLaS; and records of examples and pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.errors import MethodError, StoreError
from eef.methods.nat import PROMPT_SUFFIXES
from eef.methods.registry import METHODS, make_method
from eef.selection import PlannedState, PreferencePair, TrainingExample
from eef.trajectory import StateRef, TrajectorySet
from tests.fakes.grids import TASK, expert, rollout, worlds

FAILED, WON = expert("f", actions="abcd"), expert("w", actions="xyz", win=True, task="toy/2")
TASKS = (TASK, "toy/2")


def select(method, store, *, round=1, tasks=TASKS, **options):
    return make_method(method, options).select(TrajectorySet(store), tasks, round)


def plan(method, store, *, tasks=TASKS, **options):
    return make_method(method, options).plan(TrajectorySet(store), tasks, 1)


def named(selection):
    return {example.id: example for example in selection.examples}


# SFT-ALL and NAT


def test_sft_all_trains_on_failures_like_wins():
    store = [FAILED, WON, expert("broken", status="error"), rollout("r", None, "win")]
    examples = named(select("sft_all", store))
    assert {name: set(item.reasons) for name, item in examples.items()} == {
        "f@0": {"expert-failure"},
        "w@0": {"expert-win"},
    }
    assert all(set(item.weights) == {1.0} for item in examples.values())
    assert plan("sft_all", store) == []


def test_sft_all_can_cut_the_end_of_failures():
    lost, won = len(FAILED.steps), len(WON.steps)
    examples = named(select("sft_all", [FAILED, WON], cut_failures=2))
    assert [weight > 0 for weight in examples["f@0"].weights] == [t < lost - 2 for t in range(lost)]
    assert examples["w@0"].weights == (1.0,) * won
    examples = named(select("sft_all", [FAILED, WON], cut_failures=lost))
    assert list(examples) == ["w@0"], "nothing is left of the failure"


def test_nat_states_the_outcome_in_the_prompt():
    examples = named(select("nat", [FAILED, WON]))
    assert (examples["f@0"].prompt_suffix, examples["w@0"].prompt_suffix) == (
        "This episode fails.",
        "This episode succeeds.",
    )
    assert make_method("nat").prompt_suffix == "This episode succeeds."
    assert plan("nat", [FAILED]) == []


def test_the_control_of_nat_uses_meaningless_tags():
    method = make_method("nat", {"tags": "meaningless"})
    prompt_suffix = {
        item.prompt_suffix
        for item in method.select(TrajectorySet([FAILED, WON]), TASKS, 1).examples
    }
    assert prompt_suffix == set(PROMPT_SUFFIXES["meaningless"])
    assert (
        method.prompt_suffix
        == named(select("nat", [FAILED, WON], tags="meaningless"))["w@0"].prompt_suffix
    )


def test_nat_can_explore():
    assert plan("nat", [FAILED], k=2) == [PlannedState(task, None, 2) for task in TASKS]
    store = [
        FAILED,
        rollout("r", None, "lose"),
        rollout("later", None, "win", actions="q", round=2),
    ]
    examples = named(select("nat", store, k=2))
    assert (set(examples), examples["r@0"].prompt_suffix) == ({"f@0", "r@0"}, "This episode fails.")


def test_other_methods_have_no_prompt_suffix():
    assert {name for name in METHODS if make_method(name).prompt_suffix} == {"nat"}


# ETO


def test_eto_prefers_wins_to_failures_of_the_other():
    student_failure, student_win = (
        rollout("l", None, "lose", task="toy/2"),
        rollout("v", None, "win", actions="q"),
    )
    selection = select("eto", [FAILED, WON, student_failure, student_win])
    responses = {(pair.chosen.trajectory, pair.rejected.trajectory) for pair in selection.pairs}
    assert (responses, selection.examples) == ({("w", "l"), ("v", "f")}, ())
    assert selection.counts == {"examples": 0, "pairs": 2, "tasks.unsolved": 0}
    assert plan("eto", [FAILED], k=3) == [PlannedState(task, None, 3) for task in TASKS]


def test_eto_compares_this_round_or_all_rounds():
    store = [
        FAILED,
        rollout("a", None, "win", actions="q"),
        rollout("b", None, "win", actions="r", round=2),
    ]
    assert [pair.chosen.trajectory for pair in select("eto", store, round=2).pairs] == ["b"]
    assert [
        pair.chosen.trajectory for pair in select("eto", store, round=2, pairs="all").pairs
    ] == ["a", "b"]
    assert [
        pair.chosen.trajectory for pair in select("eto", store, round=1, pairs="all").pairs
    ] == ["a"]


def test_outcomes_that_do_not_differ_give_no_pair():
    with pytest.raises(MethodError, match="nothing to train on"):
        select("eto", [FAILED, rollout("r", None, "lose")])


@given(worlds(), st.sampled_from(["eto", "ipr"]))
def test_a_pair_prefers_a_win_to_a_failure_of_the_same_task(world, method):
    try:
        selection = select(
            method, [*world.experts, *world.rollouts], round=world.round, tasks=world.tasks
        )
    except MethodError:
        return
    for pair in selection.pairs:
        chosen, rejected = (
            world.trajectories[response.trajectory] for response in (pair.chosen, pair.rejected)
        )
        assert chosen.success
        assert not rejected.success
        assert rejected.status != "error"
        assert chosen.task == rejected.task == pair.task


# IPR


def value(name, t, *outcomes, round=1):
    start = StateRef("w", t) if t else None
    return [
        rollout(
            f"{name}{number}", start, outcome, actions=f"{name}{number}", task="toy/2", round=round
        )
        for number, outcome in enumerate(outcomes)
    ]


def test_ipr_branches_from_every_state_of_an_experts_win_only():
    assert plan("ipr", [FAILED, WON], samples=2) == [
        PlannedState("toy/2", None, 2),
        PlannedState("toy/2", StateRef("w", 1), 2),
        PlannedState("toy/2", StateRef("w", 2), 2),
    ]


def test_ipr_prefers_the_expert_if_its_step_raises_the_value():
    """The values are 0.5, 0.5, 0 and 1 (the end), so only the expert's third step raises them."""
    store = [
        FAILED,
        WON,
        *value("a", 0, "win", "lose"),
        *value("b", 1, "win", "lose"),
        *value("c", 2, "lose", "lose"),
    ]
    selection = select("ipr", store)
    assert [(pair.chosen.id, pair.rejected.id) for pair in selection.pairs] == [
        ("w@0", "a1@0"),
        ("w@2", "c0@2"),
        ("w@2", "c1@2"),
    ]
    assert selection.pairs[1].chosen.weights == (0.0, 0.0, 1.0)
    assert selection.pairs[1].rejected.weights == (0.0,) * 2 + (1.0,) * 2
    assert list(named(selection)) == ["w@0"]


def test_the_threshold_of_ipr():
    store = [
        WON,
        *value("a", 0, "win"),
        *value("b", 1, "win", "lose"),
        *value("c", 2, "win", "win", "lose"),
    ]
    ids = [
        [pair.chosen.id for pair in select("ipr", store, threshold=rise).pairs]
        for rise in (0.1, 0.2, 0.4)
    ]
    assert ids == [["w@1", "w@2"], ["w@2"], []]


# ATLaS


def test_atlas_trains_the_steps_along_which_the_win_rate_rises_most():
    store = [
        FAILED,
        WON,
        *value("a", 0, "lose", "lose"),
        *value("b", 1, "win", "lose"),
        *value("c", 2, "win", "win"),
    ]
    for share, weights in ((0.3, (1.0, 0.0, 0.0)), (0.6, (1.0, 1.0, 0.0)), (1.0, (1.0, 1.0, 0.0))):
        (example,) = select("atlas", store, share=share).examples
        assert (example.weights, example.state) == (weights, 0)
    assert set(example.reasons) == {"critical", "context"}


def test_atlas_branches_from_the_experts_wins():
    assert plan("atlas", [FAILED, WON], M=1) == [
        PlannedState("toy/2", None, 1),
        PlannedState("toy/2", StateRef("w", 1), 1),
    ], "a task that no expert won is not trained on"


@given(worlds(), st.floats(0.1, 1))
def test_atlas_never_trains_more_than_its_share(world, share):
    try:
        selection = select(
            "atlas", [*world.experts, *world.rollouts], tasks=world.tasks, share=share
        )
    except MethodError:
        return
    for example in selection.examples:
        assert 0 < sum(example.weights) < share * len(example.weights) + 1
        assert world.trajectories[example.trajectory].by_expert


# records


@given(worlds(), st.sampled_from(["nat", "eto", "ipr", "eef+dpo"]))
def test_records_round_trip(world, method):
    try:
        selection = select(
            method, [*world.experts, *world.rollouts], round=world.round, tasks=world.tasks
        )
    except MethodError:
        return
    for example in selection.examples:
        assert TrainingExample.from_record(example.to_record()) == example
    for pair in selection.pairs:
        assert PreferencePair.from_record(pair.to_record()) == pair


def test_older_examples_are_migrated():
    example = named(select("nat", [FAILED, WON]))["w@0"]
    later = ("prompt_suffix", "advice")
    fields = {key: value for key, value in example.to_record().items() if key not in later}
    oldest = {**fields, "version": 1}
    assert TrainingExample.from_record(oldest) == replace(example, prompt_suffix="")
    older = {**fields, "version": 2, "told": example.prompt_suffix}
    assert TrainingExample.from_record(older) == example
    for version in (0, 5, None):
        with pytest.raises(StoreError, match="this `eef` reads 1 to 4"):
            TrainingExample.from_record({**oldest, "version": version})


def test_a_pair_of_two_tasks_is_refused():
    examples = named(select("sft_all", [FAILED, WON]))
    with pytest.raises(StoreError, match="a task other than its own"):
        PreferencePair(id="p", task=TASK, chosen=examples["w@0"], rejected=examples["f@0"])


# imported data


def masked(item, *where):
    steps = tuple(replace(step, weight=float(t not in where)) for t, step in enumerate(item.steps))
    return replace(item, steps=steps)


@pytest.mark.parametrize("method", ["sft_all", "nat", "rft", "eef", "ipr"])
def test_steps_that_imported_data_masks_are_never_trained(method):
    example = named(select(method, [FAILED, masked(WON, 1)]))["w@0"]
    assert (example.weights, example.reasons[1]) == ((1.0, 0.0, 1.0), "masked")


def test_masked_steps_are_neither_critical_nor_compared():
    won, lost = masked(WON, 1), masked(FAILED, 0)
    played = [rollout("s", None, "lose", task="toy/2"), rollout("v", None, "win", actions="q")]
    assert named(select("atlas", [won, *played], share=1))["w@0"].weights == (1.0, 0.0, 1.0)
    responses = {
        response.trajectory: response.weights
        for pair in select("eto", [lost, won, *played]).pairs
        for response in (pair.chosen, pair.rejected)
    }
    assert (responses["w"], responses["f"]) == ((1.0, 0.0, 1.0), (0.0, 1.0, 1.0, 1.0))


@pytest.mark.parametrize("method", ["atlas", "ipr"])
def test_unverified_wins_are_not_branched_from(method):
    states = [item.state for item in plan(method, [replace(WON, replayable=False)])]
    assert set(states) == {None}
    assert any(plan(method, [WON])[number].state for number in range(2, 4))


def test_eef_needs_a_failure_that_is_not_unverified():
    unverified, other = replace(FAILED, replayable=False), expert("g", actions="abcd", by="weak")
    with pytest.raises(MethodError, match="all 1 are unverified"):
        plan("eef", [unverified])
    assert {item.state.trajectory for item in plan("eef", [unverified, other]) if item.state} == {
        "g"
    }
    with pytest.raises(MethodError, match="all 1 are unverified"):
        plan("eef", [unverified, other], experts=["strong"])
    assert plan("eef", [unverified], branch_from="student")


@pytest.mark.parametrize(
    "method", ["bc", "rft", "sft_all", "eto", "eef", "retroact", "cgi", "grpo"]
)
def test_an_experts_own_prompt_is_not_trained_on(method):
    """The student acts without it (`expert.own.NAME.prompt`); its own suffix is trained on."""
    own = replace(WON, prompt_suffix="Be brief."), replace(FAILED, prompt_suffix="Be brief.")
    played = [replace(rollout("r", None, "win", task=TASK), prompt_suffix="Plan: x.")]
    played += [rollout("s", None, "lose", task="toy/2"), rollout("t", None, "lose")]
    options = {"trained": False} if method in ("retroact", "cgi") else {}
    selection = select(method, [*own, *played], **options)
    pairs = [each for pair in selection.pairs for each in (pair.chosen, pair.rejected)]
    trained = [*selection.examples, *pairs]
    of_experts = [item for item in trained if item.trajectory in ("w", "f")]
    assert method in ("grpo",) or of_experts
    assert {item.prompt_suffix for item in of_experts} <= {""}
