"""`eef model`: build a base student, merge an adapter, push a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eef.cli.console import handle_interrupt, print_out
from eef.cli.options import overrides_table
from eef.cli.progress import show_bars
from eef.config import parse_settings
from eef.errors import ConfigError
from eef.models.manifest import MANIFEST_FILE
from eef.models.settings import DType
from eef.utils.compute import available_cores, process_settings
from eef.utils.extras import require_package

_MODEL_FILES = (".json", ".safetensors", ".jinja", ".md", ".model", ".txt")
_TEMPLATES = "additional_chat_templates"

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A checkpoint of a run, e.g. `runs/demo/eef/round3/checkpoint`.",
        show_default=False,
    ),
]
ModelOut = Annotated[
    Path,
    typer.Option(
        metavar="DIR", help="Where the model is written; a model that is already there is replaced."
    ),
]
StudentOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a setting of the student, e.g. `updates=200` or `width=128`; may be repeated.",
    ),
]


def build(
    out: ModelOut,
    env: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The environment that the student is built for: `webshop` (its shipped student is "
            "`base`) or `scienceworld` (`base-scienceworld`).",
        ),
    ] = "webshop",
    overrides: StudentOverrides = None,
) -> None:
    """Build a small base student from scratch.

    The student is trained on drills and on episodes: in random shops, or along gold paths of
    ScienceWorld's development variations. Prints the model's directory.

    Example: `eef model build --env scienceworld --out student --set updates=200`
    """
    _check_out(out)
    require_package("torch", "building a student")
    with handle_interrupt("stopped; nothing was written"), process_settings(available_cores()):
        from eef.students.builder import build_student, student_settings

        table = overrides_table(overrides)
        settings = parse_settings(student_settings(env), table, source="student")
        with show_bars() as on_progress:
            build_student(env, out, settings, on_progress=on_progress)
    print_out(str(out))


def merge(
    checkpoint: Checkpoint,
    out: ModelOut,
    dtype: Annotated[DType, typer.Option(help="Number format of the weights.")] = "float32",
) -> None:
    """Merge a LoRA adapter into its base.

    The result is a full model that loads without PEFT. Prints its directory.

    Example: `eef model merge runs/8b/eef/round3/checkpoint --out models/8b-eef`
    """
    _check_out(out, checkpoint)
    require_package("torch", "merging a checkpoint")
    with handle_interrupt("stopped; nothing was written"), process_settings(available_cores()):
        from eef.models.checkpoint import merge_checkpoint

        merge_checkpoint(checkpoint, out, dtype=dtype)
    print_out(str(out))


def push(
    checkpoint: Checkpoint,
    repository: Annotated[
        str,
        typer.Argument(metavar="OWNER/NAME", help="The repository.", show_default=False),
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public instead of private.")
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The address of the hub.  [default: huggingface.co]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Upload a checkpoint to a model hub.

    The model card is uploaded with it. The token is read from the environment (`HF_TOKEN`). Prints
    the address of the model.

    Example: `eef model push runs/demo/eef/round3/checkpoint me/shopper`
    """
    require_package("torch", "pushing a checkpoint")
    with handle_interrupt("stopped; uploaded files remain"), process_settings(available_cores()):
        from eef.models.hub import push as upload

        print_out(upload(checkpoint, repository, private=not public, endpoint=endpoint))


def _check_out(out: Path, checkpoint: Path | None = None) -> None:
    """ConfigError if a model written to `out`, which replaces it, would remove other files."""
    if checkpoint is not None and checkpoint.resolve().is_relative_to(out.resolve()):
        what = "is" if out.resolve() == checkpoint.resolve() else "contains"
        raise ConfigError(
            f"`--out` `{out}` {what} the checkpoint `{checkpoint}`",
            hint="choose a new directory with `--out`",
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not _is_only_a_model(out)):
        raise ConfigError(
            f"`{out}` contains files that do not belong to a model",
            hint="choose a new directory with `--out`",
        )


def _is_only_a_model(directory: Path) -> bool:
    """Whether a directory holds a checkpoint that `eef` has written, and nothing else."""
    return (directory / MANIFEST_FILE).is_file() and all(
        path.suffix in _MODEL_FILES if path.is_file() else path.name == _TEMPLATES
        for path in directory.iterdir()
    )
