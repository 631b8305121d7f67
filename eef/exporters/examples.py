"""RenderedExample: a training example as messages and as tokens, with weights and provenance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from eef.chat_template import as_text_arguments, structured
from eef.policy import Conversation
from eef.renderer import Rendered, Renderer
from eef.rendering import cut_turns, fits, weighted_conversation
from eef.selection import TrainingExample
from eef.trajectory import TrajectorySet


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedExample:
    """One training example, ready for another trainer, cut after its last trained turn.

    `folded` is the conversation as the chat template gets it: it has no system message if the
    template does not render any. `weights[i]` belongs to the i-th assistant message of either.
    `rendered` and `spans` are what `eef` itself trains on: token ids with their weights, and the
    text of the same ids in spans of equal weight. `tools` are those of an agent that calls tools,
    as chat APIs take them. `meta` is its provenance: example, task, trajectory, source, and the
    author and reason of each assistant message. `cut` are the assistant messages that the policy
    did not end (`Step.cut`): a trainer of whole messages would train their ends, so they are not
    trained as messages. They are trained as tokens, without their ends.
    """

    conversation: Conversation
    folded: Conversation
    weights: tuple[float, ...]
    rendered: Rendered
    spans: list[tuple[str, float]]
    meta: dict[str, Any]
    tools: tuple[dict[str, Any], ...] = ()
    cut: frozenset[int] = frozenset()

    @property
    def message_weights(self) -> tuple[float, ...]:
        """The weight of each whole assistant message."""
        return tuple(
            0.0 if number in self.cut else weight for number, weight in enumerate(self.weights)
        )

    @property
    def untrained(self) -> int:
        """Turns that are trained as tokens and not as messages, because they were cut."""
        return sum(weight != 0 for number, weight in enumerate(self.weights) if number in self.cut)

    @property
    def binary(self) -> bool:
        """Whether every weight is 0 or 1."""
        return all(weight in (0.0, 1.0) for weight in self.weights)

    def weighted(self, *, folded: bool = False) -> Iterator[tuple[dict[str, Any], float]]:
        """Each message with its weight, which is 0 for every message not written by the agent.

        Calls are in `tool_calls`, with their arguments as JSON text. The last message is trained,
        if any is.
        """
        weights = iter(self.message_weights)
        pairs = [
            (message, next(weights) if message["role"] == "assistant" else 0.0)
            for message in self.written(self.folded if folded else self.conversation)
        ]
        trained = [number for number, (_, weight) in enumerate(pairs, start=1) if weight != 0]
        yield from pairs[: trained[-1] if trained else None]

    def written(self, conversation: Conversation) -> list[dict[str, Any]]:
        """Messages as chat APIs take them."""
        if not self.tools:
            return [{**message} for message in conversation]
        pairs = [(message["role"], message["content"]) for message in conversation]
        return as_text_arguments(structured(pairs))

    def trained_parts(self) -> Iterator[tuple[Conversation, str]]:
        """For each trained message, the folded conversation up to it and its text in `spans`."""
        text, texts = "", []
        for span, weight in self.spans:
            text += span
            texts += [text] if weight != 0 else []
        trained = [number for number, weight in enumerate(self.weights) if weight != 0]
        turns = [at for at, each in enumerate(self.folded) if each["role"] == "assistant"]
        for number, text in zip(trained, texts, strict=True):
            if number not in self.cut:
                yield self.folded[: turns[number] + 1], text


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
            example, trajectories, prompt, renderer.thoughts, tools=renderer.tools
        )
        cut = cut_turns(example, trajectories)
        rendered = renderer.render(conversation, weights, cut)
        if fits(rendered, renderer) and any(weights):
            yield RenderedExample(
                conversation=conversation,
                folded=[
                    {"role": role, "content": content}
                    for role, content in renderer.template.messages(conversation)
                ],
                weights=weights,
                rendered=rendered,
                spans=renderer.spans(conversation, weights, cut),
                cut=cut,
                tools=tuple(renderer.tools.records()) if renderer.tools else (),
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
