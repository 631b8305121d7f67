"""Notes: requested once, stored, requested again if unusable, resumed after an interruption."""

from __future__ import annotations

import pytest

from eef.envs.toy import ToyEnv
from eef.errors import EnvError, ModelError, StoreError
from eef.note import Note
from eef.policy import Completion
from eef.rollouts.ask import ask_into_store, note_specs
from eef.rollouts.store import NOTES_FILE, Store, read_trajectories
from eef.selection import PlannedNote
from tests.fakes.roles import fake_role

TASKS = {task.id: task for task in ToyEnv().tasks("train").head(6)}


def number(text):
    return int(text)


def planned(count=2, check=number):
    return [
        PlannedNote("judge", task, task, f"How many in {task}?", count, check) for task in TASKS
    ]


def specs(**options):
    return note_specs(planned(**options), TASKS, owner="m", round=1, seed=3)


def test_a_note_holds_its_question_and_what_it_cost(tmp_path):
    role = fake_role(lambda question, seed: "3", "judge")
    with Store.open(tmp_path) as store:
        ask_into_store(specs(), store, {"judge": role}, 4)
    notes = read_trajectories(tmp_path).notes
    assert len(notes) == 12
    note = notes[f"m/round1/judge/{next(iter(TASKS))}#1"]
    assert note.question == f"The task is:\n{note.instruction}\n\nHow many in {note.task}?"
    assert (note.text, note.problem, note.usage.completions, note.author) == ("3", "", 1, "fake")
    assert role.policy.prompts[0].endswith("You walk.")
    assert notes.usable("judge", note.about) == notes.about("judge", note.about, range(2))
    assert notes.about("judge", note.about, range(2, 5)) == []


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "empty"),
        ("<think>so</think>", "empty"),
        ("some prose", "invalid literal"),
        (Completion(text="12", finish="length"), "longer than 50 tokens"),
        (Completion(text="", finish="overflow"), "longer than the role's context"),
        (Completion(text="refused", finish="error", refused=True), "no answer: refused"),
    ],
)
def test_an_unusable_text_is_requested_once_more_and_then_skipped_by_name(
    tmp_path, caplog, answer, problem
):
    role = fake_role(lambda question, seed: answer, "judge")
    with Store.open(tmp_path) as store:
        ask_into_store(specs(count=1), store, {"judge": role}, 4)
        assert len(role.policy.questions) == 12
        ask_into_store(specs(count=1), store, {"judge": role}, 4)
        assert len(role.policy.questions) == 12  # not a third time
        notes = list(store.trajectories.notes)
    assert all(problem in note.problem for note in notes)
    assert {
        (note.usage.completions, note.usage.repeated, note.usage.skipped) for note in notes
    } == {(2, 1, 1)}
    assert f"note `{notes[0].id}` is skipped: {notes[0].problem}" in caplog.text


def test_a_note_without_an_answer_is_not_skipped_but_requested_by_the_next_call(tmp_path):
    """A server that is down has nothing to say about the task; one that refuses has."""
    down = set(list(TASKS)[:2])

    def answer(question, seed):
        lost = any(f"How many in {task}?" in question for task in down)
        return Completion(text="time-out", finish="error") if lost else "3"

    role = fake_role(answer, "judge")
    with Store.open(tmp_path) as store:
        with pytest.raises(ModelError, match=r"2 of 6 notes have no answer; .*no answer: time-out"):
            ask_into_store(specs(count=1), store, {"judge": role}, 2)
        assert len(store.trajectories.notes) == 4
        assert len(role.policy.questions) == 4 + 2 * 2
        down.clear()
        ask_into_store(specs(count=1), store, {"judge": role}, 2)
        notes = list(store.trajectories.notes)
    assert len(role.policy.questions) == 4 + 2 * 2 + 2
    assert {(note.text, note.problem) for note in notes} == {("3", "")}


def test_a_second_answer_counts_if_it_is_usable(tmp_path):
    asked = []

    def answer(question, seed):
        asked.append(question)
        return "7" if asked.count(question) > 1 else "seven"

    with Store.open(tmp_path) as store:
        ask_into_store(specs(count=1), store, {"judge": fake_role(answer, "judge")}, 4)
        notes = list(store.trajectories.notes)
    assert {
        (note.text, note.problem, note.usage.repeated, note.usage.skipped) for note in notes
    } == {("7", "", 1, 0)}


@pytest.mark.parametrize("replays", ["alone", "batch"])
def test_an_interrupted_request_continues_and_ends_with_the_same_notes(tmp_path, replays):
    def answer(question, seed):
        return str(seed)

    class Interrupted(Exception):
        pass

    def stop(progress):
        if progress.done == 8:
            raise Interrupted

    role = fake_role(answer, "judge")
    role.policy.replays = replays
    with Store.open(tmp_path / "whole") as store:
        ask_into_store(specs(), store, {"judge": role}, 4)
    with Store.open(tmp_path / "cut") as store, pytest.raises(Interrupted):
        ask_into_store(specs(), store, {"judge": role}, 4, on_progress=stop)
    file = tmp_path / "cut" / NOTES_FILE
    file.write_bytes(file.read_bytes()[:-7])  # torn in the middle of a line
    asked = len(role.policy.questions)
    with Store.open(tmp_path / "cut") as store:
        assert len(store.trajectories.notes) == 7
        ask_into_store(specs(), store, {"judge": role}, 4)
    assert len(role.policy.questions) - asked == (5 if replays == "alone" else 8)
    whole, cut = (list(read_trajectories(tmp_path / name).notes) for name in ("whole", "cut"))
    assert cut == whole


def test_notes_are_unique_and_about_known_tasks(tmp_path):
    with pytest.raises(EnvError, match="no task 'toy/x'"):
        note_specs([PlannedNote("a", "toy/x", "x", "?")], TASKS, owner="m", round=1, seed=0)
    with Store.open(tmp_path) as store:
        ask_into_store(specs(count=1)[:1], store, {"judge": fake_role(lambda *_: "1", "judge")}, 4)
        (note,) = store.trajectories.notes
        with pytest.raises(StoreError, match="occurs twice"):
            store.append_note(note)
    assert Note.from_record(note.to_record()) == note
