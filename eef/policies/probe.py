"""Probe: whether a server plays the model that it should, by log-probabilities of a completion."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eef.errors import ModelError
from eef.models.loading import DTYPES, adapter_base, load_model
from eef.models.location import locate
from eef.models.settings import DType
from eef.policies.completions import CompletionsClient
from eef.policies.settings import ServerSettings
from eef.policy import Conversation, Sampling
from eef.renderer import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)
_TOKENS = 16  # of the probed completion
_SPARE = 1.3  # memory that loading takes, as a multiple of the weights
_MEMORY = Path("/proc/meminfo")
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A probe: the served name `model`, the weights `source`, and a conversation."""

    model: str
    source: str
    dtype: DType
    conversation: Conversation
    max_tokens: int


async def probe_servers(
    client: CompletionsClient, settings: ServerSettings, renderer: Renderer, probe: Probe
) -> int:
    """Check every server of a client; returns the longest conversation that all of them take.

    ModelError if a server does not list the model, has no room for a first turn, returns no token
    ids, or if its log-probabilities differ from those of our own model.
    """
    prompt = renderer.prompt(probe.conversation)
    needed = len(prompt) + probe.max_tokens
    own: PreTrainedModel | None = None
    contexts = []
    for url in client.urls:
        listed = await client.models(url)
        if probe.model not in listed:
            raise ModelError(
                f"the server at {url} does not serve {probe.model!r}; it lists "
                f"{', '.join(map(repr, listed)) or 'nothing'}",
                hint="set `rollouts.server.model` to a name it lists",
            )
        context = context_of(listed, probe.model)
        if context is not None and context < needed:
            raise ModelError(
                f"the server at {url} takes conversations of {context} tokens; a first turn has "
                f"{len(prompt)} and up to {probe.max_tokens} more",
                hint="start it with a longer context (`--max-model-len`), or lower "
                "`sampling.max_tokens`",
            )
        contexts += [context] if context is not None else []
        greedy = Sampling(temperature=0.0, max_tokens=min(_TOKENS, probe.max_tokens))
        sampled = await client.complete(
            probe.model,
            prompt,
            seed=0,
            sampling=greedy,
            stops=renderer.stop_ids,
            session=url,
            logprobs=settings.probe,
        )
        if sampled.finish == "error":
            raise ModelError(
                f"the server at {url} returned no completion: {sampled.words}",
                hint="see its log; stored rollouts are kept",
            )
        if settings.probe and (own is not None or fits_in_memory(probe.source, probe.dtype)):
            own = own or load_model(probe.source, dtype=probe.dtype, device="cpu")[0]
            expected = log_probabilities(own, prompt, sampled.ids)
            _compare(url, probe.model, expected, sampled.logprobs, settings.tolerance)
    return min(contexts, default=1 << 30)


def context_of(listed: Mapping[str, Mapping[str, Any]], model: str) -> int | None:
    """The longest conversation that a server states for a model; adapters have their base's."""
    entry = listed[model]
    length = entry.get("max_model_len")
    if length is None:
        length = listed.get(str(entry.get("parent")), {}).get("max_model_len")
    return int(length) if isinstance(length, int) else None


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int]
) -> list[float]:
    """The log-probability of each of `ids` after `prompt`."""
    logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float()
    chosen = torch.tensor(ids)[:, None]
    values: list[float] = logits.log_softmax(-1).gather(1, chosen)[:, 0].tolist()
    return values


def fits_in_memory(source: str, dtype: DType) -> bool:
    """Whether a model can be loaded on the CPU beside everything else; if not, that is logged."""
    where = locate(source)
    if (Path(where) / "adapter_config.json").is_file():
        where = locate(adapter_base(where))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(where))
    size = sum(each.numel() for each in model.parameters()) * DTYPES[dtype].itemsize
    available = _available()
    if available is None or size * _SPARE <= available:
        return True
    _log.warning(
        "note: the server's log-probabilities are not compared: the model has %.1f GiB, and %.1f "
        "GiB of memory are free",
        size / 2**30,
        available / 2**30,
    )
    return False


def _available() -> int | None:
    """Bytes of free memory, of the machine or of this process's group (Slurm, containers).

    None if they are unknown.
    """
    found = [_left_in_group()]
    with suppress(OSError, StopIteration, ValueError):
        lines = _MEMORY.read_text().splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line))
    return min((each for each in found if each is not None), default=None)


def _left_in_group() -> int | None:
    """What the memory limits of this process's cgroup and of those above it leave (version 2)."""
    try:
        entries = (line.split(":", 2) for line in _CGROUP.read_text().splitlines())
        place = next(path for number, _, path in entries if number == "0").strip("/")
    except (OSError, StopIteration, ValueError):
        return None
    left = []
    for group in (_CGROUPS / place, *(_CGROUPS / place).parents):
        if not group.is_relative_to(_CGROUPS):
            break
        with suppress(OSError, ValueError):  # "max" stands for no limit
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            left.append(limit - used + _cached_files(group))
    return max(0, min(left)) if left else None


def _cached_files(group: Path) -> int:
    """Bytes of files in memory, which a cgroup counts as used and gives up when needed."""
    try:
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        return sum(int(size) for name, size in lines if name in ("inactive_file", "active_file"))
    except (OSError, ValueError):
        return 0


def _compare(
    url: str,
    model: str,
    expected: Sequence[float],
    given: Sequence[float],
    tolerance: float,
) -> None:
    if len(given) != len(expected):
        raise ModelError(
            f"the server at {url} returned {len(given)} log-probabilities for {len(expected)} "
            "tokens",
            hint="it must support `logprobs`; `rollouts.server.probe = false` skips the comparison",
        )
    gaps = [abs(one - other) for one, other in zip(expected, given, strict=True)]
    gap = sum(gaps) / max(1, len(gaps))
    if not gap <= tolerance:
        raise ModelError(
            f"the server at {url} serves a different model than {model!r}: its log-probabilities "
            f"differ by {gap:.2g} per token; expected at most {tolerance:g}",
            hint="serve the weights and the dtype of the recipe; a low-precision dtype may need a "
            "higher `rollouts.server.tolerance`",
        )
