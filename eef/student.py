"""The base student: its tokenizer, its architecture, and how it is made (`eef make-base`).

No model hub is needed for a first run: this student is a small standard Llama with a word-level tokenizer, made from
episodes in random synthetic shops *other* than those a recipe plays in. It is to read pages, compare products and act.
Turning pages and going back are new to it: they occur in the contexts of its training, so that it can act on any page,
but their turns carry no loss (or seldom do, `turning_share`).
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eef.chat import build_conversation, format_completion
from eef.checkpoint import save_checkpoint
from eef.config import Settings, TrainSettings
from eef.envs.webshop import WebShop, lexicon
from eef.envs.webshop.expert import BACK, NEXT, make_shop_expert
from eef.envs.webshop.synthetic import SyntheticSettings
from eef.errors import ConfigError
from eef.policy import GREEDY
from eef.rollouts import Launch, derive_seed, play
from eef.tokens import Rendered, Renderer
from eef.train import TrainProgress, train
from eef.trajectory import Step, Trajectory, TrajectorySet

SPECIALS = ("[PAD]", "[UNK]", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "[SEP]")

MARKS = ("yes", "not", "no.", "fits.", "seen.", "missing.")
"""What the scripted expert says of each thing that it reads."""

DECISIONS = ("none", "go", "choose", "all")
"""Words with which it begins to say what it does."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

PAGE_WORDS = (
    "webshop instruction: search back to page (total results: next prev < > price: rating: n.a. description features "
    "reviews buy now thank you for shopping with us! i am looking a need find me would like an and in , price lower "
    "than dollars of the that is on or my from not be mistaken for: every day click thought: action: yes not no. "
    "fits. seen. need none next missing. choose all chosen. go back good enough. format error: found. answer …"
)


class StudentSettings(Settings):
    """How a base student is made."""

    seed: int = 1_000
    """Seed of the shops, the weights and the order of training."""

    width: int = Field(default=128, ge=32, multiple_of=32)
    """Width of the model."""

    layers: int = Field(default=4, ge=1)
    """Layers of the model."""

    shops: int = Field(default=120, ge=1)
    """Random shops that are played in."""

    tasks: int = Field(default=60, ge=1)
    """Tasks played in each shop."""

    turning_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the turns to another page, or back, that carry loss."""

    drills: int = Field(default=40_000, ge=1)
    """Short lessons in looking up and copying that come first."""

    drill_updates: int = Field(default=1800, ge=1)
    """Optimizer updates on the drills."""

    copying_share: float = Field(default=0.25, ge=0, le=1)
    """Share of the drills that copy a row of random words and numbers; the others look up."""

    longest: int = Field(default=900, ge=100)
    """Tokens of an episode; longer ones are left out."""

    mark_weight: float = Field(default=3.0, gt=0)
    """Loss weight of the words which say whether something read is wanted, or what is done; of all others it is 1."""

    drill_rate: float = Field(default=2e-3, gt=0)
    """Learning rate of the drills."""

    drill_batch_size: int = Field(default=40, ge=1)
    """Drills an update."""

    single_turns: int = Field(default=2, ge=0)
    """Turns of each episode which are lessons of their own as well, without what came before."""

    updates: int = Field(default=900, ge=1)
    """Optimizer updates on episodes, single turns and as many drills as episodes."""

    batch_size: int = Field(default=24, ge=1)
    """Lessons an update."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate after the drills."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the products; bfloat16 is half again as fast on processors that multiply it."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads; torch decides when left out."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer over the synthetic shop's words, which can spell any other ASCII text.

    A product number of a small shop is a prefix and one more token, so that one token tells products apart:

    >>> build_tokenizer().tokenize("click[B000000123]"), build_tokenizer().tokenize("B000123456")
    (['click', '[', 'b000000', '##123', ']'], ['b000', '##123', '##456'])
    """
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*SPECIALS, *_pieces()]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=1000))  # noqa: S106
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[\[\]]"), "isolated")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece(cleanup=False), decoders.Fuse(), decoders.Replace(" [ ", "["), decoders.Replace(" ]", "]")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="<|end|>",  # noqa: S106
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False, model_max_length=4096,
    )
    fast.add_tokens(["[SEP]"])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _pieces() -> list[str]:
    """Whole words first, then numbers, pairs of letters and single characters, each also as a continuation."""
    words = [*PAGE_WORDS.split(), *lexicon.words(), "b000", "b000000"]
    numbers = [str(number) for number in range(1000)]
    digits = [f"{number:0{width}d}" for width in (1, 2, 3) for number in range(10**width)]
    pairs = [first + second for first in string.ascii_lowercase for second in string.ascii_lowercase]
    characters = list(string.printable.strip().lower())
    starts = [*words, *numbers, *pairs, *characters]
    inside = [*digits, ".99", *pairs, *characters]
    return [*starts, *(f"##{piece}" for piece in inside)]


def build_model(tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int) -> LlamaForCausalLM:
    """A randomly initialised Llama: heads of 32, as many for keys as for queries, tied embeddings."""
    heads = width // 32
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=4096,
        tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def make_base(
    directory: Path, settings: StudentSettings, *,
    played: Callable[[int, int], None] = lambda shop, shops: None,
    trained: Callable[[str, TrainProgress], None] = lambda lessons, progress: None,
) -> None:
    """Make a base student and write it to `directory` as a plain Hugging Face directory.

    Trained on drills first, in which more of the tokens are about looking things up; then on episodes, single turns of
    them and drills again.
    `played(shop, shops)` is called after each shop, `trained("drills" or "lessons", progress)` after each update.
    ConfigError where no episode is short enough.
    """
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, width=settings.width, layers=settings.layers)
    renderer = Renderer(tokenizer)
    drills = [_drill(renderer, settings, rng) for _ in range(settings.drills)]
    lessons = list(_lessons(renderer, settings, rng, played))
    if not lessons:
        raise ConfigError(f"every episode is longer than `longest` = {settings.longest} tokens", hint="raise it")
    model.set_attn_implementation("eager")  # on a CPU twice as fast for what is so short
    train(
        model, drills, _train_settings(settings).model_copy(update={
            "updates": settings.drill_updates, "batch_size": settings.drill_batch_size,
            "learning_rate": settings.drill_rate, "schedule": "constant",
        }),
        progress=lambda progress: trained("drills", progress),
    )
    model.set_attn_implementation("sdpa")
    train(
        model, [*lessons, *drills[: settings.shops * settings.tasks]], _train_settings(settings),
        progress=lambda progress: trained("lessons", progress),
    )
    save_checkpoint(
        model, tokenizer, directory, base="none", about={"recipe": "base student", "settings": settings.model_dump()}
    )


def _train_settings(settings: StudentSettings) -> TrainSettings:
    return TrainSettings(
        updates=settings.updates, batch_size=settings.batch_size, learning_rate=settings.learning_rate,
        schedule="cosine", warmup=0.06, weight_decay=0.01, micro_tokens=2048, dtype=settings.dtype,
        seed=settings.seed, threads=settings.threads,
    )


# --- drills ------------------------------------------------------------------------------------------------------


def _drill(renderer: Renderer, settings: StudentSettings, rng: random.Random) -> Rendered:
    return _copying(renderer, rng) if rng.random() < settings.copying_share else _looking_up(renderer, settings, rng)


def _copying(renderer: Renderer, rng: random.Random) -> Rendered:
    """A row of random words and numbers, to be written again."""
    tokenizer = renderer.tokenizer
    user, assistant, end = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>", "<|end|>"])
    known = tokenizer.convert_tokens_to_ids(list(lexicon.words()))
    numbers = tokenizer.convert_tokens_to_ids([f"##{number:03d}" for number in range(1000)])
    row = [rng.choice(rng.choice([known, numbers])) for _ in range(rng.randint(8, 30))]
    ids = (user, *row, end, assistant, *row, end)
    return Rendered(ids, (0.0,) * (len(row) + 3) + (1.0,) * (len(row) + 1))


def _looking_up(renderer: Renderer, settings: StudentSettings, rng: random.Random) -> Rendered:
    """What is wanted, a list of products, and these read aloud up to the first that has both attributes."""
    family = rng.choice(lexicon.families())
    pool = rng.sample(family.attributes, rng.randint(3, 6))
    wanted = rng.sample(pool, 2)
    numbers = rng.sample(range(10**3), rng.randint(2, 6))
    products = [(f"B{number:09d}", _two_of(pool, wanted, rng)) for number in numbers]
    fitting = rng.randrange(len(products))
    products[fitting] = (products[fitting][0], rng.sample(wanted, 2))
    first = next(at for at, (_, attributes) in enumerate(products) if set(attributes) == set(wanted))
    shown = [f"{asin} [SEP] {rng.choice(lexicon.BRANDS)} {' '.join(has)} {family.noun}" for asin, has in products]
    read = [f"need {' '.join(wanted)}.", *(_read(asin, has, wanted) for asin, has in products[: first + 1])]
    question = f"{', '.join(wanted)} {family.noun} [SEP] {' [SEP] '.join(shown)}"
    answer = format_completion(" ".join(read), f"click[{products[first][0]}]")
    drill = renderer.render(
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], [1.0]
    )
    return _stress(drill, renderer, settings)


def _two_of(pool: list[str], wanted: list[str], rng: random.Random) -> list[str]:
    """Two attributes of a product; of four products one has just one of those wanted, beyond what chance gives."""
    if rng.random() < 0.75:
        return rng.sample(pool, 2)
    return rng.sample([rng.choice(wanted), rng.choice([name for name in pool if name not in wanted])], 2)


def _read(asin: str, has: list[str], wanted: list[str]) -> str:
    """A product read aloud as the scripted expert does it."""
    marked = [f"{name} {'yes' if name in wanted else 'not'}" for name in has]
    return " ".join([asin, *marked, "fits." if set(has) == set(wanted) else "no."])


def _stress(lesson: Rendered, renderer: Renderer, settings: StudentSettings) -> Rendered:
    """The lesson with `mark_weight` on the marks and decisions that carry loss."""
    stressed = _ids((*MARKS, *DECISIONS), renderer)
    weights = zip(lesson.ids, lesson.weights, strict=True)
    return Rendered(
        lesson.ids, tuple(weight * (settings.mark_weight if token in stressed else 1.0) for token, weight in weights)
    )


# --- episodes ----------------------------------------------------------------------------------------------------


def _lessons(
    renderer: Renderer, settings: StudentSettings, rng: random.Random, played: Callable[[int, int], None]
) -> Iterator[Rendered]:
    """A flawless shopper's episodes in random shops, whole, and some turns alone; very long ones are left out."""
    for shop in range(settings.shops):
        for trajectory in _play_shop(_random_shop(rng), settings.tasks, rng.randrange(2**31)):
            lesson = _lesson(trajectory, renderer, settings, rng)
            if len(lesson.ids) > settings.longest:
                continue
            yield lesson
            alone = [step for step in trajectory.steps if _understood_alone(step)]
            for step in rng.sample(alone, min(settings.single_turns, len(alone))):
                yield _lesson(replace(trajectory, steps=(step,)), renderer, settings, rng)
        played(shop + 1, settings.shops)


def _understood_alone(step: Step) -> bool:
    """Whether a turn reads its page and needs none of those before."""
    return step.completion.startswith("Thought: need") and " seen." not in step.completion


def _random_shop(rng: random.Random) -> WebShop:
    """A shop unlike any other: size, page length, options and what makes it hard are all drawn."""
    return WebShop(
        data="synthetic", goals="human", observation="text", prompt="none",
        products_per_page=rng.choice([3, 4, 4, 5, 5, 6, 8]), step_limit=20,
        synthetic=SyntheticSettings(
            seed=derive_seed("base", rng.random()),
            products=rng.randint(100, 240),
            family_size=rng.randint(4, 14),
            attribute_pool=rng.randint(3, 8),
            look_alikes=rng.choice([0.0, 0.2, 0.5]),
            missing_options=rng.choice([0.25, 0.4, 0.5, 0.6]),
            option_types=rng.randint(1, 3),
            search_noise=rng.choice([0.0, 0.5, 1.0]),
            price_spread=0,
        ),
    )


def _play_shop(shop: WebShop, tasks: int, seed: int) -> Iterator[Trajectory]:
    expert = make_shop_expert(shop, "flawless")
    chosen = shop.tasks("train").shuffled(seed).head(tasks)
    launches = [Launch(task.id, task, None, derive_seed(seed, task.id), 0) for task in chosen]
    return play(
        launches, env=shop, policy=expert, trajectories=TrajectorySet(), sampling=GREEDY,
        step_limit=shop.step_limit, batch_size=len(launches),
    )


def _lesson(trajectory: Trajectory, renderer: Renderer, settings: StudentSettings, rng: random.Random) -> Rendered:
    """An episode with loss on what is to be learned. Of a turn to another page only the reading is, not the decision.

    "B000000123 long lasting not travel sized yes no. none fits. next page." carries loss up to and including `no.`.
    """
    marks = _ids(MARKS, renderer)
    untaught = [step.action in (NEXT, BACK) and rng.random() >= settings.turning_share for step in trajectory.steps]
    lesson = renderer.render(build_conversation("", trajectory.steps), [0.5 if each else 1.0 for each in untaught])
    weights: list[float] = []
    for weight, turn in groupby(zip(lesson.ids, lesson.weights, strict=True), key=itemgetter(1)):
        ids = [token for token, _ in turn]
        read = len(ids) if weight == 1.0 else max((at + 1 for at, token in enumerate(ids) if token in marks), default=0)
        weights += [float(weight > 0)] * read + [0.0] * (len(ids) - read)
    return _stress(Rendered(lesson.ids, tuple(weights)), renderer, settings)


def _ids(words: Sequence[str], renderer: Renderer) -> set[int]:
    return set(renderer.tokenizer.convert_tokens_to_ids(list(words)))
