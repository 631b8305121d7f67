"""Renderer: conversation → token ids and a loss weight for each. The only place that turns text into ids.

Between `eef.chat` (steps → messages) and `eef.policies.local` (acts on `prompt`) and `eef.train` (learns from
`render`). A conversation's text is cut into pieces, *prompt, completion, between, completion, between …*, each
tokenized for itself. So what the policy acted on is a prefix of what it is trained on, whatever the tokenizer merges.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

from pydantic import Field

from eef.chat import build_conversation
from eef.config import Settings
from eef.errors import ModelError
from eef.policy import Conversation
from eef.selection import PreferencePair, TrainingExample
from eef.trajectory import TrajectorySet

LossOn = Literal["completion", "action"]
Messages = tuple[
    tuple[str, str], ...
]  # (role, content) of each message: a conversation that can be a key

_ACTION = re.compile(r"\baction:\s*", re.I)
_CACHED_TEXTS = 16_384
_NEXT_TURN = (
    ("user", "."),
)  # stands for the observation which ends a turn, where only that end is wanted


class ChatSettings(Settings):
    """How a conversation becomes token ids and loss weights."""

    loss_on: LossOn = "completion"
    """Train on thought and action (the whole completion), or on the action alone."""

    max_length: int | None = Field(default=None, ge=1)
    """Tokens of a training example at most; longer ones are left out and counted, never cut."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids and the loss weight of each; 0 = visible, never trained. `weights[i]` is for predicting `ids[i]`.

    Worked example (one token a word, the first completion is context, the second is trained):

        text     <user>  page  <assistant>  buy  <end>  <user>  page  <assistant>  search  <end>
        weights       0     0            0    0      0       0     0            0       1      1
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.weights):
            raise ModelError(f"{len(self.ids)} token ids, but {len(self.weights)} weights")

    @property
    def trained(self) -> int:
        """Number of tokens with a weight other than 0."""
        return sum(weight != 0 for weight in self.weights)


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """Both ways of a preference pair as ids and weights."""

    chosen: Rendered
    rejected: Rendered

    @property
    def width(self) -> int:
        """Tokens of the longer way."""
        return max(len(self.chosen.ids), len(self.rejected.ids))


class Renderer:
    """Conversations → ids by a tokenizer's chat template.

    `tokenizer` is a Hugging Face fast tokenizer. `loss_on="action"` gives a completion's weight only to what follows
    its "Action:" (and to the end of the turn). `max_length` is the longest rendering that `render_all` lets through.
    `stop_ids` are the ids that end a turn.

    ModelError: no chat template; a template which rewrites earlier messages (the prompt would not be a prefix of the
    next one), or which does not end a turn by a special token.
    """

    def __init__(
        self, tokenizer: Any, *, loss_on: LossOn = "completion", max_length: int | None = None
    ) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template",
                hint="take the instruct version of the model, or set `chat_template` in its tokenizer",
            )
        self.tokenizer = tokenizer
        self.loss_on = loss_on
        self.max_length = max_length
        self._pieces: Callable[[Messages], tuple[str, ...]] = lru_cache(_CACHED_TEXTS)(self._split)
        self._encode: Callable[[str, bool], tuple[int, ...]] = lru_cache(_CACHED_TEXTS)(
            self._tokenize
        )
        self.stop_ids = self._find_stop_ids()

    def prompt(self, conversation: Conversation) -> list[int]:
        """Ids of a conversation that ends in a user message, up to where the next completion begins."""
        pieces = self._pieces(_key(conversation))
        return [
            token for index, piece in enumerate(pieces) for token in self._encode(piece, index == 0)
        ]

    def render(self, conversation: Conversation, weights: Sequence[float]) -> Rendered:
        """Ids up to the end of the last assistant message, with `weights[i]` on the i-th assistant message.

        What ends a turn is trained with its message. A user message behind the last assistant message is left out.
        """
        messages = _key(conversation)
        while messages and messages[-1][0] != "assistant":
            messages = messages[:-1]
        if sum(role == "assistant" for role, _ in messages) != len(weights):
            raise ModelError(f"{len(weights)} weights, but another number of assistant messages")
        first, *rest = self._pieces(messages + _NEXT_TURN)
        ids = list(self._encode(first, True))
        values = [0.0] * len(ids)
        for number, weight in enumerate(weights):
            completion, after = rest[2 * number : 2 * number + 2]
            self._add_turn(ids, values, completion, after, weight)
        keep = len(ids) - self._after_turn(rest[-1]) if rest else 0
        return Rendered(tuple(ids[:keep]), tuple(values[:keep]))

    def spans(
        self, conversation: Conversation, weights: Sequence[float]
    ) -> list[tuple[str, float]]:
        """The text of a rendering with the weight of each stretch of it, neighbours of equal weight joined.

        It is what other trainers must show and train: `render` gives its ids. Takes what `render` takes.

        Worked example: prompt "<user>page<agent>", one trained turn "buy": [("<user>page<agent>", 0), ("buy<end>", w)].
        """
        messages = _key(conversation)
        while messages and messages[-1][0] != "assistant":
            messages = messages[:-1]
        first, *rest = self._pieces(messages + _NEXT_TURN)
        parts = [(first, 0.0)]
        for number, weight in enumerate(weights):
            completion, after = rest[2 * number : 2 * number + 2]
            match = _ACTION.search(completion) if self.loss_on == "action" else None
            free = 0 if self.loss_on == "completion" else match.end() if match else len(completion)
            end = self._turn_end(after)
            parts += [(completion[:free], 0.0), (completion[free:] + after[:end], weight)]
            parts += [(after[end:], 0.0)] if number + 1 < len(weights) else []
        joined = groupby((part for part in parts if part[0]), key=lambda part: part[1])
        return [("".join(text for text, _ in group), weight) for weight, group in joined]

    def _turn_end(self, between: str) -> int:
        """Where the end of the turn ends in the text behind a completion."""
        names = self.tokenizer.convert_ids_to_tokens(sorted(self.stop_ids))
        ends = [between.find(name) + len(name) for name in names if name in between]
        if not ends:
            raise self._broken("does not end every assistant message in the same way")
        return min(ends)

    def _add_turn(
        self, ids: list[int], values: list[float], completion: str, after: str, weight: float
    ) -> None:
        """Append a completion and what stands between it and the next."""
        written, between = self._encode(completion, False), self._encode(after, False)
        free = self._before_action(completion) if self.loss_on == "action" else 0
        beyond = self._after_turn(after)
        ids += written + between
        values += (
            [0.0] * free + [weight] * (len(written) - free + len(between) - beyond) + [0.0] * beyond
        )

    def _after_turn(self, between: str) -> int:
        """Number of tokens of `between` which follow the end of the turn."""
        ids = self._encode(between, False)
        end = next((index for index, token in enumerate(ids) if token in self.stop_ids), None)
        if end is None:
            raise self._broken("does not end every assistant message in the same way")
        return len(ids) - end - 1

    def _before_action(self, completion: str) -> int:
        """Number of tokens of a completion which begin before its action; all of them where it has none."""
        match = _ACTION.search(completion)
        action = match.end() if match else len(completion)
        anchor = self.tokenizer.eos_token
        offsets = self.tokenizer(
            anchor + completion, add_special_tokens=False, return_offsets_mapping=True
        )
        return sum(end <= len(anchor) + action for _, end in offsets["offset_mapping"][1:])

    def _split(self, messages: Messages) -> tuple[str, ...]:
        """Pieces of the prompt for a conversation that ends in a user message; they join to the template's text."""
        text = self._text(messages)
        last = max(
            (index for index, (role, _) in enumerate(messages) if role == "assistant"), default=None
        )
        if last is None:
            return (text,)
        earlier = self._pieces(messages[:last])
        start = sum(map(len, earlier))
        if text[:start] != "".join(earlier):
            raise self._broken("rewrites earlier messages when a conversation goes on")
        end = self._completion_end(text, start, messages[last][1])
        return (*earlier, text[start:end], text[end:])

    def _completion_end(self, text: str, start: int, content: str) -> int:
        """Where the completion that begins at `start` ends. A template may strip it, or put white space before it."""
        if text.startswith(content, start):
            return start + len(content)
        rest = text[start:]
        begin, content = len(text) - len(rest.lstrip()), content.strip()
        if not text.startswith(content, begin):
            raise self._broken("changes the text of an assistant message")
        return begin + len(content)

    def _text(self, messages: Messages) -> str:
        conversation = [{"role": role, "content": content} for role, content in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template is a program: it raises what it likes
            raise self._broken(f"refuses a conversation: {error}") from error
        return text

    def _tokenize(self, piece: str, first: bool) -> tuple[int, ...]:
        """Ids of a piece. All but the first are read behind a special token, so that none is taken for a text's start
        (some tokenizers put a space there)."""
        if first:
            return tuple(self.tokenizer(piece, add_special_tokens=False)["input_ids"])
        return tuple(
            self.tokenizer(self.tokenizer.eos_token + piece, add_special_tokens=False)["input_ids"][
                1:
            ]
        )

    def _find_stop_ids(self) -> frozenset[int]:
        """The end of sequence, and the first special token behind a completion."""
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        between = self._pieces((("user", "a"), ("assistant", "b"), ("user", "c")))[-1]
        end = next((token for token in self._encode(between, False) if token in special), None)
        if end is None:
            raise self._broken("does not end an assistant message by a special token")
        return frozenset({end, self.tokenizer.eos_token_id})

    def _broken(self, what: str) -> ModelError:
        return ModelError(
            f"the chat template of {self.tokenizer.name_or_path!r} {what}",
            hint="what a model acts on must be a prefix of what it is trained on: use a template without this",
        )


def _key(conversation: Conversation) -> Messages:
    return tuple((message["role"], message["content"]) for message in conversation)


def render_example(
    example: TrainingExample, trajectories: TrajectorySet, prompt: str, renderer: Renderer
) -> Rendered:
    """The example's path with its weights. Steps behind the last trained one are left out: nothing learns from them."""
    return renderer.render(*weighted_conversation(example, trajectories, prompt))


def weighted_conversation(
    example: TrainingExample, trajectories: TrajectorySet, prompt: str
) -> tuple[Conversation, tuple[float, ...]]:
    """The messages of an example up to its last trained step, and the weight of each assistant message."""
    steps = [item.step for item in trajectories.path(example.trajectory)]
    if len(steps) != len(example.weights):
        raise ModelError(
            f"example {example.id!r} has {len(example.weights)} weights for a path of {len(steps)} steps"
        )
    length = max(
        (index + 1 for index, weight in enumerate(example.weights) if weight != 0), default=0
    )
    conversation = build_conversation(prompt, steps[:length], prompt_suffix=example.prompt_suffix)
    return conversation, example.weights[:length]


def render_all(
    examples: Iterable[TrainingExample],
    trajectories: TrajectorySet,
    prompt: str,
    renderer: Renderer,
) -> tuple[list[Rendered], list[str]]:
    """The renderings of all examples that fit into `renderer.max_length`, and the ids of those that do not.

    None is ever cut: what would be lost is the end, which is what an example is about.
    """
    fitting, overflows = [], []
    for example in examples:
        rendered = render_example(example, trajectories, prompt, renderer)
        if fits(rendered, renderer):
            fitting.append(rendered)
        else:
            overflows.append(example.id)
    return fitting, overflows


def render_pairs(
    pairs: Iterable[PreferencePair], trajectories: TrajectorySet, prompt: str, renderer: Renderer
) -> tuple[list[RenderedPair], list[str]]:
    """The renderings of all pairs of which both ways fit, and the ids of those that do not; as with `render_all`."""
    fitting, overflows = [], []
    for pair in pairs:
        ways = [
            render_example(way, trajectories, prompt, renderer)
            for way in (pair.chosen, pair.rejected)
        ]
        if all(fits(way, renderer) for way in ways):
            fitting.append(RenderedPair(*ways))
        else:
            overflows.append(pair.id)
    return fitting, overflows


def fits(rendered: Rendered, renderer: Renderer) -> bool:
    """Whether a rendering is trained on: no longer than `renderer.max_length`."""
    return renderer.max_length is None or len(rendered.ids) <= renderer.max_length
