"""The docs say what is there: the README's tree, the settings, the Python in them, the commands and files they name."""

import ast
import doctest
import importlib
import os
import re
import subprocess
import sys

import pytest

from docs.generate import settings_page
from eef.cli.app import ENV, MODEL, PANELS
from eef.config import settings_table
from eef.envs.webshop.synthetic import SyntheticSettings
from tests.fakes import ROOT
from tests.fakes.worlds import needs_java
from tests.test_structure import ORDER, modules

DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IGNORED = {
    line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if line.endswith("/")
}


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
        and path.name not in IGNORED
        and not path.name.endswith(".egg-info")
        and has_files(path)
    ]
    assert sorted(tree()[""]) == sorted(named(path) for path in folders)


def test_the_tree_follows_the_data():
    """Its modules stand in the order in which imports run up."""
    code = tree()["eef"]
    places = [ORDER.index(name.removesuffix(".py").rstrip("/")) for name in code]
    assert places == sorted(places)


def test_the_settings_are_those_of_the_code():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert text == settings_page(), "docs/settings.md is out of date: `make docs`"
    for row in settings_table(SyntheticSettings, "env.synthetic."):
        assert f"| `{row.key}` |" in text
        assert row.description


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_python_in_the_docs_compiles_and_imports_what_is_there(path):
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


def commands():
    """The program's commands (a group's as `model build`), and make's targets."""
    names = {name for panel in PANELS.values() for name in panel}
    names |= {f"model {name}" for name in MODEL} | {f"env {name}" for name in ENV}
    return names, set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_in_the_docs_are_there(path):
    known, targets = commands()
    text = path.read_text(encoding="utf-8")
    lines = [
        *(line for block in blocks(path, "") for line in block.splitlines()),
        *re.findall(r"`([^`\n]+)`", text),
    ]
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "eef" and re.fullmatch("[a-z][a-z-]+", words[1]):
            name = " ".join(words[1:3]) if words[1] in ("model", "env") else words[1]
            assert name in known, line
        if len(words) > 1 and words[0] == "make" and re.fullmatch("[a-z-]+", words[1]):
            assert words[1] in targets, line


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_files_named_in_the_docs_are_there(path):
    text = path.read_text(encoding="utf-8")
    shown = re.findall(r"`((?:docs|recipes|tests|benchmarks|eef)/[\w./-]+)`", text)
    assert [name for name in shown if not (ROOT / name).exists()] == []
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert [name for name in linked if not (path.parent / name).exists()] == []


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_figures_script_can_be_run():
    assert importlib.import_module("benchmarks.shop_figures").KNOBS[0] == {}
