"""Optional dependencies: their errors, and that every import is declared in pyproject.toml."""

from __future__ import annotations

import ast
import re
import sys
import tomllib

import pytest

from eef.errors import ConfigError
from eef.utils import extras
from eef.utils.extras import EXTRAS, install_command, missing_package, require_package
from tests.fakes import ROOT

DISTRIBUTIONS = {"yaml": "pyyaml", "pydantic_core": "pydantic"}
"""Package → the distribution that contains it, or installs it in an exact version."""


def distribution(package: str) -> str:
    return DISTRIBUTIONS.get(package, package).lower().replace("_", "-")


def declared() -> dict[str, set[str]]:
    """Distributions by extra; those that are always installed under ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {distribution(re.split(r"[^\w-]", each)[0]) for each in requirements}
        for extra, requirements in groups.items()
    }


def imported() -> set[str]:
    """Third-party packages that modules of `eef` import anywhere, inside functions too.

    Except the script that an export copies for the user's own environment.
    """
    found = set()
    for path in (ROOT / "eef").rglob("*.py"):
        if path.name == "trl_grpo.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - {*sys.stdlib_module_names, "eef"}


ELSEWHERE = {
    *("inspect-ai", "verifiers"),  # run in another environment (`env.python`)
    *("mlflow", "pandas", "trackio"),  # trackers that a user has installed, and a tracker's tables
    "textworld",  # comes with ALFWorld
}


def test_every_import_is_declared_and_every_declaration_imported():
    groups = declared()
    run_time = set().union(*(names for extra, names in groups.items() if extra != "dev"))
    # the simulators are JAR files in packages of the same name; torch imports TensorBoard
    used = {distribution(each) for each in imported()} | {"tensorboard"}
    used |= groups["scienceworld"] | groups["textworld"]
    assert used - run_time == ELSEWHERE
    assert run_time - used == set()


@pytest.mark.parametrize("package", EXTRAS)
def test_every_optional_package_is_in_its_extra(package):
    assert distribution(package) in declared()[EXTRAS[package]]


def test_versions_are_pinned_in_the_constraints_alone():
    constraints = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==[\d.]+$", constraints, re.M)
    pins = {line.split("==")[0].lower().replace("_", "-") for line in constraints.splitlines()}
    for extra, names in declared().items():
        assert names - pins <= {"eef"}, extra
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    exact = {each for group in groups for each in group if "==" in each}
    assert {each.split("==")[0] for each in exact} == {"scienceworld", "textworld-express"}


def test_a_missing_package_is_an_error_with_the_command_that_installs_it(monkeypatch):
    require_package("torch", "training a student")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        require_package("torch", "training a student")
    assert caught.value.message == "training a student needs the package `torch`"
    assert caught.value.hint == "install it: `pip install 'eef[train]'`"


def test_the_message_names_the_distribution():
    error = missing_package("textworld_express", "the environment `textworld-express`")
    assert "needs the package `textworld-express`" in error.message
    assert install_command("textworld_express") == "pip install 'eef[textworld]'"
