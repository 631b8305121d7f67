"""The renderer: prompts are prefixes of renderings, and templates that prevent it are refused."""

from dataclasses import replace

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from eef.errors import ModelError
from eef.exporters.examples import render_examples
from eef.policy import SampledText
from eef.react import find_action
from eef.renderer import Rendered, Renderer
from eef.rendering import render_all, render_example
from eef.selection import Acts, TrainingExample
from eef.thoughts import is_blank
from eef.trajectory import Author, SampledTokens, StateRef, Step, Trajectory, TrajectorySet
from tests.fakes.tiny import CHATML, tiny_tokenizer

pytestmark = pytest.mark.torch

LLAMA3 = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n\n"
    "{{ message['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n\n{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} {{ message['content'] }}<|end|>"
    "{% else %}[INST] {{ message['content'] }} [/INST]{% endif %}{% endfor %}"
)
GEMMA = (
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "<|start|>{{ role }}\n{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>model\n{% endif %}"
)
QWEN3 = (  # the last assistant message is rendered with an empty thought, earlier ones without
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{% if loop.last and message['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "qwen3": QWEN3}

CONVERSATION = [
    {"role": "system", "content": "Rules."},
    {"role": "user", "content": "page 1"},
    {"role": "assistant", "content": "Thought: go.\nAction: click[next >]"},
    {"role": "user", "content": "page 2\n\n"},
    {"role": "assistant", "content": "Thought: fits.\nAction: click[buy now]"},
]


def text_of(rendered, tokenizer, wanted):
    return tokenizer.decode(
        [
            token
            for token, weight in zip(rendered.ids, rendered.weights, strict=True)
            if weight == wanted
        ]
    )


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_each_prompt_is_a_prefix_of_the_rendering(template):
    renderer = Renderer(tiny_tokenizer(template))
    rendered = renderer.render(CONVERSATION, [0.0, 1.0])
    for end in (2, 4):
        prompt = renderer.prompt(CONVERSATION[:end])
        assert list(rendered.ids[: len(prompt)]) == prompt
        assert rendered.weights[len(prompt)] == (0.0 if end == 2 else 1.0)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_ids_are_those_of_the_whole_template(template):
    tokenizer = tiny_tokenizer(template)
    whole = tokenizer.apply_chat_template(CONVERSATION[:4], add_generation_prompt=True)["input_ids"]
    assert Renderer(tokenizer).prompt(CONVERSATION[:4]) == whole


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_completion_carries_its_weight_and_so_does_its_end(template):
    tokenizer = tiny_tokenizer(template)
    rendered = Renderer(tokenizer).render(CONVERSATION, [0.5, 1.0])
    assert text_of(rendered, tokenizer, 0.5).strip() == "Thought: go.\nAction: click[next >]<|end|>"
    assert (
        text_of(rendered, tokenizer, 1.0).strip() == "Thought: fits.\nAction: click[buy now]<|end|>"
    )
    assert rendered.ids[-1] == tokenizer.eos_token_id


def test_action_only_excludes_the_thought():
    tokenizer = tiny_tokenizer()
    rendered = Renderer(tokenizer, loss_on="action").render(CONVERSATION, [0.0, 1.0])
    assert text_of(rendered, tokenizer, 1.0) == "click[buy now]<|end|>"
    assert rendered.ids == Renderer(tokenizer).render(CONVERSATION, [0.0, 1.0]).ids


@pytest.mark.parametrize(
    ("completion", "trained"),
    [
        ("Thought: my next action: a search.\nAction: search[mug]", "search[mug]<|end|>"),
        ("<think>\nAction: no\n</think>\n\nAction: search[mug]", "search[mug]<|end|>"),
        ("thought: none. action: search[mug]", "search[mug]<|end|>"),
        ("**Action: search[mug]**", "search[mug]<|end|>"),
        ("Action: reply[a\nb]\nObservation: ah", "reply[a\nb]<|end|>"),
    ],
)
def test_action_only_trains_the_action_and_the_end_alone(completion, trained):
    tokenizer = tiny_tokenizer()
    conversation = [*CONVERSATION[:4], {"role": "assistant", "content": completion}]
    renderer = Renderer(tokenizer, loss_on="action")
    rendered = renderer.render(conversation, [0.0, 1.0])
    assert text_of(rendered, tokenizer, 1.0) == trained
    spans = renderer.spans(conversation, [0.0, 1.0])
    assert "".join(text for text, weight in spans if weight == 1) == trained
    assert "".join(text for text, _ in spans) == tokenizer.decode(rendered.ids)


def test_action_only_without_an_action_trains_the_end_alone():
    tokenizer = tiny_tokenizer()
    conversation = [{"role": "user", "content": "page"}, {"role": "assistant", "content": "hm"}]
    rendered = Renderer(tokenizer, loss_on="action").render(conversation, [1.0])
    assert text_of(rendered, tokenizer, 1.0) == "<|end|>"


@given(st.lists(st.text(max_size=30), min_size=2, max_size=8), st.sampled_from(sorted(TEMPLATES)))
def test_any_text_is_rendered_in_place(texts, name):
    texts = [text.replace("<", "") for text in texts]
    roles = ["user", "assistant"] * len(texts)
    conversation = [
        {"role": role, "content": text} for role, text in zip(roles, texts, strict=False)
    ]
    tokenizer = tiny_tokenizer(TEMPLATES[name])
    renderer = Renderer(tokenizer)
    rendered = renderer.render(conversation, [1.0] * (len(conversation) // 2))
    prompt = renderer.prompt(conversation[:1])
    assert list(rendered.ids[: len(prompt)]) == prompt
    assert sum(
        token in renderer.stop_ids
        for token, w in zip(rendered.ids, rendered.weights, strict=True)
        if w
    ) == (len(conversation) // 2)


def test_a_tokenizer_that_puts_a_space_before_a_text_does_so_once():
    tokenizer = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("▁", -2.0), ("▁ab", -1.0), ("a", -3.0), ("b", -3.0)], 0)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="<unk>"
    )
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
    conversation = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "ab"}]
    rendered = Renderer(fast).render(conversation, [1.0])
    assert fast.convert_ids_to_tokens(rendered.ids) == ["▁ab", "<|end|>", "a", "b", "<|end|>"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        (
            CHATML.replace("{{ message['content'] }}", "{{ message['content'][:3] }}"),
            "changes the text",
        ),
        (CHATML.replace("<|end|>", ""), None),
        (
            "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
            "does not end an assistant message",
        ),
        ("{{ messages | length }} turns" + CHATML, "rewrites earlier messages"),
        ("{{ raise_exception('no') }}", "refuses a conversation: no"),
    ],
)
def test_templates_that_cannot_be_trained_on_are_refused(template, message):
    if message is None:  # the start of the next turn ends this one: unusual, but sound
        assert Renderer(tiny_tokenizer(template)).render(CONVERSATION, [0.0, 1.0]).trained
        return
    with pytest.raises(ModelError, match=message):
        Renderer(tiny_tokenizer(template)).render(CONVERSATION, [0.0, 1.0])


def spelled(renderer, text, *, vocabulary=None):
    """A completion sampled character by character."""
    ids = tuple(renderer.tokenizer.convert_tokens_to_ids(list(text)))
    return SampledText(text, SampledTokens(ids, vocabulary or renderer.vocabulary))


@pytest.mark.parametrize("template", [CHATML, LLAMA3, GEMMA, QWEN3])
def test_sampled_ids_are_kept_in_prompts_and_in_training(template):
    tokenizer = tiny_tokenizer(template, merges=["go", "ab"])
    renderer = Renderer(tokenizer)
    talk = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "goab"}]
    talk += [*talk[:1], {"role": "assistant", "content": "abgo"}]
    merged = renderer.render(talk, [1.0, 0.5])
    talk[1] = {"role": "assistant", "content": spelled(renderer, "goab")}
    rendered = renderer.render(talk, [1.0, 0.5])
    prompt = renderer.prompt(talk[:3])
    assert list(rendered.ids[: len(prompt)]) == prompt
    assert len(rendered.ids) == len(merged.ids) + 2
    assert rendered.trained == merged.trained + 2
    assert tokenizer.decode(rendered.ids) == tokenizer.decode(merged.ids)


@pytest.mark.parametrize("reason", ["another tokenizer", "a special token", "changed text"])
def test_sampled_ids_that_do_not_apply_are_replaced_by_those_of_the_text(reason):
    tokenizer = tiny_tokenizer(LLAMA3, merges=["go"])
    renderer = Renderer(tokenizer)
    completion = {
        "another tokenizer": spelled(renderer, "go", vocabulary="0f"),
        "a special token": SampledText(
            "go", SampledTokens((*renderer._encode("go", False), 258), renderer.vocabulary)
        ),
        "changed text": spelled(renderer, "go\n"),  # the template strips it
    }[reason]
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": completion}]
    plain = [talk[0], {"role": "assistant", "content": str(completion)}]
    assert renderer.render(talk, [1.0]) == renderer.render(plain, [1.0])


def test_the_action_is_found_among_sampled_ids():
    tokenizer = tiny_tokenizer(merges=["go", "on"])
    renderer = Renderer(tokenizer, loss_on="action")
    tokens = tokenizer.convert_tokens_to_ids([*"Action:", "Ġ", "g", "o"])
    completion = SampledText("Action: go", SampledTokens(tuple(tokens), renderer.vocabulary))
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": completion}]
    rendered = renderer.render(talk, [1.0])
    assert text_of(rendered, tokenizer, 1.0) == "go<|end|>"
    assert rendered.trained == 3


THINKS = CHATML.replace("<|start|>assistant\n", "<|start|>assistant\n<think>\n")


@pytest.mark.parametrize("by_characters", [False, True])
def test_a_thought_that_is_not_closed_holds_no_action_and_is_trained_as_sampled(by_characters):
    """The prompt opens the block, so the sampled text lacks its start tag."""
    tokenizer = tiny_tokenizer(THINKS, merges=["go"])
    renderer = Renderer(tokenizer)
    written = "I could go.\nAction: go\nBut"
    ids = tuple(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(written)))
    if by_characters:
        ids = tuple(tokenizer(f"{each}")["input_ids"][0] for each in written)
    prompt = renderer.prompt([{"role": "user", "content": "x"}])
    text, tokens = renderer.read_sampled(ids, prompt)
    assert text == f"<think>\n{written}"
    assert renderer.read_sampled(ids, prompt[:-8])[0] == written, "another prompt opens none"
    assert (find_action(text), is_blank(text)) == (None, True)
    assert (tokens is None) == (not by_characters)
    content = SampledText(text, tokens) if tokens else text
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": content}]
    rendered = renderer.render(talk, [1.0], cut=[0])
    pairs = zip(rendered.ids, rendered.weights, strict=True)
    assert tuple(token for token, weight in pairs if weight) == ids
    closed = "go on\n</think>\n\nAction: go"
    ids = tuple(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(closed)))
    assert renderer.read_sampled(ids, prompt) == (closed, None)


def test_sampled_ids_of_added_tokens_that_are_text_are_kept():
    """`<think>` is an added token of many families, and decoding does not skip it."""
    tokenizer = tiny_tokenizer(merges=["go"])
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    renderer = Renderer(tokenizer)
    think = tokenizer.convert_tokens_to_ids("<think>")
    ids = (think, *(tokenizer(each)["input_ids"][0] for each in "go"))
    text, tokens = renderer.read_sampled(ids)
    assert (text, tokens.ids) == ("<think>go", ids)
    message = {"role": "assistant", "content": SampledText(text, tokens)}
    rendered = renderer.render([{"role": "user", "content": "x"}, message], [1.0], cut=[0])
    pairs = zip(rendered.ids, rendered.weights, strict=True)
    assert tuple(token for token, weight in pairs if weight) == ids


def test_ids_are_stated_only_if_the_text_does_not_give_them():
    renderer = Renderer(tiny_tokenizer(merges=["go"]))
    one, two = renderer._encode("go", False), spelled(renderer, "go").tokens.ids
    assert renderer.read_sampled(one) == ("go", None)
    assert renderer.read_sampled(two) == ("go", SampledTokens(two, renderer.vocabulary))
    assert Renderer(tiny_tokenizer(merges=["og"])).vocabulary != renderer.vocabulary


def test_weights_must_match_the_messages():
    with pytest.raises(ModelError, match="1 weights"):
        Renderer(tiny_tokenizer()).render(CONVERSATION, [1.0])
    with pytest.raises(ModelError, match="2 token ids"):
        Rendered((1, 2), (1.0,))


def trajectories():
    def step(name):
        return Step(
            observation=f"page {name}",
            completion=f"Thought: {name}\nAction: go[{name}]",
            action=f"go[{name}]",
        )

    def trajectory(name, start, steps):
        return Trajectory(
            id=name,
            task="t",
            author=Author("expert", "a"),
            start=start,
            steps=tuple(step(f"{name}{i}") for i in range(steps)),
            final_observation="end",
            status="terminated",
            reward=1.0,
            success=True,
        )

    return TrajectorySet([trajectory("e", None, 4), trajectory("s", StateRef("e", 2), 2)])


def example(weights, trajectory="s"):
    return TrainingExample(
        id=f"x{len(weights)}{sum(weights)}",
        task="t",
        trajectory=trajectory,
        state=0,
        weights=weights,
        reasons=("why",) * len(weights),
    )


def test_an_example_is_its_path_up_to_the_last_trained_step():
    tokenizer = tiny_tokenizer()
    rendered = render_example(example((0, 1, 1, 0)), trajectories(), "Rules.", Renderer(tokenizer))
    text = tokenizer.decode(rendered.ids)
    assert text.startswith("<|start|>system\nRules.<|end|>")
    assert "page e1" in text
    assert "page s0" in text
    assert "s1" not in text
    assert "Thought: e1\nAction: go[e1]<|end|>" in text_of(rendered, tokenizer, 1)
    assert "e0" not in text_of(rendered, tokenizer, 1)


def one_path(*completions):
    steps = tuple(Step(observation="page", completion=each, action="go") for each in completions)
    trajectory = Trajectory(
        id="p",
        task="t",
        author=Author("expert", "a"),
        steps=steps,
        final_observation="end",
        status="terminated",
        reward=1.0,
        success=True,
    )
    return TrajectorySet([trajectory])


def test_the_end_of_a_turn_that_was_cut_is_not_trained():
    """The model reached the maximum of its tokens; it did not sample the end."""
    tokenizer = tiny_tokenizer()
    renderer = Renderer(tokenizer)
    steps = (
        Step(observation="page", completion="Thought: go", action="", cut=True),
        Step(observation="page", completion="Action: buy", action="buy"),
    )
    (played,) = one_path("", "")
    family = TrajectorySet([replace(played, steps=steps)])
    acts = Acts(id="p", task="t", trajectory="p", group="g", advantages=(-0.5, 0.5))
    rendered = render_example(acts, family, "", renderer)
    assert text_of(rendered, tokenizer, -0.5) == "Thought: go"
    assert text_of(rendered, tokenizer, 0.5) == "Action: buy<|end|>"
    (exported,) = render_examples([example((1.0, 1.0), "p")], family, "", renderer)
    assert text_of(exported.rendered, tokenizer, 1.0) == "Thought: goAction: buy<|end|>"
    spans = [text for text, weight in exported.spans if weight]
    assert spans == ["Thought: go", "Action: buy<|end|>"]
    ended = TrajectorySet([replace(played, steps=tuple(replace(s, cut=False) for s in steps))])
    assert render_example(acts, ended, "", renderer).ids == rendered.ids


@pytest.mark.parametrize("blank", ["", " \n", "<think>\nhm\n</think>\n\n", "<think>hm"])
def test_a_turn_without_text_is_never_trained(blank):
    tokenizer = tiny_tokenizer()
    path = one_path("Action: go", blank, "Action: stop", blank)
    rendered = render_example(example((1, 1, 1, 1), "p"), path, "", Renderer(tokenizer))
    assert text_of(rendered, tokenizer, 1) == "Action: go<|end|>Action: stop<|end|>"
    assert tokenizer.decode(rendered.ids).endswith("Action: stop<|end|>")
    nothing = render_example(example((1,), "p"), one_path(blank), "", Renderer(tokenizer))
    assert nothing.trained == 0


def test_thought_blocks_are_trained_or_dropped():
    tokenizer = tiny_tokenizer()
    thought = "<think>\nAction: no\n</think>\n\n"
    path = one_path(f"{thought}Action: go", f"{thought}Action: stop", thought)
    weights = example((0.5, 1, 1), "p")
    kept = render_example(weights, path, "", Renderer(tokenizer))
    assert text_of(kept, tokenizer, 0.5) == f"{thought}Action: go<|end|>"
    assert text_of(kept, tokenizer, 1) == f"{thought}Action: stop<|end|>"  # the last has no text
    dropped = render_example(weights, path, "", Renderer(tokenizer, thoughts="dropped"))
    assert text_of(dropped, tokenizer, 0.5) == "Action: go<|end|>"
    assert text_of(dropped, tokenizer, 1) == "Action: stop<|end|>"
    assert "think" not in tokenizer.decode(dropped.ids)


def test_examples_that_are_too_long_are_dropped_and_named():
    short, long = example((1, 0, 0, 0)), example((1, 1, 1, 1))
    fitting, overflows = render_all(
        [short, long], trajectories(), "", Renderer(tiny_tokenizer(), max_length=120)
    )
    assert [len(rendered.ids) <= 120 for rendered in fitting] == [True]
    assert overflows == [long.id]


def test_merges_never_cross_into_a_completion():
    """A tokenizer of the joined text would merge a prompt's end with a completion's start."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.train_from_iterator(
        ["agent:Action: go"] * 50, trainers.BpeTrainer(special_tokens=["<|end|>"])
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = (
        "{% for m in messages %}{{ 'agent:' if m['role'] == 'assistant' else '' }}"
        "{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}agent:{% endif %}"
    )
    renderer = Renderer(fast)
    conversation = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "Action: go"},
    ]
    prompt = renderer.prompt(conversation[:1])
    assert list(renderer.render(conversation, [1.0]).ids[: len(prompt)]) == prompt
