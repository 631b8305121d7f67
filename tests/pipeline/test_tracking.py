"""Tracking: what trackers get, no point twice, and trackers that fail."""

import pytest

pytest.importorskip("accelerate")

import os
import time
from dataclasses import replace
from types import SimpleNamespace

from accelerate import tracking as accelerate_tracking

from eef.errors import ConfigError
from eef.pipeline import tracking
from eef.pipeline.checks import merge_recipes
from eef.pipeline.run_directory import RECIPE_FILE, RunDirectory
from eef.pipeline.stages import Stage
from eef.pipeline.tracking import Follower, check_trackers, tracked
from eef.rollouts.store import Store
from eef.trajectory import Author
from eef.utils.jsonl import read_json, write_json
from eef.utils.locks import acquire_lock
from eef.utils.progress import Progress, ignore_progress
from tests.fakes.grids import rollout
from tests.fakes.scripted_run import finish, start_run

TRAIN = Stage("eef", 1, "train")
LOSSES = [3.0, 2.0, 1.0, 0.5, 0.25]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two rounds, whose trainings have five losses each."""
    directory = tmp_path_factory.mktemp("tracked") / "run"
    run = finish(start_run(directory, methods=["bc", "eef"], track=["tensorboard", "wandb"])).run
    for path in directory.glob("*/round*/training.json"):
        write_json(path, {**read_json(path), "losses": LOSSES})
    return run


@pytest.fixture
def run(finished):
    """The run without anything tracked."""
    state = finished.path / "tracking" / "state.json"
    state.parent.mkdir(exist_ok=True)
    state.unlink(missing_ok=True)
    return RunDirectory.open(finished.path)


@pytest.fixture
def logged(monkeypatch):
    """What each tracker was given, in order: (tracker, name, value, step)."""
    points = []

    class Recorder(accelerate_tracking.GeneralTracker):
        requires_logging_directory = False
        main_process_only = False
        tracker = None

        def __init__(self, run_name, **options):
            self.options = options
            super().__init__()

        def start(self):
            points.append((self.name, "start", self.options.get("id"), None))

        def store_init_configuration(self, values):
            points.append((self.name, "recipe", values["budget.tokens"], None))

        def log(self, values, step=None, **kwargs):
            points.extend((self.name, key, value, step) for key, value in values.items())

        def log_table(self, title, columns, data):
            points.append((self.name, title, data, None))

        def finish(self):
            points.append((self.name, "finish", None, None))

    class TensorBoard(Recorder):
        name = "tensorboard"

    class WandB(Recorder):
        name = "wandb"

        class tracker:
            define_metric = staticmethod(lambda name, step_metric: None)

    trackers = {"tensorboard": TensorBoard, "wandb": WandB}
    for name, kind in trackers.items():
        monkeypatch.setitem(accelerate_tracking.LOGGER_TYPE_TO_CLASS, name, kind)
    return points


def values(points, name, tracker="tensorboard"):
    return [(point[3], point[2]) for point in points if point[:2] == (tracker, name)]


def no_warning(text):
    raise AssertionError(text)


def test_a_finished_run_is_logged_once(run, logged):
    Follower(run, no_warning).catch_up()
    losses = [*enumerate(LOSSES, start=1), *enumerate(LOSSES, start=6)]
    assert values(logged, "eef/loss") == losses
    rates = [(round, run.evaluation("eef", round).success_rate) for round in (1, 2)]
    assert values(logged, "eef/win_rate") == rates
    costs = [run.costs("eef")[Stage("eef", round, "explore")].rollouts for round in (1, 2)]
    assert [value for _, value in values(logged, "eef/cost/rollouts")] >= [costs[0], sum(costs)]
    assert values(logged, "eef/select/examples")
    assert values(logged, "expert/explore/wins")
    (_, table), *_ = values(logged, "eef/explore/sample", "wandb")
    assert 1 <= len(table) <= 8
    assert all("/" in row[1] for row in table)
    (_, text), *_ = values(logged, "eef/evaluate/sample")
    assert text.startswith("| rollout | task | won |")
    before = len(logged)
    Follower(run, no_warning).catch_up()
    assert [point[1] for point in logged[before:]] == ["start", "start"]


def test_a_resumed_run_continues_the_tracked_run(run, logged):
    for _ in range(2):
        Follower(run, no_warning).close()
    first, second = (id for _, id in values(logged, "start", "wandb"))
    assert first == second
    assert len(values(logged, "recipe")) == 1


def test_losses_of_a_resumed_training_are_logged_once(run, logged):
    follower = Follower(run, no_warning)

    def report(done, *losses):
        follower.follow(Progress(TRAIN, done, 5, losses=losses))

    report(1, 3.0)
    report(2, 2.0)
    report(3, 1.0)
    again = Follower(run, no_warning)  # resumed from the training checkpoint of update 2
    again.follow(Progress(TRAIN, 3, 5, losses=(3.0, 2.0, 1.0)))
    again.follow(Progress(TRAIN, 4, 5, losses=(0.5,)))
    again.follow(Progress(TRAIN, 0, 0, finished=True))  # one report was lost
    assert values(logged, "eef/loss") == list(enumerate(LOSSES, start=1))
    steps = [point[2] for point in logged if point[:2] == ("wandb", "eef/update")]
    assert steps == [1, 2, 3, 4, 5]


def test_a_tracker_that_fails_warns_once_and_the_others_go_on(run, logged, monkeypatch):
    def fail(self, values, step=None):
        raise RuntimeError("no network\ntraceback …")

    monkeypatch.setattr(accelerate_tracking.LOGGER_TYPE_TO_CLASS["wandb"], "log", fail)
    warnings = []
    follower = Follower(run, warnings.append)
    follower.catch_up()
    follower.close()
    assert warnings == [
        "note: the tracker `wandb` fails and gets nothing more from this run: no network"
    ]
    assert len(values(logged, "eef/loss")) == 10


def test_a_tracker_without_a_login_warns_once(run, logged, monkeypatch):
    def start(self):
        raise SystemExit("api_key not configured (no-tty)")

    monkeypatch.setattr(accelerate_tracking.LOGGER_TYPE_TO_CLASS["wandb"], "start", start)
    warnings = []
    Follower(run, warnings.append).catch_up()
    assert len(warnings) == 1
    assert "api_key not configured" in warnings[0]
    assert len(values(logged, "eef/win_rate")) == 2


def test_a_missing_package_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(tracking, "require_package", lambda *arguments: None)
    with pytest.raises(ConfigError, match="needs the package `comet-ml`"):
        check_trackers(["comet_ml"])
    with pytest.raises(ConfigError, match="needs the package `tensorboard`") as caught:
        check_trackers(["tensorboard"])
    assert caught.value.hint == "install it: `pip install 'eef[track]'`"
    check_trackers([])


def test_trackers_may_change_during_a_run(run):
    changed = run.recipe.model_copy(update={"track": ()})
    assert merge_recipes(run.path / RECIPE_FILE, changed).track == ()


def test_a_run_that_is_not_tracked_starts_nothing(run):
    run.recipe = run.recipe.model_copy(update={"track": ()})
    with tracked(run, ignore_progress) as report:
        assert report is ignore_progress


def test_rollouts_of_an_agent_are_in_the_sample(tmp_path):
    run = start_run(tmp_path / "run").run
    played = rollout("eef/round1/toy/1@0#0", None, "win")
    with Store.open(run.store("eef")) as store:
        store.append(replace(played, author=Author("agent", "large")))
    [row] = Follower(run, no_warning)._sample(Stage("eef", 1, "explore"))
    assert row[0] == played.id


# the process that tracks


class Messages:
    """Messages that end, before which something happens."""

    def __init__(self, before_the_end):
        self._rest = [Progress(TRAIN, 1, 5, losses=(3.0,)), before_the_end]

    def get(self):
        message = self._rest.pop(0)
        return message() if callable(message) else message


@pytest.mark.parametrize("ends", [True, False])
def test_one_process_at_a_time_tracks_a_run(run, logged, monkeypatch, ends):
    monkeypatch.setattr(tracking, "_redirect_output", lambda path: None)
    monkeypatch.setattr(tracking.os, "_exit", lambda status: None)
    sent = []
    warnings = SimpleNamespace(send=sent.append)
    with acquire_lock(run.path / "tracking" / "state.lock") as other:
        tracking._track(run.path, Messages(other.close if ends else lambda: None), warnings)
        if not ends:
            assert logged == []
        else:
            assert len(values(logged, "eef/loss")) == 10
            assert values(logged, "finish")
    assert [text.startswith("note: another process tracks this run") for text in sent] == [True]


def hang(path, messages, warnings):
    time.sleep(60)


def crash(path, messages, warnings):
    os._exit(3)


@pytest.mark.parametrize(
    ("target", "seconds", "note"), [(hang, 1, "was not done in time"), (crash, 60, "ended early")]
)
def test_a_process_that_fails_stops_nothing(run, monkeypatch, caplog, target, seconds, note):
    monkeypatch.setattr(tracking, "_track", target)
    monkeypatch.setattr(tracking, "SECONDS_TO_END", seconds)
    reports = []
    with tracked(run, reports.append) as report:
        for done in range(2000):
            report(Progress(TRAIN, done, 2000, losses=(0.5,) * 100))
    assert len(reports) == 2000
    assert note in caplog.text


def test_tensorboard_has_the_run(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.recipe = run.recipe.model_copy(update={"track": ("tensorboard",)})
    write_json(run.path / RECIPE_FILE, run.recipe.model_dump(mode="json"))
    with tracked(run, ignore_progress):
        pass
    events = EventAccumulator(str(run.path / "tracking" / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("eef/loss")]
    assert losses == [*enumerate(LOSSES, start=1), *enumerate(LOSSES, start=6)]
    assert len(events.Scalars("eef/win_rate")) == 2
    assert "eef/explore/sample/text_summary" in events.Tags()["tensors"]
