"""Exports: for every target, the text it would train on is the text we train on; TRL is run and has our loss."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest

from eef.errors import ConfigError, MethodError
from eef.exporters.examples import render_examples
from eef.exporters.targets import TARGETS, canonical, export
from eef.importers.formats import read_row
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.stages import Stage
from eef.renderer import Renderer
from eef.selection import TrainingExample
from eef.training.settings import TrainSettings
from eef.trajectory import Author, StateRef, Step, TrajectorySet
from tests.fakes.records import recorded
from tests.fakes.small_run import as_recipe, eef, small_recipe
from tests.fakes.tiny import CHATML, tiny_model, tiny_tokenizer

LLAMA = (
    "{{ '<|start|>' }}{% for m in messages %}{{ '<|start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n\n' }}{% endif %}"
)
PROMPT = "Walk to the chest."


def family():
    """An expert of six steps, and the student's win from its state 4; two examples of it, one with a step behind."""
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


def lessons(template=CHATML, prompt=PROMPT, weights=None, **options):
    examples, trajectories = family()
    if weights:
        examples = [replace(examples[0], weights=weights)]
    renderer = Renderer(tiny_tokenizer(template), **options)
    return list(render_examples(examples, trajectories, prompt, renderer, run="r")), renderer


def exported(name, directory, **options):
    made, renderer = lessons(**options)
    export(name, made, directory, renderer)
    return made, renderer


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def chatml(messages):
    return "".join(f"<|start|>{said['role']}\n{said['content']}<|end|>\n" for said in messages)


def by_message(messages, trained):
    """What a trainer shows and trains that renders ChatML and trains whole messages with their end of turn: the rule
    which Axolotl (`train_on_eos: turn`), ms-swift, Together, OpenAI and AgentGym document."""
    spans = []
    for said in messages:
        head, body = f"<|start|>{said['role']}\n", f"{said['content']}<|end|>"
        spans += [(head, 0.0), (body, float(trained(said))), ("\n", 0.0)]
    return join(spans)


def join(spans):
    joined = []
    for text, weight in spans:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        elif text:
            joined.append((text, weight))
    return joined


def ours(lesson):
    """Ours, with the newline that other renderers put behind the last turn."""
    return join([*lesson.spans, ("\n", 0.0)])


# --- what we ourselves say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, LLAMA])
@pytest.mark.parametrize("loss_on", ["completion", "action"])
def test_spans_are_the_text_of_the_tokens_with_their_weights(template, loss_on):
    made, renderer = lessons(template, loss_on=loss_on)
    for lesson in made:
        tokens = [
            (renderer.tokenizer.decode([token]), weight)
            for token, weight in zip(lesson.rendered.ids, lesson.rendered.weights, strict=True)
        ]
        assert sum(len(text.encode()) * (weight != 0) for text, weight in lesson.spans) == sum(
            weight != 0 for _, weight in tokens
        ) - lesson_specials(lesson)
        assert renderer.tokenizer.decode(lesson.rendered.ids) == "".join(
            text for text, _ in lesson.spans
        )


def lesson_specials(lesson):
    """Each `<|end|>` that is trained is one token of seven bytes: the bytes beyond the one token, taken off."""
    ends = sum(text.count("<|end|>") for text, weight in lesson.spans if weight != 0)
    return -6 * ends


def test_every_message_says_whether_it_is_trained_and_can_be_followed_back():
    made, _ = lessons()
    for lesson in made:
        row = canonical(lesson)
        assert [said["train"] for said in row["messages"] if said["role"] == "assistant"] == [
            weight != 0 for weight in lesson.weights
        ]
        assert all("train" in said for said in row["messages"])
        assert row["messages"][-1]["train"]  # cut behind the last trained turn
        assert len(row["meta"]["authors"]) == len(row["meta"]["reasons"]) == len(lesson.weights)
    assert made[0].meta["authors"] == ["expert:e"] * 4 + ["student:p"] * 2
    assert len(made[1].weights) == 3


# --- targets that take messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("axolotl", lambda said: said["train"]),
        ("ms-swift", lambda said: said["loss"]),
        ("openai", lambda said: said["weight"] == 1),
        ("together", lambda said: said["weight"] == 1),
    ],
)
def test_masks_by_message(name, trained, tmp_path):
    made, _ = exported(name, tmp_path)
    for row, lesson in zip(rows(tmp_path / "train.jsonl"), made, strict=True):
        assert by_message(row["messages"], trained) == ours(lesson)
        again = read_row({**row, "reward": 1.0})
        assert tuple(step.weight for step in again.steps) == lesson.weights
    assert "README.md" in {path.name for path in tmp_path.iterdir()}


def test_agentgym(tmp_path):
    made, _ = exported("agentgym", tmp_path, prompt="")
    for row, lesson in zip(json.loads((tmp_path / "train.json").read_text()), made, strict=True):
        said = [
            {
                "role": {"human": "user", "gpt": "assistant"}[each["from"]],
                "content": each["value"],
                "loss": bool(each["loss"]),
            }
            for each in row["conversations"]
        ]
        assert by_message(said, lambda each: each["loss"]) == ours(lesson)
    made, _ = exported("agentgym", tmp_path)
    for row, lesson in zip(json.loads((tmp_path / "train.json").read_text()), made, strict=True):
        again = read_row({**row, "reward": 1.0})
        assert (again.format, again.prompt) == ("agentgym", PROMPT)
        assert tuple(step.weight for step in again.steps) == lesson.weights


def test_llamafactory(tmp_path):
    made, _ = exported("llamafactory", tmp_path)
    old = rows(tmp_path / "v0/train.jsonl")
    assert (
        json.loads((tmp_path / "v0/dataset_info.json").read_text())["eef"]["file_name"]
        == "train.jsonl"
    )
    # v0 with `mask_history`: the last message of a row alone is trained; together they are what we train
    last = [row["messages"][-1]["content"] for row in old]
    assert last == [
        lesson.conversation[index]["content"] for lesson in made for index, _ in lesson.trained()
    ]
    spoken = [
        by_message(row["messages"], lambda said, row=row: said is row["messages"][-1])
        for row in old
    ]
    assert [spans[-2] for spans in spoken] == [
        (f"{lesson.conversation[index]['content']}<|end|>", 1.0)
        for lesson in made
        for index, _ in lesson.trained()
    ]
    assert all(sum(weight for _, weight in spans) == 1 for spans in spoken)
    for row, lesson in zip(rows(tmp_path / "v1/train.jsonl"), made, strict=True):
        # v1 gives a message's weight to its header and its newline too, as the README beside it says
        talk = [
            (
                f"<|start|>{said['role']}\n{said['content'][0]['value']}<|end|>\n",
                said["loss_weight"],
            )
            for said in row["messages"]
        ]
        bare = join((text if weight == 0 else "", weight) for text, weight in talk)
        assert "".join(text for text, _ in talk) == "".join(text for text, _ in ours(lesson))
        assert [
            said["loss_weight"] for said in row["messages"] if said["role"] == "assistant"
        ] == list(lesson.weights)
        assert bare


def test_atif(tmp_path):
    made, _ = exported("atif", tmp_path)
    documents = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    for document, lesson in zip(documents, made, strict=True):
        assert set(document) == {"schema_version", "session_id", "agent", "steps", "extra"}
        assert set(document["agent"]) == {"name", "version"}
        assert [step["step_id"] for step in document["steps"]] == list(
            range(1, len(document["steps"]) + 1)
        )
        said = []
        for step in document["steps"]:
            assert set(step) <= {"step_id", "source", "message", "extra", "observation"}
            assert step["source"] in ("system", "user", "agent")
            said.append(
                {
                    "role": {"agent": "assistant"}.get(step["source"], step["source"]),
                    "content": step["message"],
                    "train": step["extra"]["train"],
                }
            )
            said += [
                {"role": "user", "content": each["content"], "train": False}
                for each in step.get("observation", {}).get("results", [])
            ]
        assert by_message(said, lambda each: each["train"]) == ours(lesson)


# --- targets that take tokens or text ------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_on", ["completion", "action"])
def test_prompt_completion(loss_on, tmp_path):
    made, renderer = exported("prompt-completion", tmp_path, loss_on=loss_on)
    told = rows(tmp_path / "train.jsonl")
    assert [row["completion"] for row in told] == [
        text for each in made for text, weight in each.spans if weight != 0
    ]
    whole = {lesson.meta["example"]: "".join(text for text, _ in lesson.spans) for lesson in made}
    for row in told:
        assert whole[row["meta"]["example"]].startswith(row["prompt"] + row["completion"])
        ids = [
            token
            for part in (row["prompt"], row["completion"])
            for token in renderer.tokenizer(part, add_special_tokens=False)["input_ids"]
        ]
        lesson = next(each for each in made if each.meta["example"] == row["meta"]["example"])
        assert tuple(ids) == lesson.rendered.ids[: len(ids)]


def test_parquet_and_verl(tmp_path):
    from pyarrow import parquet

    weights = (0, 0, 0.5, 1, 1, 0.25)
    made, renderer = exported("parquet", tmp_path / "p", weights=weights)
    (row,) = parquet.read_table(tmp_path / "p/train.parquet").to_pylist()
    assert (tuple(row["input_ids"]), tuple(row["weights"])) == (
        made[0].rendered.ids,
        made[0].rendered.weights,
    )
    assert [said["weight"] for said in row["messages"] if said["role"] == "assistant"] == list(
        weights
    )
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


# --- TRL, for real -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl_losses(tmp_path_factory):
    """Loss of TRL's trainer on `tokens.parquet` and on `messages.jsonl`, and of ours, before any update."""
    import datasets
    import torch
    import trl

    from eef.training.sft import train

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
    results["ours"] = train(tiny_model(), [lesson.rendered for lesson in made], settings).losses[0]
    results["lessons"] = made
    return results


@pytest.mark.parametrize("kind", ["tokens", "messages"])
@pytest.mark.filterwarnings("ignore")
def test_trl_trains_on_the_same_tokens_with_the_same_loss(kind, trl_losses):
    for row, lesson in zip(trl_losses[f"{kind} labels"], trl_losses["lessons"], strict=True):
        told = [
            token if weight else -100
            for token, weight in zip(lesson.rendered.ids, lesson.rendered.weights, strict=True)
        ]
        assert row[: len(told)] == told
        assert set(row[len(told) :]) <= {-100}
    assert trl_losses[f"{kind} exact"] == pytest.approx(trl_losses["ours"], abs=1e-5)
    assert trl_losses[kind] == pytest.approx(trl_losses["ours"], abs=1e-5)


@pytest.mark.parametrize("template", [CHATML, LLAMA])
@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_the_marked_template_gives_the_text_of_the_models_own(template, prompt, tmp_path):
    made, renderer = exported("trl", tmp_path, template=template, prompt=prompt)
    marked = (tmp_path / "chat_template.jinja").read_text()
    for lesson in made:
        talk = [{**message, "train": weight != 0} for message, weight in lesson.weighted()]
        own = renderer.tokenizer.apply_chat_template(talk, tokenize=False)
        assert (
            renderer.tokenizer.apply_chat_template(talk, tokenize=False, chat_template=marked)
            == own
        )
        coded = renderer.tokenizer.apply_chat_template(
            talk, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
        )
        count = len(lesson.rendered.ids)
        assert tuple(coded["input_ids"][:count]) == lesson.rendered.ids
        assert [float(mask) for mask in coded["assistant_masks"][:count]] == list(
            lesson.rendered.weights
        )


def test_a_template_that_does_more_is_not_marked(tmp_path):
    odd = CHATML.replace(
        "message['content']", "message['content'] | upper if loop.first else message['content']"
    )
    exported("trl", tmp_path, template=odd)
    assert not (tmp_path / "chat_template.jinja").exists()
    assert (tmp_path / "tokens.parquet").exists()


# --- what cannot be written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_weights_between_are_written_or_refused_never_rounded(name, tmp_path):
    made, renderer = lessons(weights=(0, 0, 0.5, 1, 1, 0.25))
    if TARGETS[name].binary:
        with pytest.raises(MethodError, match=r"example 'b@2' has weight 0\.5") as caught:
            export(name, made, tmp_path, renderer)
        assert "ms-swift" in caught.value.hint
    else:
        export(name, made, tmp_path, renderer)


def test_loss_on_actions_is_for_targets_of_tokens(tmp_path):
    made, renderer = lessons(loss_on="action")
    for name, target in TARGETS.items():
        if target.messages:
            with pytest.raises(MethodError, match="trains whole messages"):
                export(name, made, tmp_path / name, renderer)
        else:
            export(name, made, tmp_path / name, renderer)
    with pytest.raises(ConfigError, match="unknown export target 'axolotle'"):
        export("axolotle", made, tmp_path, renderer)
    with pytest.raises(MethodError, match="nothing to export"):
        export("trl", [], tmp_path, renderer)


# --- of a run ------------------------------------------------------------------------------------------------------


def test_a_run_is_exported_and_each_row_followed_back(student, tmp_path):
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
    row = rows(tmp_path / "run/export/prompt-completion/train.jsonl")[0]
    shown = eef("show", directory, row["meta"]["example"], "--full")
    assert row["meta"]["authors"][0] in shown.stdout
    assert row["meta"]["evidence"][0] in shown.stdout
    assert eef("export", directory, "--to", "trl", "--round", "3").exit_code == 2
