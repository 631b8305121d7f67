"""WebShop: the environment – tasks, observations, actions, rewards, snapshots.

Holds one episode's `Session` and the `Shop` that all episodes share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from eef.env import BaseEnv, StepResult
from eef.envs.webshop.goals import Goal
from eef.envs.webshop.pages import Node, Page, clickables, prepend, text, text_rich
from eef.envs.webshop.prompt import REACT_PROMPT, TOOL_PROMPT, TOOLS
from eef.envs.webshop.session import Rules, Session, address, advance, explain, render
from eef.envs.webshop.settings import WebShopSettings
from eef.envs.webshop.shop import Shop
from eef.envs.webshop.splits import Splits
from eef.errors import EnvError
from eef.task import Task, TaskSet
from eef.tools import Tool

ENGINE_VERSION = 1


class WebShop(BaseEnv):
    """A shopping episode: search, open products, choose options, buy.

    Pages and rewards are the original's. Only buying is rewarded. `step` accepts any action; one
    that is invalid on the page shows the page again.
    """

    name = "webshop"
    supports_snapshot = True
    tools: tuple[Tool, ...] = TOOLS

    def __init__(self, settings: WebShopSettings | None = None) -> None:
        settings = settings or WebShopSettings()
        self._shop = Shop.open(settings)
        self._rules = Rules(
            settings.products_per_page,
            settings.attributes_page,
            settings.data != "synthetic" if settings.compat is None else settings.compat,
            settings.endless_next,
        )
        self._explains = settings.explain_invalid
        self._goals, self._price_seed = settings.goals, settings.price_seed
        self._observation = settings.observation
        self._splits = Splits.of(
            settings.splits, settings.goals, len(self._shop.goals), settings.overlap
        )
        self._prompt_name = settings.prompt
        self.prompt = REACT_PROMPT if settings.prompt == "react" else ""
        self.tool_prompt = TOOL_PROMPT if settings.prompt == "react" else ""
        self.step_limit = settings.step_limit
        self._tasks: dict[str, TaskSet] = {}
        self._session: Session | None = None
        self._rendered: Page | None = None
        self._labels: dict[str, Node] | None = None

    def clone(self) -> Self:
        other = super().clone()
        other.close()
        return other

    @property
    def shop(self) -> Shop:
        """The data that all episodes share: catalog, search index, prices, goals."""
        return self._shop

    @property
    def rules(self) -> Rules:
        """The configurable behavior of the shop."""
        return self._rules

    @property
    def splits(self) -> Mapping[str, Sequence[int]]:
        """Split → indices of its goals, in the order of its tasks."""
        return self._splits.indices

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split. EnvError if there is no such split."""
        if split not in self._tasks:
            self._tasks[split] = TaskSet.of([self.task(index) for index in self._splits[split]])
        return self._tasks[split]

    @property
    def task_count(self) -> int:
        """The number of goals."""
        return len(self._shop.goals)

    def task(self, index: int) -> Task:
        """The task of an official goal index (after the shuffle). EnvError if out of range."""
        if not 0 <= index < self.task_count:
            raise EnvError(
                f"WebShop: unknown goal {index}; there are {self.task_count} {self._goals} goals"
            )
        return Task(
            id=f"webshop/{index}",
            env=self.name,
            index=index,
            split=self._splits.split_of(index),
            instruction=self._shop.goals[index].instruction,
        )

    def reset(self, task: Task | int) -> str:
        """Start an episode of a task, given as a Task or a goal index; return the search page.

        EnvError if the task belongs to another shop.
        """
        index = task.index if isinstance(task, Task) else task
        wanted = self.task(index)
        if isinstance(task, Task) and (
            task.env != self.name or task.instruction != wanted.instruction
        ):
            raise EnvError(
                f"WebShop: task {task.id} is not of this shop: its instruction is "
                f"{task.instruction!r}, here goal {index} is {wanted.instruction!r}",
                hint="set `data`, `goals` and `price_seed` to those of the task",
            )
        return self._show(Session(index))

    def step(self, action: str) -> StepResult:
        """Execute `search[words]` or `click[label]`; any other action shows the page again."""
        before = self._current()
        after = advance(self._shop, self._rules, before, self._clickables, action)
        if after is before:
            why = explain(action, self._clickables) if self._explains else ""
            return StepResult(prepend(why, self.observation, self._observation), 0.0, False)
        bought = after.view == "done"
        reward = after.parts.reward if bought and after.parts is not None else 0.0
        return StepResult(self._show(after), reward, bought)

    def score(self, rewards: Iterable[float]) -> float:
        """The last nonzero reward; there is at most one, since buying ends the episode."""
        return next((reward for reward in reversed(list(rewards)) if reward), 0.0)

    def available(self) -> dict[str, Any]:
        """The available actions: `has_search_bar`, and `clickables` in the original's order."""
        return {
            "has_search_bar": self._current().view == "search",
            "clickables": list(self._clickables),
        }

    def search(self, query: str) -> list[tuple[str, float]]:
        """The top 50 products for a query as (asin, score), best first."""
        return [(self._shop.catalog.asin(at), score) for at, score in self._shop.search(query)]

    @property
    def session(self) -> Session:
        """The episode's state. EnvError before `reset`."""
        return self._current()

    @property
    def goal(self) -> Goal:
        """The episode's goal in parts; an agent only sees its instruction."""
        return self._shop.goals[self._current().goal]

    def reward_parts(self) -> dict[str, Any]:
        """The parts of the reward. EnvError if nothing has been bought."""
        parts = self._current().parts
        if parts is None:
            raise EnvError("WebShop: nothing has been bought yet, so there is no reward")
        return parts.to_dict()

    @property
    def observation(self) -> str:
        """The current page as text."""
        session = self._current()
        if self._observation == "text":
            return text(self._page)
        where = address(session) if session.view == "item" else ""
        return text_rich(self._page, address=where, opened=session.asins)

    def snapshot(self) -> Session:
        return self._current()

    def restore(self, snapshot: Any) -> None:
        if not isinstance(snapshot, Session):
            raise EnvError(
                f"WebShop: cannot restore a {type(snapshot).__name__}; expected a Session"
            )
        self._turn_to(snapshot)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "env": self.name,
            "engine": ENGINE_VERSION,
            **self._shop.source,
            "products": len(self._shop.catalog),
            "goals": self._goals,
            "goal_count": len(self._shop.goals),
            "price_seed": self._price_seed,
            "splits": self._splits.to_record(),
            "observation": self._observation,
            "products_per_page": self._rules.products_per_page,
            "attributes_page": self._rules.attributes_page,
            "compat": self._rules.compat,
            "explain_invalid": self._explains,
            "endless_next": self._rules.endless_next,
            "tagger": self._shop.tagger,
            "prompt": self._prompt_name,
        }

    def close(self) -> None:
        self._session = self._rendered = self._labels = None

    def _current(self) -> Session:
        if self._session is None:
            raise EnvError("WebShop: no episode has been started", hint="call `reset` first")
        return self._session

    def _show(self, session: Session) -> str:
        self._turn_to(session)
        return self.observation

    def _turn_to(self, session: Session) -> None:
        """Make a session the current one; its page is rendered on first access."""
        self._session, self._rendered, self._labels = session, None, None

    @property
    def _page(self) -> Page:
        if self._rendered is None:
            self._rendered = render(self._shop, self._rules, self._current())
        return self._rendered

    @property
    def _clickables(self) -> dict[str, Node]:
        if self._labels is None:
            self._labels = clickables(self._page)
        return self._labels
