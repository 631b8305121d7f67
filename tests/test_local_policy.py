"""LocalPolicy against `model.generate`, over growing conversations, rows that drop out, and changed orders."""

import random

import pytest

torch = pytest.importorskip("torch")

from eef.policies.local import LocalPolicy, Segment, choose, shared_segments  # noqa: E402
from eef.policy import GREEDY, Sampling  # noqa: E402
from eef.tokens import Renderer  # noqa: E402
from tests.tiny import tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch
SHORT = Sampling(temperature=0.0, max_tokens=12)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return tiny_model()


def make_policy(model, tokenizer=None, **options):
    tokenizer = tokenizer or tiny_tokenizer()
    return LocalPolicy(model, tokenizer, Renderer(tokenizer), name="policy:tiny", **options)


def generate(model, conversation, max_tokens):
    tokenizer = tiny_tokenizer()
    renderer = Renderer(tokenizer)
    ids = torch.tensor([renderer.prompt(conversation)])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False,
        eos_token_id=sorted(renderer.stop_ids), pad_token_id=256,
    )[0, ids.shape[1] :].tolist()
    return tokenizer.decode(out, skip_special_tokens=True)


def start(count, seed=0):
    draw = random.Random(seed)
    return [
        [{"role": "system", "content": "rules " * 12}, {"role": "user", "content": "o" * draw.randint(1, 40) + str(n)}]
        for n in range(count)
    ]


def go_on(conversation, completion, seed):
    text = "page " * random.Random(seed).randint(0, 12) + str(seed)
    return [*conversation, {"role": "assistant", "content": completion.text}, {"role": "user", "content": text}]


def test_equals_generate_over_turns_with_dropouts_and_changed_order(model):
    policy = make_policy(model)
    conversations = start(9)
    for turn in range(5):
        completions = policy.act(conversations, list(range(len(conversations))), SHORT)
        assert [completion.text for completion in completions] == [generate(model, c, 12) for c in conversations]
        if turn:
            assert all(completion.cached_tokens > 100 for completion in completions)
        conversations = [
            go_on(c, done, 10 * turn + n) for n, (c, done) in enumerate(zip(conversations, completions, strict=True))
        ]
        if turn == 1:
            conversations = conversations[1:5] + conversations[7:]
        if turn == 2:
            conversations.reverse()
