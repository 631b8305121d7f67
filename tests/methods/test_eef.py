"""EEF: the worked example, every option, and properties that hold for any store."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eef.errors import ConfigError, MethodError
from eef.methods.eef import EefOptions
from eef.methods.labels import evenly_spaced_states
from eef.methods.registry import METHODS, make_method, method_class
from eef.selection import PlannedState, TrainingExample
from eef.trajectory import StateRef, TrajectorySet
from tests.fakes.grids import TASK, World, expert, played, rollout, worlds

STATES = (0, 2, 4, 6, 8, 10)
WORKED = ("lose", "win", "lose", "win", "win", "lose")


def select(method, trajectories, *, round=1, tasks=(TASK,), **options):
    store = trajectories if isinstance(trajectories, TrajectorySet) else TrajectorySet(trajectories)
    return make_method(method, options).select(store, tasks, round)


def worked(*outcomes, **options):
    """Examples of EEF after one round on the worked example's expert trajectory."""
    return select("eef", [expert(), *played(STATES, outcomes or WORKED)], **options)


def by_id(selection) -> dict[str, TrainingExample]:
    return {example.id: example for example in selection.examples}


# the worked example of the method


def test_the_worked_example():
    selection = worked()
    start, recovery = selection.examples
    assert start == TrainingExample(
        id="e@2:1@0",
        task=TASK,
        trajectory="e@2:1",
        state=0,
        weights=(1.0,) * 4,
        reasons=("beneficial",) * 2 + ("student-win",) * 2,
        evidence=("e@2:1", "e@0:1"),
    )
    assert recovery == TrainingExample(
        id="e@6:1@4",
        task=TASK,
        trajectory="e@6:1",
        state=4,
        weights=(0.0,) * 4 + (1.0,) * 4,
        reasons=("context",) * 4 + ("beneficial",) * 2 + ("student-win",) * 2,
        evidence=("e@6:1", "e@2:1", "e@4:1"),
    )
    assert selection.counts == {
        "segments.beneficial": 2,
        "segments.harmful": 2,
        "segments.neutral": 1,
        "segments.unknown": 0,
        "states.recovery": 2,
        "states.recovered": 1,
        "tasks.unsolved": 0,
        "examples": 2,
        "examples.beneficial": 2,
        "examples.student-win": 2,
        "steps.beneficial": 4,
        "steps.student-win": 4,
    }


def test_the_worked_example_is_planned():
    plan = make_method("eef").plan(TrajectorySet([expert()]), [TASK, "toy/2"], 1)
    assert plan == [
        PlannedState(TASK, None, 1),
        *(PlannedState(TASK, StateRef("e", t), 1) for t in (2, 4, 6, 8, 10)),
        PlannedState("toy/2", None, 1),
    ]


# solutions


def test_the_students_own_win_comes_before_the_experts_prefix():
    (start,) = worked("win", "win", "win", "win", "win", "win").examples
    assert (start.trajectory, start.reasons) == ("e@0:1", ("student-win",) * 2)


def test_an_experts_win_is_a_solution_if_the_student_has_none():
    won = expert("w", actions="abc", win=True)
    assert by_id(select("eef", [won]))["w@0"].reasons == ("expert-win",) * 3
    assert list(by_id(select("eef", [won, rollout("r", None, "win")]))) == ["r@0"]


def test_neutral_actions_inside_a_solution_are_kept_or_masked():
    outcomes = ("lose", "lose", "win", "win", "win", "win")
    (kept,) = worked(*outcomes).examples
    (masked,) = worked(*outcomes, neutral="masked").examples
    assert (
        kept.reasons
        == masked.reasons
        == ("neutral",) * 2 + ("beneficial",) * 2 + ("student-win",) * 2
    )
    assert kept.weights == (1.0,) * 6
    assert masked.weights == (0.0,) * 2 + (1.0,) * 4


def test_unknown_actions_are_never_trained():
    (start,) = worked("lose", "error", "win", "win", "win", "win").examples
    assert start.reasons[:4] == ("unknown",) * 4
    assert start.weights == (0.0,) * 4 + (1.0,) * 2


def test_a_harmful_action_inside_a_solution_is_masked():
    """The newest solution may contain a harmful segment; the nearest never does."""
    store = [expert(), *played((0, 2, 4, 6), ("lose", "win", "lose", "win"), round=1)]
    store.append(rollout("z", StateRef("e", 6), "win", actions="q", round=2))
    start = by_id(select("eef", store, round=2, grid="all", solution="newest"))["z@0"]
    assert start.reasons == ("beneficial",) * 2 + ("harmful",) * 2 + ("beneficial",) * 2 + (
        "student-win",
    )
    assert start.weights == (1.0,) * 2 + (0.0,) * 2 + (1.0,) * 3


def test_a_win_of_an_earlier_round_solves_its_state():
    first = played(STATES, ("lose",) + ("win",) * 5)
    second = played(STATES, ("lose", "win", "lose") + ("win",) * 3, round=2)
    over_rounds = by_id(select("eef", [expert(), *first, *second], round=2))
    this_round = by_id(select("eef", [expert(), *first, *second], round=2, accumulate="round"))
    assert over_rounds["e@4:1@4"].weights == (0.0,) * 4 + (1.0,) * 2
    assert this_round["e@6:2@4"].weights == (0.0,) * 4 + (1.0,) * 4


def test_all_solutions_share_the_weight():
    selection = worked(solution="all")
    starts = [example for example in selection.examples if example.state == 0]
    recoveries = [example for example in selection.examples if example.state == 4]
    assert [example.trajectory for example in starts] == ["e@2:1", "e@6:1", "e@8:1"]
    assert {max(example.weights) for example in starts} == {1 / 3}
    assert [max(example.weights) for example in recoveries] == [1 / 2, 1 / 2]


@pytest.mark.parametrize("solution", ["nearest", "newest", "all"])
def test_no_expert_prefix_is_trained_if_the_student_won_itself(solution):
    own, later = rollout("own", None, "win"), rollout("later", StateRef("e", 2), "win", round=2)
    assert list(by_id(select("eef", [expert(), own, later], round=2, solution=solution))) == [
        "own@0"
    ]


def test_later_rounds_do_not_affect_this_one():
    later = [*played(STATES, ("lose", "win", "lose", "win", "win", "win"), round=2)]
    this = played(STATES, WORKED)
    assert select("eef", [expert(), *this, *later]) == select("eef", [expert(), *this])


def test_a_branch_of_a_branch_is_not_a_solution():
    lost, won = (
        rollout("a", StateRef("e", 2), "lose"),
        rollout("b", StateRef("a", 3), "win", actions="z"),
    )
    with pytest.raises(MethodError, match="nothing to train on"):
        select("eef", [expert(), lost, won])


def test_the_shortest_of_equally_near_solutions():
    long, short = (
        rollout(actions, StateRef("e", 2), "win", actions=actions) for actions in ("xy", "z")
    )
    assert list(by_id(select("eef", [expert(), long, short]))) == ["z@0"]


def test_the_newest_solution():
    store = [
        expert(),
        rollout("old", None, "win", actions="z"),
        rollout("new", None, "win", round=2),
    ]
    assert list(by_id(select("eef", store, round=2))) == ["old@0"]
    assert list(by_id(select("eef", store, round=2, solution="newest"))) == ["new@0"]
    assert list(by_id(select("eef", store, round=1, solution="newest"))) == ["old@0"]


def test_all_wins_from_the_start_besides_recovery_solutions():
    store = [expert(), expert("w", actions="abc", win=True)]
    store += played(STATES, ("win", "lose", "win", "lose", "lose", "lose"))
    store += [rollout("again", None, "win"), rollout("other", None, "win", actions="z")]
    examples = by_id(select("eef", store, examples="rft"))
    assert list(examples) == ["other@0", "again@0", "w@0", "e@4:1@2"]
    assert set(by_id(select("eef", store))) == {"other@0", "e@4:1@2"}


def test_experts_with_a_common_prefix_give_one_example():
    store = [expert("e"), expert("f", by="weak")]
    store += [rollout(f"{name}-win", StateRef(name, 2), "win") for name in "ef"]
    store += [rollout(f"{name}-lose", StateRef(name, 4), "lose") for name in "ef"]
    store += [rollout(f"{name}-later", StateRef(name, 6), "win") for name in "ef"]
    selection = select("eef", store)
    assert [example.id for example in selection.examples] == ["e-win@0", "e-later@4"]
    assert selection.counts["states.recovered"] == 2


def test_the_states_of_an_experts_win():
    won = expert("w", win=True)
    store = [won, *played(STATES, ("lose", "win", "lose", "lose", "lose", "lose"), origin="w")]
    examples = by_id(select("eef", store, expert_filter="all"))
    assert examples["w@2:1@0"].reasons == ("beneficial",) * 2 + ("student-win",) * 2
    assert examples["w@4"].reasons == ("context",) * 4 + ("neutral",) * 6 + ("expert-win",) * 2
    assert set(by_id(select("eef", store))) == {"w@2:1@0"}


# weights


def test_weights_by_the_rise_of_the_win_rate():
    store = [expert(), rollout("a", None, "lose"), rollout("b", StateRef("e", 2), "win")]
    store += [rollout(f"c{number}", StateRef("e", 2), "lose") for number in range(3)]
    (start,) = select("eef", store, weights="value").examples
    assert start.weights == (0.25, 0.25, 1.0, 1.0)


def test_an_action_along_which_the_win_rate_falls_has_weight_0():
    store = [expert(), rollout("a", None, "lose"), rollout("b", StateRef("e", 2), "win")]
    store += [rollout("c", StateRef("e", 4), "win"), rollout("d", StateRef("e", 4), "lose")]
    through_both = by_id(select("eef", store, weights="value", solution="all"))["c@0"]
    assert through_both.reasons[:4] == ("beneficial",) * 2 + ("neutral",) * 2
    assert through_both.weights == (0.5,) * 2 + (0.0,) * 2 + (0.5,) * 2


def test_weights_by_reward():
    won = replace(rollout("r", None, "win"), reward=0.8)
    (start,) = select("eef", [expert(), won], weights="reward", reward_temperature=0.2).examples
    assert start.weights == pytest.approx((0.36787944,) * 2)


# several experts


def test_wins_of_other_experts_are_not_trained_on():
    store = [expert("s", actions="ab", win=True), expert("w", actions="a", win=True, by="weak")]
    for method in ("bc", "rft", "eef"):
        assert list(by_id(select(method, store, bc_experts=["strong"]))) == ["s@0"]
    assert list(by_id(select("bc", store))) == ["w@0", "s@0"]


def test_an_unknown_expert_is_an_error():
    with pytest.raises(MethodError, match="'strng'") as error:
        select("bc", [expert(win=True)], bc_experts=["strng"])
    assert "'strong'" in error.value.hint


# baselines and plans


def test_behavior_cloning_explores_nothing_and_trains_on_experts_wins():
    store = [expert(), expert("w", win=True), rollout("r", None, "win")]
    assert make_method("bc").plan(TrajectorySet(store), [TASK], 1) == []
    assert list(by_id(select("bc", store))) == ["w@0"]


def test_rft_trains_on_distinct_wins_up_to_the_round():
    store = [
        expert(actions="abc", win=True),
        rollout("r1", None, "win"),
        rollout("r2", None, "win", round=2),
    ]
    store += [rollout("r3", None, "win", actions="z", round=3), rollout("r4", None, "lose")]
    assert list(by_id(select("rft", store, round=2))) == ["r1@0", "e@0"]
    assert list(by_id(select("rft", store, round=3))) == ["r3@0", "r1@0", "e@0"]
    assert list(by_id(select("rft", store, round=3, cap=2))) == ["r3@0", "r1@0"]


def test_rft_ignores_wins_from_an_experts_state():
    with pytest.raises(MethodError, match="nothing to train on"):
        select("rft", [expert(), rollout("r", StateRef("e", 2), "win")])


def test_a_variant_is_a_method_under_a_name_of_its_own():
    variant = make_method("eef-M3", {"method": "eef", "M": 3})
    assert (variant.name, variant.options) == ("eef-M3", make_method("eef", {"M": 3}).options)
    assert make_method("six", {"method": "rft6"}).options.k == 6


def test_a_name_with_a_number():
    method = make_method("rft6")
    assert method.name == "rft6"
    plan = method.plan(TrajectorySet(), ["a", "b"], 1)
    assert plan == [PlannedState("a", None, 6), PlannedState("b", None, 6)]


@pytest.mark.parametrize(
    ("name", "options", "message", "hint"),
    [
        ("eeff", {}, "unknown method 'eeff'", "'eef'"),
        ("zzz", {}, "unknown method 'zzz'", "known methods: bc, sft_all"),
        ("zzz", {}, "unknown method 'zzz'", 'options.<name>.method`, e.g. `method = "eef"`'),
        ("variant", {"method": "eeff"}, "unknown method 'eeff'", "'eef'"),
        ("variant", {"method": 3}, "`method` is 3", ""),
        (
            "../variant",
            {"method": "eef"},
            "'../variant' is not a valid method name",
            "letters, digits",
        ),
        ("expert", {"method": "eef"}, "'expert' is not a valid", ""),
        ("bc", {"method": "rft"}, "every run starts with behavior cloning", ""),
        ("eef", {"neutrl": "kept"}, "options.eef: unknown setting 'neutrl'", "'neutral'"),
        (
            "eef",
            {"branch_from": "student", "expert_filter": "all"},
            "`expert_filter` has no effect",
            "",
        ),
        (
            "eef",
            {"branch_from": "student", "stop_branching": "solved"},
            "`stop_branching` has no effect",
            "",
        ),
        ("eef+grpo", {"M": 3}, "`M` has no effect without `eef_rounds`", ""),
        ("eef+grpo", {"weights": "value"}, "`weights` has no effect without `eef_rounds`", ""),
        ("eef", {"reward_temperature": 0.5}, "no effect", ""),
        ("eef", {"M": -1}, "`M` is -1", ""),
        ("rft0", {}, "`k` is 0", ""),
        ("rft6", {"k": 3}, "`k` has no effect", "remove `k`"),
        ("bc", {"k": 3}, "options.bc: unknown setting 'k'", "bc_experts"),
    ],
)
def test_a_method_that_cannot_be_created(name, options, message, hint):
    with pytest.raises(ConfigError, match=message) as error:
        make_method(name, options)
    assert hint in error.value.hint


def test_every_option_is_documented():
    for name in METHODS:
        fields = method_class(name).Options.model_fields.values()
        assert all(field.description for field in fields)


@pytest.mark.parametrize(
    ("outcomes", "stopped"),
    [
        (("win", "lose", "lose", "lose", "lose", "lose"), {"solved", "hopeless", "either"}),
        (("win", "lose", "win", "lose", "lose", "lose"), {"solved", "either"}),
        (("lose", "lose", "lose", "lose", "lose", "lose"), {"hopeless", "either"}),
        (("lose", "lose", "win", "lose", "lose", "lose"), set()),
        (("lose", "-", "-", "-", "-", "-"), set()),
    ],
)
def test_branching_stops_if_it_is_not_needed_or_hopeless(outcomes, stopped):
    """From the second round on, by the outcomes from the start and from five states inside."""
    store = TrajectorySet([expert(), *played(STATES, outcomes)])
    for stop in ("never", "solved", "hopeless", "either"):
        method = make_method("eef", {"stop_branching": stop})
        first, second = (method.plan(store, [TASK], round) for round in (1, 2))
        assert len(first) == 6, "the first round always branches"
        assert len(second) == (1 if stop in stopped else 6)


def test_after_branching_has_stopped_the_win_that_stopped_it_is_trained():
    store = [
        expert(),
        *played(STATES, ("lose", "lose", "win", "lose", "lose", "lose")),
        rollout("own", None, "win", round=2),
    ]
    chosen = by_id(select("eef", store, round=3, stop_branching="solved"))
    assert list(chosen) == ["own@0"]


def test_a_harmful_action_stays_masked_after_branching_has_stopped():
    """Round 1 solves the task and finds the actions 4 and 5 of the expert's own win harmful."""
    outcomes = ("win", "win", "win", "lose", "win", "win")
    store = [expert(win=True), *played(STATES, outcomes)]
    options = {"expert_filter": "all", "grid": "all", "solution": "all"}
    for stop in ("never", "solved"):
        chosen = select("eef", store, round=2, stop_branching=stop, examples="rft", **options)
        won = by_id(chosen)["e@0"]
        assert [t for t, weight in enumerate(won.weights) if not weight] == [4, 5]


# properties for any store and any options

options = st.fixed_dictionaries(
    {
        "M": st.integers(0, 6),
        "rollouts_per_state": st.integers(1, 3),
        "label_rule": st.sampled_from(["any", "majority"]),
        "expert_filter": st.sampled_from(["failed", "all"]),
        "grid": st.sampled_from(["round", "all"]),
        "stop_branching": st.sampled_from(["never", "solved", "hopeless", "either"]),
        "accumulate": st.sampled_from(["all", "round"]),
        "solution": st.sampled_from(["nearest", "newest", "all"]),
        "examples": st.sampled_from(["one", "rft"]),
        "neutral": st.sampled_from(["kept", "masked"]),
        "recovery": st.booleans(),
        "weights": st.sampled_from(["one", "value", "reward"]),
    }
)


def examples_of(world: World, given_options, store=None):
    method = make_method("eef", given_options)
    try:
        return method.select(store or world.trajectories, world.tasks, world.round).examples
    except MethodError:
        return ()


def wins_from(world: World, given_options, origin: str, t: int) -> bool | None:
    """Whether a state is solvable, read from the rollouts one by one."""
    task = world.trajectories[origin].task
    outcomes = [
        item.success
        for item in world.rollouts
        if item.task == task
        and item.status != "error"
        and (item.round == world.round or given_options["grid"] == "all")
        and item.start in ([None, StateRef(origin, 0)] if t == 0 else [StateRef(origin, t)])
    ]
    if not outcomes:
        return None
    return (
        any(outcomes)
        if given_options["label_rule"] == "any"
        else sum(outcomes) / len(outcomes) >= 0.5
    )


@given(worlds(), options)
def test_no_harmful_action_is_trained(world, given_options):
    store = world.trajectories
    for example in examples_of(world, given_options):
        for t, item in enumerate(store.path(example.trajectory)):
            if example.weights[t] == 0 or item.author.role != "expert":
                continue
            origin = store[item.trajectory]
            if given_options["expert_filter"] == "failed" and origin.success:
                continue  # not branched from with these options, so not measured
            started = {
                item.start
                for item in world.rollouts
                if item.round == world.round or given_options["grid"] == "all"
            }
            states = [
                t
                for t in evenly_spaced_states(origin.length, given_options["M"])
                if StateRef(origin.id, t) in started
            ]
            states = (0, *states, origin.length + 1)
            start = max(state for state in states if state <= t)
            end = min(state for state in states if state > t)
            if end <= origin.length:
                before, after = (
                    wins_from(world, given_options, origin.id, state) for state in (start, end)
                )
                assert not (before is True and after is False)


@given(worlds(), options)
def test_every_trained_action_leads_to_a_win(world, given_options):
    store = world.trajectories
    for example in examples_of(world, given_options):
        win = store[example.trajectory]
        assert win.success
        assert len(example.weights) == len(store.path(win.id))
        assert any(weight > 0 for weight in example.weights)
        assert all(0 <= weight <= 1 for weight in example.weights)
        assert set(example.reasons[: example.state]) <= {"context"}
        assert not any(example.weights[: example.state])
        assert win.id in example.evidence
        assert all(name in store for name in example.evidence)


@given(worlds(), options)
def test_all_of_the_students_steps_are_trained(world, given_options):
    store = world.trajectories
    for example in examples_of(world, given_options):
        student = [
            weight
            for weight, item in zip(example.weights, store.path(example.trajectory), strict=True)
            if item.author.role == "student"
        ]
        assert len(set(student)) <= 1
        assert all(weight > 0 for weight in student)


@given(worlds(), options)
def test_examples_are_distinct(world, given_options):
    examples = examples_of(world, given_options)
    keys = {
        (
            item.task,
            tuple(at.step.action for at in world.trajectories.path(item.trajectory)),
            item.weights,
        )
        for item in examples
    }
    assert len(keys) == len({item.id for item in examples}) == len(examples)


@given(worlds(), options, st.integers(0, 99))
def test_the_order_of_the_store_does_not_matter(world, given_options, seed):
    shuffled = [list(world.experts), list(world.rollouts)]
    for part in shuffled:
        random.Random(seed).shuffle(part)
    other = TrajectorySet([item for part in shuffled for item in part])
    method = make_method("eef", given_options)
    assert examples_of(world, given_options) == examples_of(world, given_options, other)
    assert method.plan(world.trajectories, world.tasks, 1) == method.plan(other, world.tasks, 1)


@given(worlds(), options)
def test_the_counts_are_those_of_the_examples(world, given_options):
    try:
        selection = make_method("eef", given_options).select(
            world.trajectories, world.tasks, world.round
        )
    except MethodError:
        return
    trained = sum(weight > 0 for example in selection.examples for weight in example.weights)
    assert selection.counts["examples"] == len(selection.examples)
    assert (
        sum(count for key, count in selection.counts.items() if key.startswith("steps.")) == trained
    )
    assert selection.counts["states.recovered"] <= selection.counts["states.recovery"]
    assert list(selection.counts) == sorted(selection.counts)


@given(worlds(outcomes=["lose"]))
def test_every_important_state_with_a_win_after_it_is_solved(world):
    given_options = {"grid": "round", "label_rule": "any"}
    needed = solvable = 0
    for item in world.experts:
        started = {each.start for each in world.rollouts if each.round == world.round}
        states = [
            t for t in evenly_spaced_states(item.length, 5) if StateRef(item.id, t) in started
        ]
        for before, state in pairwise((0, *states)):
            outcomes = [wins_from(world, given_options, item.id, t) for t in (before, state)]
            if outcomes == [True, False]:
                needed += 1
                solvable += any(
                    branch.success
                    and branch.start.trajectory == item.id
                    and branch.start.t >= state
                    for branch in world.rollouts
                    if branch.start
                )
    assume(any(item.success for item in world.rollouts))
    selection = make_method("eef").select(world.trajectories, world.tasks, world.round)
    won = {item.task for item in world.rollouts if item.success}
    assert (selection.counts["states.recovery"], selection.counts["states.recovered"]) == (
        needed,
        solvable,
    )
    assert {example.task for example in selection.examples if example.state == 0} == won


@given(worlds(outcomes=["win"], inside=False), st.integers(1, 4), st.integers(0, 6))
def test_without_expert_failures_eef_is_rft(world, each, count):
    store, tasks = world.trajectories, world.tasks
    assume(any(item.success for item in store))
    eef = make_method("eef", {"M": count, "rollouts_per_state": each, "examples": "rft"})
    rft = make_method("rft", {"k": each})
    assert eef.plan(store, tasks, 1) == rft.plan(store, tasks, 1)
    assert (
        eef.select(store, tasks, world.round).examples
        == rft.select(store, tasks, world.round).examples
    )
    one, capped = make_method("eef"), make_method("rft", {"cap": 1})
    assert (
        one.select(store, tasks, world.round).examples
        == capped.select(store, tasks, world.round).examples
    )


def test_the_defaults_are_those_of_the_method():
    defaults = EefOptions()
    assert (defaults.M, defaults.rollouts_per_state, defaults.label_rule) == (5, 1, "any")
    assert (defaults.expert_filter, defaults.solution, defaults.examples) == (
        "failed",
        "nearest",
        "one",
    )
