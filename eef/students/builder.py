"""Base students: their architecture, and how they are built (`eef model build`).

With a base student, a first run needs no model hub. It is a small standard Llama with a word-level
tokenizer, trained on episodes *other* than those that a recipe plays.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eef.config import unknown_name
from eef.errors import ConfigError
from eef.models.checkpoint import save_checkpoint
from eef.renderer import Renderer
from eef.students.curriculum import Curriculum, StudentSettings
from eef.training.settings import TrainSettings
from eef.training.sft import train_examples
from eef.utils.progress import OnProgress, ignore_progress


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """The base student of one environment: its settings and its curriculum."""

    settings: type[StudentSettings]
    curriculum: Callable[[Any, OnProgress], Curriculum]


def _webshop() -> StudentSpec:
    from eef.students.webshop import ShopCurriculum, ShopStudentSettings

    return StudentSpec(ShopStudentSettings, ShopCurriculum)


def _scienceworld() -> StudentSpec:
    from eef.students.scienceworld import ScienceCurriculum, ScienceStudentSettings

    return StudentSpec(ScienceStudentSettings, ScienceCurriculum)


BASE_STUDENTS: dict[str, Callable[[], StudentSpec]] = {
    "webshop": _webshop,
    "scienceworld": _scienceworld,
}
"""Environment → its base student. A function imports the environment only when it is called."""


def student_settings(env: str) -> type[StudentSettings]:
    """The settings of an environment's base student. ConfigError if it has none."""
    return _student(env).settings


def build_model(tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int) -> LlamaForCausalLM:
    """A randomly initialized Llama with heads of size 32, full attention and tied embeddings."""
    heads = width // 32
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def build_student(
    env: str,
    directory: Path,
    settings: StudentSettings,
    *,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Train the base student of an environment and write it to `directory`, in Hugging Face format.

    Training starts with drills, in which a larger share of the tokens is about looking things up,
    and continues with lessons and drills mixed. ConfigError if the environment has no base student
    or no episode is short enough.
    """
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    curriculum = _student(env).curriculum(settings, on_progress)
    tokenizer = curriculum.tokenizer
    model = build_model(tokenizer, width=settings.width, layers=settings.layers)
    renderer = Renderer(tokenizer)
    drills = [curriculum.drill(renderer, rng) for _ in range(settings.drills)]
    lessons = list(curriculum.lessons(renderer, rng, on_progress))
    if not lessons:
        raise ConfigError(
            "every episode is longer than `max_episode_tokens` = "
            f"{settings.max_episode_tokens} tokens",
            hint="raise `max_episode_tokens`",
        )
    model.set_attn_implementation("eager")  # twice as fast on a CPU for sequences this short
    train_examples(
        model,
        drills,
        _train_settings(settings).model_copy(
            update={
                "updates": settings.drill_updates,
                "batch_size": settings.drill_batch_size,
                "learning_rate": settings.drill_learning_rate,
                "schedule": "constant",
            }
        ),
        on_progress=_with_subject("training on drills", on_progress),
    )
    model.set_attn_implementation("sdpa")
    train_examples(
        model,
        [*lessons, *drills[: curriculum.repeated_drills]],
        _train_settings(settings),
        on_progress=_with_subject("training on lessons", on_progress),
    )
    about = {
        "recipe": f"base student for {env}",
        "settings": settings.model_dump(),
        **curriculum.about,
    }
    save_checkpoint(model, tokenizer, directory, base="none", about=about)


def _with_subject(subject: str, on_progress: OnProgress) -> OnProgress:
    """A callback that reports the progress of a training under another subject."""
    return lambda part: on_progress(replace(part, subject=subject))


def _train_settings(settings: StudentSettings) -> TrainSettings:
    return TrainSettings(
        updates=settings.updates,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        schedule="cosine",
        warmup_ratio=0.06,
        weight_decay=0.01,
        max_tokens_per_microbatch=2048,
        dtype=settings.dtype,
        seed=settings.seed,
        threads=settings.threads,
    )


def _student(env: str) -> StudentSpec:
    if env not in BASE_STUDENTS:
        raise unknown_name("base student", env, BASE_STUDENTS)
    return BASE_STUDENTS[env]()
