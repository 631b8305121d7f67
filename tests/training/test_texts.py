"""Training roles: the loss of texts by its formula, and pairs of texts like any other pairs."""

import pytest

torch = pytest.importorskip("torch")

from eef.errors import StoreError  # noqa: E402
from eef.renderer import RenderedPair, Renderer  # noqa: E402
from eef.rendering import fits, render_text, render_text_pairs, render_texts  # noqa: E402
from eef.roles import role_conversation  # noqa: E402
from eef.selection import TextExample, TextPair  # noqa: E402
from eef.training.dpo import train_pairs  # noqa: E402
from eef.training.round import RoundItems, train_round  # noqa: E402
from eef.training.settings import DpoSettings, TrainSettings  # noqa: E402
from eef.training.sft import train_examples  # noqa: E402
from tests.fakes.tiny import tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch
PROMPT = "You walk."
SETTINGS = TrainSettings(updates=1, batch_size=4, learning_rate=1e-3, warmup_ratio=0.0, threads=1)


def text(words, weight=1.0, question="Where to?", name="t"):
    return TextExample(
        id=name, role="reasoner", task="a", question=question, text=words, weight=weight
    )


def rendered(*texts):
    renderer = Renderer(tiny_tokenizer())
    return [render_text(each, PROMPT, renderer) for each in texts]


@torch.no_grad()
def formula(model, items, weights):
    """(1/T) Σ_t G_t · mean_i −log p(token i of text t)."""
    total = 0.0
    for item, weight in zip(items, weights, strict=True):
        logits = model(torch.tensor([item.ids])).logits[0].log_softmax(-1)
        trained = [at for at, value in enumerate(item.weights) if value]
        losses = [-float(logits[at - 1, item.ids[at]]) for at in trained]
        total += weight * sum(losses) / len(losses)
    return total / len(items)


def test_a_text_follows_the_question_that_the_role_was_asked_and_alone_carries_loss():
    renderer = Renderer(tiny_tokenizer())
    (item,) = rendered(text("Left."))
    conversation = role_conversation(PROMPT, "Where to?")
    asked = renderer.prompt(conversation)
    assert list(item.ids[: len(asked)]) == asked
    assert not any(item.weights[: len(asked)])
    assert renderer.tokenizer.decode(item.ids[len(asked) :]) == "Left.<|end|>"
    assert set(item.weights[len(asked) :]) == {1.0}
    assert "You walk." in conversation[0]["content"]


@pytest.mark.parametrize("limit", [8192, 60])
def test_the_loss_equals_the_formula_on_turns_of_unequal_length(limit):
    items = rendered(text("Go.", 1.0), text("Aim at the chest with the red key.", 0.25))
    settings = SETTINGS.model_copy(update={"max_tokens_per_microbatch": limit})
    result = train_examples(tiny_model(), items, settings, texts=True)
    assert result.losses[0] == pytest.approx(formula(tiny_model(), items, (1.0, 0.25)), rel=1e-5)
    over_tokens = train_examples(tiny_model(), items, settings)
    assert over_tokens.losses[0] != pytest.approx(result.losses[0], rel=1e-2)


def test_pairs_of_texts_train_like_two_texts():
    chosen, rejected = text("Step 1: good"), text("Step 1: bad, and long")
    pair = TextPair(id="p", chosen=chosen, rejected=rejected)
    renderer = Renderer(tiny_tokenizer())
    (made,), long = render_text_pairs([pair], PROMPT, renderer)
    assert (made, long) == (RenderedPair(*rendered(chosen, rejected)), [])
    models = [tiny_model(), tiny_model()]
    dpo = DpoSettings(learning_rate=1e-3)
    first = train_round(models[0], RoundItems(pairs=[made]), SETTINGS, dpo)
    by_hand = train_pairs(
        models[1], [RenderedPair(*rendered(chosen, rejected))], SETTINGS, dpo.beta
    )
    assert first.losses == by_hand.losses
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_texts_that_do_not_fit_are_named():
    short, long = text("Go.", name="short"), text("Go. " * 100, name="long")
    renderer = Renderer(tiny_tokenizer(), max_length=250)
    fitting, overflows = render_texts([short, long], PROMPT, renderer)
    assert (len(fitting), overflows) == (1, ["long"])
    assert fits(fitting[0], renderer)
    pair = TextPair(id="p", chosen=short, rejected=long)
    assert render_text_pairs([pair], PROMPT, renderer) == ([], ["p"])


def test_texts_and_pairs_survive_the_disk_and_refuse_what_makes_no_sense():
    pair = TextPair(id="p", chosen=text("a", 0.5), rejected=text("b"))
    assert TextPair.from_record(pair.to_record()) == pair
    with pytest.raises(StoreError, match="its weight is -1"):
        text("a", -1)
    with pytest.raises(StoreError, match="answers to different questions"):
        TextPair(id="p", chosen=text("a"), rejected=text("b", question="Why?"))
