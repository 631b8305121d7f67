"""Training: the loss of a batch however it is cut, resuming to the same bits, and errors."""

import pytest

torch = pytest.importorskip("torch")

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from itertools import islice, pairwise  # noqa: E402

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from eef.errors import ConfigError, DataError, MethodError, ModelError, StoreError  # noqa: E402
from eef.models.checkpoint import save_checkpoint  # noqa: E402
from eef.models.loading import load_model, logits_only_at  # noqa: E402
from eef.models.manifest import is_complete, read_manifest, verify_checkpoint  # noqa: E402
from eef.models.settings import LoraSettings  # noqa: E402
from eef.renderer import Rendered  # noqa: E402
from eef.training.batching import micro_batches, padded_tensors, shuffled_batches  # noqa: E402
from eef.training.settings import TrainSettings  # noqa: E402
from eef.training.sft import train_examples  # noqa: E402
from eef.training.trainer import learning_rate  # noqa: E402
from tests.fakes import ROOT  # noqa: E402
from tests.fakes.tiny import save_tiny, tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch


def examples(count=24, seed=1):
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(5, 40, (), generator=draw))
        ids = torch.randint(0, 256, (length,), generator=draw).tolist()
        weights = torch.randint(0, 3, (length,), generator=draw).div(2).tolist()
        made.append(Rendered(tuple(ids), (*weights[:-1], 1.0)))
    return made


def settings(**changes):
    values = {
        "updates": 6,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "warmup_ratio": 0.2,
        "threads": 1,
    }
    return TrainSettings.model_validate({**values, **changes})


def weights_of(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])


@torch.no_grad()
def plain_loss(model, batch):
    """The definition, one example at a time with all logits."""
    total, weight = 0.0, 0.0
    for example in batch:
        logits = model(torch.tensor([example.ids])).logits[0].log_softmax(-1)
        for index in range(1, len(example.ids)):
            total -= example.weights[index] * float(logits[index - 1, example.ids[index]])
            weight += example.weights[index]
    return total / weight


def test_loss_is_the_weighted_mean_over_all_trained_tokens_of_the_batch():
    model, batch = tiny_model(), examples(8)
    expected = plain_loss(model, batch)
    result = train_examples(model, batch, settings(updates=1))
    assert result.losses == pytest.approx([expected], rel=1e-5)
    assert result.trained_tokens == sum(example.trained for example in batch)
    assert result.processed_tokens == sum(len(example.ids) for example in batch)


def trained_in_parts(max_tokens_per_microbatch, updates):
    """(losses, gradients of the last update, weights)"""
    model, gradients = tiny_model(), {}
    for name, value in model.named_parameters():
        value.register_post_accumulate_grad_hook(
            lambda value, name=name: gradients.__setitem__(name, value.grad.flatten().clone())
        )
    # a low rate, so that differences in the last bits do not grow over later updates
    chosen = settings(
        updates=updates, max_tokens_per_microbatch=max_tokens_per_microbatch, learning_rate=3e-4
    )
    losses = train_examples(model, examples(), chosen).losses
    return (
        losses,
        torch.cat([gradients[name] for name, _ in model.named_parameters()]),
        weights_of(model),
    )


@pytest.mark.parametrize("max_tokens_per_microbatch", [1, 100])
def test_accumulated_in_parts_equals_the_batch_at_once(max_tokens_per_microbatch):
    for updates in (1, 4):
        losses, gradients, weights = trained_in_parts(max_tokens_per_microbatch, updates)
        expected_losses, expected_gradients, expected_weights = trained_in_parts(100_000, updates)
        assert losses == pytest.approx(expected_losses, rel=1e-6)
        assert torch.allclose(gradients, expected_gradients, atol=1e-6)
        # Adam divides by the gradient's size, so a step is uncertain where that is tiny
        assert torch.allclose(weights, expected_weights, atol=1e-6)


def test_training_lowers_the_loss():
    model = tiny_model()
    losses = train_examples(model, examples(8), settings(updates=40, learning_rate=1e-2)).losses
    assert losses[-1] < 0.3 * losses[0]


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, dropout=0.2)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, lora):
    save_tiny(tmp_path / "model")

    def run(directory, kill_at=None):
        torch.manual_seed(0)  # for the adapters' start
        model, _ = load_model(str(tmp_path / "model"), device="cpu", lora=lora)

        def watch(progress):
            if progress.done == kill_at:
                raise Killed

        result = train_examples(
            model,
            examples(),
            settings(updates=7, save_every=2),
            directory=directory,
            on_progress=watch,
        )
        return weights_of(model), result

    expected, uninterrupted = run(tmp_path / "one")
    for kill_at in (1, 5):
        with pytest.raises(Killed):
            run(tmp_path / "two", kill_at)
    resumed, result = run(tmp_path / "two")
    assert torch.equal(expected, resumed)
    assert result.losses == uninterrupted.losses
    assert result.trained_tokens == uninterrupted.trained_tokens


def test_a_training_that_ran_out_of_memory_resumes_with_less(tmp_path):
    def train(updates, **changes):
        given = settings(updates=7, save_every=2).model_copy(update=changes)
        torch.manual_seed(0)
        model = tiny_model()

        def watch(progress):
            if progress.done == updates:
                raise Killed

        return train_examples(model, examples(), given, directory=tmp_path, on_progress=watch)

    with pytest.raises(Killed):
        train(5)
    less = {"max_tokens_per_microbatch": 40, "gradient_checkpointing": True, "threads": 1}
    assert train(0, **less).updates == 7
    with pytest.raises(StoreError, match="other examples or settings"):
        train(0, learning_rate=1.0)


def test_a_training_checkpoint_without_its_manifest_is_ignored(tmp_path):
    torn = tmp_path / "update-00000004"
    torn.mkdir()
    (torn / "state.safetensors").write_bytes(b"half")
    assert (
        train_examples(tiny_model(), examples(), settings(save_every=2), directory=tmp_path).updates
        == 6
    )


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    train_examples(tiny_model(), examples(), settings(save_every=2), directory=tmp_path)
    with pytest.raises(StoreError, match="other examples or settings"):
        train_examples(tiny_model(), examples(seed=2), settings(save_every=2), directory=tmp_path)


def test_training_checkpoints_hold_no_pickle(tmp_path):
    train_examples(tiny_model(), examples(), settings(save_every=3), directory=tmp_path)
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [
        ".json",
        ".safetensors",
    ]


def test_weights_return_to_their_dtype_after_training():
    model = tiny_model().to(torch.bfloat16)
    before = weights_of(model).clone()
    train_examples(model, examples(), settings(dtype="bfloat16"))
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert not torch.equal(before, weights_of(model))
    assert not model.training


def test_gradient_checkpointing_changes_nothing():
    models = [tiny_model(), tiny_model()]
    for model, on in zip(models, (False, True), strict=True):
        train_examples(model, examples(), settings(gradient_checkpointing=on))
    assert torch.allclose(weights_of(models[0]), weights_of(models[1]), atol=1e-6)


def test_only_adapters_are_trained(tmp_path):
    model, _ = load_model(str(save_tiny(tmp_path)), device="cpu", lora=LoraSettings(rank=2))
    before = {name: value.clone() for name, value in model.named_parameters()}
    train_examples(model, examples(), settings())
    changed = {
        name for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }
    assert changed
    assert all("lora" in name for name in changed)


def test_training_errors():
    blank = Rendered((1, 2, 3), (1.0, 0.0, 0.0))  # nothing predicts the first token
    with pytest.raises(MethodError, match="nothing to train on"):
        train_examples(tiny_model(), [blank], settings())
    with pytest.raises(ConfigError, match="float16"):
        train_examples(tiny_model(), examples(), settings(dtype="float16"))
    with pytest.raises(ModelError, match="diverged"):
        train_examples(tiny_model(), examples(), settings(learning_rate=1e30, updates=5))


def test_logits_at_chosen_positions_only():
    model = tiny_model()
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        everything = model(ids).logits.flatten(0, 1)
        with logits_only_at(model, torch.tensor([1, 7, 11])):
            assert torch.allclose(model(ids).logits, everything[[1, 7, 11]], atol=1e-6)
        assert model(ids).logits.shape == (2, 6, 258)


def test_tensors_worked_example():
    ids, positions, targets, weights = padded_tensors(
        [Rendered((5, 6, 7), (0, 1, 0.5)), Rendered((8, 9), (0, 1))]
    )
    assert ids[:, :3].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert ids.shape == (2, 16)
    assert positions.tolist() == [0, 1, 16]
    assert targets.tolist() == [6, 7, 9]
    assert weights.tolist() == [1, 0.5, 1]


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_each_epoch_visits_every_example_once(count, batch_size, seed):
    needed = -(-3 * count // batch_size)
    order = [
        index
        for batch in islice(shuffled_batches(count, batch_size, seed), needed)
        for index in batch
    ][: 3 * count]
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 200))
def test_micro_batches_keep_every_example_within_the_limit(lengths, limit):
    examples = [Rendered((0,) * length, (1.0,) * length) for length in lengths]
    parts = micro_batches(examples, limit, lambda item: len(item.ids))
    assert sorted(len(example.ids) for part in parts for example in part) == sorted(lengths)
    for part in parts:
        longest = max(len(example.ids) for example in part)
        ids, *_ = padded_tensors(part)
        assert len(part) == 1 or max(ids.numel(), len(part) * longest) <= limit


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_rise_during_the_warmup_only(schedule):
    rates = [
        learning_rate(update, 20, settings(schedule=schedule, learning_rate=1.0))
        for update in range(20)
    ]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert all(one >= other > 0 for one, other in pairwise(rates[4:]))


def test_a_checkpoint_is_complete_only_with_its_manifest(tmp_path):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    save_checkpoint(model, tokenizer, tmp_path / "c", base="base", about={"round": 2})
    assert is_complete(tmp_path / "c")
    assert read_manifest(tmp_path / "c")["round"] == 2
    assert json.loads((tmp_path / "c" / "generation_config.json").read_text())["eos_token_id"] == [
        256
    ]
    verify_checkpoint(tmp_path / "c")
    again, _ = load_model(str(tmp_path / "c"), device="cpu")
    assert torch.equal(weights_of(model), weights_of(again))
    (tmp_path / "c" / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="was changed after it was written"):
        verify_checkpoint(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").unlink()
    assert not is_complete(tmp_path / "c")


def test_a_directory_of_adapters_is_a_model(tmp_path):
    base = save_tiny(tmp_path / "base")
    model, tokenizer = load_model(str(base), device="cpu", lora=LoraSettings(rank=2))
    train_examples(model, examples(), settings())
    save_checkpoint(model, tokenizer, tmp_path / "adapters", base=str(base))
    again, _ = load_model(f"hf/{tmp_path / 'adapters'}", device="cpu", lora=LoraSettings(rank=2))
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, again(ids).logits, atol=1e-6)
    assert any(value.requires_grad for value in again.parameters())
    with pytest.raises(ModelError, match="rank 2"):
        load_model(str(tmp_path / "adapters"), device="cpu", lora=LoraSettings(rank=8))


def test_loading_adapters_warns_of_nothing(tmp_path):
    """Outside of pytest: every warning is shown, none may come from PEFT's use of transformers."""
    base = save_tiny(tmp_path / "base")
    code = f"""
from pathlib import Path
from eef.models.checkpoint import save_checkpoint
from eef.models.loading import load_model
from eef.models.settings import LoraSettings
from eef.renderer import Rendered
from eef.training.settings import TrainSettings
from eef.training.sft import train_examples

model, tokenizer = load_model({str(base)!r}, device="cpu", lora=LoraSettings(rank=2))
example = Rendered((1, 2, 3), (0.0, 1.0, 1.0))
train_examples(model, [example], TrainSettings(updates=1, gradient_checkpointing=True))
save_checkpoint(model, tokenizer, Path({str(tmp_path / "adapters")!r}), base={str(base)!r})
load_model({str(tmp_path / "adapters")!r}, device="cpu")
"""
    command = [sys.executable, "-W", "always::FutureWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_models_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ModelError, match="no such model directory"):
        load_model(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no usable tokenizer"):
        load_model(str(tmp_path / "empty"))
    tiny_tokenizer().save_pretrained(tmp_path / "blank")
    with pytest.raises(ModelError, match="no usable model"):
        load_model(str(tmp_path / "blank"))
    save_tiny(tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_model(str(tmp_path / "plain"))
    save_tiny(tmp_path / "small", vocabulary=100)
    with pytest.raises(ModelError, match="embeddings for 100"):
        load_model(str(tmp_path / "small"))
