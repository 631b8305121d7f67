"""Recommendation: which method to run on a recipe's tasks, from the potential measured on them.

The rule was chosen on random settings of the laboratory (`benchmarks/laboratory`) and then applied
to settings drawn later; `CALIBRATION` holds how it did there. `docs/when.md` has both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from eef.analysis.potential import Potential

Prospect = Literal["gain", "even", "loss"]

OPENED, TAUGHT, MISSED, LOSS = 0.05, 2.0, 0.05, 0.03
"""The rule: a gain is expected if the opened tasks are at least `OPENED` of all and `TAUGHT` times
the taught ones, while at most `MISSED` of all are missed; a loss if at least `LOSS` are missed."""

MARGIN = 0.02
"""The least difference in win rate that counts as a gain or a loss."""

MOST_STATES = 5
CALIBRATED_TRIES = 6
"""Tries per task from the start in the laboratory; with fewer, more tasks count as hard."""

_DRAWS = 2000


class Calibration(NamedTuple):
    """The outcomes of some of the laboratory's settings with one prospect.

    `settings` is their number; `gain` and `loss` are the shares in which EEF's win rate was at
    least `MARGIN` above or below that of RFT with one win per task; `mean` is the mean difference.
    """

    settings: int
    gain: float
    loss: float
    mean: float


CALIBRATION: dict[Prospect, Calibration] = {
    "gain": Calibration(27, 0.556, 0.074, 0.046),
    "even": Calibration(100, 0.09, 0.02, 0.002),
    "loss": Calibration(33, 0.0, 0.303, -0.014),
}
"""Of the held-out settings."""

STRONG_RATE = 0.6
STRONG_SETTINGS, STRONG_GAINED, STRONG_MEAN = 9, 2, 0.007
"""The settings in which a gain is predicted although the student wins at least `STRONG_RATE` of its
rollouts from the start, those that gained `MARGIN`, and the mean difference of all. The settings
that the rule was chosen on are included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The prospect of EEF, and the recommended method with its options and its budget.

    `options` are those of the method; `rollouts_per_task` is the budget of a round. `stability` is
    the chance that as many other tasks of the same kind would give the same prospect.
    `student_rate` is the student's win rate from the start.
    """

    prospect: Prospect
    stability: float
    student_rate: float
    method: str
    options: dict[str, int]
    rollouts_per_task: int
    reason: str

    @property
    def calibration(self) -> Calibration:
        return CALIBRATION[self.prospect]

    def text(self) -> Iterator[str]:
        """The recommendation in sentences, one per line."""
        known = self.calibration
        options = ", ".join(f"{name} = {value}" for name, value in self.options.items())
        yield f"{self.reason}."
        yield (
            f"Recommended: `{self.method}`{f' with {options}' if options else ''}, "
            f"`budget.rollouts_per_task = {self.rollouts_per_task}`."
        )
        yield (
            f"Stability: {100 * self.stability:.0f} % of the resamples of these tasks give the "
            "same prospect."
        )
        yield (
            f"Of {known.settings} held-out simulated settings (`docs/when.md`) with this prospect, "
            f"EEF was at least {100 * MARGIN:.0f} points above RFT with one win per task in "
            f"{100 * known.gain:.0f} %, at least as far below in {100 * known.loss:.0f} %, and "
            f"{100 * known.mean:+.1f} points on average. Your environment may differ."
        )
        if self.prospect == "gain" and self.student_rate >= STRONG_RATE:
            yield (
                f"The student wins {100 * self.student_rate:.0f} % of its rollouts from the start, "
                f"which makes a gain less likely: of {STRONG_SETTINGS} simulated settings with "
                f"this prospect and at least {100 * STRONG_RATE:.0f} % (some were used to choose "
                f"the rule), {STRONG_GAINED} gained at least {100 * MARGIN:.0f} points, with "
                f"{100 * STRONG_MEAN:+.1f} points on average."
            )


def prospect_of(potential: Potential) -> Prospect:
    """Whether EEF should be ahead of RFT with one win per task, behind it, or neither."""
    opened, taught, missed = map(
        potential.share, (potential.opened, potential.taught, potential.missed)
    )
    if opened >= max(OPENED, TAUGHT * taught) and missed <= MISSED:
        return "gain"
    return "loss" if missed >= LOSS else "even"


def stability_of(potential: Potential) -> float:
    """The share of resamples of the tasks with the same prospect; the same for equal arguments.

    Taught, opened and missed tasks are disjoint, so their counts are multinomial.

    Source: Efron, Ann. Stat. 7 (1979), the bootstrap.
    """
    counts = [potential.taught, potential.opened, potential.missed]
    chances = [*counts, potential.tasks - sum(counts)]
    drawn = np.random.default_rng(0).multinomial(
        potential.tasks, np.array(chances) / potential.tasks, _DRAWS
    )
    prospects = (
        prospect_of(replace(potential, taught=taught, opened=opened, missed=missed))
        for taught, opened, missed, _ in drawn.tolist()
    )
    return sum(each == prospect_of(potential) for each in prospects) / _DRAWS


def advise_on(potential: Potential) -> Recommendation:
    """The recommendation for tasks with this potential."""
    prospect, stability = prospect_of(potential), stability_of(potential)
    counts = (
        f"the expert's failures open {potential.opened} of {potential.tasks} tasks, its wins teach "
        f"{potential.taught} that the student does not win, and {potential.missed} are missed "
        "because EEF plays fewer rollouts from the start"
    )
    states = max(1, min(MOST_STATES, round(potential.failure) - 1))
    if prospect == "gain":
        return Recommendation(
            prospect=prospect,
            stability=stability,
            student_rate=potential.student_rate,
            method="eef",
            options={"M": states, "rollouts_per_state": 1},
            rollouts_per_task=1 + states,
            reason=f"EEF should gain: {counts}",
        )
    words = (
        "EEF should lose" if prospect == "loss" else "EEF should neither gain nor lose by 2 points"
    )
    return Recommendation(
        prospect=prospect,
        stability=stability,
        student_rate=potential.student_rate,
        method="rft6",
        options={"cap": 1},
        rollouts_per_task=6,
        reason=f"{words}: {counts}",
    )
