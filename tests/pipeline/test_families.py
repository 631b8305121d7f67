"""Model families: their chat templates in a whole small run, as student and as local expert.

The templates are those in the package `trl`, read when the tests run; the others are rebuilt from
the documented rules of their families.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("torch")

import transformers.utils.chat_template_utils as template_utils
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eef.errors import ModelError
from eef.models.checkpoint import is_complete
from eef.pipeline.pipeline import Pipeline
from eef.renderer import Renderer
from eef.utils.jsonl import read_jsonl
from tests.fakes.small_run import as_recipe, eef, small_recipe, write_recipe
from tests.fakes.tiny import tiny_model

pytestmark = pytest.mark.torch

MISTRAL = (  # refuses a system message
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/…') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_3 = (  # puts the system message before the last user message
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set talk = messages[1:] %}{% else %}{% set talk = messages %}{% endif %}"
    "{{ bos_token }}{% for m in talk %}{% if m['role'] == 'user' %}"
    "{% if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m['content'] }}"
    "{% else %}{{ '[INST] ' + m['content'] }}{% endif %}{{ '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
SILENT = (  # drops the system message
    "{% for m in messages if m['role'] != 'system' %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI_4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] }}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
SMOLLM2 = (  # has a system message of its own
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OWN = {
    "mistral": MISTRAL,
    "mistral-3": MISTRAL_3,
    "silent": SILENT,
    "phi-4": PHI_4,
    "smollm2": SMOLLM2,
}

LLAMA, CHATML, GEMMA = ("<|begin_of_text|>", "<|eot_id|>"), (None, "<|im_end|>"), ("<bos>", "<eos>")
NO_THOUGHTS = {"enable_thinking": False}
FAMILIES: dict[str, tuple[str, tuple[str | None, str], dict[str, Any], bool]] = {
    # name: template, (first token, end of sequence), variables, whether the system is folded
    "qwen2.5": ("qwen2_5", CHATML, {}, False),
    "qwen3": ("qwen3", CHATML, {}, False),
    "qwen3-no-thoughts": ("qwen3", CHATML, NO_THOUGHTS, False),
    "qwen3-2507": ("qwen3_instruct_2507", CHATML, {}, False),
    "qwen3.5": ("qwen3_5_think", CHATML, {}, False),
    "qwen3.5-no-thoughts": ("qwen3_5_think", CHATML, NO_THOUGHTS, False),
    "llama3": ("llama3", LLAMA, {}, False),
    "llama3.1": ("llama3_1", LLAMA, {}, False),
    "llama3.2": ("llama3_2", LLAMA, {}, False),
    "gemma": ("gemma", GEMMA, {}, True),
    "gemma3": ("gemma3", GEMMA, {}, False),
    "phi3.5": ("phi3_5", ("<s>", "<|endoftext|>"), {}, False),
    "mistral": ("mistral", ("<s>", "</s>"), {}, True),
    "mistral-3": ("mistral-3", ("<s>", "</s>"), {}, True),
    "silent": ("silent", CHATML, {}, True),
    "phi4": ("phi-4", CHATML, {}, False),
    "smollm2": ("smollm2", CHATML, {}, False),
}
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


def template_of(name: str) -> str:
    if name in OWN:
        return OWN[name]
    found = find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("`trl` is not installed")
    path = Path(found.origin).parent / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this version of `trl` has no template `{name}`")
    return path.read_text(encoding="utf-8")


def tokenizer_of(family: str) -> Any:
    """A byte-level tokenizer with the special tokens and the chat template of a family."""
    name, (bos, eos), _, _ = FAMILIES[family]
    return byte_tokenizer(template_of(name), bos, eos)


def byte_tokenizer(template: str, bos: str | None, eos: str) -> Any:
    names = re.findall(r"<\|[a-z_]+\|>|<(?:start|end)_of_turn>", template)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = sorted({*names, eos, *([bos] if bos else [])})
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in special])
    if "think" in template:
        tokenizer.add_tokens([AddedToken(each) for each in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        pad_token=eos,
        chat_template=template,
        clean_up_tokenization_spaces=True,
        **({"bos_token": bos} if bos else {}),
    )


def save_family(family: str, directory: Path) -> Path:
    tokenizer = tokenizer_of(family)
    tiny_model(vocabulary=len(tokenizer), context=4096).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


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
