"""Checkpoints: merged adapters, the model card, and a push to a fake of the hub's API."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from eef.errors import ConfigError, DataError, ModelError, StoreError
from eef.models.checkpoint import save_checkpoint
from eef.models.hub import push
from eef.models.loading import load_model
from eef.models.manifest import verify_checkpoint
from eef.models.settings import LoraSettings
from eef.pipeline.evaluation import EvalResult, Outcome
from eef.pipeline.ledger import Cost
from eef.pipeline.model_card import base_license, model_card
from eef.renderer import Rendered
from eef.training.settings import TrainSettings
from eef.training.sft import train_examples
from tests.fakes.hub import TOKEN, Hub
from tests.fakes.served import serving
from tests.fakes.small_run import as_recipe, eef, small_recipe
from tests.fakes.tiny import save_tiny, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A checkpoint of adapters that were trained a little, beside its base."""
    base = save_tiny(tmp_path_factory.mktemp("base"))
    (base / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    model, tokenizer = load_model(str(base), device="cpu", lora=LoraSettings(rank=4))
    ids = tuple(tokenizer("Action: go")["input_ids"])
    settings = TrainSettings(updates=3, batch_size=1, learning_rate=0.05, threads=1)
    train_examples(model, [Rendered(ids, (1.0,) * len(ids))], settings)
    directory = tmp_path_factory.mktemp("trained") / "checkpoint"
    save_checkpoint(model, tokenizer, directory, base=str(base), about={"method": "bc"})
    (directory / "README.md").write_text(card(base, lora={"rank": 4}))
    return directory, base, ids


def card(base, **model):
    recipe = as_recipe(small_recipe(base, model={"name": str(base), **model}))
    outcome = Outcome(task="toy/1", reward=1.0, success=True, finished=True, steps=3)
    outcomes = (outcome, replace(outcome, success=False))
    result = EvalResult(
        policy="p", method="bc", round=0, split="test", outcomes=outcomes, cost=Cost()
    )
    return model_card(
        recipe=recipe,
        method="bc",
        round=0,
        counts={"examples": 5},
        result=result,
        fingerprint={"env": "toy", "prompt": "a|b\nc"},
    )


def logits(path, ids):
    model, _ = load_model(str(path), device="cpu")
    with torch.no_grad():
        return model(torch.tensor([ids])).logits


def test_new_adapters_depend_on_the_seed_alone(tmp_path):
    save_tiny(tmp_path)

    def adapters(seed):
        torch.rand(3)  # whatever was drawn before
        model, _ = load_model(str(tmp_path), device="cpu", lora=LoraSettings(rank=2), seed=seed)
        return torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n])

    assert torch.equal(adapters(1), adapters(1))
    assert not torch.equal(adapters(1), adapters(2))


def test_merged_adapters_equal_the_adapted_model(adapters, tmp_path):
    directory, base, ids = adapters
    done = eef("model", "merge", directory, "--out", tmp_path / "full")
    assert done.exit_code == 0, done.stderr
    verify_checkpoint(tmp_path / "full")
    assert not (tmp_path / "full/adapter_config.json").exists()
    from transformers import AutoModelForCausalLM

    with torch.no_grad():  # plain transformers, without peft
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "full")(torch.tensor([ids])).logits
    assert torch.allclose(plain, logits(directory, ids), atol=1e-4)
    assert not torch.allclose(plain, logits(base, ids), atol=1e-2)
    cards = [ModelCard.load(path / "README.md") for path in (directory, tmp_path / "full")]
    assert [card.data.library_name for card in cards] == ["peft", "transformers"]
    assert [card.data.tags for card in cards] == [
        ["eef", "bc", "toy", "lora"],
        ["eef", "bc", "toy"],
    ]
    assert cards[0].text == cards[1].text
    again = eef("model", "merge", tmp_path / "full", "--out", tmp_path / "again")
    assert (again.exit_code, "the model has no adapters to merge" in again.stderr) == (2, True)


OTHERS = (
    "notes/a.txt",
    "project/config.json",
    "project/src/thesis.tex",
    "run/checkpoint/config.json",
    "run/recipe.json",
    "shared/manifest.json",
    "shared/thesis.tex",
)


@pytest.mark.parametrize(
    "out", ["run", "run/checkpoint", ".", "notes", "notes/a.txt", "project", "shared"]
)
def test_a_model_never_replaces_other_files(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in OTHERS:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    commands = [("merge", "run/checkpoint")] + [("build",)] * (out != "run/checkpoint")
    for command in commands:
        refused = eef("model", *command, "--out", out)
        assert (refused.exit_code, "choose a new directory" in refused.stderr) == (2, True)
    files = [str(path) for path in Path().rglob("*") if path.is_file()]
    assert sorted(files) == list(OTHERS)


def test_a_card_states_recipe_data_and_result(adapters):
    _, base, _ = adapters
    text = card(base, lora={"rank": 4})
    head = yaml.safe_load(text.split("---")[1])
    assert (head["library_name"], head["license"], head["base_model"]) == ("peft", "mit", str(base))
    assert "Win rate 50.0 %, mean reward 1.000 on 2 tasks" in text
    assert '"updates": 12' in text
    assert "| examples | 5 |" in text
    assert "| prompt | a\\|b c |" in text
    assert (base_license("base"), base_license("hf/no/where")) == ("apache-2.0", None)


def test_a_push_uploads_a_checkpoint_with_its_card(adapters, monkeypatch, tmp_path):
    directory, _, _ = adapters
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (directory / "training").mkdir(exist_ok=True)
    (directory / "training/state.bin").write_bytes(b"x")
    hub = Hub()
    with serving(hub) as (base, _):
        done = eef("model", "push", directory, "me/shopper", "--endpoint", base)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.strip() == f"{base}/me/shopper"
    assert hub.repositories["me/shopper"].get("visibility") == "private"
    kept = {str(path.relative_to(directory)) for path in directory.iterdir() if path.is_file()}
    assert set(hub.files) == kept
    assert all(content == (directory / name).read_bytes() for name, content in hub.files.items())
    assert TOKEN not in done.stdout + done.stderr


def test_errors_of_a_push_do_not_show_the_token(adapters, monkeypatch, tmp_path):
    directory, _, _ = adapters
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="`HF_TOKEN` is not set"):
        push(directory, "me/it")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with (
        serving(Hub(403)) as (base, _),
        pytest.raises(StoreError, match=r"refuses `me/it` \(403\)") as caught,
    ):
        push(directory, "me/it", endpoint=base)
    assert TOKEN not in caught.value.message + caught.value.hint
    with (
        pytest.raises(ConfigError, match="malformed repository name 'not/a/name'"),
        serving(Hub()) as (base, _),
    ):
        push(directory, "not/a/name", endpoint=base)
    bare = save_tiny(tmp_path / "bare")
    with pytest.raises(DataError, match="no complete checkpoint"):
        push(bare, "me/it")
    save_checkpoint(tiny_model(), tiny_tokenizer(), tmp_path / "whole", base="none")
    with pytest.raises(DataError, match="no model card"):
        push(tmp_path / "whole", "me/it")
    with pytest.raises(ModelError, match="no usable"):
        load_model(str(tmp_path))
    assert os.environ["HF_TOKEN"] == TOKEN
