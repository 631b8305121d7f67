"""Pipeline: a recipe carried out, stage by stage, in a run directory that can be left and entered at any time.

    expert   collect → evaluate
    bc       select → train → evaluate                       (round 0)
    method   explore → select → train → evaluate             (rounds 1 … n, each method by itself)

Each stage leaves a file that is written last; a stage whose file is there is done and is not carried out again. What a
stage reads lies in the directory as well, so a run that was interrupted goes on as if it had not been.

    DIR/recipe.json, fingerprint.json      what is run, and where
    DIR/<method>/trajectories.jsonl        the rollouts of all rounds (`expert`: the expert data)
    DIR/<method>/ledger.jsonl              what each stage cost
    DIR/<method>/round<r>/                 explored.json, examples.jsonl (pairs.jsonl), selection.json, checkpoint/,
                                           evaluation.json
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from eef.config import parse_settings
from eef.env import Env
from eef.envs.registry import make_env, make_expert
from eef.errors import ConfigError, DataError, EefError, MethodError, StoreError
from eef.exporters.examples import RenderedExample, make_lessons
from eef.importers.importer import Importer
from eef.importers.verify import TEXT, TaskIndex
from eef.methods.base import Method
from eef.methods.labels import is_student
from eef.methods.registry import make_method
from eef.pipeline.checks import _joined, _refuse_other_place, versions
from eef.pipeline.cost_estimate import Estimate, estimate
from eef.pipeline.evaluation import EvalResult, summarise
from eef.pipeline.ledger import Cost, Ledger, usage_of
from eef.pipeline.model_card import model_card
from eef.pipeline.recipe import Recipe
from eef.pipeline.stages import BC, EXPERT, Listener, Progress, Stage, stages_of
from eef.policies.response_cache import JOURNAL_FILE, ResponseCache
from eef.policies.settings import ApiSettings, SamplingSettings
from eef.policy import Policy, Sampling
from eef.renderer import Renderer, render_all, render_pairs
from eef.rollouts.budget import chunks
from eef.rollouts.explore import attempt_ids, explore, launches
from eef.rollouts.runner import RolloutSpec, derive_seed, is_replay_mismatch
from eef.rollouts.store import Store, read_trajectories
from eef.selection import PlannedState, PreferencePair, Selection, TrainingExample
from eef.task import TaskSet
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.jsonl import disk_errors, read_json, read_jsonl, write_json, write_jsonl, write_text
from eef.utils.locks import acquire_lock


class Run:
    """A run directory with its recipe. Opening one makes no model and plays nothing."""

    def __init__(self, directory: Path, recipe: Recipe) -> None:
        self.directory = directory
        self.recipe = recipe
        self.methods = {
            name: make_method(name, recipe.options.get(name)) for name in recipe.methods
        }
        self.methods.setdefault(BC, make_method(BC, recipe.options.get(BC)))
        self._deaths: Counter[Stage] = Counter()

    @classmethod
    def create(cls, directory: Path, recipe: Recipe) -> Run:
        """Begin a run, or enter one that was begun with an equal recipe (StoreError for another).

        Methods may be added to a run, since each goes its own way; those it was begun with stay. Where nothing has been
        played yet, the recipe may still change."""
        run = cls(directory, recipe)
        path = directory / "recipe.json"
        if path.exists() and (directory / EXPERT).exists():
            together = _joined(path, recipe)
            if together.methods != recipe.methods:
                write_json(path, json.loads(together.to_json()))
            return cls(directory, together)
        fingerprint = run.fingerprint()
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "fingerprint.json", fingerprint)
        write_json(path, json.loads(recipe.to_json()))
        return run

    @classmethod
    def open(cls, directory: Path) -> Run:
        """Enter a run that was begun. StoreError where there is none."""
        path = directory / "recipe.json"
        if not path.is_file():
            raise StoreError(
                f"`{directory}` is no run directory: it has no `recipe.json`",
                hint="`eef run` makes one",
            )
        return cls(directory, parse_settings(Recipe, read_json(path), source=str(path)))

    def check(self) -> None:
        """Refuse at once what would fail hours later: another environment than the run was begun in, an expert that
        is not there, a student without a usable tokenizer."""
        _refuse_other_place(self.directory / "fingerprint.json", self.fingerprint())
        for name in self.recipe.expert.names:
            if name.startswith("file/"):
                self._expert_file(name)
            elif not name.startswith("hf/"):
                self._expert(name)
        self._refuse_shared_tasks()
        if not all(
            self.is_done(stage) for stage in stages_of(self.recipe) if stage.kind == "train"
        ):
            from eef.models.loading import load_tokenizer

            Renderer(load_tokenizer(self.recipe.model.name))
            self._refuse_seen_tasks()

    def _refuse_shared_tasks(self) -> None:
        """ConfigError where a task is both trained and tested on."""
        trained = {task.id for task in self.train_tasks}
        shared = [task.id for task in self.test_tasks if task.id in trained]
        if shared:
            raise ConfigError(
                f"{len(shared)} of the test tasks are training tasks, {shared[0]} among them",
                hint=f"test on another split: `evaluate.split` is {self.recipe.evaluate.split!r}",
            )

    def _refuse_seen_tasks(self) -> None:
        """ConfigError where the student's manifest says that it was made from a task which the recipe plays."""
        from eef.models.checkpoint import is_complete, read_manifest
        from eef.models.loading import locate

        directory = Path(locate(self.recipe.model.name))
        seen = (
            set(read_manifest(directory).get("made_from", ())) if is_complete(directory) else set()
        )
        played = [task.id for task in (*self.train_tasks, *self.test_tasks) if task.id in seen]
        if played:
            raise ConfigError(
                f"the student `{self.recipe.model.name}` was made from {len(played)} of the tasks that the recipe "
                f"plays, {played[0]} among them",
                hint="play other splits (`evaluate.split`), or make a student from others (`eef make-base`)",
            )

    # --- what a run is made of -----------------------------------------------------------------------------------

    @cached_property
    def env(self) -> Env:
        return make_env(self.recipe.env.name, self.recipe.env.options)

    @cached_property
    def train_tasks(self) -> TaskSet:
        return self._tasks("train", self.recipe.tasks.train)

    @cached_property
    def test_tasks(self) -> TaskSet:
        return self._tasks(self.recipe.evaluate.split, self.recipe.tasks.test)

    def _tasks(self, split: str, count: int | None) -> TaskSet:
        """The tasks of a split that the recipe takes; ConfigError where there are fewer than it asks for."""
        tasks = self.env.tasks(split)
        if not tasks:
            raise ConfigError(
                f"the environment has no task of split {split!r}",
                hint="take another split, other data",
            )
        if count is not None and count > len(tasks):
            raise ConfigError(
                f"the recipe takes {count} tasks of split {split!r}, which has {len(tasks)}",
                hint=f"set `tasks.{'train' if split == 'train' else 'test'}` to {len(tasks)} or less",
            )
        seed = self.recipe.tasks.seed
        return (tasks if seed is None else tasks.shuffled(seed)).head(count)

    @property
    def step_limit(self) -> int:
        return self.recipe.rollouts.step_limit or self.env.step_limit

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn while exploring."""
        return _sampling(self.recipe.sampling)

    def fingerprint(self) -> dict[str, Any]:
        """The environment, and all else that decides whether two numbers can stand in one table."""
        return {
            **self.env.fingerprint(),
            "step_limit": self.step_limit,
            "train_tasks": len(self.train_tasks),
            "test_split": self.recipe.evaluate.split,
            "test_tasks": len(self.test_tasks),
            "student": self.recipe.model.name,
            **versions(),
        }

    def folder(self, stage: Stage) -> Path:
        return self.directory / stage.method / f"round{stage.round}"

    def ledger(self, method: str) -> Ledger:
        return Ledger.open(self.directory / method)

    def trajectories(self, method: str) -> TrajectorySet:
        """The expert data, and the rollouts of a method behind it; for reading."""
        experts = read_trajectories(self.directory / EXPERT)
        return (
            experts
            if method in (EXPERT, BC)
            else read_trajectories(self.directory / method, base=experts)
        )

    def evaluation(self, method: str, round: int) -> EvalResult | None:
        """The result of an evaluation, None where it was not carried out yet."""
        path = self._outcome(Stage(method, round, "evaluate"))
        return EvalResult.from_record(read_json(path)) if path.is_file() else None

    def selection(self, method: str, round: int) -> Selection | None:
        """What was selected for training in a round, None where it was not yet."""
        stage = Stage(method, round, "select")
        if not self.is_done(stage):
            return None
        examples, pairs = self.folder(stage) / "examples.jsonl", self.folder(stage) / "pairs.jsonl"
        return Selection(
            tuple(TrainingExample.from_record(record) for record in read_jsonl(examples)),
            read_json(self._outcome(stage)),
            tuple(PreferencePair.from_record(record) for record in read_jsonl(pairs))
            if pairs.is_file()
            else (),
        )

    def outcome(self, stage: Stage) -> dict[str, Any] | None:
        """What a stage has left to say of itself, None where it is not done: counts of rollouts or of examples, how
        the training went, the evaluation's record."""
        if not self.is_done(stage):
            return None
        path = (
            self.folder(stage) / "training.json" if stage.kind == "train" else self._outcome(stage)
        )
        record: dict[str, Any] = read_json(path)
        return record

    def episodes(self, method: str, round: int) -> TrajectorySet:
        """The rollouts of an evaluation, none where it was not begun; for reading."""
        return read_trajectories(self.folder(Stage(method, round, "evaluate")) / "evaluation")

    def is_done(self, stage: Stage) -> bool:
        return self._outcome(stage).is_file()

    def require(self, stage: Stage) -> None:
        """StoreError where a stage is not done."""
        if not self.is_done(stage):
            raise StoreError(
                f"`{stage}` is not done yet", hint=f"`eef resume {self.directory}` does it"
            )

    def _outcome(self, stage: Stage) -> Path:
        """The file which a stage writes last."""
        names = {
            "collect": "explored.json",
            "explore": "explored.json",
            "select": "selection.json",
            "train": "checkpoint/manifest.json",
            "evaluate": "evaluation.json",
        }
        return self.folder(stage) / names[stage.kind]

    # --- carrying out --------------------------------------------------------------------------------------------

    def carry_out(self, stage: Stage, listener: Listener) -> None:
        """Carry out a stage unless it is done. StoreError where a stage it needs is not done yet, or where another
        process works on this method."""
        if self.is_done(stage):
            return
        for needed in self._needs(stage):
            if not self.is_done(needed):
                raise StoreError(
                    f"`{stage}` needs `{needed}` first",
                    hint=f"`eef resume {self.directory}` does both",
                )
        with disk_errors(self.folder(stage)):
            self.folder(stage).mkdir(parents=True, exist_ok=True)
        with acquire_lock(self.directory / stage.method / "stage.lock"):
            if not self.is_done(stage):
                listener(Progress(stage, 0, 0))
                getattr(self, f"_{stage.kind}")(stage, listener)
                listener(Progress(stage, 0, 0, finished=True))

    def _needs(self, stage: Stage) -> Iterator[Stage]:
        if stage.method == EXPERT:
            return
        yield Stage(EXPERT, 0, "collect")
        if stage.kind == "explore":
            yield self._trained_before(stage)
        elif stage.kind == "select" and stage.method != BC:
            yield Stage(stage.method, stage.round, "explore")
        elif stage.kind == "train":
            yield Stage(stage.method, stage.round, "select")
        elif stage.kind == "evaluate":
            yield Stage(stage.method, stage.round, "train")

    def _trained_before(self, stage: Stage) -> Stage:
        method = stage.method if stage.round > 1 else BC
        return Stage(method, stage.round - 1, "train")

    def _collect(self, stage: Stage, listener: Listener) -> None:
        """Every expert plays every training task once; one that is a file is read."""
        tasks = self.train_tasks.head(self.recipe.expert.tasks)
        told: dict[str, Any] = {}
        with Store.open(self.directory / EXPERT) as store:
            for name in self.recipe.expert.names:
                if name.startswith("file/"):
                    told[name] = self._read_expert(stage, name, tasks, store, listener)
                    continue
                expert = self._expert(name)
                seed = self.recipe.seed
                planned = [
                    RolloutSpec(
                        f"{expert.name}/{task.id}",
                        task,
                        None,
                        derive_seed(seed, expert.name, task.id),
                        0,
                    )
                    for task in tasks
                ]
                self._play(stage, planned, store, expert, self.sampling, listener)
            told |= self._api_counts()
            self._finish_rollouts(stage, store.trajectories, told)

    def _read_expert(
        self, stage: Stage, name: str, tasks: TaskSet, store: Store, listener: Listener
    ) -> dict[str, Any]:
        """Take a file's trajectories into the store, replayed where they can be; returns the report's record. Those of
        tasks that are evaluated on, and of training tasks which the recipe does not take, are held out."""
        split, taken = self.recipe.evaluate.split, {task.id for task in tasks}
        splits = {"train": self.env.tasks("train"), split: self.env.tasks(split)}
        held_out = (
            {task.id: f"{task.id} is evaluated on" for task in splits[split]}
            if split != "train"
            else {}
        )
        other = (task.id for task in splits["train"] if task.id not in taken)
        held_out |= {task: f"{task} is none of this run's training tasks" for task in other}
        reading = Importer(TaskIndex(self.env, splits), held_out=held_out)
        for item in reading.trajectories([self._expert_file(name)]):
            if isinstance(item, Trajectory) and item.id not in store.trajectories:
                store.append(item)
            listener(Progress(stage, reading.report.imported, 0, f"{reading.report.won} won"))
        if not reading.report.imported:
            reasons = ", ".join(
                f"{count} × {reason}" for reason, count in reading.report.reasons.items()
            )
            raise DataError(
                f"expert `{name}` holds no trajectory to train on ({reasons})",
                hint=f"`eef import {name.removeprefix('file/')}` names each row and what is wrong with it",
            )
        return reading.report.to_record()

    def _explore(self, stage: Stage, listener: Listener) -> None:
        """The student of the round before plays what the method plans."""
        tasks = {task.id: task for task in self.train_tasks}
        with Store.open(
            self.directory / stage.method, base=read_trajectories(self.directory / EXPERT)
        ) as store:
            plan = self.plan(stage, store.trajectories)
            planned: list[RolloutSpec] = []

            def tokens_of(count: int) -> int:
                names = (name for launch in planned[:count] for name in attempt_ids(launch.id))
                ended = (store.trajectories[name] for name in names if name in store.trajectories)
                return sum(item.usage.generated_tokens for item in ended)

            states: list[PlannedState] = []
            student = self.explorer(stage) if plan else None
            earlier = Counter(
                item.start for item in store.trajectories if item.start and item.round < stage.round
            )
            budget = self.recipe.budget.of_round(len(self.train_tasks))
            for wave in chunks(plan, budget, self.recipe.rollouts.batch_size, tokens_of, earlier):
                assert student is not None, "what is not planned is not played"
                states += wave
                fresh = launches(states, tasks, round=stage.round, seed=self.recipe.seed)[
                    len(planned) :
                ]
                self._play(
                    stage,
                    fresh,
                    store,
                    student,
                    self.sampling,
                    listener,
                    before=planned,
                    prompt_suffix=self.methods[stage.method].prompt_suffix,
                )
                planned += fresh
            self._finish_rollouts(
                stage, [item for item in store.trajectories if _is_of(item, stage)]
            )

    def plan(self, stage: Stage, trajectories: TrajectorySet) -> list[PlannedState]:
        """What a method would play in a round; the budget cuts it, or lets it begin anew."""
        tasks = [task.id for task in self.train_tasks]
        return self.methods[stage.method].plan(trajectories, tasks, stage.round)

    def _select(self, stage: Stage, listener: Listener) -> None:
        method: Method = self.methods[stage.method]
        trajectories = self.trajectories(stage.method)
        tasks = [*(task.id for task in self.train_tasks), *text_tasks(trajectories)]
        selection = method.select(trajectories, tasks, stage.round)
        write_jsonl(
            self.folder(stage) / "examples.jsonl", (each.to_record() for each in selection.examples)
        )
        if selection.pairs:
            write_jsonl(
                self.folder(stage) / "pairs.jsonl", (each.to_record() for each in selection.pairs)
            )
        write_json(self._outcome(stage), selection.counts)

    def _train(self, stage: Stage, listener: Listener) -> None:
        from eef.models.checkpoint import save_checkpoint
        from eef.models.loading import load_model
        from eef.training.round import train_round
        from eef.training.trainer import TrainProgress

        selection = self.selection(stage.method, stage.round)
        assert selection is not None, "selected before it is trained on"
        settings = self.recipe.train
        start = self.recipe.model.name
        # pairs alone would not teach a base model to act: they refine what the round before has made of it
        if stage.method != BC and (settings.init_from == "last" or not selection.examples):
            start = str(self._checkpoint(self._trained_before(stage)))
        model, tokenizer = load_model(
            start,
            dtype=self.recipe.model.dtype,
            device=self.recipe.model.device,
            lora=self.recipe.model.lora,
        )
        place = self.trajectories(stage.method), self.env.prompt, self._renderer(model, tokenizer)
        rendered, overflows = render_all(selection.examples, *place)
        pairs, too_long = render_pairs(selection.pairs, *place)
        overflows += too_long
        if not rendered and not pairs:
            raise MethodError(
                f"`{stage}`: all {len(overflows)} examples are longer than the model's context",
                hint="raise `chat.max_length`, or take a model with a longer context",
            )

        def heard(update: TrainProgress) -> None:
            listener(Progress(stage, update.update, update.updates, f"loss {update.loss:.3f}"))

        points = self.folder(stage) / "training"
        result = train_round(
            model, rendered, pairs, settings, self.recipe.dpo, directory=points, progress=heard
        )
        write_json(
            self.folder(stage) / "training.json",
            {
                "updates": result.updates,
                "examples": len(rendered),
                "pairs": len(pairs),
                "too_long": overflows,
                "losses": result.losses,
            },
        )
        cost = Cost(
            updates=result.updates,
            trained_tokens=result.trained_tokens,
            processed_tokens=result.processed_tokens,
            seconds=result.seconds,
        )
        self.ledger(stage.method).record(stage.method, stage.round, "train", cost)
        save_checkpoint(
            model,
            tokenizer,
            self._checkpoint(stage),
            base=start,
            about={"recipe": self.recipe.name, "method": stage.method, "round": stage.round},
        )
        self._write_card(stage)
        shutil.rmtree(points, ignore_errors=True)

    def _evaluate(self, stage: Stage, listener: Listener) -> None:
        """Play the test tasks; their trajectories are kept apart from those that are trained on."""
        if stage.method == EXPERT:
            policy = self._expert(self.recipe.expert.players[0])
        else:
            policy = self._student(Stage(stage.method, stage.round, "train"))
        split = self.recipe.evaluate.split
        seed = self.recipe.seed
        planned = [
            RolloutSpec(
                f"evaluation/{task.id}",
                task,
                None,
                derive_seed(seed, "evaluation", task.id),
                stage.round,
            )
            for task in self.test_tasks
        ]
        with Store.open(self.folder(stage) / "evaluation") as store:
            prompt_suffix = (
                "" if stage.method == EXPERT else self.methods[stage.method].prompt_suffix
            )
            self._play(
                stage,
                planned,
                store,
                policy,
                _sampling(self.recipe.evaluation_sampling),
                listener,
                prompt_suffix=prompt_suffix,
            )
            ends = [_last_try(store.trajectories, launch.id) for launch in planned]
        result = summarise(
            ends, policy=policy.name, method=stage.method, round=stage.round, split=split
        )
        self.ledger(stage.method).record(stage.method, stage.round, "evaluate", result.cost)
        write_json(self._outcome(stage), result.to_record())
        if stage.method != EXPERT:
            self._write_card(Stage(stage.method, stage.round, "train"))

    def _play(
        self,
        stage: Stage,
        planned: list[RolloutSpec],
        store: Store,
        policy: Policy,
        sampling: Sampling,
        listener: Listener,
        *,
        before: Sequence[RolloutSpec] = (),
        told: str = "",
    ) -> None:
        """Play launches into the store; `before` are those of the same stage that were played already."""
        known = [*before, *planned]
        stored = [
            store.trajectories[launch.id] for launch in known if launch.id in store.trajectories
        ]
        done, wins = len(stored), sum(trajectory.success for trajectory in stored)

        def heard(trajectory: Trajectory) -> None:
            nonlocal done, wins
            done, wins = done + 1, wins + trajectory.success
            listener(Progress(stage, done, max(done, len(known)), f"{wins} won"))

        listener(Progress(stage, done, len(known)))
        deaths = self.env.deaths
        outcome = explore(
            planned,
            store,
            self.env,
            policy,
            sampling=sampling,
            step_limit=self.step_limit,
            batch_size=self.recipe.rollouts.batch_size,
            reset_step_limit=self.recipe.rollouts.reset_step_limit,
            prompt_suffix=prompt_suffix,
            progress=heard,
        )
        self._deaths[stage] += self.env.deaths - deaths
        # the last portions of a budget may be of one rollout each: one that breaks is a record like any other
        recent = known[-max(len(planned), self.recipe.rollouts.batch_size) :]
        last = (
            [_last_try(store.trajectories, launch.id) for launch in recent]
            if outcome.errors
            else []
        )
        if last and all(item.status == "error" for item in last):
            aside = store.quarantine({name for launch in recent for name in attempt_ids(launch.id)})
            raise StoreError(
                f"`{stage}`: every rollout broke; the first with: {last[0].error}",
                hint=f"mend the cause, then `eef resume {self.directory}`; the broken ones now lie in `{aside}`",
            )

    def _finish_rollouts(
        self, stage: Stage, played: Iterable[Trajectory], told: dict[str, Any] | None = None
    ) -> None:
        rollouts = list(played)
        self.ledger(stage.method).record(stage.method, stage.round, stage.kind, usage_of(rollouts))
        write_json(
            self._outcome(stage),
            {
                "rollouts": len(rollouts),
                "wins": sum(item.success for item in rollouts),
                "errors": sum(item.status == "error" for item in rollouts),
                "mismatches": sum(is_replay_mismatch(item) for item in rollouts),
                "overflows": sum(item.error == "context overflow" for item in rollouts),
                "deaths": self._deaths[stage],
                **(
                    {"text_only": sum(not item.replayable for item in rollouts), "sources": told}
                    if told
                    else {}
                ),
            },
        )

    # --- policies ------------------------------------------------------------------------------------------------

    def _expert(self, name: str) -> Policy:
        provider, _, model = name.partition("/")
        if provider == "scripted":
            return make_expert(self.env, model)
        if provider == "hf":
            return self._local(name, f"expert:{Path(model).name}")
        if provider == "openai":
            return self._api_expert(model)
        raise ConfigError(
            f"no expert {name!r}",
            hint="`scripted/<preset>`, `hf/<path or hub id>`, `openai/<model>` or `file/<path>`",
        )

    def _api_expert(self, model: str) -> Policy:
        try:
            from eef.policies.openai import ApiPolicy
        except ImportError as error:
            raise ConfigError(
                f"an expert `openai/{model}` needs the package `openai`",
                hint="`pip install 'eef[api]'`",
            ) from error
        settings = self.recipe.expert.api or ApiSettings()
        return ApiPolicy(
            model, settings, name=f"expert:{model}", journal=self.directory / EXPERT / JOURNAL_FILE
        )

    def estimate(self) -> tuple[Estimate, Estimate]:
        """What an `openai/<model>` expert would likely take to play the training tasks, and what at most."""
        guide: Policy | None
        try:
            guide = make_expert(self.env, "strong")
        except EefError:
            guide = None
        return estimate(
            self.env,
            self.train_tasks.head(self.recipe.expert.tasks),
            guide,
            settings=self.recipe.expert.api or ApiSettings(),
            sampling=self.sampling,
            step_limit=self.step_limit,
        )

    def _api_counts(self) -> dict[str, Any]:
        """What was asked of servers so far: requests, tokens, money, troubles; empty without such an expert."""
        path = self.directory / EXPERT / JOURNAL_FILE
        if not path.is_file():
            return {}
        return {
            "api": ResponseCache(path, self.recipe.expert.api or ApiSettings()).spent.to_record()
        }

    def _expert_file(self, name: str) -> Path:
        path = Path(name.removeprefix("file/")).expanduser()
        if not path.is_file():
            raise DataError(
                f"expert `{name}`: there is no file `{path}`", hint="paths start where `eef` is run"
            )
        return path

    def explorer(self, stage: Stage) -> Policy:
        """The student that explores in a stage's round: as the round before has left it."""
        return self._student(self._trained_before(stage))

    def _student(self, trained: Stage) -> Policy:
        return self._local(
            str(self._checkpoint(trained)), f"policy:{trained.method}@round{trained.round}"
        )

    def _local(self, name: str, author: str) -> Policy:
        from eef.models.loading import load_model
        from eef.policies.local import LocalPolicy

        model, tokenizer = load_model(
            name, dtype=self.recipe.model.dtype, device=self.recipe.model.device
        )
        return LocalPolicy(model, tokenizer, self._renderer(model, tokenizer), name=author)

    def _renderer(self, model: Any, tokenizer: Any) -> Renderer:
        from eef.models.loading import context_length

        limits = [limit for limit in (self.recipe.chat.max_length, context_length(model)) if limit]
        return Renderer(
            tokenizer, loss_on=self.recipe.chat.loss_on, max_length=min(limits, default=None)
        )

    def lessons(self, method: str, round: int) -> tuple[list[RenderedExample], Renderer]:
        """What a round trains on, as messages and as tokens, and what renders it; loads the tokenizer alone.

        StoreError where that round has not selected yet."""
        from eef.models.loading import configured_context, load_tokenizer

        self.require(Stage(method, round, "select"))
        selection = self.selection(method, round)
        assert selection is not None, "required"
        name = self.recipe.model.name
        limits = [
            limit for limit in (self.recipe.chat.max_length, configured_context(name)) if limit
        ]
        renderer = Renderer(
            load_tokenizer(name),
            loss_on=self.recipe.chat.loss_on,
            max_length=min(limits, default=None),
        )
        about = {"run": self.recipe.name, "method": method, "round": round}
        made = make_lessons(
            selection.examples, self.trajectories(method), self.env.prompt, renderer, **about
        )
        return list(made), renderer

    def _write_card(self, trained: Stage) -> None:
        """The model card beside the weights, with the result where there is one."""
        selection = self.selection(trained.method, trained.round)
        write_text(
            self._checkpoint(trained) / "README.md",
            model_card(
                recipe=self.recipe,
                method=trained.method,
                round=trained.round,
                counts=selection.counts if selection else {},
                result=self.evaluation(trained.method, trained.round),
                fingerprint=read_json(self.directory / "fingerprint.json"),
            ),
        )

    def _checkpoint(self, trained: Stage) -> Path:
        return self.folder(trained) / "checkpoint"


def text_tasks(trajectories: TrajectorySet) -> list[str]:
    """Tasks of no environment at hand that an imported, text-only trajectory won: they are trained on too."""
    won = (item.task for item in trajectories if item.success and item.task.startswith(TEXT))
    return list(dict.fromkeys(won))


def _sampling(settings: SamplingSettings) -> Sampling:
    return Sampling(**settings.model_dump())


def _is_of(item: Trajectory, stage: Stage) -> bool:
    """Whether a trajectory is a rollout which a method's student played in a round."""
    return is_student(item) and item.round == stage.round


def _last_try(trajectories: TrajectorySet, launch: str) -> Trajectory:
    """The rollout of a launch; where it broke, its second try."""
    first, again = attempt_ids(launch)
    return trajectories[again if again in trajectories else first]
