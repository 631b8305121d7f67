"""Episode: one rollout under way, from where it starts to its end. `eef.rollouts.runner` plays many at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from eef.chat import build_conversation, parse_completion
from eef.env import Env, StepResult, execute
from eef.errors import EnvError
from eef.policy import Completion, Conversation
from eef.trajectory import ErrorKind, Status, Step, Usage


@dataclass(slots=True, kw_only=True)
class Episode:
    """A rollout's own steps so far, after the `prefix` it starts from. It has ended once `status` is set.

    `env` is None until the start is reached; `steps_left` own steps may follow before the episode is
    truncated.
    """

    prefix: Sequence[Step]
    steps_left: int
    env: Env | None = None
    observation: str = ""
    steps: list[Step] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    status: Status | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None

    @property
    def turn(self) -> int:
        """Index in the path of the step to be taken now."""
        return len(self.prefix) + len(self.steps)

    def conversation(self, prompt: str, prompt_suffix: str = "") -> Conversation:
        """What the policy is shown now: the whole path, whoever made it, and the observation."""
        return build_conversation(
            prompt, [*self.prefix, *self.steps], self.observation, prompt_suffix=prompt_suffix
        )

    def begin(self, env: Env, observation: str, replayed_steps: int) -> None:
        """The start is reached. An episode whose prefix has used up the step limit ends at once."""
        self.env, self.observation = env, observation
        self.usage = replace(self.usage, replayed_steps=replayed_steps)
        if self.steps_left <= 0:
            self.end("truncated")

    def take(self, completion: Completion) -> None:
        """Carry out the policy's turn. An exception of the environment ends the episode as an error."""
        self._count(completion)
        if completion.finish == "overflow":
            self.end("truncated", "context overflow", "context_overflow")
        elif completion.finish == "done":
            self.end("truncated", "the policy declined to act", "policy_done")
        elif completion.finish == "error":
            self.end("error", f"policy: {completion.text}", "policy")
        else:
            try:
                self._step(completion.text)
            except Exception as error:
                self.fail(error)

    def end(self, status: Status, error: str | None = None, kind: ErrorKind | None = None) -> None:
        self.status, self.error, self.error_kind = status, error, kind

    def fail(self, error: Exception) -> None:
        """End as an error of the environment."""
        self.end("error", f"environment: {describe_error(error)}", "environment")

    def spend(self, seconds: float) -> None:
        self.usage = replace(self.usage, seconds=self.usage.seconds + seconds)

    def score(self) -> float | None:
        """The final reward in [0, 1]; None for an error. An episode whose score cannot be had is made one."""
        if self.env is None or self.status == "error":
            return None
        try:
            reward = float(self.env.score([step.reward for step in (*self.prefix, *self.steps)]))
            if not 0.0 <= reward <= 1.0:
                raise EnvError(f"the score {reward} lies outside [0, 1]")
        except Exception as error:
            self.fail(error)
            return None
        return reward

    def _count(self, completion: Completion) -> None:
        self.usage = replace(
            self.usage,
            prompt_tokens=self.usage.prompt_tokens + completion.prompt_tokens,
            cached_tokens=self.usage.cached_tokens + completion.cached_tokens,
            generated_tokens=self.usage.generated_tokens + completion.generated_tokens,
        )

    def _step(self, text: str) -> None:
        assert self.env is not None, "an episode is stepped only after it has begun"
        action = parse_completion(text)[1] or ""
        result = _checked(execute(self.env, action))
        step = Step(
            observation=self.observation, completion=text, action=action, reward=result.reward
        )
        self.steps.append(step)
        self.observation = result.observation
        self.steps_left -= 1
        if result.terminated:
            self.end("terminated")
        elif self.steps_left <= 0:
            self.end("truncated")


def describe_error(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}".strip().removesuffix(":")


def _checked(result: StepResult) -> StepResult:
    """The result with its reward as a plain float: a numpy number or NaN would not survive the store."""
    reward = float(result.reward)
    if not math.isfinite(reward):
        raise EnvError(f"the environment gave the reward {reward}")
    return StepResult(str(result.observation), reward, bool(result.terminated))
