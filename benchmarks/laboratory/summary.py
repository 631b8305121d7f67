"""Summary: the numbers of `docs/when.md`.

`python -m benchmarks.laboratory.summary` prints, for the sample on which the rule of
`eef.analysis.advice` was chosen and for the held-out settings, how often each prospect came true,
and the same for an older rule, W ≤ 5 and F ≥ 40 of 120 tasks; then a table for each part of the
survey that compares methods.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from benchmarks.laboratory.figures import lead, read
from benchmarks.laboratory.survey import CARELESS, RESULTS
from eef.analysis.advice import CALIBRATION, MARGIN, prospect_of
from eef.analysis.potential import Potential
from eef.analysis.stats import t_test_over_seeds
from eef.report.formatting import points

Row = Mapping[str, Any]


def potential_of(row: Row) -> Potential:
    """What a user would have measured in a setting, with one run."""
    measured = row["measured_once"].items()
    return Potential(**{name: value for name, value in measured if not name.startswith("known")})


def shows_in_failures(row: Row) -> bool:
    """An older rule: W ≤ 5 and F ≥ 40 of 120 tasks, which needs the world's structure."""
    measured = row["measured"]
    scale = 120 / measured["tasks"]
    return bool(scale * measured["known_taught"] <= 5 and scale * measured["known_shown"] >= 40)


def table(rows: Sequence[Row], class_of: Callable[[Row], Any]) -> dict[Any, dict[str, float]]:
    """By class: settings, shares of gains and losses of at least `MARGIN`, and the mean lead."""
    leads: dict[Any, list[float]] = {}
    for row in rows:
        leads.setdefault(class_of(row), []).append(lead(row))
    return {
        name: {
            "settings": len(found),
            "gain": fmean(each >= MARGIN for each in found),
            "loss": fmean(each <= -MARGIN for each in found),
            "mean": fmean(found),
        }
        for name, found in leads.items()
    }


def signs(rows: Sequence[Row]) -> tuple[int, int]:
    """(right, all): settings whose lead exceeds the margin and for which a sign was predicted."""
    predicted = [
        (prospect, lead(row))
        for row in rows
        if (prospect := prospect_of(potential_of(row))) != "even" and abs(lead(row)) >= MARGIN
    ]
    return sum((name == "gain") == (found > 0) for name, found in predicted), len(predicted)


def describe(setting: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """The values of a setting that differ from those of `base`."""
    changed = {name: value for name, value in setting.items() if base[name] != value}
    return ", ".join(f"{name} = {_plain(value)}" for name, value in changed.items()) or "as it is"


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "/".join(f"{each:g}" for each in value)
    return f"{value:g}"


def method_tables(part: str) -> Iterator[str]:
    """Markdown: each method minus the control, with p over seeds, and false labels if counted."""
    rows = read(part)
    base = json.loads(json.dumps(asdict(CARELESS)))
    names = [name for name in rows[0]["win_rates"] if name != "cap1"]
    yield f"| setting | cap1, % | {' | '.join(names)} |"
    yield f"|---|--:|{'--:|' * len(names)}"
    for row in rows:
        rates = row["win_rates"]
        cells = [_cell(rates[name], rates["cap1"]) for name in names]
        title = describe(row["setting"], base)
        yield f"| {title} | {100 * fmean(rates['cap1']):.1f} | {' | '.join(cells)} |"
    if "labels" in rows[0]:
        yield ""
        yield "False among labels: beneficial; harmful; all segments, %"
        for row in rows:
            yield f"- {describe(row['setting'], base)}: " + ", ".join(
                f"{name} {_false(counts)}" for name, counts in row["labels"].items() if counts
            )


def _cell(one: Sequence[float], other: Sequence[float]) -> str:
    test = t_test_over_seeds([[each] for each in one], [[each] for each in other])
    assert test is not None, "several seeds"
    mark = "**" if test.p_value < 0.01 else ""
    return f"{mark}{points(test.mean)}{mark}"


def _false(counts: Mapping[str, int]) -> str:
    def share(*labels: str) -> str:
        total = sum(counts.get(label, 0) for label in labels)
        false = sum(counts.get(f"{label}.false", 0) for label in labels)
        return f"{100 * false / total:.0f}" if total else "–"

    return "; ".join(
        (share("beneficial"), share("harmful"), share("beneficial", "harmful", "neutral"))
    )


def main() -> None:
    for part in ("sample", "held-out"):
        rows = read(part)
        overall = table(rows, lambda row: "all")["all"]
        print(f"{part}: {overall}")
        for name in CALIBRATION:
            print(f"  {name}: {table(rows, lambda row: prospect_of(potential_of(row))).get(name)}")
        print(f"  sign right in {signs(rows)}")
        for name, found in table(rows, shows_in_failures).items():
            print(f"  W ≤ 5 and F ≥ 40 {name}: {found}")
        over_rft = [lead(row, "eef", "rft6") for row in rows]
        gains, losses = (fmean(sign * each >= MARGIN for each in over_rft) for sign in (1, -1))
        print(f"  EEF - RFT×6: mean {fmean(over_rft):.3f}, gains {gains:.3f}, losses {losses:.3f}")
    for part in ("parts", "length-M", "budget", "noise", "labels", "tokens"):
        if (RESULTS / f"{part}.json").exists() and part != "tokens":
            print(f"\n{part}, points over cap1 (bold: p < 0.01 over seeds)")
            print("\n".join(method_tables(part)))
    if (RESULTS / "tokens.json").exists():
        rows = read("tokens")
        print(f"\nequal steps: {table(rows, lambda row: prospect_of(potential_of(row)))}")


if __name__ == "__main__":
    main()
