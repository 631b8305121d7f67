"""Policy gradients: loss and gradient in all clip regions, means, KL, imitation, resuming."""

import pytest

torch = pytest.importorskip("torch")

from itertools import count, groupby, islice, product  # noqa: E402

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from eef.errors import ConfigError, MethodError, StoreError  # noqa: E402
from eef.models.loading import load_model  # noqa: E402
from eef.models.settings import LoraSettings  # noqa: E402
from eef.renderer import Rendered, Renderer  # noqa: E402
from eef.training.batching import equal_batches  # noqa: E402
from eef.training.policy_gradient import (  # noqa: E402
    CarriedState,
    Place,
    PolicyGradientTrainer,
    acting_log_probabilities,
    token_scales,
    train_acts,
)
from eef.training.round import ActsTraining, RoundItems, train_round  # noqa: E402
from eef.training.settings import (  # noqa: E402
    DpoSettings,
    PolicyGradientSettings,
    TrainSettings,
)
from eef.training.trainer import training_mode  # noqa: E402
from tests.fakes.tiny import save_tiny, tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch


def settings(**changes):
    return TrainSettings.model_validate(
        {"learning_rate": 1e-3, "warmup_ratio": 0.0, "schedule": "constant", "threads": 1} | changes
    )


def gradient(**changes):
    return PolicyGradientSettings.model_validate({"learning_rate": 1e-3} | changes)


def act(seed, *turns):
    """A rendering with a few visible tokens before each (advantage, tokens) turn."""
    draw = torch.Generator().manual_seed(seed)
    ids, weights = [], []
    for advantage, tokens in turns:
        ids += torch.randint(0, 256, (3 + tokens,), generator=draw).tolist()
        weights += [0.0] * 3 + [advantage] * tokens
    return Rendered(tuple(ids), tuple(weights))


def group():
    return [act(1, (0.5, 2), (0.5, 4)), act(2, (-0.5, 3)), act(3, (0.25, 1), (-1.0, 5))]


def trainer_of(model, acts, temperature=1.0, ratio="clipped", **changes):
    parameters = dict(model.named_parameters())
    return PolicyGradientTrainer(
        model,
        parameters,
        acts,
        settings(),
        None,
        gradient=gradient(**changes),
        temperature=temperature,
        ratio=ratio,
        place=Place(round=1, rounds=1),
    )


def log_p(model, item, temperature=1.0):
    """The definition: log p of each trained token, [tokens]."""
    logits = model(torch.tensor([item.ids])).logits[0] / temperature
    at = torch.tensor([index for index, weight in enumerate(item.weights) if weight])
    return logits.log_softmax(-1)[at - 1, torch.tensor(item.ids)[at]]


def advantages(item):
    return torch.tensor([weight for weight in item.weights if weight])


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


def assert_equal(ours, theirs, tolerance=1e-5):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=tolerance)


# the loss


def test_before_the_first_update_the_gradient_is_that_of_reinforce():
    model, acts = tiny_model(), group()
    ours = gradients(model, trainer_of(model, acts).loss(acts))
    reinforce = -sum((advantages(item) * log_p(model, item)).sum() for item in acts)
    assert_equal(ours, gradients(model, reinforce))


REGIONS = [0.3, 0.79, 0.81, 1.0, 1.19, 1.21, 2.9, 3.1]


@pytest.mark.parametrize(("ratio", "advantage"), [*product(REGIONS, (0.7, -0.7))])
def test_a_ratio_outside_the_bounds_gives_no_gradient(ratio, advantage):
    """One token in each clip region: the gradient by its definition and by finite differences."""
    model, item = tiny_model(), act(5, (advantage, 1))
    trainer = trainer_of(model, [item])
    trainer.old[item] = trainer.old[item] - torch.tensor(ratio).log()
    inside = ratio < 1.2 if advantage > 0 else 0.8 < ratio < 3.0
    expected = [
        -advantage * ratio * inside * slope for slope in gradients(model, log_p(model, item).sum())
    ]
    ours = gradients(model, trainer.loss([item]))
    assert_equal(ours, expected)
    # a step along the gradient of log p changes the loss by as much as the gradient predicts
    slopes = gradients(model, log_p(model, item).sum())
    size = float(sum((slope**2).sum() for slope in slopes)) ** 0.5
    width = 2e-3 / size
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            for value, slope in zip(model.parameters(), slopes, strict=True):
                value += sign * width * slope / size
            ends.append(float(trainer.loss([item])))
    predicted = float(sum((a * b).sum() for a, b in zip(ours, slopes, strict=True))) / size
    assert (ends[0] - ends[1]) / (2 * width) == pytest.approx(predicted, rel=0.05, abs=2e-2)


def test_the_value_of_the_loss_in_each_region():
    model, item = tiny_model(), act(5, (-2.0, 1))
    trainer = trainer_of(model, [item])
    unshifted = trainer.old[item].clone()
    for ratio, expected in [(0.5, 1.6), (0.9, 1.8), (2.5, 5.0), (9.0, 6.0)]:
        trainer.old[item] = unshifted - torch.tensor(ratio).log()
        assert float(trainer.loss([item]).detach()) == pytest.approx(expected, rel=1e-4)


def test_the_upper_bound_and_that_of_negative_advantages_can_be_set():
    model, item = tiny_model(), act(5, (1.0, 1))
    trainer = trainer_of(model, [item], clip_high=0.5, clip_negative=None)
    trainer.old[item] = trainer.old[item] - torch.tensor(9.0).log()
    assert float(trainer.loss([item]).detach()) == pytest.approx(-1.5, rel=1e-4)
    lost = act(5, (-1.0, 1))
    trainer = trainer_of(model, [lost], clip_negative=None)
    trainer.old[lost] = trainer.old[lost] - torch.tensor(9.0).log()
    assert float(trainer.loss([lost]).detach()) == pytest.approx(9.0, rel=1e-4)


@pytest.mark.parametrize(("ratio", "advantage"), [*product(REGIONS, (0.7, -0.7))])
def test_a_constant_ratio_saturates_at_its_bounds(ratio, advantage):
    """One token: the gradient is clip(ratio) · A · ∇ log p, beyond the bounds too."""
    model, item = tiny_model(), act(5, (advantage, 1))
    trainer = trainer_of(model, [item], ratio="constant", clip=0.3)
    trainer.old[item] = trainer.old[item] - torch.tensor(ratio).log()
    slopes = gradients(model, log_p(model, item).sum())
    factor = -advantage * min(max(ratio, 0.7), 1.3)
    ours = gradients(model, trainer.loss([item]))
    assert_equal(ours, [factor * slope for slope in slopes])
    # by finite differences of log p along its own gradient, with the ratio held
    size = float(sum((slope**2).sum() for slope in slopes)) ** 0.5
    width = 2e-3 / size
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            for value, slope in zip(model.parameters(), slopes, strict=True):
                value += sign * width * slope / size
            ends.append(float(log_p(model, item).sum()))
    predicted = float(sum((a * b).sum() for a, b in zip(ours, slopes, strict=True))) / size
    assert factor * (ends[0] - ends[1]) / (2 * width) == pytest.approx(predicted, rel=0.05)


def test_without_a_ratio_it_is_weighted_regression():
    """−A log p at temperature 1, whatever the model was when it acted."""
    # in double precision: an advantage of 12.2 multiplies the errors of rounding
    model, acts = tiny_model().double(), [act(1, (12.2, 2), (0.8, 4)), act(2, (1.0, 3))]
    trainer = trainer_of(model, acts, temperature=0.0, ratio="none", mean_over="turns")
    assert trainer.old == {}
    assert trainer.result.processed_tokens == 0
    expected = -(
        12.2 * log_p(model, acts[0])[:2].mean()
        + 0.8 * log_p(model, acts[0])[2:].mean()
        + log_p(model, acts[1]).mean()
    )
    assert_equal(gradients(model, trainer.loss(acts)), gradients(model, expected))
    assert sum(map(trainer.weight, acts)) == pytest.approx(3.0)
    result = train_acts(model, acts, settings(), gradient(), temperature=0.0, ratio="none")
    assert result.updates == 1


def test_probabilities_are_those_at_the_sampling_temperature():
    model, acts = tiny_model(), group()
    ours = gradients(model, trainer_of(model, acts, temperature=0.5).loss(acts))
    reinforce = -sum((advantages(item) * log_p(model, item, 0.5)).sum() for item in acts)
    assert_equal(ours, gradients(model, reinforce))


def test_the_kl_term_is_the_estimator_k3():
    model, frozen, item = tiny_model(), tiny_model(seed=4), act(5, (0.5, 3))
    trainer = PolicyGradientTrainer(
        model,
        dict(model.named_parameters()),
        [item],
        settings(),
        None,
        gradient=gradient(kl=0.3),
        temperature=1.0,
        reference=frozen,
        place=Place(round=1, rounds=1),
    )
    distance = log_p(frozen, item).detach() - log_p(model, item)
    expected = (-0.5 * (log_p(model, item) - log_p(model, item).detach()).exp()).sum() + 0.3 * (
        distance.exp() - distance - 1
    ).sum()
    assert_equal(gradients(model, trainer.loss([item])), gradients(model, expected), tolerance=1e-4)


# means


def test_tokens_turns_and_episodes_weigh_as_in_the_worked_example():
    item = Rendered((9,) * 6, (0.0, 1.0, 0.0, 1.0, 1.0, 1.0))
    assert token_scales(item, "tokens").tolist() == [1, 1, 1, 1]
    assert token_scales(item, "turns").tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
    assert token_scales(item, "episodes").tolist() == pytest.approx([0.25] * 4)


def test_a_turn_whose_action_is_followed_by_text_counts_once():
    """Only the action and the end of the turn are trained, in two runs."""
    renderer = Renderer(tiny_tokenizer(), loss_on="action")
    talk = [{"role": "user", "content": "page 1"}]
    for text in ("Thought: on.\nAction: buy\n\nThat was it.", "Thought: on.\nAction: buy"):
        talk += [{"role": "assistant", "content": text}, {"role": "user", "content": "page 2"}]
    item = renderer.render(talk, [1.0, 1.0])
    runs = sum(1 for run, _ in groupby(item.weights) if run)
    assert (runs, len(item.turn_ends)) == (3, 2)
    assert float(token_scales(item, "turns").sum()) == pytest.approx(2)
    assert float(token_scales(item, "tokens").sum()) == item.trained


@pytest.mark.parametrize(
    ("mean_over", "divisors"),
    [("tokens", (15, 15, 15)), ("turns", None), ("episodes", (18, 9, 18))],
)
def test_the_loss_of_an_update_is_the_mean_over_units(mean_over, divisors):
    model, acts = tiny_model(), group()
    trainer = trainer_of(model, acts, mean_over=mean_over)
    total = sum(trainer.weight(item) for item in acts)
    assert total == pytest.approx({"tokens": 15, "turns": 5, "episodes": 3}[mean_over])
    if divisors is None:  # turns of 2, 4, 3, 1 and 5 tokens
        shares = [[1 / 2] * 2 + [1 / 4] * 4, [1 / 3] * 3, [1.0] + [1 / 5] * 5]
        expected = -sum(
            (torch.tensor(share) * advantages(item) * log_p(model, item)).sum() / 5
            for share, item in zip(shares, acts, strict=True)
        )
    else:
        expected = -sum(
            (advantages(item) * log_p(model, item)).sum() / divisor
            for divisor, item in zip(divisors, acts, strict=True)
        )
    for value in model.parameters():
        value.grad = None
    trainer.backward(0, acts)
    assert_equal([value.grad for value in model.parameters()], gradients(model, expected))


@pytest.mark.parametrize("mean_over", ["tokens", "turns", "episodes"])
@pytest.mark.parametrize("ratio", ["clipped", "none"])
def test_the_gradient_of_a_whole_update_equals_finite_differences(ratio, mean_over):
    """With the KL and imitation terms, ratios on both sides of 1, and a mean over a batch."""
    model, frozen = tiny_model().double(), tiny_model(seed=4).double()
    acts, examples = group(), [act(8, (1.0, 5)), act(9, (1.0, 2))]
    trainer = PolicyGradientTrainer(
        model,
        dict(model.named_parameters()),
        acts,
        settings(),
        None,
        gradient=gradient(kl=0.3, imitation=0.7, mean_over=mean_over),
        temperature=0.8,
        ratio=ratio,
        examples=examples,
        reference=frozen,
        place=Place(round=1, rounds=1),
    )
    for number, item in enumerate(trainer.old):
        trainer.old[item] = trainer.old[item] + (-1) ** number * 0.1

    def loss():
        for value in model.parameters():
            value.grad = None
        return float(sum(part.double().sum() for part in trainer.backward(0, acts)))

    start = loss()
    slopes = [value.grad.clone() for value in model.parameters()]
    draw, width = torch.Generator().manual_seed(0), 3e-4  # log p is computed in float32
    for _ in range(3):
        way = [torch.randn(slope.shape, generator=draw, dtype=torch.float64) for slope in slopes]
        ends = []
        for sign in (1, -2):
            with torch.no_grad():
                for value, step in zip(model.parameters(), way, strict=True):
                    value += sign * width * step
            ends.append(loss())
        with torch.no_grad():
            for value, step in zip(model.parameters(), way, strict=True):
                value += width * step
        predicted = float(sum((a * b).sum() for a, b in zip(slopes, way, strict=True)))
        assert (ends[0] - ends[1]) / (2 * width) == pytest.approx(predicted, rel=5e-3)
    assert loss() == pytest.approx(start, rel=1e-5)


# training


def test_training_raises_what_is_better_and_lowers_what_is_worse():
    model, acts = tiny_model(), [act(1, (1.0, 4)), act(2, (-1.0, 4))]
    before = [float(log_p(model, item).sum().detach()) for item in acts]
    result = train_acts(model, acts, settings(), gradient(epochs=4), temperature=1.0)
    after = [float(log_p(model, item).sum().detach()) for item in acts]
    assert result.updates == 4
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_acts_without_an_advantage_give_no_gradient():
    flat = act(1, (0.0, 3))
    with pytest.raises(MethodError, match="no act has an advantage"):
        train_acts(tiny_model(), [flat], settings(), gradient(), temperature=1.0)
    one, other = tiny_model(), tiny_model()
    train_acts(one, [*group(), flat], settings(), gradient(), temperature=1.0)
    train_acts(other, group(), settings(), gradient(), temperature=1.0)
    assert_equal(list(one.parameters()), list(other.parameters()), tolerance=0)


def test_greedy_rollouts_are_refused():
    with pytest.raises(ConfigError, match=r"`sampling\.temperature` is 0"):
        train_acts(tiny_model(), group(), settings(), gradient(), temperature=0.0)


def test_examples_are_imitated_beside_acts():
    model, example = tiny_model(), act(8, (1.0, 5))
    before = float(log_p(model, example).sum().detach())
    for weight, rises in [(0.0, False), (3.0, True)]:
        model = tiny_model()
        train_acts(
            model,
            [act(2, (-1e-4, 1))],
            settings(),
            gradient(epochs=5, imitation=weight),
            temperature=1.0,
            examples=[example],
        )
        after = float(log_p(model, example).sum().detach())
        assert (after > before + 1) is rises


def test_the_schedule_runs_over_all_rounds():
    model, acts = tiny_model(), group()
    rates = []
    for round in (1, 2):
        trainer = PolicyGradientTrainer(
            model,
            dict(model.named_parameters()),
            acts,
            settings(schedule="linear", updates=4, learning_rate=1.0),
            None,
            gradient=gradient(),
            temperature=1.0,
            place=Place(round=round, rounds=2),
        )
        rates += [trainer.learning_rate(update) for update in range(4)]
    assert rates == pytest.approx([1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_moments_carry_over_to_the_next_round(tmp_path):
    """Two rounds of one update each, in one process or in two, end in the same bits."""
    first, second = CarriedState(before=None, after=tmp_path / "1"), tmp_path / "2"
    with training_mode(model := tiny_model(), settings()):
        pass
    train_acts(model, group(), settings(), gradient(), temperature=1.0, carried=first)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    next_round = CarriedState(before=first.after, after=second)
    train_acts(model, group(), settings(), gradient(), temperature=1.0, carried=next_round)

    other = tiny_model()
    other.load_state_dict(weights)
    train_acts(other, group(), settings(), gradient(), temperature=1.0, carried=next_round)
    assert_equal(list(model.parameters()), list(other.parameters()), tolerance=0)

    fresh = tiny_model()
    fresh.load_state_dict(weights)
    train_acts(fresh, group(), settings(), gradient(), temperature=1.0)
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters())]  # noqa: B905
    assert any(moved), "without moments the second update is another"


def test_a_damaged_optimizer_state_is_refused(tmp_path):
    carried = CarriedState(before=None, after=tmp_path / "1")
    train_acts(tiny_model(), group(), settings(), gradient(), temperature=1.0, carried=carried)
    for path in (tmp_path / "1").glob("*.safetensors"):
        path.write_bytes(b"torn")
    carried = CarriedState(before=tmp_path / "1", after=tmp_path / "2")
    with pytest.raises(StoreError, match="cannot read the training state"):
        train_acts(tiny_model(), group(), settings(), gradient(), temperature=1.0, carried=carried)


def test_an_interrupted_training_ends_in_the_same_bits(tmp_path):
    class StopError(Exception):
        pass

    def stop(progress):
        if progress.done == 2:
            raise StopError

    whole, resumed = tiny_model(), tiny_model()
    chosen = gradient(epochs=4, batch_size=2)
    train_acts(whole, group(), settings(save_every=1), chosen, temperature=1.0)
    with pytest.raises(StopError):
        train_acts(
            resumed,
            group(),
            settings(save_every=1),
            chosen,
            temperature=1.0,
            directory=tmp_path,
            on_progress=stop,
        )
    again = tiny_model()
    result = train_acts(
        again, group(), settings(save_every=1), chosen, temperature=1.0, directory=tmp_path
    )
    assert result.updates == 8
    assert_equal(list(whole.parameters()), list(again.parameters()), tolerance=0)


def test_imitated_examples_and_passes_before_updates_are_counted():
    acts, examples = group(), [act(7, (1.0, 4)), act(8, (1.0, 2))]
    reference = tiny_model(seed=4)

    def train(**changes):
        model, chosen = tiny_model(), gradient(batch_size=3, **changes)
        return train_acts(
            model, acts, settings(), chosen, temperature=1.0, examples=examples, reference=reference
        )

    tokens = sum(len(item.ids) for item in acts)
    alone = train()
    assert alone.processed_tokens == 2 * tokens  # a pass for the old probabilities
    both = train(imitation=0.5, kl=0.1)
    more = both.processed_tokens - 3 * tokens
    drawn = [len(item.ids) for item in examples]
    assert 3 * min(drawn) <= more <= 3 * max(drawn)  # as many examples as acts
    assert both.trained_tokens > alone.trained_tokens == sum(item.trained for item in acts)


def test_a_training_with_other_examples_or_rounds_is_not_resumed(tmp_path):
    def train(seed, rounds):
        train_acts(
            tiny_model(),
            group(),
            settings(save_every=1),
            gradient(imitation=0.5),
            temperature=1.0,
            examples=[act(seed, (1.0, 4))],
            place=Place(round=1, rounds=rounds),
            directory=tmp_path,
        )

    train(7, 2)
    train(7, 2)
    for other in ((8, 2), (7, 3)):
        with pytest.raises(StoreError, match="other examples or settings"):
            train(*other)


def test_passes_before_the_first_update_take_seconds(monkeypatch):
    ticks = count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))
    trainer = trainer_of(tiny_model(), group())
    assert trainer.result.seconds == 1.0


@given(st.integers(1, 40), st.data())
def test_each_epoch_goes_through_every_act_once(acts, data):
    batches = data.draw(st.integers(1, acts))
    found = list(islice(equal_batches(acts, batches, seed=3), 3 * batches))
    for epoch in range(3):
        parts = found[epoch * batches : (epoch + 1) * batches]
        assert sorted(index for part in parts for index in part) == list(range(acts))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert found[:batches] != found[batches : 2 * batches] or acts <= 3


def test_a_round_takes_each_act_once():
    """Five acts in batches of at most four are two batches, of three and of two."""
    model, acts = tiny_model(), [act(seed, (0.5, 2)) for seed in range(5)]
    trainer = trainer_of(model, acts, epochs=1, batch_size=4)
    trainer.settings = trainer.settings.model_copy(update={"batch_size": 3})
    batches = list(islice(trainer.batches(), 2))
    assert sorted([*batches[0], *batches[1]]) == [0, 1, 2, 3, 4]


def test_dropout_does_not_change_ratios(tmp_path):
    """Before the first update, the student is the one that acted, whatever its adapters drop."""
    lora = LoraSettings(rank=2, dropout=0.5)
    model, _ = load_model(str(save_tiny(tmp_path)), device="cpu", lora=lora)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.5)
    acts = group()
    with training_mode(model, settings(), dropout=False):
        trainer = trainer_of(model, acts)
        now = -trainer.token_losses([acts[0]])[0]
        assert torch.equal(now, trainer.old[acts[0]])
    model.train()
    ids = torch.tensor([acts[0].ids])
    assert not torch.equal(model(ids).logits, model(ids).logits), "the layers drop again"


def test_ratios_compare_with_the_student_that_acted_although_examples_were_trained_since():
    """A round that first imitates wins and then trains acts (RetroAct)."""
    acts, examples = group(), [act(9, (1.0, 6)), act(8, (1.0, 4))]
    given = settings(updates=4, learning_rate=1e-2)
    expected = acting_log_probabilities(tiny_model(), acts, given, temperature=1.0)
    seen = []

    class Watching(PolicyGradientTrainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            now = self._log_probabilities(self.model)
            seen.append((self.old, max(float((now[x] - self.old[x]).abs().max()) for x in acts)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eef.training.policy_gradient.PolicyGradientTrainer", Watching)
        items = RoundItems(examples=examples, acts=acts)
        train_round(
            tiny_model(),
            items,
            given,
            DpoSettings(),
            acts=ActsTraining(settings=gradient(), temperature=1.0),
        )
    (_, before), (old, after) = seen
    assert before == 0
    assert all(torch.equal(old[item], expected[item]) for item in acts)
    assert after > 1e-3, "the student has changed since"
