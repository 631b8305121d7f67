"""Session: an episode's state, and how actions change it. Session + action + shop → Session.

A session is a small frozen record, so a snapshot is the session itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from eef.envs.webshop.catalog import Product
from eef.envs.webshop.pages import (
    BACK,
    BUY,
    NEXT,
    PREVIOUS,
    SUB_PAGES,
    Node,
    Page,
    PageName,
    done_page,
    item_page,
    results_page,
    search_page,
    sub_page,
)
from eef.envs.webshop.reward import RewardParts, score_purchase
from eef.envs.webshop.shop import Shop

SHOWN_LABELS = 40


@dataclass(frozen=True, slots=True)
class Rules:
    """The configurable behavior of the shop.

    `compat` keeps the original's bugs and undocumented searches. With `endless_next`, the `Next >`
    button is shown even after the last results.
    """

    products_per_page: int = 10
    attributes_page: bool = False
    compat: bool = True
    endless_next: bool = True


@dataclass(frozen=True, slots=True)
class Session:
    """One episode's state: the index of its goal, the current page, and what led to it.

    `asins` lists the products opened since the search page, in order. `options` maps option names
    to chosen values, in the order of the first choice. `actions` counts each kind of action. Lists
    and dicts are never modified; every action creates a new session.
    """

    goal: int
    view: PageName = "search"
    keywords: list[str] | None = None
    page: int | None = None
    asin: str | None = None
    asins: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    actions: dict[str, int] = field(default_factory=dict)
    parts: RewardParts | None = None

    def counted(self, action: str) -> dict[str, int]:
        """`actions` with one more `action`."""
        return self.actions | {action: self.actions.get(action, 0) + 1}


def parse(action: str) -> tuple[str, str]:
    """Name and argument of `name[argument]`, the argument in lower case; otherwise ("", "").

    Only the first line counts. The name extends to the last opening bracket that leaves a nonempty
    argument; text after the last closing bracket is ignored. This equals the regular expression
    `(.+)\\[(.+)\\]`, which takes hours on 100,000 brackets.

    >>> parse("search[Red [wool] socks]"), parse("search[]")
    (('search[Red ', 'wool] socks'), ('', ''))
    """
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 0, max(0, end - 1))
    return (line[:start], line[start + 1 : end].lower()) if start > 0 else ("", "")


def advance(
    shop: Shop, rules: Rules, session: Session, labels: Mapping[str, Node], action: str
) -> Session:
    """The session after an action on a page with clickable `labels`.

    The same object if the action has no effect.
    """
    name, argument = parse(action)
    if name == "search":
        return show_results(session, argument.split(" "), 1)
    if name != "click" or argument == "search":
        return session
    node = labels.get(argument)
    return session if node is None else click(shop, rules, session, argument, node)


def explain(action: str, labels: Mapping[str, Node]) -> str:
    """Why an action had no effect on a page with clickable `labels`, for the agent to read."""
    name, argument = parse(action)
    if name != "click":
        return (
            f"Nothing happened: {_short(action)!r} is no action. "
            "Actions are search[words] and click[label]."
        )
    clickable = [label for label in labels if label != "search"]  # a button for people
    known = ", ".join(clickable[:SHOWN_LABELS]) or "nothing"
    more = ", …" if len(clickable) > SHOWN_LABELS else ""
    words = " Search with search[words]." if "search" in labels else ""
    label = _short(argument)
    return f"Nothing happened: {label!r} cannot be clicked here. What can be: {known}{more}.{words}"


def _short(words: str) -> str:
    return words if len(words) <= 80 else f"{words[:80]}…"


def show_results(session: Session, keywords: list[str], page: int) -> Session:
    return replace(
        session,
        view="results",
        keywords=keywords,
        page=page,
        asin=None,
        options={},
        actions=session.counted("search"),
    )


def click(shop: Shop, rules: Rules, session: Session, label: str, node: Node) -> Session:
    """Follow a click. Only the label counts, as in the original: option `features` opens a page."""
    if label == BUY.lower():
        return buy(shop, rules, session)
    if label == BACK.lower():
        return Session(session.goal, parts=session.parts)
    if label == NEXT.lower() and session.view == "results":
        return show_results(session, _keywords(session), _page(session) + 1)
    if label == PREVIOUS.lower():
        return go_back(session)
    if label in SUB_PAGES:
        return replace(session, view=label, actions=session.counted(label.title()))
    if node.kind == "product":
        return open_product(session, label.upper())
    return choose(session, node.name, label)


def go_back(session: Session) -> Session:
    if session.view == "results":
        return show_results(session, _keywords(session), _page(session) - 1)
    if session.view == "item":
        return show_results(session, _keywords(session), _page(session))
    return replace(session, view="item")


def open_product(session: Session, asin: str) -> Session:
    opened = session.asins if asin in session.asins else [*session.asins, asin]
    return replace(session, view="item", asin=asin, asins=opened, actions=session.counted("asin"))


def choose(session: Session, name: str, value: str) -> Session:
    options = session.options | {name: value}
    return replace(session, view="item", options=options, actions=session.counted("options"))


def buy(shop: Shop, rules: Rules, session: Session) -> Session:
    """End the episode; score the product shown with the options chosen."""
    asin = _asin(session)
    position = shop.catalog.position(asin)
    assert position is not None, f"{asin} was shown but is not in the catalog"
    goal = shop.goals[session.goal]
    parts = score_purchase(
        shop.catalog[position],
        shop.prices[position],
        list(session.options.values()),
        goal,
        shop.product(goal.asin),
        shop.nouns,
        compat=rules.compat,
    )
    return replace(session, view="done", parts=parts, actions=session.counted("purchase"))


def render(shop: Shop, rules: Rules, session: Session) -> Page:
    """The page of a session."""
    if session.view == "done":
        assert session.parts is not None, "the done page follows a purchase"
        return done_page(_asin(session), session.options, session.parts.reward)
    instruction = shop.goals[session.goal].instruction
    if session.view == "search":
        return search_page(instruction)
    if session.view == "results":
        found, page = find(shop, rules, _keywords(session)), _page(session)
        more = rules.endless_next or page * rules.products_per_page < len(found)
        return results_page(instruction, page, len(found), shown(shop, rules, session), more=more)
    product = shop.product(_asin(session))
    if session.view == "item":
        return item_page(instruction, product, attributes_button=rules.attributes_page)
    return sub_page(instruction, product, session.view)


def shown(shop: Shop, rules: Rules, session: Session) -> list[Product]:
    """The products of a results page."""
    first = (_page(session) - 1) * rules.products_per_page
    found = find(shop, rules, _keywords(session))
    return [shop.catalog[at] for at in found[first : first + rules.products_per_page]]


def find(shop: Shop, rules: Rules, keywords: list[str]) -> list[int]:
    """Positions of the products that a search finds.

    With `compat`, the original's undocumented searches `<q> query` and `<c> category` work as well.
    """
    if rules.compat and keywords[0] in ("<q>", "<c>"):
        return _listed(shop, keywords)
    return [position for position, _ in shop.search(" ".join(keywords))]


def _listed(shop: Shop, keywords: list[str]) -> list[int]:
    if keywords[0] == "<q>":
        return shop.catalog.of_kind("query", " ".join(keywords[1:]).strip())
    return shop.catalog.of_kind("category", keywords[1].strip()) if len(keywords) > 1 else []


def address(session: Session) -> str:
    """The part of the original's URL that decides which options a page marks as clicked."""
    return f"{'+'.join(_keywords(session))}/{session.page}/{json.dumps(session.options)}"


def _keywords(session: Session) -> list[str]:
    assert session.keywords is not None, f"page {session.view!r} without a search"
    return session.keywords


def _page(session: Session) -> int:
    assert session.page is not None, f"page {session.view!r} without a search"
    return session.page


def _asin(session: Session) -> str:
    assert session.asin is not None, f"page {session.view!r} without a product"
    return session.asin
