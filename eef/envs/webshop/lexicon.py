"""Vocabulary of the synthetic shop: families of products, their attributes and options.

A *family* is a kind of product (`granola`). Its attributes are two-word phrases: the reward matches
an attribute as a phrase, while search matches its words separately.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of product: name, category, department (`shelf`), possible attributes and options."""

    noun: str
    category: str
    shelf: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Department:
    """Families that share attributes and options."""

    category: str
    nouns: tuple[str, ...]
    attributes: tuple[str, ...]
    options: tuple[str, ...]


BRANDS = (
    "Alvora", "Brisk", "Calden", "Dorvin", "Elmeri", "Fennick", "Galtho", "Harlow", "Ivoro",
    "Jaspen", "Kelmar", "Lumeni", "Marbel", "Norvik", "Oswin", "Pallas", "Quillon", "Rovane",
    "Selko", "Tarven", "Umbra", "Velmont", "Wexley", "Yarrow", "Zentra", "Arbelo", "Bellis",
    "Corvane", "Drayton", "Esteri", "Folmar", "Girand", "Hestia", "Inkwell", "Jolara", "Kestrel",
    "Lorimer", "Mistral", "Nerissa", "Opaline",
)  # fmt: skip

OPTION_VALUES: dict[str, tuple[str, ...]] = {
    "color": ("crimson", "navy", "olive", "ivory", "teal", "maroon", "amber", "charcoal"),
    "size": ("tiny", "small", "medium", "large", "huge", "double", "triple", "giant"),
    "flavor": ("lemon", "vanilla", "cocoa", "cherry", "ginger", "mint", "honey", "pepper"),
    "scent": (
        "lavender",
        "citrus",
        "cedar",
        "rose",
        "coconut",
        "jasmine",
        "eucalyptus",
        "sandalwood",
    ),
    "style": ("classic", "modern", "rustic", "sporty", "formal", "vintage", "compact", "deluxe"),
    "pack": ("single", "pair", "trio", "dozen", "bundle", "carton", "crate", "sampler"),
}

DEPARTMENTS = (
    Department(
        "fashion",
        (
            "shirt",
            "jacket",
            "dress",
            "sweater",
            "sandals",
            "boots",
            "scarf",
            "leggings",
            "hoodie",
            "belt",
            "socks",
            "cardigan",
        ),
        (
            "machine washable",
            "long sleeve",
            "slim fit",
            "quick drying",
            "rubber sole",
            "high waist",
            "soft cotton",
            "wrinkle resistant",
            "elastic closure",
            "hand stitched",
        ),
        ("color", "size", "style"),
    ),
    Department(
        "beauty",
        (
            "shampoo",
            "lotion",
            "serum",
            "lipstick",
            "conditioner",
            "perfume",
            "sunscreen",
            "toothpaste",
            "deodorant",
            "cleanser",
            "mascara",
            "balm",
        ),
        (
            "cruelty free",
            "paraben free",
            "sulfate free",
            "travel sized",
            "long lasting",
            "deep moisturizing",
            "sensitive skin",
            "natural ingredients",
            "dermatologist tested",
            "clinically proven",
        ),
        ("scent", "pack", "size"),
    ),
    Department(
        "grocery",
        (
            "granola",
            "coffee",
            "tea",
            "chocolate",
            "popcorn",
            "pasta",
            "cookies",
            "almonds",
            "jerky",
            "syrup",
            "crackers",
            "oatmeal",
        ),
        (
            "gluten free",
            "low sodium",
            "sugar free",
            "dairy free",
            "freshly roasted",
            "individually wrapped",
            "plant based",
            "keto friendly",
            "old fashioned",
            "locally sourced",
        ),
        ("flavor", "pack", "size"),
    ),
    Department(
        "electronics",
        (
            "headphones",
            "keyboard",
            "speaker",
            "charger",
            "tablet",
            "monitor",
            "router",
            "camera",
            "projector",
            "microphone",
            "printer",
            "webcam",
        ),
        (
            "noise cancelling",
            "fast charging",
            "water resistant",
            "plug play",
            "high definition",
            "hands free",
            "dual band",
            "energy efficient",
            "heavy duty",
            "ultra thin",
        ),
        ("color", "style", "pack"),
    ),
    Department(
        "garden",
        (
            "lamp",
            "curtain",
            "bookcase",
            "rug",
            "mattress",
            "armchair",
            "mirror",
            "planter",
            "blanket",
            "shelf",
            "table",
            "cushion",
        ),
        (
            "solid wood",
            "easy assemble",
            "stain proof",
            "space saving",
            "memory foam",
            "powder coated",
            "mid century",
            "fade resistant",
            "eco friendly",
            "white finish",
        ),
        ("color", "size", "style"),
    ),
)


def families() -> tuple[Family, ...]:
    """All families, ordered by department."""
    return tuple(
        Family(
            noun,
            f"{department.category.title()} › {noun.title()} › All {noun.title()}",
            department.category,
            department.attributes,
            department.options,
        )
        for department in DEPARTMENTS
        for noun in department.nouns
    )


def words() -> tuple[str, ...]:
    """All lower-case words of the synthetic shop, sorted: the vocabulary a student needs."""
    text = [
        *BRANDS,
        *OPTION_VALUES,
        *(value for values in OPTION_VALUES.values() for value in values),
    ]
    for family in families():
        text += [family.noun, family.category, family.shelf, *family.attributes]
    return tuple(
        sorted({word.lower() for phrase in text for word in phrase.replace("›", " ").split()})
    )
