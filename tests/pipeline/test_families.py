"""Model families: their chat templates in a whole small run, as student and as local expert."""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("torch")

import transformers.utils.chat_template_utils as template_utils

from eef.errors import ModelError
from eef.models.manifest import is_complete
from eef.pipeline.pipeline import Pipeline
from eef.renderer import Renderer
from eef.utils.jsonl import read_jsonl
from tests.fakes.families import (
    FAMILIES,
    NO_THOUGHTS,
    byte_tokenizer,
    save_family,
    template_of,
    tokenizer_of,
)
from tests.fakes.small_run import as_recipe, eef, small_recipe, write_recipe
from tests.fakes.tiny import tiny_model

pytestmark = pytest.mark.torch

PLAYED = ("qwen3", "qwen3-no-thoughts", "llama3.2", "gemma3", "gemma", "mistral-3", "phi4")
PLAYED += ("smollm2",)

THOUGHT = "<think>\nwhere?\n</think>\n\nThought: on.\nAction: right"
TALK = [
    {"role": "system", "content": "Rules."},
    {"role": "user", "content": "page 1"},
    {"role": "assistant", "content": THOUGHT},
    {"role": "user", "content": "page 2"},
    {"role": "assistant", "content": "Thought: back.\nAction: left"},
    {"role": "user", "content": "page 3"},
    {"role": "assistant", "content": THOUGHT},
]


def trained_text(rendered: Any, tokenizer: Any) -> str:
    pairs = zip(rendered.ids, rendered.weights, strict=True)
    return str(tokenizer.decode([token for token, weight in pairs if weight]))


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_prefixes_of_what_is_trained_and_completions_alone_are(family):
    tokenizer, (_, _, variables, folded) = tokenizer_of(family), FAMILIES[family]
    renderer = Renderer(tokenizer, template_variables=variables)
    renderer.check("Rules.")
    renderer.check("")
    assert renderer.template.folds_system == folded
    for talk in (TALK, TALK[1:]):
        completions = [each["content"] for each in talk if each["role"] == "assistant"]
        rendered = renderer.render(talk, [1.0] * 3)
        for number, message in enumerate(talk):
            if message["role"] == "user":
                prompt = renderer.prompt(talk[: number + 1])
                assert list(rendered.ids[: len(prompt)]) == prompt
                assert rendered.weights[len(prompt)] == 1
                assert rendered.weights[len(prompt) - 1] == 0
        text = tokenizer.decode(rendered.ids)
        assert "Rules." in text if talk is TALK else "Rules." not in text
        assert all(f"page {number}" in text for number in (1, 2, 3))
        trained = trained_text(rendered, tokenizer)
        stops = tokenizer.convert_ids_to_tokens(sorted(renderer.stop_ids))
        ends = re.split("|".join(map(re.escape, stops)), trained)
        ends = [each.strip() for each in ends if each.strip()]
        if family != "qwen3.5":
            assert ends == completions
        else:  # its prompt opens the thought block, which a turn without thoughts closes
            assert ends[0] == THOUGHT.removeprefix("<think>\n")
            assert ends[1] == f"</think>\n\n{completions[1]}"
        spans = renderer.spans(talk, [1.0] * 3)
        assert "".join(each for each, _ in spans) == text


@pytest.mark.parametrize("family", PLAYED)
def test_a_family_plays_and_learns_as_student_and_as_expert(family, tmp_path):
    student = save_family(family, tmp_path / "model")
    settings = small_recipe(
        student,
        methods=["rft"],
        expert={"names": ["scripted/weak", f"hf/{student}"]},
        tasks={"train": 6, "test": 1},
        budget={"rollouts_per_task": 1},
        sampling={"max_tokens": 12},
        rollouts={"batch_size": 4, "step_limit": 7},
        train={"updates": 2},
        chat={"template_variables": FAMILIES[family][2]},
    )
    settings.pop("options")
    done = eef("run", write_recipe(tmp_path / "r.json", settings), "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert "clean_up_tokenization_spaces" not in done.stderr
    assert is_complete(tmp_path / "run/rft/round1/checkpoint")
    records = read_jsonl(tmp_path / "run/expert/trajectories.jsonl")
    assert {each["author"]["name"] for each in records} == {"weak", "model"}


def test_a_run_has_one_date(tmp_path, monkeypatch):
    student = save_family("llama3.2", tmp_path / "model")
    recipe = as_recipe(small_recipe(student))
    pipeline = Pipeline.create(tmp_path / "run", recipe)
    started = json.loads((tmp_path / "run/fingerprint.json").read_text())["date"]
    assert started == date.today().isoformat()
    talk = TALK[:2]
    before = pipeline.context.base_renderer().prompt(talk)

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2031, 2, 3, 0, 1)

        @classmethod
        def today(cls):
            return datetime(2031, 2, 3, 0, 1)

    monkeypatch.setattr(template_utils, "datetime", Tomorrow)
    resumed = Pipeline.open(tmp_path / "run")
    resumed.check()
    renderer = resumed.context.base_renderer()
    assert renderer.prompt(talk) == before
    assert date.today().strftime("%d %b %Y") in renderer.tokenizer.decode(before)
    longer = renderer.prompt([*TALK[:3], TALK[3]])
    assert longer[: len(before)] == before


def test_the_date_is_the_given_one_in_every_format():
    given = date(2024, 7, 4)
    template = (
        "{%- if strftime_now is defined %}{{ strftime_now('%-d %B %Y, %A; %d/%m/%y %H:%M %j') }}"
        "{%- endif %}{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}"
        "{% endfor %}<|im_start|>"
    )
    renderer = Renderer(byte_tokenizer(template, None, "<|im_end|>"), date=given)
    text = renderer.tokenizer.decode(renderer.prompt(TALK[1:2]))
    assert text.startswith("4 July 2024, Thursday; 04/07/24 12:00 186<|im_start|>page 1")


def test_a_template_is_checked_before_anything_is_played(tmp_path):
    student = save_family("qwen2.5", tmp_path / "model")
    broken = "{{ messages | length }}" + template_of("smollm2")
    expert = tmp_path / "expert"
    tokenizer = byte_tokenizer(broken, None, "<|im_end|>")
    tiny_model(vocabulary=len(tokenizer)).save_pretrained(expert)
    tokenizer.save_pretrained(expert)
    changes: dict[str, dict[str, Any]]
    for changes in ({"model": {"name": str(expert)}}, {"expert": {"names": [f"hf/{expert}"]}}):
        recipe = as_recipe(small_recipe(student, **changes))
        pipeline = Pipeline.create(tmp_path / f"run-{next(iter(changes))}", recipe)
        with pytest.raises(ModelError, match="rewrites earlier messages") as caught:
            pipeline.check()
        assert "chat.template_variables" in caught.value.hint


def test_variables_reach_the_template_and_some_are_refused(tmp_path):
    tokenizer = tokenizer_of("qwen3")
    plain = tokenizer.decode(Renderer(tokenizer).prompt(TALK[:2]))
    quiet = tokenizer.decode(Renderer(tokenizer, template_variables=NO_THOUGHTS).prompt(TALK[:2]))
    assert quiet == plain + "<think>\n\n</think>\n\n"
    recipe = write_recipe(tmp_path / "r.json", small_recipe(tmp_path))
    done = eef("run", recipe, "--set", "chat.template_variables={tokenize = true}")
    assert done.exit_code == 2
    assert "`chat.template_variables`: `tokenize` is not a variable" in done.stderr
