"""Rollouts: batched equals one by one, replayed equals restored, and a failure stays alone."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.env import FORMAT_ERROR, execute
from eef.envs.toy import ToyEnv, toy_player
from eef.errors import ConfigError, ModelError
from eef.policy import GREEDY, Completion, Sampling, ScriptedPolicy
from eef.react import parse_completion
from eef.replay import replay
from eef.rollouts import restore
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Author, StateRef, Step, Trajectory, TrajectorySet, Usage
from eef.utils.seeds import derive_seed
from tests.fakes.toy_rollouts import (
    STUDENT,
    WithoutSnapshot,
    expert_trajectories,
    run,
    specs_from_start,
)


def specs_from_states(env, trajectories, every=1):
    """Two specs from each state of each trajectory, except its end."""
    tasks = {task.id: task for task in env.tasks("train")}
    return [
        RolloutSpec(
            f"{each.id}@{t}#{k}",
            tasks[each.task],
            StateRef(each.id, t),
            derive_seed(each.id, t, k),
            1,
        )
        for each in trajectories
        for t in range(0, len(each.steps), every)
        for k in range(2)
    ]


def timeless(trajectories, **usage):
    """By id, without the fields that differ between equal runs."""
    return {
        each.id: replace(each, usage=replace(each.usage, seconds=0.0, **usage))
        for each in trajectories
    }


def alone(env, spec, policy, step_limit):
    """One episode from a task's start, played in the simplest way."""
    observation = env.reset(spec.task)
    conversation = [{"role": "system", "content": env.prompt}]
    steps = []
    terminated = False
    while not terminated and len(steps) < step_limit:
        conversation.append({"role": "user", "content": observation})
        completion = policy.act([conversation], [derive_seed(spec.seed, len(steps))], GREEDY)[
            0
        ].text
        conversation.append({"role": "assistant", "content": completion})
        action = parse_completion(completion)[1]
        result = execute(env, action)
        step = Step(
            observation=observation, completion=completion, action=action, reward=result.reward
        )
        steps.append(step)
        observation, terminated = result.observation, result.terminated
    reward = env.score([step.reward for step in steps])
    return Trajectory(
        id=spec.id,
        task=spec.task.id,
        author=policy.author,
        round=spec.round,
        seed=spec.seed,
        steps=tuple(steps),
        final_observation=observation,
        status="terminated" if terminated else "truncated",
        reward=reward,
        success=reward >= 1.0,
        usage=Usage(completions=len(steps)),
    )


@given(st.integers(1, 9), st.integers(0, 5))
def test_batches_of_any_size_play_what_each_episode_plays_alone(batch_size, seed):
    env = ToyEnv()
    specs = specs_from_start(env, seed=seed)
    expected = {spec.id: alone(env, spec, STUDENT, 10) for spec in specs}
    assert timeless(run(specs, env, batch_size=batch_size)) == expected


@pytest.mark.parametrize("thoughts", ["kept", "dropped"])
def test_thought_blocks_are_recorded_and_seen_again_or_not(thoughts):
    seen = []

    def script(conversation, seed):
        seen.append([each["content"] for each in conversation if each["role"] == "assistant"])
        return "<think>\nAction: left\n</think>\n\nThought: on.\nAction: right"

    policy = ScriptedPolicy(Author("student", "thinker"), script)
    spec = specs_from_start(ToyEnv(), 1)
    (played,) = run(spec, policy=policy, step_limit=3, thoughts=thoughts)
    assert {step.action for step in played.steps} == {"right"}
    assert all(step.completion.startswith("<think>\nAction: left") for step in played.steps)
    assert len(seen) > 1
    assert all(("<think>" in text) == (thoughts == "kept") for texts in seen for text in texts)
    assert all(text.endswith("Thought: on.\nAction: right") for texts in seen for text in texts)


def test_an_answer_cut_before_its_text_costs_a_step():
    class Cut(ScriptedPolicy):
        def act(self, conversations, seeds, sampling):
            return [Completion(text="", finish="length") for _ in conversations]

    (played,) = run(specs_from_start(ToyEnv(), 1), policy=Cut(STUDENT.author, None), step_limit=2)
    assert (played.status, played.error, len(played.steps)) == ("truncated", None, 2)
    assert {(step.completion, step.action) for step in played.steps} == {("", "")}
    assert played.final_observation.startswith(FORMAT_ERROR)


def test_a_turn_at_the_maximum_of_its_tokens_is_recorded_as_cut():
    class Talker(ScriptedPolicy):
        def act(self, conversations, seeds, sampling):
            finish = "length" if len(conversations[0]) < 4 else "stop"
            return [Completion(text="Action: right", finish=finish) for _ in conversations]

    (played,) = run(specs_from_start(ToyEnv(), 1), policy=Talker(STUDENT.author, None))
    assert [step.cut for step in played.steps[:3]] == [True, False, False]


def test_trajectories_are_yielded_as_they_end_batch_by_batch():
    specs = specs_from_start(ToyEnv(), 8)
    played = run(specs, batch_size=4)
    ids = [spec.id for spec in specs]
    assert {each.id for each in played[:4]} == set(ids[:4])
    for half in (played[:4], played[4:]):
        ends = [(len(each.steps), ids.index(each.id)) for each in half]
        assert ends == sorted(ends)


def test_a_restored_start_equals_a_replayed_one():
    experts = expert_trajectories()
    specs = specs_from_states(ToyEnv(), experts)
    restored = run(specs, ToyEnv(), trajectories=experts)
    replayed = run(specs, WithoutSnapshot(), trajectories=experts)
    assert timeless(restored, replayed_steps=0) == timeless(replayed, replayed_steps=0)
    assert all(each.usage.replayed_steps == each.first for each in replayed)
    for each in restored:  # the second rollout of a state finds the snapshot of the first
        assert each.usage.replayed_steps == (each.first if each.id.endswith("#0") else 0)


def test_few_snapshots_change_nothing(monkeypatch):
    experts = expert_trajectories()
    specs = specs_from_states(ToyEnv(), experts)[::-1] + specs_from_start(ToyEnv())
    expected = timeless(run(specs, trajectories=experts), replayed_steps=0)
    monkeypatch.setattr(restore, "CAPACITY", 1)
    assert timeless(run(specs, trajectories=experts), replayed_steps=0) == expected


def test_many_threads_restore_more_states_than_are_kept(monkeypatch):
    monkeypatch.setattr(restore, "CAPACITY", 2)
    experts = expert_trajectories()
    restorer = restore.StateRestorer(TrajectorySet(experts))
    specs = specs_from_states(ToyEnv(), experts)
    expected = {spec.state: restorer.restore(ToyEnv(), spec.task, spec.state)[0] for spec in specs}

    def restore_all(number):
        env, chance = ToyEnv(), random.Random(number)
        for spec in chance.choices(specs[:8], k=400):
            assert restorer.restore(env, spec.task, spec.state)[0] == expected[spec.state]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(restore_all, range(8)))
    finally:
        sys.setswitchinterval(before)


def test_branches_of_branches_are_legal_episodes():
    env = ToyEnv()
    stored = TrajectorySet(expert_trajectories())
    for generation in range(3):
        specs = [
            replace(spec, id=f"g{generation}/{number}")
            for number, spec in enumerate(specs_from_states(env, list(stored)[-4:], every=2))
        ]
        for trajectory in run(specs, env, trajectories=stored):
            stored.add(trajectory)
    assert max(each.id.count("/") for each in stored) == 1
    for trajectory in stored:
        task = next(task for task in env.tasks("train") if task.id == trajectory.task)
        end = replay(env, task, stored.path(trajectory.id)).result
        assert end.observation == trajectory.final_observation
        assert end.terminated == (trajectory.status == "terminated")
        assert trajectory.length <= 10


def test_the_prefix_counts_against_the_limit_unless_the_limit_is_reset():
    waiting = ScriptedPolicy(
        Author("student", "waiting"), lambda conversation, seed: "Action: left"
    )
    env = ToyEnv()
    (origin,) = run(specs_from_start(env, 1), env, waiting, step_limit=6)
    assert (origin.status, origin.length, origin.reward, origin.success) == (
        "truncated",
        6,
        0.0,
        False,
    )
    spec = RolloutSpec("b", env.tasks("train")[0], StateRef(origin.id, 4), 0, 1)
    assert len(run([spec], env, waiting, [origin], step_limit=6)[0].steps) == 2
    assert (
        len(run([spec], env, waiting, [origin], step_limit=6, reset_step_limit=True)[0].steps) == 6
    )
    (spent,) = run([spec], env, waiting, [origin], step_limit=4)
    assert (spent.status, spent.steps, spent.reward) == ("truncated", (), 0.0)
    assert spent.final_observation == origin.steps[4].observation


def test_the_reward_of_the_prefix_counts():
    class Collecting(ToyEnv):
        def step(self, action):
            return replace(super().step(action), reward=0.25)

        def score(self, rewards):
            return min(1.0, sum(rewards))

    env = Collecting()
    waiting = ScriptedPolicy(
        Author("student", "waiting"), lambda conversation, seed: "Action: left"
    )
    (origin,) = run(specs_from_start(env, 1), env, waiting, step_limit=3)
    spec = RolloutSpec("b", env.tasks("train")[0], StateRef(origin.id, 2), 0, 1)
    (branch,) = run([spec], env, waiting, [origin], step_limit=4)
    assert (origin.reward, branch.reward, branch.success) == (0.75, 1.0, True)


def test_the_policy_sees_prompt_prefix_and_observation_and_a_seed_a_turn():
    seen = []

    class Watching(ScriptedPolicy):
        def act(self, conversations, seeds, sampling):
            seen.append((conversations[0], seeds[0], sampling))
            return super().act(conversations, seeds, sampling)

    env = ToyEnv()
    (origin,) = expert_trajectories(1)
    spec = RolloutSpec("b", env.tasks("train")[0], StateRef(origin.id, 1), 5, 1)
    watching = Watching(
        Author("student", "w"), lambda conversation, seed: "Thought: so. Action: left"
    )
    (branch,) = run([spec], env, watching, [origin], step_limit=3)
    conversation, _, sampling = seen[1]
    assert [message["role"] for message in conversation] == [
        "system",
        *["user", "assistant"] * 2,
        "user",
    ]
    assert [message["content"] for message in conversation] == [
        env.prompt,
        origin.steps[0].observation,
        origin.steps[0].completion,
        origin.steps[1].observation,
        "Thought: so. Action: left",
        branch.steps[1].observation,
    ]
    assert [entry[1] for entry in seen] == [derive_seed(5, 1), derive_seed(5, 2)]
    assert sampling == GREEDY
    assert (branch.author, branch.start, branch.seed, branch.round) == (
        Author("student", "w"),
        spec.state,
        5,
        1,
    )


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "round1/toy/3@0#0") == 1893033192
    assert derive_seed("a", "b") != derive_seed("ab") != derive_seed("a, b")
    assert all(0 <= derive_seed(number) < 2**31 for number in range(1000))


def test_a_completion_without_an_action_costs_a_step():
    mute = ScriptedPolicy(Author("student", "mute"), lambda conversation, seed: "I would open it")
    (played,) = run(specs_from_start(ToyEnv(), 1), policy=mute, step_limit=2)
    assert [(step.action, step.completion) for step in played.steps] == [
        ("", "I would open it")
    ] * 2
    assert [played.steps[1].observation, played.final_observation] == [FORMAT_ERROR] * 2


class Finishing:
    """Ends the second turn of a conversation with a given `finish`."""

    author = Author("student", "finishing")
    replays = "alone"

    def __init__(self, finish: str) -> None:
        self.finish = finish

    def act(self, conversations, seeds, sampling: Sampling) -> list[Completion]:
        return [
            Completion(
                text="Action: left"
                if self.finish in ("stop", "length") or len(each) < 4
                else "no room",
                finish="stop" if len(each) < 4 else self.finish,
                prompt_tokens=len(each),
                cached_tokens=1,
                generated_tokens=3,
            )
            for each in conversations
        ]


@pytest.mark.parametrize(
    ("finish", "status", "error", "steps"),
    [
        ("overflow", "truncated", "context overflow", 1),
        ("error", "error", "policy: no room", 1),
        ("length", "truncated", None, 3),
        ("stop", "truncated", None, 3),
    ],
)
def test_the_finish_of_a_completion_decides_the_status(finish, status, error, steps):
    (played,) = run(specs_from_start(ToyEnv(), 1), policy=Finishing(finish), step_limit=3)
    assert (played.status, played.error, len(played.steps)) == (status, error, steps)
    assert played.reward == (None if status == "error" else 0.0)
    turns = max(2, steps)
    assert played.usage.prompt_tokens == sum(2 * turn for turn in range(1, turns + 1))
    assert (played.usage.cached_tokens, played.usage.generated_tokens) == (turns, 3 * turns)
    assert played.usage.seconds > 0


class Failing(ToyEnv):
    """Fails in one task, in a given way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.playing = ""

    def fails(self, how: str) -> bool:
        return self.how == how and self.playing == self.tasks("train")[2].id

    def reset(self, task):
        self.playing = task.id
        if self.fails("reset"):
            raise OSError("no such page")
        return super().reset(task)

    def step(self, action):
        if self.fails("step"):
            raise KeyError("page")
        result = super().step(action)
        return replace(result, reward=float("nan")) if self.fails("nan") else result

    def score(self, rewards):
        return 7.0 if self.fails("score") else super().score(rewards)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("reset", "environment: OSError: no such page"),
        ("step", "environment: KeyError: 'page'"),
        ("nan", "environment: EnvError: the reward is nan; expected a finite number"),
        ("score", "environment: EnvError: the score is 7.0; expected a value in [0, 1]"),
    ],
)
def test_a_failing_environment_fails_one_episode(how, error):
    specs = specs_from_start(ToyEnv())
    expected = timeless(run(specs))
    played = timeless(run(specs, Failing(how)))
    failed = played.pop(specs[2].id)
    del expected[specs[2].id]
    assert played == expected
    assert (failed.status, failed.error, failed.reward, failed.success) == (
        "error",
        error,
        None,
        False,
    )


def test_a_policy_that_fails_on_one_conversation_fails_one_episode():
    specs = specs_from_start(ToyEnv())
    goal = specs[2].task.instruction

    def script(conversation, seed):
        if len(conversation) == 6 and conversation[1]["content"].startswith(goal):
            raise ZeroDivisionError
        return STUDENT.act([conversation], [seed], GREEDY)[0].text

    expected = timeless(run(specs))
    played = timeless(run(specs, policy=ScriptedPolicy(STUDENT.author, script)))
    failed = [name for name in played if played[name] != expected[name]]
    assert specs[2].id in failed
    same_goal = {each.task.id for each in specs if each.task.instruction == goal}
    assert {played[name].task for name in failed} <= same_goal
    assert played[specs[2].id].error == "policy: ZeroDivisionError"
    assert played[specs[2].id].steps == expected[specs[2].id].steps[:2]


def test_a_policy_that_depends_on_the_batch_is_never_asked_one_by_one():
    calls = []

    class Failing(ScriptedPolicy):
        replays = "batch"

        def act(self, conversations, seeds, sampling):
            calls.append(len(conversations))
            if len(calls) == 2:
                raise ZeroDivisionError
            return super().act(conversations, seeds, sampling)

    policy = Failing(STUDENT.author, lambda conversation, seed: "Action: left")
    played = run(specs_from_start(ToyEnv(), 4), policy=policy, step_limit=3)
    assert calls == [4, 4]
    assert {item.error for item in played} == {"policy: ZeroDivisionError"}


@pytest.mark.parametrize("error", [ModelError("no such server"), KeyboardInterrupt()])
def test_errors_of_this_package_and_interruptions_propagate(error):
    def script(conversation, seed):
        raise error

    with pytest.raises(type(error)):
        run(specs_from_start(ToyEnv()), policy=ScriptedPolicy(Author("student", "p"), script))


def test_a_replay_mismatch_is_an_error_of_its_own_kind():
    experts = expert_trajectories(3)
    wrong = replace(experts[0].steps[2], observation="Room 9 of 9.")
    experts[0] = replace(experts[0], steps=(*experts[0].steps[:2], wrong, *experts[0].steps[3:]))
    played = run(specs_from_states(ToyEnv(), experts), trajectories=experts)
    mismatches = [each for each in played if each.error_kind == "replay"]
    assert {(each.start.trajectory, each.start.t >= 2) for each in mismatches} == {("e0", True)}
    assert sum(each.status == "error" for each in played) == len(mismatches)
    # state 2 itself is compared too, though no recorded action starts from it
    assert "in e0@2 the observation differs from the record" in mismatches[0].error
    assert (mismatches[0].steps, mismatches[0].reward, mismatches[0].usage.generated_tokens) == (
        (),
        None,
        0,
    )
    assert run(specs_from_start(ToyEnv(), 1), ToyEnv())[0].error is None


def test_a_state_after_the_end_cannot_be_started_from():
    env = ToyEnv()
    (won,) = run(specs_from_start(env, 1), env, toy_player(Author("expert", "e"), 1.0))
    spec = RolloutSpec("b", env.tasks("train")[0], StateRef(won.id, won.length), 0, 1)
    (played,) = run([spec], env, trajectories=[won])
    assert played.error_kind == "replay"
    assert "the episode is over" in played.error


def test_clones_are_few_and_are_closed_but_the_environment_is_not():
    made, closed = [], []

    class Counted(Failing):
        def clone(self):
            made.append(super().clone())
            return made[-1]

        def close(self):
            closed.append(self)
            raise OSError("will not close")

    env = Counted("step")
    run(specs_from_start(env, 12), env, batch_size=4)
    assert len(made) == 5  # one per slot, and another for the slot that failed
    assert sorted(map(id, closed)) == sorted(map(id, made))


def test_a_policy_that_returns_too_few_completions_is_a_bug():
    class Short(ScriptedPolicy):
        def act(self, conversations, seeds, sampling):
            return super().act(conversations[1:], seeds[1:], sampling)

    with pytest.raises(ValueError, match="shorter"):
        run(
            specs_from_start(ToyEnv()),
            policy=Short(Author("student", "p"), lambda conversation, seed: "Action: left"),
        )


# other environments and policies


class Concurrent(WithoutSnapshot):
    concurrent = True


class Unusable(ToyEnv):
    def reset(self, task):
        raise ConfigError("no Java", hint="install it")


def test_threads_change_nothing():
    experts = expert_trajectories()
    planned = specs_from_states(ToyEnv(), experts)
    played = [run(planned, env, trajectories=experts) for env in (WithoutSnapshot(), Concurrent())]
    assert timeless(played[0]) == timeless(played[1])


@pytest.mark.parametrize("concurrent", [False, True])
def test_an_environment_that_cannot_be_used_as_configured_is_an_error(concurrent):
    env = Unusable()
    env.concurrent = concurrent
    with pytest.raises(ConfigError, match="no Java"):
        run(specs_from_start(env), env)


def test_a_policy_may_decline_to_act():
    class Declining:
        author, replays = Author("student", "declining"), "alone"

        def act(self, conversations, seeds, sampling):
            return [
                Completion(text="", finish="done")
                if len(talk) > 3
                else Completion(text="Action: right")
                for talk in conversations
            ]

    for played in run(specs_from_start(ToyEnv(), 4), policy=Declining()):
        assert (played.status, played.error) == ("truncated", "the policy declined to act")
        assert len(played.steps) == 1


def test_a_lower_limit_of_a_task_applies():
    waiting = ScriptedPolicy(
        Author("student", "waiting"), lambda conversation, seed: "Action: look"
    )
    specs = [
        replace(spec, task=replace(spec.task, step_limit=limit))
        for spec, limit in zip(specs_from_start(ToyEnv(), 3), (2, 9, None), strict=True)
    ]
    assert [len(each.steps) for each in run(specs, policy=waiting, step_limit=5)] == [2, 5, 5]


def test_a_privileged_policy_sees_the_tasks():
    class Privileged:
        author, replays = Author("expert", "privileged"), "alone"

        def act(self, conversations, seeds, sampling):
            raise AssertionError("act_on is there")

        def act_on(self, tasks, conversations, seeds, sampling):
            return [Completion(text=f"Action: say {task.id}") for task in tasks]

    for played in run(
        specs_from_start(ToyEnv(), 5), policy=Privileged(), step_limit=2, batch_size=3
    ):
        assert {step.action for step in played.steps} == {f"say {played.task}"}
