"""The synthetic shop's curriculum: read pages, compare products, act.

Its episodes are played in random shops *other* than those of the recipes. The student is not taught
to change pages or to go back: its training contains such turns as context, so that it can act on
any page, but they carry no loss (except for a share of them, `turning_share`).

With `roles_share`, some episodes hold texts of roles (`eef.students.shop_roles`), and the student
learns to use them: a turn that changes the page carries loss if such a text names it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from pydantic import Field

from eef.chat import build_conversation
from eef.envs.webshop import SyntheticSettings, WebShop, WebShopSettings, lexicon
from eef.envs.webshop.expert import BACK, NEXT, make_shop_expert
from eef.policy import GREEDY, Conversation
from eef.react import format_completion
from eef.renderer import Rendered, Renderer
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.students.curriculum import StudentSettings, copying
from eef.students.shop_roles import KINDS, ROLE_WORDS, ShopRoles
from eef.students.tokenizer import Vocabulary, build_tokenizer
from eef.trajectory import Step, Trajectory, TrajectorySet
from eef.utils.progress import OnProgress, Progress
from eef.utils.seeds import derive_seed

MARKS = ("yes", "not", "no.", "fits.", "seen.", "missing.")
"""The scripted expert's verdicts on what it reads."""

DECISIONS = ("none", "go", "choose", "all")
"""Words that begin the statement of its decision."""

PAGE_WORDS = (
    "webshop instruction: search back to page (total results: next prev < > price: rating: n.a. "
    "description features reviews buy now thank you for shopping with us! i am looking a need "
    "find me would like an and in , price lower than dollars of the that is on or my from not be "
    "mistaken for: every day click thought: action: yes not no. fits. seen. need none next "
    "missing. choose all chosen. go back good enough. format error: found. answer …"
)


class ShopStudentSettings(StudentSettings):
    """Settings of the shop's base student."""

    shops: int = Field(default=120, ge=1)
    """Number of random shops to play in."""

    tasks: int = Field(default=60, ge=1)
    """Tasks per shop."""

    turning_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the turns that change the page, or go back, that carry loss."""

    roles_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the episodes with texts of scripted roles: a plan or reflections in the prompt,
    advice in every turn, or critiques of proposals. Without, the student cannot read any of them.
    """

    roles_preset: Literal["flawless", "strong", "weak"] = "strong"
    """Preset of these roles: `flawless`, `strong` (wrong in 15 % of the texts) or `weak` (40 %)."""

    copying_share: float = Field(default=0.25, ge=0, le=1)
    """Share of the drills that copy a row of random words and numbers; the others look up."""

    mark_weight: float = Field(default=3.0, gt=0)
    """Loss weight of verdict and decision words (`MARKS`, `DECISIONS`); all others weigh 1."""

    single_turns: int = Field(default=2, ge=0)
    """Turns per episode that are also lessons of their own, without the preceding turns."""


def shop_vocabulary(*, roles: bool = False) -> Vocabulary:
    """The synthetic shop's words; a product number of a small shop is two tokens.

    With `roles`, those of scripted roles as well.

    >>> tokenizer = build_tokenizer(shop_vocabulary())
    >>> tokenizer.tokenize("click[B000000123]"), tokenizer.tokenize("B000123456")
    (['click', '[', 'b000000', '##123', ']'], ['b000', '##123', '##456'])
    """
    words = (*PAGE_WORDS.split(), *lexicon.words(), "b000", "b000000")
    if roles:
        words = (*words, *ROLE_WORDS.split())
    return Vocabulary(
        words, numbers=1000, apart="[]", joined=((" [ ", "["), (" ]", "]")), inside=(".99",)
    )


class ShopCurriculum:
    """A `Curriculum` of episodes in random shops."""

    def __init__(self, settings: ShopStudentSettings, on_progress: OnProgress) -> None:
        self.settings = settings
        self.tokenizer = build_tokenizer(shop_vocabulary(roles=settings.roles_share > 0))
        self.repeated_drills = settings.shops * settings.tasks
        self.about: dict[str, Any] = {}

    def drill(self, renderer: Renderer, rng: random.Random) -> Rendered:
        if rng.random() >= self.settings.copying_share:
            return _looking_up(renderer, self.settings, rng)
        known = renderer.tokenizer.convert_tokens_to_ids(list(lexicon.words()))
        numbers = renderer.tokenizer.convert_tokens_to_ids(
            [f"##{number:03d}" for number in range(1000)]
        )
        return copying(renderer, [known, numbers], rng)

    def lessons(
        self, renderer: Renderer, rng: random.Random, on_progress: OnProgress
    ) -> Iterator[Rendered]:
        return _lessons(renderer, self.settings, rng, on_progress)


# --- drills ---------------------------------------------------------------------------------------


def _looking_up(renderer: Renderer, settings: ShopStudentSettings, rng: random.Random) -> Rendered:
    """A drill: a request, a list of products, and a reading of them up to the first that fits."""
    family = rng.choice(lexicon.families())
    pool = rng.sample(family.attributes, rng.randint(3, 6))
    wanted = rng.sample(pool, 2)
    numbers = rng.sample(range(10**3), rng.randint(2, 6))
    products = [(f"B{number:09d}", _two_of(pool, wanted, rng)) for number in numbers]
    fitting = rng.randrange(len(products))
    products[fitting] = (products[fitting][0], rng.sample(wanted, 2))
    first = next(
        at for at, (_, attributes) in enumerate(products) if set(attributes) == set(wanted)
    )
    shown = [
        f"{asin} [SEP] {rng.choice(lexicon.BRANDS)} {' '.join(has)} {family.noun}"
        for asin, has in products
    ]
    read = [
        f"need {' '.join(wanted)}.",
        *(_read(asin, has, wanted) for asin, has in products[: first + 1]),
    ]
    question = f"{', '.join(wanted)} {family.noun} [SEP] {' [SEP] '.join(shown)}"
    answer = format_completion(" ".join(read), f"click[{products[first][0]}]")
    drill = renderer.render(
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], [1.0]
    )
    return _stress(drill, renderer, settings)


def _two_of(pool: list[str], wanted: list[str], rng: random.Random) -> list[str]:
    """Two attributes of a product: random, or (one time in four) with exactly one wanted."""
    if rng.random() < 0.75:
        return rng.sample(pool, 2)
    return rng.sample(
        [rng.choice(wanted), rng.choice([name for name in pool if name not in wanted])], 2
    )


def _read(asin: str, has: list[str], wanted: list[str]) -> str:
    """The reading of a product, in the scripted expert's form."""
    marked = [f"{name} {'yes' if name in wanted else 'not'}" for name in has]
    return " ".join([asin, *marked, "fits." if set(has) == set(wanted) else "no."])


def _stress(lesson: Rendered, renderer: Renderer, settings: ShopStudentSettings) -> Rendered:
    """The lesson with its marks and decisions weighted by `mark_weight`."""
    stressed = _ids((*MARKS, *DECISIONS), renderer)
    weights = zip(lesson.ids, lesson.weights, strict=True)
    return Rendered(
        lesson.ids,
        tuple(
            weight * (settings.mark_weight if token in stressed else 1.0)
            for token, weight in weights
        ),
    )


# --- episodes -------------------------------------------------------------------------------------


def _lessons(
    renderer: Renderer, settings: ShopStudentSettings, rng: random.Random, on_progress: OnProgress
) -> Iterator[Rendered]:
    """Episodes of the flawless expert in random shops, each followed by some of its single turns.

    Episodes longer than `max_episode_tokens` are skipped.
    """
    for number in range(settings.shops):
        shop = random_shop(rng)
        roles = _roles_of(shop, settings)
        for trajectory in play_shop(shop, settings.tasks, rng.randrange(2**31)):
            if roles and rng.random() < settings.roles_share:
                lesson = _helped_lesson(trajectory, roles, renderer, settings, rng)
                if len(lesson.ids) <= settings.max_episode_tokens:
                    yield lesson
                continue
            lesson = _lesson(trajectory, renderer, settings, rng)
            if len(lesson.ids) > settings.max_episode_tokens:
                continue
            yield lesson
            alone = [step for step in trajectory.steps if _understood_alone(step)]
            for step in rng.sample(alone, min(settings.single_turns, len(alone))):
                yield _lesson(replace(trajectory, steps=(step,)), renderer, settings, rng)
        on_progress(Progress("playing", number + 1, settings.shops))


def _understood_alone(step: Step) -> bool:
    """Whether a turn can be understood from its page alone."""
    return step.completion.startswith("Thought: need") and " seen." not in step.completion


def random_shop(rng: random.Random) -> WebShop:
    """A random shop: its size, page length, options and difficulty are all drawn."""
    settings = WebShopSettings(
        data="synthetic",
        goals="human",
        observation="text",
        prompt="none",
        products_per_page=rng.choice([3, 4, 4, 5, 5, 6, 8]),
        step_limit=20,
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
    return WebShop(settings)


def play_shop(shop: WebShop, tasks: int, seed: int) -> Iterator[Trajectory]:
    """Episodes of the flawless expert on some training tasks of a shop."""
    expert = make_shop_expert(shop, "flawless")
    chosen = shop.tasks("train").shuffled(seed).head(tasks)
    specs = [RolloutSpec(task.id, task, None, derive_seed(seed, task.id), 0) for task in chosen]
    return play(
        specs,
        env=shop,
        policy=expert,
        trajectories=TrajectorySet(),
        parameters=RolloutParameters(
            sampling=GREEDY, step_limit=shop.step_limit, batch_size=len(specs)
        ),
    )


def _roles_of(shop: WebShop, settings: ShopStudentSettings) -> ShopRoles | None:
    if not settings.roles_share:
        return None
    instructions = {task.id: task.instruction for task in shop.tasks("train")}
    return ShopRoles(shop, instructions, settings.roles_preset)


def _lesson(
    trajectory: Trajectory, renderer: Renderer, settings: ShopStudentSettings, rng: random.Random
) -> Rendered:
    """An episode with loss on everything the student is to learn.

    In a turn that changes the page, only the reading carries loss, not the decision. Example:
    `B000000123 long lasting not travel sized yes no. none fits. next page.` carries loss up to and
    including `none fits.`.
    """
    untaught = [
        step.action in (NEXT, BACK) and rng.random() >= settings.turning_share
        for step in trajectory.steps
    ]
    conversation = build_conversation("", trajectory.steps)
    return _with_loss(conversation, [0.5 if each else 1.0 for each in untaught], renderer, settings)


def _helped_lesson(
    trajectory: Trajectory,
    roles: ShopRoles,
    renderer: Renderer,
    settings: ShopStudentSettings,
    rng: random.Random,
) -> Rendered:
    """An episode, or one of its turns, with what a role wrote. The turns that a text names are
    taught."""
    path = roles.help(trajectory, rng.choice(KINDS), rng)
    conversation = build_conversation(
        "", path.steps, prompt_suffix=path.prompt_suffix, advice=path.shown
    )
    loss = [
        0.0 if t < path.first else 0.5 if step.action in (NEXT, BACK) and t not in path.named else 1
        for t, step in enumerate(path.steps)
    ]
    return _with_loss(conversation, loss, renderer, settings)


def _with_loss(
    conversation: Conversation,
    loss: Sequence[float],
    renderer: Renderer,
    settings: ShopStudentSettings,
) -> Rendered:
    """A lesson; the loss of each turn is on all of it (1), on its reading (0.5) or on nothing."""
    marks = _ids(MARKS, renderer)
    lesson = renderer.render(conversation, loss)
    weights: list[float] = []
    for weight, turn in groupby(zip(lesson.ids, lesson.weights, strict=True), key=itemgetter(1)):
        ids = [token for token, _ in turn]
        read = (
            len(ids)
            if weight == 1.0
            else max((at + 1 for at, token in enumerate(ids) if token in marks), default=0)
        )
        weights += [float(weight > 0)] * read + [0.0] * (len(ids) - read)
    return _stress(Rendered(lesson.ids, tuple(weights)), renderer, settings)


def _ids(words: Sequence[str], renderer: Renderer) -> set[int]:
    return set(renderer.tokenizer.convert_tokens_to_ids(list(words)))
