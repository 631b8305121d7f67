"""Episode: one rollout in progress, from its start state to its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from eef.chat import Thoughts, build_conversation
from eef.env import Env, StepResult, execute
from eef.errors import BudgetError, ConfigError, EnvError, ModelError, describe_error
from eef.note import Shown, add_usage
from eef.policy import Completion, Conversation
from eef.react import parse_completion
from eef.rollouts.restore import Restored
from eef.tools import Toolset
from eef.trajectory import ErrorKind, Status, Step, Usage

_log = logging.getLogger(__name__)
_OF_THE_RUN = (ConfigError, ModelError, BudgetError)  # all other episodes would meet them too


@dataclass(slots=True, kw_only=True)
class Episode:
    """A rollout's own steps so far, after the `prefix` that leads to its start state.

    `env` is None until that state is reached. `steps_left` own steps remain before the episode is
    truncated. The episode has ended once `status` is set. `tools` are those that the policy calls,
    None if it writes ReAct.
    """

    prefix: Sequence[Step]
    steps_left: int
    tools: Toolset | None = None
    env: Env | None = None
    observation: str = ""
    steps: list[Step] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    status: Status | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None

    @property
    def turn(self) -> int:
        """Index in the path of the next step."""
        return len(self.prefix) + len(self.steps)

    def conversation(
        self,
        prompt: str,
        prompt_suffix: str = "",
        thoughts: Thoughts = "kept",
        advice: Shown = "none",
    ) -> Conversation:
        """The prompt for the next completion: the whole path so far and the current observation."""
        return build_conversation(
            prompt,
            [*self.prefix, *self.steps],
            self.observation,
            prompt_suffix=prompt_suffix,
            thoughts=thoughts,
            tools=self.tools,
            advice=advice,
        )

    def begin(self, env: Env, restored: Restored) -> None:
        """Start acting: `env` has reached the start state.

        If the prefix has used up the step limit, the episode is truncated at once.
        """
        self.env, self.observation = env, restored.observation
        self.usage = replace(
            self.usage,
            replayed_steps=restored.replayed_steps,
            tolerated_steps=restored.tolerated_steps,
        )
        if self.steps_left <= 0:
            self.end("truncated")

    def take(self, completion: Completion) -> None:
        """Execute the policy's turn. An exception of the environment ends the episode.

        ConfigError, ModelError and BudgetError propagate: they would occur in all other episodes.
        """
        self._count(completion)
        if self.status is not None:  # a lookahead has ended it
            return
        if completion.finish == "overflow":
            self.end("truncated", "context overflow", "context_overflow")
        elif completion.finish == "done":
            self.end("truncated", "the policy declined to act", "policy_done")
        elif completion.finish == "error":
            self.end("error", f"policy: {completion.text}", "policy")
        else:
            try:
                self._step(completion)
            except _OF_THE_RUN:
                raise
            except Exception as error:
                self.fail(error)

    def look(self, completion: str) -> str | None:
        """The observation that a completion leads to; None if it holds no action, or if the
        environment raises an exception.

        The environment returns to its state, so it must support snapshots. If it cannot, the
        episode ends.
        """
        assert self.env is not None, "an episode looks at nothing before it begins"
        action = self._action_of(completion)
        if not action or self.status is not None:
            return None
        try:
            before = self.env.snapshot()
            try:
                return str(execute(self.env, action).observation)
            except _OF_THE_RUN:
                raise
            except Exception as error:
                _log.warning("a lookahead at %r failed: %s", action, describe_error(error))
                return None
            finally:
                self.env.restore(before)
        except _OF_THE_RUN:
            raise
        except Exception as error:
            self.fail(error)
            return None

    def end(self, status: Status, error: str | None = None, kind: ErrorKind | None = None) -> None:
        self.status, self.error, self.error_kind = status, error, kind

    def fail(self, error: Exception) -> None:
        """End as an error of the environment."""
        self.end("error", f"environment: {describe_error(error)}", "environment")

    def spend(self, seconds: float) -> None:
        self.usage = replace(self.usage, seconds=self.usage.seconds + seconds)

    def score(self) -> float | None:
        """The final reward in [0, 1], or None for an error.

        An episode that cannot be scored becomes an error.
        """
        if self.env is None or self.status == "error":
            return None
        try:
            reward = float(self.env.score([step.reward for step in (*self.prefix, *self.steps)]))
            if not 0.0 <= reward <= 1.0:
                raise EnvError(f"the score is {reward}; expected a value in [0, 1]")
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
            drifted_turns=self.usage.drifted_turns + (completion.tokens is not None),
            completions=self.usage.completions + 1,
        )
        if (consulted := completion.consulted) is not None:
            self.usage = replace(
                self.usage,
                completions=self.usage.completions + consulted.candidates,
                lookahead_steps=self.usage.lookahead_steps + consulted.lookahead_steps,
                roles=add_usage(self.usage.roles, consulted.roles),
            )

    def _action_of(self, completion: str) -> str:
        """The action of a completion, empty if it holds none."""
        if self.tools is not None:
            return self.tools.action_of(completion)
        return parse_completion(completion)[1] or ""

    def _step(self, completion: Completion) -> None:
        assert self.env is not None, "an episode takes no step before it begins"
        action = self._action_of(completion.text)
        result = _checked(execute(self.env, action))
        step = Step(
            observation=self.observation,
            completion=completion.text,
            action=action,
            reward=result.reward,
            tokens=completion.tokens,
            cut=completion.finish == "length",
            advice=completion.consulted.advice if completion.consulted else (),
        )
        self.steps.append(step)
        self.observation = result.observation
        self.steps_left -= 1
        if result.terminated:
            self.end("terminated")
        elif self.steps_left <= 0:
            self.end("truncated")


def _checked(result: StepResult) -> StepResult:
    """The result as plain Python values; a numpy number or NaN would not survive the store."""
    reward = float(result.reward)
    if not math.isfinite(reward):
        raise EnvError(f"the reward is {reward}; expected a finite number")
    return StepResult(str(result.observation), reward, bool(result.terminated))
