"""Lessons of the pretrained shop student: no decision to change the page carries loss."""

import random

import pytest

pytest.importorskip("torch")

from benchmarks.smollm2_shop import lesson, read_lessons, write_lessons
from eef.chat import build_conversation
from eef.envs.webshop.expert import BACK, NEXT
from eef.models.loading import load_tokenizer
from eef.renderer import Renderer
from eef.students.webshop import MARKS, play_shop, random_shop

pytestmark = pytest.mark.torch


def test_only_the_reading_of_a_turn_that_changes_the_page_is_trained(tmp_path):
    renderer = Renderer(load_tokenizer("base"))
    played = list(play_shop(random_shop(random.Random(5)), 12, seed=3))
    made = [lesson(each, renderer) for each in played]
    changing = 0
    for trajectory, rendered in zip(played, made, strict=True):
        for number, step in enumerate(trajectory.steps):
            # the tokens of this completion alone
            one = [float(each == number) for each in range(len(trajectory.steps))]
            mask = renderer.render(build_conversation("", trajectory.steps), one)
            ids = [
                (token, weight)
                for token, weight, own in zip(
                    rendered.ids, rendered.weights, mask.weights, strict=False
                )  # `mask` ends with this completion
                if own
            ]
            trained = renderer.tokenizer.decode([token for token, weight in ids if weight])
            untrained = renderer.tokenizer.decode([token for token, weight in ids if not weight])
            if step.action in (NEXT, BACK):
                changing += 1
                assert "click" not in trained
                assert not trained or trained.split()[-1] in MARKS
                assert step.action.split("[")[1][:-1].replace(" ", "") in untrained.replace(" ", "")
            else:
                assert not untrained
    assert changing > 5
    write_lessons(tmp_path / "lessons.npz", made)
    assert read_lessons(tmp_path / "lessons.npz") == made
