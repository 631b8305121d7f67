"""The desk: an agent with tools serves a customer, by the policies of a shop.

The reward comes from the final database: 1 if exactly the right orders were refunded or cancelled,
and, if there is none, the customer was told so; otherwise 0. A refund that the policies forbid
loses the ticket for good.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from eef.config import Settings, unknown_name
from eef.env import StepResult, ToolEnv
from eef.envs.spec import Behavior, EnvSpec
from eef.errors import EnvError
from eef.policies.settings import UserSettings
from eef.task import Task, TaskSet
from eef.tools import tool
from ticket_desk.customers import Case, Customer, Order, is_refusal, make_case, make_customer
from ticket_desk.expert import make_expert

if TYPE_CHECKING:
    from eef.policies.simulated_user import SimulatedUser

RULES = """\
You work at the help desk of a shop. A customer writes to you; what you write without a tool goes \
to the customer.

Policies:
- Look up the customer's orders by e-mail before you change one. Ask for the address if you lack it.
- Refund an order in full, and only if it was delivered at most 30 days ago.
- Cancel an order only if it has not been delivered.
- If neither is possible, change nothing and tell the customer.
- Close the ticket at the end."""

SPLITS = {"test": 0, "train": 1000}
"""Split → its first task."""


class DeskSettings(Settings):
    """Settings of `ticket-desk`."""

    tasks_per_split: int = Field(default=60, ge=1, le=1000)
    """Number of tickets in each of the splits `train` and `test`."""

    user: UserSettings | None = None
    """A model that plays the customers; scripted customers by default."""

    step_limit: int = Field(default=10, ge=1)
    """Default step limit of a rollout."""


class TicketDesk(ToolEnv):
    """An episode is a function of the ticket, its seed (the customer's) and the actions."""

    name = "ticket-desk"
    rules = RULES
    text_action = "say"
    supports_snapshot = True
    seeded = True
    tools = (
        tool("look_up", "List the orders of a customer.", email="string"),
        tool("refund", "Refund an order.", order="string", amount="integer"),
        tool("cancel", "Cancel an order.", order="string"),
        tool("close", "Close the ticket."),
    )

    def __init__(self, settings: DeskSettings | None = None) -> None:
        settings = settings or DeskSettings()
        self.step_limit = settings.step_limit
        self._tasks_per_split = settings.tasks_per_split
        self._user = _make_user(settings.user)
        self.concurrent = settings.user is not None  # customers of a server are waited for
        self._case: Case | None = None
        self._customer: Customer | None = None
        self._orders: tuple[Order, ...] = ()
        self._refused = False

    def tasks(self, split: str) -> TaskSet:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS, error=EnvError)
        first = SPLITS[split]
        return TaskSet.of(
            [self._task(index, split) for index in range(first, first + self._tasks_per_split)]
        )

    def reset(self, task: Task) -> str:
        self._case = make_case(task.index)
        self._customer = make_customer(self._case, task.seed, self._user)
        self._orders, self._refused = self._case.orders, False
        return self._customer.says

    def call(self, name: str, arguments: dict[str, Any]) -> StepResult:
        if name == "say":
            return self._say(arguments["text"])
        if name == "look_up":
            return _answer(self._look_up(arguments["email"]))
        if name == "refund":
            return _answer(self._refund(arguments["order"], arguments["amount"]))
        if name == "cancel":
            return _answer(self._cancel(arguments["order"]))
        return StepResult("The ticket is closed.", self._reward(), True)

    def snapshot(self) -> Any:
        return self._case, self._customer, self._orders, self._refused

    def restore(self, snapshot: Any) -> None:
        self._case, self._customer, self._orders, self._refused = snapshot

    def fingerprint(self) -> dict[str, Any]:
        return {
            "env": self.name,
            "tasks_per_split": self._tasks_per_split,
            "user": self._user and self._user.fingerprint(),
            "step_limit": self.step_limit,
            "prompt": self.prompt,
        }

    def _say(self, text: str) -> StepResult:
        """The customer's answer; the ticket closes when the customer leaves."""
        assert self._customer is not None, "call `reset` first"
        self._customer = self._customer.hear(text)
        self._refused = self._refused or is_refusal(text)
        if self._customer.left:
            return StepResult(f"{self._customer.says} The customer left.", self._reward(), True)
        return StepResult(self._customer.says, 0.0, False)

    def _look_up(self, email: str) -> str:
        assert self._case is not None, "call `reset` first"
        if email.strip().lower() != self._case.email:
            return "No customer has this address."
        return "\n".join(order.describe() for order in self._orders)

    def _refund(self, order: str, amount: int) -> str:
        found = self._find(order)
        if found is None:
            return f"There is no order {order}."
        if amount != found.price or found.state != "delivered":
            return f"{order} cannot be refunded with {amount}."
        self._change(replace(found, state="refunded"))
        return f"{order} is refunded."

    def _cancel(self, order: str) -> str:
        found = self._find(order)
        if found is None or found.state != "open":
            return f"{order} cannot be cancelled."
        self._change(replace(found, state="cancelled"))
        return f"{order} is cancelled."

    def _find(self, order: str) -> Order | None:
        return next((each for each in self._orders if each.id == order), None)

    def _change(self, order: Order) -> None:
        self._orders = tuple(order if each.id == order.id else each for each in self._orders)

    def _reward(self) -> float:
        assert self._case is not None, "call `reset` first"
        changed = {each.id: each.state for each in self._orders if each.state in _CHANGED}
        return float(changed == dict(self._case.right) and (bool(changed) or self._refused))

    def _task(self, index: int, split: str) -> Task:
        return Task(
            id=f"ticket-desk/{index}",
            env=self.name,
            index=index,
            split=split,
            instruction=make_case(index).describe(),
        )


_CHANGED = ("refunded", "cancelled")


def _make_user(settings: UserSettings | None) -> SimulatedUser | None:
    if settings is None:
        return None
    from eef.policies.simulated_user import SimulatedUser  # needs the extra `api`

    return SimulatedUser(settings)


def _answer(text: str) -> StepResult:
    return StepResult(json.dumps({"result": text}), 0.0, False)


SPEC = EnvSpec(
    settings=DeskSettings,
    make=TicketDesk,
    make_expert=make_expert,
    behaviors=(
        Behavior("Look up", r"look_up\[.*"),
        Behavior("Refund", r"refund\[.*"),
        Behavior("Speak", r"say\[.*"),
    ),
)
