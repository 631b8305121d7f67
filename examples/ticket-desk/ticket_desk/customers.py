"""Customers: the case is the task's, the customer's words depend on the episode's seed too.

A scripted customer needs nothing. A customer of a model server (`env.user`) writes freely; its
messages are kept by conversation and seed, so that recorded states can be reached again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from eef.policies.simulated_user import Side, SimulatedUser

NAMES = ("kay", "lou", "sam", "kim", "ada", "max", "eve", "jo")
ITEMS = ("lamp", "mug", "chair", "coat", "kettle", "radio")
GREETINGS = {
    "refund": ("My {item} is broken, I want my money back.", "Please refund the {item}."),
    "cancel": ("Please stop my order of a {item}.", "I do not want the {item} any more."),
}


@dataclass(frozen=True, slots=True)
class Order:
    """An order; `days` since its delivery. States: open, delivered, refunded, cancelled."""

    id: str
    item: str
    price: int
    state: str
    days: int = 0

    def describe(self) -> str:
        since = f" {self.days} days ago" if self.state == "delivered" else ""
        return f"{self.id}: {self.item}, {self.price} euros, {self.state}{since}"


@dataclass(frozen=True, slots=True)
class Case:
    """What a ticket is about. `right` are the changes of orders that the policies demand."""

    email: str
    wish: str
    item: str
    orders: tuple[Order, ...]
    right: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"{self.wish.capitalize()} the {self.item} of {self.email}."


class Customer(Protocol):
    """A customer in an episode; `hear` returns the one after a message of the agent.

    `says` is what the customer has just written. One who has `left` reads nothing more.
    """

    says: str
    left: bool

    def hear(self, text: str) -> Self: ...


@dataclass(frozen=True, slots=True)
class ScriptedCustomer:
    """A customer by rules. `patience` counts the messages that it still answers."""

    email: str
    says: str
    patience: int
    left: bool = False

    def hear(self, text: str) -> ScriptedCustomer:
        if self.patience == 0:
            return replace(self, says="I have waited long enough.", left=True)
        after, words = replace(self, patience=self.patience - 1), text.lower()
        if "mail" in words or "address" in words:
            return replace(after, says=f"My address is {self.email}.")
        if is_refusal(text):
            return replace(after, says="That is a pity.")
        if any(word in words for word in ("refunded", "cancelled", "done")):
            return replace(after, says="Thank you!")
        return replace(after, says="I do not understand.")


@dataclass(frozen=True)
class ModelCustomer:
    """A customer that a model plays; `talk` is the conversation so far."""

    user: SimulatedUser
    situation: str
    seed: int
    talk: tuple[tuple[Side, str], ...] = ()
    left: bool = False

    @property
    def says(self) -> str:
        return self.talk[-1][1]

    def hear(self, text: str) -> ModelCustomer:
        heard: tuple[tuple[Side, str], ...] = (*self.talk, ("agent", text)) if text else self.talk
        message = self.user.write(self.situation, heard, self.seed)
        return replace(self, talk=(*heard, ("user", message.text)), left=message.left)


def is_refusal(text: str) -> bool:
    """Whether the agent says that a wish cannot be granted."""
    return any(word in text.lower() for word in ("sorry", "cannot", "not possible"))


def make_customer(case: Case, seed: int, user: SimulatedUser | None = None) -> Customer:
    """The customer of a case: what it writes, and how long it waits, depend on the seed."""
    chance = random.Random(f"customer {case.email} {seed}")
    greeting = chance.choice(GREETINGS[case.wish]).format(item=case.item)
    gives_address = chance.random() < 0.6
    if user is None:
        says = f"{greeting} I am {case.email}." if gives_address else greeting
        return ScriptedCustomer(case.email, says, patience=chance.randint(2, 4))
    mood = chance.choice(("brief", "polite", "impatient"))
    situation = (
        f"You are a {mood} customer of a shop. You wrote: {greeting} Your e-mail address is "
        f"{case.email}; you give it {'at once' if gives_address else 'only when asked'}. You have "
        "no other wish, you do not know the number of your order, and you accept a refusal."
    )
    return ModelCustomer(user, situation, seed).hear("")


def make_case(index: int) -> Case:
    """The case of a ticket."""
    chance = random.Random(f"ticket {index}")
    name, items = chance.choice(NAMES), chance.sample(ITEMS, 3)
    wish = chance.choice(("refund", "refund", "cancel"))
    first = chance.randint(100, 899)
    orders = [
        Order(
            f"o-{first + place}",
            item,
            chance.randint(5, 90),
            *(("open",) if chance.random() < 0.3 else ("delivered", chance.randint(1, 60))),
        )
        for place, item in enumerate(items)
    ]
    meant = chance.choice(orders)
    if chance.random() < 0.25:  # sometimes a wish that can be granted
        state, days = ("delivered", chance.randint(1, 30)) if wish == "refund" else ("open", 0)
        granted = replace(meant, state=state, days=days)
        orders[orders.index(meant)] = meant = granted
    right: dict[str, str] = {}
    if wish == "refund" and meant.state == "delivered" and meant.days <= 30:
        right = {meant.id: "refunded"}
    if wish == "cancel" and meant.state == "open":
        right = {meant.id: "cancelled"}
    email = f"{name}{index}@example.org"
    return Case(email, wish, meant.item, tuple(orders), tuple(right.items()))
