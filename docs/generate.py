"""Schema: every file that `eef` writes and what stands in it, told by the code that writes it; for the docs.

A record's fields and their meaning are those of its class. `tests/docs/test_data_format.py` carries a run out and holds each
file it leaves to this list.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from eef.analysis.label_noise import LabelNoise
from eef.analysis.results import RECORD_VERSION as RESULTS_VERSION
from eef.analysis.results import RoundResult, Score
from eef.cli.settings import describe_env, env_sections, recipe_sections
from eef.config import SettingRow
from eef.envs.registry import ENVIRONMENTS
from eef.exporters.readmes import READMES
from eef.importers.formats import FORMATS
from eef.importers.importer import ImportReport
from eef.pipeline.evaluation import EvalResult, Outcome
from eef.pipeline.ledger import Cost
from eef.pipeline.recipe import Recipe
from eef.policies.response_cache import ApiUsage
from eef.policy import Completion
from eef.selection import PreferencePair, TrainingExample
from eef.trajectory import StateRef, Step, Trajectory, Usage

_VERSION = "number of the record's form"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSchema:
    """A file, or a kind of files, of a run directory. `path` may hold `*`; `keys` are those of its object or of each of
    its lines (None: not fixed, `about` says what they are); `required` are never left out. `records` are the classes
    whose fields stand in it."""

    path: str
    about: str
    keys: Mapping[str, str] | None = None
    required: frozenset[str] = frozenset()
    records: tuple[type, ...] = ()
    version: int | None = None


def _of(kind: type, **more: str) -> dict[str, str]:
    """The fields of a record with their types."""
    return {**more, **{each.name: str(each.type) for each in fields(kind)}}


def _file(
    path: str, about: str, keys: dict[str, str] | None = None, *records: type, **options: Any
) -> FileSchema:
    optional = options.pop("optional", ())
    required = frozenset(key for key in keys or {} if key not in optional)
    return FileSchema(
        path=path, about=about, keys=keys, required=required, records=records, **options
    )


FILES = (
    _file(
        "recipe.json",
        "The resolved recipe, every default written out (`docs/settings.md`).",
        dict.fromkeys(Recipe.model_fields, "see `docs/settings.md`"),
    ),
    _file(
        "fingerprint.json",
        "The environment's fingerprint, and all else that decides whether two numbers can stand "
        "in one table. Its keys depend on the environment.",
    ),
    _file(
        "*/trajectories.jsonl",
        "Every rollout of a method in the order it ended (`expert`: the expert data), also "
        "in each round's `evaluation/`, and what `eef import` writes. A line is a trajectory.",
        _of(Trajectory, version=_VERSION),
        Trajectory,
        Step,
        StateRef,
        Usage,
        version=Trajectory.VERSION,
    ),
    _file(
        "expert/responses.jsonl",
        "What a server answered, a line each, the moment it did: nothing is asked twice.",
        {
            "question": "digest of model, messages, seed and sampling",
            "completion": "Completion | None",
            "requests": "attempts it took",
            "failures": "what went wrong → how often",
        },
        Completion,
    ),
    _file(
        "*/ledger.jsonl",
        "What each stage cost; a later line of a stage replaces an earlier one.",
        {"method": "str", "round": "int", "stage": "str", **_of(Cost)},
        Cost,
    ),
    _file(
        "*/round*/explored.json",
        "What came of a round's rollouts, or of collecting (there with `unverified` and "
        "`sources`: an import's report by expert, and `api`, what servers were asked).",
        {
            "rollouts": "int",
            "wins": "int",
            "errors": "int",
            "mismatches": "states that did not come back",
            "overflows": "int",
            "worker_restarts": "how often a worker process died or hung and was restarted",
            "unverified": "int",
            "sources": "expert → ImportReport; `api` → ApiUsage",
        },
        ImportReport,
        ApiUsage,
        optional=("unverified", "sources"),
    ),
    _file(
        "*/round*/examples.jsonl",
        "What a round trains on. A line is an example.",
        _of(TrainingExample, version=_VERSION),
        TrainingExample,
        version=TrainingExample.VERSION,
    ),
    _file(
        "*/round*/pairs.jsonl",
        "What a round trains on by preference; a line is a pair. Only where there are such.",
        _of(PreferencePair, version=_VERSION),
        PreferencePair,
        version=TrainingExample.VERSION,
    ),
    _file(
        "*/round*/selection.json",
        "Counts of the selection, by name (`examples`, `steps.<reason>`, `segments.<label>` …).",
    ),
    _file(
        "*/round*/training.json",
        "How a training went.",
        {
            "updates": "int",
            "examples": "int",
            "pairs": "int",
            "too_long": "ids of examples and pairs left out",
            "losses": "loss by update",
        },
    ),
    _file(
        "*/round*/checkpoint/manifest.json",
        "What a checkpoint is; written last.",
        {
            "recipe": "str",
            "method": "str",
            "round": "int",
            "base": "model it was trained from",
            "sha256": "weights file → checksum",
        },
    ),
    _file(
        "*/round*/checkpoint/*",
        "The model itself, as Hugging Face (or PEFT) has it, safetensors alone, and its card.",
    ),
    _file(
        "*/round*/evaluation.json",
        "The result of an evaluation.",
        _of(EvalResult, version=_VERSION),
        EvalResult,
        Outcome,
        version=EvalResult.VERSION,
    ),
    _file(
        "*/round*/noise.json",
        "How often labels are false (`eef label-noise`, whose rollouts lie in `noise/` beside "
        "it): the round, and (trajectory, t, wins, rollouts) of each state.",
        {"version": _VERSION, "round": "int", "states": "list of [trajectory, t, wins, rollouts]"},
        version=LabelNoise.VERSION,
    ),
    _file(
        "results.json",
        "The numbers of a run, as the report shows them.",
        {
            "version": _VERSION,
            "name": "str",
            "seed": "int",
            "stages": "{done, planned}",
            "methods": "method → its row, and its rounds",
            "comparisons": "pairs of methods on the same tasks",
            "never_solved": "int | None",
            "fingerprint": "as in `fingerprint.json`",
        },
        Score,
        RoundResult,
        version=RESULTS_VERSION,
    ),
    _file("report.html", "The report: one page, nothing outside it."),
    _file("*.lock", "Held while a process writes there; empty of meaning otherwise."),
)


def main() -> None:
    """Write `docs/settings.md` and `docs/data-format.md`."""
    folder = Path(__file__).parent
    (folder / "settings.md").write_text(settings_page(), encoding="utf-8")
    (folder / "data-format.md").write_text(data_format_page(), encoding="utf-8")


def settings_page() -> str:
    """Every setting with its default, as Markdown tables."""
    lines = [
        "# Settings",
        "",
        "Every setting and its default, as `python -m docs.generate` writes them down. A recipe is a "
        "TOML, YAML or JSON file of these; `--set train.updates=200` overrides one.",
        "",
    ]
    for title, rows in recipe_sections():
        lines += _settings(title, rows)
    for name in ENVIRONMENTS:
        lines += [f"## environment {name}", "", "```", describe_env(name), "```", ""]
        for title, rows in env_sections(name):
            lines += _settings(title, rows)
    return "\n".join(lines)


def _settings(title: str, rows: list[SettingRow]) -> Iterator[str]:
    yield from (f"## {title}", "", "| setting | type | default | meaning |", "|:--|:--|:--|:--|")
    for row in rows:
        meaning = _cell(" ".join(row.description.split()))
        yield f"| `{row.key}` | {row.type} | `{row.default}` | {meaning} |"
    yield ""


def data_format_page() -> str:
    """The files of a run, and what `eef import` reads and `eef export` writes."""
    return "\n".join([*_head(), *_run_files(), *_imports(), *_exports()])


def _head() -> list[str]:
    return [
        "# Data format",
        "",
        "Every file `eef` writes, as `python -m docs.generate` writes them down from the code. JSON and "
        "JSON Lines, UTF-8. A file is written whole or not at all; a line of a `.jsonl` that grows is written whole, "
        "and a torn last one (a crash) is moved aside to `….torn`, rollouts that all failed to `….failed`.",
        "",
        f"Trajectory records are migrated when they are read: version 0 to {Trajectory.VERSION}, a numbered step each.",
        "",
        *(
            f"- {index} → {index + 1}: {(inspect.getdoc(step) or '').split(': ', 1)[1]}"
            for index, step in Trajectory.MIGRATIONS.items()
        ),
        "",
        "## A run directory",
        "",
    ]


def _run_files() -> Iterator[str]:
    told: set[type] = set()
    for each in FILES:
        version = f" Version {each.version}." if each.version is not None else ""
        yield from (f"### `{each.path}`", "", each.about + version, "")
        if each.keys:
            yield from ("| key | type |", "|:--|:--|")
            yield from (f"| `{key}` | {_cell(kind)} |" for key, kind in each.keys.items())
            yield ""
        for kind in each.records:
            if kind not in told:
                yield from _record(
                    kind, shown=bool(each.keys) and set(_of(kind)) <= set(each.keys or ())
                )
            told.add(kind)


def _record(kind: type, *, shown: bool) -> Iterator[str]:
    """A class in its own words, and its fields where the file's table does not have them."""
    yield from (f"**{kind.__name__}**", "", inspect.cleandoc(kind.__doc__ or ""), "")
    if not shown:
        yield from ("| field | type | when left out |", "|:--|:--|:--|")
        yield from (
            f"| `{each.name}` | {_cell(str(each.type))} | {_default(each)} |"
            for each in fields(kind)
        )
        yield ""


def _default(each: Any) -> str:
    if each.default is not MISSING:
        return f"`{each.default!r}`"
    return "" if each.default_factory is MISSING else "empty"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _imports() -> Iterator[str]:
    yield from ("## What `eef import` reads", "", "| format | what it is |", "|:--|:--|")
    yield from (f"| `{name}` | {_cell(about)} |" for name, (_, _, about) in FORMATS.items())
    yield from (
        "",
        "It writes trajectories, a line each, and beside them `<name>.rejected.jsonl`: `place` and "
        "`reason` of each row that was not taken.",
        "",
    )


def _exports() -> Iterator[str]:
    yield from ("## What `eef export` writes", "", "The README that lies beside each:", "")
    for name, guide in READMES.items():
        yield from (
            f"### `--to {name}`",
            "",
            guide.format(count="N", end="<end of turn>").strip(),
            "",
        )


if __name__ == "__main__":
    main()
