"""Renderer: conversation → token ids with a loss weight each.

No other module turns conversations into ids. `ChatTemplate` cuts a conversation's text into parts
– prompt, completion, between, completion, between, … – and each part is tokenized separately.
Therefore the prompt that a policy acted on is always a prefix of the ids it is trained on: the
tokenizer cannot merge text across parts. A completion whose text does not give the ids it was
sampled as (`SampledText`) keeps those ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date as Date
from functools import cached_property, lru_cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, field_validator

from eef.call_forms import TRIAL_CALL
from eef.chat import Thoughts
from eef.chat_template import (
    RESERVED_VARIABLES,
    THINK,
    ChatTemplate,
    Messages,
    closes_thought,
    continue_thought,
    opens_thought,
)
from eef.config import Settings
from eef.errors import ModelError
from eef.policy import Conversation, SampledText
from eef.react import find_action
from eef.thoughts import drop_thoughts
from eef.tools import Toolset, read_turn, write_turn
from eef.trajectory import SampledTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LossOn = Literal["completion", "action"]

_CACHED_TEXTS = 16_384
_LAST = 16  # ids of a prompt that show whether it opens a thought block
_NEXT = "."  # any observation: it makes the template end the turn before it


class ChatSettings(Settings):
    """The format of the agent's turns, and how conversations become token ids and loss weights."""

    format: Literal["react", "tools"] = "react"
    """How the agent acts: `react` writes `Thought: …` and `Action: …`, `tools` calls the tools that
    the environment declares, in the form that the model's chat template and its server use.
    Trajectories in either format can be trained on and replayed in both."""

    loss_on: LossOn = "completion"
    """Train on the whole `completion` (thought and action), or only on the `action`."""

    thoughts: Thoughts = "kept"
    """Whether thought blocks (`<think>…</think>`) stay in the conversations that the model acts on
    and is trained on, or are dropped from both. Trajectories keep them. Kept blocks stay in
    earlier turns even if the chat template would drop them."""

    max_length: int | None = Field(default=None, ge=1)
    """Maximum number of tokens of a training example; by default the model's context length. Longer
    examples are dropped and counted, never cut."""

    template_variables: dict[str, JsonValue] = Field(default={})
    """Variables of the chat template, for example `{ enable_thinking = false }`. Acting, training
    and exports use the same."""

    @field_validator("template_variables")
    @classmethod
    def _check_names(cls, variables: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in RESERVED_VARIABLES.intersection(variables):
            raise ValueError(f"`{name}` is not a variable that a recipe can set")
        return variables


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids and their loss weights. `weights[i]` applies to the prediction of `ids[i]`.

    A token of weight 0 is visible and never trained. The weights of acts are advantages, which may
    be negative. `turn_ends` are the indices after the end of each assistant turn, () if unknown.

    Worked example (one token per word; the first completion is context, the second is trained):

        text     <user>  page  <assistant>  buy  <end>  <user>  page  <assistant>  search  <end>
        weights       0     0            0    0      0       0     0            0       1      1
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    turn_ends: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.weights):
            raise ModelError(f"{len(self.ids)} token ids, but {len(self.weights)} weights")

    @property
    def width(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    @property
    def trained(self) -> int:
        """Number of tokens with a weight other than 0."""
        return sum(weight != 0 for weight in self.weights)


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """Both responses of a preference pair as ids and weights."""

    chosen: Rendered
    rejected: Rendered

    @property
    def width(self) -> int:
        """Number of tokens of the longer response."""
        return max(self.chosen.width, self.rejected.width)


class Renderer:
    """Conversations → ids, by a tokenizer's chat template.

    With `loss_on="action"`, a completion's weight applies only to its action (`react.find_action`)
    and to the end of the turn. `thoughts` is how `render_example` builds conversations.
    `max_length` is the longest rendering that `render_all` accepts. `stop_ids` are the ids that end
    a turn. `template_variables`, `date` and `tools` belong to the template (see `ChatTemplate`).
    With tools, the action of a completion is its calls.

    ModelError if the tokenizer has no chat template, or if the template cannot be used (see
    `ChatTemplate`) or does not end a turn with a special token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        loss_on: LossOn = "completion",
        thoughts: Thoughts = "kept",
        max_length: int | None = None,
        template_variables: Mapping[str, Any] | None = None,
        date: Date | None = None,
        tools: Toolset | None = None,
    ) -> None:
        self.template = ChatTemplate(
            tokenizer, variables=template_variables, date=date, tools=tools
        )
        self.tools = tools
        self.tokenizer = tokenizer
        self.loss_on = loss_on
        self.thoughts: Thoughts = thoughts
        self.max_length = max_length
        self._encode: Callable[[str, bool], tuple[int, ...]] = lru_cache(_CACHED_TEXTS)(
            self._tokenize
        )
        self.stop_ids = self._find_stop_ids()

    def prompt(self, conversation: Conversation) -> list[int]:
        """Ids of a conversation that ends in a user message, up to the start of the completion."""
        first, *rest = self.template.parts(self.template.messages(conversation))
        ids = list(self._encode(first, True))
        for sampled, completion, between in zip(
            self._sampled(conversation), rest[::2], rest[1::2], strict=True
        ):
            ids += self._completion_ids(completion, sampled)
            ids += self._encode(between, False)
        return ids

    def read_sampled(
        self, ids: Sequence[int], prompt: Sequence[int] = ()
    ) -> tuple[str, SampledTokens | None]:
        """The text of a completion's sampled ids, and the ids themselves if it does not give them.

        `ids` exclude the one that ended the turn. Special tokens have no text. If the prompt opens
        a thought block and the completion does not close it, the text is an open block: it has no
        action and no call.
        """
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        native = text
        opened = opens_thought(self.tokenizer.decode(prompt[-_LAST:])) if prompt else False
        if opened and not closes_thought(self.tokenizer.decode(ids)):
            text = f"{THINK}{text}"
            native = continue_thought(THINK, text)
        elif self.tools is not None:  # some families mark calls by special tokens
            completion = self.template.read_native(
                self.tokenizer.decode(ids, skip_special_tokens=False)
            )
            if read_turn(completion).calls:
                text, native = completion, self.template.native(completion)
        if self._encode(native, False) == tuple(ids):
            return text, None
        return text, SampledTokens(tuple(ids), self.vocabulary)

    @cached_property
    def vocabulary(self) -> str:
        """A digest of which token each id is."""
        tokens = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]

    def render(
        self, conversation: Conversation, weights: Sequence[float], cut: Collection[int] = ()
    ) -> Rendered:
        """Ids up to the end of the last assistant message, with `weights[i]` on the i-th one.

        The token that ends a turn is trained with its message, unless its number i is in `cut`: the
        policy did not end that turn. User messages after the last assistant message are dropped.

        ModelError unless there is one weight for each assistant message.
        """
        messages = self._up_to_last_completion(conversation)
        count = sum(role == "assistant" for role, _ in messages)
        if count != len(weights):
            raise ModelError(f"{len(weights)} weights for {count} assistant messages")
        first, *rest = self.template.parts(_with_next(messages))
        ids = list(self._encode(first, True))
        values, ends = [0.0] * len(ids), []
        turns = zip(self._sampled(conversation), rest[::2], rest[1::2], weights, strict=True)
        for number, (sampled, completion, between, weight) in enumerate(turns):
            end_weight = 0.0 if number in cut else weight
            self._add_turn(ids, values, completion, sampled, between, weight, end_weight)
            ends.append(len(ids) - self._tokens_after_turn(between))
        length = ends[-1] if ends else 0
        return Rendered(tuple(ids[:length]), tuple(values[:length]), tuple(ends))

    def spans(
        self, conversation: Conversation, weights: Sequence[float], cut: Collection[int] = ()
    ) -> list[tuple[str, float]]:
        """The text of a rendering as spans of equal weight, for other trainers.

        Takes the arguments of `render`, which gives the ids of the same text.

        Worked example: the prompt "<user>page<agent>" and one trained completion "buy" give
        [("<user>page<agent>", 0), ("buy<end>", w)].
        """
        first, *rest = self.template.parts(_with_next(self._up_to_last_completion(conversation)))
        spans = [(first, 0.0)]
        for number, weight in enumerate(weights):
            completion, between = rest[2 * number : 2 * number + 2]
            start, stop = self._trained_text(completion)
            end = self.turn_end(between)
            spans += [(completion[:start], 0.0), (completion[start:stop], weight)]
            spans += [(completion[stop:], 0.0), (between[:end], 0.0 if number in cut else weight)]
            spans += [(between[end:], 0.0)] if number + 1 < len(weights) else []
        joined = groupby((span for span in spans if span[0]), key=lambda span: span[1])
        return [("".join(text for text, _ in group), weight) for weight, group in joined]

    def check(self, prompt: str) -> None:
        """Render a trial conversation of several turns, with thoughts and an environment's prompt.

        ModelError if a turn's prompt is not a prefix of the text that is trained on.
        """
        completions = [
            "Thought: on.\nAction: right",
            "<think>\nwhere?\n</think>\n\nThought: on.\nAction: right",
            "Action: left",
        ]
        if self.tools is not None:
            completions = [write_turn(text, [TRIAL_CALL]) for text in ("On.", "")]
            completions += [write_turn("<think>\nwhere?\n</think>\n\nOn.", [TRIAL_CALL]), "Done."]
        conversation: Conversation = [{"role": "system", "content": prompt}] if prompt else []
        prompts = []
        for number, completion in enumerate(completions):
            role = _role_after(conversation[-1]["content"]) if number else "user"
            conversation.append({"role": role, "content": f"page {number}"})
            prompts.append(self.prompt(conversation))
            conversation.append({"role": "assistant", "content": completion})
        ids = list(self.render(conversation, [1.0] * len(completions)).ids)
        if any(ids[: len(each)] != each for each in prompts):
            raise self.template.error("rewrites earlier messages when a conversation continues")

    def turn_end(self, between: str) -> int:
        """The index after the end of the turn in the text that follows a completion."""
        names = self.tokenizer.convert_ids_to_tokens(sorted(self.stop_ids))
        ends = [between.find(name) + len(name) for name in names if name in between]
        if not ends:
            raise self.template.error("does not end every assistant message in the same way")
        return min(ends)

    def _sampled(self, conversation: Conversation) -> list[SampledText | None]:
        """Each assistant message, if it has token ids of this renderer's tokenizer."""
        contents = (item["content"] for item in conversation if item["role"] == "assistant")
        return [
            content
            if isinstance(content, SampledText) and content.tokens.vocabulary == self.vocabulary
            else None
            for content in contents
        ]

    def _completion_ids(self, completion: str, sampled: SampledText | None) -> tuple[int, ...]:
        """The sampled ids of a completion, or those of its text.

        Its text is used if the chat template has changed it, or if special tokens were sampled: the
        text has none, and training would teach them.
        """
        if sampled is None:
            return self._encode(completion, False)
        text = str(sampled)
        opened = continue_thought(THINK, text) if text.startswith(THINK) else text
        changed, forbidden = completion not in (text, opened), self._without_text
        if self.tools is not None:  # the text has calls in the neutral form, not in the model's
            changed, forbidden = False, self.stop_ids
        if changed or forbidden & set(sampled.tokens.ids):
            return self._encode(completion, False)
        return sampled.tokens.ids

    def _add_turn(
        self,
        ids: list[int],
        values: list[float],
        completion: str,
        sampled: SampledText | None,
        between: str,
        weight: float,
        end_weight: float,
    ) -> None:
        """Append a completion and the text between it and the next one."""
        between_ids = self._encode(between, False)
        completion_ids = self._completion_ids(completion, sampled)
        start, stop = self._trained_tokens(completion, completion_ids)
        after = self._tokens_after_turn(between)
        ids += completion_ids + between_ids
        values += [0.0] * start + [weight] * (stop - start) + [0.0] * (len(completion_ids) - stop)
        values += [end_weight] * (len(between_ids) - after) + [0.0] * after

    def _tokens_after_turn(self, between: str) -> int:
        """Number of tokens of `between` that follow the end of the turn."""
        ids = self._encode(between, False)
        end = next((index for index, token in enumerate(ids) if token in self.stop_ids), None)
        if end is None:
            raise self.template.error("does not end every assistant message in the same way")
        return len(ids) - end - 1

    def _trained_text(self, completion: str) -> tuple[int, int]:
        """The (start, end) of the text of a completion that carries its weight.

        Empty if only actions are trained and it has none. White space after the action is trained.
        """
        if self.loss_on == "completion":
            return 0, len(completion)
        if self.tools is not None:
            return self._called_text(completion)
        span = find_action(completion)
        if span is None:
            return len(completion), len(completion)
        return span.start, span.end if completion[span.end :].strip() else len(completion)

    def _called_text(self, completion: str) -> tuple[int, int]:
        """The (start, end) of the calls, or of the text if a turn without calls is an action."""
        assert self.tools is not None, "only agents with tools call them"
        assert self.template.form is not None, "set with the tools"
        span = self.template.form.span(completion, self.tools)
        if span is None and self.tools.text_action and completion.strip():
            text = drop_thoughts(completion)
            return len(completion) - len(text), len(completion)
        if span is None:
            return len(completion), len(completion)
        return span[0], span[1] if completion[span[1] :].strip() else len(completion)

    def _trained_tokens(self, completion: str, ids: tuple[int, ...]) -> tuple[int, int]:
        """The (start, end) of the trained ones among the token ids of a completion.

        A token is trained if any of its characters is.
        """
        if ids != self._encode(completion, False):  # the text that was sampled may differ
            completion = self.tokenizer.decode(ids)
        start, stop = self._trained_text(completion)
        if (start, stop) == (0, len(completion)):
            return 0, len(ids)
        places = self._places(completion, ids)
        return sum(end <= start for _, end in places), sum(begin < stop for begin, _ in places)

    def _places(self, completion: str, ids: tuple[int, ...]) -> list[tuple[int, int]]:
        """The (start, end) in the text of each token of a completion."""
        if ids != self._encode(completion, False):  # sampled ids: place them by their own text
            ends = [len(self.tokenizer.decode(ids[:end])) for end in range(len(ids) + 1)]
            return list(pairwise(ends))
        anchor = self.tokenizer.eos_token
        encoded = self.tokenizer(
            anchor + completion, add_special_tokens=False, return_offsets_mapping=True
        )
        return [
            (begin - len(anchor), end - len(anchor)) for begin, end in encoded["offset_mapping"][1:]
        ]

    def _tokenize(self, part: str, first: bool) -> tuple[int, ...]:
        """Ids of a part.

        All parts but the first are tokenized after a special token, which is then removed: some
        tokenizers put a space at the start of a text.
        """
        anchor = "" if first else self.tokenizer.eos_token
        ids = self.tokenizer(anchor + part, add_special_tokens=False)["input_ids"]
        return tuple(ids if first else ids[1:])

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset({*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder})

    @cached_property
    def _without_text(self) -> frozenset[int]:
        """The special tokens that decoding skips; others, such as `<think>`, are text."""
        added = self.tokenizer.added_tokens_decoder.items()
        skipped = (number for number, token in added if token.special)
        return frozenset({*self.tokenizer.all_special_ids, *skipped})

    def _find_stop_ids(self) -> frozenset[int]:
        """The end of sequence, and the first special token after a completion, with and without
        calls."""
        found = {self.tokenizer.eos_token_id}
        completions = ["b", *([write_turn("", [TRIAL_CALL])] if self.tools else [])]
        for completion in completions:
            talk = (("user", "a"), ("assistant", completion))
            ids = self._encode(self.template.parts(_with_next(talk))[-1], False)
            end = next((token for token in ids if token in self._special), None)
            if end is None:
                raise self.template.error("does not end an assistant message with a special token")
            found.add(end)
        return frozenset(found)

    def _up_to_last_completion(self, conversation: Conversation) -> Messages:
        messages = self.template.messages(conversation)
        while messages and messages[-1][0] != "assistant":
            messages = messages[:-1]
        return messages


def _role_after(completion: str) -> str:
    """The role of the message after a completion."""
    return "tool" if read_turn(completion).calls else "user"


def _with_next(messages: Messages) -> Messages:
    """Messages, with an observation after the last completion."""
    if not messages:
        return (("user", _NEXT),)
    return (*messages, (_role_after(messages[-1][1]), _NEXT))
