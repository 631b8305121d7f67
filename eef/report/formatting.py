"""Numbers and names as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from eef.analysis.results import RoundResult, Score
from eef.envs.registry import report_spec
from eef.methods.registry import METHODS
from eef.note import RoleUsage
from eef.pipeline.stages import EXPERT

NONE = "–"
NBSP = "\u00a0"


def display_name(method: str) -> str:
    """The name of a method in reports; variants and other packages' methods are as typed.

    >>> [display_name(name) for name in ("expert", "bc", "rft6", "eef", "sft_all", "eef+dpo")]
    ['Expert', 'BC', 'RFT×6', 'EEF', 'SFT-ALL', 'EEF+DPO']
    >>> display_name("rft6-cap1")
    'rft6-cap1'
    """
    if method == EXPERT:
        return "Expert"
    if repeats := re.fullmatch(r"rft(\d+)", method):
        return f"RFT×{repeats[1]}"
    if method == "gigpo":
        return "GiGPO"
    return method.upper().replace("_", "-") if method in METHODS else method


def count_of(number: int, thing: str) -> str:
    """`1 rollout`, `2 rollouts`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def describe_env(fingerprint: Mapping[str, Any]) -> str:
    """The environment of a run, with the details without which its scores cannot be read.

    >>> describe_env({"env": "webshop", "products": 1000, "goals": "human", "prompt": "react"})
    'webshop (1,000 products, human goals)'
    """
    name = str(fingerprint["env"])
    details = report_spec(name).describe(fingerprint)
    return f"{name} ({details})" if details else name


def describe_inference(fingerprint: Mapping[str, Any]) -> str:
    """The engine that computed the completions of a run, "" if an older run does not state it.

    Processes of `eef` itself compute with transformers.

    >>> describe_inference({"inference": "vllm", "inference_version": "0.32", "dtype": "bfloat16"})
    'vllm 0.32, bfloat16'
    >>> describe_inference({"inference": "local", "transformers": "5.23.0", "dtype": "float32"})
    'local (transformers 5.23.0), float32'
    """
    engine = fingerprint.get("inference")
    if engine is None:
        return ""
    if engine == "local":
        engine = f"local (transformers {fingerprint.get('transformers', 'unknown')})"
    else:
        engine = f"{engine} {fingerprint.get('inference_version', '')}".strip()
    return f"{engine}, {fingerprint.get('dtype', 'unknown')}"


def percent(part: float | None) -> str:
    """A share in percent, without the sign: 0.464 is `46.4`."""
    return NONE if part is None else f"{100 * part:.1f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points.

    >>> points(0.122), points(-0.05), points(-0.0001)
    ('+12.2', '−5.0', '0.0')
    """
    return _signed(100 * difference, 1)


def number(value: float | None) -> str:
    """A count with separators, in millions from one million on."""
    if value is None:
        return NONE
    return f"{value / 1e6:,.2f} M" if value >= 1e6 else f"{value:,.0f}"


def minutes(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds / 60:,.1f}"


def reward(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def signed_reward(difference: float) -> str:
    return _signed(difference, 3)


def _signed(value: float, digits: int) -> str:
    """A rounded number with its sign, a true minus; zero has none."""
    text = f"{value:+z.{digits}f}".replace("-", "−")
    return text if text.strip("+0.") else text[1:]


def p_value(p: float) -> str:
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return text.replace(" ", NBSP)


def round_name(item: RoundResult | None) -> str:
    """The number of a round; `–` for the expert and behavior cloning, which have only one."""
    return NONE if item is None or item.round == 0 else str(item.round)


def interval_text(score: Score | None) -> str:
    """`46.4 [42.1, 50.8]`"""
    if score is None:
        return NONE
    return (
        f"{percent(score.win_rate)} [{percent(score.interval.low)}, {percent(score.interval.high)}]"
    )


def chance(p: float) -> str:
    """How often chance alone produces such a result, in words.

    >>> chance(0.21), chance(0.004)
    ('in about 21 of 100 such comparisons', 'in about 4 of 1,000 such comparisons')
    """
    if p >= 0.995:
        return "nearly every time"
    if p < 0.001:
        return "in fewer than 1 of 1,000 such comparisons"
    times, of = (100 * p, "100") if p >= 0.0095 else (1000 * p, "1,000")
    return f"in about {times:.0f} of {of} such comparisons"


def named_models(models: Mapping[str, str]) -> str:
    """`judge: openai/gpt-4o, planner: base`; `none` if there are none."""
    return ", ".join(f"{role}: {model}" for role, model in models.items()) or "none"


def tokens_by_role(usages: Iterable[RoleUsage]) -> str:
    """The tokens that each role has generated: `judge 1,234, planner 56`."""
    shown = (f"{usage.role} {number(usage.generated_tokens)}" for usage in usages)
    return ", ".join(shown) or "0"
