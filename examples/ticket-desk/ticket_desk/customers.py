"""Customers: scripted users, whose words depend on the ticket and a seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

NAMES = ("kay", "lou", "sam", "kim", "ada", "max", "eve", "jo")
ITEMS = ("lamp", "mug", "chair", "coat", "kettle", "radio")
WISHES = {
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
class Customer:
    """`wanted` are the changes of orders that are right; `patience` counts messages left.

    `refused` is True once the agent has said that the wish cannot be granted.
    """

    email: str
    greeting: str
    wanted: tuple[tuple[str, str], ...]
    patience: int
    refused: bool = False

    def hear(self, text: str) -> tuple[Customer, str]:
        """The customer after a message, and the answer."""
        after = replace(self, patience=self.patience - 1)
        words = text.lower()
        if after.patience < 0:
            return after, "I have waited long enough."
        if "mail" in words or "address" in words:
            return after, f"My address is {self.email}."
        if any(word in words for word in ("sorry", "cannot", "not possible")):
            return replace(after, refused=True), "That is a pity."
        if any(word in words for word in ("refunded", "cancelled", "done")):
            return after, "Thank you!"
        return after, "I do not understand."


def make_case(index: int, seed: int) -> tuple[Customer, tuple[Order, ...]]:
    """The customer and the orders of a ticket."""
    chance = random.Random(f"ticket {index} {seed}")
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
    greeting = chance.choice(WISHES[wish]).format(item=meant.item)
    if chance.random() < 0.6:
        greeting += f" I am {email}."
    return Customer(email, greeting, tuple(right.items()), chance.randint(2, 4)), tuple(orders)
