"""Steps → messages: the one conversation builder for acting and training.

A conversation is `[system?] user assistant user assistant …`. Each user message is an observation,
each assistant message a completion (`eef.react`, or `eef.tools` with calls). A method's prompt
suffix is appended to the environment's prompt in the system message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from eef.note import Advice, Shown
from eef.policy import Conversation, SampledText
from eef.react import drop_labels, find_action, format_completion, parse_completion
from eef.thoughts import drop_thoughts, thought_blocks
from eef.tools import (
    Toolset,
    format_error_in,
    read_turn,
    split_action,
    split_results,
    write_turn,
)
from eef.trajectory import Step
from eef.utils.text import replace_surrogates

Thoughts = Literal["kept", "dropped"]
"""Whether the conversations that a model acts on and is trained on hold thought blocks."""


def build_conversation(
    prompt: str,
    steps: Sequence[Step],
    observation: str | None = None,
    *,
    prompt_suffix: str = "",
    thoughts: Thoughts = "kept",
    tools: Toolset | None = None,
    advice: Shown = "none",
) -> Conversation:
    """The messages of `steps`; with the current `observation`, the prompt for the next completion.

    With `tools`, the agent calls tools: completions that hold an action in ReAct hold calls instead
    (`eef.tools`), and the result of a call is a message of role `tool`. Without, it is the other
    way round.

    With `thoughts="dropped"`, the messages have no thought blocks; the steps keep theirs. A lone
    surrogate becomes U+FFFD, because no tokenizer or server accepts it. A completion with recorded
    token ids is a `SampledText`. `advice` is the advice that is shown after the observations,
    "last" that of the last step.

    >>> build_conversation("You shop.", [], "Page 1", prompt_suffix="Succeed.")[0]
    {'role': 'system', 'content': 'You shop.\\n\\nSucceed.'}
    """
    system = "\n\n".join(part for part in (prompt, prompt_suffix) if part)
    messages: Conversation = [{"role": "system", "content": system}] if system else []
    calls = 0
    for number, step in enumerate(steps, start=1):
        messages += _observed(step.observation, calls)
        if advice == "all" or (advice == "last" and number == len(steps)):
            messages = with_advice(messages, step.advice)
        completion = step.completion if thoughts == "kept" else drop_thoughts(step.completion)
        completion = (
            as_calls(completion, step.action, tools) if tools else as_react(completion, step.action)
        )
        calls = len(read_turn(completion).calls) if tools else 0
        if step.tokens is not None and completion == step.completion:
            completion = SampledText(completion, step.tokens)
        messages.append({"role": "assistant", "content": completion})
    if observation is not None:
        messages += _observed(observation, calls)
    for message in messages:
        if not isinstance(message["content"], SampledText):
            message["content"] = replace_surrogates(message["content"])
    return messages


def with_advice(conversation: Conversation, advice: Sequence[Advice]) -> Conversation:
    """A conversation that ends in an observation, with advice after it.

    >>> observed = [{"role": "user", "content": "Page 1"}]
    >>> with_advice(observed, [Advice(role="reasoner", text="Search first.")])[0]["content"]
    'Page 1\\n\\nAdvice: Search first.'
    """
    if not advice:
        return conversation
    blocks = [conversation[-1]["content"]]
    for number, each in enumerate(advice, start=1):
        if each.candidate:
            blocks.append(f"Proposal {number}:\n{each.candidate}\nCritique {number}: {each.text}")
        else:
            blocks.append(f"Advice: {each.text}")
    return [*conversation[:-1], {**conversation[-1], "content": "\n\n".join(blocks)}]


def _observed(observation: str, calls: int) -> Conversation:
    """The messages of an observation after a turn with some calls."""
    if not calls:
        return [{"role": "user", "content": observation}]
    results = split_results(observation, calls)
    return [{"role": "tool", "content": result} for result in results]


def as_calls(completion: str, action: str, tools: Toolset) -> str:
    """A completion in ReAct as text and calls; any other completion unchanged.

    An action that is not a call of `tools` remains text.

    >>> from eef.tools import tool
    >>> search = Toolset((tool("search", "Find products.", query="string"),))
    >>> print(as_calls("Thought: a mug.\\nAction: search[mug]", "search[mug]", search))
    a mug.
    <tool_call>
    {"name": "search", "arguments": {"query": "mug"}}
    </tool_call>
    """
    if read_turn(completion).calls or not action:
        return completion
    span = find_action(completion)
    if span is None or completion[span.start : span.end] != action:
        return completion
    calls = [tools.call_of(each) for each in split_action(action)]
    if any(call is None for call in calls):
        return completion
    before = completion[: span.label]
    blocks = thought_blocks(before)
    end = blocks[-1][1] if blocks else 0
    text = before[:end] + drop_labels(before[end:]).rstrip()
    text_calls = [call for call in calls if call and call.name == tools.text_action]
    if text_calls:  # the thought is not for the user, unless it is in a block of its own
        words = text_calls[0].arguments["text"]
        return "\n\n".join(part for part in (before[:end].strip(), words) if part)
    return write_turn(text, [call for call in calls if call])


def as_react(completion: str, action: str) -> str:
    """A completion with calls in ReAct; any other completion unchanged.

    >>> from eef.tools import Call
    >>> as_react(write_turn("A mug.", [Call("search", {"query": "mug"})]), "search[mug]")
    'Thought: A mug.\\nAction: search[mug]'
    """
    turn = read_turn(completion)
    end = len(turn.text) - len(drop_thoughts(turn.text))
    words = turn.text[end:].strip()
    if not turn.calls and words and action.endswith(f"[{words}]"):  # words to the user
        if parse_completion(completion)[1] is not None:
            return completion
        return turn.text[:end] + format_completion("", action)
    if not turn.calls or format_error_in(action) is not None:
        return completion
    return turn.text[:end] + format_completion(" ".join(turn.text[end:].split()), action)
