"""Studies: trials at equal budget are run, resumed, gathered, checked and written."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest

from eef.analysis.behaviors import BehaviorUse
from eef.analysis.label_noise import LabelNoise, StateCount
from eef.analysis.stats import holm
from eef.analysis.study import make_study
from eef.analysis.trial import RoundBudget, Scores, Trial
from eef.cli.compare import with_budget
from eef.errors import ConfigError
from eef.methods.registry import make_method
from eef.pipeline.ledger import Cost
from eef.pipeline.recipe import load_recipe
from eef.report.study_page import study_markdown, study_page
from eef.report.summary import study_verdict
from eef.rollouts.settings import BudgetSettings
from tests.fakes import ROOT
from tests.fakes.small_run import as_recipe, eef, small_recipe, write_recipe


@pytest.fixture(scope="module")
def comparison(student, tmp_path_factory):
    """Two seeds, the second without one of the methods; (directory, command)."""
    place = tmp_path_factory.mktemp("study")
    unlike = {
        "tasks": {"train": 5, "test": 5},
        "train": {"updates": 2},
        "budget": {"rollouts_per_task": None},
    }
    settings = small_recipe(student, **unlike)
    settings["options"] = {"eef": {"M": 3}, "two": {"method": "eef", "M": 1}}
    recipe = write_recipe(place / "small.json", {**settings, "methods": ["rft4", "eef", "two"]})
    command = (
        "compare",
        recipe,
        "--seeds",
        2,
        "--budget",
        "rollouts=12",
        "--out",
        place / "runs",
        "--quiet",
    )
    trials = [part for name in ("rft4@0", "eef@0", "eef@1") for part in ("--trial", name)]
    done = eef(*command, "--methods", "rft4,eef", *trials)
    assert done.exit_code == 0, done.stderr
    return place / "runs", command


def test_single_trials_are_run(comparison):
    directory, _ = comparison
    assert (directory / "seed0/rft4/round1/evaluation.json").exists()
    assert not (directory / "seed1/rft4").exists()
    together = json.loads((directory / "seeds.json").read_text())
    rates = {method["name"]: method["win_rates"] for method in together["methods"]}
    assert rates["rft4"][1] is None
    assert None not in rates["eef"]
    seeds = {(pair["first"], pair["second"]): pair["seeds"] for pair in together["pairs"]}
    assert seeds == {("rft4", "bc"): [0], ("eef", "bc"): [0, 1], ("eef", "rft4"): [0]}


def test_results_of_an_unfinished_study_are_written(comparison, tmp_path):
    directory, _ = comparison
    done = eef("report", directory, "--out", tmp_path)
    assert done.exit_code == 0, done.stderr
    study = json.loads((tmp_path / "study.json").read_text())
    pair = study["comparisons"]["rollouts"]["eef_vs_rft4"]
    assert {"difference", "p", "p_adjusted", "interval", "seeds"} <= set(pair)
    assert pair["seeds"] == [0]
    document = (tmp_path / "results.md").read_text()
    assert "## At equal rollouts" in document
    assert "EEF – RFT×4" in document
    assert "–" in next(line for line in document.splitlines() if line.startswith("| RFT×4"))
    assert "| TWO |" not in document, "a method that has not started has no row"
    page = (tmp_path / "results.html").read_text()
    for key, value in study["fingerprint"].items():  # the shop's includes its tagger
        assert f"- {key}: `{value}`" in document
        assert f"<dt>{key}</dt><dd>" in page
    assert "default-src" in page
    assert "<script" not in page


def test_a_report_is_written_into_the_first_directory(comparison, tmp_path, monkeypatch):
    directory, _ = comparison
    study = tmp_path / "study"
    shutil.copytree(directory, study)
    monkeypatch.chdir(tmp_path)
    done = eef("report", study)
    names = ["results.md", "results.html", "study.json"]
    assert done.stdout.split() == [str(study / "report" / name) for name in names]
    assert {path.name for path in (study / "report").iterdir()} == {*names, "trials"}
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
    trials = study / "report/trials"
    assert eef("report", trials).exit_code == eef("report", trials).exit_code == 0
    refused = eef("report", study / "seed0", study / "seed1")
    assert refused.exit_code == 2
    assert "is a run; a study is made from directories of `eef compare`" in refused.stderr
    alone = eef("report", study / "seed0", "--out", tmp_path / "page")
    written = [str(tmp_path / "page" / name) for name in ("results.json", "report.html")]
    assert alone.stdout.splitlines() == written


def test_stored_trials_give_the_same_results(comparison, tmp_path):
    directory, _ = comparison
    kept, again = tmp_path / "kept", tmp_path / "again"
    assert eef("report", directory, "--out", kept).exit_code == 0
    assert eef("report", kept / "trials", "--out", again).exit_code == 0
    names = {path.stem for path in (kept / "trials/rollouts").iterdir()}
    assert {"expert@0", "bc@1", "eef@0", "eef@1", "rft4@0"} <= names
    for name in ("results.md", "results.html", "study.json"):
        assert (kept / name).read_text() == (again / name).read_text()
    lone = tmp_path / "lone"
    lone.mkdir()
    (kept / "trials/rollouts/rft4@0.json").rename(lone / "rft4@0.json")
    assert eef("report", kept / "trials", lone, "--out", again).exit_code == 0
    assert json.loads((again / "study.json").read_text()) == json.loads(
        (kept / "study.json").read_text()
    ), "trials of two machines are one study"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda trial: trial["fingerprint"].update(tagger="other"),
            "different environments .*differ in: tagger",
        ),
        (lambda trial: trial.update(budget=["rollouts", 99]), "differ: 12 and 99 per round"),
        (lambda trial: trial.update(study="other"), "belongs to recipe `other`"),
        (lambda trial: trial["tasks"].reverse(), "tested on different tasks"),
        (lambda trial: trial.update(method="eef", seed=1), "have different options"),
        (
            lambda trial: trial["settings"].update({"train.learning_rate": 1.0}),
            "have different settings .*differ in: train.learning_rate",
        ),
        (lambda trial: trial["settings"].pop("dpo.beta"), "differ in: dpo.beta"),
        (lambda trial: trial.update(version=99), "rft4@0.json`: .*has version 99"),
        (lambda trial: trial.pop("settings"), "rft4@0.json`: malformed trial record"),
        (lambda trial: trial.pop("scores"), "rft4@0.json`: malformed trial record"),
        (lambda trial: trial.update(starts=3), "rft4@0.json`: malformed trial record: `starts`"),
        (
            lambda trial: trial.update(options=None),
            "rft4@0.json`: malformed trial record: `options`",
        ),
        (
            lambda trial: trial.update(budget=["rollouts", None]),
            "rft4@0.json`: malformed trial record: `budget.1`",
        ),
        (
            lambda trial: trial["scores"]["1"].update(won="01"),
            "round 1 has 5 rewards and 2 wins of 5 tasks",
        ),
        (
            lambda trial: trial["settings"].update({"rollouts.batch_size": 99}),
            "differ in: rollouts.batch_size",
        ),
    ],
)
def test_trials_that_do_not_belong_together_are_refused(comparison, tmp_path, change, message):
    directory, _ = comparison
    assert eef("report", directory, "--out", tmp_path).exit_code == 0
    path = tmp_path / "trials/rollouts/rft4@0.json"
    trial = json.loads(path.read_text())
    change(trial)
    path.write_text(json.dumps(trial))
    done = eef("report", tmp_path / "trials", "--out", tmp_path / "again")
    assert done.exit_code == 2
    assert re.search(message, done.stderr.replace("\n", " "))


def trial(method, seed, won, order, algorithm=None, **options):
    explores = method not in ("expert", "bc")
    scores = {int(explores): Scores(tuple(map(float, won)), tuple(map(bool, won)))}
    return Trial(
        study="s",
        method=method,
        seed=seed,
        budget=RoundBudget("rollouts", 9),
        order=order,
        rounds=int(explores),
        algorithm=algorithm or method,
        options=options,
        settings={},
        fingerprint={},
        tasks=("a", "b", "c", "d"),
        scores=scores,
        costs={1: {"explore": Cost(rollouts=9, generated_tokens=90)}},
        starts=((1, 2),),
        behaviors={
            1: {"won": BehaviorUse(1, {"Next": 0.5}), "lost": BehaviorUse(0, {"Next": None})}
        },
        selected={
            1: {
                "examples": 3,
                "steps.student-win": 8 + seed,
                "steps.beneficial": 2,
                "tasks.unsolved": 1,
            }
        },
        label_noise=LabelNoise(1, (StateCount("e", 0, 3, 20),)) if method == "eef" else None,
    )


def test_variants_and_methods_are_distinguished():
    """Two seeds and four tasks, with the numbers of each pair and family."""
    trials = [
        *(trial("bc", seed, [0, 0, 0, 0], 1) for seed in (0, 1)),
        *(trial("rft6", seed, [1, 0, 0, 0], 2, cap=None) for seed in (0, 1)),
        trial("cap1", 0, [1, 0, 0, 0], 6, "rft6", cap=1),
        *(trial("eef", seed, [1, 1, seed, 0], 3, M=5, experts=["x"]) for seed in (0, 1)),
        *(trial("M1", seed, [1, 0, 0, 0], 4, "eef", M=1, experts=["x"]) for seed in (0, 1)),
        trial("two", 0, [1, 1, 1, 1], 5, "eef", M=5, experts=["x", "y"]),
    ]
    study = make_study(trials)
    for each in study.trials:
        assert Trial.from_record(json.loads(json.dumps(each.to_record()))) == each
    aggregate = study.aggregates["rollouts"]
    variants = {item.name: item.changes for item in aggregate.methods if item.is_variant}
    assert variants == {"M1": {"M": 1}}
    assert aggregate.control.name == "cap1"
    assert [rival.name for _, rival, _ in aggregate.headline_pairs()] == ["rft6", "cap1"]
    pair = aggregate.pair("eef", "rft6")
    assert (pair.first, pair.over_tasks.mean, pair.first_alone, pair.second_alone) == (
        "eef",
        0.375,
        2,
        0,
    )
    assert aggregate.pair("two", "eef").seeds == (0,)
    alone = aggregate.pair("M1", "eef")
    assert alone.p_adjusted == alone.p_value, "its family has one pair"
    methods = [pair for pair in aggregate.pairs if "M1" not in (pair.first, pair.second)]
    assert [pair.p_adjusted for pair in methods] == holm([pair.p_value for pair in methods])
    assert study_verdict(aggregate).startswith(
        "In 2 seeds EEF wins 62.5 % of the test tasks and RFT×6 25.0 %. On the same tasks "
    )
    assert "+37.5 points" in study_verdict(aggregate)
    assert (
        "In 1 seed cap1, which keeps one win per task, wins 25.0 % and EEF 50.0 %; the difference "
        "is +25.0 points"
    ) in study_verdict(aggregate)
    assert "The mean reward differs by" in study_verdict(aggregate)
    page = study_page(study, ["command"])
    assert "Win rate of EEF over M, all else equal (in 2 seeds: 0, 1)." in page
    assert "over cap" not in page, "an option without a value in the method has no chart"
    assert "Win rate over rollouts explored" in page
    fewer = study_page(
        make_study([*trials, trial("M2", 1, [1, 0, 0, 0], 7, "eef", M=2, experts=["x"])]),
        ["command"],
    )
    assert "Win rate of EEF over M, all else equal (in 1 seed: 1)." in fewer, (
        "every point has the same seeds"
    )
    document = study_markdown(study, ["command"])
    assert "Each mean is over the seeds that are finished" in document, "two and cap1 have one seed"
    assert document.count("M = 1") == 1
    begun = replace(trial("late", 0, [1, 0, 0, 0], 8), rounds=2)
    document = study_markdown(make_study([*trials, begun]), ["command"])
    assert re.search(r"\| EEF \| 9( \| \d+){4} \| 90 ", document), "the cost of all rounds"
    assert re.search(r"\| late( \| –){9} \|", document), "an unfinished trial has none"
    assert "| EEF | 1.0 | 3.0 | – | – | 8.5 | 2.0 | 2.0 | – | – | – |" in document, (
        "training data, mean over two seeds"
    )


def test_the_headline_has_the_control_whatever_else_is_best():
    trials = [
        *(trial("rft6", seed, [1, 0, 0, 0], 2, cap=None) for seed in (0, 1)),
        *(trial("cap1", seed, [1, seed, 0, 0], 6, "rft6", cap=1) for seed in (0, 1)),
        *(trial("eef", seed, [1, 1, 1, 0], 3) for seed in (0, 1)),
        trial("nat", 0, [1, 1, 0, 0], 5),
        trial("ipr", 1, [1, 0, 0, 0], 7),
    ]
    aggregate = make_study(trials).aggregates["rollouts"]
    assert [rival.name for _, rival, _ in aggregate.headline_pairs()] == ["rft6", "cap1", "nat"]
    verdict = study_verdict(aggregate)
    assert "cap1, which keeps one win per task, wins 37.5 %; the difference from it is" in verdict
    assert "In 1 seed NAT wins 50.0 % and EEF 75.0 %; the difference is +25.0 points" in verdict


def test_the_control_is_known_without_the_method_that_it_is_a_variant_of():
    """Only what keeps one win per task is described so, and other variants stay variants."""
    own = make_method("rft6").options.model_dump(mode="json")
    shared = [
        *(trial("cap1", seed, [1, 1, 0, 0], 2, "rft6", **{**own, "cap": 1}) for seed in (0, 1)),
        *(
            trial("longer", seed, [1, 0, 0, 0], 3, "rft6", **own, **{"overrides.train.updates": 52})
            for seed in (0, 1)
        ),
        *(trial("eef", seed, [1, 1, 1, 0], 4) for seed in (0, 1)),
    ]
    aggregate = make_study(shared).aggregates["rollouts"]
    assert {item.name: item.changes for item in aggregate.methods if item.changes} == {
        "cap1": {"cap": 1},
        "longer": {"overrides.train.updates": 52},
    }
    assert aggregate.control.name == "cap1"
    assert "longer, which keeps one win per task" not in study_verdict(aggregate)


def test_an_override_of_the_method_alone_is_a_difference_of_its_variant():
    trials = [
        *(
            trial("eef", seed, [1, 1, 1, 0], 3, M=5, **{"overrides.train.updates": 52})
            for seed in (0, 1)
        ),
        *(trial("M1", seed, [1, 0, 0, 0], 4, "eef", M=1) for seed in (0, 1)),
    ]
    study = make_study(trials)
    (variant,) = study.aggregates["rollouts"].variants
    assert variant.changes == {"M": 1, "overrides.train.updates": None}
    assert "over M, all else equal" not in study_page(study, ["command"])


def test_a_variant_is_reported_without_the_method_itself():
    trials = [trial("bc", 0, [0, 0, 0, 0], 1), trial("cap1", 0, [1, 0, 0, 0], 2, "rft6", cap=1)]
    assert "cap1" in study_page(make_study(trials), ["command"])


def test_label_noise_of_few_rollouts_has_few_rows():
    few = LabelNoise(1, (StateCount("e", 0, 1, 3), StateCount("e", 1, 2, 4)))
    trials = [replace(trial("eef", seed, [1, 1, 1, 0], 3), label_noise=few) for seed in (0, 1)]
    document = study_markdown(make_study(trials), ["command"])
    assert "| EEF | 3 | any |" in document
    assert "| EEF | 5 |" not in document
    assert "False labels" in study_page(make_study(trials), ["command"])


def test_trained_steps_are_the_students_if_its_rollouts_played_them():
    counts = {"examples": 4, "steps.student-win": 3, "steps.student-failure": 2}
    counts |= {"steps.refined": 1, "steps.expert-failure": 5}
    trials = [replace(trial("nat", 0, [1, 0, 0, 0], 3), selected={1: counts})]
    (item,) = make_study(trials).aggregates["rollouts"].methods
    assert (item.trained_steps.student, item.trained_steps.prefix) == (6, 5)


def test_a_variant_that_repeats_the_control_counts_once():
    """EEF with M = 0 is rejection sampling that keeps one win per task, if the wins agree."""
    shared = [
        *(trial("rft6", seed, [1, 0, 0, 0], 2, cap=None) for seed in (0, 1)),
        *(trial("cap1", seed, [1, 1, 0, 0], 6, "rft6", cap=1) for seed in (0, 1)),
        *(trial("eef", seed, [1, 1, 1, 0], 3, M=5) for seed in (0, 1)),
    ]
    same = [trial("M0", seed, [1, 1, 0, 0], 7, "eef", M=0) for seed in (0, 1)]
    aggregate = make_study([*shared, *same]).aggregates["rollouts"]
    assert {item.name: item.repeats for item in aggregate.methods if item.repeats} == {"M0": "cap1"}
    assert all("M0" not in (pair.first, pair.second) for pair in aggregate.pairs)
    document = study_markdown(make_study([*shared, *same]), ["command"])
    assert "M0 is cap1 by construction" not in document, "no row is left in that table"
    more = [trial("M1", seed, [1, 1, 0, 0], 8, "eef", M=1) for seed in (0, 1)]
    document = study_markdown(make_study([*shared, *same, *more]), ["command"])
    assert "M0 is cap1 by construction" in document
    assert "| minus cap1, points [over tasks and seeds] |" in document
    other = [trial("M0", seed, [1, 1, 1, 0], 7, "eef", M=0) for seed in (0, 1)]
    aggregate = make_study([*shared, *other]).aggregates["rollouts"]
    assert aggregate.pair("M0", "cap1") is not None, "other wins are another measurement"


def test_fewer_examples_mean_more_passes():
    trials = [
        replace(
            trial(name, 0, [1, 0, 0, 0], order),
            settings={"train.batch_size": 4},
            costs={1: {"train": Cost(updates=6)}},
            selected={1: {"examples": examples}},
        )
        for order, (name, examples) in enumerate((("rft6", 24), ("eef", 8)))
    ]
    passes = {item.name: item.passes for item in make_study(trials).aggregates["rollouts"].methods}
    assert passes == {"rft6": 1.0, "eef": 3.0}


def test_methods_of_many_rounds_are_compared_after_their_last():
    """Four rounds of 9 rollouts beside one of 36, with the acts that the last one trains."""
    acts = {"acts": 5, "examples": 0, "groups.mixed": 2}
    grpo = replace(
        trial("grpo", 0, [1, 1, 0, 0], 2),
        rounds=4,
        scores={4: Scores((1.0, 1.0, 0.0, 0.0), (True, True, False, False))},
        costs={round: {"explore": Cost(rollouts=9)} for round in (1, 2, 3, 4)},
        selected={4: acts},
    )
    eef = replace(
        trial("eef", 0, [1, 0, 0, 0], 3),
        costs={1: {"explore": Cost(rollouts=36)}},
        label_noise=None,
    )
    study = make_study([trial("bc", 0, [0, 0, 0, 0], 1), grpo, eef])
    aggregate = study.aggregates["rollouts"]
    assert aggregate.pair("eef", "grpo").over_tasks.mean == -0.25
    document = study_markdown(study, ["command"])
    assert "Rounds: GRPO 4, EEF 1." in document
    assert re.search(r"\| GRPO( \|[^|]*){10} \| 5.0 \| 2.0 \|", document)
    assert re.search(r"\| EEF \| 1.0( \|[^|]*){9} \| – \| – \|", document)
    assert re.search(r"\| GRPO \| 36 \|", document), "rollouts of all rounds"


def test_the_win_rates_over_the_budget_are_a_table():
    """Evaluated after rounds 2 and 4 of four; each round generates 9 rollouts and 90 tokens."""
    few, more = Scores((1.0,) * 4, (True, False, False, False)), Scores((1.0,) * 4, (True,) * 4)
    grpo = replace(
        trial("grpo", 0, [0, 0, 0, 0], 2),
        rounds=4,
        scores={2: few, 4: more},
        costs={round: {"explore": Cost(rollouts=9, generated_tokens=90)} for round in (1, 2, 3, 4)},
    )
    again = replace(grpo, seed=1, scores={2: few, 4: few})
    eef = trial("eef", 0, [1, 1, 0, 0], 3)
    document = study_markdown(make_study([grpo, again, eef]), ["command"])
    assert "| GRPO | 2 | 18 | 180 | 25.0 | 25.0 – 25.0 |" in document
    assert "| GRPO | 4 | 36 | 360 | 62.5 | 25.0 – 100.0 |" in document
    assert "| EEF | 1 | 9 | 90 | 50.0 | 50.0 – 50.0 |" in document
    title = "Win rates on the test tasks over the budget"
    assert title in document
    assert title not in study_markdown(make_study([eef]), ["command"]), "one point is no curve"


def test_difficulty_and_newly_solved_do_not_depend_on_the_number_of_seeds():
    """Two evaluations per seed win tasks a to d 2, 1, 0 and 0 times; the student wins b to d."""

    def aggregate_of(seeds):
        return make_study(
            [
                each
                for seed in range(seeds)
                for each in (
                    trial("expert", seed, [1, 1, 0, 0], 0),
                    trial("bc", seed, [1, 0, 0, 0], 1),
                    trial("eef", seed, [0, 1, 1, 1], 2),
                )
            ]
        ).aggregates["rollouts"]

    for seeds in (1, 7):
        student = next(item for item in aggregate_of(seeds).methods if item.name == "eef")
        assert aggregate_of(seeds).tasks == {"easy": 1, "medium": 1, "hard": 2}
        assert student.solved == {"medium": 1, "hard": 2}
        assert student.newly_solved == (2,) * seeds
    lone = make_study(
        [trial("bc", 0, [0, 0, 0, 0], 1), trial("eef", 0, [1, 1, 1, 1], 2)]
    ).aggregates["rollouts"]
    assert lone.methods[-1].newly_solved == (None,), "the expert's evaluation is missing"


def test_commands_reproduce_the_finished_trials(comparison, tmp_path):
    directory, _ = comparison
    assert eef("report", directory, "--out", tmp_path).exit_code == 0
    document = (tmp_path / "results.md").read_text()
    common = "--budget rollouts=12 --out runs/small-rollouts"
    assert f"eef compare recipes/small.toml --methods rft4 --seeds 1 {common}\n" in document
    assert f"eef compare recipes/small.toml --methods eef --seeds 2 {common}\n" in document
    (tmp_path / "trials/rollouts/eef@0.json").unlink()
    assert eef("report", tmp_path / "trials", "--out", tmp_path).exit_code == 0
    document = (tmp_path / "results.md").read_text()
    assert (
        f"eef compare recipes/small.toml --methods eef --seeds 2 {common} --trial eef@1\n"
        in document
    )


def test_the_versions_of_all_trials_are_listed(comparison, tmp_path):
    directory, _ = comparison
    assert eef("report", directory, "--out", tmp_path).exit_code == 0
    path = tmp_path / "trials/rollouts/rft4@0.json"
    trial = json.loads(path.read_text())
    trial["fingerprint"]["torch"] = "0.1"
    path.write_text(json.dumps(trial))
    assert eef("report", tmp_path / "trials", "--out", tmp_path).exit_code == 0
    torch = json.loads((tmp_path / "study.json").read_text())["fingerprint"]["torch"]
    assert re.fullmatch(r"0\.1, \d+\.\d+.*", torch)


def test_a_comparison_that_has_not_started_has_no_results(comparison, tmp_path):
    directory, _ = comparison
    (tmp_path / "seed0").mkdir()
    for name in ("recipe.json", "fingerprint.json"):
        (tmp_path / "seed0" / name).write_text((directory / "seed0" / name).read_text())
    done = eef("report", tmp_path, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "no trial of the study has started" in done.stderr


def test_a_budget_of_updates_replaces_other_budgets(student):
    recipe = with_budget(as_recipe(small_recipe(student)), "updates=3")
    assert recipe.budget == BudgetSettings()
    assert recipe.train.updates == 3
    assert with_budget(recipe, "tokens=70").budget == BudgetSettings(tokens=70)


def test_a_budget_is_refused_that_a_method_overrides_in_another_unit(student):
    settings = small_recipe(student, methods=["bc", "eef"], options={})
    settings["budget"] = {}
    settings["overrides"] = {"eef": {"budget": {"rollouts": 8}, "train": {"updates": 3}}}
    recipe = as_recipe(settings)
    assert with_budget(recipe, "rollouts=16").of_method("eef").budget.rollouts == 8
    for budget in ("tokens=70", "updates=5"):
        with pytest.raises(ConfigError, match=r"`overrides.eef.budget.rollouts` is set as well"):
            with_budget(recipe, budget)


def test_a_budget_concerns_the_compared_methods_alone(student, tmp_path):
    settings = small_recipe(student, methods=["bc", "rft4", "eef"])
    settings["overrides"] = {"eef": {"budget": {"rollouts": 8}}}
    recipe = write_recipe(tmp_path / "small.json", settings)
    command = ("compare", recipe, "--seeds", 1, "--budget", "tokens=70", "--out", tmp_path / "out")
    refused = eef(*command, "--trial", "rft4@0")
    assert refused.exit_code == 2
    assert "`overrides.eef.budget.rollouts` is set as well" in refused.stderr
    assert "omit `eef` from `--methods`" in refused.stderr
    assert not (tmp_path / "out").exists()
    done = eef(*command, "--methods", "rft4", "--trial", "rft4@0")
    assert done.exit_code == 0, done.stderr
    stored = json.loads((tmp_path / "out/seed0/recipe.json").read_text())
    assert (stored["budget"]["tokens"], stored["overrides"]) == (70, {})


def test_methods_can_be_added_to_a_comparison(comparison):
    directory, command = comparison
    before = (directory / "seed0/eef/round1/evaluation.json").stat().st_mtime_ns
    done = eef(*command, "--methods", "two", "--trial", "two@0")
    assert done.exit_code == 0, done.stderr
    assert (directory / "seed0/eef/round1/evaluation.json").stat().st_mtime_ns == before
    recipe = json.loads((directory / "seed0/recipe.json").read_text())
    assert recipe["methods"] == ["rft4", "eef", "two"]
    assert len((directory / "seed0/two/trajectories.jsonl").read_text().splitlines()) == 12


def test_a_method_that_has_started_keeps_its_options(comparison):
    _, command = comparison
    done = eef(*command, "--methods", "eef", "--set", "options.eef.M=2", "--trial", "eef@0")
    assert done.exit_code == 2
    assert "they differ in: options" in done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--trial", "eef@7"), "is 'eef@7'; expected METHOD@SEED"),
        (("--trial", "eef"), "is 'eef'; expected METHOD@SEED"),
        (("--budget", "seconds=3"), "is 'seconds=3'; expected `rollouts=N`"),
        (("--budget", "rollouts=many"), "expected `rollouts=N`"),
        (("--budget", "rollouts=²"), "expected `rollouts=N`"),
        (("--trial", "eef@²"), "is 'eef@²'; expected METHOD@SEED"),
    ],
)
def test_invalid_options_are_refused(comparison, option, message):
    _, command = comparison
    done = eef(*command, *option)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_directory_without_a_comparison_is_refused(tmp_path):
    done = eef("report", tmp_path)
    assert done.exit_code == 2
    assert "holds no study" in done.stderr


@pytest.mark.parametrize("name", ["study", "careless", "deep-shop"])
def test_the_variants_of_a_study_can_be_made(name):
    recipe = load_recipe(ROOT / f"recipes/{name}.toml")
    variants = {name: make_method(name, recipe.options.get(name)) for name in recipe.methods}
    configured = {
        (repr(variant.options), type(variant), str(recipe.overrides.get(name)))
        for name, variant in variants.items()
    }
    assert len(configured) == len(variants)
