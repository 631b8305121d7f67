"""ChatTemplate: a tokenizer's chat template as a fixed function that extends its own output.

A conversation's text is cut into parts – prompt, completion, between, completion, between, … – such
that the parts of a conversation begin with those of every earlier prompt in it.

Templates differ in three ways that would prevent this:

- Some rewrite earlier assistant messages: they drop thought blocks, or the empty block that they
  put before an answer without thoughts. The text of the earlier prompt and of the completion is
  then kept as the model acted on it, and the template supplies only the text that follows.
- Some refuse a system message, drop it, or move it to the last user message. It is then put before
  the first user message.
- Some print the current date. They get one fixed date.

With tools, messages hold calls as in `eef.tools`. The template renders them in the form of its
family; the text of such a completion is what the template puts into a turn for its text and calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date as Date
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from eef.call_forms import TRIAL, TRIAL_CALL, CallForm, find_form
from eef.errors import ModelError
from eef.policy import Conversation
from eef.tools import Toolset, Turn, read_turn, write_turn
from eef.utils.text import replace_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Messages = tuple[tuple[str, str], ...]
"""(role, content) of each message; hashable."""

RESERVED_VARIABLES = frozenset(
    {
        "add_generation_prompt",
        "add_special_tokens",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "strftime_now",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""Variables that a recipe may not set: `eef` or transformers sets them."""

_CACHED_TEXTS = 16_384
_TAGS_OR_SPACE = re.compile(r"\s|</?think(?:ing)?>|\[/?THINK\]|◁/?think▷")
_HARMONY = "<|channel|>"
_ONLY_THOUGHT_TAGS = re.compile(f"(?:{_TAGS_OR_SPACE.pattern})*")


_DIRECTIVES = ("-d", "-m", "-H", "-I", "-M", *"aAbBcdDeFHIjmMpRSTuUwWxXyYzZ")
_OPEN_THOUGHT = re.compile(r"<think>\s*\Z")
_CLOSED_THOUGHT = "</think>"
THINK = "<think>\n"
"""The start of an open thought block."""


class ChatTemplate:
    """The chat template of a tokenizer, with its variables and its date.

    `variables` are passed to the template. `date` is the date that it reads from the clock, by
    default today's when the object is created; the attribute is None if it does not read the clock.
    `folds_system` is True if a system message is put before the first user message. `tools` are
    those that the agent calls, None if it writes ReAct; `form` is then the form of its calls, and
    `drops_text` is True if the template drops the text beside a call.

    ModelError if the tokenizer has no chat template, or if the template rewrites earlier user
    messages or the text of a plain assistant message; with tools, if it does not show the tools and
    the results of calls, or writes calls in an unknown form.
    """

    form: CallForm | None = None
    drops_text: bool = False

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        variables: Mapping[str, Any] | None = None,
        date: Date | None = None,
        tools: Toolset | None = None,
    ) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template",
                hint="use the instruct version of the model, or set the `chat_template` of its "
                "tokenizer",
            )
        self._tokenizer = tokenizer
        self.tools = tools
        template = _template_of(tokenizer, tools)
        self.variables = dict(variables or {})
        self.date = (date or Date.today()) if "strftime_now" in template else None
        self._template = template if self.date is None else _clock_macro(self.date) + template
        self._options = {**self.variables, "chat_template": self._template}
        self._native: Callable[[str, int], str] = lru_cache(_CACHED_TEXTS)(self._write_native)
        self._parts: Callable[[Messages], tuple[str, ...]] = lru_cache(_CACHED_TEXTS)(self._split)
        try:
            self.parts((("user", "a"), ("assistant", "b"), ("user", "c")))
        except ModelError:
            if _HARMONY in template:
                raise self._is_harmony() from None
            raise
        self.folds_system = not self._keeps_system()
        if tools is not None:
            if _HARMONY in template:
                raise self._is_harmony()
            self._support_tools(tools)

    def messages(self, conversation: Conversation) -> Messages:
        """The messages of a conversation as the template gets them."""
        messages = tuple(
            (message["role"], replace_surrogates(message["content"])) for message in conversation
        )
        if not messages or messages[0][0] != "system" or not self.folds_system:
            return messages
        (_, system), *rest = messages
        if not rest or rest[0][0] != "user":
            return (("user", system), *rest)
        return (("user", f"{system}\n\n{rest[0][1]}"), *rest[1:])

    def parts(self, messages: Messages) -> tuple[str, ...]:
        """The parts of a prompt, with the generation prompt at the end.

        They are the template's own text, unless it rewrites earlier assistant messages.
        """
        return self._parts(messages)

    def whole_text(self, messages: Messages, *, with_variables: bool = True) -> str | None:
        """The text that a trainer gets: all messages at once, without a generation prompt.

        The date is the fixed one. None if the template refuses the messages.
        """
        options = self._options
        if not with_variables:
            options = {key: options[key] for key in options if key not in self.variables}
        try:
            return self._text(messages, generation_prompt=False, options=options)
        except ModelError:
            return None

    def native(self, completion: str, calls_before: int = 0) -> str:
        """A completion as its model writes it; `calls_before` are the calls of earlier turns."""
        return self._native(completion, calls_before) if read_turn(completion).calls else completion

    def read_native(self, text: str) -> str:
        """The completion that a model's text stands for; the opposite of `native`."""
        assert self.form is not None, "the agent calls no tools"
        assert self.tools is not None, "the agent calls no tools"
        turn = self.form.read(text, self.tools)
        return write_turn(*turn) if turn.calls else text

    def error(self, problem: str) -> ModelError:
        """The error for a template that cannot be used."""
        return ModelError(
            f"the chat template of {self._tokenizer.name_or_path!r} {problem}",
            hint="each prompt must be a prefix of the training text: set `chat.template_variables` "
            "if the template has a mode for that, or change the `chat_template` of its tokenizer",
        )

    def _keeps_system(self) -> bool:
        """Whether the template renders a system message in the first prompt, and leaves it
        there."""
        probe = "system0"
        talk = [("system", probe), ("user", "a"), ("assistant", "b"), ("user", "c")]
        talk += [("assistant", "d"), ("user", "e")]
        try:
            return probe in self.parts(tuple(talk))[0]
        except ModelError:
            return False

    def _split(self, messages: Messages) -> tuple[str, ...]:
        last = max(
            (index for index, (role, _) in enumerate(messages) if role == "assistant"), default=None
        )
        if last is None:
            return (self._text(messages),)
        earlier = self._parts(messages[:last])
        before = "".join(earlier)
        if self.form is not None:
            native = self.native(messages[last][1], _count_calls(messages[:last]))
            completion = continue_thought(before, native)
            return (*earlier, completion, self._text_after_turn(messages, last))
        completion = continue_thought(before, messages[last][1])
        whole = self._split_whole(messages, before, completion)
        return (*earlier, *(whole or (completion, self._text_after(messages, last))))

    def _split_whole(
        self, messages: Messages, earlier: str, content: str
    ) -> tuple[str, str] | None:
        """The last completion and the text after it; None if the template rewrites either.

        A template may strip the completion, or put white space before it.
        """
        text = self._text(messages)
        if not text.startswith(earlier):
            return None
        start = len(earlier)
        if text.startswith(content, start):
            end = start + len(content)
            return text[start:end], text[end:]
        begin, content = start + len(text[start:]) - len(text[start:].lstrip()), content.strip()
        if not text.startswith(content, begin):
            return None
        end = begin + len(content)
        return text[start:end], text[end:]

    def _text_after(self, messages: Messages, last: int) -> str:
        """The text after the last completion, as it follows a plain one.

        All completions are replaced by plain ones. ModelError if the template then rewrites more
        than thought tags.
        """
        plain = _placeholder(*(content for _, content in messages))
        replaced = tuple(
            (role, plain if role == "assistant" else content) for role, content in messages
        )
        before, found, after = self._text(replaced).rpartition(plain)
        prompt = self._text(replaced[:last])
        common = _common_length(before, prompt)
        if not found:
            raise self.error("changes the text of an assistant message")
        if not _ONLY_THOUGHT_TAGS.fullmatch(prompt[common:]):
            raise self.error("rewrites earlier messages when a conversation continues")
        if not _ONLY_THOUGHT_TAGS.fullmatch(before[common:]):
            raise self.error("changes the text of an assistant message")
        return after

    def _is_harmony(self) -> ModelError:
        return ModelError(
            f"the chat template of {self._tokenizer.name_or_path!r} has the harmony form of "
            "gpt-oss, whose turns have several channels; such a model cannot be the student",
            hint="take another student; behind a server, the model can be an expert "
            "(`openai/<model>`)",
        )

    def _support_tools(self, tools: Toolset) -> None:
        """Find how the template shows tools, and the form of its calls."""
        refused = ModelError(
            f"the chat template of {self._tokenizer.name_or_path!r} has no support for tools",
            hint='set `chat.format = "react"`, or take a model whose chat template renders `tools`',
        )
        trial = write_turn("", [TRIAL_CALL])
        talk = (("user", "a"), ("assistant", trial), ("tool", "result0"))
        for names in (("tools",), ("tools", "xml_tools")):  # SmolLM3 reads the latter
            options = {**self._options, **dict.fromkeys(names, TRIAL.records())}
            try:
                shown = self._text(talk, options=options)
                alone = self._text(talk[:2], options=options, generation_prompt=False)
            except ModelError:
                raise refused from None
            if TRIAL.tools[0].description in shown and "result0" in shown:
                break
        else:
            raise refused
        form = find_form(alone[self._end_of_prompt(talk[:1], alone, options) : self._end(alone)])
        if form is None:
            raise ModelError(
                f"the chat template of {self._tokenizer.name_or_path!r} writes tool calls in a "
                "form that cannot be read",
                hint='set `chat.format = "react"`',
            )
        self._options |= dict.fromkeys(names, tools.records())
        self._parts.cache_clear()  # type: ignore[attr-defined]
        self.form = form
        self.drops_text = "text0" not in self.native(write_turn("text0", [TRIAL_CALL]))

    def _write_native(self, completion: str, calls_before: int) -> str:
        """The text that the template puts into a turn of its own, without its end.

        The text beside the calls is inserted as it is: templates may strip it.
        """
        turn = read_turn(completion)
        shown = _placeholder(completion) if turn.text else ""
        talk = (("user", "a"), ("assistant", write_turn(shown, turn.calls)))
        text = self._text(talk, generation_prompt=False, calls_before=calls_before)
        native = text[self._end_of_prompt(talk[:1], text) : self._end(text)]
        tags = _ONLY_THOUGHT_TAGS.match(native)
        if tags and tags[0].strip():
            native = native[tags.end() :]
        return native.replace(shown, turn.text, 1) if shown else native

    def _end_of_prompt(
        self, messages: Messages, text: str, options: Mapping[str, Any] | None = None
    ) -> int:
        """The index in a text after its prompt, up to thought tags that only one of them has."""
        prompt = self._text(messages, options=options)
        common = _common_length(prompt, text)
        tag = prompt.rfind("<", 0, common)
        if ">" not in prompt[tag:common]:  # inside a tag, as in `<think>` and `<tool_call>`
            common = max(tag, 0)
        if not _ONLY_THOUGHT_TAGS.fullmatch(prompt[common:]):
            raise self.error("rewrites earlier messages when a conversation continues")
        return common

    def _end(self, text: str) -> int:
        """The index of the last special token of a conversation that ends with a completion."""
        names = {
            str(each) for each in self._tokenizer.added_tokens_decoder.values() if each.special
        }
        names |= set(self._tokenizer.all_special_tokens)
        end = max((text.rfind(name) for name in names), default=-1)
        if end < 0:
            raise self.error("does not end an assistant message with a special token")
        return end

    def _text_after_turn(self, messages: Messages, last: int) -> str:
        """The text after the last completion, for an agent that calls tools.

        As `_text_after`, with placeholders for the texts of completions, and their calls unchanged.
        """
        plain = _placeholder(*(content for _, content in messages))
        replaced = tuple(
            (role, _with_text(content, plain) if role == "assistant" else content)
            for role, content in messages
        )
        text = self._text(replaced)
        if not _bare(text).startswith(_bare(self._text(replaced[:last]))):
            raise self.error("rewrites earlier messages when a conversation continues")
        calls_before = _count_calls(messages[:last])
        if calls_before:  # the template may add or drop thought tags of earlier turns
            replaced, last = (("user", "a"), *replaced[last:]), 1
            text = self._text(replaced, calls_before=calls_before)
        common = self._end_of_prompt(replaced[:last], text)
        native = self.native(replaced[last][1], calls_before)
        start = text.find(native, common)
        if start < 0 or not _ONLY_THOUGHT_TAGS.fullmatch(text[common:start]):
            raise self.error("changes the text of an assistant message")
        return text[start + len(native) :]

    def _text(
        self,
        messages: Messages,
        *,
        generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
        calls_before: int = 0,
    ) -> str:
        options = self._options if options is None else options
        conversation = (
            structured(messages, calls_before)
            if "tools" in options
            else [{"role": role, "content": content} for role, content in messages]
        )
        render = partial(self._tokenizer.apply_chat_template, conversation, **options)
        try:
            return str(render(tokenize=False, add_generation_prompt=generation_prompt))
        except Exception as error:  # a template is a program that can raise anything
            raise self.error(f"refuses a conversation: {error}") from error


def structured(messages: Iterable[tuple[str, str]], calls_before: int = 0) -> list[dict[str, Any]]:
    """Messages (role, content) with calls as chat APIs and chat templates take them.

    Calls are numbered from `calls_before`; a result has the number of its call. A result after a
    turn without calls is a user message.
    """
    talk: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # (id, name) of calls without a result
    count = calls_before
    for role, content in messages:
        turn = read_turn(content) if role == "assistant" else Turn(content, ())
        if role == "assistant":
            waiting = [
                (f"call{count + number:05}", call.name) for number, call in enumerate(turn.calls)
            ]
            count += len(waiting)
        if turn.calls:
            calls = [
                {
                    "id": id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for (id, _), call in zip(waiting, turn.calls, strict=True)
            ]
            talk.append({"role": role, "content": turn.text, "tool_calls": calls})
        elif role == "tool" and waiting:
            id, name = waiting.pop(0)
            talk.append({"role": role, "tool_call_id": id, "name": name, "content": content})
        else:
            talk.append({"role": "user" if role == "tool" else role, "content": content})
    return talk


def as_text_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Structured messages whose calls have their arguments as JSON text, as chat APIs take them."""
    talk = []
    for message in messages:
        if "tool_calls" in message:
            calls = [
                {
                    **call,
                    "function": {
                        **call["function"],
                        "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                    },
                }
                for call in message["tool_calls"]
            ]
            message = {**message, "content": message["content"] or None, "tool_calls": calls}
        talk.append(message)
    return talk


def _count_calls(messages: Messages) -> int:
    return sum(len(read_turn(content).calls) for role, content in messages if role == "assistant")


def _with_text(completion: str, text: str) -> str:
    """A completion with another text; one that has only calls has none."""
    turn = read_turn(completion)
    return write_turn(text if turn.text or not turn.calls else "", turn.calls)


def _placeholder(*texts: str) -> str:
    """A word that is in none of the texts."""
    plain = "completion"
    while any(plain in text for text in texts):
        plain += "0"
    return plain


def _bare(text: str) -> str:
    """A text without thought tags and white space."""
    return _TAGS_OR_SPACE.sub("", text)


def _common_length(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _template_of(tokenizer: PreTrainedTokenizerFast, tools: Toolset | None) -> str:
    """The template of a tokenizer. Some have one of its own for tools."""
    template: str = tokenizer.get_chat_template(tools=tools.records() if tools else None)
    return template


def continue_thought(prompt: str, completion: str) -> str:
    """A completion as it follows a prompt that ends in an open thought block, if it does.

    A second start tag is dropped; a completion without thoughts first closes the block.

    >>> continue_thought("<assistant><think>\\n", "<think>\\nI go.\\n</think>\\n\\nAction: go")
    'I go.\\n</think>\\n\\nAction: go'
    >>> continue_thought("<assistant><think>\\n", "Action: go")
    '\\n</think>\\n\\nAction: go'
    >>> continue_thought("<assistant>", "<think>\\nI go.\\n</think>\\n\\nAction: go")
    '<think>\\nI go.\\n</think>\\n\\nAction: go'
    """
    if not opens_thought(prompt):
        return completion
    if completion.lstrip().startswith("<think>"):
        return completion.lstrip().removeprefix("<think>").lstrip("\n")
    return completion if closes_thought(completion) else f"\n</think>\n\n{completion}"


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends in an open thought block."""
    return _OPEN_THOUGHT.search(prompt) is not None


def closes_thought(completion: str) -> bool:
    """Whether a completion ends a thought block."""
    return _CLOSED_THOUGHT in completion


def _clock_macro(date: Date) -> str:
    """A macro that replaces the clock of a template (`strftime_now`) by noon of a date.

    transformers passes data alone to templates, so the clock cannot be passed as a function.
    """
    noon = datetime(date.year, date.month, date.day, 12)
    filters = "".join(
        f" | replace({json.dumps('%' + each)}, {json.dumps(noon.strftime('%' + each))})"
        for each in _DIRECTIVES
    )
    # the line end belongs to the last tag and is not rendered
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{filters} }}}}{{%- endmacro %}}\n"
