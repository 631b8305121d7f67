"""RunContext: the environment, tasks, sampling, policies and renderer of a run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import date as Date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from eef.env import Env, seeded_task, toolset_of
from eef.envs.registry import make_env
from eef.errors import ConfigError, DataError
from eef.exporters.examples import RenderedExample, render_examples
from eef.exporters.prompts import StatePrompt, state_prompts
from eef.methods.base import Planned
from eef.note import Shown
from eef.pipeline.checks import versions
from eef.pipeline.engines import Engines
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import EXPERT, Stage, trained_before
from eef.policy import Policy, Sampling
from eef.renderer import LossOn, Renderer
from eef.roles import Acting
from eef.rollouts.ray_runner import RolloutHosts
from eef.rollouts.runner import RolloutParameters, start_seed
from eef.selection import PlannedState
from eef.task import Task, TaskSet
from eef.tools import Toolset
from eef.trajectory import Author, TrajectorySet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class RunContext:
    """Everything that a run's recipe describes, created when it is first needed."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.worker_restarts: Counter[Stage] = Counter()
        self._trained: tuple[str, PreTrainedModel, PreTrainedTokenizerFast] | None = None

    @property
    def recipe(self) -> Recipe:
        return self.run.recipe

    def recipe_of(self, stage: Stage) -> Recipe:
        """The recipe with the overrides of a stage's method."""
        return self.run.recipes.get(stage.method, self.recipe)

    @cached_property
    def engines(self) -> Engines:
        """The inference servers, used unless `rollouts.engine` is `local`."""
        return Engines(self)

    def close(self) -> None:
        """Stop the inference servers that were started."""
        self.engines.close()

    def release(self) -> None:
        """Free servers, the environment and the model while other processes work.

        Each is started or loaded again when it is next needed.
        """
        self.close()
        if "torch" in sys.modules:
            self.release_model()
        env = self.__dict__.pop("env", None)
        if env is not None:
            env.close()

    @cached_property
    def env(self) -> Env:
        return make_env(self.recipe.env.name, self.recipe.env.options)

    @cached_property
    def tools(self) -> Toolset | None:
        """The tools that agents call; None if they write ReAct. ConfigError if there are none."""
        return toolset_of(self.env) if self.recipe.chat.format == "tools" else None

    @property
    def prompt(self) -> str:
        """The environment's prompt for the recipe's kind of agent."""
        return self.env.prompt if self.tools is None else self.tools.prompt

    @cached_property
    def train_tasks(self) -> TaskSet:
        return self._tasks("train", self.recipe.tasks.train)

    @cached_property
    def test_tasks(self) -> TaskSet:
        return self._tasks(self.recipe.evaluate.split, self.recipe.tasks.test)

    def tasks_like(self, split: str, count: int | None = None) -> TaskSet:
        """The first tasks of any split: `count`, or as many as the run uses, if there are so many.

        These are as many as it trains on for `train`, and as many as it evaluates on for others.
        """
        used = self.recipe.tasks.train if split == "train" else self.recipe.tasks.test
        limit = count or used
        return self._tasks(split, limit and min(limit, len(self.env.tasks(split))))

    @property
    def expert_tasks(self) -> TaskSet:
        """The training tasks that the experts play."""
        return self.train_tasks.head(self.recipe.expert.tasks)

    @cached_property
    def date(self) -> Date:
        """The date that chat templates print: the day on which the run was started."""
        try:
            return Date.fromisoformat(self.run.fingerprint["date"])
        except (DataError, KeyError):  # a new run, or one of an earlier version
            return Date.today()

    @property
    def step_limit(self) -> int:
        return self.recipe.rollouts.step_limit or self.env.step_limit

    def sampling(self, stage: Stage, expert: str = "") -> Sampling:
        """How completions are sampled in a stage, by the expert of a name if it is theirs."""
        recipe, evaluating = self.recipe_of(stage), stage.kind == "evaluate"
        if stage.method == EXPERT:
            settings = recipe.sampling_of(expert)
            if evaluating:
                temperature = recipe.evaluate.temperature
                settings = settings.model_copy(update={"temperature": temperature})
        else:
            settings = recipe.evaluation_sampling if evaluating else recipe.sampling
        return Sampling(**settings.model_dump())

    def parameters(self, stage: Stage, expert: str = "") -> RolloutParameters:
        """How the rollouts of a stage are played, by the expert of a name if they are theirs."""
        shown: Shown = "none"
        if stage.method != EXPERT:
            shown = self.acting(stage).shown
        rollouts = self.recipe_of(stage).rollouts
        return RolloutParameters(
            sampling=self.sampling(stage, expert),
            step_limit=rollouts.step_limit or self.env.step_limit,
            batch_size=rollouts.batch_size,
            in_flight=rollouts.in_flight,
            reset_step_limit=rollouts.reset_step_limit,
            thoughts=self.recipe.chat.thoughts,
            episode_seed=self.recipe.seed,
            advice=shown,
        )

    def acting(self, stage: Stage) -> Acting:
        """How a method's student takes a turn in a stage."""
        method = self.run.methods[stage.method]
        return method.acting(stage.round, at_test=stage.kind == "evaluate")

    def prompt_suffix(self, stage: Stage) -> str:
        """The text appended to the environment's prompt in a stage's rollouts by default."""
        if stage.method == EXPERT:
            players = self.recipe.expert.players
            return self.recipe.expert.prompt_of(players[0]) if players else ""
        return self.run.methods[stage.method].prompt_suffix

    def hosts(self, stage: Stage, policy: Policy) -> RolloutHosts | None:
        """The hosts that play a stage's rollouts in a Ray cluster; None if this process plays them.

        This process plays those of experts, and those in which a role is asked at every turn.
        """
        rollouts = self.recipe_of(stage).rollouts
        return None if rollouts.placement == "local" else self.engines.hosts(policy, rollouts)

    def plan(self, stage: Stage, trajectories: TrajectorySet) -> list[PlannedState]:
        """The states that a method plans to play in a round, given the notes so far.

        The budget then cuts or repeats the plan.
        """
        tasks = [task.id for task in self.train_tasks]
        planned = self.run.methods[stage.method].plan(trajectories, tasks, stage.round)
        return self.playable(planned, trajectories)

    def playable(
        self, planned: Sequence[Planned], trajectories: TrajectorySet
    ) -> list[PlannedState]:
        """The states of a plan, without those that cannot be branched from."""
        states = [item for item in planned if isinstance(item, PlannedState)]
        return [item for item in states if self._can_start(item, trajectories)]

    def state_prompts(self, stage: Stage) -> list[StatePrompt]:
        """The states that a round explores from, as prompts for other trainers."""
        trajectories = self.run.trajectories(stage.method)
        rollouts = self.parameters(stage)
        with closing(self.env.clone()) as env:

            def start(task: Task) -> tuple[str, int]:
                seed = start_seed(trajectories, task.id, rollouts.episode_seed)
                return env.reset(seeded_task(env, task, seed)), seed if env.seeded else 0

            return state_prompts(
                self.plan(stage, trajectories),
                trajectories,
                {task.id: task for task in self.train_tasks},
                start,
                prompt=self.prompt,
                prompt_suffix=self.prompt_suffix(stage),
                step_limit=rollouts.step_limit,
                reset_step_limit=rollouts.reset_step_limit,
                thoughts=rollouts.thoughts,
            )

    def explorer(self, stage: Stage) -> Policy:
        """The student that explores in a stage's round: the previous round's."""
        return self.student(trained_before(stage))

    def student(self, trained: Stage) -> Policy:
        """The student that a training stage left."""
        checkpoint = self.run.checkpoint(trained)
        return self.model_policy(
            str(checkpoint), Author("student", f"{trained.method}@round{trained.round}")
        )

    def model_policy(self, model_name: str, author: Author, *, local: bool = False) -> Policy:
        """A transformers model as a policy: through servers, or `local`, in this process.

        A local model acts with its adapters merged into its weights.
        """
        if not local and self.recipe.rollouts.engine != "local":
            return self.engines.policy(model_name, author)
        return self.local_policy(model_name, author, tools=self.tools)

    def local_policy(self, model_name: str, author: Author, *, tools: Toolset | None) -> Policy:
        """A transformers model in this process as a policy that calls `tools`, or none."""
        from eef.models.loading import context_length, has_adapters, load_model, merge_adapters
        from eef.policies.local import LocalPolicy

        settings = self.recipe.model
        kept = self._trained
        if kept is not None and kept[0] == model_name:
            _, model, tokenizer = kept
        else:
            model, tokenizer = load_model(model_name, dtype=settings.dtype, device=settings.device)
        return LocalPolicy(
            merge_adapters(model) if has_adapters(model) else model,
            tokenizer,
            self._renderer(tokenizer, context_length(model), tools),
            author=author,
            cache_gib=self.recipe.rollouts.cache_gib,
        )

    def model_context(self, name: str) -> int | None:
        """The context length of a model; reads only its configuration."""
        from eef.models.loading import configured_context

        return configured_context(name)

    def trainable_model(
        self, start: str, seed: int, device: str
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """A model to train, with adapters if the recipe has any.

        The initial weights of new adapters depend on `seed`.

        A model that this process has just trained (`keep_loaded`) is not loaded again.
        """
        from eef.models.loading import load_model

        kept, self._trained = self._trained, None
        if kept is not None and kept[0] == start:
            return kept[1], kept[2]
        del kept  # before another one is loaded
        settings = self.recipe.model
        return load_model(start, dtype=settings.dtype, device=device, lora=settings.lora, seed=seed)

    def release_model(self) -> None:
        """Release the model that was kept loaded, and its memory on the GPU."""
        from eef.models.loading import release_memory

        self._trained = None
        release_memory()

    def keep_loaded(
        self, checkpoint: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """Keep the model that was saved as `checkpoint` for the stages that follow."""
        self._trained = checkpoint, model, tokenizer

    def renderer(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Renderer:
        """The renderer of a loaded model."""
        from eef.models.loading import context_length

        return self._renderer(tokenizer, context_length(model), self.tools)

    def role_renderer(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Renderer:
        """The renderer of a role's loaded model, which calls no tools and writes no actions."""
        from eef.models.loading import context_length

        return self._renderer(tokenizer, context_length(model), None, loss_on="completion")

    def base_renderer(self, name: str | None = None) -> Renderer:
        """The renderer of the recipe's base model or of another one; loads only its tokenizer."""
        from eef.models.loading import configured_context, load_tokenizer

        name = name or self.recipe.model.name
        return self._renderer(load_tokenizer(name), configured_context(name), self.tools)

    def rendered_examples(self, method: str, round: int) -> tuple[list[RenderedExample], Renderer]:
        """The examples that a round trains on, as messages and as tokens, and their renderer.

        StoreError if that round has not selected anything yet.
        """
        self.run.require(Stage(method, round, "select"))
        selection = self.run.selection(method, round)
        assert selection is not None, "required above"
        renderer = self.base_renderer()
        about = {"run": self.recipe.name, "method": method, "round": round}
        trajectories = self.run.trajectories(method)
        examples = render_examples(selection.examples, trajectories, self.prompt, renderer, **about)
        return list(examples), renderer

    def fingerprint(self) -> dict[str, Any]:
        """The environment, and everything else that comparable numbers must have in common."""
        return {
            **self.env.fingerprint(),
            "step_limit": self.step_limit,
            "train_tasks": len(self.train_tasks),
            "test_split": self.recipe.evaluate.split,
            "test_tasks": len(self.test_tasks),
            "student": self.recipe.model.name,
            **self._engine(),
            "date": self.date.isoformat(),
            **({"chat_format": "tools", "tool_prompt": self.prompt} if self.tools else {}),
            **versions(),
        }

    def _engine(self) -> dict[str, str]:
        """The engine that computes completions, its version, and the number format."""
        engine = self.recipe.rollouts.engine
        named: dict[str, str] = {"inference": engine, "dtype": self.recipe.model.dtype}
        if engine == "local":
            return named
        try:
            return {**named, "inference_version": self.run.fingerprint["inference_version"]}
        except (DataError, KeyError):  # a new run
            return {**named, "inference_version": self.engines.version()}

    def _renderer(
        self,
        tokenizer: PreTrainedTokenizerFast,
        context: int | None,
        tools: Toolset | None,
        loss_on: LossOn | None = None,
    ) -> Renderer:
        chat = self.recipe.chat
        limits = [limit for limit in (chat.max_length, context) if limit]
        return Renderer(
            tokenizer,
            loss_on=loss_on or chat.loss_on,
            thoughts=chat.thoughts,
            max_length=min(limits, default=None),
            template_variables=chat.template_variables,
            date=self.date,
            tools=tools,
        )

    def _can_start(self, item: PlannedState, trajectories: TrajectorySet) -> bool:
        if item.state is None:
            return True
        origin = trajectories[item.state.trajectory]
        if origin.verified_steps is not None and item.state.t > origin.verified_steps:
            return False
        steps = [each.step for each in trajectories.path(item.state.trajectory)]
        return self.env.can_branch_at(steps, item.state.t)

    def _tasks(self, split: str, count: int | None) -> TaskSet:
        """The tasks of a split that the recipe uses. ConfigError if the split has too few."""
        tasks = self.env.tasks(split)
        if not tasks:
            raise ConfigError(
                f"the environment has no task in split {split!r}",
                hint="choose another split or data",
            )
        if count is not None and count > len(tasks):
            raise ConfigError(
                f"the recipe asks for {count} tasks of split {split!r}, which has {len(tasks)}",
                hint=f"lower `tasks.{'train' if split == 'train' else 'test'}` to {len(tasks)}",
            )
        seed = self.recipe.tasks.seed
        return (tasks if seed is None else tasks.shuffled(seed)).head(count)
