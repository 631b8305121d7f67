"""Ways of acting with roles: who sees what, what is recorded, and what would be trained."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from eef.envs.toy import PROMPT, ToyEnv
from eef.errors import EnvError
from eef.methods.examples import path_example
from eef.note import RoleUsage, add_usage
from eef.policies.acting import Advised, Criticized, Lookahead
from eef.policy import Completion
from eef.renderer import Renderer
from eef.rendering import render_example, weighted_conversation
from eef.roles import ADVISE, CRITICIZE, VALUE, Acting, read_score, recorded_question
from eef.rollouts.runner import play
from eef.selection import TrainingExample
from eef.trajectory import Trajectory, TrajectorySet
from tests.fakes.roles import FakeModel, acts, fake_role
from tests.fakes.tiny import tiny_tokenizer
from tests.fakes.toy_rollouts import parameters, specs_from_start

MOVES = ("left", "right", "take red", "take blue")


def anything(conversation, seed):
    return f"Action: {random.Random(seed).choice(MOVES)}"


def played(policy, *, tasks=3, shown="none", **options):
    specs = specs_from_start(ToyEnv(), tasks)
    settings = parameters(step_limit=4, advice=shown, **options)
    return list(
        play(
            specs,
            env=ToyEnv(),
            policy=policy,
            trajectories=TrajectorySet(),
            parameters=settings,
        )
    )


def acted_on(actor):
    """The conversations that an actor has decided on; it proposes on those without critiques."""
    return [each for each in actor.seen if "Critique" in each[-1]["content"]]


def example_of(item, t, shown):
    return TrainingExample(
        id="x",
        task=item.task,
        trajectory=item.id,
        state=t,
        weights=tuple(float(step == t) for step in range(item.length)),
        reasons=("x",) * item.length,
        advice=shown,
    )


def test_advice_precedes_each_turn_and_stays_and_only_the_actor_sees_it_in_its_observation():
    role = fake_role(lambda question, seed: f"Aim {question.count('Observation')}.", "reasoner")
    actor = acts(anything)
    for item in played(Advised(actor, Acting("advised", "reasoner"), role), shown="all"):
        assert [step.advice[0].text for step in item.steps] == [
            "Aim 1.",
            "Aim 2.",
            "Aim 3.",
            "Aim 4.",
        ]
    for conversation in actor.seen:
        observed = [each["content"] for each in conversation if each["role"] == "user"]
        assert all(f"\n\nAdvice: Aim {number}." in text for number, text in enumerate(observed, 1))
        assert conversation[-1]["content"].endswith(f"Advice: Aim {len(observed)}.")
    assert all(question.endswith(ADVISE) for question in role.policy.questions)


def test_an_agent_sees_every_critique_of_this_turn_and_none_of_earlier_ones():
    role = fake_role(
        lambda question, seed: f"Grade: good. Critique of turn {question.count('Observation')}."
    )
    actor = acts(anything)
    items = played(Criticized(actor, Acting("criticized", "critic", candidates=3), role))
    for conversation in acted_on(actor):
        turn = sum(each["role"] == "assistant" for each in conversation) + 1
        assert conversation[-1]["content"].count(f"Critique of turn {turn}.") == 3
        assert not any("Critique" in each["content"] for each in conversation[:-1])
    for item in items:
        assert {len(step.advice) for step in item.steps} == {3}
        assert item.usage.completions == 4 * len(item.steps)
        (usage,) = item.usage.roles
        assert (usage.role, usage.completions) == ("critic", 3 * len(item.steps))


@pytest.mark.parametrize("kind", ["advised", "criticized"])
def test_what_the_policy_acted_on_is_what_is_trained_at_every_turn(kind):
    role = fake_role(lambda question, seed: f"Grade: poor. Text {seed % 97}.")
    acting = Acting(kind, "critic", candidates=2)
    actor = acts(anything)
    policy = Advised if kind == "advised" else Criticized
    items = played(policy(actor, acting, role), shown=acting.shown)
    store, renderer = TrajectorySet(items), Renderer(tiny_tokenizer())
    decided = [renderer.prompt(each) for each in actor.seen]
    for item in items:
        for t in range(item.length):
            example = example_of(item, t, acting.trained)
            conversation, weights = weighted_conversation(example, store, PROMPT)
            rendered = renderer.render(conversation, weights)
            first = next(index for index, weight in enumerate(rendered.weights) if weight)
            assert list(rendered.ids[:first]) in decided


@pytest.mark.parametrize("kind", ["advised", "criticized", "lookahead"])
def test_the_question_of_a_role_follows_from_the_record(kind):
    answer = "Grade: neutral. Score: 5"
    role = fake_role(lambda question, seed: answer)
    acting = Acting(kind, "critic", candidates=2)
    policy = {"advised": Advised, "criticized": Criticized, "lookahead": Lookahead}[kind]
    request = {"advised": ADVISE, "criticized": CRITICIZE, "lookahead": VALUE}[kind]
    items = played(policy(acts(anything), acting, role), shown=acting.shown)
    recorded = [
        recorded_question(
            item.steps, t, request, shown=acting.shown, candidate=each.candidate, seen=each.seen
        )
        for item in items
        for t, step in enumerate(item.steps)
        for each in step.advice
    ]
    assert sorted(recorded) == sorted(role.policy.questions)
    assert recorded


def test_an_agent_that_obeys_its_critic_takes_the_one_action_that_it_does_not_reject():
    def criticize(question, seed):
        wanted = "The agent proposes:\nAction: right\n" in question
        return f"Grade: {'excellent' if wanted else 'very poor'}."

    def obey(conversation, seed):
        last = conversation[-1]["content"]
        if "Grade: excellent" in last:
            return "Action: right"
        return f"Action: {random.Random(seed).choice(['right', 'left', 'open'])}"

    role = fake_role(criticize)
    items = played(Criticized(acts(obey), Acting("criticized", "critic", candidates=8), role))
    for item in items:
        for step in item.steps:
            approved = [each.candidate for each in step.advice if "excellent" in each.text]
            assert set(approved) <= {"Action: right"}
            assert step.action == "right" or not approved
    assert any("excellent" in each.text for step in items[0].steps for each in step.advice)


def test_a_critique_in_another_format_is_requested_once_more_and_then_left_out():
    answers = {
        "prose": "I would not do that.",
        "unknown": "Grade: superb.",
        "empty": "",
        "long": Completion(text="Grade: good", finish="length"),
        "good": "Efficiency: direct.\n**Grade**: Very Poor\nRevision: none.",
    }

    def answer(question, seed):
        return answers[random.Random(seed).choice([*answers])]

    role = fake_role(answer)
    acting = Acting("criticized", "critic", candidates=2)
    items = played(Criticized(acts(anything), acting, role), tasks=9)
    for item in items:
        (usage,) = item.usage.roles
        given = [each.text for step in item.steps for each in step.advice]
        assert usage.skipped == 2 * len(item.steps) - len(given)
        assert usage.completions == 2 * len(item.steps) + usage.repeated
        assert set(given) <= {answers["good"]}
    assert sum(item.usage.roles[0].skipped for item in items) > 0


def test_a_lookahead_takes_what_the_role_scores_highest_and_leaves_the_environment_as_it_was():
    def room(text):
        return int(re.findall(r"Room (\d)", text)[-1])

    role = fake_role(lambda question, seed: f"Room. Score: {room(question)}", "value")
    looking = Lookahead(acts(anything), Acting("lookahead", "value", candidates=6), role)
    for item in played(looking):
        replayed = ToyEnv()
        replayed.reset(next(s.task for s in specs_from_start(ToyEnv(), 3) if s.id == item.id))
        for step in item.steps:
            best = max(step.advice, key=lambda each: each.score)
            assert best.candidate == step.completion
            assert best.score == room(best.seen) / 10
            assert replayed.step(step.action).observation == best.seen
        assert item.usage.lookahead_steps == 6 * len(item.steps)
        assert room(item.final_observation) > 2


def test_unusable_advice_is_requested_once_more_and_then_left_out():
    answers = {"empty": "", "long": Completion(text="so much", finish="length"), "good": "Right."}

    def answer(question, seed):
        return answers[random.Random(seed).choice([*answers])]

    role = fake_role(answer, "reasoner")
    items = played(
        Advised(acts(anything), Acting("advised", "reasoner"), role), shown="all", tasks=9
    )
    for item in items:
        (usage,) = item.usage.roles
        without = sum(not step.advice for step in item.steps)
        assert usage.skipped == without
        assert usage.completions == len(item.steps) + usage.repeated
        assert all(each.text == "Right." for step in item.steps for each in step.advice)
    assert sum(item.usage.roles[0].skipped for item in items) > 0


@pytest.mark.parametrize("kind", ["advised", "criticized", "lookahead"])
def test_a_turn_without_an_answer_of_its_role_is_an_error_unless_the_server_refuses(kind):
    """Otherwise the score of the agent alone would be reported as that of the agent with a role."""
    policy = {"advised": Advised, "criticized": Criticized, "lookahead": Lookahead}[kind]
    for refused in (False, True):
        down = Completion(text="no completion after 5 requests", finish="error", refused=refused)
        role = fake_role(lambda question, seed, answer=down: answer)
        items = played(policy(acts(anything), Acting(kind, "critic", candidates=2), role))
        for item in items:
            assert item.usage.roles[0].skipped > 0
            if refused:
                assert (item.status, {step.advice for step in item.steps}) == ("truncated", {()})
            else:
                assert (item.status, item.error_kind, item.steps) == ("error", "policy", ())
                assert item.error == f"policy: role `critic`: no answer: {down.text}"


class Fragile(ToyEnv):
    """A toy environment in which taking something raises an exception."""

    restores = True

    def step(self, action):
        if action.startswith("take"):
            raise EnvError("the hand is gone")
        return super().step(action)

    def restore(self, snapshot):
        if not self.restores:
            raise RuntimeError("no way back")
        super().restore(snapshot)


def test_a_lookahead_that_raises_leads_nowhere_and_ends_no_run():
    def room(text):
        return int(re.findall(r"Room (\d)", text)[-1])

    role = fake_role(lambda question, seed: f"Room. Score: {room(question)}", "value")
    specs = specs_from_start(ToyEnv(), 3)
    looking = Lookahead(acts(anything), Acting("lookahead", "value", candidates=8), role)
    options = {"policy": looking, "trajectories": TrajectorySet()}
    items = list(play(specs, env=Fragile(), **options, parameters=parameters(step_limit=4)))
    assert {item.status for item in items} == {"truncated"}
    assert not any("take" in each.candidate for i in items for s in i.steps for each in s.advice)
    lost = type("Lost", (Fragile,), {"restores": False})
    items = list(play(specs, env=lost(), **options, parameters=parameters(step_limit=4)))
    assert {(item.status, item.error_kind, item.steps) for item in items} == {
        ("error", "environment", ())
    }


def test_an_actor_without_candidates_and_a_value_without_scores_still_act():
    role = fake_role(lambda question, seed: "No number.")
    (item, *_) = played(
        Lookahead(acts(anything), Acting("lookahead", "critic", candidates=2), role)
    )
    assert {step.advice for step in item.steps} == {()}
    silent = acts(lambda conversation, seed: "")
    (item, *_) = played(Criticized(silent, Acting("criticized", "critic", candidates=2), role))
    assert {step.action for step in item.steps} == {""}


def test_a_prompt_suffix_is_recorded_and_trained():
    actor = acts(anything)
    specs = [
        replace(spec, prompt_suffix=f"Plan {number}.")
        for number, spec in enumerate(specs_from_start(ToyEnv(), 3))
    ]
    options = {"env": ToyEnv(), "policy": actor, "trajectories": TrajectorySet()}
    items = list(play(specs, **options, parameters=parameters(step_limit=4)))
    renderer = Renderer(tiny_tokenizer())
    seen = [renderer.prompt(each) for each in actor.seen]
    assert sorted(item.prompt_suffix for item in items) == ["Plan 0.", "Plan 1.", "Plan 2."]
    for item in items:
        example = path_example(item)
        ids = list(render_example(example, TrajectorySet(items), PROMPT, renderer).ids)
        assert sum(ids[: len(each)] == each for each in seen) == item.length
        assert example.prompt_suffix == item.prompt_suffix
        assert Trajectory.from_record(item.to_record()) == item


def test_scores_are_read_or_refused():
    assert read_score("Good. **Score: 8.5**") == 0.85
    for text, reason in (("good", "holds no"), ("Score: 11", "its score is 11")):
        with pytest.raises(ValueError, match=reason):
            read_score(text)


def test_usage_is_added_by_role():
    one = RoleUsage(role="a", completions=1, generated_tokens=5)
    two = RoleUsage(role="b", completions=2, skipped=1)
    assert add_usage([two, one], [one]) == (
        RoleUsage(role="a", completions=2, generated_tokens=10),
        two,
    )
    assert FakeModel(lambda question, seed: "").author.role == "agent"
