"""ScienceWorld's base student: tokenizer, lessons, and disjoint training and recipe tasks."""

import json
import random
import re
import shutil
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eef.cli.doctor import check_machine
from eef.envs.scienceworld.tasks import part_of
from eef.errors import ConfigError, EnvError
from eef.models.loading import load_model
from eef.models.location import SHIPPED as SHIPPED_FOR
from eef.models.location import STUDENTS
from eef.pipeline.context import RunContext
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import load_recipe
from eef.pipeline.run_directory import RunDirectory
from eef.policy import Completion, ScriptedPolicy
from eef.react import format_completion, parse_completion
from eef.renderer import Renderer
from eef.students.builder import build_student, student_settings
from eef.students.scienceworld import (
    COLORS,
    NUMBERS,
    ScienceStudentSettings,
    insert_distractors,
    make_lesson,
    permute_words,
    play_gold,
    putting,
    science_vocabulary,
)
from eef.students.tokenizer import build_tokenizer
from eef.trajectory import Author, Step, Trajectory
from eef.utils.progress import ignore_progress
from tests.fakes import ROOT
from tests.fakes.worlds import needs_java

pytestmark = pytest.mark.torch
RECIPES = ROOT / "recipes"
SHIPPED = STUDENTS / "base-scienceworld"
needs_student = pytest.mark.skipif(
    not SHIPPED.is_dir(), reason="this package has no student for ScienceWorld"
)

ACTIONS = (
    "open door to kitchen",
    "go to kitchen",
    "focus on pea plant",
    "pick up flower pot 6",
    "go to hallway",
    "move flower pot 6 containing pea plant and soil in inventory to red box",
)
PAGE = (
    "This room is called the kitchen. In it, you see: \n\ta flower pot 6 (containing a pea plant "
    "in the adult stage, soil)\n\ta red box (containing nothing), 1 glass cup\nA door to the "
    "hallway (that is open)"
)


def episode():
    steps = [
        Step(
            observation=PAGE,
            completion=format_completion(f"I am to find a(n) plant: {action}.", action),
            action=action,
            reward=0.0,
        )
        for action in ACTIONS
    ]
    return Trajectory(
        id="t",
        task="scienceworld/find-plant/150",
        author=Author("expert", "e"),
        steps=tuple(steps),
        final_observation="",
        status="terminated",
        reward=1.0,
        success=True,
    )


def own(trajectory):
    return [(step, True) for step in trajectory.steps]


@pytest.fixture(scope="module")
def renderer():
    texts = [text for step in episode().steps for text in (step.observation, step.completion)]
    return Renderer(build_tokenizer(science_vocabulary([*texts, *COLORS])))


def encode(renderer, text):
    return renderer.tokenizer(text, add_special_tokens=False)["input_ids"]


# --- tokenizer ------------------------------------------------------------------------------------


def test_seen_words_are_one_token_each_and_completions_round_trip(renderer):
    for step in episode().steps:
        tokens = renderer.tokenizer.tokenize(f"{step.observation} {step.completion}")
        assert not [token for token in tokens if token.startswith("##") or token == "[UNK]"]
        written = renderer.tokenizer.decode(encode(renderer, step.completion))
        assert encode(renderer, written) == encode(renderer, step.completion)
        assert parse_completion(written)[1] == step.action


@needs_student
@needs_java
def test_the_shipped_vocabulary_covers_test_variations(monkeypatch, tmp_path):
    """Few words of some test variations have to be spelled."""
    monkeypatch.setenv("EEF_CACHE", str(tmp_path))
    recipe = load_recipe(RECIPES / "scienceworld.toml")
    context = RunContext(RunDirectory(tmp_path, recipe))
    renderer = Renderer(load_model("base-scienceworld")[1])
    tokens = []
    for task in context.test_tasks.head(6):
        tokens += renderer.tokenizer.tokenize(context.env.reset(task))
        tokens += renderer.tokenizer.tokenize(context.env.step("go to hallway").observation)
    context.env.close()
    assert "[UNK]" not in tokens
    assert sum(token.startswith("##") for token in tokens) < 0.03 * len(tokens)


# --- lessons --------------------------------------------------------------------------------------


def test_every_completion_carries_loss(renderer):
    lesson = make_lesson(own(episode()), renderer)
    completions = [encode(renderer, step.completion) for step in episode().steps]
    assert sum(lesson.weights) == sum(
        len(ids) + 1 for ids in completions
    )  # each with its end token
    assert set(lesson.weights) == {0.0, 1.0}


@given(st.integers(0, 2**31))
def test_colors_and_numbers_are_permuted_consistently(renderer, seed):
    ids = make_lesson(own(episode()), renderer).ids
    others = permute_words(ids, renderer, random.Random(seed))
    became = dict(zip(ids, others, strict=True))
    assert [became[token] for token in ids] == list(others)
    assert len(set(became.values())) == len(became)
    for words in (COLORS, NUMBERS):
        group = set(renderer.tokenizer.convert_tokens_to_ids(list(words)))
        assert len(group) == len(words)
        assert {became[token] for token in group & became.keys()} <= group
        assert [new for token, new in became.items() if token not in group and new in group] == []


@given(st.integers(0, 2**31))
def test_distractors_name_unseen_objects_and_carry_no_loss(renderer, seed):
    steps = episode().steps
    other = Step(
        observation="", completion="Action: focus on dove", action="focus on dove", reward=0.0
    )
    here = Step(
        observation="", completion="Action: go to hallway", action="go to hallway", reward=0.0
    )
    turns = insert_distractors(steps, [other, here], 0.5, random.Random(seed))
    assert [step.action for step, is_own in turns if is_own] == list(ACTIONS)
    assert {step.action for step, is_own in turns if not is_own} <= {"focus on dove"}
    for (_, was_own), (after, _) in pairwise(turns):
        assert (after.observation == "No known action matches that input.") == (not was_own)
    lesson = make_lesson(turns, renderer)
    assert sum(lesson.weights) == sum(len(encode(renderer, step.completion)) + 1 for step in steps)


@given(st.integers(0, 2**31))
def test_a_moving_drill_ends_as_its_task_says(renderer, seed):
    words = ("soil", "pea", "plant", "kitchen", "hallway", "cup", "glass", "door")
    text = renderer.tokenizer.decode(putting(renderer, words, random.Random(seed)).ids)
    thing = re.search(r"action: focus on (.*?) <", text)[1]
    box = re.search(r"move it to the (\w+ box)", text)[1]
    assert text.endswith(f"action: move {thing} to {box} <|end|>")
    assert f"a {thing} " in text.split("<|end|>")[0] + " "


def test_an_environment_without_a_student_is_refused():
    with pytest.raises(ConfigError, match="unknown base student 'sciencworld'") as caught:
        student_settings("sciencworld")
    assert caught.value.hint == "did you mean 'scienceworld'?"


@needs_java
def test_the_student_is_built_from_development_variations(monkeypatch, tmp_path):
    monkeypatch.setenv("EEF_CACHE", str(tmp_path / "cache"))
    settings = ScienceStudentSettings(
        task_groups=("find-non-living-thing",),
        tasks=2,
        width=32,
        layers=1,
        drills=20,
        drill_updates=1,
        updates=1,
        batch_size=2,
        threads=1,
    )
    reports = []
    build_student(
        "scienceworld",
        tmp_path / "student",
        settings,
        on_progress=reports.append,
    )
    played = [(each.done, each.total) for each in reports if each.subject == "playing"]
    assert played == [(1, 2), (2, 2)]
    manifest = json.loads((tmp_path / "student/manifest.json").read_text())
    first = part_of("find-non-living-thing", "dev")[0]
    assert manifest["training_tasks"] == [
        f"scienceworld/find-non-living-thing/{first + n}" for n in range(2)
    ]
    assert load_model(str(tmp_path / "student"))[0].config.hidden_size == 32
    recipe = load_recipe(RECIPES / "scienceworld.toml", [f"model.name={tmp_path / 'student'}"])
    Pipeline.create(tmp_path / "run", recipe).check()
    seen = load_recipe(
        RECIPES / "scienceworld.toml", [f"model.name={tmp_path / 'student'}", "evaluate.split=dev"]
    )
    with pytest.raises(ConfigError, match="was trained on 2 tasks of this recipe"):
        Pipeline.create(tmp_path / "seen", seen).check()


# --- recipes --------------------------------------------------------------------------------------


@needs_java
def test_the_recipes_train_and_test_on_different_variations(tmp_path):
    for name, train, test in (("scienceworld", 60, 120), ("scienceworld-8b", 1408, 410)):
        recipe = load_recipe(RECIPES / f"{name}.toml")
        context = RunContext(RunDirectory(tmp_path, recipe))
        ids = [{task.id for task in tasks} for tasks in (context.train_tasks, context.test_tasks)]
        assert [len(ids[0]), len(ids[1]), len(ids[0] | ids[1])] == [train, test, train + test]


@needs_student
def test_the_shipped_student_was_trained_on_development_variations_only():
    tasks = json.loads((SHIPPED / "manifest.json").read_text())["training_tasks"]
    assert len(tasks) > 100
    for task in tasks:
        _, group, variation = task.split("/")
        assert int(variation) in part_of(group, "dev")


@needs_java
def test_a_failed_gold_path_stops_the_build(monkeypatch):
    monkeypatch.setattr(
        "eef.students.scienceworld.make_expert",
        lambda env, name: FailingPolicy(Author("expert", "flawless"), str),
    )
    with pytest.raises(EnvError, match=r"gold path of scienceworld/\S+ failed: policy: no path"):
        list(play_gold(ScienceStudentSettings(tasks=1), ignore_progress))


class FailingPolicy(ScriptedPolicy):
    def act(self, conversations, seeds, sampling):
        return [Completion(text="no path", finish="error") for _ in conversations]


@pytest.mark.long
@needs_student
@needs_java
def test_the_shipped_student_predicts_test_variations(monkeypatch, tmp_path):
    """It predicts over 90 % of the loss-bearing tokens of flawless episodes in test variations."""
    monkeypatch.setenv("EEF_CACHE", str(tmp_path))
    monkeypatch.setattr("eef.students.scienceworld.SPLIT", "test")
    model, tokenizer = load_model("base-scienceworld")
    renderer, right = Renderer(tokenizer), []
    for trajectory in play_gold(ScienceStudentSettings(tasks=12), ignore_progress):
        lesson = make_lesson(own(trajectory), renderer)
        with torch.no_grad():
            predicted = (
                model(input_ids=torch.tensor([lesson.ids])).logits[0, :-1].argmax(-1).tolist()
            )
        found = zip(predicted, lesson.ids[1:], lesson.weights[1:], strict=True)
        right += [guess == token for guess, token, weight in found if weight]
    assert sum(right) / len(right) > 0.9


def test_doctor_checks_every_shipped_student_against_its_manifest(tmp_path, monkeypatch):
    shipped = tmp_path / "students"
    shutil.copytree(STUDENTS, shipped)
    monkeypatch.setattr("eef.cli.doctor.STUDENTS", shipped)
    assert {path.name for path in shipped.iterdir()} == set(SHIPPED_FOR)
    weights = shipped / "base-scienceworld/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = {check.name: check.ok for check in check_machine()}
    assert (found["student `base`"], found["student `base-scienceworld`"]) == (True, False)
