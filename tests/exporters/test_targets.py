"""Exports: every target would train on the same text as `eef`; TRL is run and has the same loss."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest

from eef.errors import ConfigError, MethodError
from eef.exporters.examples import render_examples
from eef.exporters.targets import TARGETS, export
from eef.exporters.token_targets import MARKED_FILE
from eef.importers.formats import read_row
from eef.note import Advice
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.stages import Stage
from eef.renderer import Renderer
from eef.selection import TrainingExample
from eef.training.settings import TrainSettings
from eef.trajectory import Author, StateRef, Step, TrajectorySet
from tests.fakes.families import FAMILIES, byte_tokenizer, tokenizer_of
from tests.fakes.records import recorded
from tests.fakes.small_run import as_recipe, eef, small_recipe
from tests.fakes.tiny import CHATML, tiny_model, tiny_tokenizer

LLAMA = (
    "{{ '<|start|>' }}{% for m in messages %}"
    "{{ '<|start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n\n' }}{% endif %}"
)
PROMPT = "Walk to the chest."


def family():
    """An expert of six steps, the student's win from its state 4, and an example of each."""
    expert = recorded("e", *"abcdef")
    own = tuple(
        Step(observation=f"see {a}", completion=f"Thought: hm {a}\nAction: {a}", action=a)
        for a in ("x", "y\u00e9")
    )
    win = replace(
        recorded("b", start=StateRef("e", 4), author=Author("student", "p")),
        steps=own,
        success=True,
        reward=1.0,
    )
    examples = [
        TrainingExample(
            id="b@2",
            task="toy/1",
            trajectory="b",
            state=2,
            weights=(0, 0, 1, 1, 1, 1),
            reasons=("context",) * 2 + ("beneficial",) * 2 + ("student-win",) * 2,
            evidence=("b",),
        ),
        TrainingExample(
            id="e@0",
            task="toy/1",
            trajectory="e",
            state=0,
            weights=(1, 0, 1, 0, 0, 0),
            reasons=("expert-win", "harmful") * 3,
            evidence=("e",),
        ),
    ]
    return examples, TrajectorySet([expert, win])


def rendered(template=CHATML, prompt=PROMPT, weights=None, **options):
    examples, trajectories = family()
    if weights:
        examples = [replace(examples[0], weights=weights)]
    renderer = Renderer(tiny_tokenizer(template), **options)
    return list(render_examples(examples, trajectories, prompt, renderer, run="r")), renderer


def exported(name, directory, **options):
    made, renderer = rendered(**options)
    export(name, made, directory, renderer)
    return made, renderer


def test_messages_hold_the_plan_and_the_critiques_that_the_agent_was_prompted_with(tmp_path):
    (example, _), trajectories = family()
    advised = replace(
        trajectories["b"].steps[0],
        advice=(
            Advice(role="critic", text="Grade: good.", candidate="Action: x"),
            Advice(role="critic", text="Grade: poor.", candidate="Action: z"),
        ),
    )
    win = replace(trajectories["b"], steps=(advised, trajectories["b"].steps[1]))
    stored = TrajectorySet([trajectories["e"], win])
    refined = replace(
        example,
        weights=(0, 0, 0, 0, 1, 0),
        reasons=("context",) * 4 + ("refined", "context"),
        prompt_suffix="This plan may be helpful:\nStep 1: x",
        advice="last",
    )
    renderer = Renderer(tiny_tokenizer(CHATML))
    made = list(render_examples([refined], stored, PROMPT, renderer, run="r"))
    export("openai", made, tmp_path, renderer)
    (file,) = tmp_path.glob("*.jsonl")
    (row,) = rows(file)
    system, *_, observed, action = row["messages"]
    assert system["content"] == f"{PROMPT}\n\nThis plan may be helpful:\nStep 1: x"
    for text in ("see x", "Action: x", "Grade: good.", "Action: z", "Grade: poor."):
        assert text in observed["content"]
    assert action["content"] == win.steps[0].completion


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def chatml(messages):
    return "".join(
        f"<|start|>{message['role']}\n{message['content']}<|end|>\n" for message in messages
    )


def by_message(messages, trained):
    """The spans of a trainer that renders ChatML and trains whole messages with their end of turn.

    Axolotl (`train_on_eos: turn`), ms-swift, Together, OpenAI and AgentGym document this rule.
    """
    spans = []
    for message in messages:
        head, body = f"<|start|>{message['role']}\n", f"{message['content']}<|end|>"
        spans += [(head, 0.0), (body, float(trained(message))), ("\n", 0.0)]
    return join(spans)


def join(spans):
    joined = []
    for text, weight in spans:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        elif text:
            joined.append((text, weight))
    return joined


def ours(example):
    """The spans of `eef`, with the newline that other renderers put after the last turn."""
    return join([*example.spans, ("\n", 0.0)])


# --- the examples themselves ---------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, LLAMA])
@pytest.mark.parametrize("loss_on", ["completion", "action"])
def test_spans_are_the_text_of_the_tokens_with_their_weights(template, loss_on):
    made, renderer = rendered(template, loss_on=loss_on)
    for example in made:
        tokens = [
            (renderer.tokenizer.decode([token]), weight)
            for token, weight in zip(example.rendered.ids, example.rendered.weights, strict=True)
        ]
        assert sum(len(text.encode()) * (weight != 0) for text, weight in example.spans) == sum(
            weight != 0 for _, weight in tokens
        ) - bytes_of_specials(example)
        assert renderer.tokenizer.decode(example.rendered.ids) == "".join(
            text for text, _ in example.spans
        )


def bytes_of_specials(example):
    """A trained `<|end|>` is one token of seven bytes: six bytes too many for each."""
    ends = sum(text.count("<|end|>") for text, weight in example.spans if weight != 0)
    return -6 * ends


def test_every_example_states_the_provenance_of_its_turns():
    made, _ = rendered()
    for example in made:
        messages = list(example.weighted())
        trained = [weight != 0 for message, weight in messages if message["role"] == "assistant"]
        assert trained == [weight != 0 for weight in example.weights]
        assert messages[-1][1] != 0, "cut after the last trained turn"
        meta = example.meta
        assert len(meta["authors"]) == len(meta["reasons"]) == len(example.weights)
    assert made[0].meta["authors"] == ["expert:e"] * 4 + ["student:p"] * 2
    assert len(made[1].weights) == 3


# --- targets that take messages ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("axolotl", lambda message: message["train"]),
        ("ms-swift", lambda message: message["loss"]),
        ("openai", lambda message: message.get("weight") == 1),
        ("together", lambda message: message["weight"] == 1),
    ],
)
def test_masks_by_message(name, trained, tmp_path):
    made, _ = exported(name, tmp_path)
    for row, example in zip(rows(tmp_path / "train.jsonl"), made, strict=True):
        assert by_message(row["messages"], trained) == ours(example)
        again = read_row({**row, "reward": 1.0})
        assert tuple(step.weight for step in again.steps) == example.weights
    assert "README.md" in {path.name for path in tmp_path.iterdir()}


def test_agentgym(tmp_path):
    made, _ = exported("agentgym", tmp_path, prompt="")
    for row, example in zip(json.loads((tmp_path / "train.json").read_text()), made, strict=True):
        messages = [
            {
                "role": {"human": "user", "gpt": "assistant"}[each["from"]],
                "content": each["value"],
                "loss": bool(each["loss"]),
            }
            for each in row["conversations"]
        ]
        assert by_message(messages, lambda each: each["loss"]) == ours(example)
    made, _ = exported("agentgym", tmp_path)
    for row, example in zip(json.loads((tmp_path / "train.json").read_text()), made, strict=True):
        again = read_row({**row, "reward": 1.0})
        assert (again.format, again.prompt) == ("agentgym", PROMPT)
        assert tuple(step.weight for step in again.steps) == example.weights


def test_llamafactory(tmp_path):
    made, _ = exported("llamafactory", tmp_path)
    old = rows(tmp_path / "v0/train.jsonl")
    assert (
        json.loads((tmp_path / "v0/dataset_info.json").read_text())["eef"]["file_name"]
        == "train.jsonl"
    )
    # v0 with `mask_history`: only the last message of a row is trained
    last = [row["messages"][-1]["content"] for row in old]
    trained = [
        messages[-1]["content"] for example in made for messages, _ in example.trained_parts()
    ]
    assert last == trained
    spoken = [
        by_message(row["messages"], lambda message, row=row: message is row["messages"][-1])
        for row in old
    ]
    assert [spans[-2] for spans in spoken] == [(f"{text}<|end|>", 1.0) for text in trained]
    assert all(sum(weight for _, weight in spans) == 1 for spans in spoken)
    for row, example in zip(rows(tmp_path / "v1/train.jsonl"), made, strict=True):
        # v1 applies a message's weight to its header and newline too, as its README states
        texts = [
            (
                f"<|start|>{message['role']}\n{message['content'][0]['value']}<|end|>\n",
                message["loss_weight"],
            )
            for message in row["messages"]
        ]
        bare = join((text if weight == 0 else "", weight) for text, weight in texts)
        assert "".join(text for text, _ in texts) == "".join(text for text, _ in ours(example))
        assert [
            message["loss_weight"] for message in row["messages"] if message["role"] == "assistant"
        ] == list(example.weights)
        assert bare


def test_atif(tmp_path):
    made, _ = exported("atif", tmp_path)
    documents = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    for document, example in zip(documents, made, strict=True):
        assert set(document) == {"schema_version", "session_id", "agent", "steps", "extra"}
        assert set(document["agent"]) == {"name", "version"}
        assert [step["step_id"] for step in document["steps"]] == list(
            range(1, len(document["steps"]) + 1)
        )
        messages = []
        for step in document["steps"]:
            assert set(step) <= {"step_id", "source", "message", "extra", "observation"}
            assert step["source"] in ("system", "user", "agent")
            messages.append(
                {
                    "role": {"agent": "assistant"}.get(step["source"], step["source"]),
                    "content": step["message"],
                    "train": step["extra"]["train"],
                }
            )
            messages += [
                {"role": "user", "content": each["content"], "train": False}
                for each in step.get("observation", {}).get("results", [])
            ]
        assert by_message(messages, lambda each: each["train"]) == ours(example)


# --- targets that take tokens or text ------------------------------------------------------------


@pytest.mark.parametrize("loss_on", ["completion", "action"])
def test_prompt_completion(loss_on, tmp_path):
    made, renderer = exported("prompt-completion", tmp_path, loss_on=loss_on)
    expected = rows(tmp_path / "train.jsonl")
    assert [row["completion"] for row in expected] == [
        text for each in made for text, weight in each.spans if weight != 0
    ]
    whole = {
        example.meta["example"]: "".join(text for text, _ in example.spans) for example in made
    }
    for row in expected:
        assert whole[row["meta"]["example"]].startswith(row["prompt"] + row["completion"])
        ids = [
            token
            for part in (row["prompt"], row["completion"])
            for token in renderer.tokenizer(part, add_special_tokens=False)["input_ids"]
        ]
        example = next(each for each in made if each.meta["example"] == row["meta"]["example"])
        assert tuple(ids) == example.rendered.ids[: len(ids)]


def test_parquet_and_verl(tmp_path):
    from pyarrow import parquet

    weights = (0, 0, 0.5, 1, 1, 0.25)
    made, renderer = exported("parquet", tmp_path / "p", weights=weights)
    (row,) = parquet.read_table(tmp_path / "p/train.parquet").to_pylist()
    assert (tuple(row["input_ids"]), tuple(row["weights"])) == (
        made[0].rendered.ids,
        made[0].rendered.weights,
    )
    assert [
        message["weight"] for message in row["messages"] if message["role"] == "assistant"
    ] == list(weights)
    assert json.loads(row["meta"])["example"] == "b@2"
    exported("verl", tmp_path / "v", weights=weights)
    spec = importlib.util.spec_from_file_location("verl_dataset", tmp_path / "v/dataset.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dataset = module.MaskedDataset(
        [str(tmp_path / "v/train.parquet")], renderer.tokenizer, {"max_length": 1000}
    )
    item = dataset[0]
    count = len(made[0].rendered.ids)
    assert item["input_ids"][:count].tolist() == list(made[0].rendered.ids)
    assert item["loss_mask"].tolist() == [*made[0].rendered.weights, *[0.0] * (1000 - count)]
    assert item["attention_mask"].sum() == count


# --- TRL itself ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl_losses(tmp_path_factory):
    """The first loss of TRL, on `tokens.parquet` and `messages.jsonl`, and of `eef`."""
    import datasets
    import torch
    import trl

    from eef.training.sft import train_examples

    directory = tmp_path_factory.mktemp("trl")
    made, renderer = exported("trl", directory)
    tokenizer = renderer.tokenizer
    results = {}
    for kind in ("tokens", "messages"):
        if kind == "tokens":
            data = datasets.load_dataset(
                "parquet",
                data_files=str(directory / "tokens.parquet"),
                split="train",
                cache_dir=str(directory / "cache"),
            )
        else:
            data = datasets.load_dataset(
                "json",
                data_files=str(directory / "messages.jsonl"),
                split="train",
                cache_dir=str(directory / "cache"),
            )
            tokenizer.chat_template = (directory / "chat_template.jinja").read_text()
        config = trl.SFTConfig(
            output_dir=str(directory / kind),
            max_length=None,
            per_device_train_batch_size=len(made),
            max_steps=1,
            use_cpu=True,
            bf16=False,
            fp16=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            assistant_only_loss=kind == "messages",
            gradient_checkpointing=False,
            seed=0,
        )
        trainer = trl.SFTTrainer(
            model=tiny_model(), args=config, train_dataset=data, processing_class=tokenizer
        )
        trainer.train()
        results[kind] = next(
            entry["loss"] for entry in trainer.state.log_history if "loss" in entry
        )
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(made))])
        results[f"{kind} labels"] = batch["labels"].tolist()
        with torch.no_grad():
            results[f"{kind} exact"] = float(tiny_model()(**dict(batch.items())).loss)
    settings = TrainSettings(updates=1, batch_size=len(made), learning_rate=1e-3, threads=1)
    results["ours"] = train_examples(
        tiny_model(), [example.rendered for example in made], settings
    ).losses[0]
    results["examples"] = made
    return results


@pytest.mark.parametrize("kind", ["tokens", "messages"])
@pytest.mark.filterwarnings("ignore")
def test_trl_trains_on_the_same_tokens_with_the_same_loss(kind, trl_losses):
    for row, example in zip(trl_losses[f"{kind} labels"], trl_losses["examples"], strict=True):
        expected = [
            token if weight else -100
            for token, weight in zip(example.rendered.ids, example.rendered.weights, strict=True)
        ]
        assert row[: len(expected)] == expected
        assert set(row[len(expected) :]) <= {-100}
    assert trl_losses[f"{kind} exact"] == pytest.approx(trl_losses["ours"], abs=1e-5)
    assert trl_losses[kind] == pytest.approx(trl_losses["ours"], abs=1e-5)


@pytest.mark.parametrize("template", [CHATML, LLAMA])
@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_the_marked_template_renders_the_same_text_as_the_models_own(template, prompt, tmp_path):
    made, renderer = exported("trl", tmp_path, template=template, prompt=prompt)
    marked = (tmp_path / "chat_template.jinja").read_text()
    for example in made:
        messages = [{**message, "train": weight != 0} for message, weight in example.weighted()]
        own = renderer.tokenizer.apply_chat_template(messages, tokenize=False)
        assert (
            renderer.tokenizer.apply_chat_template(messages, tokenize=False, chat_template=marked)
            == own
        )
        assert own.startswith("".join(text for text, _ in example.spans))
        coded = renderer.tokenizer.apply_chat_template(
            messages, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
        )
        count = len(example.rendered.ids)
        assert tuple(coded["input_ids"][:count]) == example.rendered.ids
        assert [float(mask) for mask in coded["assistant_masks"][:count]] == list(
            example.rendered.weights
        )


def test_a_template_that_changes_messages_is_not_marked(tmp_path):
    odd = CHATML.replace(
        "message['content']", "message['content'] | upper if loop.first else message['content']"
    )
    exported("trl", tmp_path, template=odd)
    assert not (tmp_path / "chat_template.jinja").exists()
    assert (tmp_path / "tokens.parquet").exists()


# --- chat templates of model families ------------------------------------------------------------

RENDERING = [name for name, target in TARGETS.items() if target.renders == "model"]


def with_cut_turns(*names):
    """The examples, in which the turns of some actions were cut at their maximum of tokens."""
    examples, trajectories = family()
    changed = TrajectorySet(
        replace(each, steps=tuple(replace(s, cut=s.action in names) for s in each.steps))
        for each in trajectories
    )
    renderer = Renderer(tiny_tokenizer(CHATML))
    return list(render_examples(examples, changed, PROMPT, renderer)), renderer


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_turn_that_was_cut_is_not_trained_as_a_message(name, tmp_path):
    """Its end was never sampled, and trainers of messages train the end of each."""
    made, renderer = with_cut_turns("d", "y\u00e9")
    student = made[0]
    assert [each.untrained for each in made] == [2, 0]
    assert student.weights == (0, 0, 1, 1, 1, 1)
    assert student.message_weights == (0, 0, 1, 0, 1, 0)
    for folded in (False, True):
        messages = list(student.weighted(folded=folded))
        said = [(m["content"], weight) for m, weight in messages if m["role"] == "assistant"]
        assert [weight for _, weight in said] == [0, 0, 1, 0, 1]
        assert messages[-1][1] == 1, "it ends in a trained turn"
    assert len(list(student.trained_parts())) == 2
    trained = "".join(text for text, weight in student.spans if weight)
    assert trained.endswith("y\u00e9")
    found = export(name, made, tmp_path, renderer)
    assert found.comparison is None or found.comparison.different == 0
    text = " ".join((tmp_path / "README.md").read_text().split())
    assert text.startswith(("# 2 examples", "2 examples"))
    assert "As messages, 2 cut turns are not trained." in text
    assert (tmp_path / MARKED_FILE).is_file() == (name == "trl")


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_examples_without_a_whole_trained_turn_are_exported_as_tokens_alone(name, tmp_path):
    made, renderer = with_cut_turns("a", "c", "e")
    assert (any(made[1].weights), any(made[1].message_weights)) == (True, False)
    export(name, made, tmp_path, renderer)
    count = 2 if TARGETS[name].renders == "tokens" else 1
    assert f"{count} example" in (tmp_path / "README.md").read_text().splitlines()[0]


def thinking(template, thoughts=True, **options):
    """The examples, whose completions begin with a thought block, and a renderer."""
    examples, trajectories = family()
    if thoughts:
        trajectories = TrajectorySet(
            replace(
                each,
                steps=tuple(
                    replace(step, completion=f"<think>\nhm\n</think>\n\n{step.completion}")
                    for step in each.steps
                ),
            )
            for each in trajectories
        )
    renderer = Renderer(tokenizer_of(template), **options)
    return list(render_examples(examples, trajectories, PROMPT, renderer)), renderer


def own_text(renderer, messages, **variables):
    return renderer.tokenizer.apply_chat_template(messages, tokenize=False, **variables)


@pytest.mark.parametrize("thoughts", [True, False])
@pytest.mark.parametrize("name", RENDERING)
def test_a_readme_states_that_a_template_changes_the_text(name, thoughts, tmp_path):
    made, renderer = thinking("qwen3", thoughts)
    assert export(name, made, tmp_path, renderer).comparison.different > 0
    text = " ".join((tmp_path / "README.md").read_text().split())
    assert "is not the text that `eef` trains on" in text
    assert "The text that carries loss is" not in text
    if not thoughts:  # Qwen3 puts an empty thought block before the last turn
        assert "assistant\\n<think>\\n\\n</think>" in text


@pytest.mark.parametrize(
    "template", ["qwen2.5", "qwen3-2507", "llama3.2", "gemma", "gemma3", "mistral", "smollm2"]
)
@pytest.mark.parametrize("name", RENDERING)
def test_a_readme_promises_equal_text_only_where_the_template_gives_it(name, template, tmp_path):
    made, renderer = thinking(template, thoughts=False)
    assert export(name, made, tmp_path, renderer).comparison.different == 0
    text = " ".join((tmp_path / "README.md").read_text().split())
    assert "The text that carries loss is the text `eef` trains on. The chat template of" in text
    assert ("prints the date" in text) == (template == "llama3.2")
    if name != "axolotl":
        return
    for row, example in zip(rows(tmp_path / "train.jsonl"), made, strict=True):
        messages = [{"role": each["role"], "content": each["content"]} for each in row["messages"]]
        assert own_text(renderer, messages).startswith("".join(text for text, _ in example.spans))


def test_template_variables_that_a_trainer_needs_are_in_the_readme(tmp_path):
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if brief is defined %}{{ '(brief) ' }}{% endif %}{{ m['content'] + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if brief is defined %}{{ '(brief) ' }}{% endif %}{% endif %}"
    )
    examples, trajectories = family()
    renderer = Renderer(
        byte_tokenizer(template, None, "<|im_end|>"), template_variables={"brief": True}
    )
    made = list(render_examples(examples, trajectories, PROMPT, renderer))
    export("axolotl", made, tmp_path / "a", renderer)
    text = " ".join((tmp_path / "a/README.md").read_text().split())
    assert 'renders every example to it if it gets the variables `{"brief": true}`' in text
    export("trl", made, tmp_path / "t", renderer)  # the marked template has their text
    marked = (tmp_path / "t/chat_template.jinja").read_text()
    for example in made:
        messages = [{**each, "train": True} for each in example.folded]
        text = own_text(renderer, messages, chat_template=marked)
        assert text.startswith("".join(text for text, _ in example.spans))


@pytest.mark.parametrize("template", list(FAMILIES))
@pytest.mark.parametrize("thoughts", [True, False])
def test_a_marked_template_renders_what_is_trained_or_is_not_there(template, thoughts, tmp_path):
    made, renderer = thinking(template, thoughts, template_variables=FAMILIES[template][2])
    export("trl", made, tmp_path, renderer)
    path, readme = tmp_path / "chat_template.jinja", (tmp_path / "README.md").read_text()
    assert path.is_file() == ("`chat_template.jinja` applies it" in readme)
    assert path.is_file() or template in ("qwen3.5", "qwen3.5-no-thoughts", "mistral-3")
    if not path.is_file():
        return
    for example, row in zip(made, rows(tmp_path / "messages.jsonl"), strict=True):
        coded = renderer.tokenizer.apply_chat_template(
            row["messages"],
            chat_template=path.read_text(),
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        count = len(example.rendered.ids)
        assert tuple(coded["input_ids"][:count]) == example.rendered.ids
        masks = [float(mask) for mask in coded["assistant_masks"][:count]]
        assert masks == list(example.rendered.weights)


# --- weights and targets that do not fit ---------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_real_valued_weights_are_written_or_refused_but_never_rounded(name, tmp_path):
    made, renderer = rendered(weights=(0, 0, 0.5, 1, 1, 0.25))
    if TARGETS[name].binary:
        with pytest.raises(MethodError, match=r"example 'b@2' has weight 0\.5") as caught:
            export(name, made, tmp_path, renderer)
        assert "ms-swift" in caught.value.hint
    else:
        export(name, made, tmp_path, renderer)


def test_loss_on_actions_needs_a_target_of_tokens(tmp_path):
    made, renderer = rendered(loss_on="action")
    for name, target in TARGETS.items():
        if target.renders != "tokens":
            with pytest.raises(MethodError, match="trains whole messages"):
                export(name, made, tmp_path / name, renderer)
        else:
            export(name, made, tmp_path / name, renderer)
    with pytest.raises(ConfigError, match="unknown export target 'axolotle'"):
        export("axolotle", made, tmp_path, renderer)
    with pytest.raises(MethodError, match="nothing to export"):
        export("trl", [], tmp_path, renderer)


# --- in a run ------------------------------------------------------------------------------------


def test_a_run_is_exported_to_every_target_and_rows_record_their_provenance(student, tmp_path):
    recipe = as_recipe({**small_recipe(student), "methods": ["bc"], "options": {}})
    pipeline = Pipeline.create(tmp_path / "run", recipe)
    for stage in (Stage("expert", 0, "collect"), Stage("bc", 0, "select")):
        pipeline.execute(stage)
    directory = pipeline.run.path
    for name in TARGETS:
        done = eef("export", directory, "--to", name)
        assert done.exit_code == 0, done.stderr
        assert all(
            line.startswith(str(tmp_path / "run/export" / name)) for line in done.stdout.split()
        )
    row = rows(tmp_path / "run/export/prompt-completion/bc-round0/train.jsonl")[0]
    shown = eef("show", directory, row["meta"]["example"], "--full")
    assert row["meta"]["authors"][0] in shown.stdout
    assert row["meta"]["evidence"][0] in shown.stdout
    text = (tmp_path / "run/export/axolotl/bc-round0/README.md").read_text()
    assert text.startswith("3 examples of `bc`, round 0, of the run `small`, written")
    assert eef("export", directory, "--to", "trl", "--round", "3").exit_code == 2
