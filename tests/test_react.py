"""The ReAct format, and thought blocks in it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eef.chat_message import with_reasoning
from eef.react import cut_completion, find_action, format_completion, parse_completion
from eef.thoughts import drop_thoughts

words = st.text("abc []", min_size=1).map(str.strip).filter(bool)


# thoughts and actions that hold what the parser looks for; an action is one line, or a call
mentions = st.lists(
    st.sampled_from(
        [
            "my next action: go",
            "Action",
            "the action:",
            "see [2",
            "a list ]",
            "- red",
            "**no**",
            "hm.",
        ]
    ),
    max_size=4,
).map("\n".join)
calls = (
    st.text("abc [](){}:\n.", max_size=12)
    .map(lambda text: f"reply[{text}]")
    .filter(lambda call: _is_one_group(call))
)


def _is_one_group(call):
    depths, depth = [], 0
    for character in call:
        depth += (character == "[") - (character == "]")
        depths.append(depth)
    return depth == 0 and all(each > 0 for each in depths[call.index("[") : -1])


@given(words | st.just("") | mentions, words | calls)
@example("my next action: refund it.", "refund[O-1]")
def test_a_formatted_completion_is_parsed_as_it_was(thought, action):
    completion = format_completion(thought, action)
    assert parse_completion(completion) == (thought.strip(), action)
    assert cut_completion(f"{completion}\nObservation: invented\nAction: other") == completion
    span = find_action(completion)
    assert (completion[span.start : span.end], span.stop) == (action, len(completion))
    reasoned = with_reasoning("Perhaps.\nAction: left\nAction: no", completion)
    assert parse_completion(reasoned)[1] == action
    assert drop_thoughts(reasoned) == completion


@pytest.mark.parametrize(
    ("completion", "action"),
    [
        # thought blocks
        ("<think>\nOn.\n</think>\n\nThought: on.\nAction: right", "right"),
        ("<think>ok</think>Action: click[buy now]", "click[buy now]"),
        ("<think></think>\n\nAction: right", "right"),
        ("<think>\nAction: left\n</think>\nThought: on.\nAction: right", "right"),
        ("Thought: on.\nAction: right\n<think>\nAction: left", "right"),
        ("<think>\nI could go left.\nAction: left", None),
        ("<think>\nAction: left\n</think>\n", None),
        ("I could go left.\nAction: left\n</think>\n\nAction: right", "right"),
        ("I could go left.\nAction: left\n</think>\n\nGood luck!", None),
        ("<think>a <think> b</think>\nAction: c</think>\nAction: right", "right"),
        ("[THINK]Action: left[/THINK]Action: right", "right"),
        ("[think]\nAction: left\n[/think]\nAction: right", "right"),
        ("<thinking>\nAction: left\n</thinking>\nAction: right", "right"),
        ("<reasoning>\nAction: left\n</reasoning>\nAction: right", "right"),
        ('<Thought step="1">\nAction: left\n</Thought>\nAction: right', "right"),
        ("<|begin_of_thought|>\nAction: left\n<|end_of_thought|>\nAction: right", "right"),
        ("<|START_THINKING|>Action: left<|END_THINKING|>\nAction: right", "right"),
        ("◁think▷\nAction: left\n◁/think▷\nAction: right", "right"),
        ("<think>ok</think>\nThought: so. Action: left", "left"),
        ("Action: click[think]", "click[think]"),
        ("Action: reply[use <think> tags]", "reply[use <think> tags]"),
        # text before the action
        ("I will look for a mug first.\nAction: search[red mug]", "search[red mug]"),
        ("It fits.\n\nAction: click[buy now]", "click[buy now]"),
        ("Sure! Here is my turn.\n\nThought: on.\n\nACTION : right", "right"),
        ("Hello! I go right. Action: right", "right"),
        # mentions
        ("Thought: The best next action: walk on, since so.\nAction: right", "right"),
        ("Thought: My next action: refund it.\nAction: refund[O-1]", "refund[O-1]"),
        ("Thought: My next action: refund it. Action: refund[O-1]", "refund[O-1]"),
        ("Thought: My next action: refund it.", None),
        ("I choose an action: left or right", None),
        ("Reaction: none", None),
        # lines that look like an action
        ("Action: left\n\nThought: no.\nAction: right", "right"),
        ("Action: right\nAction:", "right"),
        ("Action: right\nAction:\nObservation: a wall", "right"),
        ("Action: right\nObservation: a wall\nThought: so.\nAction: left", "right"),
        ("Thought: so. Action: right\nObservation: a wall\nAction: left", "right"),
        ("Observation: a wall\nThought: on.\nAction: right", "right"),
        ("Action Input: none", None),
        ("Action 2: right", "right"),
        # marks
        ("**Thought:** on.\n\n**Action:** right", "right"),
        ("**Action**: right", "right"),
        ("**Action: right**", "right"),
        ("*Action:* `right`", "right"),
        ("__Action:__ **right**", "right"),
        ("- Action: right", "right"),
        ("> Action: right", "right"),
        (">**Action:** right", "right"),
        ("1. Thought: on.\n2. Action: right", "right"),
        ("### Action: right", "right"),
        ("```\nThought: on.\nAction: right\n```", "right"),
        ("Action:\n```\nsearch[mug]\n```", "search[mug]"),
        ("Action: ```search[mug]```", "search[mug]"),
        ("Action:\n\nsearch[mug]", "search[mug]"),
        ("Action：right", "right"),
        ("Action: right\r\n", "right"),
        # our own form on one line, as small students write it
        ("Thought: so. Action: left", "left"),
        ("thought: none fits. action: click[next >]", "click[next >]"),
        ("thought: red action: click[red]", "click[red]"),
        ("thought: search action: click[a. action: b]", "click[a. action: b]"),
        ("action: click[red", "click[red"),
        # several lines
        (
            "Thought: x\nAction: reply[Dear customer,\nyour refund is here.]",
            "reply[Dear customer,\nyour refund is here.]",
        ),
        (
            "Action: reply[Dear customer,\n\n[1] see\nAction: none needed]\nBye",
            "reply[Dear customer,\n\n[1] see\nAction: none needed]",
        ),
        ('Action: send({\n  "to": "a"\n})\nDone.', 'send({\n  "to": "a"\n})'),
        ("**Action: reply[a\nb]**\nBye", "reply[a\nb]"),
        ("thought: so. action: reply[a\nb] bye", "reply[a\nb]"),
        ("Action: click[red\nThought: ]", "click[red"),
        ("Action: click[red\nObservation: [SEP] Buy now ]", "click[red"),
        ("Action: say [1] and [2\nend]", "say [1] and [2"),
        ("Action: be sad :(\n(so)", "be sad :("),
        # no action
        ("", None),
        ("I would buy it", None),
    ],
)
def test_the_action_is_found_whatever_is_around_it(completion, action):
    assert parse_completion(completion)[1] == action
    assert parse_completion(cut_completion(completion))[1] == action


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("Thought: a\nAction: b\nObservation: c", "Thought: a\nAction: b"),
        ("Action: reply[a\nb]\nObservation: c", "Action: reply[a\nb]"),
        ("Action: b\nGood luck!", "Action: b"),
        ("**Action: b**\nGood luck!", "**Action: b**"),
        ("```\nAction: b\n```\nGood luck!", "```\nAction: b\n```"),
        ("Action:\n```\nb\n```\nGood luck!", "Action:\n```\nb\n```"),
        ("Action: b\n```\nc\n```", "Action: b"),
        ("<think>a</think>Action: b\nAh, no", "<think>a</think>Action: b"),
        ("no action at all \n", "no action at all"),
    ],
)
def test_a_completion_is_cut_after_its_action(completion, kept):
    assert cut_completion(completion) == kept
    assert cut_completion(kept) == kept


@given(st.text("aA:[]<think>/\n*` ", max_size=40) | st.text())
def test_any_text_is_parsed(text):
    for completion in (text, f"Thought: {text}\nAction: go", text.replace("a", "Action:")):
        thought, action = parse_completion(completion)
        assert action is None or action in completion
        assert action is None or action == action.strip() != ""
        assert isinstance(thought, str)
        assert completion.startswith(cut_completion(completion))
        assert parse_completion(cut_completion(completion))[1] == action
        drop_thoughts(completion)


@pytest.mark.parametrize(
    ("completion", "thought"),
    [
        ("<think>\nAny?\n</think>\n\nThought: so.\nAction: a", "Any?\n\nso."),
        ("**Thought:** so.\n\n**Action:** a", "so."),
        ("```\nThought: so.\nAction: a\n```", "so."),
        ("It fits.\n\nAction: a", "It fits."),
        ("Thought: one\nThought: two\nAction: a", "one\nThought: two"),
    ],
)
def test_the_thought_is_all_before_the_action(completion, thought):
    assert parse_completion(completion) == (thought, "a")


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("<think>a</think>\n\nThought: b\nAction: c", "Thought: b\nAction: c"),
        ("a</think>\nAction: c", "Action: c"),
        ("Action: c\n<think>and", "Action: c\n"),
        ("<think>a", ""),
        ("Thought: b\nAction: c", "Thought: b\nAction: c"),
    ],
)
def test_thought_blocks_can_be_dropped(completion, kept):
    assert drop_thoughts(completion) == kept
