"""Tool calls: the neutral form, actions, schemas, and each family's own form in the renderer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef import call_forms
from eef.chat import as_calls, as_react, build_conversation
from eef.env import StepResult, ToolEnv, execute
from eef.errors import EnvError
from eef.thoughts import drop_thoughts, is_blank
from eef.tools import (
    Call,
    Tool,
    Toolset,
    Turn,
    format_error_in,
    is_format_error,
    join_results,
    read_turn,
    split_action,
    split_results,
    tool,
    write_turn,
)
from eef.trajectory import Step

SHOP = Toolset(
    (
        tool("search", "Search for products.", query="string"),
        tool("refund", "Refund an order.", order="string", amount="integer"),
        tool("wait", "Wait."),
    ),
    prompt="You work in a shop.",
)
TALK = Toolset(SHOP.tools, text_action="say", prompt="You work in a shop.")
ARGUMENTS = st.dictionaries(
    st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)
)


def nested(levels):
    """A list in a list, and so on."""
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


@given(st.text(), st.lists(st.tuples(st.text(min_size=1), ARGUMENTS), max_size=3))
def test_turns_are_read_as_they_were_written(text, calls):
    calls = tuple(Call(*call) for call in calls)
    completion = write_turn(text, calls)
    if calls and not read_turn(text).calls:
        assert read_turn(completion) == (text, calls)


@given(st.text(), st.integers())
def test_an_action_stands_for_its_call(text, amount):
    for call in (
        Call("search", {"query": text}),
        Call("refund", {"order": text, "amount": amount}),
        Call("wait", {}),
    ):
        action = SHOP.action(call)
        assert SHOP.call_of(action) == call
        several = SHOP.action_of(write_turn("", [call, call]))
        assert split_action(several) == [action, action]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Call("serch", {"query": "mug"}), "unknown tool `serch`; did you mean `search`?"),
        (Call("x", {}), "unknown tool `x`; the tools are `search`, `refund`, `wait`"),
        (Call("search", {}), "`search`: 'query' is a required property"),
        (Call("search", {"query": 3}), "`search`: `query` 3 is not of type 'string'"),
        (Call("search", ["mug"]), "the arguments of `search` are not a JSON object"),
        (Call("wait", {"a": 1}), "`wait`: Additional properties are not allowed"),
        (Call("search", {"query": "m" * 2_000_000}), "the arguments of `search` exceed 100,000"),
        (Call("search", {"query": nested(50)}), "the arguments of `search` are nested deeper than"),
        (
            Call("search", {"query": nested(900)}),
            "the arguments of `search` are nested deeper than",
        ),
        (Call("search", {"query": nested(49)}), "`search`: `query` "),
        (Call("refund", {"order": "O", "amount": "5"}), "`refund`: `amount` '5' is not of type"),
    ],
)
def test_invalid_calls_are_format_errors(call, reason):
    action = SHOP.action_of(write_turn("On.", [call]))
    assert format_error_in(action).startswith(reason)
    assert is_format_error(action)
    assert len(action) < 400
    valid = Call("wait", {})
    assert not is_format_error(SHOP.action_of(write_turn("", [call, valid])))


def test_a_turn_of_text_alone():
    no_call = "no tool call found; the tools are `search`, `refund`, `wait`"
    assert format_error_in(SHOP.action_of("I would wait.")) == no_call
    assert TALK.action_of("Your money is on its way.") == "say[Your money is on its way.]"
    thought = "<think>\nsecret plan: refuse\n</think>\n\n"
    assert TALK.action_of(f"{thought}Hello.") == "say[Hello.]"
    assert TALK.action_of(thought).startswith("format_error[no tool call")
    assert as_react(f"{thought}Hello.", "say[Hello.]") == f"{thought}Action: say[Hello.]"
    assert format_error_in(TALK.action_of(" ")) == no_call


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ((tool("a", ""), tool("a", "")), "two tools are called 'a'"),
        ((tool("a b", ""),), "'a b' cannot be the name of a tool"),
        ((tool("format_error", ""),), "cannot be the name of a tool"),
        ((Tool("a", "", {"type": "object", "properties": 3}),), "are not a JSON schema"),
        ((Tool("a", "", {"type": "string"}),), "are not of type `object`"),
        (
            (tool("a", "", b={"$ref": "https://example.org/schema.json"}),),
            "refer to another document",
        ),
    ],
)
def test_wrong_tools(tools, message):
    with pytest.raises(EnvError, match=message):
        Toolset(tools)


class Desk(ToolEnv):
    name = "desk"
    rules = "Be kind."
    tools = SHOP.tools

    def call(self, name, arguments):
        return StepResult(f"{name} {json.dumps(arguments)}", 0.25, name == "refund")


def test_actions_are_executed_in_order_up_to_the_end():
    env, wait = Desk(), Call("wait", {})
    refund = Call("refund", {"order": "O", "amount": 5})
    one = execute(env, SHOP.action_of(write_turn("", [wait])))
    assert one == StepResult("wait {}", 0.25, False)
    both = execute(env, SHOP.action_of(write_turn("", [wait, Call("bad", {})])))
    assert split_results(both.observation, 2) == [
        "wait {}",
        "Format error: unknown tool `bad`; the tools are `search`, `refund`, `wait`",
    ]
    assert (both.reward, both.terminated) == (0.25, False)
    ended = execute(env, SHOP.action_of(write_turn("", [refund, wait])))
    assert ended == StepResult('refund {"order": "O", "amount": 5}', 0.25, True)
    assert env.step("refund[3").observation.startswith("Unknown action.")
    assert env.step('refund[{"order": 3}]').observation.startswith("Format error: `refund`")
    assert 'refund[{"order": …, "amount": …}]  Refund an order.' in env.prompt
    assert env.tool_prompt == "Be kind."


def test_records_of_either_kind_are_shown_in_both():
    calls = write_turn("A mug.", [Call("search", {"query": "mug"})])
    react = "Thought: A mug.\nAction: search[mug]"
    assert as_react(calls, "search[mug]") == react
    assert as_calls(react, "search[mug]", SHOP) == calls
    assert as_calls("Thought: so.\nAction: fly[up]", "fly[up]", SHOP).endswith("fly[up]")
    assert as_react("Your money.", "say[Your money.]") == "Action: say[Your money.]"
    said = "Thought: he is kind.\nAction: say[Thanks.]"
    assert as_calls(said, "say[Thanks.]", TALK) == "Thanks."
    block = f"<think>\nkind\n</think>\n\n{said}"
    assert as_calls(block, "say[Thanks.]", TALK) == "<think>\nkind\n</think>\n\nThanks."
    steps = [
        Step(observation="page", completion=react, action="search[mug]"),
        Step(observation="result", completion="Hm.", action="format_error[none]"),
    ]
    talk = build_conversation("Rules.", steps, "again", tools=SHOP)
    assert [each["role"] for each in talk] == [
        *("system", "user", "assistant", "tool", "assistant", "user")
    ]
    assert talk[2]["content"] == calls


def test_several_results_are_several_messages():
    calls = write_turn("", [Call("wait", {}), Call("wait", {})])
    action = SHOP.action_of(calls)
    steps = [Step(observation="page", completion=calls, action=action)]
    talk = build_conversation("", steps, join_results(["one", "two"]), tools=SHOP)
    assert [each["content"] for each in talk[2:]] == ["one", "two"]
    plain = build_conversation("", steps, join_results(["one", "two"]))
    assert [each["role"] for each in plain] == ["user", "assistant", "user"]
    assert plain[1]["content"] == f"Action: {action}"


MISTRAL_TOOLS = (  # after the documented format of Mistral 7B v0.3
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' or m['role'] == 'system' %}"
    "{% if loop.first %}{% if tools %}"
    "[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% endif %}"
    "{{ '[INST] ' + m['content'] + '[/INST]' }}"
    "{% elif m['role'] == 'tool' %}"
    "{{ '[TOOL_RESULTS] {\"content\": ' + m['content'] | tojson + ', \"call_id\": \"' "
    "+ m['tool_call_id'] + '\"}[/TOOL_RESULTS]' }}"
    "{% elif m['tool_calls'] %}{{ '[TOOL_CALLS] [' }}{% for c in m['tool_calls'] %}"
    "{{ {'name': c.function.name, 'arguments': c.function.arguments, 'id': c.id} | tojson }}"
    "{% if not loop.last %}, {% endif %}{% endfor %}{{ ']' + eos_token }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
FORMS = {
    "qwen2.5": "hermes",
    "qwen3": "hermes",
    "qwen3-no-thoughts": "hermes",
    "qwen3-2507": "hermes",
    "qwen3.5": "function",
    "qwen3.5-no-thoughts": "function",
    "llama3.1": "llama",
    "llama3.2": "llama",
    "mistral-tools": "mistral",
}
CALL = write_turn("A mug.", [Call("search", {"query": "red <mug>"})])
CONVERSATION = [
    {"role": "system", "content": "Rules."},
    {"role": "user", "content": "page 0"},
    {"role": "assistant", "content": CALL},
    {"role": "tool", "content": "page 1"},
    {"role": "assistant", "content": f"<think>\nwhere?\n</think>\n\n{CALL}"},
    {"role": "tool", "content": "page 2"},
    {"role": "assistant", "content": write_turn("", [Call("wait", {})])},
    {"role": "tool", "content": "page 3"},
    {"role": "assistant", "content": "Done."},
    {"role": "user", "content": "page 4"},
    {
        "role": "assistant",
        "content": write_turn("", [Call("refund", {"order": "O-1", "amount": 5})]),
    },
]


def tools_renderer(family, **options):
    pytest.importorskip("tokenizers")
    from eef.renderer import Renderer
    from tests.fakes.families import FAMILIES, byte_tokenizer, tokenizer_of

    variables = {}
    if family == "mistral-tools":
        tokenizer = byte_tokenizer(MISTRAL_TOOLS, "<s>", "</s>")
    else:
        tokenizer, variables = tokenizer_of(family), FAMILIES[family][2]
    return Renderer(tokenizer, template_variables=variables, tools=SHOP, **options)


@pytest.mark.torch
def test_a_call_in_a_thought_block_is_not_made():
    call = '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
    (form,) = [each for each in call_forms.FORMS if each.name == "hermes"]
    text = f"<think>\nI could {call} now, but first I ask.\n</think>\n\nShall I?"
    assert form.read(text, SHOP) == Turn(text, ())
    assert form.span(text, SHOP) is None
    turn = form.read(f"<think>\nI could {call}.\n</think>\n\nYes.\n{call}", SHOP)
    assert turn.calls == (Call("stop", {}),)
    assert turn.text.endswith("Yes.")


def test_an_object_with_a_name_is_not_a_call_of_llama():
    (form,) = [each for each in call_forms.FORMS if each.name == "llama"]
    text = 'Here is the record: {"name": "Bob", "age": 3}'
    assert form.read(text, SHOP) == Turn(text, ())


@pytest.mark.parametrize("family", FORMS)
def test_what_is_acted_on_is_a_prefix_of_what_is_trained(family):
    renderer = tools_renderer(family)
    assert renderer.template.form.name == FORMS[family]
    renderer.check("Rules.")
    weights = [1.0, 1.0, 0.0, 1.0, 1.0]
    rendered = renderer.render(CONVERSATION, weights)
    prompts = [renderer.prompt(CONVERSATION[:number]) for number in range(2, len(CONVERSATION), 2)]
    text = renderer.tokenizer.decode(rendered.ids)
    for prompt, weight in zip(prompts, weights, strict=True):
        assert list(rendered.ids[: len(prompt)]) == prompt
        assert rendered.weights[len(prompt) - 1 : len(prompt) + 1] == (0.0, weight)
    assert "".join(part for part, _ in renderer.spans(CONVERSATION, weights)) == text
    assert "Search for products." in renderer.tokenizer.decode(prompts[0])
    assert all(f"page {number}" in text for number in range(5))


@pytest.mark.torch
@pytest.mark.parametrize("family", FORMS)
def test_what_a_model_writes_is_read_back(family):
    """A turn that is sampled as its template writes it keeps no ids; another one keeps them."""
    renderer = tools_renderer(family)
    for message in CONVERSATION[2::2]:
        native = renderer.template.native(message["content"])
        if renderer.template.drops_text or "think" in message["content"]:
            continue
        # the prompt of some opens a thought block; what is in it holds no call
        closed = "\n</think>\n\n" if family == "qwen3.5" else ""
        ids = renderer.tokenizer(closed + native, add_special_tokens=False)["input_ids"]
        text, tokens = renderer.read_sampled(ids)
        assert (drop_thoughts(text), tokens) == (message["content"], None)
        assert closed or text == message["content"]
        if closed:
            ids = renderer.tokenizer(native, add_special_tokens=False)["input_ids"]
            prompt = renderer.prompt([{"role": "user", "content": "x"}])
            text, tokens = renderer.read_sampled(ids, prompt)
            assert (read_turn(text).calls, is_blank(text), tokens) == ((), True, None)
    other = renderer.template.native(CALL).replace('"name": "search"', '"name" : "search"')
    if other != renderer.template.native(CALL):
        ids = renderer.tokenizer(other, add_special_tokens=False)["input_ids"]
        closed = renderer.tokenizer("</think>", add_special_tokens=False)["input_ids"]
        ids = [*closed, *ids] if family == "qwen3.5" else ids
        text, tokens = renderer.read_sampled(ids)
        assert read_turn(text).calls == read_turn(CALL).calls
        assert tokens.ids == tuple(ids)


@pytest.mark.torch
@pytest.mark.parametrize("family", FORMS)
def test_the_action_loss_is_on_the_calls(family):
    renderer = tools_renderer(family, loss_on="action")
    rendered = renderer.render(CONVERSATION[:3], [1.0])
    pairs = zip(rendered.ids, rendered.weights, strict=True)
    ids = [token for token, weight in pairs if weight and token not in renderer.stop_ids]
    trained = renderer.tokenizer.decode(ids)
    assert "A mug." not in trained
    (call,) = renderer.template.form.read(trained, SHOP).calls
    assert call == Call("search", {"query": "red <mug>"})


@pytest.mark.torch
@pytest.mark.parametrize("family", ["llama3", "gemma3", "smollm2", "phi4"])
def test_a_template_without_tools_is_refused(family):
    from eef.errors import ModelError

    with pytest.raises(ModelError, match="has no support for tools") as caught:
        tools_renderer(family)
    assert "react" in caught.value.hint


HARMONY = (  # after the documented format of gpt-oss
    "{% for m in messages %}{{ '<|start|>' }}{% if m['role'] == 'tool' %}"
    "{{ 'functions.f to=assistant<|channel|>commentary<|message|>' + m['content'] + '<|end|>' }}"
    "{% elif m['tool_calls'] %}{% for c in m['tool_calls'] %}"
    "{{ 'assistant to=functions.' + c.function.name + '<|channel|>commentary json<|message|>' }}"
    "{{ c.function.arguments | tojson + '<|call|>' }}{% endfor %}"
    "{% elif m['role'] == 'assistant' %}"
    "{{ 'assistant<|channel|>final<|message|>' + m['content'] + '<|end|>' }}"
    "{% else %}{{ m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


@pytest.mark.torch
def test_the_form_of_gpt_oss_is_refused_in_one_line():
    pytest.importorskip("tokenizers")
    from eef.errors import ModelError
    from eef.renderer import Renderer
    from tests.fakes.families import byte_tokenizer

    for tools in (SHOP, None):
        with pytest.raises(ModelError, match="harmony form of gpt-oss") as caught:
            Renderer(byte_tokenizer(HARMONY, "<|start|>", "<|end|>"), tools=tools)
    assert "openai/" in caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.torch
def test_a_run_with_tools(tmp_path):
    pytest.importorskip("torch")
    from eef.pipeline.pipeline import Pipeline
    from tests.fakes.families import save_family
    from tests.fakes.small_run import as_recipe, small_recipe

    settings = small_recipe(
        save_family("qwen2.5", tmp_path / "model"),
        env={"name": "tests.fakes.counter:SPEC"},
        chat={"format": "tools"},
        expert={"names": ["scripted/slow"]},
        tasks={"train": 3, "test": 1},
        methods=["bc", "eef"],
        options={},
        budget={"rollouts_per_task": 1},
        train={"updates": 1, "batch_size": 2},
    )
    pipeline = Pipeline.create(tmp_path / "run", as_recipe(settings))
    pipeline.execute_all()
    run = pipeline.run
    assert run.fingerprint["chat_format"] == "tools"
    student = [step for item in run.trajectories("eef") if item.by_student for step in item.steps]
    said = {step.action.partition("[")[0] for step in student}
    assert said <= {"say", "format_error", "add", "label", "stop"}
    assert "say" in said  # a random student writes words alone


def test_a_run_without_tools_is_refused(tmp_path):
    from eef.errors import ConfigError
    from eef.pipeline.context import RunContext
    from eef.pipeline.run_directory import RunDirectory
    from tests.fakes.small_run import as_recipe, small_recipe

    recipe = as_recipe(small_recipe(tmp_path, chat={"format": "tools"}))
    with pytest.raises(ConfigError, match="environment 'toy' declares no tools"):
        RunContext(RunDirectory(tmp_path, recipe)).tools  # noqa: B018
