"""The shop's scripted expert: competent play with written reasoning, and mistakes at given rates.

It replaces a strong model where none is available. In each turn it replays the conversation's
actions in its own episode, inspects the resulting page, and decides. Every decision can lapse, so
long tasks fail more often than short ones, as with real experts.

    page     competent decision                    lapses
    search   search for attributes and kind        –
    results  open the first product that fits,     open a wrong product;
             otherwise go to the next page         settle for one that does not fit
    item     choose all options, or go back if     buy without an option;
             one is missing                        buy although one is missing

A thought states what is needed, then lists what is on the page with a verdict on each item. A small
student that imitates it only has to compare single words that are close together:

    need travel sized cruelty free. B000000123 long lasting not cruelty free yes no. B0000… fits.
    need carton tiny. single not carton yes tiny yes choose carton.
    need carton tiny. single not carton yes large not huge not missing. go back.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from eef.config import unknown_name
from eef.envs.scripted_roles import ScriptedRole
from eef.envs.webshop.env import WebShop
from eef.envs.webshop.goals import Goal
from eef.envs.webshop.reward import count_options, score_purchase
from eef.envs.webshop.session import Rules, Session, render
from eef.envs.webshop.shop import Shop
from eef.errors import EnvError
from eef.policy import Completion, Conversation, Replays, Sampling
from eef.react import format_completion, parse_completion
from eef.trajectory import Author

NEXT, BACK, SEARCH_AGAIN, BUY = (
    "click[next >]",
    "click[< prev]",
    "click[back to search]",
    "click[buy now]",
)
MAX_VALUES_READ = 8
_INSTRUCTION = re.compile(r"Instruction:\s*(?:\[SEP\])?\s*(.*?)\s*(?:\[SEP\]|\[button\]|\Z)", re.S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapses:
    """Probabilities of a lapse, one per kind of decision.

    `forget_later` replaces `forget_option` once the expert has turned a page or left a product;
    None means the same.
    """

    wrong_product: float = 0.0
    settle_early: float = 0.0
    forget_option: float = 0.0
    buy_anyway: float = 0.0
    forget_later: float | None = None

    @classmethod
    def rate(cls, rate: float) -> Lapses:
        """The same probability for every kind of decision."""
        return cls(wrong_product=rate, settle_early=rate, forget_option=rate, buy_anyway=rate)


PRESETS = {
    "flawless": Lapses(),
    "strong": Lapses(wrong_product=0.20, settle_early=0.25, forget_option=0.31, buy_anyway=0.42),
    "weak": Lapses(wrong_product=0.35, settle_early=0.40, forget_option=0.40, buy_anyway=0.55),
}
_CARELESS = re.compile(r"careless-([1-9]\d?)")


class ShopExpert:
    """A policy for the shop of `env`; its trajectories are recorded under `author`.

    Random draws depend only on the turn's seed, so results do not depend on the batch.
    """

    replays: Replays = "alone"

    def __init__(self, env: WebShop, author: Author, lapses: Lapses) -> None:
        self.author = author
        self._env = env.clone()
        self._lapses = lapses
        self._goals: dict[str, int] = {}
        for goal in env.shop.goals:
            self._goals.setdefault(goal.instruction.strip(), goal.index)

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        return [
            Completion(text=self._turn(conversation, random.Random(seed)))
            for conversation, seed in zip(conversations, seeds, strict=True)
        ]

    def _turn(self, conversation: Conversation, rng: random.Random) -> str:
        session, opened, searching = self._replay(conversation)
        view = View(self._env.shop, self._env.rules, session)
        if session.view == "search":
            return format_completion("search.", f"search[{view.query}]")
        if session.view == "results":
            return self._on_results(view, opened, rng)
        if session.view == "item":
            return self._on_item(view, rng, searching)
        return format_completion("go back.", BACK)

    def _replay(self, conversation: Conversation) -> tuple[Session, list[str], bool]:
        """Replay a conversation's actions.

        Returns the session, the products opened so far, and whether a page was turned or a product
        left.
        """
        observations = [message["content"] for message in conversation if message["role"] == "user"]
        self._env.reset(self._goal_of(observations[0]))
        opened: list[str] = []
        searching = False
        for message in conversation:
            if message["role"] == "assistant":
                action = parse_completion(message["content"])[1] or ""
                searching = searching or action in (NEXT, BACK)
                self._env.step(action)
                asin = self._env.snapshot().asin
                if asin and asin not in opened:
                    opened.append(asin)
        return self._env.snapshot(), opened, searching

    def _goal_of(self, observation: str) -> int:
        """The index of the goal whose instruction the first page shows. EnvError if unknown."""
        match = _INSTRUCTION.search(observation)
        if match is None or match[1].strip() not in self._goals:
            raise EnvError("the conversation's instruction is not a goal of this shop")
        return self._goals[match[1].strip()]

    def _on_results(self, view: View, opened: list[str], rng: random.Random) -> str:
        """Read the page product by product, and open the first that fits."""
        shown = view.products()
        fresh = [asin for asin in shown if asin not in opened]
        fitting = next((asin for asin in fresh if view.fits(asin)), None)
        wrong = [asin for asin in fresh if asin != fitting]
        lapse = self._lapses.settle_early if fitting is None else self._lapses.wrong_product
        choice = rng.choice(wrong) if wrong and rng.random() < lapse else fitting
        if not shown:
            return format_completion("no more. go back.", SEARCH_AGAIN)
        before = shown if choice is None else shown[: shown.index(choice)]
        thought = [f"need {' '.join(view.goal.attributes)}."]
        thought += [
            f"{asin} seen." if asin in opened else view.read(asin, fits=False) for asin in before
        ]
        if choice is None:
            return format_completion(" ".join([*thought, "none fits. next page."]), NEXT)
        return format_completion(
            " ".join([*thought, view.read(choice, fits=True)]), f"click[{choice}]"
        )

    def _on_item(self, view: View, rng: random.Random, searching: bool) -> str:
        """Go back if a wanted option is missing; otherwise choose the next one, then buy."""
        lapses = self._lapses
        later = lapses.forget_later if searching else None
        forgets = lapses.forget_option if later is None else later
        missing, left = view.options()
        looks = not (missing and rng.random() < lapses.buy_anyway)
        read = view.read_options() if looks and not view.session.options else ""
        if missing and looks:
            return format_completion(f"{read}go back.", BACK)
        if left and rng.random() >= forgets:
            return format_completion(f"{read}choose {left[0]}.", f"click[{left[0]}]")
        return format_completion("all chosen.", BUY)


def make_shop_expert(env: WebShop, preset: str) -> ShopExpert:
    """The scripted expert of a shop: a key of PRESETS, or `careless-<percent>`.

    The careless expert turns pages and goes back well, but then forgets options with this chance,
    so its wins hold little of either and its failures do.

    EnvError for another name.
    """
    careless = _CARELESS.fullmatch(preset)
    if careless is None and preset not in PRESETS:
        known = (*PRESETS, "careless-1 to careless-99 (percent)")
        raise unknown_name("scripted expert", preset, known, error=EnvError)
    lapses = careless_lapses(int(careless[1]) / 100) if careless else PRESETS[preset]
    return ShopExpert(env, Author("expert", preset), lapses)


def make_shop_role(env: WebShop, role: str, preset: str) -> ScriptedRole:
    """The scripted model of a role in a shop, from what the flawless expert would do."""
    return ScriptedRole(env, make_shop_expert(env, "flawless"), role, preset)


def careless_lapses(forget_later: float) -> Lapses:
    """The lapses of an expert that is careless after it has turned a page or left a product."""
    return Lapses(
        wrong_product=0.05,
        settle_early=0.03,
        forget_option=0.31,
        buy_anyway=0.05,
        forget_later=forget_later,
    )


@dataclass(frozen=True, slots=True)
class View:
    """A page as the expert reads it: which products fit, which options are wanted or missing."""

    shop: Shop
    rules: Rules
    session: Session

    @property
    def goal(self) -> Goal:
        return self.shop.goals[self.session.goal]

    @property
    def query(self) -> str:
        """The search query: the goal's attributes and the kind of product."""
        return " ".join([*self.goal.attributes, self.shop.product(self.goal.asin).query])

    def products(self) -> list[str]:
        """Asins of the products on the results page, in order."""
        return [
            node.text
            for node in render(self.shop, self.rules, self.session)
            if node.kind == "product"
        ]

    def fits(self, asin: str) -> bool:
        """Whether kind, attributes and price match: all that can be checked before opening it."""
        position = self.shop.catalog.position(asin)
        assert position is not None, f"{asin} was shown but is not in the catalog"
        parts = score_purchase(
            self.shop.catalog[position],
            self.shop.prices[position],
            [],
            self.goal,
            self.shop.product(self.goal.asin),
            self.shop.nouns,
            compat=self.rules.compat,
        )
        return parts.r_type == 1 and parts.r_att == 1 and parts.r_price

    def read(self, asin: str, *, fits: bool) -> str:
        """The reading of a product: asin, each attribute in its title with a verdict, summary.

        With `fits`, all of its attributes count as wanted.
        """
        product = self.shop.product(asin)
        title = product.title.lower()
        named = sorted((name for name in product.attributes if name in title), key=title.index)
        marked = [
            f"{name} {'yes' if fits or name in self.goal.attributes else 'not'}" for name in named
        ]
        return " ".join([asin, *marked, "fits." if fits else "no."])

    def read_options(self) -> str:
        """The reading of an item page: the needs, then each option's values up to the wanted one.

        It ends at the first option without a wanted value. Skipped are options with more than
        MAX_VALUES_READ values, and, if the product lacks nothing, options without a wanted value.
        """
        missing, _ = self.options()
        words = [f"need {' '.join(_value(wanted) for wanted in self.goal.options)}."]
        for values in self.shop.product(self.session.asin or "").options.values():
            match = next((at for at, value in enumerate(values) if self._meets(value)), None)
            if len(values) > MAX_VALUES_READ or (match is None and not missing):
                continue
            words += [f"{value} not" for value in values[:match]]
            if match is None:
                words.append("missing.")
                break
            words.append(f"{values[match]} yes")
        return " ".join([*words, ""]) if self.goal.options else ""

    def options(self) -> tuple[list[str], list[str]]:
        """Wanted option values: those the product lacks, and those not chosen yet."""
        asin = self.session.asin or ""
        offered = [value for values in self.shop.product(asin).options.values() for value in values]
        chosen = dict(self.session.options).values()
        missing, left = [], []
        for wanted in self.goal.options:
            value = _value(wanted)
            match = (
                value
                if value in offered
                else next((each for each in offered if self._meets(each, wanted)), None)
            )
            if match is None:
                missing.append(value)
            elif match not in chosen:
                left.append(match)
        return missing, left

    def _meets(self, value: str, *wanted: str | tuple[str, str]) -> bool:
        """Whether a value matches one of `wanted` (by default the goal's options)."""
        return count_options([value], wanted or self.goal.options, compat=self.rules.compat) > 0


def _value(wanted: str | tuple[str, str]) -> str:
    return wanted if isinstance(wanted, str) else wanted[1]
