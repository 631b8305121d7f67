"""The base students: architecture, and how they are made (`eef make-base`); a course for each environment that has one.

No model hub is needed for a first run: such a student is a small standard Llama with a word-level tokenizer, made from
episodes *other* than those a recipe plays.
"""

from __future__ import annotations

import random
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eef.config import suggestion
from eef.errors import ConfigError
from eef.models.checkpoint import save_checkpoint
from eef.renderer import Renderer
from eef.students.curriculum import Course, StudentSettings
from eef.training.settings import TrainSettings
from eef.training.sft import train
from eef.utils.progress import OnProgress, ignore_progress

COURSES = {
    "webshop": ("eef.students.webshop", "ShopStudent", "ShopCourse"),
    "scienceworld": ("eef.students.scienceworld", "ScienceStudent", "ScienceCourse"),
}


def student_settings(env: str) -> type[StudentSettings]:
    """How the student of an environment may be made. ConfigError: no course for it."""
    return cast("type[StudentSettings]", _find(env, 1))


def build_model(tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int) -> LlamaForCausalLM:
    """A randomly initialised Llama: heads of 32, as many for keys as for queries, tied embeddings."""
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


def make_base(
    env: str,
    directory: Path,
    settings: StudentSettings,
    *,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Make the base student of an environment and write it to `directory` as a plain Hugging Face directory.

    Trained on drills first, in which more of the tokens are about looking things up; then on lessons and drills again.
    ConfigError if no episode is short enough.
    """
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    course: Course = _find(env, 2)(settings, on_progress)
    tokenizer = course.tokenizer
    model = build_model(tokenizer, width=settings.width, layers=settings.layers)
    renderer = Renderer(tokenizer)
    drills = [course.drill(renderer, rng) for _ in range(settings.drills)]
    lessons = list(course.lessons(renderer, rng, on_progress))
    if not lessons:
        raise ConfigError(
            f"every episode is longer than `longest` = {settings.longest} tokens", hint="raise it"
        )
    model.set_attn_implementation("eager")  # on a CPU twice as fast for what is so short
    train(
        model,
        drills,
        _train_settings(settings).model_copy(
            update={
                "updates": settings.drill_updates,
                "batch_size": settings.drill_batch_size,
                "learning_rate": settings.drill_rate,
                "schedule": "constant",
            }
        ),
        on_progress=_about("training on drills", on_progress),
    )
    model.set_attn_implementation("sdpa")
    train(
        model,
        [*lessons, *drills[: course.again]],
        _train_settings(settings),
        on_progress=_about("training on lessons", on_progress),
    )
    about = {"recipe": f"base student for {env}", "settings": settings.model_dump(), **course.about}
    save_checkpoint(model, tokenizer, directory, base="none", about=about)


def _about(subject: str, on_progress: OnProgress) -> OnProgress:
    """A callback that reports a training under another subject."""
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


def _find(env: str, place: int) -> Any:
    if env not in COURSES:
        raise ConfigError(f"there is no base student for {env!r}", hint=suggestion(env, COURSES))
    return getattr(import_module(COURSES[env][0]), COURSES[env][place])
