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
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import date as Date
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from eef.errors import ModelError
from eef.policy import Conversation
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
_ONLY_THOUGHT_TAGS = re.compile(r"(?:\s|</?think(?:ing)?>|\[/?THINK\]|◁/?think▷)*")


_DIRECTIVES = ("-d", "-m", "-H", "-I", "-M", *"aAbBcdDeFHIjmMpRSTuUwWxXyYzZ")
_OPEN_THOUGHT = re.compile(r"<think>\s*\Z")
_CLOSED_THOUGHT = "</think>"


class ChatTemplate:
    """The chat template of a tokenizer, with its variables and its date.

    `variables` are passed to the template. `date` is the date that it reads from the clock, by
    default today's when the object is created; the attribute is None if it does not read the clock.
    `folds_system` is True if a system message is put before the first user message.

    ModelError if the tokenizer has no chat template, or if the template rewrites earlier user
    messages or the text of a plain assistant message.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        variables: Mapping[str, Any] | None = None,
        date: Date | None = None,
    ) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template",
                hint="use the instruct version of the model, or set the `chat_template` of its "
                "tokenizer",
            )
        self._tokenizer = tokenizer
        template = tokenizer.get_chat_template()
        self.variables = dict(variables or {})
        self.date = (date or Date.today()) if "strftime_now" in template else None
        self._template = template if self.date is None else _clock_macro(self.date) + template
        self._options = {**self.variables, "chat_template": self._template}
        self._parts: Callable[[Messages], tuple[str, ...]] = lru_cache(_CACHED_TEXTS)(self._split)
        self.parts((("user", "a"), ("assistant", "b"), ("user", "c")))
        self.folds_system = not self._keeps_system()

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
        options = self._options if with_variables else {"chat_template": self._template}
        try:
            return self._text(messages, generation_prompt=False, options=options)
        except ModelError:
            return None

    def error(self, problem: str) -> ModelError:
        """The error for a template that cannot be used."""
        return ModelError(
            f"the chat template of {self._tokenizer.name_or_path!r} {problem}",
            hint="set `chat.template_variables` if the template has a mode without this, or the "
            "`chat_template` of its tokenizer: each prompt must be a prefix of the training text",
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
        completion = _continue_thought(before, messages[last][1])
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
        plain = "completion"
        while any(plain in content for _, content in messages):
            plain += "0"
        replaced = tuple(
            (role, plain if role == "assistant" else content) for role, content in messages
        )
        before, found, after = self._text(replaced).rpartition(plain)
        prompt = self._text(replaced[:last])
        pairs = enumerate(zip(before, prompt, strict=False))
        common = next((at for at, (one, other) in pairs if one != other), len(prompt))
        if not found:
            raise self.error("changes the text of an assistant message")
        if not _ONLY_THOUGHT_TAGS.fullmatch(prompt[common:]):
            raise self.error("rewrites earlier messages when a conversation continues")
        if not _ONLY_THOUGHT_TAGS.fullmatch(before[common:]):
            raise self.error("changes the text of an assistant message")
        return after

    def _text(
        self,
        messages: Messages,
        *,
        generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        conversation = [{"role": role, "content": content} for role, content in messages]
        options = self._options if options is None else options
        render = partial(self._tokenizer.apply_chat_template, conversation, **options)
        try:
            return str(render(tokenize=False, add_generation_prompt=generation_prompt))
        except Exception as error:  # a template is a program that can raise anything
            raise self.error(f"refuses a conversation: {error}") from error


def _continue_thought(prompt: str, completion: str) -> str:
    """A completion as it follows a prompt that ends in an open thought block, if it does.

    A second start tag is dropped; a completion without thoughts first closes the block.

    >>> _continue_thought("<assistant><think>\\n", "<think>\\nI go.\\n</think>\\n\\nAction: go")
    'I go.\\n</think>\\n\\nAction: go'
    >>> _continue_thought("<assistant><think>\\n", "Action: go")
    '\\n</think>\\n\\nAction: go'
    >>> _continue_thought("<assistant>", "<think>\\nI go.\\n</think>\\n\\nAction: go")
    '<think>\\nI go.\\n</think>\\n\\nAction: go'
    """
    if not _OPEN_THOUGHT.search(prompt):
        return completion
    if completion.lstrip().startswith("<think>"):
        return completion.lstrip().removeprefix("<think>").lstrip("\n")
    return completion if _CLOSED_THOUGHT in completion else f"\n</think>\n\n{completion}"


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
