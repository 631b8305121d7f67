"""LocalPolicy equals `model.generate` over growing, finishing and reordered conversations."""

import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from transformers import MistralConfig, MistralForCausalLM  # noqa: E402
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402

from eef.chat import build_conversation  # noqa: E402
from eef.envs.toy import ToyEnv  # noqa: E402
from eef.errors import ModelError  # noqa: E402
from eef.policies import attention  # noqa: E402
from eef.policies.acting import Role, with_roles  # noqa: E402
from eef.policies.decoding import choose  # noqa: E402
from eef.policies.kv_cache import RowLayer  # noqa: E402
from eef.policies.local import LocalPolicy, has_full_attention  # noqa: E402
from eef.policies.shared_prefixes import SharedPrefix, shared_prefixes  # noqa: E402
from eef.policy import GREEDY, Sampling  # noqa: E402
from eef.renderer import Renderer  # noqa: E402
from eef.roles import Acting  # noqa: E402
from eef.rollouts import runner  # noqa: E402
from eef.rollouts.ask import ask_into_store, note_specs  # noqa: E402
from eef.rollouts.runner import RolloutParameters, RolloutSpec  # noqa: E402
from eef.rollouts.store import Store  # noqa: E402
from eef.selection import PlannedNote  # noqa: E402
from eef.trajectory import Author, Step, TrajectorySet  # noqa: E402
from tests.fakes.tiny import tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch
SHORT = Sampling(temperature=0.0, max_tokens=12)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return tiny_model()


def make_policy(model, tokenizer=None, **options):
    tokenizer = tokenizer or tiny_tokenizer()
    return LocalPolicy(
        model, tokenizer, Renderer(tokenizer), author=Author("student", "tiny"), **options
    )


def generate(model, conversation, max_tokens):
    tokenizer = tiny_tokenizer()
    renderer = Renderer(tokenizer)
    ids = torch.tensor([renderer.prompt(conversation)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=sorted(renderer.stop_ids),
        pad_token_id=256,
    )[0, ids.shape[1] :].tolist()
    return tokenizer.decode(out, skip_special_tokens=True)


def start(count, seed=0):
    draw = random.Random(seed)
    return [
        [
            {"role": "system", "content": "rules " * 12},
            {"role": "user", "content": "o" * draw.randint(1, 40) + str(n)},
        ]
        for n in range(count)
    ]


def continued(conversation, completion, seed):
    text = "page " * random.Random(seed).randint(0, 12) + str(seed)
    return [
        *conversation,
        {"role": "assistant", "content": completion.text},
        {"role": "user", "content": text},
    ]


def test_equals_generate_over_turns_with_dropouts_and_changed_order(model):
    policy = make_policy(model)
    conversations = start(9)
    for turn in range(5):
        completions = policy.act(conversations, list(range(len(conversations))), SHORT)
        assert [completion.text for completion in completions] == [
            generate(model, c, 12) for c in conversations
        ]
        if turn:
            assert all(completion.cached_tokens > 100 for completion in completions)
        conversations = [
            continued(c, done, 10 * turn + n)
            for n, (c, done) in enumerate(zip(conversations, completions, strict=True))
        ]
        if turn == 1:
            conversations = conversations[1:5] + conversations[7:]
        if turn == 2:
            conversations.reverse()


def eager_to_stop(seed=0):
    """A model that ends its turns at different lengths."""
    model = tiny_model(seed=seed)
    with torch.no_grad():
        model.lm_head.weight[256] *= 2  # a longer row wins more often
    return model


def play(policy, sampling, turns=4, count=10):
    """All completions of a few turns, where rows drop out."""
    conversations, completions_by_turn = start(count), []
    for turn in range(turns):
        completions = policy.act(
            conversations, [100 * turn + n for n in range(len(conversations))], sampling
        )
        completions_by_turn.append(completions)
        conversations = [
            continued(c, done, n)
            for n, (c, done) in enumerate(zip(conversations, completions, strict=True))
        ]
        conversations = conversations[: len(conversations) - 2]
    return completions_by_turn


def test_turns_of_different_lengths_equal_generate():
    model = eager_to_stop()
    policy, conversations = make_policy(model), start(12)
    finishes = set()
    for turn in range(3):
        completions = policy.act(conversations, range(12), Sampling(temperature=0.0, max_tokens=30))
        assert [completion.text for completion in completions] == [
            generate(model, c, 30) for c in conversations
        ]
        finishes |= {completion.finish for completion in completions}
        conversations = [
            continued(c, done, 7 * turn + n)
            for n, (c, done) in enumerate(zip(conversations, completions, strict=True))
        ]
    assert finishes == {"stop", "length"}


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sampling_depends_on_the_seeds_only(top_p):
    sampling = Sampling(temperature=1.0, top_p=top_p, max_tokens=10)
    assert play(make_policy(tiny_model()), sampling) == play(make_policy(tiny_model()), sampling)
    policy, conversations = make_policy(tiny_model()), start(4)
    one = policy.act(conversations, [1, 2, 3, 4], sampling)
    other = policy.act(conversations, [1, 2, 9, 4], sampling)
    assert [a.text == b.text for a, b in zip(one, other, strict=True)] == [True, True, False, True]


def test_a_new_batch_does_not_depend_on_the_previous_one(model):
    fresh, used = make_policy(model), make_policy(model)
    used.act(start(7, seed=3), range(7), SHORT)
    assert fresh.act(start(5), range(5), SHORT) == used.act(start(5), range(5), SHORT)


def test_a_drifted_turn_states_its_ids_and_continues_with_them():
    """A random model samples `a`, `b` where the tokenizer would write `ab`."""
    alphabet = "abcdefghij"
    merges = [one + other for one in alphabet for other in alphabet]
    tokenizer = tiny_tokenizer(merges=merges)
    model = tiny_model(vocabulary=len(tokenizer))
    with torch.no_grad():  # it writes letters alone
        letters = torch.tensor(tokenizer.convert_tokens_to_ids(list(alphabet)))
        model.lm_head.weight[~torch.isin(torch.arange(len(tokenizer)), letters)] = 0
        model.lm_head.weight[letters] *= 20
    model.config.eos_token_id = tokenizer.eos_token_id
    renderer = Renderer(tokenizer)
    policy = LocalPolicy(model, tokenizer, renderer, author=Author("student", "tiny"))
    talk = [{"role": "user", "content": "x" * 80}]
    (first,) = policy.act([talk], [0], Sampling(temperature=1.0, max_tokens=8))
    assert first.tokens is not None
    assert tokenizer.decode(first.tokens.ids) == first.text
    step = Step(observation="x" * 80, completion=first.text, action="", tokens=first.tokens)
    (second,) = policy.act([build_conversation("", [step], "x")], [0], SHORT)
    assert second.cached_tokens == first.prompt_tokens + 7  # the last one was never computed


def test_without_memory_to_grow_the_rows_are_computed_from_their_start(model, monkeypatch):
    policy, conversations = make_policy(model), start(4)
    first = policy.act(conversations, range(4), SHORT)
    longer = [
        [*talk, {"role": "assistant", "content": done.text}, {"role": "user", "content": "x" * 400}]
        for talk, done in zip(conversations, first, strict=True)
    ]
    expected = make_policy(model).act(longer, range(4), SHORT)
    failures = iter([True])
    resize = RowLayer.resize

    def fail_once(layer, lengths):
        if lengths and layer is policy._engine._cache.layers[1] and next(failures, False):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        resize(layer, lengths)

    monkeypatch.setattr(RowLayer, "resize", fail_once)
    assert policy.act(longer, range(4), SHORT) == expected
    assert list(failures) == []


def test_memory_that_is_used_up_is_an_error_that_names_the_setting(model, monkeypatch):
    policy, conversations = make_policy(model), start(3)
    with monkeypatch.context() as patch:
        patch.setattr(
            RowLayer, "lazy_initialization", lambda *_: (_ for _ in ()).throw(MemoryError)
        )
        with pytest.raises(ModelError, match="out of memory: 3 conversations of up to") as caught:
            policy.act(conversations, range(3), SHORT)
    assert "`rollouts.batch_size`" in caught.value.hint
    expected = make_policy(model).act(conversations, range(3), SHORT)
    assert policy.act(conversations, range(3), SHORT) == expected, "it still works"


def test_a_bound_of_the_cache_is_an_error_that_names_the_setting(model):
    # 2 layers × 2 × 2 heads × 8 numbers × 4 bytes: 256 bytes a token
    conversations = start(8)
    with pytest.raises(ModelError, match=r"`rollouts\.cache_gib` is 0\.0003") as caught:
        make_policy(model, cache_gib=0.0003).act(conversations, range(8), SHORT)
    fitting = int(re.search("batch_size` to ([0-9]+)", caught.value.hint)[1])
    assert 1 <= fitting < 8
    bounded = make_policy(model, cache_gib=0.0003)
    expected = make_policy(model).act(conversations[:fitting], range(fitting), SHORT)
    assert bounded.act(conversations[:fitting], range(fitting), SHORT) == expected


@pytest.mark.parametrize("folded", [False, True])
def test_grouped_attention_equals_that_of_transformers(model, folded, monkeypatch):
    torch.manual_seed(1)
    query, key, value = (torch.randn(3, heads, n, 8) for heads, n in ((4, 5), (2, 9), (2, 9)))
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True, training=False)
    mask = torch.zeros(3, 1, 5, 9).masked_fill(torch.rand(3, 1, 5, 9) < 0.3, -torch.inf)
    mask[..., 0] = 0
    if folded:  # as on a GPU
        monkeypatch.setattr(attention, "_folds", lambda query: True)
    for each in (mask, None):
        keys = key if each is not None else key[:, :, :5]
        values = value if each is not None else value[:, :, :5]
        ours, _ = attention.grouped_attention(module, query, keys, values, each)
        theirs, _ = sdpa_attention_forward(module, query, keys, values, each)
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert make_policy(model)._engine._model.config._attn_implementation == attention.GROUPED


def test_token_counts(model):
    policy, conversation = make_policy(model), start(1)[0]
    (first,) = policy.act([conversation], [0], SHORT)
    assert (first.cached_tokens, first.generated_tokens, first.finish) == (0, 12, "length")
    (second,) = policy.act([continued(conversation, first, 1)], [0], SHORT)
    assert first.prompt_tokens <= second.cached_tokens < second.prompt_tokens


@pytest.mark.parametrize("kind", ["alone", "advised"])
def test_a_batch_of_rollouts_depends_on_no_earlier_one(model, kind):
    """A run that was interrupted between two batches ends as an uninterrupted one."""
    (task,) = ToyEnv().tasks("train").head(1)
    specs = [RolloutSpec(f"r{number}", task, None, number, 1) for number in range(4)]

    def played(specs):
        role = Role("adviser", make_policy(model), SHORT, "") if kind == "advised" else None
        policy = with_roles(make_policy(model), Acting(kind=kind), role)
        parameters = RolloutParameters(sampling=SHORT, step_limit=1, batch_size=2)
        rollouts = runner.play(
            specs,
            env=ToyEnv(),
            policy=policy,
            trajectories=TrajectorySet(),
            parameters=parameters,
        )
        return [(item.steps, replace(item.usage, seconds=0.0)) for item in rollouts]

    assert played(specs) == played(specs[:2]) + played(specs[2:])


def test_a_batch_of_notes_depends_on_no_earlier_one(model, tmp_path):
    (task,) = ToyEnv().tasks("train").head(1)
    planned = [PlannedNote("judge", task.id, task.id, "How many?", 4)]
    specs = note_specs(planned, {task.id: task}, owner="m", round=1, seed=3)

    def ask(name, *parts):
        for part in parts:
            with Store.open(tmp_path / name) as store:
                role = Role("judge", make_policy(model), SHORT, "")
                ask_into_store(part, store, {"judge": role}, 2)
                notes = list(store.trajectories.notes)
        return [(note.id, note.text, note.usage) for note in notes]

    assert ask("whole", specs) == ask("resumed", specs[:2], specs)


def test_common_prefixes_are_computed_once(model):
    conversations = [start(1)[0]] * 3 + start(3)
    completions = make_policy(model).act(conversations, range(6), SHORT)
    assert [completion.text for completion in completions] == [
        generate(model, c, 12) for c in conversations
    ]
    computed = sum(
        completion.prompt_tokens - completion.cached_tokens for completion in completions
    )
    assert computed < 0.5 * sum(completion.prompt_tokens for completion in completions)


def test_a_shared_prefix_is_cached_for_all_but_the_row_that_computes_it(model):
    policy, [alone] = make_policy(model), start(1)
    completions = policy.act([alone] * 3, range(3), SHORT)
    whole = completions[0].prompt_tokens
    assert [each.cached_tokens for each in completions] == [0, whole - 1, whole - 1]
    computed = []
    policy._engine._prefill = lambda part, prefill=policy._engine._prefill: (
        computed.extend(end - row.cached for row, end in part),
        prefill(part),
    )[1]
    mixed = make_policy(model)
    mixed._engine = policy._engine
    talks = [alone] * 3 + start(4)
    completions = mixed.act(talks, range(7), SHORT)
    prompts = sum(each.prompt_tokens for each in completions)
    # the last token of a shared prompt is computed again, for its logits
    assert sum(computed) - prompts + sum(each.cached_tokens for each in completions) <= 7


def test_shared_prefixes_of_nested_prompts():
    prompts = [[1, 2, 3, 4], [1, 2, 3, 5], [9], [1, 2, 6]]
    assert shared_prefixes(prompts, worth=1) == [
        [SharedPrefix(0, (1, 3), 0, 2)],
        [SharedPrefix(0, (1,), 2, 3)],
    ]
    assert shared_prefixes(prompts, worth=5) == []


def test_a_conversation_without_room_overflows_and_the_others_continue():
    model = tiny_model(context=128)
    short = [{"role": "user", "content": "hello"}]
    long = [{"role": "user", "content": "x" * 200}]
    tight = [{"role": "user", "content": "y" * 80}]
    limits = Sampling(temperature=0.0, max_tokens=60)
    completions = make_policy(model).act([long, tight, short], [0, 1, 2], limits)
    assert [completion.finish for completion in completions] == ["overflow", "length", "length"]
    assert completions[0].text == ""
    assert (
        completions[1].prompt_tokens + completions[1].generated_tokens == 128
    )  # all the room there is
    assert completions[2].generated_tokens == 60
    assert completions[2].text == generate(model, short, 60)
    (alone,) = make_policy(model).act([long], [0], GREEDY)
    assert alone.finish == "overflow"


def test_a_sliding_window_model_is_played_by_generate():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=256,
    )
    model = MistralForCausalLM(config).eval()
    assert not has_full_attention(model)
    assert has_full_attention(tiny_model())
    conversations = start(4)
    completions = make_policy(model).act(conversations, range(4), SHORT)
    assert [completion.text for completion in completions] == [
        generate(model, c, 12) for c in conversations
    ]
    warm = Sampling(temperature=1.0, max_tokens=8)
    again = make_policy(model).act(conversations, range(4), warm)
    assert make_policy(model).act(conversations, range(4), warm) == again


def test_choose_follows_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(10_000, 3)
    draws = 1.0 - torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    shares = choose(logits, draws, Sampling(temperature=1.0)).bincount(minlength=3) / 10_000
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.02)
    nucleus = (
        choose(logits, draws, Sampling(temperature=1.0, top_p=0.6)).bincount(minlength=3) / 10_000
    )
    assert nucleus.tolist() == pytest.approx([5 / 8, 3 / 8, 0], abs=0.02)


@pytest.mark.parametrize("draw", [1e-16, 0.5, 1.0])
def test_a_token_without_probability_is_never_drawn(draw):
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    assert int(choose(logits, torch.tensor([draw]), Sampling(temperature=1.0))) in (1, 2)
