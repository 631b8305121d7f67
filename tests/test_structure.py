"""The shape of the package: import order, the public API, and where torch is loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import eef

PACKAGE = Path(eef.__file__).parent

# Data flows down this list and imports point up it. A folder is all of its modules.
ORDER = (
    "errors",
    "utils",
    "config",
    "plugins",
    "task",
    "note",
    "trajectory",
    "selection",
    "thoughts",
    "tools",
    "react",
    "policy",
    "chat_message",
    "chat",
    "call_forms",
    "chat_template",
    "env",
    "replay",
    "env_check",
    "roles",
    "renderer",
    "rendering",
    "methods",
    "envs",
    "models",
    "policies",
    "rollouts",
    "training",
    "importers",
    "exporters",
    "students",
    "pipeline",
    "analysis",
    "report",
    "viewer",
    "cli",
    "__main__",
)
PERIPHERY = {"importers", "exporters", "students", "analysis", "report", "viewer", "cli"}
TORCH = (
    "eef.models.loading",
    "eef.models.checkpoint",
    "eef.models.generation",
    "eef.models.hub",
    "eef.policies.local",
    "eef.policies.decoding",
    "eef.policies.shared_prefixes",
    "eef.policies.cached_engine",
    "eef.policies.generate_engine",
    "eef.policies.attention",
    "eef.policies.kv_cache",
    "eef.policies.probe",
    "eef.training.batching",
    "eef.training.ranks",
    "eef.training.state",
    "eef.training.trainer",
    "eef.training.sft",
    "eef.training.dpo",
    "eef.training.policy_gradient",
    "eef.training.round",
    "eef.students.builder",
    "eef.students.curriculum",
    "eef.students.tokenizer",
    "eef.students.webshop",
    "eef.students.scienceworld",
)


def modules() -> dict[str, Path]:
    """Every module by name, except `eef` itself, which imports lazily."""
    named = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        named[".".join(("eef", *(part for part in parts if part != "__init__")))] = path
    del named["eef"]
    return named


def imports_of(path: Path) -> set[str]:
    """The modules of `eef` that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are written in full"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return {name for name in found if name.startswith("eef.")}


def place(name: str) -> int:
    """The position in `ORDER` of a module, or of a name in it."""
    return ORDER.index(name.split(".")[1])


@pytest.mark.parametrize("name", modules())
def test_imports_follow_the_order(name):
    imported = {other for other in imports_of(modules()[name]) if other.split(".")[1] in ORDER}
    assert [other for other in imported if place(other) > place(name)] == []


def test_the_core_imports_no_periphery():
    """Except that a run reads expert data by the importers and renders by the exporters."""
    found = {
        (name.split(".")[1], other.split(".")[1])
        for name, path in modules().items()
        for other in imports_of(path)
        if name.split(".")[1] not in PERIPHERY and other.split(".")[1] in PERIPHERY
    }
    assert found <= {("pipeline", "importers"), ("pipeline", "exporters"), ("__main__", "cli")}


def test_every_module_is_in_the_order():
    assert {name.split(".")[1] for name in modules()} <= set(ORDER)
    assert len(set(ORDER)) == len(ORDER)


def test_torch_is_loaded_only_where_it_is_needed():
    light = [name for name in modules() if name not in TORCH]
    heavy = ("torch", "transformers", "peft", "accelerate")
    script = (
        f"import sys, {', '.join(light)}; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_help_loads_no_torch():
    script = (
        "import sys; sys.argv = ['eef', '--help']; from eef.cli import main\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "Usage: eef" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_public_api_is_complete_and_every_name_resolves():
    assert sorted(eef.__all__) == [
        "EefError",
        "Env",
        "Method",
        "Pipeline",
        "Policy",
        "Recipe",
        "RunDirectory",
        "StateRef",
        "Task",
        "Trajectory",
        "TrajectorySet",
        "check_env",
        "load_recipe",
        "make_env",
        "make_expert",
        "read_results",
    ]
    assert [name for name in eef.__all__ if not hasattr(eef, name)] == []
    assert set(eef.__all__) <= set(dir(eef))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        eef.no_such_name  # noqa: B018


def test_importing_the_package_loads_nothing_else():
    """`import eef` takes milliseconds: it loads none of its modules and no third-party package."""
    script = (
        "import sys; before = set(sys.modules); import eef; new = set(sys.modules) - before; "
        "packages = {name.split('.')[0] for name in new} - {*sys.stdlib_module_names, 'eef'}; "
        "print(sorted(packages), [name for name in new if name.startswith('eef.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[] []", "")


def test_every_module_has_a_docstring():
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        assert not text or ast.get_docstring(ast.parse(text)), name
