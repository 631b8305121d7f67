"""The report: its numbers are those of the stage files and of `eef.analysis.stats`, and its page holds no foreign markup."""

from __future__ import annotations

import doctest
import io
import json
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from eef.analysis import behaviors as skills
from eef.analysis.behaviors import count_actions, count_behaviors
from eef.analysis.case_study import telling_story
from eef.analysis.results import Results, read_results
from eef.analysis.stats import bootstrap_interval, holm, mcnemar, paired_difference, wilson_interval
from eef.analysis.task_groups import GroupScore, score_task_groups
from eef.config import parse_settings
from eef.envs.registry import env_spec
from eef.envs.toy import ToyEnv, toy_player
from eef.errors import StoreError
from eef.pipeline.evaluation import EvalResult, Outcome, newly_solved
from eef.pipeline.ledger import Cost
from eef.pipeline.recipe import Recipe
from eef.pipeline.stages import Stage, stages_of
from eef.report import charts as figure
from eef.report import formatting as wording
from eef.report import html as markup
from eef.report.charts import nice_ticks, spread
from eef.report.html import Html, join, tag
from eef.report.run_page import draw_page, write_page
from eef.report.run_table import COLUMNS, markdown_table, results_table, rows
from eef.report.sections import case_study as storyboard
from eef.report.summary import headline, progress, verdict
from eef.rollouts.store import Store
from eef.trajectory import Author, Step, Trajectory
from eef.utils.jsonl import append_jsonl, write_json
from tests.fakes.grids import expert, played

UGLY = "<script>alert('&')</script>"
SKILL = {"bc": 0.6, "rft2": 0.75, "eef": 0.85}


class UglyToy(ToyEnv):
    """A toy whose tasks try to get into the page."""

    def reset(self, task: Any) -> str:
        return f"{UGLY} {super().reset(task)}"


class PlayedRun(Run):
    """A run without a model: scripted students, and a training that only says it was done. All else is real."""

    def _student(self, trained: Stage) -> Any:
        skill = SKILL[trained.method] + 0.04 * trained.round
        return toy_player(Author("student", f"{trained.method}@round{trained.round}"), skill)

    def _train(self, stage: Stage, listener: Any) -> None:
        cost = Cost(updates=5, trained_tokens=70, processed_tokens=700, seconds=2.0)
        self.ledger(stage.method).record(stage.method, stage.round, "train", cost)
        (self.folder(stage) / "checkpoint").mkdir()
        write_json(self.folder(stage) / "training.json", {"updates": 5})
        write_json(self.folder(stage) / "checkpoint" / "manifest.json", {})


def begin(directory: Path, **changes: Any) -> PlayedRun:
    settings = {
        "name": "toys <b>",
        "seed": 3,
        "rounds": 2,
        "methods": ["bc", "rft2", "eef"],
        "env": {"name": "toy"},
        "options": {"eef": {"M": 3}},
        "expert": {"names": ["scripted/weak"]},
        "tasks": {"train": 20, "test": 25},
        **changes,
    }
    run = PlayedRun.create(directory, parse_settings(Recipe, settings, source="test"))
    run.__dict__["env"] = UglyToy()  # where `cached_property` keeps it
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = begin(tmp_path_factory.mktemp("report") / "run")
    for stage in stages_of(run.recipe):
        run.carry_out(stage, lambda progress: None)
    return run


@pytest.fixture(scope="module")
def results(run):
    return read_results(run)


@pytest.fixture(scope="module")
def page(run, results):
    return draw_page(run, results)


@pytest.mark.parametrize("module", [figure, markup, skills, storyboard, wording])
def test_doctests(module):
    assert doctest.testmod(module) == (0, doctest.testmod(module).attempted)


# --- results -------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_stats(run, results):
    for method in results.methods:
        evaluation = run.evaluation(method.name, method.last.round)
        rewards = [outcome.reward for outcome in evaluation.outcomes]
        score = method.score
        assert (score.win_rate, score.mean_reward) == (evaluation.success_rate, sum(rewards) / 25)
        assert score.interval == wilson_interval(len(evaluation.wins), 25)
        assert score.reward_interval == bootstrap_interval(rewards)
        assert score.finished == sum(outcome.finished for outcome in evaluation.outcomes) / 25
    assert [method.name for method in results.methods] == ["expert", "bc", "rft2", "eef"]
    assert [method.last.round for method in results.methods] == [0, 0, 2, 2]


def test_every_pair_is_compared_on_the_same_tasks(run, results):
    assert len(results.comparisons) == 6
    tests = []
    for item in results.comparisons:
        first, second = (results[name].last.evaluation for name in (item.first, item.second))
        won = [[outcome.success for outcome in result.outcomes] for result in (first, second)]
        tests.append(mcnemar(*won))
        assert (item.only_first, item.only_second, item.p_value) == tests[-1]
        assert item.wins == paired_difference(*won)
        assert item.wins.mean == pytest.approx(first.success_rate - second.success_rate)
        assert item.reward.mean == pytest.approx(first.mean_reward - second.mean_reward)
    assert [item.p_adjusted for item in results.comparisons] == holm(
        [test.p_value for test in tests]
    )
    assert results.comparison("rft2", "eef") is results.comparison("eef", "rft2")


def test_outcomes_are_paired_by_task_not_by_place(tmp_path):
    run = begin(tmp_path)
    write_result(run, "bc", 0, won={1, 2})
    shuffled = write_result(run, "eef", 1, won={1, 2}, order=reversed(range(10)))
    assert shuffled.outcomes[0].task == "toy/9"
    comparison = read_results(run).comparison("eef", "bc")
    assert (comparison.only_first, comparison.only_second, comparison.reward.mean) == (0, 0, 0)


def test_newly_solved_is_against_expert_and_behaviour_cloning(run, results):
    known = [run.evaluation(name, 0) for name in ("expert", "bc")]
    for name in ("rft2", "eef"):
        for item in results[name].rounds:
            assert item.newly_solved == len(newly_solved(item.evaluation, known))
    assert results["bc"].last.newly_solved is None
    everyone = [item.evaluation.wins for method in results.methods for item in method.rounds]
    assert results.never_solved == 25 - len(frozenset().union(*everyone))
    assert results.unsolved_before == 25 - len(known[0].wins | known[1].wins)


def test_costs_are_those_of_the_ledger(run, results):
    for name, kinds in (
        ("eef", ("explore", "train", "evaluate")),
        ("expert", ("collect", "evaluate")),
    ):
        entries = {
            (stage.round, stage.stage): cost for stage, cost in run.ledger(name).entries.items()
        }
        method = results[name]
        assert method.cost == run.ledger(name).totals(name)
        assert method.seconds == pytest.approx(sum(cost.seconds for cost in entries.values()))
        explored = [cost for (_, kind), cost in entries.items() if kind == kinds[0]]
        assert method.rollouts == sum(cost.rollouts for cost in explored)
        assert method.tokens == sum(cost.generated_tokens for cost in explored)
    assert (results["expert"].rollouts, results["bc"].rollouts, results["rft2"].rollouts) == (
        20,
        0,
        80,
    )
    assert results["expert"].cost_of("train") is None
    assert results["eef"].cost_of("train").updates == 10
    assert [results["rft2"].rollouts_up_to(round) for round in (0, 1, 2)] == [0, 40, 80]


def test_the_training_side_counts_what_the_stores_hold(run, results):
    stored = list(run.trajectories("eef"))
    for item in results["eef"].rounds:
        now = [each for each in stored if each.round == item.round]
        assert item.explored["rollouts"] == len(now)
        assert item.explored["wins_from_inside"] == sum(each.success for each in now if each.start)
        assert item.explored["from_inside"] == sum(each.start is not None for each in now) > 0
        won = {each.task for each in stored if each.success and each.round <= item.round}
        assert item.train_tasks_won == len(won)
        assert item.selection == run.selection("eef", item.round).counts
    wins = {each.task for each in run.trajectories("expert") if each.success}
    assert results["expert"].last.train_tasks_won == results["bc"].last.train_tasks_won == len(wins)
    assert results["rft2"].last.explored["from_inside"] == 0


def test_the_record_is_plain_json_with_the_promised_fields(results):
    record = json.loads(json.dumps(results.to_record(), allow_nan=False))
    assert (record["version"], record["name"], record["seed"]) == (1, "toys <b>", 3)
    row = record["methods"]["eef"]
    promised = {
        "win_rate",
        "mean_reward",
        "interval",
        "reward_interval",
        "newly_solved",
        "rollouts",
        "tokens",
        "seconds",
        "env_steps",
        "replayed_steps",
        "prompt_tokens",
        "cached_tokens",
        "generated_tokens",
        "updates",
        "trained_tokens",
        "processed_tokens",
        "finished",
        "train_tasks_won",
        "rounds",
    }
    assert promised <= set(row)
    assert row["interval"] == list(results["eef"].score.interval)
    assert [item["round"] for item in row["rounds"]] == [1, 2]
    assert {"win_rate", "interval", "selection", "explored", "costs", "skills"} <= set(
        row["rounds"][0]
    )
    assert len(record["comparisons"]) == 6
    assert {"a", "b", "win_difference", "p_value", "p_adjusted"} <= set(record["comparisons"][0])
    assert record["fingerprint"]["env"] == "toy"


def test_gathering_and_drawing_write_nothing(run, results):
    def listing() -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in run.directory.rglob("*"))

    before = listing()
    again = read_results(Run.open(run.directory))
    draw_page(run, again)
    assert again.to_record() == results.to_record()
    assert listing() == before


def test_unfinished_runs_have_what_is_done_and_none_for_the_rest(tmp_path):
    run = begin(tmp_path / "run", rounds=1)
    planned = stages_of(run.recipe)
    empty = read_results(run)
    assert empty.to_record()["methods"]["eef"]["win_rate"] is None
    assert empty.to_record()["methods"]["eef"]["rollouts"] is None
    assert empty.never_solved is None
    for done, stage in enumerate(planned, start=1):
        run.carry_out(stage, lambda progress: None)
        if done in (
            1,
            3,
            6,
            9,
            11,
        ):  # collected, bc selected, rft2 explored, rft2 evaluated, eef selected
            check_unfinished(run, read_results(run), done, len(planned))
    assert progress(read_results(run)) == ""
    assert read_results(run)["eef"].last.newly_solved is not None


def check_unfinished(run: Run, results: Results, done: int, planned: int) -> None:
    assert results.stages == (done, planned)
    assert f"{done} of {planned} stages" in progress(results)
    balanced(draw_page(run, results))
    assert len(rows(results)) == 4
    eef = results["eef"]
    assert (eef.last, eef.rollouts, eef.seconds) == (None, None, None)
    assert results["expert"].rounds[0].train_tasks_won is not None
    if done == 6:
        assert results["rft2"].rounds[0].explored["rollouts"] == 40
        assert results["rft2"].rounds[0].selection is None
    if done == 11:
        assert eef.rounds[0].score is None
        assert eef.rounds[0].selection["examples"] > 0


def test_a_row_does_not_count_what_was_spent_after_its_round(tmp_path):
    run = begin(tmp_path / "run")
    for stage in stages_of(run.recipe):
        if (stage.method, stage.round, stage.kind) == ("rft2", 2, "train"):
            break
        run.carry_out(stage, lambda progress: None)
    rft = read_results(run)["rft2"]
    assert (rft.last.round, len(rft.rounds)) == (1, 2)
    assert (rft.rollouts, rft.rollouts_up_to(2)) == (40, 80)
    assert rft.cost_of("train").updates == 5


# --- skills --------------------------------------------------------------------------------------------------------


def test_shop_actions_are_counted_by_kind():
    results_page = "Instruction: [SEP] buy [SEP] Back to Search [SEP] Page 2 [SEP] < Prev [SEP] Next > [SEP] B000000001"
    item_page = (
        "Back to Search [SEP] < Prev [SEP] size [SEP] Dark Red [SEP] Description [SEP] Buy Now"
    )
    actions = [
        ("Search", "search[red hat]"),
        (results_page, "click[Next >]"),
        (results_page, "click[B000000001]"),
        (item_page, "click[dark red]"),
        (item_page, "click[description]"),
        (item_page, "click[blue]"),
        (item_page, "click[< Prev]"),
        (results_page, "click[back to search]"),
        ("Search", "search[hat]"),
        (item_page, "click[next >]"),
        (item_page, ""),
        (item_page, "click[Buy Now]"),
    ]
    steps = [Step(observation=seen, completion="", action=action) for seen, action in actions]
    assert count_actions(steps, env_spec("webshop").behaviors) == {
        "Next": 1,
        "Prev": 1,
        "Back to Search": 1,
        "Another search": 1,
        "Options clicked": 1,
    }


def test_skills_tell_won_from_lost_and_leave_broken_episodes_out():
    def episode(actions: str, *, won: bool, status: Any = "terminated") -> Trajectory:
        steps = tuple(
            Step(observation="", completion="", action=action) for action in actions.split(",")
        )
        return Trajectory(
            id="x",
            task="t",
            author=Author("student", "x"),
            steps=steps,
            final_observation="",
            status=status,
            reward=float(won),
            success=won,
        )

    episodes = [
        episode("left,left", won=True),
        episode("right", won=True),
        episode("left", won=False, status="error"),
    ]
    uses = count_behaviors(episodes, "toy")
    assert (uses["won"].episodes, uses["won"].means["Step back"]) == (2, 1.0)
    assert (uses["lost"].episodes, uses["lost"].means["Step back"]) == (0, None)
    assert count_behaviors(episodes, "textworld-express") == {}


# --- kinds ---------------------------------------------------------------------------------------------------------


def ended(task, *rewards, status="terminated"):
    steps = tuple(
        Step(observation="o", completion="Action: a", action="a", reward=reward)
        for reward in rewards
    )
    reward = None if status == "error" else max(0.0, sum(rewards))
    return Trajectory(
        id=f"evaluation/{task}",
        task=task,
        author=Author("student", "p"),
        steps=steps,
        final_observation="",
        status=status,
        reward=reward,
        success=reward == 1.0,
    )


def test_kinds_tell_parts_kinds_and_the_highest_score_on_the_way():
    episodes = [
        ended("scienceworld/boil/14", 0.5, -1.5),
        ended("scienceworld/boil/21", 0.25, 0.75),
        ended("scienceworld/melt/21", -1.0),
        ended("scienceworld/melt/22", 0.7, status="error"),
    ]
    found = score_task_groups(episodes, "scienceworld")
    assert found.all == GroupScore(tasks=4, wins=1, mean_reward=0.25, mean_peak=0.375)
    assert found.parts == {
        "seen": GroupScore(tasks=1, wins=0, mean_reward=0.0, mean_peak=0.5),
        "unseen": GroupScore(tasks=3, wins=1, mean_reward=1 / 3, mean_peak=1 / 3),
    }
    assert found.kinds == {
        "boil": GroupScore(tasks=2, wins=1, mean_reward=0.5, mean_peak=0.75),
        "melt": GroupScore(tasks=2, wins=0, mean_reward=0.0, mean_peak=0.0),
    }
    assert found.mean_of_kinds == 0.25
    assert score_task_groups([ended("toy/1", 1.0)], "toy") is None
    assert score_task_groups([], "scienceworld") is None


def test_a_second_try_counts_in_place_of_the_one_that_broke():
    broken, again = (
        ended("scienceworld/boil/14", status="error"),
        ended("scienceworld/boil/14", 1.0),
    )
    assert score_task_groups([broken, again], "scienceworld").all.mean_reward == 1.0


# --- wording -------------------------------------------------------------------------------------------------------


def write_result(
    run: Run, method: str, round: int, *, won: set[int], order: Iterable[int] = range(10)
) -> EvalResult:
    """An evaluation written by hand."""
    outcomes = tuple(
        Outcome(
            task=f"toy/{task}",
            reward=float(task in won),
            success=task in won,
            finished=True,
            steps=3,
        )
        for task in order
    )
    result = EvalResult(
        policy=Author("student", f"{method}"),
        method=method,
        round=round,
        split="test",
        outcomes=outcomes,
        cost=Cost(),
    )
    folder = run.folder(Stage(method, round, "evaluate"))
    folder.mkdir(parents=True)
    write_json(folder / "evaluation.json", result.to_record())
    return result


def say(directory: Path, **won: set[int]) -> tuple[str, str]:
    """Headline and verdict of evaluations written by hand, with plain spaces."""
    run = begin(directory)
    for method, tasks in won.items():
        write_result(run, method, 0 if method in ("bc", "expert") else 1, won=tasks)
    results = read_results(run)
    words = (headline(results), verdict(results))
    return words[0].replace("\u00a0", " "), words[1].replace("\u00a0", " ")


def test_a_clear_difference_is_said_with_its_p_value(tmp_path):
    head, why = say(tmp_path, rft2={1}, eef={*range(10)})
    assert head == "EEF wins 100.0 % of 10 test tasks, RFT×2 10.0 %."
    assert "90.0 points" in why
    assert "is more than chance" in why
    assert "in about 4 of 1,000 such comparisons (exact McNemar test, p = 0.004)" in why


def test_the_correction_can_take_a_difference_back(tmp_path):
    _, why = say(tmp_path, expert={0}, bc={1}, rft2=set(), eef={0, 1, 2, 3, 4, 5})
    assert "hints at an advantage, but does not hold after correction" in why
    assert "p = 0.031; p = 0.19 when corrected for 6 comparisons" in why


def test_no_difference_is_said_too(tmp_path):
    head, why = say(tmp_path / "small", bc={1}, rft2={1, 2}, eef={1, 2, 3})
    assert head == "EEF wins 30.0 % of 10 test tasks, RFT×2 20.0 %."
    assert "may well be chance: this run does not show that either is better" in why
    head, why = say(tmp_path / "other", rft2={1, 2}, eef={2, 3})
    assert head == "EEF wins 20.0 % of 10 test tasks, and so does RFT×2."
    assert "this run shows no difference" in why
    assert "exactly the same tasks" in say(tmp_path / "same", rft2={1, 2}, eef={1, 2})[1]


def test_the_better_method_is_named_first_even_where_it_is_not_ours(tmp_path):
    head, why = say(tmp_path, rft2={1, 2, 3}, eef={1})
    assert head.startswith("RFT×2 wins 30.0 %")
    assert "20.0 points (95 % interval 0.0 to" in why


def test_where_there_is_nothing_to_compare_that_is_said(tmp_path):
    assert say(tmp_path / "none") == ("Nothing has been evaluated yet.", "")
    assert say(tmp_path / "bc", bc={1})[0].startswith("Behaviour cloning wins 10.0 %")
    assert (
        say(tmp_path / "one", bc={1}, eef={1, 2})[0]
        == "EEF wins 20.0 % of 10 test tasks, BC 10.0 %."
    )


def test_equal_rollouts_are_said_only_where_they_are_equal(tmp_path, results):
    assert "with as many rollouts" not in headline(results)  # eef plays from inside failures on top
    run = begin(tmp_path, rounds=1, options={"eef": {"M": 1}}, budget={"rollouts_per_task": 2})
    for stage in stages_of(run.recipe):
        run.carry_out(stage, lambda progress: None)
    assert "with as many rollouts" in headline(read_results(run))


# --- tables --------------------------------------------------------------------------------------------------------


def printed(results: Results) -> str:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as capture:
        console.print(results_table(results))
    return capture.get()


def test_both_tables_have_a_row_for_each_method(results):
    lines = markdown_table(results).splitlines()
    assert len(lines) == 2 + 4 + 2
    assert {line.count("|") for line in lines[:-2]} == {len(COLUMNS) + 1}
    assert lines[-2:] == ["", "toy"]
    shown = printed(results)
    for method in results.methods:
        assert f"{100 * method.score.win_rate:.1f} [" in shown
    assert "toys <b> (seed 3)" in shown


def test_every_report_says_on_what_its_numbers_rest(run, results):
    """In the shop: how large it is, whose goals they are, and who told the nouns that the reward compares."""
    shop = {"products": 1000, "goals": "human", "tagger": "en_core_web_lg"}
    played = replace(results, fingerprint={**results.fingerprint, "env": "webshop", **shop})
    told = "webshop (1,000 products, human goals, nouns by en_core_web_lg)"
    assert told in draw_page(run, played)
    assert told in markdown_table(played)
    assert told in printed(played)


def test_a_name_is_no_console_markup(tmp_path):
    assert "[red]a[/red] [/] (seed 3)" in printed(
        read_results(begin(tmp_path, name="[red]a[/red] [/]"))
    )


# --- page ----------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Elements, attributes and text of a page; complains of what is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.add(name)
        self.attributes |= {key for key, _ in attributes}
        if name != "meta":
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text += data


def balanced(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_needs_nothing_else(page):
    reader = balanced(page)
    assert not reader.names & {"script", "link", "img", "iframe", "object", "b"}
    assert not reader.attributes & {"src", "href", "srcset", "onclick", "action"}
    assert not [word for word in ("http://", "https://", "@import", "url(") if word in page]


def test_texts_of_tasks_and_recipes_are_escaped(run, page):
    observations = [step.observation for item in run.trajectories("eef") for step in item.steps]
    assert any(UGLY in text for text in observations)
    assert UGLY not in page
    reader = balanced(page)
    assert UGLY in reader.text
    assert "toys <b>" in reader.text


def test_the_page_says_what_the_results_say(results, page):
    text = balanced(page).text
    assert headline(results) in text
    assert verdict(results) in text
    for method in results.methods:
        assert (
            f"{100 * method.score.interval.low:.1f} – {100 * method.score.interval.high:.1f}"
            in text
        )
    assert "eef run run/recipe.json --out again" in text
    assert (
        '"rollouts_per_state"' not in text
    )  # the recipe as it was given, with its own defaults, not the methods'


def test_writing_a_page_replaces_lone_surrogates(tmp_path):
    run = explored_run(
        tmp_path,
        {"full": ["lose", "win", "lose", "win", "win", "lose"]},
        actions="a\ud800cdefghijkl",
    )
    write_page(run, read_results(run), tmp_path / "report.html")
    assert "<code>?</code>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with pytest.raises(StoreError, match="cannot write"):
        write_page(run, read_results(run), tmp_path / "no such directory" / "report.html")


@given(st.text(), st.text())
def test_any_text_comes_back_as_text(content, attribute):
    reader = Reader()
    reader.feed(tag("p", join([content]), title=attribute) + "<!-- -->")
    assert reader.names == {"p"}
    assert reader.attributes == {"title"}
    # what HTML itself does to text: line ends become \n
    plain = content.replace("\r\n", "\n").replace("\r", "\n")
    assert reader.text.replace("\r\n", "\n").replace("\r", "\n") == plain
    assert isinstance(tag("p"), Html)


# --- the story -----------------------------------------------------------------------------------------------------


def explored_run(
    directory: Path, outcomes: dict[str, list[str]], *, actions: str = "abcdefghijkl"
) -> Run:
    """A run whose expert failed as often as `outcomes` has entries, and what the student made of each failure:
    how it ended from the states 0, 2, 4, 6, 8, 10."""
    run = begin(directory, options={"eef": {"M": 5}})
    with Store.open(run.directory / "expert") as store:
        for name in outcomes:
            store.append(expert(name, task=f"toy/{name}", actions=actions))
        store.append(expert("won", task="toy/won", win=True))
        experts = store.trajectories
    with Store.open(run.directory / "eef", base=experts) as store:
        for name, ends in outcomes.items():
            for item in played((0, 2, 4, 6, 8, 10), ends, origin=name):
                store.append(retasked(item, f"toy/{name}"))
        stored = store.trajectories
    stage = Stage("eef", 1, "select")
    selection = run.methods["eef"].select(stored, [f"toy/{name}" for name in [*outcomes, "won"]], 1)
    run.folder(stage).mkdir(parents=True)
    for example in selection.examples:
        append_jsonl(run.folder(stage) / "examples.jsonl", example.to_record())
    write_json(run.folder(stage) / "selection.json", selection.counts)
    return run


def retasked(item: Trajectory, task: str) -> Trajectory:
    return Trajectory.from_record({**item.to_record(), "task": task})


def test_the_story_is_the_failure_with_most_to_tell(tmp_path):
    run = explored_run(
        tmp_path,
        {
            "dull": ["lose"] * 6,
            "half": ["lose", "win", "win", "win", "win", "win"],
            "full": ["lose", "win", "lose", "win", "win", "lose"],
            "dark": ["-", "error", "lose", "lose", "lose", "lose"],
        },
    )
    story = telling_story(run)
    assert (story.expert.id, story.method, story.round, story.failures) == ("full", "eef", 1, 4)
    assert story.grid == run.methods["eef"].measure(run.trajectories("eef"), story.expert, 1)
    assert {example.state for example in story.examples} == {0, 4}


def test_the_story_is_drawn_as_the_method_labels_it(tmp_path):
    run = explored_run(tmp_path, {"full": ["lose", "win", "lose", "win", "win", "lose"]})
    page = draw_page(run, read_results(run))
    text = balanced(page).text
    assert page.count('class="step beneficial"') == 4
    assert page.count('class="step harmful"') == 4
    assert page.count('class="step neutral"') == 2
    assert page.count('class="step outside"') == 2
    assert text.count("needs recovery") == 2
    assert "A solution for recovery state 4. 4 of 8 actions are trained" in text
    assert "not won" in text


def test_there_is_no_story_without_an_explored_failure(tmp_path, run):
    assert telling_story(begin(tmp_path)) is None
    assert telling_story(run).grid.rollouts[0] != ()


# --- figures -------------------------------------------------------------------------------------------------------


@given(st.floats(0, 0.99), st.floats(0.001, 1e6))
def test_ticks_hold_all_values(low, width):
    ticks = nice_ticks(low, low + width)
    assert ticks[0] <= low + 1e-6 * width
    assert ticks[-1] >= low + width - 1e-6 * width
    assert 2 <= len(ticks) <= 8


@given(st.lists(st.floats(0, 300), max_size=8).map(sorted))
def test_labels_do_not_lie_upon_another(places):
    moved = spread(places, 15)
    assert len(moved) == len(places)
    assert all(right - left >= 15 - 1e-6 for left, right in pairwise(moved))
    if places:
        assert sum(moved) / len(moved) == pytest.approx(sum(places) / len(places), abs=1e-6)
