"""The figure of ten times the budget: win rates over rollouts, one curve per trial.

`python -m benchmarks.long_budget` reads `results/long` and writes `docs/long-budget.svg`.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

from eef.report.charts import HEIGHT, WIDTH, Curve, Point, line_chart
from eef.report.html import Html, tag

ROOT = Path(__file__).parents[1]
METHODS = {
    "grpo": ("GRPO", "other2-e"),
    "rft6-cap1": ("one win per task", "other1-c"),
    "eef": ("EEF", "eef-a"),
}
"""Method → its name, and the style of its curve, marker and label."""
STYLE = """
svg { --soft: #5c626b; --rule: #e3dfd6; --paper: #fdfcfa }
.eef-a { --c: #0a62b4 } .other1-c { --c: #b35c06 } .other2-e { --c: #0b7a70 }
@media (prefers-color-scheme: dark) {
  svg { --soft: #a0a5ad; --rule: #31353c; --paper: #14161a }
  .eef-a { --c: #6cb3f7 } .other1-c { --c: #eba353 } .other2-e { --c: #57c4b8 }
}
text { font: 12.5px system-ui, sans-serif; fill: var(--soft) }
.label { font-weight: 600; fill: var(--c) }
.middle { text-anchor: middle } .end { text-anchor: end }
svg svg { overflow: visible }
.grid { stroke: var(--rule) } .line { fill: none; stroke: var(--c); stroke-width: 2 }
.marker { fill: var(--c); stroke: var(--paper) } .band { display: none }
.paper { fill: var(--paper) }
"""
_LABELS = 130  # pixels for names of curves, beside those of the chart


def curve(method: str, seed: int) -> Curve:
    """The win rate of a trial after each evaluated round, from behavior cloning on."""
    trials = ROOT / "results/long/trials/rollouts"
    trial, bc = (
        json.loads((trials / f"{name}@{seed}.json").read_text(encoding="utf-8"))
        for name in (method, "bc")
    )
    rollouts = 0
    rates = {0: _rate(bc, "0")}
    for round in sorted(map(int, trial["costs"])):
        rollouts += trial["costs"][str(round)].get("explore", {}).get("rollouts", 0)
        if str(round) in trial["scores"]:
            rates[rollouts] = _rate(trial, str(round))
    name, style = METHODS[method]
    points = (Point(x, rate, rate, rate) for x, rate in rates.items())
    return Curve(f"{name}, seed {seed}", style, tuple(points))


def _rate(trial: dict[str, dict[str, dict[str, str]]], round: str) -> float:
    return fmean(each == "1" for each in trial["scores"][round]["won"])


def figure(curves: list[Curve]) -> Html:
    """The chart as an SVG of its own."""
    title = "Test tasks won, %, over the rollouts of the student"
    width = WIDTH + _LABELS
    return tag(
        "svg",
        tag("style", Html(STYLE)),
        tag("rect", width=width, height=HEIGHT, class_="paper"),
        tag(
            "svg",
            line_chart(curves, (), title=title, x_title="rollouts", whole_x=False),
            width=WIDTH,
            height=HEIGHT,
        ),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {HEIGHT}",
        width=width,
        height=HEIGHT,
        role="img",
        aria_label=title,
    )


def main() -> None:
    """Write the figure."""
    files = sorted((ROOT / "results/long/trials/rollouts").glob("*@*.json"))
    trials = [file.stem.split("@") for file in files]
    curves = [curve(method, int(seed)) for method, seed in trials if method in METHODS]
    (ROOT / "docs/long-budget.svg").write_text(figure(curves) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
