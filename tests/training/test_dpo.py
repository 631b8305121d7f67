"""Training on pairs: the loss equals TRL's, excludes the environment's tokens, and it resumes."""

import pytest

torch = pytest.importorskip("torch")

import json  # noqa: E402
from itertools import groupby  # noqa: E402
from math import log  # noqa: E402

from eef.errors import MethodError  # noqa: E402
from eef.methods.registry import make_method  # noqa: E402
from eef.renderer import Rendered, RenderedPair, Renderer  # noqa: E402
from eef.rendering import render_pairs  # noqa: E402
from eef.training.dpo import train_pairs  # noqa: E402
from eef.training.round import RoundItems, train_round  # noqa: E402
from eef.training.settings import DpoSettings, TrainSettings  # noqa: E402
from eef.training.sft import train_examples  # noqa: E402
from eef.trajectory import Author, StateRef, Step, Trajectory, TrajectorySet  # noqa: E402
from tests.fakes.grids import expert, rollout  # noqa: E402
from tests.fakes.tiny import tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch
BETA = 0.1
PROMPT = "You are shopping."
EXPERT, STUDENT = Author("expert", "strong"), Author("student", "eto@round1")


def settings(**changes):
    values = {
        "updates": 4,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_ratio": 0.0,
        "threads": 1,
    }
    return TrainSettings.model_validate({**values, **changes})


def sequence(draw, prefix):
    """A common prefix without weight, then tokens of which some have one."""
    length = int(torch.randint(4, 20, (), generator=draw))
    ids = torch.randint(0, 256, (length,), generator=draw).tolist()
    weights = torch.randint(0, 2, (length,), generator=draw).float().tolist()
    return Rendered((*prefix, *ids), (*(0.0,) * len(prefix), *weights[:-1], 1.0))


def pairs(count=8):
    draw = torch.Generator().manual_seed(3)
    made = []
    for _ in range(count):
        prefix = torch.randint(0, 256, (6,), generator=draw).tolist()
        made.append(RenderedPair(sequence(draw, prefix), sequence(draw, prefix)))
    return made


def weights_of(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])


@torch.no_grad()
def score(model, response):
    """The definition: the weighted log-probability, token by token."""
    logits = model(torch.tensor([response.ids])).logits[0].log_softmax(-1)
    return sum(
        response.weights[at] * float(logits[at - 1, response.ids[at]])
        for at in range(1, len(response.ids))
    )


def margin(model, pair):
    return score(model, pair.chosen) - score(model, pair.rejected)


# the loss


def test_the_first_loss_is_that_of_equal_models():
    """Before the first update the student is its own reference: −log σ(0)."""
    batch = pairs(4)
    result = train_pairs(tiny_model(), batch, settings(updates=1), BETA)
    responses = [response for pair in batch for response in (pair.chosen, pair.rejected)]
    assert result.losses == pytest.approx([log(2)], rel=1e-6)
    assert result.trained_tokens == sum(response.trained for response in responses)
    assert result.processed_tokens == 2 * sum(
        len(response.ids) for response in responses
    )  # the reference's pass among them


def test_the_loss_is_the_definition():
    model, reference, batch = tiny_model(), tiny_model(), pairs(4)
    before = [margin(reference, pair) for pair in batch]
    losses = train_pairs(model, batch, settings(updates=1, learning_rate=0.01), BETA).losses
    after = tiny_model()
    after.load_state_dict(model.state_dict())
    gaps = [BETA * (margin(after, pair) - held) for pair, held in zip(batch, before, strict=True)]
    expected = -sum(torch.nn.functional.logsigmoid(torch.tensor(gap)) for gap in gaps) / 4
    again = tiny_model()
    two = train_pairs(
        again, batch, settings(updates=2, learning_rate=0.01, schedule="constant"), BETA
    ).losses
    assert losses[0] == two[0]
    assert two[1] == pytest.approx(float(expected), rel=1e-3)


def trl_trainer(model, reference, directory):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2
    arguments = trl.DPOConfig(
        output_dir=str(directory),
        beta=BETA,
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=4,
        gradient_checkpointing=False,
        disable_dropout=True,
    )
    return trl.DPOTrainer(
        model=model,
        ref_model=reference,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
    )


def trl_batch(batch):
    """A batch as TRL's collator makes it, chosen responses first, with our mask."""
    responses = [*(pair.chosen for pair in batch), *(pair.rejected for pair in batch)]
    width = max(len(response.ids) for response in responses)
    padded = {
        "input_ids": [
            [*response.ids, *[0] * (width - len(response.ids))] for response in responses
        ],
        "attention_mask": [
            [1] * len(response.ids) + [0] * (width - len(response.ids)) for response in responses
        ],
        "completion_mask": [
            [*map(int, response.weights), *[0] * (width - len(response.ids))]
            for response in responses
        ],
    }
    return {name: torch.tensor(values) for name, values in padded.items()}


@pytest.mark.filterwarnings("ignore")
def test_the_loss_is_trls_on_the_same_tokens(tmp_path):
    """TRL's loss of a trained student, with our masks in its batch."""
    student, batch = tiny_model(seed=1), pairs(4)
    ours = train_pairs(
        student, batch, settings(updates=3, schedule="constant", learning_rate=1e-2), BETA
    )
    at_third = tiny_model(seed=1)
    train_pairs(at_third, batch, settings(updates=2, schedule="constant", learning_rate=1e-2), BETA)
    trainer = trl_trainer(at_third, tiny_model(seed=1), tmp_path)
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, trl_batch(batch))
    assert float(theirs) != pytest.approx(log(2), rel=1e-2)
    assert ours.losses[2] == pytest.approx(float(theirs), rel=1e-4)


def test_margins_rise():
    model, batch = tiny_model(), pairs(4)
    before = [margin(tiny_model(), pair) for pair in batch]
    losses = train_pairs(model, batch, settings(updates=12, learning_rate=3e-3), BETA).losses
    assert losses[-1] < 0.8 * losses[0]
    assert all(margin(model, pair) > held for pair, held in zip(batch, before, strict=True))


@pytest.mark.parametrize("max_tokens_per_microbatch", [1, 80])
def test_micro_batches_give_the_loss_of_the_batch(max_tokens_per_microbatch):
    whole, parts = tiny_model(), tiny_model()
    expected = train_pairs(whole, pairs(), settings(max_tokens_per_microbatch=100_000), BETA)
    found = train_pairs(
        parts, pairs(), settings(max_tokens_per_microbatch=max_tokens_per_microbatch), BETA
    )
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert (found.trained_tokens, found.processed_tokens) == (
        expected.trained_tokens,
        expected.processed_tokens,
    )


def test_pairs_without_trained_tokens_are_skipped():
    empty = RenderedPair(Rendered((1, 2), (0.0, 0.0)), Rendered((1, 2), (0.0, 1.0)))
    with pytest.raises(MethodError, match="no pair has trained tokens"):
        train_pairs(tiny_model(), [empty], settings(), BETA)


# what carries loss


def episode(name, *turns, author=STUDENT, win=False, start=None, task="toy/1"):
    steps = tuple(
        Step(
            observation=f"PAGE {seen} of the shop",
            completion=f"Thought: I {does}.\nAction: {does}",
            action=does,
        )
        for seen, does in turns
    )
    return Trajectory(
        id=name,
        task=task,
        author=author,
        steps=steps,
        final_observation="PAGE over",
        status="terminated",
        reward=float(win),
        success=win,
        start=start,
        round=0 if author.role == "expert" else 1,
    )


def stored():
    """Expert trajectories and student rollouts from which every method makes pairs."""
    failed = episode(
        "f",
        ("one", "search"),
        ("two", "next"),
        ("three", "buy red"),
        author=EXPERT,
    )
    won = episode(
        "w",
        ("uno", "look"),
        ("due", "buy"),
        author=EXPERT,
        win=True,
        task="toy/2",
    )
    return TrajectorySet(
        [
            failed,
            won,
            episode("s", ("one", "search"), ("four", "buy blue"), win=True),
            episode("t", ("three", "buy green"), start=StateRef("f", 2)),
            episode("u", ("two", "back"), ("five", "buy blue"), start=StateRef("f", 1), win=True),
            episode("l", ("uno", "leave"), task="toy/2"),
            episode("m", ("due", "leave"), start=StateRef("w", 1), task="toy/2"),
        ]
    )


@pytest.mark.parametrize("method", ["eto", "ipr", "eef+dpo"])
@pytest.mark.parametrize("loss_on", ["completion", "action"])
def test_no_token_of_the_environment_carries_loss(method, loss_on):
    store, tokenizer = stored(), tiny_tokenizer()
    selection = make_method(method).select(store, ["toy/1", "toy/2"], 1)
    rendered, overflows = render_pairs(
        selection.pairs, store, PROMPT, Renderer(tokenizer, loss_on=loss_on)
    )
    assert rendered
    assert not overflows
    for response in (response for pair in rendered for response in (pair.chosen, pair.rejected)):
        parts = groupby(
            zip(response.ids, response.weights, strict=True), key=lambda token: token[1]
        )
        trained = [
            tokenizer.decode([token for token, _ in group]) for weight, group in parts if weight
        ]
        begins = (
            "Thought: I"
            if loss_on == "completion"
            else ("search", "next", "buy", "back", "look", "leave")
        )
        for text in trained:
            assert text.startswith(begins)
            assert text.endswith("<|end|>")
            assert not any(word in text for word in ("PAGE", "shop", "user", "system", PROMPT))


@pytest.mark.filterwarnings("ignore")
def test_trls_own_collator_puts_pages_into_the_loss():
    """The reason for our own rendering: given a multi-turn pair, TRL trains on the shop's pages."""
    preference = pytest.importorskip("trl.trainer.dpo_trainer")
    store, tokenizer = stored(), tiny_tokenizer()
    pair = make_method("eto").select(store, ["toy/1"], 1).pairs[0]
    (rendered,), _ = render_pairs([pair], store, PROMPT, Renderer(tokenizer))
    prompt = rendered.chosen.weights.index(
        1.0
    )  # up to the first completion both responses are equal
    row = {
        "prompt_ids": list(rendered.chosen.ids[:prompt]),
        "chosen_ids": list(rendered.chosen.ids[prompt:]),
        "rejected_ids": list(rendered.rejected.ids[prompt:]),
    }
    batch = preference.DataCollatorForPreference(pad_token_id=0)([row])
    theirs = tokenizer.decode(batch["input_ids"][0][batch["completion_mask"][0] == 1])
    ours = tokenizer.decode(
        [token for token, weight in zip(*_of(rendered.chosen), strict=True) if weight]
    )
    assert "PAGE four of the shop" in theirs
    assert "PAGE" not in ours


def _of(response):
    return response.ids, response.weights


def test_a_pair_is_skipped_if_one_response_is_too_long():
    store = stored()
    selection = make_method("eto").select(store, ["toy/1", "toy/2"], 1)
    renderer = Renderer(tiny_tokenizer(), max_length=240)
    rendered, overflows = render_pairs(selection.pairs, store, PROMPT, renderer)
    assert len(rendered) + len(overflows) == len(selection.pairs)
    assert overflows == ["s@0 > f@0"]


# a round's training


def imitations():
    return [pair.chosen for pair in pairs()]


def test_both_parts_share_the_updates():
    reports, model, alone = [], tiny_model(), tiny_model()
    examples, pair_settings = imitations(), DpoSettings(share=0.4, learning_rate=1e-30)
    result = train_round(
        model,
        RoundItems(examples=examples, pairs=pairs()),
        settings(updates=5),
        pair_settings,
        on_progress=reports.append,
    )
    assert (result.updates, len(result.losses)) == (5, 5)
    assert [(report.done, report.total) for report in reports] == [
        (number, 5) for number in range(1, 6)
    ]
    assert [report.note for report in reports] == [f"loss {loss:.3f}" for loss in result.losses]
    assert result.losses[3] == pytest.approx(log(2), rel=1e-5)
    first = train_examples(alone, examples, settings(updates=3))
    assert torch.equal(weights_of(model), weights_of(alone))  # pairs have their own learning rate
    second = train_pairs(alone, pairs(), settings(updates=2), BETA)
    assert result.processed_tokens == first.processed_tokens + second.processed_tokens


@pytest.mark.parametrize(
    ("examples", "preferences", "updates"), [(True, False, 4), (False, True, 4)]
)
def test_a_single_part_takes_all_updates(examples, preferences, updates):
    result = train_round(
        tiny_model(),
        RoundItems(examples=imitations() if examples else [], pairs=pairs() if preferences else []),
        settings(),
        DpoSettings(),
    )
    assert result.updates == updates


def test_one_update_is_left_to_the_examples():
    assert (
        train_round(
            tiny_model(),
            RoundItems(examples=imitations(), pairs=pairs()),
            settings(updates=1),
            DpoSettings(),
        ).updates
        == 1
    )


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("kill_at", [1, 4])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, kill_at):
    def run(directory, stop=None):
        model = tiny_model()

        def watch(progress):
            if progress.done == stop:
                raise Killed

        result = train_round(
            model,
            RoundItems(examples=imitations(), pairs=pairs()),
            settings(updates=5, save_every=1),
            DpoSettings(learning_rate=1e-3),
            directory=directory,
            on_progress=watch,
        )
        return result.losses, result.processed_tokens, weights_of(model)

    losses, tokens, weights = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "cut", kill_at)
    again = run(tmp_path / "cut")
    assert again[:2] == (losses, tokens)
    assert torch.equal(again[2], weights)
    manifest = next((tmp_path / "cut" / "pairs").glob("update-*/manifest.json"))
    assert json.loads(manifest.read_text())["updates"] in (2, 3)


def test_records_of_grids_serve_as_pairs():
    store = TrajectorySet([expert(), rollout("r", None, "win")])
    assert len(make_method("eto").select(store, ["toy/1"], 1).pairs) == 1
