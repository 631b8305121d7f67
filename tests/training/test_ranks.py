"""Ranks: several processes train as one does, and continue what another number of them started.

One start of torchrun performs all trainings; the tests compare them with those of one process.
"""

import pytest

torch = pytest.importorskip("torch")

import json  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from eef.errors import ConfigError  # noqa: E402
from eef.models.checkpoint import save_checkpoint  # noqa: E402
from eef.models.loading import load_model  # noqa: E402
from eef.training.ranks import ALONE, check_rank_devices, deal, join_ranks  # noqa: E402
from tests.fakes import ROOT  # noqa: E402
from tests.fakes.rank_program import JOBS, STOP_AT, StopError, perform, weights_of  # noqa: E402
from tests.fakes.tiny import save_tiny, tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch

RESUMED = ("sft", "sft-lora")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The directory in which two ranks have performed all jobs."""
    directory = tmp_path_factory.mktemp("ranks")
    save_tiny(directory / "model")
    tied = tiny_model()
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    save_checkpoint(tied.to(torch.bfloat16), tiny_tokenizer(), directory / "tied", base="none")
    for job in RESUMED:
        with pytest.raises(StopError):
            perform(job, directory, checkpoints=directory / "from-one" / job, stop_at=STOP_AT)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "tests.fakes.rank_program", str(directory)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return directory


def assert_equal(directory, name, result, model, *, within=1e-5):
    record = json.loads((directory / f"{name}.json").read_text())
    assert record["losses"] == pytest.approx(result.losses, abs=within)
    assert record["processed"] == result.processed_tokens
    expected, found = weights_of(model), load_file(directory / f"{name}.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=0, atol=within), key


@pytest.mark.parametrize("job", [job for job in JOBS if job != "bfloat16"])
def test_two_ranks_train_as_one(directory, job):
    assert_equal(directory, job, *perform(job, directory))


def test_two_ranks_train_in_bfloat16(directory):
    result, _ = perform("bfloat16", directory)
    record = json.loads((directory / "bfloat16.json").read_text())
    assert record["losses"] == pytest.approx(result.losses, rel=0.02)


@pytest.mark.parametrize("job", RESUMED)
def test_resumed_by_another_number_of_ranks(directory, job):
    result, model = perform(job, directory)
    assert_equal(directory, f"{job}-from-one", result, model)
    resumed, again = perform(job, directory, checkpoints=directory / "to-one" / job)
    assert resumed.losses == pytest.approx(result.losses, abs=1e-5)
    for one, other in zip(weights_of(again).values(), weights_of(model).values(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-5)


def test_checkpoints_hold_no_pickle(directory):
    """Each rank writes its part; the manifest comes last."""
    found = [path.name for path in (directory / "from-one" / "sft").rglob("*") if path.is_file()]
    assert sorted(path.split("-model")[0] for path in found) == [
        "manifest.json",
        "shard-00001",
        "shard-00002",
    ]


def test_carried_moments_are_those_of_one(directory):
    perform("acts", directory)
    one, two = (
        {
            key: value
            for path in sorted((directory / f"acts-{count}-optimizer").glob("*.safetensors"))
            for key, value in load_file(path).items()
        }
        for count in (1, 2)
    )
    assert two.keys() == one.keys()
    assert torch.allclose(two["step/model.norm.weight"], one["step/model.norm.weight"])


def test_the_exported_checkpoint_is_that_of_one_process(directory):
    """Weights, configuration and files, of a model with tied embeddings."""
    exported, tied = directory / "exported", directory / "tied"
    assert {path.name for path in exported.iterdir()} == {path.name for path in tied.iterdir()}
    for name in ("config.json", "generation_config.json", "chat_template.jinja"):
        assert (exported / name).read_text() == (tied / name).read_text()
    one, other = (load_file(path / "model.safetensors") for path in (tied, exported))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert load_model(str(exported), dtype="bfloat16", device="cpu")


def test_ranks_with_different_examples_stop(directory):
    for rank in (0, 1):
        message = (directory / f"disagreement-{rank}.txt").read_text()
        assert message == "the ranks have different examples: rank 1 of 2 differs from rank 0"


# without other processes


def test_more_ranks_than_gpus(monkeypatch):
    monkeypatch.setattr("eef.training.ranks.gpu_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"`train.ranks` is 4; this process can use 2 GPUs"):
        check_rank_devices(4, "auto")
    check_rank_devices(2, "auto")
    with pytest.raises(ConfigError, match="each rank needs its own"):
        check_rank_devices(2, "cuda:1")
    monkeypatch.setattr("eef.training.ranks.gpu_count", lambda: 0)
    with pytest.raises(ConfigError, match="no GPU found"):
        check_rank_devices(2, "cuda")


def test_more_ranks_than_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("eef.training.ranks.gpu_count", lambda: 0)
    check_rank_devices(4, "auto")
    for device in ("auto", "cpu"):
        with pytest.raises(ConfigError, match=r"`train.ranks` is 64; .* no GPU to use, .* 4 cores"):
            check_rank_devices(64, device)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    check_rank_devices(2, "cpu")


def test_ranks_are_started_by_a_launcher(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="not started by torchrun"):
        join_ranks("cpu")


def test_one_rank_exchanges_nothing():
    values = torch.ones(2)
    assert ALONE.sum(values) is values
    assert ALONE.all([True, False]) == [True, False]
    assert ALONE.merge({"a": values}, {"a": 2}) == {"a": values}
    ALONE.agree(b"x", "examples")
    ALONE.wait()


@given(st.lists(st.integers(1, 50)), st.integers(1, 5))
def test_every_item_is_dealt_once_and_evenly(lengths, count):
    shares = deal(lengths, count, lambda length: length)
    assert sorted(item for share in shares for item in share) == sorted(lengths)
    totals = [sum(share) for share in shares]
    assert max(totals) - min(totals) <= max(lengths, default=0)
