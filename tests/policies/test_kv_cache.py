"""RowCache: buffers follow the rows in use, keep their contents, and are freed with the policy."""

import gc
import os
import sys
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from eef.policies.kv_cache import (  # noqa: E402
    CacheTooSmall,
    Place,
    RowCache,
    RowLayer,
    copy_rows,
    swap_rows,
)
from eef.policies.local import LocalPolicy  # noqa: E402
from eef.policy import Sampling  # noqa: E402
from eef.renderer import Renderer  # noqa: E402
from eef.trajectory import Author  # noqa: E402
from tests.fakes.tiny import tiny_model, tiny_tokenizer  # noqa: E402
from tests.fakes.worlds import memory  # noqa: E402

pytestmark = pytest.mark.torch


def written(cache, rows, positions):
    """Write states that differ everywhere; returns what attention then sees of the rows."""
    states = torch.arange(rows * positions * 2.0).view(rows, 1, positions, 2) + 1
    place = torch.arange(positions).expand(rows, positions)
    cache.write_at(Place(slice(0, rows), place, positions))
    return cache.update(states, -states, 0)


def test_buffers_grow_and_shrink_with_the_rows_and_keep_their_contents():
    cache = RowCache(layers=1)
    cache.reserve(8, 100, [])
    assert (cache.rows, cache.capacity) == (8, 128)
    keys, values = (each.clone() for each in written(cache, 8, 100))
    for rows, wanted, expected in (
        (8, 120, (8, 128)),  # there is room
        (8, 129, (8, 192)),  # grows by a quarter at least, to a multiple of 64
        (7, 150, (8, 192)),  # few rows less: not worth a copy
        (5, 150, (5, 192)),
        (4, 200, (4, 256)),
        (3, 10, (3, 256)),
    ):
        cache.reserve(rows, wanted, [100] * rows)
        assert (cache.rows, cache.capacity) == expected
        layer = cache.layers[0]
        assert layer.keys.shape == (expected[0], 1, expected[1], 2)
        assert torch.equal(layer.keys[:rows, :, :100], keys[:rows])
        assert torch.equal(layer.values[:rows, :, :100], values[:rows])
        assert not layer.keys[:, :, 100:].any()
    cache.clear()
    assert (cache.rows, cache.capacity, cache.layers[0].buffers()) == (0, 0, [])


def test_a_cache_that_cannot_grow_is_empty_and_usable_again(monkeypatch):
    cache = RowCache(layers=3)
    cache.reserve(4, 100, [])
    for layer in range(3):
        written_to(cache, layer)
    resized = RowLayer._resized

    def fail(layer, old, lengths):
        if layer is cache.layers[1]:
            raise MemoryError
        return resized(layer, old, lengths)

    with monkeypatch.context() as patch:
        patch.setattr(RowLayer, "_resized", fail)
        with pytest.raises(MemoryError):
            cache.reserve(4, 500, [100] * 4)
    assert (cache.rows, cache.capacity) == (0, 0)
    assert all(layer.buffers() == [] for layer in cache.layers)
    cache.reserve(4, 500, [])
    assert [written_to(cache, layer).shape[2] for layer in range(3)] == [100] * 3


def written_to(cache, layer):
    states = torch.ones(4, 1, 100, 2)
    cache.write_at(Place(slice(0, 4), torch.arange(100).expand(4, 100), 100))
    return cache.update(states, states, layer)[0]


def test_a_bound_limits_the_growth_and_is_an_error_when_it_must_be_exceeded():
    cache = RowCache(layers=1, bound=8 * 192)
    cache.reserve(8, 128, [])
    cache.reserve(8, 150, [0] * 8)
    assert cache.capacity == 192
    cache.reserve(4, 300, [0] * 4)
    assert cache.capacity == 320
    cache.clear()
    with pytest.raises(CacheTooSmall) as caught:
        cache.reserve(8, 193, [])
    assert (caught.value.tokens, cache.rows, cache.capacity) == (8 * 256, 0, 0)


@given(
    lengths=st.lists(st.integers(0, 6), min_size=2, max_size=7),
    order=st.randoms(use_true_random=False),
)
def test_rows_are_copied_and_exchanged_alike_one_by_one_and_at_once(lengths, order):
    old = torch.rand(len(lengths), 2, 6, 3)
    copies = [torch.zeros(len(lengths) + 1, 2, 8, 3) for _ in range(2)]
    for copy, at_once in zip(copies, (False, True), strict=True):
        copy_rows(old, copy, lengths, at_once=at_once)
    slots = order.sample(range(len(lengths)), len(lengths) // 2 * 2)
    pairs = list(zip(slots[::2], slots[1::2], strict=True))
    kept = [max(lengths[one], lengths[other]) for one, other in pairs]
    swapped = old.clone(), old.clone()
    for each, at_once in zip(swapped, (False, True), strict=True):
        swap_rows([each], pairs, kept, at_once=at_once)
    new = {row: row for row in range(len(lengths))}
    new |= dict(pairs) | {other: one for one, other in pairs}
    for row, length in enumerate(lengths):
        for copy in copies:
            assert torch.equal(copy[row, :, :length], old[row, :, :length])
        for each in swapped:
            assert torch.equal(each[new[row], :, :length], old[row, :, :length])


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_buffers_take_no_memory_until_they_are_written():
    before = memory(os.getpid())
    cache = RowCache(layers=1)
    cache.reserve(64, 100_000, [])
    keys, _ = written(cache, 64, 100)  # 2 × 64 × 100,000 × 2 × 4 bytes: 98 MiB
    assert keys.sum() > 0
    assert not cache.layers[0].keys[:, :, 100:].any()  # nor when they are read
    del keys
    assert memory(os.getpid()) - before < 50


def test_a_policy_frees_its_buffers_without_the_garbage_collector():
    """A run makes a policy per stage: one that waits for the collector costs gigabytes."""
    tokenizer = tiny_tokenizer()
    policy = LocalPolicy(
        tiny_model(), tokenizer, Renderer(tokenizer), author=Author("student", "tiny")
    )
    gc.collect()
    gc.disable()
    try:
        conversation = [{"role": "user", "content": "hello"}]
        policy.act([conversation], [0], Sampling(temperature=0.0, max_tokens=4))
        buffer = weakref.ref(policy._engine._cache.layers[0].keys)
        assert buffer() is not None
        del policy
        assert buffer() is None
    finally:
        gc.enable()
