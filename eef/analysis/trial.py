"""Trial: the numbers of one method with one seed. Every figure of a study comes from its trials.

A trial is read from a run directory (`summarize_trial`) and stored as a small file. A study can
therefore be run on several machines, and its tables can be rebuilt after the runs, with their
trajectories and weights, have been deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from eef.analysis.asked import NO_MODELS, AskedModels, asked_models
from eef.analysis.behaviors import BehaviorUse, count_behaviors
from eef.analysis.label_noise import LabelNoise, read_noise
from eef.errors import StoreError
from eef.pipeline.checks import is_free
from eef.pipeline.evaluation import first_attempts
from eef.pipeline.ledger import LEDGER_FILE, Cost
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunData
from eef.pipeline.stages import BC, EXPERT, Stage, round_methods
from eef.trajectory import TrajectorySet
from eef.utils.jsonl import disk_errors, read_json, write_json
from eef.utils.records import Json, Migration, Record

SHARED = ("expert", "model", "chat", "sampling", "rollouts", "tasks", "train", "dpo", "evaluate")
"""Groups of settings that trials must share to be compared."""

NOT_SHARED = {
    "model.name",
    "model.device",
    "rollouts.host_cpus",
    "rollouts.hosts",
    "rollouts.in_flight",
    "rollouts.placement",
    "rollouts.server",
    "train.keep_checkpoints",
    "train.seed",
    "evaluate.every",
}
"""Settings of these groups that may differ, beside those that may change during a run: they affect
at most the last bits of a number, or are compared elsewhere (the seed belongs to the trial, the
student to the fingerprint)."""

_RENAMED_FIELDS = {"place": "order", "skills": "behaviors", "noise": "label_noise"}
_RENAMED_SETTINGS = {
    "ok_rule": "label_rule",
    "launch": "branch_from",
    "expert_states": "expert_filter",
    "rollouts.fresh_limit": "rollouts.reset_step_limit",
    "train.warmup": "train.warmup_ratio",
    "train.start": "train.init_from",
}


def _rename_fields(record: Json) -> Json:
    """2 → 3: fields, options and settings have new names."""
    renamed = {_RENAMED_FIELDS.get(key, key): value for key, value in record.items()}
    for group in ("options", "settings"):
        if isinstance(old := renamed.get(group), dict):
            renamed[group] = {_RENAMED_SETTINGS.get(key, key): value for key, value in old.items()}
    return renamed


_ADDED_SETTINGS: Json = {
    "chat.format": "react",
    "chat.template_variables": {},
    "chat.thoughts": "kept",
    "expert.own": {},
    "expert.sampling": {"temperature": None, "top_p": None, "max_tokens": None},
    "rollouts.engine": "local",
}
"""Settings that records of version 3 may lack, with the values that stand for what was done."""


def _add_settings(record: Json) -> Json:
    """3 → 4: settings that did not exist are stated; those that may differ are removed."""
    if not isinstance(settings := record.get("settings"), dict):
        return record  # malformed, which is found when it is read
    given = {**_ADDED_SETTINGS, **settings}
    return {**record, "settings": {key: given[key] for key in given if _is_shared(key)}}


class RoundBudget(NamedTuple):
    """The budget of a round: `size` units of "rollouts", "tokens" or "updates".

    The unit is "updates" if methods play everything they plan, since updates are equal in every
    comparison, and "none" if training is measured in epochs.
    """

    unit: str
    size: int


@dataclass(frozen=True, slots=True)
class Scores:
    """One evaluation: reward and win of each test task, in the order of `Trial.tasks`."""

    rewards: tuple[float, ...]
    won: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Record):
    """One method with one seed, finished or not. The expert and behavior cloning are trials too.

    `order` sorts methods in tables. `algorithm` is the method that a variant configures, `options`
    are all of its options. `settings` are the settings of the recipe that must be equal for trials
    to be compared.

    `scores`, `costs` (then by kind of stage), `behaviors` and `selected` (counts of what is trained
    on, see `eef.methods.examples.make_selection`) are keyed by round; round 0 precedes exploration.
    `starts` are (wins, rollouts) from the start of each training task in the last round.
    `label_noise` is None if it was not measured. `asked` are the models beside the student;
    `wins_by_attempt` has the number of test tasks won within 1, 2, … attempts after the last round
    (empty if each was tried once). Records without these two are of methods that ask none.
    """

    KIND: ClassVar[str] = "trial"
    VERSION: ClassVar[int] = 4
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {2: _rename_fields, 3: _add_settings}

    study: str
    method: str
    seed: int
    budget: RoundBudget
    order: int
    rounds: int
    algorithm: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    tasks: tuple[str, ...]
    scores: Mapping[int, Scores]
    costs: Mapping[int, Mapping[str, Cost]]
    behaviors: Mapping[int, Mapping[str, BehaviorUse]]
    selected: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    starts: tuple[tuple[int, int], ...] = ()
    label_noise: LabelNoise | None = None
    asked: AskedModels = NO_MODELS
    wins_by_attempt: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """`eef@0`"""
        return f"{self.method}@{self.seed}"

    @property
    def explores(self) -> bool:
        return self.method not in (EXPERT, BC)

    @property
    def last_round(self) -> int:
        """The planned last round; 0 if the method does not explore."""
        return self.rounds if self.explores else 0

    @property
    def final_scores(self) -> Scores | None:
        """The scores after the last round, or None if the trial is not finished."""
        return self.scores.get(self.last_round)

    def wins(self, round: int) -> frozenset[str]:
        """Ids of the tasks won after a round; empty if it was not evaluated."""
        won = scores.won if (scores := self.scores.get(round)) else (False,) * len(self.tasks)
        return frozenset(task for task, win in zip(self.tasks, won, strict=True) if win)

    def cost_of(self, kind: str | None = None, up_to: int | None = None) -> Cost:
        """The total cost of its stages, optionally of one kind and up to a round."""
        return sum(
            (
                cost
                for round, stages in self.costs.items()
                if up_to is None or round <= up_to
                for stage_kind, cost in stages.items()
                if kind in (None, stage_kind)
            ),
            Cost(),
        )

    def _fields(self) -> Json:
        """The fields in a compact form: no zero costs, wins as a string of 0 and 1."""
        costs = {
            round: {
                kind: {key: value for key, value in asdict(cost).items() if value}
                for kind, cost in stages.items()
            }
            for round, stages in self.costs.items()
        }
        scores = {
            round: {"rewards": each.rewards, "won": "".join("01"[won] for won in each.won)}
            for round, each in self.scores.items()
        }
        noise = self.label_noise.to_record() if self.label_noise else None
        return {**asdict(self), "costs": costs, "scores": scores, "label_noise": noise}

    @classmethod
    def _parse(cls, fields: Json) -> Trial:
        scores = {
            round: {**each, "won": tuple(won == "1" for won in each["won"])}
            for round, each in fields["scores"].items()
        }
        noise = fields["label_noise"]
        noise = LabelNoise.from_record(noise) if noise else None
        trial = super(Trial, cls)._parse({**fields, "scores": scores, "label_noise": noise})
        for round, each in trial.scores.items():
            if not len(each.rewards) == len(each.won) == len(trial.tasks):
                raise StoreError(
                    f"malformed trial record: round {round} has {len(each.rewards)} rewards and "
                    f"{len(each.won)} wins of {len(trial.tasks)} tasks"
                )
        return trial


def write_trial(directory: Path, trial: Trial) -> None:
    """Write a trial to `<directory>/<budget unit>/<method>@<seed>.json`. StoreError if it fails."""
    path = directory / trial.budget.unit / f"{trial.name}.json"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, trial.to_record(), indent=None)


def read_trial(path: Path) -> Trial:
    """The trial in a file. DataError if it is not JSON; StoreError if it is malformed."""
    record = read_json(path)
    try:
        return Trial.from_record(record if isinstance(record, dict) else {})
    except StoreError as error:
        raise StoreError(
            f"`{path}`: {error}",
            hint="`eef report` writes trial files; remove other files from the directory",
        ) from error


def trials_of(run: RunData) -> list[Trial]:
    """The trials of a run that have started, in the order of its tables."""
    return [
        summarize_trial(run, name)
        for name in (EXPERT, BC, *round_methods(run.recipe))
        if (run.path / name / LEDGER_FILE).is_file()
    ]


def summarize_trial(run: RunData, method: str) -> Trial:
    """The trial of a method in a run, so far."""
    recipe, explores = run.recipe, method not in (EXPERT, BC)
    fingerprint = run.fingerprint
    rounds = run.rounds_of(method) if explores else 0
    results = {
        round: result for round in range(rounds + 1) if (result := run.evaluation(method, round))
    }
    return Trial(
        study=recipe.name,
        method=method,
        seed=recipe.seed,
        budget=_budget(recipe, fingerprint["train_tasks"]),
        order=(EXPERT, BC, *round_methods(recipe)).index(method),
        rounds=rounds,
        algorithm=str(recipe.options.get(method, {}).get("method", method)),
        options=_options(run, method) if method in run.methods else {},
        settings=shared_settings(recipe),
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
        behaviors={
            round: count_behaviors(
                first_attempts(run.evaluation_rollouts(method, round)), recipe.env.name
            )
            for round in results
        },
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
        label_noise=read_noise(run, method),
        asked=asked_models(run, method),
        wins_by_attempt=results[rounds].wins_by_attempt if rounds in results else (),
    )


def _options(run: RunData, method: str) -> dict[str, Any]:
    """All options of a method, and its overrides as `overrides.<setting>`."""
    options = run.methods[method].options.model_dump(mode="json")
    for key, value in run.recipe.overrides.get(method, {}).items():
        settings = value if isinstance(value, dict) else {"": value}
        options |= {
            ".".join(part for part in ("overrides", key, name) if part): each
            for name, each in settings.items()
        }
    return options


def shared_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that must be equal for trials to be compared, by their name in the recipe."""
    groups = recipe.model_dump(mode="json", include=set(SHARED))
    return {
        name: value
        for group in SHARED
        for key, value in groups[group].items()
        if _is_shared(name := f"{group}.{key}")
    }


def _is_shared(setting: str) -> bool:
    return setting not in NOT_SHARED and not is_free(setting)


def _budget(recipe: Recipe, tasks: int) -> RoundBudget:
    budget, updates = recipe.budget.of_round(tasks), recipe.train.updates
    if budget.rollouts:
        return RoundBudget("rollouts", budget.rollouts)
    if budget.tokens:
        return RoundBudget("tokens", budget.tokens)
    return RoundBudget("updates", updates) if updates else RoundBudget("none", 0)


def _costs(run: RunData, method: str) -> dict[int, dict[str, Cost]]:
    costs: dict[int, dict[str, Cost]] = {}
    for stage, cost in run.costs(method).items():
        costs.setdefault(stage.round, {})[stage.kind] = cost
    return costs


def _from_start(trajectories: TrajectorySet, round: int) -> list[tuple[int, int]]:
    """(wins, rollouts) from the start of each task in a round."""
    counts: dict[str, tuple[int, int]] = {}
    for item in trajectories:
        if item.round == round and item.start is None and item.status != "error":
            wins, played = counts.get(item.task, (0, 0))
            counts[item.task] = (wins + item.success, played + 1)
    return list(counts.values())
