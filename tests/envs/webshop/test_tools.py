"""WebShop in both ways of speaking: the same episodes and equal masks."""

from __future__ import annotations

import pytest

from eef.chat import as_calls
from eef.env import toolset_of
from eef.envs.registry import make_expert
from eef.policy import Completion, Sampling
from eef.react import parse_completion
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.selection import TrainingExample
from eef.tools import read_turn
from eef.trajectory import Author, TrajectorySet
from tests.fakes.small_shop import make_shop

SHOP = {"synthetic": {"products": 120}}
PARAMETERS = RolloutParameters(sampling=Sampling(), step_limit=12)


class Caller:
    """The scripted expert, which is given and writes tool calls."""

    replays = "alone"
    author = Author("student", "caller")

    def __init__(self, env):
        self.tools = toolset_of(env)
        self._expert = make_expert(env, "strong")
        self.seen = []

    def act(self, conversations, seeds, sampling):
        self.seen += conversations
        talks = [
            [{**each, "role": "user" if each["role"] == "tool" else each["role"]} for each in talk]
            for talk in conversations
        ]
        talks = [[self._as_react(each) for each in talk] for talk in talks]
        turns = self._expert.act(talks, seeds, sampling)
        return [Completion(text=self._as_calls(turn.text)) for turn in turns]

    def _as_calls(self, text):
        return as_calls(text, parse_completion(text)[1], self.tools)

    def _as_react(self, message):
        turn = read_turn(message["content"])
        if message["role"] != "assistant" or not turn.calls:
            return message
        action = self.tools.action(turn.calls[0])
        return {**message, "content": f"Thought: {turn.text}\nAction: {action}"}


@pytest.fixture(scope="module")
def episodes():
    """(ReAct, tools) trajectories of the same tasks, and the conversations of the latter."""
    env = make_shop(**SHOP)
    specs = [RolloutSpec(task.id, task, None, 0, 0) for task in env.tasks("train").head(6)]
    found, seen = [], []
    for policy in (make_expert(env, "strong"), Caller(env)):
        played = list(
            play(
                specs,
                env=env,
                policy=policy,
                trajectories=TrajectorySet(),
                parameters=PARAMETERS,
            )
        )
        found.append(sorted(played, key=lambda item: item.id))
        seen = getattr(policy, "seen", [])
    return env, *found, seen


def test_both_ways_play_the_same_episodes(episodes):
    env, react, calls, seen = episodes
    for one, other in zip(react, calls, strict=True):
        assert other.error is None
        assert [step.action for step in one.steps] == [step.action for step in other.steps]
        assert [step.observation for step in one.steps] == [
            step.observation for step in other.steps
        ]
        assert (one.reward, one.status) == (other.reward, other.status)
        assert all(len(read_turn(step.completion).calls) == 1 for step in other.steps)
    assert any(item.success for item in calls)
    assert seen[-1][0]["content"] == env.tool_prompt
    assert {each["role"] for each in seen[-1]} == {"system", "user", "assistant", "tool"}


@pytest.mark.torch
@pytest.mark.parametrize("loss_on", ["completion", "action"])
def test_masks_are_equal_in_both(episodes, loss_on):
    """The same turns carry the same weights, whichever way a trajectory was recorded."""
    pytest.importorskip("tokenizers")
    from eef.renderer import Renderer
    from eef.rendering import render_example
    from tests.fakes.families import tokenizer_of

    env, react, calls, _ = episodes
    tools = toolset_of(env)
    tokenizer = tokenizer_of("qwen2.5")
    texts = {}
    for name, renderer in {
        "react": Renderer(tokenizer, loss_on=loss_on),
        "tools": Renderer(tokenizer, loss_on=loss_on, tools=tools),
    }.items():
        for source, recorded in {"react": react, "tools": calls}.items():
            longest = max(recorded, key=lambda item: item.length)
            weights = tuple(float(t % 2) for t in range(longest.length))
            example = TrainingExample(
                id="e",
                task=longest.task,
                trajectory=longest.id,
                state=0,
                weights=weights,
                reasons=("win",) * longest.length,
            )
            prompt = tools.prompt if name == "tools" else env.prompt
            rendered = render_example(example, TrajectorySet(recorded), prompt, renderer)
            texts[name, source] = runs(rendered, tokenizer)
    assert texts["react", "react"] == texts["react", "tools"]
    assert texts["tools", "react"] == texts["tools", "tools"]
    spoken = texts["react", "react"]
    called = texts["tools", "tools"]
    assert len(spoken) == len(called) == longest.length // 2
    for text, call in zip(spoken, called, strict=True):
        action = parse_completion(text)[1] if loss_on == "completion" else text
        turn = read_turn(call.removesuffix("<|im_end|>"))
        assert tools.action(turn.calls[0]) == action.removesuffix("<|im_end|>")


def runs(rendered, tokenizer):
    """The texts of the consecutive tokens that are trained."""
    found, ids = [], []
    for token, weight in zip(rendered.ids, rendered.weights, strict=True):
        if weight:
            ids.append(token)
        elif ids:
            found.append(tokenizer.decode(ids))
            ids = []
    return [*found, *([tokenizer.decode(ids)] if ids else [])]
