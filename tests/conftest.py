"""Settings of the whole suite: one thread per process, no deadlines; parts of a small run."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

from tests.fakes.small_run import save_student, small_recipe, write_recipe

settings.register_profile("eef", deadline=None, max_examples=40)
settings.load_profile("eef")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def recipe(student, tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe") / "small.json", small_recipe(student))
