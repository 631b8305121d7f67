"""Random recipes, rows, answers, actions and files: an EefError at most, and no row disappears."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eef.env import StepResult
from eef.envs.registry import make_env
from eef.envs.toy import make_toy_expert
from eef.errors import EefError
from eef.importers.formats import FORMATS
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import load_recipe
from eef.policies.openai import ApiPolicy
from eef.policies.response_cache import CACHE_FILE
from eef.policies.settings import ApiSettings
from eef.policy import Completion, Sampling
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Author, TrajectorySet
from tests.fakes.faults import sizes
from tests.fakes.mutations import damaged, mutated, odd_numbers, texts, values
from tests.fakes.scripted_run import finish, start_run
from tests.fakes.served import chat_answer, serving
from tests.fakes.small_run import as_recipe, eef, small_recipe
from tests.importers.test_importers import rows_of

BATCH = 8  # inputs per example, where setting up an example costs more than an input
TALK = [{"role": "system", "content": "rules"}, {"role": "user", "content": "see"}]


def tried(count, strategy):
    """Decorate a function with one argument to be called with `count` values of a strategy."""
    checks = tuple(HealthCheck)
    return lambda check: settings(max_examples=count, suppress_health_check=checks)(
        given(strategy)(check)
    )()


def assert_one_error(result):
    """A command was refused in one line, perhaps with a hint."""
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert "Traceback" not in result.stderr


# recipes


def error_of(path, overrides, directory):
    """The error of reading a recipe and checking a run of it."""
    try:
        recipe = load_recipe(path, overrides)
        if recipe.env.name == "toy" and recipe.env.options.get("tasks_per_split", 1) < 10**9:
            shutil.rmtree(directory, ignore_errors=True)
            Pipeline.create(directory, recipe).check()
    except EefError as error:
        return error
    return None


@sizes(40, 2500, "recipes")
def test_any_recipe_is_refused_with_an_error_or_can_be_started(recipes, student, tmp_path):
    whole = json.loads(as_recipe(small_recipe(student)).to_json())
    contents = st.one_of(
        mutated(whole, values | odd_numbers).map(json.dumps),
        mutated(whole, values | odd_numbers).map(json.dumps),
        texts,
        st.just(json.dumps(whole)).map(str.encode).flatmap(damaged),
    )
    overrides = st.lists(
        texts | texts.map("rounds={}".format) | texts.map("{}=1".format), max_size=2
    )

    @tried(recipes, st.tuples(contents, st.sampled_from(["json", "yaml", "toml"]), overrides))
    def check(given):
        content, suffix, changes = given
        path = tmp_path / f"recipe.{suffix}"
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        path.write_bytes(data)
        if error := error_of(path, changes, tmp_path / "run"):
            assert error.message


# rows


@pytest.fixture(scope="module")
def rows():
    """One valid row of each format."""
    env = make_env("toy", {})
    task = env.tasks("train").head(1)[0]
    (item,) = play(
        [RolloutSpec("expert:weak/1", task, None, 0, 0)],
        env=env,
        policy=make_toy_expert(env, "weak"),
        trajectories=TrajectorySet(),
        parameters=RolloutParameters(sampling=Sampling(), step_limit=10, batch_size=1),
    )
    return [rows_of(item, format) for format in FORMATS]


@sizes(60, 2500, "files")
def test_every_row_is_imported_or_rejected_by_name(files, rows, tmp_path):
    row = st.sampled_from(rows).flatmap(lambda row: mutated(row, values | odd_numbers))
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    accounts_file = tmp_path / "out.jsonl.accounts.jsonl"

    rows_or_not = st.tuples(
        (row | values).filter(lambda value: not isinstance(value, list)),  # `[` begins an array
        st.lists(row | values, max_size=2),
    ).map(lambda given: [given[0], *given[1]])

    @tried(files, st.tuples(rows_or_not, st.booleans()))
    def check(given):
        items, verify = given
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        out.unlink(missing_ok=True)
        result = eef("import", path, "--out", out, *(("--env", "toy") if verify else ()))
        imported = out.read_text().splitlines() if out.exists() else []
        accounts = accounts_file.read_text().splitlines() if accounts_file.exists() else []
        rejected = [line for line in accounts if json.loads(line)["outcome"] == "rejected"]
        assert len(imported) + len(rejected) == len(items), result.stderr
        assert result.exit_code == (2 if not imported else 1 if rejected else 0)
        assert all(json.loads(line)["reason"] for line in rejected)
        ids = [json.loads(line)["id"] for line in imported]
        assert len(set(ids)) == len(ids)


@sizes(20, 500, "arrays")
def test_every_item_of_an_array_is_imported_or_rejected_by_name(arrays, rows, tmp_path):
    row = st.sampled_from(rows).flatmap(mutated)
    path, out = tmp_path / "rows.json", tmp_path / "out.jsonl"

    @tried(arrays, st.tuples(st.lists(row | values, min_size=1, max_size=3), st.booleans()))
    def check(given):
        items, indented = given
        path.write_text(json.dumps(items, indent=1 if indented else None))
        result = eef("import", path, "--out", out)
        counts = next(
            line for line in result.stderr.splitlines() if line.startswith("imported ")
        ).split()
        assert int(counts[3]) == len(items), result.stderr
        assert result.exit_code in (0, 1, 2)


# answers of a server


@sizes(8, 250, "batches")
def test_any_answer_of_a_server_is_a_completion_or_an_error(batches, monkeypatch, tmp_path):
    """250 batches hold 2,000 answers."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    whole = json.loads(chat_answer("Thought: so.\nAction: left")[2])
    whole["choices"][0]["message"]["tool_calls"] = [
        {"id": "1", "type": "function", "function": {"name": "left", "arguments": "{}"}}
    ]
    whole["choices"][0]["message"]["reasoning_content"] = "so"
    failure = {"error": {"message": "maximum context length", "type": "x", "code": 400}}
    body = st.one_of(
        mutated(whole, values | odd_numbers).map(json.dumps).map(str.encode),
        mutated(failure).map(json.dumps).map(str.encode),
        st.just(json.dumps(whole).encode()).flatmap(damaged),
        st.binary(max_size=30),
    )
    status = st.sampled_from([200] * 12 + [201, 204, 400, 413, 422, 429, 500, 503])
    waits = st.sampled_from(["", "0", "-1", "soon", "nan", "Thu, 01 Jan 1970 00:00:00 GMT", "1e-9"])
    headers = st.fixed_dictionaries({}, optional={"Retry-After": waits})
    answers = st.lists(st.tuples(status, headers, body), min_size=BATCH, max_size=BATCH)
    queue: list[tuple[int, dict[str, str], bytes]] = []
    with serving(lambda path, headers, body: queue.pop() if queue else chat_answer("x")) as served:
        base = served[0]

        @tried(batches, answers)
        def check(batch):
            (tmp_path / CACHE_FILE).unlink(missing_ok=True)
            queue[:] = batch
            policy = ApiPolicy(
                "m",
                ApiSettings(base_url=f"{base}/v1", backoff=0.0, retries=1, timeout=5),
                author=Author("expert", "m"),
                cache=tmp_path / CACHE_FILE,
            )
            with suppress(EefError):
                given = policy.act([TALK] * BATCH, range(BATCH), Sampling(max_tokens=9))
                assert all(isinstance(item, Completion) for item in given)
                assert all(item.prompt_tokens >= 0 for item in given)
            ApiPolicy("m", ApiSettings(), author=Author("expert", "m"), cache=tmp_path / CACHE_FILE)


# actions


@pytest.fixture(scope="module")
def envs():
    shop = {"synthetic": {"products": 100}, "tagger": "words"}
    return [make_env("toy", {}), make_env("webshop", shop)]


@sizes(5, 100, "episodes")
def test_any_action_gets_a_result(episodes, envs):
    """100 episodes in each of two environments hold 2,000 actions."""
    parts = st.sampled_from(
        ["search[", "click[", "]", "buy now", "back to search", "next >", "take red", "open"]
    )
    action = st.lists(parts | texts, max_size=4).map("".join)

    @tried(episodes, st.lists(action, min_size=10, max_size=10))
    def check(actions):
        for env in envs:
            env.reset(env.tasks("train").head(1)[0])
            for each in actions:
                result = env.step(each)
                assert isinstance(result, StepResult)
                assert isinstance(result.observation, str)
                assert 0 <= result.reward <= 1


# files of a run


@sizes(15, 500, "directories")
def test_a_damaged_run_is_shown_or_refused_with_an_error(directories, tmp_path):
    small = {"rounds": 1, "methods": ["bc", "eef"], "tasks": {"train": 4, "test": 3}}
    directory = finish(start_run(tmp_path / "run", **small)).run.path
    assert eef("report", directory).exit_code == 0
    files = [path for path in sorted(directory.rglob("*")) if path.suffix in (".json", ".jsonl")]

    def damage(path):
        text = path.read_text()
        if path.suffix == ".json":
            return mutated(json.loads(text)).map(lambda value: json.dumps(value).encode())
        records = [json.loads(line) for line in text.splitlines()]
        return mutated(records).map(as_lines)

    def as_lines(value):
        records = value if isinstance(value, list) else [value]
        return "".join(json.dumps(record) + "\n" for record in records).encode()

    changes = st.sampled_from(files).flatmap(
        lambda path: st.tuples(st.just(path), damage(path) | damaged(path.read_bytes()))
    )

    @tried(directories, changes)
    def check(change):
        path, content = change
        whole = path.read_bytes()
        path.write_bytes(content)
        try:
            for command in (("show", directory), ("report", directory, "--out", tmp_path / "out")):
                result = eef(*command)
                if result.exit_code:
                    assert_one_error(result)
        finally:
            path.write_bytes(whole)
