"""Figures of `docs/when.md`: heat maps of the survey's grids, as SVG files.

`python -m benchmarks.laboratory.figures` reads `results/laboratory` and writes
`docs/when-<part>.svg` (EEF minus one win per task) and `docs/when-<part>-rft6.svg` (EEF minus
RFT×6).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.laboratory.survey import RESULTS
from eef.report.formatting import points
from eef.report.html import Html, join, tag

DOCS = Path(__file__).parents[2] / "docs"
CELL, ROW, LEFT, TOP = 82, 34, 70, 52
FULL = 0.1
"""The difference of win rates that has the full color."""
STYLE = """
svg { --ink: #1c1f24; --soft: #5c626b; --paper: #fdfcfa; --good: 20, 121, 77; --bad: 180, 56, 29 }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e9e6df; --soft: #a0a5ad; --paper: #14161a; --good: 92, 199, 149;
        --bad: 240, 142, 116 }
}
text { font: 13px system-ui, sans-serif; fill: var(--ink) }
.soft { fill: var(--soft) } .middle { text-anchor: middle } .end { text-anchor: end }
.title { font-weight: 600 } .paper { fill: var(--paper) }
.good { fill: rgb(var(--good)) } .bad { fill: rgb(var(--bad)) }
"""

Row = Mapping[str, Any]
Value = Callable[[Row], float]


def read(part: str) -> list[dict[str, Any]]:
    """The rows of a part of the survey."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{part}.json").read_text(encoding="utf-8"))
    return rows


def lead(row: Row, one: str = "eef", other: str = "cap1") -> float:
    """The mean difference of two methods' win rates over the seeds of a row."""
    pair = zip(row["win_rates"][one], row["win_rates"][other], strict=True)
    return fmean(first - second for first, second in pair)


def heat_map(
    rows: Sequence[Row], down: str, across: str, titles: tuple[str, str], title: str, value: Value
) -> Html:
    """One cell per setting; the color is the value's sign and size, the text the value in points.

    `down` and `across` are the fields of the setting that vary, with their `titles`.
    """
    ups, sides = (sorted({row["setting"][field] for row in rows}) for field in (down, across))
    width, height = LEFT + CELL * len(sides) + 12, TOP + ROW * len(ups) + 46
    cells = []
    for row in rows:
        found = value(row)
        x = LEFT + CELL * sides.index(row["setting"][across])
        y = TOP + ROW * ups.index(row["setting"][down])
        shade = round(min(1.0, abs(found) / FULL) * 0.75, 3)
        cells.append(
            join(
                [
                    tag(
                        "rect",
                        x=x + 1,
                        y=y + 1,
                        width=CELL - 2,
                        height=ROW - 2,
                        rx=3,
                        class_="good" if found > 0 else "bad",
                        fill_opacity=shade,
                    ),
                    tag("text", points(found), x=x + CELL / 2, y=y + 22, class_="middle"),
                ]
            )
        )
    base = TOP + ROW * len(ups)
    labels = [
        *(
            tag("text", _plain(up), x=LEFT - 8, y=TOP + ROW * i + 22, class_="end")
            for i, up in enumerate(ups)
        ),
        *(
            tag("text", _plain(side), x=LEFT + CELL * (i + 0.5), y=base + 18, class_="middle")
            for i, side in enumerate(sides)
        ),
        tag("text", titles[0], x=8, y=TOP - 8, class_="soft"),
        tag("text", titles[1], x=LEFT + CELL * len(sides) / 2, y=base + 38, class_="soft middle"),
    ]
    return tag(
        "svg",
        tag("title", title),
        tag("style", Html(STYLE)),
        tag("rect", width=width, height=height, class_="paper"),
        tag("text", title, x=8, y=20, class_="title"),
        *cells,
        *labels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=title,
    )


def _plain(value: Any) -> str:
    return f"{value:g}"


FIGURES = {
    "dose-sharing": (
        "rare_skills",
        "expert_after",
        ("kinds of rare skill", "chance of an expert’s error after a rare step"),
    ),
    "rare-needs": (
        "rare",
        "needs",
        ("student’s own rare use", "share of tasks that need a rare skill"),
    ),
    "behind-before": (
        "common",
        "expert_before",
        ("student, common skills", "chance of an expert’s error before the rare step"),
    ),
}


RIVALS = {
    "cap1": ("", "EEF minus RFT×6 with one win per task, points"),
    "rft6": ("-rft6", "EEF minus RFT×6, points"),
}
"""Method → suffix of the file's name, and title of the map."""


def main() -> None:
    for part, (down, across, titles) in FIGURES.items():
        for rival, (suffix, title) in RIVALS.items():
            value = partial(lead, other=rival)
            drawn = heat_map(read(part), down, across, titles, title, value)
            path = DOCS / f"when-{part}{suffix}.svg"
            path.write_text(drawn + "\n", encoding="utf-8")
            print(path.name)


if __name__ == "__main__":
    main()
