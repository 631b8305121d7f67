"""Methods with roles in whole runs: what is asked, trained, counted, refused and resumed."""

from __future__ import annotations

import json

import pytest

from eef.analysis.asked import asked_models
from eef.analysis.results import read_results
from eef.envs.toy import ToyEnv, make_toy_role, toy_player
from eef.errors import BudgetError, ConfigError, EefError, MethodError, StoreError
from eef.pipeline import roles as roles_module
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.roles import check_roles
from eef.pipeline.stages import Stage
from eef.policy import GREEDY, Completion, ScriptedPolicy
from eef.report.run_table import ROLE_COLUMNS, columns, rows
from eef.trajectory import Author
from eef.utils.progress import ignore_progress
from tests.fakes.roles import FakeModel
from tests.fakes.served import chat_answer, serving
from tests.fakes.small_run import as_recipe, eef, save_student, small_recipe

SCRIPTED = {"model": "scripted/flawless"}
BASE = {"model": "base", "max_tokens": 12}
STUDENT = Author("student", "s")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


def recipe(student, method, roles, **changes):
    defaults = {
        "methods": ["bc", method],
        "options": {},
        "budget": {"rollouts_per_task": None},
        "tasks": {"train": 4, "test": 3},
        "rollouts": {"step_limit": 12},
        "train": {"updates": 2, "save_every": None},
        "expert": {"names": ["scripted/strong"]},
    }
    settings = small_recipe(student, **{**defaults, **changes})
    settings["options"] = changes.get("options", {})
    return as_recipe({**settings, "roles": roles})


def execute(pipeline, on_progress=ignore_progress):
    for stage in pipeline.run.stages:
        pipeline.execute(stage, on_progress)
    return pipeline.run


def run_of(directory, settings):
    return execute(Pipeline.create(directory / "run", settings))


def cost(run, method, round, kind):
    return run.costs(method)[Stage(method, round, kind)]


def obedient(conversation, seed):
    """An agent that plays well if the number of its plan is even, and badly otherwise."""
    number = int(conversation[0]["content"].rpartition(" ")[2])
    return (
        toy_player(STUDENT, 0.0 if number % 2 else 1.0).act([conversation], [seed], GREEDY)[0].text
    )


@pytest.fixture
def planners(monkeypatch):
    """Planners that write a plan of their own for each seed, and an agent that obeys them."""
    make = roles_module._make_policy

    def policy(context, stage, name, settings):
        if name == "agent":
            return ScriptedPolicy(Author("agent", "obedient"), obedient)
        if name != "planner":
            return make(context, stage, name, settings)
        return FakeModel(lambda question, seed: f"Step 1: plan {seed % 50}")

    monkeypatch.setattr(roles_module, "_make_policy", policy)


def test_atlas_trains_on_what_a_judge_has_named(student, tmp_path):
    run = run_of(
        tmp_path,
        recipe(student, "atlas", {"judge": SCRIPTED}, options={"atlas": {"selector": "judge"}}),
    )
    notes = list(run.trajectories("atlas").notes)
    assert {note.role for note in notes} == {"judge"}
    assert not any(note.problem for note in notes)
    explored = run.summary(Stage("atlas", 1, "explore"))
    assert (explored["rollouts"], explored["notes"]) == (0, len(notes))
    (usage,) = cost(run, "atlas", 1, "explore").roles
    assert (usage.role, usage.completions) == ("judge", len(notes))
    assert run.selection("atlas", 1).counts["steps.critical"] > 0


def test_mpo_trains_a_planner_and_leaves_the_student_as_it_is(student, tmp_path, planners):
    options = {"mpo": {"plans": 3, "rollouts_per_plan": 2}}
    roles = {"writer": SCRIPTED, "planner": BASE, "agent": {"model": "scripted/weak"}}
    run = run_of(tmp_path, recipe(student, "mpo", roles, rounds=2, options=options))
    trajectories = run.trajectories("mpo")
    assert {note.role for note in trajectories.notes} == {"writer", "planner"}
    played = [item for item in trajectories if item.round == 2]
    assert {str(item.author) for item in played} == {"agent:obedient"}
    assert len(played) == 4 * 3 * 2
    plans = {note.text for note in trajectories.notes if note.role == "planner"}
    assert {item.prompt_suffix.rpartition("\n")[2] for item in played} == plans
    assert run.selection("mpo", 1).texts
    assert run.selection("mpo", 2).text_pairs
    for number, name in ((1, "texts"), (2, "text_pairs")):
        counted = run.summary(Stage("mpo", number, "select"))[name]
        assert counted == len(getattr(run.selection("mpo", number), name))
        assert run.summary(Stage("mpo", number, "train"))["roles"] == ["planner"]
    for round in (1, 2):
        assert (run.role_checkpoint(Stage("mpo", round, "train"), "planner")).is_dir()
        assert cost(run, "mpo", round, "train").updates == 2
        assert run.summary(Stage("mpo", round, "train"))["updates"] == 0  # of the student
        weights = [
            (run.checkpoint(Stage(method, number, "train")) / "model.safetensors").read_bytes()
            for method, number in (("bc", 0), ("mpo", round))
        ]
        assert weights[0] == weights[1]
        evaluated = run.evaluation_rollouts("mpo", round)
        assert all("plan" in item.prompt_suffix for item in evaluated)
        assert len(evaluated.notes) == len(evaluated) == 3
        roles_cost = {each.role for each in cost(run, "mpo", round, "evaluate").roles}
        assert roles_cost == {"planner"}

    assert (
        "prompt    … This plan may be helpful: / Step 1: plan"
        in eef("show", run.path, played[0].id).stdout
    )
    results = read_results(run.read())
    mpo = results["mpo"]
    assert mpo.asked.at_test == {"planner": "base", "agent": "scripted/weak"}
    assert (mpo.asked.in_training, mpo.asked.success_known) == (
        {"writer": "scripted/flawless"},
        False,
    )
    assert mpo.completions_per_turn > 1  # a turn, and its share of the plan
    assert columns(results)[-len(ROLE_COLUMNS) :] == ROLE_COLUMNS
    cells = dict(zip(columns(results), rows(results)[-1], strict=True))
    assert cells["models at test"] == "planner: base, agent: scripted/weak"
    assert (cells["success known"], cells["won within attempts"]) == ("no", "–")
    usage = {each.role: each.generated_tokens for each in mpo.cost.roles}
    assert cells["role tokens"] == f"planner {usage['planner']}, writer {usage['writer']}"
    record = results.to_record()["methods"]["mpo"]
    assert record["at_test"] == mpo.asked.at_test
    assert {usage["role"] for usage in record["roles"]} == {"planner", "writer"}


def test_an_interrupted_round_with_notes_ends_like_an_uninterrupted_one(
    student, tmp_path, planners
):
    options = {"mpo": {"plans": 2, "rollouts_per_plan": 1}}
    roles = {"writer": SCRIPTED, "planner": BASE, "agent": {"model": "scripted/weak"}}
    settings = recipe(student, "mpo", roles, rounds=2, options=options)
    whole = run_of(tmp_path / "whole", settings)

    class Interrupted(Exception):
        pass

    calls = []

    def interrupt(progress):
        if str(progress.subject) == "mpo explore (round 2)":
            calls.append(progress)
            if len(calls) in (1, 4):
                raise Interrupted

    for _ in range(2):
        with pytest.raises(Interrupted):
            execute(Pipeline.create(tmp_path / "cut" / "run", settings), interrupt)
    cut = run_of(tmp_path / "cut", settings)
    for name in ("notes.jsonl", "round2/text_pairs.jsonl"):
        files = [run.path / "mpo" / name for run in (whole, cut)]
        assert files[0].read_bytes() == files[1].read_bytes()
    first, second = (
        {item.id: item.steps for item in run.trajectories("mpo")} for run in (whole, cut)
    )
    assert first == second


def test_epo_asks_a_judge_about_what_was_played_and_trains_the_reasoner(
    student, tmp_path, monkeypatch
):
    make = roles_module._make_policy

    def policy(context, stage, name, settings):
        if name != "reasoner":
            return make(context, stage, name, settings)
        return make_toy_role(ToyEnv(), "reasoner", "weak")

    monkeypatch.setattr(roles_module, "_make_policy", policy)
    roles = {"reasoner": BASE, "judge": SCRIPTED, "agent": {"model": "scripted/strong"}}
    run = run_of(tmp_path, recipe(student, "epo", roles))
    rollouts = [item for item in run.trajectories("epo") if item.round == 1]
    assert all(step.advice for item in rollouts for step in item.steps)
    assert {note.about for note in run.trajectories("epo").notes} == {item.id for item in rollouts}
    assert run.selection("epo", 1).counts["texts.reasoner"] > 0
    assert run.role_checkpoint(Stage("epo", 1, "train"), "reasoner").is_dir()
    usage = {each.role: each for each in cost(run, "epo", 1, "explore").roles}
    steps = sum(len(item.steps) for item in rollouts)
    assert (usage["reasoner"].completions, usage["judge"].completions) == (steps, len(rollouts))
    assert {each.role for each in cost(run, "epo", 1, "evaluate").roles} == {"reasoner"}
    shown = " ".join(eef("show", run.path, rollouts[0].id).stdout.split())
    assert f"reasoner {rollouts[0].steps[0].advice[0].text}" in shown


def test_cgi_teaches_a_critic_and_then_the_student(student, tmp_path, monkeypatch):
    make = roles_module._make_policy

    def policy(context, stage, name, settings):
        if name == "critic":
            return FakeModel(lambda question, seed: "Grade: good.")
        return make(context, stage, name, settings)

    def student_of(context, trained):
        return toy_player(Author("student", f"{trained.method}@round{trained.round}"), 0.9)

    monkeypatch.setattr(roles_module, "_make_policy", policy)
    monkeypatch.setattr("eef.pipeline.context.RunContext.student", student_of)
    roles = {"teacher": SCRIPTED, "critic": BASE}
    options = {"cgi": {"candidates": 2, "k": 2}}
    settings = recipe(student, "cgi", roles, rounds=2, options=options)
    run = run_of(tmp_path, settings)
    roles_seen = {
        item.round: {advice.role for step in item.steps for advice in step.advice}
        for item in run.trajectories("cgi")
        if item.by_student
    }
    assert roles_seen == {1: {"teacher"}, 2: {"critic"}}
    assert run.selection("cgi", 1).counts["texts.critic"] > 0
    assert run.role_checkpoint(Stage("cgi", 1, "train"), "critic").is_dir()
    assert run.summary(Stage("cgi", 1, "train"))["updates"] == 0
    assert run.selection("cgi", 2).counts["examples.refined"] > 0
    assert run.summary(Stage("cgi", 2, "train"))["updates"] == 2
    explored = cost(run, "cgi", 2, "explore")
    assert explored.completions == 3 * explored.env_steps


def test_an_adviser_helps_where_the_student_continues_a_failure(student, tmp_path, monkeypatch):
    def student_of(context, trained):
        return toy_player(Author("student", f"{trained.method}@round{trained.round}"), 0.5)

    monkeypatch.setattr("eef.pipeline.context.RunContext.student", student_of)
    options = {"eef+adviser": {"candidates": 2, "M": 2, "expert_filter": "all"}}
    settings = recipe(
        student,
        "eef+adviser",
        {"critic": SCRIPTED},
        options=options,
        expert={"names": ["scripted/weak"]},
        budget={"rollouts_per_task": 4},
    )
    run = run_of(tmp_path, settings)
    rollouts = [item for item in run.trajectories("eef+adviser") if item.round == 1]
    assert len(rollouts) == 16
    helped = {bool(item.start): {bool(step.advice) for step in item.steps} for item in rollouts}
    assert helped == {False: {False}, True: {True}}
    roles = {each.role for each in cost(run, "eef+adviser", 1, "evaluate").roles}
    assert roles == set()
    assert not any(
        step.advice for item in run.evaluation_rollouts("eef+adviser", 1) for step in item.steps
    )


def explored(directory, settings):
    """The run and the cost of the first round's exploration, without what follows it."""
    pipeline = Pipeline.create(directory / "run", settings)
    for stage in pipeline.run.stages:
        pipeline.execute(stage, ignore_progress)
        if stage.kind == "explore":
            return cost(pipeline.run, stage.method, stage.round, stage.kind)
    raise AssertionError("no round is explored")


def test_a_budget_of_tokens_counts_those_of_roles(student, tmp_path):
    settings = recipe(
        student,
        "eef+adviser",
        {"reasoner": SCRIPTED},
        options={"eef+adviser": {"adviser": "reasoner", "M": 2, "expert_filter": "all"}},
        budget={"rollouts_per_task": None, "tokens": 900},
        rollouts={"step_limit": 12, "batch_size": 4},
    )
    spent = explored(tmp_path, settings)
    (usage,) = spent.roles
    assert spent.generated_tokens < 900 <= spent.generated_tokens + usage.generated_tokens


def test_notes_are_part_of_a_budget_of_tokens(student, tmp_path):
    """A plan is paid for before the rollouts; it may use up the round."""
    settings = recipe(
        student,
        "eef+planner",
        {"planner": SCRIPTED},
        options={"eef+planner": {"M": 1}},
        budget={"rollouts_per_task": None, "tokens": 5},
    )
    spent = explored(tmp_path, settings)
    (usage,) = spent.roles
    assert usage.completions == 4
    assert usage.generated_tokens > 5
    assert spent.rollouts == 0


def test_a_method_may_have_a_model_of_its_own_for_a_role(student, tmp_path):
    settings = recipe(
        student,
        "epo",
        {"reasoner": SCRIPTED, "judge": SCRIPTED},
        methods=["bc", "epo", "frozen"],
        options={"epo": {}, "frozen": {"method": "epo", "trained": False}},
        overrides={"epo": {"roles": {"reasoner": BASE}}},
    )
    pipeline = Pipeline.create(tmp_path / "run", settings)
    for stage in pipeline.run.stages:
        if stage.method != "epo":
            pipeline.execute(stage, ignore_progress)
    run, data = pipeline.run, pipeline.run.read()
    assert {name: asked_models(data, name).at_test for name in ("epo", "frozen")} == {
        "epo": {"reasoner": "base"},
        "frozen": {"reasoner": "scripted/flawless"},
    }
    assert cost(run, "frozen", 1, "explore").rollouts == 0
    advised = run.evaluation_rollouts("frozen", 1)
    assert {step.advice[0].text[:9] for item in advised for step in item.steps} == {"Aim at th"}
    check_roles(pipeline.context)
    wrong = settings.model_dump()
    wrong["overrides"]["frozen"] = {"roles": {"judge": SCRIPTED}}
    with pytest.raises(ConfigError, match=r"`overrides.frozen.roles.judge` has no effect"):
        check_roles(Pipeline.create(tmp_path / "other", as_recipe(wrong)).context)


def test_a_spent_budget_of_a_role_ends_the_run_and_the_same_command_continues(
    student, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    def judge(path, headers, body):
        return chat_answer("The first.\nCritical steps: 1", prompt=50, written=9)

    with serving(judge) as (base, seen):
        settings = recipe(
            student,
            "atlas",
            {"judge": {"model": "openai/m", "api": {"base_url": f"{base}/v1", "max_requests": 2}}},
            options={"atlas": {"selector": "judge", "share": 0.5}},
            expert={"names": ["scripted/flawless"]},
        )
        path = tmp_path / "run"
        with pytest.raises(BudgetError) as caught:
            execute(Pipeline.create(path, settings))
        assert "roles.judge.api.max_requests=4" in caught.value.hint
        assert len(seen) == 2
        raised = settings.model_dump()
        raised["roles"]["judge"]["api"]["max_requests"] = None
        run = execute(Pipeline.create(path, as_recipe(raised)))
        notes = list(run.trajectories("atlas").notes)
        assert len(seen) == len(notes) == 4  # nothing was asked twice
        assert {note.usage.prompt_tokens for note in notes} == {50}
    assert run.selection("atlas", 1).counts["steps.critical"] == 4
    texts = [file.read_text() for file in path.rglob("*.json*")]
    assert not any("sk-secret" in text for text in texts)


def test_a_spent_budget_of_a_methods_own_role_is_raised_where_it_is_set(
    student, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    def judge(path, headers, body):
        return chat_answer("Critical steps: 1", prompt=50, written=9)

    with serving(judge) as (base, seen):
        own = {"model": "openai/m", "api": {"base_url": f"{base}/v1", "max_requests": 2}}
        settings = recipe(
            student,
            "atlas",
            {"judge": SCRIPTED},
            options={"atlas": {"selector": "judge", "share": 0.5}},
            overrides={"atlas": {"roles": {"judge": own}}},
            expert={"names": ["scripted/flawless"]},
        )
        path = tmp_path / "run"
        with pytest.raises(BudgetError) as caught:
            execute(Pipeline.create(path, settings))
        assert "overrides.atlas.roles.judge.api.max_requests=4" in caught.value.hint
        raised = settings.model_dump()
        raised["overrides"]["atlas"]["roles"]["judge"]["api"]["max_requests"] = 4
        run = execute(Pipeline.create(path, as_recipe(raised)))
        assert len(seen) == len(run.trajectories("atlas").notes) == 4
        other = settings.model_dump()
        other["overrides"]["atlas"]["roles"]["judge"]["model"] = "openai/n"
        with pytest.raises(StoreError, match="overrides"):
            Pipeline.create(path, as_recipe(other))


def test_a_role_whose_texts_are_all_too_long_is_not_reset_to_its_base(
    student, tmp_path, monkeypatch, planners
):
    monkeypatch.setattr(
        "eef.pipeline.execution.train_roles.render_texts",
        lambda texts, *source: ([], [each.id for each in texts]),
    )
    roles = {"writer": SCRIPTED, "planner": BASE, "agent": {"model": "scripted/weak"}}
    with pytest.raises(MethodError, match="texts of the role `planner` are longer than"):
        run_of(tmp_path, recipe(student, "mpo", roles))
    assert not list((tmp_path / "run").rglob("checkpoint-planner"))


def test_checkpoints_of_roles_are_thinned_like_those_of_the_student(student, tmp_path, planners):
    run = run_of(
        tmp_path,
        recipe(
            student,
            "mpo",
            {"writer": SCRIPTED, "planner": BASE, "agent": {"model": "scripted/weak"}},
            rounds=3,
            options={"mpo": {"plans": 2, "rollouts_per_plan": 2}},
            evaluate={"every": 3},
            train={"updates": 2, "save_every": None, "keep_checkpoints": "evaluated"},
        ),
    )
    weights = [
        (run.role_checkpoint(Stage("mpo", round, "train"), "planner") / "model.safetensors")
        for round in (1, 2, 3)
    ]
    assert [each.is_file() for each in weights] == [False, False, True]


def test_methods_share_the_answers_of_a_server_by_role_model_sampling_and_question(
    student, tmp_path, monkeypatch
):
    """`rest` trains the complement of what the judge named, though the server never answers twice
    alike; another model or temperature of the role is another request."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    asked = []

    def judge(path, headers, body):
        asked.append(json.loads(body))
        return chat_answer(f"Critical steps: {1 + len(asked) % 3}", prompt=50, written=9)

    with serving(judge) as (base, _):
        role = {"model": "openai/m", "api": {"base_url": f"{base}/v1"}}
        options = {"selector": "judge", "share": 0.5}
        settings = recipe(
            student,
            "atlas",
            {"judge": role},
            methods=["bc", "atlas", "rest", "warmer", "other"],
            options={
                "atlas": options,
                "rest": {**options, "method": "atlas", "selector": "rest"},
                "warmer": {**options, "method": "atlas"},
                "other": {**options, "method": "atlas"},
            },
            overrides={
                "warmer": {"roles": {"judge": {**role, "temperature": 1.0}}},
                "other": {"roles": {"judge": {**role, "model": "openai/n"}}},
            },
            expert={"names": ["scripted/flawless"]},
        )
        pipeline = Pipeline.create(tmp_path / "run", settings)
        for stage in pipeline.run.stages:
            if stage.method in ("expert", "bc") or stage.kind in ("explore", "select"):
                pipeline.execute(stage, ignore_progress)
    run = pipeline.run
    texts = {
        name: {note.about: note.text for note in run.trajectories(name).notes}
        for name in ("atlas", "rest", "warmer", "other")
    }
    assert len(texts["atlas"]) == 4
    assert texts["rest"] == texts["atlas"]
    requests = [(each["model"], each["temperature"]) for each in asked]
    assert not any("stop" in each for each in asked)  # a judge may quote "Observation:"
    assert sorted(requests) == [("m", 0.7)] * 4 + [("m", 1.0)] * 4 + [("n", 0.7)] * 4
    trained = {
        name: {each.trajectory: each.weights for each in run.selection(name, 1).examples}
        for name in ("atlas", "rest")
    }
    for name, weights in trained["atlas"].items():
        pairs = zip(weights, trained["rest"][name], strict=True)
        assert {one + other for one, other in pairs} == {1.0}
    # each method states what its notes cost, though the answers were paid for once
    costs = [cost(run, name, 1, "explore").roles[0].completions for name in ("atlas", "rest")]
    assert costs == [4, 4]


def test_unusable_advice_of_a_base_model_is_skipped_and_counted(student, tmp_path):
    roles = {"reasoner": {"model": "base", "max_tokens": 2}, "judge": SCRIPTED}
    run = run_of(tmp_path, recipe(student, "epo", roles))
    usage = {each.role: each for each in cost(run, "epo", 1, "explore").roles}["reasoner"]
    assert usage.skipped > 0
    assert usage.completions >= 2 * usage.skipped


@pytest.mark.parametrize(
    ("method", "roles", "message"),
    [
        ("mpo", {"writer": SCRIPTED}, "method 'mpo' needs a model for the role 'planner'"),
        ("mpo", {"writer": SCRIPTED, "planner": SCRIPTED}, "but method 'mpo' trains it"),
        ("rft2", {"judge": SCRIPTED}, "`roles.judge` has no effect"),
        ("epo", {"judge": {"model": "scripted/x"}, "reasoner": BASE}, "unknown preset 'x'"),
        (
            "mpo",
            {
                "writer": SCRIPTED,
                "planner": BASE,
                "agent": {"model": "scripted/weak", "temperature": 0.2},
            },
            "`roles.agent.temperature` has no effect",
        ),
        (
            "mpo",
            {
                "writer": {"model": "openai/gpt", "api": {"base_url": "http://x.org/v1"}},
                "planner": BASE,
            },
            "no key for the server",
        ),
    ],
)
def test_a_run_with_unusable_roles_is_refused_at_once(
    student, tmp_path, monkeypatch, method, roles, message
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    pipeline = Pipeline.create(tmp_path / "run", recipe(student, method, roles))
    with pytest.raises(EefError, match=message):
        pipeline.check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`roles.judge.model` is missing"),
        ({"model": "gpt-4"}, "expected `base`, `hf/…`"),
        ({"model": "base", "api": {}}, "`api` has no effect"),
        ({"model": "base", "temperature": 0.0, "top_p": 0.5}, "`top_p` has no effect"),
    ],
)
def test_the_settings_of_a_role_are_checked(student, settings, message):
    with pytest.raises(ConfigError, match=message):
        recipe(student, "atlas", {"judge": settings})


def test_agents_that_call_tools_do_not_act_with_roles(student, tmp_path):
    env = {"name": "webshop", "data": "synthetic", "synthetic": {"products": 100}}
    settings = recipe(
        student, "epo", {"reasoner": BASE, "judge": SCRIPTED}, env=env, chat={"format": "tools"}
    )
    with pytest.raises(ConfigError, match="method 'epo' acts with roles"):
        check_roles(Pipeline.create(tmp_path / "run", settings).context)


def test_a_completion_states_what_was_consulted():
    assert Completion(text="").consulted is None
