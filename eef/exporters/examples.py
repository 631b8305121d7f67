"""RenderedExample: a training example as messages and as tokens, with weights and provenance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from eef.policy import Conversation
from eef.renderer import Rendered, Renderer, fits, weighted_conversation
from eef.selection import TrainingExample
from eef.trajectory import TrajectorySet


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedExample:
    """One training example, ready for another trainer, cut after its last trained turn.

    `weights[i]` belongs to the i-th assistant message. `rendered` and `spans` are what `eef` itself
    trains on: token ids with their weights, and the text of the same ids in spans of equal weight.
    `meta` is its provenance: example, task, trajectory, source, and the author and reason of each
    assistant message.
    """

    conversation: Conversation
    weights: tuple[float, ...]
    rendered: Rendered
    spans: list[tuple[str, float]]
    meta: dict[str, Any]

    @property
    def binary(self) -> bool:
        """Whether every weight is 0 or 1."""
        return all(weight in (0.0, 1.0) for weight in self.weights)

    def weighted(self) -> Iterator[tuple[dict[str, str], float]]:
        """Each message with its weight, which is 0 for every message not written by the agent."""
        weights = iter(self.weights)
        for message in self.conversation:
            yield message, next(weights) if message["role"] == "assistant" else 0.0

    def trained(self) -> Iterator[tuple[int, float]]:
        """The index in the conversation, and the weight, of each trained message."""
        return ((index, weight) for index, (_, weight) in enumerate(self.weighted()) if weight != 0)


def render_examples(
    examples: Iterable[TrainingExample],
    trajectories: TrajectorySet,
    prompt: str,
    renderer: Renderer,
    **about: Any,
) -> Iterator[RenderedExample]:
    """Render the examples that `eef` would train on: those that fit into the model's context.

    `about` (run, method, round) is added to each `meta`.
    """
    for example in examples:
        conversation, weights = weighted_conversation(
            example, trajectories, prompt, renderer.thoughts
        )
        rendered = renderer.render(conversation, weights)
        if fits(rendered, renderer) and any(weights):
            yield RenderedExample(
                conversation=conversation,
                weights=weights,
                rendered=rendered,
                spans=renderer.spans(conversation, weights),
                meta={**about, **_provenance(example, trajectories, weights)},
            )


def _provenance(
    example: TrainingExample, trajectories: TrajectorySet, weights: tuple[float, ...]
) -> dict[str, Any]:
    path = trajectories.path(example.trajectory)[: len(weights)]
    return {
        "example": example.id,
        "task": example.task,
        "trajectory": example.trajectory,
        "state": example.state,
        "authors": [str(item.author) for item in path],
        "reasons": list(example.reasons[: len(weights)]),
        "evidence": list(example.evidence),
        "source": trajectories[example.trajectory].source,
    }
