"""RewardParts: how well a purchase meets a goal, in parts, weighted as in the original.

Product bought + options + goal → reward in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from rapidfuzz.fuzz import token_set_ratio
from rapidfuzz.utils import default_process

from eef.envs.webshop.catalog import Product
from eef.envs.webshop.goals import Goal

MATCH = 85
CACHED_TEXTS = 50_000
_LATIN_1 = dict.fromkeys(range(128, 256))

_COLORS = """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown
    burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee
    cognac copper coral cranberry cream crystal dark denim eggplant elephant espresso fuchsia
    gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki lavender
    lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor
    mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red
    rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower
    tan taupe teal tiger turquoise violet walnut wheat white wine yellow
"""
# In search order: if a text contains two colors, the first in this list counts.
COLORS = tuple(_COLORS.split())

Nouns = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class RewardParts:
    """The parts of the reward. `r_option` is None for a goal without options; weights sum to 1."""

    reward: float
    r_type: float
    r_att: float
    w_att: float
    query_match: bool
    category_match: bool
    title_score: float
    r_option: float | None
    w_option: float | None
    r_price: bool
    w_price: float

    def to_dict(self) -> dict[str, Any]:
        """As a dict, without `r_option` and `w_option` if the goal has no options."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class TypeMatch:
    """Whether two products are of the same kind, and by which criteria."""

    r_type: float
    query_match: bool
    category_match: bool
    title_score: float


def score_purchase(
    product: Product,
    price: float,
    options: Sequence[str],
    goal: Goal,
    wanted: Product,
    nouns: Nouns,
    *,
    compat: bool = True,
) -> RewardParts:
    """The reward for buying `product` at `price` with `options` (values).

    `wanted` is the goal's product. `compat` keeps a bug of the original: a synthetic goal's option
    is compared as the text of its (name, value) pair, so that 6.6 % of the synthetic goals of the
    1,000-product data cannot be won. Without it, values are compared.
    """
    kind = match_type(product, wanted, nouns)
    attributes = count_attributes(product, goal.attributes)
    chosen = count_options(options, goal.options, compat=compat)
    within = price <= goal.price_upper
    total = len(goal.attributes) + len(goal.options) + 1
    return RewardParts(
        reward=(attributes + chosen + within) / total * kind.r_type,
        r_type=kind.r_type,
        r_att=attributes / len(goal.attributes),
        w_att=len(goal.attributes) / total,
        query_match=kind.query_match,
        category_match=kind.category_match,
        title_score=kind.title_score,
        r_option=chosen / len(goal.options) if goal.options else None,
        w_option=len(goal.options) / total if goal.options else None,
        r_price=within,
        w_price=1 / total,
    )


def similar(one: str, other: str) -> bool:
    """Whether two short texts have nearly the same words (token set ratio above MATCH of 100)."""
    ratio: float = token_set_ratio(_words(one), _words(other))
    return round(ratio) > MATCH


@lru_cache(CACHED_TEXTS)
def _words(text: str) -> str:
    # The original removes the upper half of Latin-1 before it splits into words.
    words: str = default_process(text.translate(_LATIN_1))
    return words


def count_attributes(product: Product, wanted: Sequence[str]) -> int:
    """How many wanted attributes the product has, in its own list or in the text of its pages."""
    pages = (product.title.lower(), " ".join(product.bullets).lower(), product.description.lower())
    return sum(
        any(similar(has, name) for has in product.attributes) or any(name in page for page in pages)
        for name in wanted
    )


def count_options(
    chosen: Sequence[str], wanted: Sequence[str | tuple[str, str]], *, compat: bool
) -> int:
    """How many wanted values were chosen; the name of the option does not matter."""
    values = [first_color(value) for value in chosen]
    return sum(
        any(similar(value, _option_text(option, compat)) for value in values) for option in wanted
    )


def _option_text(option: str | tuple[str, str], compat: bool) -> str:
    if isinstance(option, str):
        return first_color(option)
    if not compat:
        return first_color(option[1])
    # `color in pair` matches whole elements only; an option's name may also be a color.
    return next((color for color in COLORS if color in option), str(option))


def first_color(text: str) -> str:
    """The first color in the text, even inside a word (`standard` → `tan`), or the text."""
    return next((color for color in COLORS if color in text), text)


def match_type(product: Product, wanted: Product, nouns: Nouns) -> TypeMatch:
    """Compare the kinds of two products by query, category and title, as in the original."""
    query_match = product.query == wanted.query
    category_match = len(_parts(product.product_category) & _parts(wanted.product_category)) >= 2
    title_score = compare_titles(nouns(product.title), nouns(wanted.title))
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.0 if title_score == 0.0 else 0.1
    return TypeMatch(r_type, query_match, category_match, title_score)


def _parts(category: str) -> set[str]:
    return {part.strip() for part in category.split("›")}


def compare_titles(bought: Sequence[str], wanted: Sequence[str]) -> float:
    """Share of the `wanted` nouns (with repeats) that occur in `bought`; 0.2 without any."""
    return len(set(bought) & set(wanted)) / len(wanted) if wanted else 0.2
