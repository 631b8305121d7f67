"""What a selection holds as token ids: examples, acts, texts and pairs, if they fit the context."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from eef.chat import Thoughts, build_conversation
from eef.errors import ModelError
from eef.note import Shown
from eef.policy import Conversation
from eef.renderer import Rendered, RenderedPair, Renderer
from eef.roles import role_conversation
from eef.selection import Acts, PreferencePair, TextExample, TextPair, TrainingExample
from eef.thoughts import is_blank
from eef.tools import Toolset
from eef.trajectory import TrajectorySet

_Item = TypeVar("_Item", TrainingExample | Acts, PreferencePair, TextExample, TextPair)
_Rendering = TypeVar("_Rendering", Rendered, RenderedPair)


def render_example(
    example: TrainingExample | Acts, trajectories: TrajectorySet, prompt: str, renderer: Renderer
) -> Rendered:
    """The example's path with its weights (the advantages of acts), up to the last trained step."""
    conversation, weights = weighted_conversation(
        example, trajectories, prompt, renderer.thoughts, tools=renderer.tools
    )
    return renderer.render(conversation, weights, cut_turns(example, trajectories))


def cut_turns(example: TrainingExample | Acts, trajectories: TrajectorySet) -> frozenset[int]:
    """The steps of an example's path whose turn the policy did not end (`Step.cut`)."""
    path = trajectories.path(example.trajectory)
    return frozenset(number for number, item in enumerate(path) if item.step.cut)


def weighted_conversation(
    example: TrainingExample | Acts,
    trajectories: TrajectorySet,
    prompt: str,
    thoughts: Thoughts = "kept",
    *,
    tools: Toolset | None = None,
) -> tuple[Conversation, tuple[float, ...]]:
    """The messages of an example up to its last trained step, and the weights of its completions.

    `prompt` is that of an agent with `tools`, or of one without.

    The weights of acts are their advantages. A completion without text outside thought blocks has
    weight 0, whatever the example states.

    ModelError if the example does not have one weight for each step of its path.
    """
    steps = [item.step for item in trajectories.path(example.trajectory)]
    given = example.advantages if isinstance(example, Acts) else example.weights
    if len(steps) != len(given):
        raise ModelError(
            f"example {example.id!r} has {len(given)} weights for a path of {len(steps)} steps"
        )
    advice: Shown = "none" if isinstance(example, Acts) else example.advice
    if advice == "last":  # of the last trained step
        last = max((index for index, weight in enumerate(given) if weight != 0), default=-1)
        steps, given = steps[: last + 1], given[: last + 1]
    conversation = build_conversation(
        prompt,
        steps,
        prompt_suffix=example.prompt_suffix,
        thoughts=thoughts,
        tools=tools,
        advice=advice,
    )
    completions = [each["content"] for each in conversation if each["role"] == "assistant"]
    # an act is trained as it was sampled, a thought without an action too
    blank = (lambda text: not text.strip()) if isinstance(example, Acts) else is_blank
    weights = tuple(
        0.0 if blank(completion) else weight
        for completion, weight in zip(completions, given, strict=True)
    )
    length = max((index + 1 for index, weight in enumerate(weights) if weight != 0), default=0)
    turns = [index for index, each in enumerate(conversation) if each["role"] == "assistant"]
    system = sum(each["role"] == "system" for each in conversation)
    end = turns[length - 1] + 1 if length else system
    return conversation[:end], weights[:length]


def render_text(text: TextExample, prompt: str, renderer: Renderer) -> Rendered:
    """A role's text with its weight, after the conversation that the role answered."""
    answer = {"role": "assistant", "content": text.text}
    return renderer.render([*role_conversation(prompt, text.question), answer], [text.weight])


def render_all(
    examples: Iterable[TrainingExample | Acts],
    trajectories: TrajectorySet,
    prompt: str,
    renderer: Renderer,
) -> tuple[list[Rendered], list[str]]:
    """The renderings of all examples that fit, and the ids of those that do not.

    An example fits if it is no longer than `renderer.max_length`. None is cut: a cut would remove
    the end, which is the part that matters.
    """
    return _fitting(
        examples, lambda each: render_example(each, trajectories, prompt, renderer), renderer
    )


def render_pairs(
    pairs: Iterable[PreferencePair], trajectories: TrajectorySet, prompt: str, renderer: Renderer
) -> tuple[list[RenderedPair], list[str]]:
    """The renderings of all pairs whose responses both fit, and the ids of the other pairs."""
    return _fitting(
        pairs,
        lambda pair: RenderedPair(
            render_example(pair.chosen, trajectories, prompt, renderer),
            render_example(pair.rejected, trajectories, prompt, renderer),
        ),
        renderer,
    )


def render_texts(
    texts: Iterable[TextExample], prompt: str, renderer: Renderer
) -> tuple[list[Rendered], list[str]]:
    """The renderings of all texts that fit, and the ids of those that do not."""
    return _fitting(texts, lambda text: render_text(text, prompt, renderer), renderer)


def render_text_pairs(
    pairs: Iterable[TextPair], prompt: str, renderer: Renderer
) -> tuple[list[RenderedPair], list[str]]:
    """The renderings of all pairs of texts that both fit, and the ids of the other pairs."""
    return _fitting(
        pairs,
        lambda pair: RenderedPair(
            render_text(pair.chosen, prompt, renderer), render_text(pair.rejected, prompt, renderer)
        ),
        renderer,
    )


def fits(rendered: Rendered | RenderedPair, renderer: Renderer) -> bool:
    """Whether a rendering, or both of a pair, are no longer than `renderer.max_length`."""
    return renderer.max_length is None or rendered.width <= renderer.max_length


def _fitting(
    items: Iterable[_Item], render: Callable[[_Item], _Rendering], renderer: Renderer
) -> tuple[list[_Rendering], list[str]]:
    """The renderings of all items that fit, and the ids of those that do not."""
    fitting, overflows = [], []
    for item in items:
        rendered = render(item)
        if fits(rendered, renderer):
            fitting.append(rendered)
        else:
            overflows.append(item.id)
    return fitting, overflows
