"""RetroAct: attempts and reflections, what each part is trained on, and evaluation."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from eef.chat import build_conversation
from eef.envs.toy import ToyEnv, make_toy_role, toy_player
from eef.methods.attempts import REFLECT, REFLECTOR
from eef.methods.registry import make_method
from eef.note import Note, NoteSet, RoleUsage
from eef.policy import Completion, ScriptedPolicy
from eef.react import format_completion
from eef.report import status
from eef.rollouts.ask import ask_into_store, note_specs
from eef.rollouts.budget import without
from eef.rollouts.into_store import play_into_store
from eef.rollouts.specs import rollout_specs
from eef.rollouts.store import Store
from eef.selection import PlannedNote, PlannedState
from eef.trajectory import Author, TrajectorySet
from tests.fakes.grids import TASK, expert, rollout
from tests.fakes.roles import Recording, fake_role
from tests.fakes.toy_rollouts import parameters

TASKS = {task.id: task for task in ToyEnv().tasks("train").head(5)}
MEMORY = "Reflections on earlier attempts at this task:"


def agent(obeys=True):
    """Wins if its prompt holds a reflection, and otherwise walks to the left."""
    flawless = toy_player(Author("student", "s"), 1.0)

    def write(conversation, seed):
        if obeys and MEMORY in conversation[0]["content"]:
            return flawless.act([conversation], [seed], None)[0].text
        return format_completion("", "left")

    return Recording(ScriptedPolicy(Author("student", "retroact@round0"), write))


def explore(directory, method, policy, reflector, plan=None):
    """The turns of a round, as the pipeline executes them."""
    plan = plan or (lambda seen: method.plan(seen, list(TASKS), 1))
    states, played = [], []
    with Store.open(directory) as store:
        for _ in range(method.turns):
            asked = None
            while True:
                planned = plan(store.trajectories)
                notes = [item for item in planned if isinstance(item, PlannedNote)]
                if not notes or notes == asked:
                    break
                asked = notes
                specs = note_specs(notes, TASKS, owner="retroact", round=1, seed=0)
                ask_into_store(specs, store, {REFLECTOR: reflector}, 8)
            fresh = [item for item in planned if isinstance(item, PlannedState)]
            states += without(fresh, states)
            specs = rollout_specs(states, TASKS, owner="retroact", round=1, seed=0)
            play_into_store(specs[len(played) :], store, ToyEnv(), policy, parameters())
            played = specs
    return TrajectorySet(store.trajectories, store.trajectories.notes), states


def note(about, text):
    usage = RoleUsage(role=REFLECTOR)
    return Note(
        id=f"note on {about}",
        role=REFLECTOR,
        author="fake",
        round=1,
        task=TASK,
        about=about,
        question=f"{about}?",
        instruction="Open the chest.",
        text=text,
        usage=usage,
    )


def chain(*rewards):
    """Attempts at one task with these rewards and a reflection between any two."""
    items, notes = [], []
    for number, reward in enumerate(rewards):
        texts = [f"{place}. T{place - 1}" for place in range(1, number + 1)]
        suffix = "\n".join([MEMORY, *texts[-3:]]) if texts else ""
        item = rollout(f"r#{number}", None, "win" if reward == 1 else "lose")
        items.append(replace(item, reward=reward, prompt_suffix=suffix))
        notes.append(note(f"r#{number}", f"T{number}"))
    return items, notes[:-1]


def select(items, notes=(), **options):
    method = make_method("retroact", options)
    return method.select(TrajectorySet(items, NoteSet(notes)), [TASK], 1)


def test_the_second_attempt_has_the_reflection_on_the_first_and_there_is_none_after_a_win(tmp_path):
    reflector = fake_role(lambda question, seed: f"Go right, {seed % 7}.", REFLECTOR)
    policy = agent()
    found, states = explore(tmp_path, make_method("retroact"), policy, reflector)
    assert len(states) == 2 * len(TASKS)
    for task in TASKS:
        first, second = found.of_task(task)
        assert (first.success, second.success) == (False, True)
        [reflection] = found.notes.about(REFLECTOR, first.id, range(2))
        assert second.prompt_suffix == f"{MEMORY}\n1. {reflection.text}"
        assert first.prompt_suffix == ""
        log = [step.action for step in first.steps]
        assert reflection.question.count("Action: left") == len(log)
        assert reflection.question.endswith(REFLECT)
    acted = {each[0]["content"].partition(MEMORY)[2] for each in policy.seen}
    assert len(acted) == 1 + len({note.text for note in found.notes})


def test_a_prompt_holds_the_latest_three_reflections(tmp_path):
    reflector = fake_role(lambda question, seed: f"Number {question.count('Number') + 1}.")
    reflector = replace(reflector, name=REFLECTOR)
    method = make_method("retroact", {"attempts": 6})
    found, states = explore(tmp_path, method, agent(obeys=False), reflector)
    assert len(states) == 6 * len(TASKS)
    suffixes = [item.prompt_suffix for item in found.of_task(next(iter(TASKS)))]
    numbers = [[line.partition(".")[0] for line in each.splitlines()[1:]] for each in suffixes]
    assert numbers == [[], ["1"], ["1", "2"], ["1", "2", "3"], ["2", "3", "4"], ["3", "4", "5"]]
    assert len(found.notes) == 5 * len(TASKS)  # none on the last attempt


@pytest.mark.parametrize("answer", ["", Completion(text="so", finish="length")])
def test_without_a_usable_reflection_there_is_no_further_attempt(tmp_path, answer):
    reflector = fake_role(lambda question, seed: answer, REFLECTOR)
    found, states = explore(tmp_path, make_method("retroact"), agent(), reflector)
    assert len(states) == len(TASKS)
    assert all(each.problem and each.usage.skipped for each in found.notes)
    assert make_method("retroact").select(found, list(TASKS), 1).texts == ()


def test_one_attempt_is_an_ordinary_round(tmp_path):
    reflector = fake_role(lambda question, seed: "x", REFLECTOR)
    found, states = explore(tmp_path, make_method("retroact", {"attempts": 1}), agent(), reflector)
    assert states == [PlannedState(task, None, 1) for task in TASKS]
    assert (len(found.notes), reflector.policy.questions) == (0, [])


def test_a_reflection_is_worth_the_gain_of_the_next_attempt():
    items, notes = chain(0.2, 0.5, 0.4, 1.0)
    texts = {text.evidence[0]: text for text in select(items, notes).texts}
    assert {name: text.weight for name, text in texts.items()} == {
        "r#0": pytest.approx(0.3 * 1.2),
        "r#2": pytest.approx(0.6 * 1.4),
    }
    assert (texts["r#0"].question, texts["r#0"].text) == ("r#0?", "T0")
    assert texts["r#0"].evidence == ("r#0", "r#1")
    plain = select(items, notes, alpha=None).texts
    assert [text.weight for text in plain] == pytest.approx([0.3, 0.6])
    halved = select(items, notes, alpha=0.5).texts
    assert [text.weight for text in halved] == pytest.approx([0.3 * 1.4, 0.6 * 1.8])
    assert select(items, notes, trained=False).texts == ()
    assert make_method("retroact", {"trained": False}).roles[REFLECTOR].trained is None


def test_acts_have_the_final_reward_and_the_prompt_that_was_acted_on():
    items, notes = chain(0.0, 0.5, 1.0)
    acts = select(items, notes).acts
    assert [(each.id, each.advantages) for each in acts] == [
        ("r#1", (0.5, 0.5)),
        ("r#2", (1.0, 1.0)),
    ]
    assert [each.prompt_suffix for each in acts] == [item.prompt_suffix for item in items[1:]]
    assert {each.ratio for each in acts} == {"constant"}
    counts = select(items, notes, imitation=False).counts
    assert (
        status._selected(counts)
        == "2 rollouts with an advantage; 1 of 1 group with wins and losses"
    )


def test_won_paths_are_imitated_with_their_prompts_unless_that_is_off():
    items, notes = chain(0.0, 1.0)
    won = expert("w", actions="xyz", win=True)
    selection = select([won, *items], notes)
    assert {each.trajectory: each.prompt_suffix for each in selection.examples} == {
        "r#1": items[1].prompt_suffix,
        "w": "",
    }
    assert select([won, *items], notes, imitation=False).examples == ()
    assert select([won, *items], notes, imitation=False).acts == selection.acts


def test_evaluation_tries_once_unless_success_may_be_known(tmp_path):
    """The first attempt is that of an ordinary evaluation."""
    ordinary = make_method("rft").plan_evaluation(TrajectorySet(), list(TASKS))
    once = make_method("retroact")
    assert once.plan_evaluation(TrajectorySet(), list(TASKS)) == ordinary
    assert (once.attempts, once.roles[REFLECTOR].at_test) == (1, False)
    more = make_method("retroact", {"test_attempts": 3, "attempts": 3})
    assert more.plan_evaluation(TrajectorySet(), list(TASKS)) == ordinary
    assert (more.attempts, more.roles[REFLECTOR].at_test) == (3, True)
    reflector = fake_role(lambda question, seed: "Go right.", REFLECTOR)
    _, states = explore(
        tmp_path,
        more,
        agent(),
        reflector,
        plan=lambda seen: more.plan_evaluation(seen, list(TASKS)),
    )
    assert states[: len(TASKS)] == ordinary
    assert len(states) == 2 * len(TASKS)


def test_the_question_shows_the_whole_log():
    items, _ = chain(0.0, 0.0)
    planned = make_method("retroact").plan(TrajectorySet(items[:1]), [TASK], 1)
    [asked] = [item for item in planned if isinstance(item, PlannedNote)]
    log = build_conversation("", items[0].steps, items[0].final_observation)
    assert all(message["content"] in asked.question for message in log)
    assert (asked.role, asked.about, asked.task) == (REFLECTOR, "r#0", TASK)


def test_a_scripted_reflector_writes_what_the_expert_would_have_done(tmp_path):
    model = make_toy_role(ToyEnv(), "reflector", "flawless")
    reflector = replace(fake_role(lambda question, seed: "", REFLECTOR), policy=model)
    found, _ = explore(tmp_path, make_method("retroact", {"attempts": 2}), agent(), reflector)
    notes = list(found.notes)
    assert len(notes) == len(TASKS)
    assert all(re.fullmatch(r"(Step \d: [a-z ]+\n?)+", note.text) for note in notes)
    assert all(note.text.endswith("open") for note in notes)
