"""Write the generated pages: settings, data format, command line and the study's results.

`python -m docs.generate` (`make docs`) writes them into `docs/` and `results/`. Tests compare each
page with what the code gives, and the files of a run with `FILES`.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from eef.analysis.label_noise import LabelNoise
from eef.analysis.results import RECORD_VERSION as RESULTS_VERSION
from eef.analysis.results import RoundResult, Score
from eef.analysis.study import Study, load_study
from eef.cli import make_app
from eef.cli.report import study_commands, study_documents
from eef.cli.settings import sections
from eef.config import SettingRow
from eef.exporters.directory import RECORD_FILE
from eef.exporters.logs import LOG_READMES
from eef.exporters.readmes import EXACT, HOSTED, MARKED, READMES
from eef.exporters.targets import TARGETS
from eef.importers import calls
from eef.importers.formats import FORMATS
from eef.importers.importer import ImportReport
from eef.note import Advice, Note, RoleUsage
from eef.pipeline.evaluation import EvalResult, Outcome
from eef.pipeline.ledger import Cost
from eef.pipeline.recipe import Recipe
from eef.pipeline.status import RECORD_VERSION as STATUS_VERSION
from eef.pipeline.status import StatusRecord
from eef.policies.response_cache import ApiUsage
from eef.policy import Completion
from eef.react import find_action
from eef.selection import Acts, PreferencePair, TextExample, TextPair, TrainingExample
from eef.trajectory import StateRef, Step, Trajectory, Usage

ROOT = Path(__file__).parent.parent
TRIALS = ROOT / "results" / "trials"
NOTES = ROOT / "results" / "notes.md"
WIDTH = 100
_VERSION = "version of the record"


def main() -> None:
    """Write every page whose text has changed, and print its path."""
    for path, text in pages().items():
        file = ROOT / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(path)


def pages() -> dict[str, str]:
    """The text of every generated page by its path."""
    study = _study()
    results = study_documents(study, _commands(study))
    return {
        "docs/settings.md": settings_page(),
        "docs/data-format.md": data_format_page(),
        "docs/cli.md": cli_page(),
        "docs/results.md": wrap_markdown(_with_notes(results["results.md"])),
        "docs/results.html": results["results.html"],
        "results/study.json": json.dumps(study.to_record(), indent=2) + "\n",
    }


@cache
def _study() -> Study:
    return load_study([TRIALS])


def _with_notes(document: str) -> str:
    """The study's document with the notes on its design and its limits before the first table."""
    head, mark, rest = document.partition("\n## ")
    return f"{head}\n{NOTES.read_text(encoding='utf-8').strip()}\n{mark}{rest}"


def _commands(study: Study) -> list[str]:
    """The commands that execute the trials again; the last one writes these pages."""
    *trials, _ = study_commands(study)
    return [*trials, "python -m docs.generate"]


# Markdown


def wrap_markdown(text: str) -> str:
    """Markdown with its prose wrapped at 100 columns; code, tables and headings are unchanged."""
    lines: list[str] = []
    paragraph: list[str] = []
    fenced = False
    for line in [*text.split("\n"), ""]:
        fence = line.lstrip().startswith("```")
        item = re.match(r" *(?:[-*]|\d+\.) ", line)
        if fenced or fence or item or not line.strip() or re.match(r" *[|#<]| {4}", line):
            lines += _fill(paragraph)
            paragraph = []
        if fence:
            fenced = not fenced
        if item and not fenced:
            paragraph = [line]
        elif fenced or fence or not line.strip() or re.match(r" *[|#<]| {4}", line):
            lines.append(line)
        else:
            paragraph.append(line)
    return "\n".join(lines[:-1])


def _fill(paragraph: list[str]) -> list[str]:
    """A paragraph or list item, wrapped; short code spans are kept on one line."""
    if not paragraph:
        return []
    first = re.match(r" *(?:(?:[-*]|\d+\.) )?", paragraph[0])
    indent = first[0] if first else ""
    text = " ".join(line.strip() for line in [paragraph[0][len(indent) :], *paragraph[1:]])
    text = re.sub(r"`[^`]{1,60}`", lambda span: span[0].replace(" ", "\0"), text)
    wrapped = textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped.replace("\0", " ").split("\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# docs/settings.md


def settings_page() -> str:
    """Every setting with its default and meaning."""
    return wrap_markdown("\n".join(_settings_lines()))


def _settings_lines() -> Iterator[str]:
    yield from (
        "# Settings",
        "",
        "Every setting and its default, generated from the code by `make docs`. A recipe is a "
        "TOML, YAML or JSON file of these; `--set train.updates=200` overrides one. `eef settings` "
        "prints the same list.",
        "",
    )
    for title, rows in sections():
        yield from _settings_table(title, rows)


def _settings_table(title: str, rows: list[SettingRow]) -> Iterator[str]:
    yield from (f"## {title}", "", "| setting | type | default | meaning |", "|:--|:--|:--|:--|")
    for row in rows:
        meaning = _cell(" ".join(row.description.split()))
        yield f"| `{row.key}` | {row.type} | `{row.default}` | {meaning} |"
    yield ""


# docs/cli.md


def cli_page() -> str:
    """The help of every command, as one document."""
    root = typer.main.get_command(make_app())
    context = root.make_context("eef", [], resilient_parsing=True)
    return wrap_markdown("\n".join([*_cli_head(), *_command_lines(root, context)]))


def _cli_head() -> list[str]:
    return [
        "# Command line",
        "",
        "Generated from `eef --help` and the help of each command by `make docs`. Results go to "
        "standard output, progress and errors to standard error. Exit status: 0 for success, 2 for "
        "a mistake that the message and its `hint:` explain, 130 after Ctrl-C.",
        "",
    ]


def _command_lines(command: Any, context: Any) -> Iterator[str]:
    """The help of a command, then that of its subcommands."""
    if not isinstance(command, TyperGroup):
        yield from _help_lines(command, context)
        return
    names = command.list_commands(context)
    found = [_subcommand(command, context, name) for name in names]
    if context.parent is not None:
        yield from (f"## {context.command_path}", "", _help_text(command), "")
    else:
        yield from ("| command | what it does |", "|:--|:--|")
        yield from (
            f"| [`eef {each.info_name}`](#eef-{each.info_name}) | {_summary(each.command)} |"
            for each in found
        )
        yield ""
    for each in found:
        yield from _command_lines(each.command, each)


def _subcommand(group: TyperGroup, context: Any, name: str) -> Any:
    """The context of a subcommand; resolving it loads a command that is imported lazily."""
    _, command, _ = group.resolve_command(context, [name])
    assert command is not None, name
    return command.make_context(name, [], parent=context, resilient_parsing=True)


def _help_lines(command: Any, context: Any) -> Iterator[str]:
    level = "##" if context.parent is not None and context.parent.parent is None else "###"
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"{level} {context.command_path}", "")
    yield from ("```", f"{context.command_path} {usage}".strip(), "```", "")
    yield from (_help_text(command), "")
    rows = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) and "--help" not in parameter.opts
    ]
    if rows:
        yield from ("| argument or option | meaning |", "|:--|:--|")
        for name, meaning in rows:
            if not name.startswith("-"):
                name = re.sub(r" <(path|str|list\[Path\])>$", "", name)
            yield f"| `{_cell(name)}` | {_cell(' '.join(meaning.split()))} |"
        yield ""


def _summary(command: Any) -> str:
    return command.get_short_help_str(WIDTH)


def _help_text(command: Any) -> str:
    """A command's help, each example as a block that can be copied."""
    text = inspect.cleandoc(command.help or "").replace("\f", "")
    return re.sub(
        r"^Example: `([^`]+)`$",
        lambda example: f"Example:\n\n```\n{' '.join(example[1].split())}\n```",
        text,
        flags=re.M,
    )


# docs/data-format.md


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSchema:
    """A file of a run directory, or a group of them.

    `path` may contain `*`. `keys` are those of its object or of each of its lines (None: not fixed,
    see `about`); `required` are always present. `records` are the classes whose fields it contains.
    """

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
        "The resolved recipe, every default written out ([settings.md](settings.md)).",
        dict.fromkeys(Recipe.model_fields, "see [settings.md](settings.md)"),
    ),
    _file(
        "fingerprint.json",
        "The environment's fingerprint, and everything else that decides whether two numbers are "
        "comparable. Its keys depend on the environment.",
    ),
    _file(
        "*/trajectories.jsonl",
        "Every rollout of a method in the order of completion (`expert`: the expert data); also in "
        "each round's `evaluation/`, and the output of `eef import`. A line is a trajectory.",
        _of(Trajectory, version=_VERSION),
        Trajectory,
        Step,
        StateRef,
        Usage,
        Advice,
        version=Trajectory.VERSION,
    ),
    _file(
        "*/notes.jsonl",
        "What roles wrote when a method requested it, one note per line; also in each round's "
        "`evaluation/`. Missing if no role was asked.",
        _of(Note, version=_VERSION),
        Note,
        RoleUsage,
        version=Note.VERSION,
    ),
    _file(
        "responses-*.jsonl",
        "The requests of all methods to the server of a role, as in `expert/responses.jsonl`.",
    ),
    _file(
        "expert/responses.jsonl",
        "The requests to a server, one per line, each written as its response arrived. A request "
        "that was answered is never sent again.",
        {
            "question": "digest of model, messages, seed and sampling",
            "completion": "Completion | None",
            "requests": "1, or 0 in a line that only has `dropped`",
            "failures": "reason of a failed request → 1",
            "prompt_tokens": "int; estimated if the server reports none",
            "completion_tokens": "int; likewise",
            "dropped": "model → request options that its server does not take",
        },
        Completion,
        optional=("prompt_tokens", "completion_tokens", "dropped"),
    ),
    _file(
        "*/ledger.jsonl",
        "The cost of each stage; a later line of a stage replaces an earlier one.",
        {"method": "str", "round": "int", "stage": "str", **_of(Cost)},
        Cost,
    ),
    _file(
        "*/round*/explored.json",
        "The outcome of a round's rollouts, or of collecting (then with `unverified` and "
        "`sources`: the report of each import by expert, and `api`, the use of servers).",
        {
            "rollouts": "int",
            "wins": "int",
            "errors": "int",
            "mismatches": "states that replay could not restore",
            "tolerated_steps": "replayed observations that differ only in ignored parts",
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
        "The examples that a round trains on. A line is an example.",
        _of(TrainingExample, version=_VERSION),
        TrainingExample,
        version=TrainingExample.VERSION,
    ),
    _file(
        "*/round*/pairs.jsonl",
        "The preference pairs that a round trains on, one per line; missing if there are none.",
        _of(PreferencePair, version=_VERSION),
        PreferencePair,
        version=PreferencePair.VERSION,
    ),
    _file(
        "*/round*/acts.jsonl",
        "The acts that a round trains on by policy gradient, one rollout per line; missing if "
        "there are none.",
        _of(Acts, version=_VERSION),
        Acts,
        version=Acts.VERSION,
    ),
    _file(
        "*/round*/texts.jsonl",
        "The texts that roles are trained to write, one per line; missing if there are none.",
        _of(TextExample, version=_VERSION),
        TextExample,
        version=TextExample.VERSION,
    ),
    _file(
        "*/round*/text_pairs.jsonl",
        "The pairs of texts that roles are trained on, one per line; missing if there are none.",
        _of(TextPair, version=_VERSION),
        TextPair,
        version=TextPair.VERSION,
    ),
    _file(
        "*/round*/selection.json",
        "Counts of the selection, by name (`examples`, `steps.<reason>`, `segments.<label>` …).",
    ),
    _file(
        "*/round*/training.json",
        "The course of a training.",
        {
            "updates": "int",
            "examples": "int",
            "pairs": "int",
            "acts": "int",
            "roles": "names of the roles that were trained before the student",
            "too_long": "ids of examples, pairs and acts that were skipped",
            "losses": "loss by update",
        },
    ),
    _file(
        "*/round*/training-*.json",
        "The course of a role's training, and its cost.",
        {
            "updates": "int",
            "texts": "texts trained on",
            "pairs": "pairs of texts trained on",
            "too_long": "ids of texts that do not fit",
            "losses": "loss of each update",
            "cost": "Cost",
        },
    ),
    _file(
        "*/round*/checkpoint-*/*",
        "The model of a role that a round has trained.",
    ),
    _file(
        "*/round*/optimizer/*.safetensors",
        "Weights and optimizer moments that the next round continues with, one file per rank; kept "
        "for the latest round that was trained on acts.",
    ),
    _file(
        "tracking/*",
        "Files of experiment trackers (`track`), their output, and in `state.json` what each was "
        "given: the id of its tracked run, and the points logged by kind.",
    ),
    _file(
        "*/round*/ranks/*",
        "Output, progress and errors of the ranks of a training (`train.ranks`); removed at its "
        "end.",
    ),
    _file(
        "*/round*/checkpoint/removed.json",
        "In place of a checkpoint that was not kept (`train.keep_checkpoints`).",
        {"setting": "the setting that asked for it"},
    ),
    _file(
        "*/round*/checkpoint/manifest.json",
        "The origin of a checkpoint; written last.",
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
        "The model in the format of Hugging Face (or PEFT), safetensors only, and its model card.",
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
        "How often labels are false (`eef label-noise`, whose rollouts are in `noise/` beside it): "
        "the round, and (trajectory, t, wins, rollouts) of each state.",
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
    _file(
        "servers/*.log", 'The output of inference servers that `rollouts.engine = "vllm"` started.'
    ),
    _file("report.html", "The report: one self-contained page."),
    _file(
        "*/status.json",
        "What a method's last stage is doing, or how it ended: what `eef status` reads. Written "
        "every few seconds while a stage is executed.",
        _of(StatusRecord),
        StatusRecord,
        version=STATUS_VERSION,
    ),
    _file("*.lock", "Locked while a process writes there; the content has no meaning."),
    _file(
        "*.lease",
        "Beside a lock while it is held: its holder, for other machines; touched every ten seconds "
        "([reliability.md](reliability.md)).",
    ),
)


def data_format_page() -> str:
    """Every file of a run directory, what `eef import` reads and what `eef export` writes."""
    lines = [*_head(), *_run_files(), *_imports(), *_exports()]
    return wrap_markdown("\n".join(lines))


def _head() -> list[str]:
    return [
        "# Data format",
        "",
        "Every file that `eef` writes, generated by `make docs` from the code that writes them. "
        "JSON and JSON Lines, UTF-8. A file is written completely or not at all. A line of a "
        "growing `.jsonl` is written completely too; after a crash, a torn last line is moved to "
        "`….torn`. "
        "If every rollout of a stage failed, they are moved to `….failed`.",
        "",
        "Trajectory records are migrated when they are read, from any earlier version to "
        f"{Trajectory.VERSION}:",
        "",
        *(f"- {inspect.getdoc(step)}" for step in Trajectory.MIGRATIONS.values()),
        "",
        "## A run directory",
        "",
    ]


def _run_files() -> Iterator[str]:
    described: set[type] = set()
    for each in FILES:
        version = f" Version {each.version}." if each.version is not None else ""
        yield from (f"### `{each.path}`", "", each.about + version, "")
        if each.keys:
            yield from ("| key | type |", "|:--|:--|")
            yield from (f"| `{key}` | {_cell(kind)} |" for key, kind in each.keys.items())
            yield ""
        for kind in each.records:
            if kind not in described:
                shown = bool(each.keys) and set(_of(kind)) <= set(each.keys or ())
                yield from _record(kind, shown=shown)
            described.add(kind)


def _record(kind: type, *, shown: bool) -> Iterator[str]:
    """A class's docstring, and its fields unless the file's table shows them."""
    yield from (f"**{kind.__name__}**", "", inspect.cleandoc(kind.__doc__ or ""), "")
    if not shown:
        yield from ("| field | type | default |", "|:--|:--|:--|")
        yield from (
            f"| `{each.name}` | {_cell(str(each.type))} | {_default(each)} |"
            for each in fields(kind)
        )
        yield ""


def _default(each: Any) -> str:
    if each.default is not MISSING:
        return f"`{each.default!r}`"
    return "" if each.default_factory is MISSING else "empty"


def _imports() -> Iterator[str]:
    yield from ("## What `eef import` reads", "", "| format | what it is |", "|:--|:--|")
    yield from (f"| `{name}` | {_cell(about)} |" for name, (_, _, about) in FORMATS.items())
    yield from (
        "",
        "Files are JSON Lines, a JSON array, JSON objects of several lines, inspect logs (`.eval`, "
        "or JSON) or parquet (extra `tables`); gzip, bzip2 and xz are decompressed.",
        "",
        "It writes trajectories, one per line, to `FIRST_FILE-imported.jsonl` and, unless all were "
        "verified, the outcome of every row to `FIRST_FILE-imported.jsonl.accounts.jsonl` "
        "(with `--out NAME`, `NAME.accounts.jsonl`): its `place`, the `outcome` (`verified`, "
        "`partly verified`, `unverified` or `rejected`), the `id` and `task` of its trajectory, "
        "its `steps`, the first `verified_steps` of them that hold, the `tolerated_steps`, its "
        "`reward` and the `reason`.",
        "",
        "A row is replayed as the task that it names in `task` (an id or number of the "
        "environment), or else as the tasks whose instruction is the row's `instruction` or first "
        "observation. In a seeded environment, `episode_seed` is the seed of its episode; 0 is "
        "tried without it. The reward of a verified row is the environment's, and one that the "
        "row records must be the same. Other rows need a `reward` (or `score`) from 0 to 1; "
        "`--reward-from` takes it from another key, or from a file of `id` and `reward`.",
        "",
        "An id is `author/key`; the key is the row's own id, or its line. If several rows have the "
        "same id, because they are trajectories of one task or come from several files, all are "
        "imported, and the place of the row is added to the id of each but the first "
        "(`expert:gpt-4/6@b.jsonl:3`). The same files in the same order always get the same ids.",
        "",
        "Half of a surrogate pair becomes U+FFFD. Turns without an action after the end of a "
        "replayed episode are dropped and counted. Messages of the agent in a row are "
        "one turn; the row is rejected if two of them have an action in ReAct. A turn of several "
        "tool calls is rejected unless `--env` names an environment with tools.",
        "",
        "### How a turn is read",
        "",
        "The same parser reads the completions of experts, of students and of imported files.",
        "",
        _details(find_action),
        "",
        "**Tool calls.** " + _details(calls),
        "",
        "A tool call becomes the action `name[value]`, or `name[{json}]` if it has several "
        "arguments; arguments that are null are left out, and the text of the turn becomes the "
        "thought.",
        "",
        "**Reasoning.** `reasoning_content`, `reasoning` and content parts of type `thinking` or "
        "`reasoning` become a thought block before the text. Trajectories keep thought blocks; "
        "`chat.thoughts` decides whether conversations do. A turn without text outside thought "
        "blocks has loss weight 0.",
        "",
    )


def _details(documented: object) -> str:
    """A docstring from its second paragraph up to its examples."""
    text = (inspect.getdoc(documented) or "").partition(">>>")[0]
    return text.partition("\n\n")[2].strip()


def _exports() -> Iterator[str]:
    yield from (
        "## What `eef export` writes",
        "",
        "The README of each target. Axolotl, LLaMA-Factory and ms-swift render messages by the "
        "model's chat template: an export compares that text with the one that `eef` trains on, "
        "and its README states where they differ. The files of an export appear when all are "
        f"written. `{RECORD_FILE}` beside them lists them. Another export to the same trainer "
        "replaces or removes these files. All other files are kept, and an export that would have "
        "to overwrite one is refused.",
        "",
    )
    for name, readme in LOG_READMES.items():
        text = readme.format(what="N rollouts")
        yield from (f"### `--to {name}`", "", text.partition("\n\n")[2].strip(), "")
    for name, readme in READMES.items():
        renders = TARGETS[name].renders
        text = readme.format(
            what="N examples of a method and round",
            promise=HOSTED if renders == "own" else EXACT,
            end="<end of turn>",
            messages=MARKED,
        ).strip()
        yield from (f"### `--to {name}`", "", text, "")


if __name__ == "__main__":
    main()
