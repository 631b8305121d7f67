"""Trial: what one method came to with one seed, in few numbers. Everything a study says is said from its pieces.

A piece is read off a run directory (`summarize_trial`) and is itself a small file, so that a study may be carried out
on several machines, and its tables be made again when the runs, their trajectories and weights are long gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from eef.analysis.behaviors import BehaviorUse, count_behaviors
from eef.analysis.label_noise import LabelNoise, read_noise
from eef.errors import StoreError
from eef.pipeline.ledger import LEDGER_FILE, Cost, Ledger
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunData
from eef.pipeline.stages import BC, EXPERT, Stage, round_methods
from eef.trajectory import TrajectorySet
from eef.utils.jsonl import disk_errors, read_json, write_json
from eef.utils.records import Json, Migration, Record

_RENAMED = {
    "ok_rule": "label_rule",
    "launch": "branch_from",
    "expert_states": "expert_filter",
    "rollouts.fresh_limit": "rollouts.reset_step_limit",
    "train.warmup": "train.warmup_ratio",
    "train.start": "train.init_from",
}


def _rename_settings(record: Json) -> Json:
    """2 → 3: options and settings have their new names."""
    renamed = {
        group: {_RENAMED.get(key, key): value for key, value in record[group].items()}
        for group in ("options", "settings")
    }
    return {**record, **renamed}


SHARED = ("expert", "model", "chat", "sampling", "rollouts", "tasks", "train", "dpo", "evaluate")
NOT_SHARED = {  # what no number depends on, but for last bits; a seed is its piece's, a server its owner's
    "expert.api",
    "model.name",
    "model.device",
    "train.max_tokens_per_microbatch",
    "train.seed",
    "train.save_every",
    "train.threads",
    "train.gradient_checkpointing",
}


@dataclass(frozen=True, slots=True)
class Scores:
    """One evaluation: reward and win of each test task, in the order of `Trial.tasks`."""

    rewards: tuple[float, ...]
    won: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Record):
    """A method and a seed. The experts and behaviour cloning, which a seed's methods share, are pieces too.

    `budget` is (kind, size) of a round: ("updates", n) where methods play what they plan, since updates are equal in
    every comparison, or ("none", 0) where epochs are trained. `place` orders methods in
    tables; `algorithm` is the method an arm is a variant of, `options` all of its options, `settings` those of the
    recipe that methods must share to be compared. `scores`, `costs` (then by
    stage), `skills` and `selected` (the counts of what is trained on, `eef.methods.examples.make_selection`) go by round, 0
    for what comes before exploring. `starts` are (wins, rollouts) from the start of each training task in the last
    round. `noise`: its labels against many rollouts, where that was measured.
    """

    KIND: ClassVar[str] = "trial"
    VERSION: ClassVar[int] = 3
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {2: _rename_settings}

    study: str
    method: str
    seed: int
    budget: tuple[str, int]
    place: int
    rounds: int
    algorithm: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    tasks: tuple[str, ...]
    scores: Mapping[int, Scores]
    costs: Mapping[int, Mapping[str, Cost]]
    skills: Mapping[int, Mapping[str, BehaviorUse]]
    selected: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    starts: tuple[tuple[int, int], ...] = ()
    noise: LabelNoise | None = None

    @property
    def name(self) -> str:
        """`eef@0`"""
        return f"{self.method}@{self.seed}"

    @property
    def explores(self) -> bool:
        return self.method not in (EXPERT, BC)

    @property
    def last_round(self) -> int:
        return self.rounds if self.explores else 0

    @property
    def last(self) -> Scores | None:
        """The scores after the last round, None where it is not finished."""
        return self.scores.get(self.last_round)

    def wins(self, round: int) -> frozenset[str]:
        """Ids of the tasks won after a round; none where it was not evaluated."""
        won = scores.won if (scores := self.scores.get(round)) else (False,) * len(self.tasks)
        return frozenset(task for task, win in zip(self.tasks, won, strict=True) if win)

    def spent(self, stage: str | None = None, rounds: int | None = None) -> Cost:
        """What its stages cost together: all, or those of a kind; of all rounds, or up to one."""
        return sum(
            (
                cost
                for round, stages in self.costs.items()
                if rounds is None or round <= rounds
                for kind, cost in stages.items()
                if stage in (None, kind)
            ),
            Cost(),
        )

    def _fields(self) -> Json:
        """The fields without what is zero or empty in costs, so that the file stays small."""
        costs = {
            str(round): {
                stage: {key: value for key, value in asdict(cost).items() if value}
                for stage, cost in each.items()
            }
            for round, each in self.costs.items()
        }
        return {
            **asdict(self),
            "costs": costs,
            "scores": {
                str(round): {
                    "rewards": list(each.rewards),
                    "won": "".join("01"[won] for won in each.won),
                }
                for round, each in self.scores.items()
            },
            "skills": {
                str(round): {part: use.to_record() for part, use in each.items()}
                for round, each in self.skills.items()
            },
            "selected": {str(round): dict(counts) for round, counts in self.selected.items()},
            "noise": self.noise.to_record() if self.noise else None,
        }

    @classmethod
    def _parse(cls, fields: Json) -> Trial:
        noise = fields["noise"]
        scores = {
            round: {**each, "won": tuple(won == "1" for won in each["won"])}
            for round, each in fields["scores"].items()
        }
        noise = LabelNoise.from_record(noise) if noise else None
        trial = super(Trial, cls)._parse({**fields, "scores": scores, "noise": noise})
        for round, each in trial.scores.items():
            if not len(each.rewards) == len(each.won) == len(trial.tasks):
                raise StoreError(
                    f"malformed trial record: round {round} has {len(each.rewards)} rewards and "
                    f"{len(each.won)} wins of {len(trial.tasks)} tasks"
                )
        return trial


def write_trial(directory: Path, piece: Trial) -> None:
    """Keep a piece below a directory, as `<budget's kind>/<method>@<seed>.json` (StoreError)."""
    path = directory / piece.budget[0] / f"{piece.name}.json"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, piece.to_record(), indent=None)


def read_trial(path: Path) -> Trial:
    """A piece from its file. DataError where it is no JSON; StoreError, naming the file, where it is no piece."""
    record = read_json(path)
    try:
        return Trial.from_record(record if isinstance(record, dict) else {})
    except StoreError as error:
        raise StoreError(
            f"`{path}`: {error}", hint="`eef results` writes these files; remove what is none"
        ) from error


def trials_of(run: RunData) -> list[Trial]:
    """The pieces of a run, the finished and the begun ones, in the order of its tables."""
    return [
        summarize_trial(run, name)
        for name in (EXPERT, BC, *round_methods(run.recipe))
        if _begun(run, name)
    ]


def summarize_trial(run: RunData, method: str) -> Trial:
    """A method of a run in few numbers, as far as it is."""
    recipe, explores = run.recipe, method not in (EXPERT, BC)
    fingerprint = run.fingerprint
    rounds = recipe.rounds if explores else 0
    results = {
        round: result for round in range(rounds + 1) if (result := run.evaluation(method, round))
    }
    return Trial(
        study=recipe.name,
        method=method,
        seed=recipe.seed,
        budget=_budget(recipe, fingerprint["train_tasks"]),
        place=(EXPERT, BC, *round_methods(recipe)).index(method),
        rounds=rounds,
        algorithm=str(recipe.options.get(method, {}).get("method", method)),
        options=run.methods[method].options.model_dump(mode="json")
        if method in run.methods
        else {},
        settings=_shared_settings(recipe),
        fingerprint=fingerprint,
        tasks=tuple(
            outcome.task for result in list(results.values())[:1] for outcome in result.outcomes
        ),
        scores={
            round: Scores(
                tuple(outcome.reward for outcome in result.outcomes),
                tuple(outcome.success for outcome in result.outcomes),
            )
            for round, result in results.items()
        },
        costs=_costs(run, method),
        skills={round: _skills(run, method, round) for round in results},
        selected={
            round: counts
            for round in results
            if (counts := run.summary(Stage(method, round, "select")))
        }
        if method != EXPERT
        else {},
        starts=tuple(_from_start(run.trajectories(method), rounds))
        if explores and rounds in results
        else (),
        noise=read_noise(run, method),
    )


def _begun(run: RunData, method: str) -> bool:
    return (run.path / method / LEDGER_FILE).is_file()


def _shared_settings(recipe: Recipe) -> dict[str, Any]:
    """What must be the same for methods to be compared, by its name in the recipe; the environment and the student
    are the fingerprint's, and what is a matter of memory and speed is no matter."""
    groups = recipe.model_dump(mode="json", include=set(SHARED))
    return {
        name: value
        for group in SHARED
        for key, value in groups[group].items()
        if (name := f"{group}.{key}") not in NOT_SHARED
    }


def _budget(recipe: Recipe, tasks: int) -> tuple[str, int]:
    budget, updates = recipe.budget.of_round(tasks), recipe.train.updates
    if budget.rollouts:
        return "rollouts", budget.rollouts
    if budget.tokens:
        return "tokens", budget.tokens
    return ("updates", updates) if updates else ("none", 0)


def _costs(run: RunData, method: str) -> dict[int, dict[str, Cost]]:
    costs: dict[int, dict[str, Cost]] = {}
    for stage, cost in Ledger(run.path / method / LEDGER_FILE).entries.items():
        costs.setdefault(stage.round, {})[stage.kind] = cost
    return costs


def _skills(run: RunData, method: str, round: int) -> dict[str, BehaviorUse]:
    return count_behaviors(run.evaluation_rollouts(method, round), run.recipe.env.name)


def _from_start(trajectories: TrajectorySet, round: int) -> list[tuple[int, int]]:
    """(wins, rollouts) from the start of each task in a round."""
    counts: dict[str, tuple[int, int]] = {}
    for item in trajectories:
        if item.round == round and item.start is None and item.status != "error":
            wins, played = counts.get(item.task, (0, 0))
            counts[item.task] = (wins + item.success, played + 1)
    return list(counts.values())
