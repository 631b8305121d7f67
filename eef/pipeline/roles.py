"""The roles of a run: those that a method asks, with their models and policies."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eef.config import unknown_name
from eef.envs.registry import make_expert, make_role
from eef.errors import ConfigError
from eef.methods.base import AGENT
from eef.models.manifest import was_removed
from eef.pipeline.stages import Stage
from eef.policies.acting import Role, with_roles
from eef.policies.settings import ApiSettings, RoleSettings
from eef.policy import Policy, Sampling
from eef.roles import Acting
from eef.trajectory import Author
from eef.utils.extras import missing_package

if TYPE_CHECKING:
    from eef.pipeline.context import RunContext


def check_roles(context: RunContext) -> None:
    """ConfigError if a role of a method has no model, cannot be trained or is never asked, or if
    the run's agents cannot act in the way that a method needs."""
    used = set[str]()
    for name, method in context.run.methods.items():
        recipe = context.run.recipes[name]
        for role in context.recipe.overrides.get(name, {}).get("roles", ()):
            if role not in method.roles:
                setting = f"overrides.{name}.roles.{role}"
                raise _without_effect(setting, role, method.roles, f"{name!r} does not ask it")
        for role, use in method.roles.items():
            used.add(role)
            settings = recipe.roles.get(role)
            if settings is None:
                if use.optional:
                    continue
                raise ConfigError(
                    f"method {name!r} needs a model for the role {role!r}",
                    hint=f'set `roles.{role}.model`, for example to "openai/<model>" or "base"',
                )
            if use.trained and not settings.model.startswith(("hf/", "base")):
                raise ConfigError(
                    f"`roles.{role}.model` is {settings.model!r}, but method {name!r} trains it",
                    hint='set it to "base" or "hf/<path or hub id>"',
                )
            if role == AGENT:
                _check_agent(settings)
            if settings.model.startswith(("openai/", "scripted/")):
                _make_policy(context, Stage(name, 1, "explore"), role, settings)
        for round in range(1, context.run.rounds_of(name) + 1):
            for at_test in (False, True):
                _check_acting(context, name, method.acting(round, at_test=at_test))
    for role in context.recipe.roles:
        if role not in used:
            raise _without_effect(f"roles.{role}", role, used, "no method of this recipe asks it")


def _without_effect(setting: str, role: str, asked: Iterable[str], reason: str) -> ConfigError:
    problem = unknown_name("role", role, sorted(asked) or ["none"])
    return ConfigError(f"`{setting}` has no effect: {reason}", hint=problem.hint)


def _check_agent(settings: RoleSettings) -> None:
    """ConfigError if the agent has its own sampling settings: it is sampled like every player."""
    for name in ("temperature", "top_p", "max_tokens"):
        default = RoleSettings.model_fields[name].default
        if getattr(settings, name) != default:
            raise ConfigError(
                f"`roles.{AGENT}.{name}` has no effect: the agent is sampled like a student",
                hint=f"set `sampling.{name}`",
            )


def _check_acting(context: RunContext, name: str, acting: Acting) -> None:
    roles = context.run.recipes[name].roles
    if acting.kind == "alone" or acting.role not in roles:
        return
    if context.tools is not None:
        raise ConfigError(
            f"`chat.format` is 'tools', but method {name!r} acts with roles, which read ReAct text",
            hint='set `chat.format` to "react"',
        )
    if acting.kind == "lookahead" and not context.env.supports_snapshot:
        raise ConfigError(
            f"method {name!r} looks ahead, which environment {context.env.name!r} does not support",
            hint="choose an environment with snapshots, such as `webshop`",
        )


def roles_of(context: RunContext, stage: Stage) -> dict[str, Role]:
    """The roles of a stage by name; the model of each is loaded when it is first looked up."""
    return _LazyRoles(context, stage)


class _LazyRoles(dict[str, Role]):
    def __init__(self, context: RunContext, stage: Stage) -> None:
        super().__init__()
        self._context, self._stage = context, stage

    def __missing__(self, name: str) -> Role:
        settings = self._context.recipe_of(self._stage).roles[name]
        role = self[name] = _make_role(self._context, self._stage, name, settings)
        return role


def player_of(
    context: RunContext, stage: Stage, student: Callable[[], Policy], roles: Mapping[str, Role]
) -> Policy:
    """The policy that plays a stage: the student, or the agent in its place; with its role, if the
    method's way of acting has one."""
    method = context.run.methods[stage.method]
    agent = context.recipe_of(stage).roles.get(AGENT)
    if AGENT in method.roles and agent is not None:
        actor = _make_policy(context, stage, AGENT, agent)
    else:
        actor = student()
    acting = context.acting(stage)
    return with_roles(actor, acting, roles[acting.role] if acting.role else None)


def trained_roles(context: RunContext, method: str) -> list[str]:
    """The roles that a method trains."""
    return [name for name, use in context.run.methods[method].roles.items() if use.trained]


def role_model(context: RunContext, stage: Stage, role: str) -> str:
    """The model of a role in a stage: its latest checkpoint before it, or what the recipe names."""
    last = stage.round if stage.kind == "evaluate" else stage.round - 1
    for round in range(last, 0, -1):
        path = context.run.role_checkpoint(replace(stage, round=round), role)
        if path.is_dir() and not was_removed(path):
            return str(path)
    return base_model(context, stage, role)


def base_model(context: RunContext, stage: Stage, role: str) -> str:
    """The model that the recipe names for a role that can be trained."""
    name = context.recipe_of(stage).roles[role].model
    return context.recipe.model.name if name == "base" else name.removeprefix("hf/")


def _make_role(context: RunContext, stage: Stage, name: str, settings: RoleSettings) -> Role:
    temperature = settings.temperature
    if stage.kind == "evaluate":
        temperature = context.recipe_of(stage).evaluate.temperature
    sampling = Sampling(
        temperature=temperature,
        top_p=settings.top_p if temperature else 1.0,
        max_tokens=settings.max_tokens,
    )
    return Role(name, _make_policy(context, stage, name, settings), sampling, context.prompt)


def _make_policy(context: RunContext, stage: Stage, name: str, settings: RoleSettings) -> Policy:
    provider, _, model = settings.model.partition("/")
    acts = name == AGENT
    if provider == "openai":
        return _api_policy(context, stage, name, model, settings.api or ApiSettings())
    if provider == "scripted":
        policy = make_expert(context.env, model) if acts else make_role(context.env, name, model)
        policy.author = Author("agent", model)
        return policy
    path = base_model(context, stage, name) if acts else role_model(context, stage, name)
    author = Author("agent", Path(path).name if acts else f"{name}:{Path(path).name}")
    return context.local_policy(path, author, tools=context.tools if acts else None)


def _setting_of(context: RunContext, stage: Stage, role: str) -> str:
    """The table of the recipe that has a role's settings in a stage."""
    own = context.recipe.overrides.get(stage.method, {}).get("roles", {})
    return f"overrides.{stage.method}.roles.{role}" if role in own else f"roles.{role}"


def _api_policy(
    context: RunContext, stage: Stage, name: str, model: str, settings: ApiSettings
) -> Policy:
    try:
        from eef.policies.openai import ApiPolicy
    except ImportError as error:
        raise missing_package("openai", f"the role `{name}`") from error
    setting = _setting_of(context, stage, name)
    return ApiPolicy(
        model,
        settings,
        author=Author("agent", model),
        # shared by methods: those that ask the same question have the same answer, paid for once
        cache=context.run.path / f"responses-{name}.jsonl",
        tools=context.tools if name == AGENT else None,
        command=f"eef run {shlex.quote(str(context.run.path))}",
        name=f"{setting}.api",
        limit_name="sampling.max_tokens" if name == AGENT else f"{setting}.max_tokens",
        cut=name == AGENT,
    )
