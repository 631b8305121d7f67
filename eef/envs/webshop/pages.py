"""The shop's pages as sequences of nodes, and their two textual forms: state → page → observation.

The nodes are the visible elements of the original's HTML, which is never generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from eef.envs.webshop.catalog import Product

PageName = Literal[
    "search", "results", "item", "description", "features", "reviews", "attributes", "done"
]
SUB_PAGES: tuple[PageName, ...] = ("description", "features", "reviews", "attributes")
ASCII_BLANKS = " \n\t\f\r"
BACK, PREVIOUS, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"


class Node(NamedTuple):
    """One visible element of a page. `name` is the option's name, for options only."""

    kind: Literal["text", "button", "product", "option"]
    text: str
    name: str = ""


Page = tuple[Node, ...]


def _texts(*texts: str) -> list[Node]:
    return [Node("text", text) for text in texts]


def _buttons(*texts: str) -> list[Node]:
    return [Node("button", text) for text in texts]


def search_page(instruction: str) -> Page:
    return (*_texts("WebShop", "Instruction: ", instruction), *_buttons("Search"))


def results_page(
    instruction: str, page: int, total: int, products: Iterable[Product], *, more: bool = True
) -> Page:
    nodes = [
        *_texts("Instruction:", instruction),
        *_buttons(BACK),
        *_texts(f"Page {page} (Total results: {total})"),
        *_buttons(*([PREVIOUS] if page > 1 else []), *([NEXT] if more else [])),
    ]
    for product in products:
        nodes.append(Node("product", product.asin))
        nodes += _texts(product.title, product.price_text)
    return tuple(nodes)


def item_page(instruction: str, product: Product, *, attributes_button: bool = False) -> Page:
    nodes = [*_texts("Instruction:", instruction), *_buttons(BACK, PREVIOUS)]
    for name, values in product.options.items():
        nodes += _texts(name)
        nodes += [Node("option", value, name) for value in values]
    nodes += _texts(product.title, f"Price: {product.price_text}", "Rating: N.A.")
    nodes += _buttons(
        "Description", "Features", "Reviews", *(["Attributes"] if attributes_button else []), BUY
    )
    return tuple(nodes)


def sub_page(instruction: str, product: Product, name: PageName) -> Page:
    return (
        *_texts("Instruction:", instruction),
        *_buttons(BACK, PREVIOUS),
        *_texts(*_contents(product, name)),
    )


def _contents(product: Product, name: PageName) -> Sequence[str]:
    match name:
        case "description":
            return (product.description,)
        case "features":
            return [f" {bullet}" for bullet in product.bullets]
        case "attributes":
            return (*product.attributes, product.category, product.query, product.product_category)
    return ()


def done_page(asin: str, options: dict[str, str], reward: float) -> Page:
    return tuple(
        _texts(
            "Thank you for shopping with us!", "Your code: ", "None",
            " (Paste it in your MTurk interface.)", "Purchased", "asin", asin,
            "options", html_json(options), "attrs", "None", "category", "None",
            "query", "None", "product category", "None",
            "Target", "asin", "options", "attrs", "price upper", "instuction text", "category",
            "product category", "query", "Goal ", "None",
            "Reward", "Your score (min 0.0, max 1.0)", str(reward), "Reward Details ", "None",
        )
    )  # fmt: skip


def html_json(options: dict[str, str]) -> str:
    """JSON for embedding in a web page: keys sorted, HTML's special characters escaped."""
    text = json.dumps(options, sort_keys=True)
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def visible(page: Page) -> list[Node]:
    """The nodes that are visible after HTML parsing.

    The parser drops empty text and collapses a text of only blanks to one blank; the page drops the
    latter if it contained a line break. Only ASCII blanks count: a no-break space is visible.
    """
    return [
        node if node.text.strip(ASCII_BLANKS) else node._replace(text=" ")
        for node in page
        if node.text.strip(ASCII_BLANKS) or (node.text and "\n" not in node.text)
    ]


def prepend(words: str, observation: str, mode: str) -> str:
    """Put words before an observation, with the separator of its `mode`."""
    if not words:
        return observation
    return f"{words} [SEP] {observation}" if mode == "text" else f"{words}\n{observation}"


def text(page: Page) -> str:
    """The observation `text`: the texts of the nodes, joined by `[SEP]`."""
    return " [SEP] ".join([node.text.strip() for node in visible(page)])


def text_rich(page: Page, *, address: str = "", opened: Sequence[str] = ()) -> str:
    """The observation `text_rich`: one node per line; buttons, and clicked ones, are marked.

    An option counts as clicked if its value occurs in quotes in the page's `address`. As in the
    original, a value with a quote, a backslash or a non-ASCII letter never does. A product counts
    as clicked once it is in `opened`.
    """
    above, lines = "", []
    for node in visible(page):
        match node.kind:
            case "text":
                lines.append(node.text)
            case "button":
                lines.append(f"[button] {node.text} [button_]")
            case "product":
                lines.append("\n" + _marked(node.text, clicked=node.text in opened))
            case "option":
                clicked = f'"{node.text}"' in address
                lines.append("  " + _marked(node.text, clicked=clicked))
                above = f"You have clicked {node.text}.\n{above}" if clicked else above
    return above + "".join(f"{line}\n" for line in lines)


def _marked(label: str, *, clicked: bool) -> str:
    return (
        f"[clicked button] {label} [clicked button_]" if clicked else f"[button] {label} [button_]"
    )


def clickables(page: Page) -> dict[str, Node]:
    """The clickable nodes by label in lower case: buttons, then products, then options.

    Of two nodes with the same label, the later one replaces the earlier, at the earlier's position.
    """
    found = {node.text.lower(): node for node in page if node.kind == "button"}
    found |= {node.text.lower(): node for node in page if node.kind == "product"}
    return found | {node.text: node for node in page if node.kind == "option"}
