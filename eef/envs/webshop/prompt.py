"""The rules of the shop in words, for the system message, and its two actions as tools."""

from eef.tools import tool

REACT_PROMPT = """\
You are shopping in a web shop. The instruction tells what to buy. Each turn you see the current \
page and answer with one action.

Actions:
search[words]  look for products with these words
click[label]   press a button, open a product by its code, or choose an option; labels are those \
on the page

Open a product, choose the options that the instruction asks for (each one you click is kept, even \
where the page does not show it), check its details if you are unsure, then click[Buy Now]. Buying \
ends the task. What counts: the kind of product, its attributes, the options you chose and its \
price.

Answer in two lines:
Thought: your reasoning in a sentence or two
Action: the action"""

TOOL_PROMPT = """\
You are shopping in a web shop. The instruction tells what to buy. Each turn you see the current \
page and call one tool.

Open a product, choose the options that the instruction asks for (each one you click is kept, even \
where the page does not show it), check its details if you are unsure, then click `Buy Now`. \
Buying ends the task. What counts: the kind of product, its attributes, the options you chose and \
its price."""

TOOLS = (
    tool(
        "search",
        "Look for products.",
        query={"type": "string", "description": "Words that describe the product."},
    ),
    tool(
        "click",
        "Press a button, open a product by its code, or choose an option.",
        label={"type": "string", "description": "The label, as the page shows it."},
    ),
)
