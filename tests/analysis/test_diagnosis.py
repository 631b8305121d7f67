"""Diagnosis: each cause is named for the rollouts that show it; a healthy run has no finding."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from tokenizers import Tokenizer

from eef.analysis.diagnosis import diagnose
from eef.analysis.losses import (
    explain_losses,
    share_cut,
    share_of_split_words,
    share_without_action,
)
from eef.analysis.results import read_results
from eef.envs.registry import make_env
from eef.models.location import BASE_STUDENT
from eef.note import RoleUsage
from eef.pipeline.stages import COLLECT, Stage
from eef.report.run_page import draw_page
from eef.report.status import stage_status
from eef.rollouts.store import Store
from eef.trajectory import Step
from eef.utils.jsonl import write_json
from tests.fakes.grids import expert, rollout
from tests.fakes.html import read_html
from tests.fakes.scripted_run import finish, start_run, write_result

CLEAN = {"errors": 0, "overflows": 0}
BC_TEST = Stage("bc", 0, "evaluate")


def turns(*actions: str, observation: str = "a room") -> tuple[Step, ...]:
    return tuple(
        Step(observation=observation, completion=f"Action: {action}", action=action)
        for action in actions
    )


def cut_turns(number: int) -> tuple[Step, ...]:
    return tuple(replace(step, cut=True) for step in turns(*[""] * number))


def lost(number: int, **changes):
    """A lost evaluation rollout; without `changes`, lengths and rewards differ."""
    item = rollout(f"r{number}", None, "lose", actions="abcdefg"[: 2 + number % 4])
    return replace(item, reward=0.1 * (number % 3), task=f"toy/{number}", **changes)


def evaluated(directory, rollouts, **changes):
    """A run whose behavior cloning has played these test rollouts."""
    run = start_run(directory, **changes).run
    with Store.open(run.store("expert")) as store:
        store.append(expert("won", task="toy/50", win=True))
        store.append(expert("lost", task="toy/51"))
    run.folder(COLLECT).mkdir()
    write_json(run.folder(COLLECT) / "explored.json", {"rollouts": 2, "wins": 1, **CLEAN})
    write_result(run, "bc", 0, won={0} if any(item.success for item in rollouts) else set())
    with Store.open(run.evaluation_store(BC_TEST)) as store:
        for item in rollouts:
            store.append(item)
    return run.read()


def only_finding(run):
    [finding] = diagnose(run)
    return finding


def test_a_healthy_run_has_no_finding(tmp_path):
    run = finish(start_run(tmp_path / "run", budget={"rollouts_per_task": 2})).run.read()
    assert diagnose(run) == ()
    assert explain_losses(run, BC_TEST) == ""
    assert "What to look at first" not in draw_page(run, read_results(run))
    assert diagnose(start_run(tmp_path / "new").run.read()) == ()


@pytest.mark.parametrize(
    ("changes", "reason", "advice"),
    [
        ({"steps": turns("", "", "left")}, "67 % of the turns hold no action", "train longer"),
        (
            {"steps": (*turns("left"), *cut_turns(1))},
            "100 % of the lost rollouts have a turn that was cut at `sampling.max_tokens` (256)",
            "raise `sampling.max_tokens`",
        ),
        (
            {"status": "truncated", "error": "context overflow", "error_kind": "context_overflow"},
            "9 of 9 ended at the end of the model's context",
            "`chat.max_length`",
        ),
        (
            {"status": "truncated", "steps": turns("a", "b", "c")},
            "all 9 ran into the step limit (3 steps)",
            "`rollouts.step_limit` above 3",
        ),
        ({"steps": turns("a", "a", "a", "b")}, "67 % of the actions repeat", "temperature"),
        (
            {"steps": turns("buy"), "reward": 0.0},
            "the environment ended every rollout after 1 step with reward 0.00",
            "eef env check",
        ),
        (
            {"status": "error", "reward": None, "error": "environment: no", "steps": ()},
            "every rollout failed, the first with: environment: no",
            "fix the cause",
        ),
        ({}, "the environment ended 9, the step limit 0; the best reward is 0.20", "eef show"),
    ],
)
def test_the_cause_of_lost_rollouts_is_named(changes, reason, advice, tmp_path):
    run = evaluated(tmp_path, [replace(lost(number), **changes) for number in range(9)])
    finding = only_finding(run)
    assert finding.subject == "bc"
    assert finding.reason.startswith("won none of 9 test rollouts: ")
    assert reason in finding.reason
    assert advice in finding.advice
    assert explain_losses(run, BC_TEST) in finding.reason
    text = read_html(draw_page(run, read_results(run))).text
    assert reason in text
    assert advice in text


def test_a_student_made_for_another_environment_is_named(tmp_path):
    student = tmp_path / "student"
    student.mkdir()
    (student / "manifest.json").write_text(json.dumps({"training_tasks": ["webshop/1"]}))
    run = evaluated(tmp_path / "run", [lost(1), lost(2)], model={"name": str(student)})
    assert "was made for webshop" in only_finding(run).reason
    assert "`model.name`" in only_finding(run).advice
    shipped = evaluated(tmp_path / "b", [lost(1), lost(2)], model={"name": "base-scienceworld"})
    assert "was made for scienceworld" in only_finding(shipped).reason


def test_words_that_a_student_has_no_token_for_are_counted(tmp_path):
    tokenizer = Tokenizer.from_file(str(BASE_STUDENT / "tokenizer.json"))
    shares = {}
    for name in ("webshop", "toy"):
        env = make_env(name, {})
        texts = [env.reset(task) for task in env.tasks("train").head(5)]
        shares[name] = share_of_split_words(tokenizer, texts)
    assert shares["webshop"] < 0.3
    assert shares["toy"] > 0.5
    assert share_of_split_words(tokenizer, []) == 0
    observation = "The customer reports a defective dishwasher, escalations pending."
    steps = turns("left", "right", observation=observation)
    run = evaluated(tmp_path, [replace(lost(number), steps=steps) for number in range(3)])
    checkpoint = run.folder(Stage("bc", 0, "train")) / "checkpoint"
    checkpoint.mkdir()
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    assert "% of the words it sees are not in it" in only_finding(run).reason


def test_an_expert_without_wins_leaves_nothing_to_clone(tmp_path):
    expert_settings = {
        "names": ["openai/m"],
        "api": {"base_url": "http://127.0.0.1:1/v1"},
        "sampling": {"max_tokens": 64},
    }
    run = start_run(tmp_path, expert=expert_settings).run
    with Store.open(run.store("expert")) as store:
        for number in range(4):
            item = expert(f"e{number}", task=f"toy/{number}", status="truncated")
            store.append(replace(item, steps=cut_turns(12)))
    run.folder(COLLECT).mkdir()
    write_json(run.folder(COLLECT) / "explored.json", {"rollouts": 4, "wins": 0, **CLEAN})
    finding = only_finding(run.read())
    assert finding.subject == "expert"
    assert finding.reason.startswith(
        "won none of 4 trajectories, so there is nothing to clone: 100 % of the lost rollouts have "
        "a turn that was cut at `expert.sampling.max_tokens` (64)"
    )
    assert finding.advice.startswith(
        "raise `expert.sampling.max_tokens` above 64, then state the form"
    )


def test_turns_and_rollouts_are_counted():
    rollouts = [lost(1), replace(lost(2), steps=turns("", "a", ""))]
    assert share_without_action(rollouts) == 2 / 6
    called = replace(lost(1), steps=turns("close[]", "format_error[no tool call found]"))
    assert share_without_action([called]) == 1 / 2
    assert share_without_action([]) == 0
    assert share_cut([]) == share_cut(rollouts) == 0
    assert share_cut([*rollouts, replace(lost(3), steps=cut_turns(1))]) == 1 / 3


@pytest.mark.parametrize(
    ("lost_rollouts", "cut_lost", "cut_won", "named"),
    [(9, 5, 1, True), (9, 4, 0, False), (9, 5, 2, False), (5, 5, 0, False), (6, 6, 0, True)],
)
def test_cut_turns_are_named_even_if_rollouts_were_won(
    lost_rollouts, cut_lost, cut_won, named, tmp_path
):
    """More than five are lost, most of them have one, and won ones half as often at most."""
    steps = {True: (*cut_turns(1), *turns("left")), False: turns("right", "left")}
    losses = [replace(lost(each), steps=steps[each < cut_lost]) for each in range(lost_rollouts)]
    wins = [
        replace(
            rollout(f"w{number}", None, "win"),
            task=f"toy/{20 + number}",
            steps=steps[number < cut_won],
        )
        for number in range(6)
    ]
    run = evaluated(tmp_path, [*losses, *wins])
    share = f"{100 * cut_lost / lost_rollouts:.0f} %"
    reason = f"{share} of the lost rollouts have a turn that was cut at `sampling.max_tokens` (256)"
    assert explain_losses(run, BC_TEST) == (reason if named else "")
    assert (reason in stage_status(run, BC_TEST)) == named
    if named:
        assert only_finding(run).subject == "cut turns"
        assert only_finding(run).reason == (
            f"in bc evaluate ({share}), most lost rollouts have a turn that was cut at "
            "`sampling.max_tokens` (256)"
        )
        assert only_finding(run).advice == "raise `sampling.max_tokens` above 256"
    else:
        assert diagnose(run) == ()


def evaluated_again(directory, method, *won, **changes):
    """A run in which behavior cloning and the rounds of a method won so many of 24 test tasks."""
    recipe = {"rounds": len(won) - 1, "budget": {"rollouts_per_task": 2}, **changes}
    run = finish(start_run(directory, **recipe)).run
    for round, count in enumerate(won):
        stage = Stage(method if round else "bc", round, "evaluate")
        shutil.rmtree(run.folder(stage) / "evaluation", True)
        tasks = {"won": set(range(count)), "order": range(24), "exist_ok": True}
        write_result(run, stage.method, round, **tasks)
    return run.read()


@pytest.mark.parametrize(
    ("won", "best"),
    [
        ((12, 12, 20, 6), "round 2"),
        ((12, 12, 20, 11), "round 2"),  # p = 3 × 2 × 2⁻⁹ = 0.01
        ((12, 12, 20, 13), "round 2"),  # p = 3 × 2 × 2⁻⁷ = 0.047
        ((12, 12, 20, 14), None),  # 0.09
        ((20, 6), "behavior cloning"),
        ((4, 6, 12, 20), None),
        ((20, 20, 20, 20), None),
    ],
)
def test_a_student_that_got_worse_is_named(won, best, tmp_path):
    run = evaluated_again(tmp_path / "run", "eef", *won, train={"init_from": "last"})
    if best is None:
        assert diagnose(run) == ()
        return
    finding = only_finding(run)
    assert finding.subject == "eef"
    assert finding.reason.startswith(
        f"won 20 of 24 test tasks after {best} and {won[-1]} after round {len(won) - 1} (p = "
    )
    assert '`train.init_from = "base"`' in finding.advice
    assert "fewer `train.epochs`, a lower `train.learning_rate`" in finding.advice


@pytest.mark.parametrize(
    ("selected", "advice"),
    [
        ({"acts": 3}, "train less: a lower `policy_gradient.learning_rate`, or fewer `rounds`"),
        ({"pairs": 3}, "train less: fewer `train.updates`, a lower `dpo.learning_rate`, or fewer"),
    ],
)
def test_a_student_that_got_worse_trains_less_on_what_it_selected(selected, advice, tmp_path):
    run = evaluated_again(tmp_path / "run", "eef", 20, 6, train={"updates": 3})
    file = run.path / "eef/round1/selection.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **selected}))
    assert advice in only_finding(run).advice


def test_different_numbers_of_rollouts_without_a_budget_are_reported(tmp_path):
    pipeline = finish(start_run(tmp_path / "run"))
    finding = only_finding(pipeline.run.read())
    assert finding.subject == "no budget"
    assert "(rft2 " in finding.reason
    assert ", eef " in finding.reason
    assert "`budget.rollouts_per_task`" in finding.advice


def judged_run(directory, **changes):
    return start_run(
        directory,
        methods=["bc", "judged", "planned"],
        options={
            "judged": {"method": "eef+judge", "M": 2},
            "planned": {"method": "mpo", "trained": False},
        },
        roles={name: {"model": "scripted/flawless"} for name in ("judge", "planner")},
        rounds=1,
        budget={"rollouts_per_task": 2},
        **changes,
    )


@pytest.mark.parametrize(("skipped", "named"), [(6, True), (5, True), (4, False)])
def test_a_role_whose_answers_are_skipped_is_named(skipped, named, tmp_path):
    """Its texts are not used, and nothing else says so."""
    run = finish(judged_run(tmp_path / "run")).run
    before = diagnose(run.read())
    stage = Stage("judged", 1, "explore")
    usage = RoleUsage(role="judge", completions=20, repeated=10, skipped=skipped)
    run.ledger("judged").record(stage, replace(run.costs("judged")[stage], roles=(usage,)))
    found = [finding for finding in diagnose(run.read()) if finding not in before]
    assert bool(found) == named
    if named:
        assert str(found[0]) == (
            f"roles.judge: gave no usable answer to {skipped} of 10 requests in judged explore "
            "(round 1), although each was asked twice; they were skipped"
        )
        assert "`roles.judge.max_tokens`" in found[0].advice


def test_a_student_that_got_worse_with_a_role_is_not_told_to_train_less(tmp_path):
    run = judged_run(tmp_path / "run", tasks={"train": 6, "test": 12}).run
    write_result(run, "bc", 0, won=set(range(12)))
    write_result(run, "planned", 1, won=set())
    worse = [each for each in diagnose(run.read()) if "after behavior cloning" in each.reason]
    assert [each.subject for each in worse] == ["planned"]
    assert worse[0].advice.startswith("it acts with `roles.planner` at test time")
