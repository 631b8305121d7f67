"""The docs are true: the README's tree, its Python, and the commands and files that pages name."""

import ast
import doctest
import importlib
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import typer
from typer.core import TyperGroup

from docs.generate import pages
from eef.cli import make_app
from eef.config import settings_table
from eef.envs.webshop.settings import SyntheticSettings
from eef.report.run_table import COLUMNS
from tests.fakes import ROOT
from tests.fakes.small_run import small_recipe, write_recipe
from tests.fakes.worlds import needs_java
from tests.test_structure import ORDER, PERIPHERY, modules

DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [*DOCS, ROOT / "CHANGELOG.md"]
IGNORED = {
    line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split() if line.endswith("/")
}  # "/models" is ignored at the top only


def blocks(path, language):
    """The fenced blocks of a language in a file ("" for those without one)."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.S | re.M)
    return [text for name, text in fenced if name == language]


def tree():
    """The README's file tree: folder → names in it, "" for the top."""
    block = next(block for block in blocks(ROOT / "README.md", "") if block.startswith("eef/"))
    found, folder = {"": []}, ""
    for line in block.splitlines():
        indent, name, about = re.fullmatch(r"( *)(\S+)  +(\S.*)", line).groups()
        assert about, line
        if not indent:
            folder = name.rstrip("/")
        found[folder if indent else ""].append(name)
        found.setdefault(folder, [])
    return found


def named(path):
    """A file or folder as the tree writes it."""
    return f"{path.name}/" if path.is_dir() else path.name


def has_files(folder):
    return any(path.is_file() for path in folder.rglob("*") if not IGNORED & set(path.parts))


def test_the_tree_names_every_module_and_nothing_else():
    modules = [
        path
        for path in (ROOT / "eef").iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py")
        or (path.is_dir() and path.name not in IGNORED and has_files(path))
    ]
    assert sorted(tree()["eef"]) == sorted(named(path) for path in modules)


def test_the_tree_names_every_folder_and_nothing_else():
    folders = [
        path
        for path in ROOT.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and not {path.name, f"/{path.name}"} & IGNORED
        and not path.name.endswith(".egg-info")
        and has_files(path)
    ]
    assert sorted(tree()[""]) == sorted(named(path) for path in folders)


def test_the_tree_is_in_import_order():
    code = tree()["eef"]
    places = [ORDER.index(name.removesuffix(".py").rstrip("/")) for name in code]
    assert places == sorted(places)


def test_the_readme_names_the_periphery():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"The periphery is ([^.]*)\.", text)
    assert {name.rstrip("/") for name in re.findall(r"`([^`]+)`", sentence)} == PERIPHERY


@pytest.mark.parametrize("name", ["settings.md", "data-format.md", "cli.md"])
def test_generated_pages_are_up_to_date(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert text == pages()[f"docs/{name}"], f"docs/{name} is out of date: `make docs`"


@pytest.mark.parametrize("path", ["docs/results.md", "docs/results.html", "results/study.json"])
def test_the_results_are_those_of_the_trials(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text == pages()[path], f"{path} is out of date: `make docs`"


def test_the_settings_page_has_the_settings_of_the_generated_shop():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for row in settings_table(SyntheticSettings, "env.synthetic."):
        assert f"| `{row.key}` |" in text
        assert row.description


def test_the_python_in_the_readme_runs(student, tmp_path, monkeypatch, capsys):
    """On a small recipe in place of the demo's."""
    (block,) = blocks(ROOT / "README.md", "python")
    (tmp_path / "recipes").mkdir()
    recipe = small_recipe(student, train={"updates": 2})
    write_recipe(tmp_path / "recipes/demo.json", recipe)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("demo.toml", "demo.json"), "README.md", "exec"), {})
    assert "win_rate=" in capsys.readouterr().out
    assert (tmp_path / "runs/python/eef/round1/evaluation.json").is_file()
    code = [line for line in block.splitlines() if line and not line.startswith("from ")]
    assert len(code) == 3


def test_the_output_in_the_readme_has_the_columns_of_the_table():
    block = next(block for block in blocks(ROOT / "README.md", "") if block.startswith("method"))
    assert tuple(re.split(r" {2,}", block.splitlines()[0])) == COLUMNS


def test_the_picture_is_well_formed_and_described():
    root = ElementTree.parse(ROOT / "docs" / "loop.svg").getroot()
    words = " ".join(root.itertext())
    for word in ("collect", "explore", "label", "select", "train", "evaluate", "▲", "▼", "round"):
        assert word in words


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_prose_wraps_at_100_columns(path):
    """Tables, code, headings and what cannot be broken (long links and commands) are exempt."""
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced or len(line) <= 100 or re.match(r" *[|#<`]| {4}", line):
            continue
        assert max(map(len, line.split(" "))) > 60, f"{path.name}:{number} is {len(line)} wide"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_python_in_the_docs_compiles_and_its_imports_exist(path):
    for block in blocks(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)


def test_python_in_the_shops_page_runs(capsys):
    for block in blocks(ROOT / "docs" / "webshop.md", "python"):
        exec(compile(block, "docs/webshop.md", "exec"), {})
    assert "Page 1 (Total results:" in capsys.readouterr().out


@needs_java
def test_python_in_scienceworlds_page_is_a_script_that_runs(tmp_path):
    (block,) = blocks(ROOT / "docs" / "scienceworld.md", "python")
    (tmp_path / "script.py").write_text(block)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "Your task is to find a" in done.stdout


def find_command(words):
    """The command that the words after `eef` name, and its context; None if there is none."""
    command = typer.main.get_command(make_app())
    context = command.make_context("eef", [], resilient_parsing=True)
    for word in words:
        if not isinstance(command, TyperGroup):
            break
        if word not in command.list_commands(context):
            return None
        _, command, _ = command.resolve_command(context, [word])
        context = command.make_context(word, [], parent=context, resilient_parsing=True)
    return command, context


def options_of(command, context):
    return {option for each in command.get_params(context) for option in each.opts}


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_commands_in_the_docs_exist(path):
    """Commands with their options, and targets of make."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = path.read_text(encoding="utf-8")
    code = [line for block in blocks(path, "") for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    for line in [*code, *spans]:
        words = re.sub(r"\s#.*", "", line).split()
        if len(words) > 1 and words[0] == "eef" and re.fullmatch("[a-z][a-z-]+", words[1]):
            found = find_command(words[1:])
            assert found is not None, line
            used = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert used <= {*options_of(*found), "--help", "--version"}, line
        if len(words) > 1 and words[0] == "make" and re.fullmatch("[a-z-]+", words[1]):
            assert words[1] in targets, line


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_files_named_in_the_docs_exist(path):
    text = path.read_text(encoding="utf-8")
    shown = re.findall(r"`((?:docs|recipes|tests|benchmarks|eef)/[\w./-]+)`", text)
    assert [name for name in shown if not (ROOT / name).exists()] == []
    linked = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    assert [name for name in linked if not (path.parent / name).exists()] == []


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_links_to_headings_exist(path):
    text = path.read_text(encoding="utf-8")
    for name, heading in re.findall(r"\]\(([\w./-]*)#([^)]+)\)", text):
        target = (path.parent / name) if name else path
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
        assert heading in {
            re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings
        }


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_figures_script_can_be_run():
    assert importlib.import_module("benchmarks.shop_figures").KNOBS[0] == {}
