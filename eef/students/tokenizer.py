"""Tokenizer of a base student: word-level over the words of its world, and able to spell any other ASCII text."""

from __future__ import annotations

import string
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIALS = ("[PAD]", "[UNK]", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "[SEP]")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What one token stands for.

    words    whole words, each one token
    numbers  those below it are one token each, and so is any run of as many digits inside a word
    inside   what may go on a word, beside digits, pairs of letters and single characters
    apart    characters that are tokens of their own wherever they stand
    joined   (found, written) of decoded text: where the spaces around such characters are taken back
    """

    words: tuple[str, ...]
    numbers: int
    apart: str
    joined: tuple[tuple[str, str], ...]
    inside: tuple[str, ...] = ()


def build_tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer over a vocabulary's words, which can spell any other ASCII text."""
    pieces = {
        token: index for index, token in enumerate(dict.fromkeys([*SPECIALS, *_pieces(vocabulary)]))
    }
    tokenizer = Tokenizer(
        models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=1000)
    )  # noqa: S106
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
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="<|end|>",  # noqa: S106
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.add_tokens(["[SEP]"])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _pieces(vocabulary: Vocabulary) -> list[str]:
    """Whole words first, then numbers, pairs of letters and single characters, each also as a continuation."""
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
