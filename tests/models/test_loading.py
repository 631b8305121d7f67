"""Models: what is refused before weights are loaded, and what is fixed when they are."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from eef.errors import ModelError
from eef.models import checkpoint as checkpoints
from eef.models.checkpoint import merge_checkpoint, save_checkpoint
from eef.models.generation import note_changes
from eef.models.loading import check_model, load_model, load_tokenizer, no_peft_warnings
from eef.models.settings import LoraSettings
from eef.pipeline.pipeline import Pipeline
from eef.renderer import Rendered, Renderer
from eef.training.settings import TrainSettings
from eef.training.sft import train_examples
from tests.fakes.families import byte_tokenizer
from tests.fakes.small_run import as_recipe, eef, small_recipe, write_recipe
from tests.fakes.tiny import save_tiny, tiny_model, tiny_tokenizer

IDS = tuple(range(65, 97))


def logits(source):
    model = load_model(str(source), device="cpu")[0] if not hasattr(source, "forward") else source
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits


def trained(directory, out, targets):
    """A checkpoint of adapters on some layers, after a few large updates."""
    lora = LoraSettings(rank=4, targets=targets)
    model, tokenizer = load_model(str(directory), device="cpu", lora=lora)
    settings = TrainSettings(updates=4, batch_size=1, learning_rate=0.05, threads=1)
    train_examples(model, [Rendered(IDS, (1.0,) * len(IDS))], settings)
    save_checkpoint(model, tokenizer, out, base=str(directory))
    return out


def save_tied(directory, **settings):
    model = tiny_model()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    for name, value in settings.items():
        setattr(model.config, name, value)
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    assert len(json.loads((directory / "config.json").read_text())) > 3
    return directory


# --- generation settings -------------------------------------------------------------------------

INVALID = {
    "temperature": {"temperature": 0.9, "top_p": 0.6, "max_length": 4096},
    "top_k": {"top_k": 20, "do_sample": False},
    "min_p": {"min_p": 0.1, "typical_p": 0.9},
    "zero": {"temperature": 0.0, "top_p": 0.9},
    "beams": {"num_beams": 1, "early_stopping": True, "length_penalty": 0.8},
    "cache": {"use_cache": False, "cache_implementation": "static"},
}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", INVALID)
def test_a_model_with_invalid_generation_settings_is_saved_and_loads(name, lora, tmp_path, caplog):
    base, out = save_tiny(tmp_path / "base"), tmp_path / "out"
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 256, **INVALID[name]}))
    note_changes.cache_clear()
    if lora:
        trained(base, out, ("q_proj",))
        merge_checkpoint(out, tmp_path / "merged")
    else:
        save_checkpoint(*load_model(str(base), device="cpu"), out, base=str(base))
    assert "generation settings" in caplog.text
    for directory in (out, tmp_path / "merged") if lora else (out,):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config = GenerationConfig.from_pretrained(directory)
            config.validate(strict=True)
        assert config.eos_token_id == [256]
        logits(directory)
    if not lora:
        AutoModelForCausalLM.from_pretrained(out).save_pretrained(tmp_path / "again")


def test_generation_settings_in_the_configuration_of_a_model_are_removed(tmp_path):
    base = save_tiny(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "temperature": 0.5, "top_k": 3}))
    (base / "generation_config.json").unlink(missing_ok=True)
    save_checkpoint(*load_model(str(base), device="cpu"), tmp_path / "out", base=str(base))
    assert "temperature" not in json.loads((tmp_path / "out/config.json").read_text())
    logits(tmp_path / "out")


# --- merges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    [
        ("q_proj", "lm_head"),
        ("lm_head",),
        ("embed_tokens",),
        ("embed_tokens", "lm_head"),
        ("all-linear",),
        ("q_proj", "down_proj"),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_a_merged_model_equals_the_adapted_one(tied, targets, tmp_path):
    base = save_tied(tmp_path / "base") if tied else save_tiny(tmp_path / "base")
    out = trained(base, tmp_path / "out", targets)
    done = eef("model", "merge", out, "--out", tmp_path / "merged")
    assert done.exit_code == 0, done.stderr
    adapted, merged = logits(out), logits(tmp_path / "merged")
    assert not torch.allclose(adapted, logits(base), atol=1e-2)
    assert torch.allclose(merged, adapted, atol=1e-3)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(plain), adapted, atol=1e-3)
    untied = tied and bool({"lm_head", "embed_tokens"} & set(targets))
    assert plain.config.tie_word_embeddings == (tied and not untied)


def test_a_merge_that_changes_the_model_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    out = trained(save_tiny(tmp_path / "base"), tmp_path / "out", ("q_proj",))
    merge = checkpoints.merge_adapters

    def wrong(model):
        merged = merge(model)
        merged.lm_head.weight.data[:, 0] += 1
        return merged

    monkeypatch.setattr(checkpoints, "merge_adapters", wrong)
    done = eef("model", "merge", out, "--out", tmp_path / "merged")
    assert done.exit_code == 2
    assert "the merged model differs from the adapted one: its logits by" in done.stderr
    assert not (tmp_path / "merged").exists()


# --- adapters with added tokens -------------------------------------------------------------------


def save_extended(directory, base, saved):
    """Adapters with two added tokens, as other trainers leave them."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|a|>", "<|b|>"]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=saved)
    config.task_type = "CAUSAL_LM"
    with no_peft_warnings():
        adapted = get_peft_model(model, config)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight.data.normal_(0, 0.1)
        adapted.save_pretrained(directory, save_embedding_layers="auto" if saved else False)
    tokenizer.save_pretrained(directory)
    return adapted


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_with_added_tokens_loads_trains_and_merges(tied, tmp_path):
    base = save_tied(tmp_path / "base") if tied else save_tiny(tmp_path / "base")
    saved = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    adapted = save_extended(tmp_path / "adapters", base, saved)
    check_model(str(tmp_path / "adapters"))
    model, tokenizer = load_model(str(tmp_path / "adapters"), device="cpu")
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0] == 260
    assert torch.allclose(logits(model), logits(adapted.eval()), atol=1e-5)
    settings = TrainSettings(updates=2, batch_size=1, learning_rate=0.05, threads=1)
    train_examples(model, [Rendered((*IDS, 259), (1.0,) * (len(IDS) + 1))], settings)
    save_checkpoint(model, tokenizer, tmp_path / "out", base=str(tmp_path / "adapters"))
    merge_checkpoint(tmp_path / "out", tmp_path / "merged")
    assert torch.allclose(logits(tmp_path / "merged"), logits(tmp_path / "out"), atol=1e-3)


def test_adapters_without_the_embeddings_of_added_tokens_are_refused(tmp_path):
    base = save_tiny(tmp_path / "base")
    save_extended(tmp_path / "adapters", base, None)
    for refuse in (check_model, load_model):
        with pytest.raises(ModelError, match="embeddings for 258 tokens; its tokenizer has 260"):
            refuse(str(tmp_path / "adapters"))


# --- refused before anything is played ------------------------------------------------------------

REFUSED = {
    "misspelled": ({"targets": ["q_proj", "v_prj"]}, "no layer 'v_prj'", "did you mean 'v_proj'?"),
    "unknown": ({"targets": ["c_attn"]}, "has no layer 'c_attn'", "known: `all-linear`, `q_proj`"),
    "norm": ({"targets": ["input_layernorm"]}, "is not supported", "known: `all-linear`"),
    "part": ({"targets": ["proj"]}, "has no layer 'proj'", "did you mean"),
    "mixed": ({"targets": ["all-linear", "q_proj"]}, "no layer 'all-linear'", "known"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_targets_of_adapters_are_refused_before_the_expert_plays(name, tmp_path):
    lora, message, hint = REFUSED[name]
    student = save_tiny(tmp_path / "model")
    recipe = write_recipe(
        tmp_path / "r.json", small_recipe(student, model={"name": str(student), "lora": lora})
    )
    done = eef("run", recipe, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert message in done.stderr
    assert hint in done.stderr
    assert "`model.lora.targets`" in done.stderr
    assert not (tmp_path / "run/expert").exists()


def test_models_that_cannot_be_loaded_are_refused_before_the_expert_plays(tmp_path):
    def refusal(number, **model):
        recipe = as_recipe(small_recipe(tmp_path, model=model))
        pipeline = Pipeline.create(tmp_path / f"run{number}", recipe)
        with pytest.raises(ModelError) as caught:
            pipeline.execute_all()
        assert not (tmp_path / f"run{number}/expert").exists()
        return caught.value.message

    student = save_tiny(tmp_path / "model")
    assert "no device 'cuda:99'" in refusal(0, name=str(student), device="cuda:99")
    assert "unknown device 'gpu'" in refusal(1, name=str(student), device="gpu")
    larger = tmp_path / "larger"
    tiny_model(vocabulary=250).save_pretrained(larger)
    tiny_tokenizer().save_pretrained(larger)
    assert "embeddings for 250 tokens; its tokenizer has 258" in refusal(2, name=str(larger))
    (student / "model.safetensors").unlink()
    assert "holds no weights" in refusal(3, name=str(student))
    save_extended(tmp_path / "adapters", save_tiny(tmp_path / "base"), ["embed_tokens", "lm_head"])
    message = refusal(4, name=str(tmp_path / "adapters"), lora={"rank": 8})
    assert "`model.lora.rank` is 8; the adapters in" in message


def test_the_directory_of_a_run_gets_a_hint_with_its_latest_checkpoint(tmp_path):
    for age, name in enumerate(("eef/round2", "eef/round1")):
        checkpoint = tmp_path / name / "checkpoint"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
        os.utime(checkpoint / "manifest.json", (100 - age, 100 - age))
    (tmp_path / "eef/round3/training/update-1").mkdir(parents=True)
    (tmp_path / "eef/round3/training/update-1/manifest.json").write_text("{}")  # the newest
    with pytest.raises(ModelError, match="no usable tokenizer") as error:
        load_tokenizer(f"hf/{tmp_path}")
    assert error.value.hint.endswith(f"such as `{tmp_path / 'eef/round2/checkpoint'}`")


def test_stop_ids_are_those_of_the_template_with_its_variables(tmp_path):
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['content'] }}"
        "{{ '<|eot|>' if short is defined else '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
    )
    tokenizer = byte_tokenizer(template, None, "<|im_end|>")
    model = tiny_model(vocabulary=len(tokenizer))
    renderer = Renderer(tokenizer, template_variables={"short": True})
    save_checkpoint(model, tokenizer, tmp_path, base="none", stop_ids=renderer.stop_ids)
    found = GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|eot|>") in found


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's heap")
def test_released_memory_goes_back_to_the_operating_system():
    """3,000 blocks of 100 kB are freed below one that is still in use."""
    program = """
import os, torch
from eef.models.loading import release_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

blocks = [torch.ones(25_000) for _ in range(3_000)]
last = torch.ones(25_000)
del blocks
before = resident()
release_memory()
print(before - resident())
"""
    given_back = int(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert given_back > 200e6
