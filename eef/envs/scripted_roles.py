"""Scripted models of roles: texts of a judge, planner, critic, … based on what a flawless expert
would do, with lapses.

They replace strong models where none is available, like scripted experts. Each reads only the
question that a method or a way of acting has asked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from eef.config import unknown_name
from eef.env import Env
from eef.errors import EnvError
from eef.policy import Completion, Conversation, Policy, Replays, Sampling
from eef.react import parse_completion
from eef.task import Task
from eef.trajectory import Author

LAPSES = {"flawless": 0.0, "strong": 0.15, "weak": 0.4}
"""Preset → probability that a text is wrong."""

_TURN = re.compile(
    r"(?:^|\n\n)(Observation|Agent):\n(.*?)(?=\n\n(?:Observation|Agent):\n|\Z)", re.S
)
_STEP = re.compile(
    r"^Step \d+\nObservation: (.*?)\n(?:Advice: .*?\n)*Agent: (.*?)(?=\n\nStep \d+\n|\Z)",
    re.S | re.M,
)
_PROPOSAL = "\n\nThe agent proposes:\n"
_MOST = re.compile(r"[Nn]ame at most (\d+)")
_TASK = re.compile(r"The task is:\n(.*?)\n\n", re.S)


class ScriptedRole:
    """The scripted model of a role in an environment; `expert` is a flawless policy there.

    judge                names the steps at which the expert would have done the same, those with
                         the longest thoughts first
    writer, planner,     write the actions of the episode, or of the expert in that task, as a plan
    reflector
    reasoner             writes what the expert would do next
    critic, teacher      compare a proposal with what the expert would do
    value                scores a proposal in the same way

    With the probability of its preset, a text is about another action, or names steps at random.
    EnvError for an unknown role or preset.
    """

    replays: Replays = "alone"

    def __init__(self, env: Env, expert: Policy, role: str, preset: str) -> None:
        texts = {
            "judge": self._judge,
            "writer": self._plan,
            "planner": self._plan,
            "reasoner": self._advise,
            "reflector": self._plan,
            "critic": self._criticize,
            "teacher": self._criticize,
            "value": self._value,
        }
        if role not in texts:
            raise unknown_name("scripted role", role, texts, error=EnvError)
        if preset not in LAPSES:
            raise unknown_name("preset", preset, LAPSES, error=EnvError)
        self.author = Author("agent", preset)
        self._write, self._lapse = texts[role], LAPSES[preset]
        self._env, self._expert = env, expert

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        completions = []
        for conversation, seed in zip(conversations, seeds, strict=True):
            text = self._write(conversation[-1]["content"], random.Random(seed))
            completions.append(Completion(text=text, generated_tokens=len(text.split())))
        return completions

    def _lapses(self, chance: random.Random) -> bool:
        return chance.random() < self._lapse

    def _action(self, conversation: Conversation) -> str:
        """The expert's next completion."""
        try:
            (completion,) = self._expert.act([conversation], [0], Sampling(temperature=0.0))
        except EnvError:  # a state that it does not know
            return ""
        return parse_completion(completion.text)[1] or ""

    def _judge(self, question: str, chance: random.Random) -> str:
        body = question.split("\n\nThe agent completed")[0].split("\n\nThis episode ended")[0]
        steps = _STEP.findall(body)
        most = int(match[1]) if (match := _MOST.search(question)) else len(steps)
        agreeing, conversation = [], Conversation()
        for number, (observation, completion) in enumerate(steps, start=1):
            conversation.append({"role": "user", "content": observation})
            if self._action(conversation) == parse_completion(completion)[1]:
                agreeing.append((-len(completion), number))
            conversation.append({"role": "assistant", "content": completion})
        named = [number for _, number in sorted(agreeing)[:most]]
        if self._lapses(chance):
            named = chance.sample(range(1, len(steps) + 1), min(most, len(steps)))
        return f"Critical steps: {', '.join(map(str, sorted(named))) or 'none'}"

    def _plan(self, question: str, chance: random.Random) -> str:
        actions = [parse_completion(completion)[1] for _, completion in _STEP.findall(question)]
        if not actions and (task := self._task(question)) is not None:
            actions = list(self._play(task))
        if self._lapses(chance):
            actions = actions[:1]
        return "\n".join(f"Step {number}: {action}" for number, action in enumerate(actions, 1))

    def _task(self, question: str) -> Task | None:
        """The task whose instruction a question starts with."""
        match = _TASK.search(question)
        splits = getattr(self._env, "splits", ("train", "test"))
        tasks = (task for split in splits for task in self._env.tasks(split))
        return next((task for task in tasks if match and task.instruction == match[1]), None)

    def _play(self, task: Task) -> Sequence[str]:
        """The expert's actions in a task."""
        env, actions = self._env.clone(), list[str]()
        conversation: Conversation = [{"role": "user", "content": env.reset(task)}]
        for _ in range(self._env.step_limit):
            (completion,) = self._expert.act([conversation], [0], Sampling(temperature=0.0))
            actions.append(parse_completion(completion.text)[1] or "")
            result = env.step(actions[-1])
            if result.terminated:
                break
            conversation.append({"role": "assistant", "content": completion.text})
            conversation.append({"role": "user", "content": result.observation})
        env.close()
        return actions

    def _advise(self, question: str, chance: random.Random) -> str:
        if self._lapses(chance):
            return "Look around first."
        return f"Aim at this next: {self._action(_conversation(question))}"

    def _criticize(self, question: str, chance: random.Random) -> str:
        good, right = self._compare(question)
        if self._lapses(chance):
            good, right = not good, "none"
        grade, revision = ("excellent", "none") if good else ("poor", right)
        return (
            f"Contribution: {'a step' if good else 'little'}.\nFeasibility: possible.\n"
            f"Efficiency: {'direct' if good else 'a detour'}.\nGrade: {grade}.\n"
            f"Revision: {revision}"
        )

    def _value(self, question: str, chance: random.Random) -> str:
        good, _ = self._compare(question)
        if self._lapses(chance):
            good = not good
        return f"It is {'near' if good else 'far'}. Score: {8 if good else 3}"

    def _compare(self, question: str) -> tuple[bool, str]:
        """Whether the proposal is what the expert would do, and what that is."""
        before, _, rest = question.partition(_PROPOSAL)
        right = self._action(_conversation(before))
        proposed = parse_completion(rest.split("\n\n")[0])[1]
        return proposed == right, right


def _conversation(question: str) -> Conversation:
    """The conversation in a question about a turn, without advice."""
    roles = {"Observation": "user", "Agent": "assistant"}
    return [
        {"role": roles[name], "content": text.split("\n\nAdvice: ")[0]}
        for name, text in _TURN.findall(question.split(_PROPOSAL)[0])
    ]
