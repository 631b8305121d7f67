"""Word-level tokenizers for base students; words outside the vocabulary are spelled."""

from __future__ import annotations

import string
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIALS = ("[PAD]", "[UNK]", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "[SEP]")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a base student's tokenizer.

    words    whole words, one token each
    numbers  numbers below it are one token each, and so is a run of as many digits inside a word
    inside   continuations of a word, beside digits, pairs of letters and single characters
    apart    characters that are always a token of their own
    joined   (found, written) replacements that remove spaces around such characters when decoding
    """

    words: tuple[str, ...]
    numbers: int
    apart: str
    joined: tuple[tuple[str, str], ...]
    inside: tuple[str, ...] = ()


def build_tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer over a vocabulary; it can spell any other ASCII text."""
    pieces = {
        token: index for index, token in enumerate(dict.fromkeys([*SPECIALS, *_pieces(vocabulary)]))
    }
    unknown = "[UNK]"
    tokenizer = Tokenizer(
        models.WordPiece(pieces, unk_token=unknown, max_input_chars_per_word=1000)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    apart = Regex(f"[{''.join(chr(92) + character for character in vocabulary.apart)}]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(apart, "isolated")]
    )
    joined = [decoders.Replace(found, written) for found, written in vocabulary.joined]
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece(cleanup=False), decoders.Fuse(), *joined]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",  # noqa: S106
        unk_token=unknown,
        eos_token="<|end|>",  # noqa: S106
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.add_tokens(["[SEP]"])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _pieces(vocabulary: Vocabulary) -> list[str]:
    """Whole words, then numbers, pairs of letters and single characters, then continuations."""
    numbers = [str(number) for number in range(vocabulary.numbers)]
    widths = range(1, len(numbers[-1]) + 1)
    digits = [f"{number:0{width}d}" for width in widths for number in range(10**width)]
    pairs = [
        first + second for first in string.ascii_lowercase for second in string.ascii_lowercase
    ]
    characters = list(string.printable.strip().lower())
    starts = [*vocabulary.words, *numbers, *pairs, *characters]
    inside = [*digits, *vocabulary.inside, *pairs, *characters]
    return [*starts, *(f"##{piece}" for piece in inside)]
