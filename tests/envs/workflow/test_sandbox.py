"""The sandbox holds hostile workflows, and whatever ends one leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eef.cli import doctor
from eef.envs.workflow import sandbox
from eef.envs.workflow.sandbox import JAIL, LONGEST_CODE, Limits, WorkflowRun, run_workflow
from eef.errors import ConfigError
from tests.fakes import ROOT
from tests.fakes.small_run import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workflows need Linux")


def echo(index, prompt):
    return f"{index}:{prompt}"


def run(body, problems=("p",), ask=echo, *, before="", **limits):
    code = f"{before}\ndef solve(problem, ask):\n" + "\n".join(
        f"    {line}" for line in body.splitlines()
    )
    return run_workflow(code, problems, ask, Limits(**limits))


@pytest.fixture(autouse=True)
def jail(monkeypatch, tmp_path):
    """A copy of the jail, so that its processes are known from those of other runs."""
    path = Path(shutil.copy(JAIL, tmp_path))
    monkeypatch.setattr(sandbox, "JAIL", path)
    return path


def sandboxes(jail):
    """The processes of a jail, by id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(jail) in words:
            found[int(path.parent.name)] = path.parent
    return found


def test_a_workflow_answers_through_the_model():
    found = run("return ask(problem) + ask('again')", ("a", "b"))
    assert found == WorkflowRun(answers=("0:a0:again", "1:b1:again"), errors=(None, None), calls=4)


def test_what_it_prints_and_reads_is_not_the_pipe():
    found = run("print('{}')\nsys.stderr.write('x')\nreturn sys.stdin.read()", before="import sys")
    assert found.answers == ("",)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("import os\nreturn os.fork()", "PermissionError"),
        ("import subprocess\nreturn subprocess.run(['/bin/sh'])", "PermissionError"),
        ("import threading\nthreading.Thread(target=print).start()", "RuntimeError"),
        ("return len(bytearray(10 << 30))", "MemoryError"),
        ("return open('/etc/passwd').read()", "FileNotFoundError"),
        ("import os\nreturn os.listdir(os.path.expanduser('~root') + '/.ssh')", "FileNotFound"),
        ("return open('/proc/self/environ').read()", "FileNotFoundError"),
        ("import abc\nreturn open(abc.__file__, 'a')", "Error"),
        ("import socket\nreturn socket.socket()", "PermissionError"),
        ("import socket\nreturn socket.socket(socket.AF_UNIX)", "PermissionError"),
        ("import socket\nreturn socket.create_connection(('127.0.0.1', 80))", "PermissionError"),
        ("import socket\nreturn socket.socketpair()", "PermissionError"),
        ("with open('x', 'wb') as f:\n    while True: f.write(bytes(1 << 20))", "OSError"),
        ("return [open(str(i), 'w') for i in range(999)]", "OSError: [Errno 24]"),
        ("import os\nos.kill(2, 9)", "ProcessLookupError"),
        ("import os\nos.kill(-1, 9)", "ProcessLookupError"),
        ("import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise OSError", "OSError"),
        ("import eef", "ModuleNotFoundError"),
        ("import numpy", "ModuleNotFoundError"),
        ("def f(): return f()\nreturn f()", "RecursionError"),
        ("raise SystemExit(3)", "SystemExit: 3 (line 3)"),
        ("return ask(3)", "TypeError: `ask` takes a string, not int (line 2)"),
        ("return 1 / 0", "ZeroDivisionError: division by zero (line 3)"),
    ],
)
def test_what_it_may_not_do_raises_an_exception_in_it(body, error):
    found = run(body)
    assert found.failure is None
    assert found.answers == (None,)
    assert error.split(" (line")[0] in found.errors[0]


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("while True: pass", "it exceeded its time limit of 1 s"),
        ("import time\ntime.sleep(100)", "it exceeded its time limit of 1 s"),
        ("import os\nos._exit(0)", "its process ended early"),
        ("import os\n[os.close(n) for n in range(9)]", "its process ended early"),
        ("import ctypes\nctypes.string_at(0)", "its process ended early"),
        ("import os\nos.write(4, bytes(1 << 20))", "it wrote a line of more than 65,536 bytes"),
        ("import os\nos.write(4, b'{}\\n')", "it wrote something other than an answer"),
        ("import os\nos.write(4, b'nonsense\\n')", "it wrote something other than JSON"),
        ("import os\nos.write(4, b'[' * 60000 + b'\\n')", "it wrote something other than JSON"),
        (
            'import os\nwhile True: os.write(4, b\'{"ask": "x"}\\n\')',
            "it called the model 110 times for one problem",
        ),
    ],
)
def test_what_ends_it(body, failure, monkeypatch, jail):
    monkeypatch.setattr(sandbox, "_WALL", 3.0 if "while True: pass" in body else 1.0)
    found = run(body, seconds=1)
    assert found.answers == ()
    assert failure in found.failure
    assert sandboxes(jail) == {}


def test_a_workflow_cannot_claim_that_the_machine_refused():
    """Nothing that it writes is trusted, not even before `solve` is defined."""
    before = 'import os\nos.write(4, b\'{"refused": "x"}\\n\')'
    found = run("return problem", before=before)
    assert found.failure == "it wrote something else into the pipe"
    before = 'import os\nos.write(4, b\'{"failed": ""}\\n\')'
    assert run("return problem", before=before).failure == "it wrote something else into the pipe"


def test_it_cannot_outlive_its_parent(monkeypatch, jail):
    monkeypatch.setattr(sandbox, "_WALL", 1.0)
    before = "import ctypes, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)"
    found = run("time.sleep(60)", before=before, seconds=1)
    assert found.failure == "it exceeded its time limit of 1 s"
    assert sandboxes(jail) == {}


def test_a_high_limit_of_calls_can_be_used():
    body = "for _ in range(140): ask(problem)\n    return 'done'"
    found = run_workflow(f"def solve(problem, ask):\n    {body}", ["p"], echo, Limits(calls=150))
    assert (found.answers, found.calls) == (("done",), 140)


def test_a_gigabyte_of_output_goes_nowhere():
    found = run("for _ in range(1024): os.write(1, bytes(1 << 20))", before="import os")
    assert found.answers == ("None",)


def test_it_sees_an_empty_directory_and_nothing_of_its_host(monkeypatch):
    monkeypatch.setenv("EEF_TEST_KEY", "secret")
    before = "import os, sys, getpass"
    found = run("return os.getcwd(), os.listdir('.'), dict(os.environ)", before=before)
    directory, files, environment = eval(found.answers[0])
    assert (directory, files) == ("/scratch", [])
    assert set(environment) <= {"PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "LC_CTYPE"}
    assert run("return os.getpid()", before=before).answers == ("1",)
    found = run("return sorted(os.listdir('/'))", before=before)
    assert {"etc", "proc", "tmp", "work", "home", "sys", "dev"}.isdisjoint(eval(found.answers[0]))


def test_calls_of_the_model_are_counted_and_bounded():
    asked = []

    def ask(index, prompt):
        asked.append((index, prompt))
        return "x"

    body = "for _ in range(5):\n    try: ask(problem)\n    except RuntimeError as e: return e"
    found = run(body, ("a", "b"), ask, calls=3)
    assert found.answers == ("more than 3 calls for one problem",) * 2
    assert asked == [(0, "a")] * 3 + [(1, "b")] * 3
    assert found.calls == 6


def test_chance_and_hashes_are_the_same_again():
    before = "import random"
    body = "return random.random(), hash('a'), list({'a', 'b', 'c', 'd'})"
    one = run(body, ("a", "b"), before=before)
    assert one == run(body, ("a", "b"), before=before)
    assert len(set(one.answers)) == 2


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("x =", "SyntaxError: invalid syntax (line 1)"),
        ("x = 3", "it does not define a function `solve(problem, ask)`"),
        ("solve = 3", "it does not define a function `solve(problem, ask)`"),
        ("import nothing", "ModuleNotFoundError: No module named 'nothing' (line 1)"),
        ("# " + "x" * LONGEST_CODE, "it has more than 20,000 characters"),
        ("\ud800", "UnicodeEncodeError"),
        ("\0", "null bytes"),
        ("(" * 1000, "(line 1)"),
    ],
)
def test_a_workflow_that_cannot_be_loaded(code, failure):
    assert failure in run_workflow(code, ["p"], echo, Limits()).failure


def test_a_machine_that_cannot_confine_refuses(monkeypatch, tmp_path):
    refusing = tmp_path / "jail.py"
    refusing.write_text('print(\'{"refused": "unshare: Operation not permitted"}\')')
    monkeypatch.setattr(sandbox, "JAIL", refusing)
    with pytest.raises(ConfigError, match="cannot confine workflows: unshare: ") as caught:
        sandbox.check_sandbox()
    assert "user namespaces" in caught.value.hint
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="cannot be confined on darwin"):
        sandbox.check_sandbox()


def test_it_ends_with_a_killed_parent(jail):
    script = (
        "from pathlib import Path\n"
        "from eef.envs.workflow import sandbox\n"
        f"sandbox.JAIL = Path({str(jail)!r})\n"
        "code = 'import time\\ndef solve(problem, ask):\\n    ask(problem); time.sleep(60)'\n"
        "def ask(*_):\n    print('asked', flush=True)\n    return 'x'\n"
        "sandbox.run_workflow(code, ['p'], ask, sandbox.Limits())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert parent.stdout.readline() == b"asked\n"
    assert sandboxes(jail)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not sandboxes(jail))


def test_an_interrupt_ends_it(jail):
    def interrupt(index, prompt):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run("import time\nask(problem)\ntime.sleep(60)", ask=interrupt)
    assert time.monotonic() - started < 10
    assert sandboxes(jail) == {}


def test_doctor_reports_whether_it_works(monkeypatch):
    assert doctor._sandbox().ok
    monkeypatch.setattr(sys, "platform", "darwin")
    check = doctor._sandbox()
    assert (check.ok, check.needed) == (False, False)
    assert "namespaces" in check.remedy
