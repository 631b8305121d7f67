"""ScienceWorld's base student: what it reads, what it is taught, and that no recipe plays what it has seen."""

import json
import random
import re
import shutil
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eef.chat import format_completion, parse_completion
from eef.cli import diagnosis as doctor
from eef.envs.scienceworld.tasks import part_of
from eef.errors import ConfigError, EnvError
from eef.models.loading import STUDENTS, load_model
from eef.pipeline.recipe import load_recipe
from eef.policy import Completion, ScriptedPolicy
from eef.renderer import Renderer
from eef.students.builder import make_base, student_settings
from eef.students.scienceworld import (
    COLOURS,
    NUMBERS,
    ScienceStudent,
    exchanged,
    make_lesson,
    play_gold,
    putting,
    science_vocabulary,
    with_slips,
)
from eef.students.tokenizer import build_tokenizer
from eef.trajectory import Author, Step, Trajectory
from tests.fakes import ROOT
from tests.fakes.worlds import needs_java

pytestmark = pytest.mark.torch
RECIPES = ROOT / "recipes"
SHIPPED = STUDENTS / "base-scienceworld"
needs_student = pytest.mark.skipif(
    not SHIPPED.is_dir(), reason="no student for ScienceWorld in this package"
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
    "This room is called the kitchen. In it, you see: \n\ta flower pot 6 (containing a pea plant in the adult "
    "stage, soil)\n\ta red box (containing nothing), 1 glass cup\nA door to the hallway (that is open)"
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
    return Renderer(build_tokenizer(science_vocabulary([*texts, *COLOURS])))


def encode(renderer, text):
    return renderer.tokenizer(text, add_special_tokens=False)["input_ids"]


# --- what it reads -------------------------------------------------------------------------------------------------


def test_what_was_seen_is_one_token_a_word_and_completions_come_back(renderer):
    for step in episode().steps:
        tokens = renderer.tokenizer.tokenize(f"{step.observation} {step.completion}")
        assert not [token for token in tokens if token.startswith("##") or token == "[UNK]"]
        written = renderer.tokenizer.decode(encode(renderer, step.completion))
        assert encode(renderer, written) == encode(renderer, step.completion)
        assert parse_completion(written)[1] == step.action


@needs_student
@needs_java
def test_the_shipped_student_knows_the_words_of_test_variations(monkeypatch, tmp_path):
    """Of what is seen in some of them, few words have to be spelled."""
    monkeypatch.setenv("EEF_CACHE", str(tmp_path))
    recipe = load_recipe(RECIPES / "scienceworld.toml")
    run = Run(tmp_path, recipe)
    renderer = Renderer(load_model("base-scienceworld")[1])
    tokens = []
    for task in run.test_tasks.head(6):
        tokens += renderer.tokenizer.tokenize(run.env.reset(task))
        tokens += renderer.tokenizer.tokenize(run.env.step("go to hallway").observation)
    run.env.close()
    assert "[UNK]" not in tokens
    assert sum(token.startswith("##") for token in tokens) < 0.03 * len(tokens)


# --- what it is taught ---------------------------------------------------------------------------------------------


def test_all_that_it_says_is_taught(renderer):
    lesson = make_lesson(own(episode()), renderer)
    said = [encode(renderer, step.completion) for step in episode().steps]
    assert sum(lesson.weights) == sum(len(ids) + 1 for ids in said)  # each with its end
    assert set(lesson.weights) == {0.0, 1.0}


@given(st.integers(0, 2**31))
def test_words_that_are_alike_are_exchanged_everywhere_alike(renderer, seed):
    ids = make_lesson(own(episode()), renderer).ids
    others = exchanged(ids, renderer, random.Random(seed))
    became = dict(zip(ids, others, strict=True))
    assert [became[token] for token in ids] == list(others)
    assert len(set(became.values())) == len(became)
    for words in (COLOURS, NUMBERS):
        group = set(renderer.tokenizer.convert_tokens_to_ids(list(words)))
        assert len(group) == len(words)
        assert {became[token] for token in group & became.keys()} <= group
        assert [new for token, new in became.items() if token not in group and new in group] == []


@given(st.integers(0, 2**31))
def test_slips_name_what_is_not_there_and_are_not_taught(renderer, seed):
    steps = episode().steps
    other = Step(
        observation="", completion="Action: focus on dove", action="focus on dove", reward=0.0
    )
    here = Step(
        observation="", completion="Action: go to hallway", action="go to hallway", reward=0.0
    )
    turns = with_slips(steps, [other, here], 0.5, random.Random(seed))
    assert [step.action for step, is_own in turns if is_own] == list(ACTIONS)
    assert {step.action for step, is_own in turns if not is_own} <= {"focus on dove"}
    for (_, was_own), (after, _) in pairwise(turns):
        assert (after.observation == "No known action matches that input.") == (not was_own)
    lesson = make_lesson(turns, renderer)
    assert sum(lesson.weights) == sum(len(encode(renderer, step.completion)) + 1 for step in steps)


@given(st.integers(0, 2**31))
def test_a_drill_in_putting_ends_where_the_task_says(renderer, seed):
    words = ("soil", "pea", "plant", "kitchen", "hallway", "cup", "glass", "door")
    told = renderer.tokenizer.decode(putting(renderer, words, random.Random(seed)).ids)
    thing = re.search(r"action: focus on (.*?) <", told)[1]
    box = re.search(r"move it to the (\w+ box)", told)[1]
    assert told.endswith(f"action: move {thing} to {box} <|end|>")
    assert f"a {thing} " in told.split("<|end|>")[0] + " "


def test_another_environment_has_no_course():
    with pytest.raises(ConfigError, match="no base student for 'sciencworld'") as caught:
        student_settings("sciencworld")
    assert caught.value.hint == "did you mean 'scienceworld'?"


@needs_java
def test_it_is_made_from_development_variations(monkeypatch, tmp_path):
    monkeypatch.setenv("EEF_CACHE", str(tmp_path / "cache"))
    settings = ScienceStudent(
        kinds=("find-non-living-thing",),
        tasks=2,
        width=32,
        layers=1,
        drills=20,
        drill_updates=1,
        updates=1,
        batch_size=2,
        threads=1,
    )
    heard = []
    make_base(
        "scienceworld",
        tmp_path / "made",
        settings,
        played=lambda part, parts: heard.append((part, parts)),
    )
    assert heard == [(1, 2), (2, 2)]
    manifest = json.loads((tmp_path / "made/manifest.json").read_text())
    first = part_of("find-non-living-thing", "dev")[0]
    assert manifest["made_from"] == [
        f"scienceworld/find-non-living-thing/{first + n}" for n in range(2)
    ]
    assert load_model(str(tmp_path / "made"))[0].config.hidden_size == 32
    recipe = load_recipe(RECIPES / "scienceworld.toml", [f"model.name={tmp_path / 'made'}"])
    Run.create(tmp_path / "run", recipe).check()
    seen = load_recipe(
        RECIPES / "scienceworld.toml", [f"model.name={tmp_path / 'made'}", "evaluate.split=dev"]
    )
    with pytest.raises(ConfigError, match="was made from 2 of the tasks that the recipe plays"):
        Run.create(tmp_path / "seen", seen).check()


# --- the recipes ---------------------------------------------------------------------------------------------------


@needs_java
def test_the_recipes_train_and_test_on_different_variations(tmp_path):
    for name, train, test in (("scienceworld", 60, 120), ("scienceworld-8b", 1408, 410)):
        run = Run(tmp_path, load_recipe(RECIPES / f"{name}.toml"))
        ids = [{task.id for task in tasks} for tasks in (run.train_tasks, run.test_tasks)]
        assert [len(ids[0]), len(ids[1]), len(ids[0] | ids[1])] == [train, test, train + test]


@needs_student
def test_the_shipped_student_has_seen_development_variations_alone():
    made_from = json.loads((SHIPPED / "manifest.json").read_text())["made_from"]
    assert len(made_from) > 100
    for task in made_from:
        _, kind, variation = task.split("/")
        assert int(variation) in part_of(kind, "dev")


@needs_java
def test_no_student_is_made_of_what_is_left_where_a_path_breaks(monkeypatch):
    monkeypatch.setattr(
        "eef.students.scienceworld.make_expert",
        lambda env, name: Broken(Author("expert", "flawless"), str),
    )
    with pytest.raises(EnvError, match=r"scienceworld/\S+ cannot be learned from: policy: no path"):
        list(play_gold(ScienceStudent(tasks=1), lambda part, parts: None))


class Broken(ScriptedPolicy):
    def act(self, conversations, seeds, sampling):
        return [Completion(text="no path", finish="error") for _ in conversations]


@pytest.mark.long
@needs_student
@needs_java
def test_the_shipped_student_finds_its_way_in_other_variations(monkeypatch, tmp_path):
    """Of flawless episodes in test variations it predicts nearly all that it was taught."""
    monkeypatch.setenv("EEF_CACHE", str(tmp_path))
    monkeypatch.setattr("eef.students.scienceworld.PART", "test")
    model, tokenizer = load_model("base-scienceworld")
    renderer, right = Renderer(tokenizer), []
    for trajectory in play_gold(ScienceStudent(tasks=12), lambda part, parts: None):
        lesson = make_lesson(own(trajectory), renderer)
        with torch.no_grad():
            predicted = (
                model(input_ids=torch.tensor([lesson.ids])).logits[0, :-1].argmax(-1).tolist()
            )
        found = zip(predicted, lesson.ids[1:], lesson.weights[1:], strict=True)
        right += [guess == token for guess, token, weight in found if weight]
    assert sum(right) / len(right) > 0.9


def test_doctor_holds_every_shipped_student_to_its_manifest(tmp_path, monkeypatch):
    shipped = tmp_path / "students"
    shutil.copytree(STUDENTS, shipped)
    monkeypatch.setattr("eef.models.loading.STUDENTS", shipped)
    assert {path.name for path in shipped.iterdir()} == set(doctor.STUDENTS)
    weights = shipped / "base-scienceworld/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = {finding.name: finding.ok for finding in doctor.diagnose()}
    assert (found["student `base`"], found["student `base-scienceworld`"]) == (True, False)
