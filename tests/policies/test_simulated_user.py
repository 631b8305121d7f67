"""A user that a model server plays: replay holds although the server never answers alike twice."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from itertools import count
from multiprocessing import get_context

import pytest

pytest.importorskip("openai")

from eef.env_check import check_env
from eef.errors import BudgetError, EnvError, ModelError
from eef.policies.response_cache import ResponseCache
from eef.policies.settings import ApiSettings, UserSettings
from eef.policies.simulated_user import LEAVES, SimulatedUser
from eef.policy import Completion, ScriptedPolicy
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Author, StateRef
from eef.utils import locks
from tests.fakes import ROOT
from tests.fakes.served import chat_answer, serving
from tests.fakes.toy_rollouts import run

SITUATION = "You want a mug."


def unsteady():
    """A server that numbers its answers."""
    numbers = count(1)
    return lambda path, headers, body: chat_answer(f"Answer {next(numbers)}, please.")


def user(base, path, **changes):
    api = ApiSettings(base_url=f"{base}/v1", backoff=0.001, retries=1, **changes.pop("api", {}))
    return SimulatedUser(UserSettings(model="u", api=api, cache=str(path / "u.jsonl"), **changes))


def test_a_message_is_kept_by_conversation_and_seed(tmp_path):
    with serving(unsteady()) as (base, seen):
        mine = user(base, tmp_path)
        first = mine.write(SITUATION, [], 1)
        assert mine.write(SITUATION, [], 1) == first == user(base, tmp_path).write(SITUATION, [], 1)
        assert mine.write(SITUATION, [], 2) != first
        assert mine.write(SITUATION, [("user", first.text), ("agent", "No.")], 1) != first
        assert len(seen) == 3
        asked = json.loads(seen[-1][2])
    assert [each["role"] for each in asked["messages"]] == ["system", "user", "assistant", "user"]
    assert asked["messages"][0]["content"].endswith(SITUATION)
    assert asked["messages"][-1]["content"] == "No."
    assert asked["seed"] == 1


def test_a_user_leaves_at_its_mark_and_one_that_never_ends_is_bounded(tmp_path):
    with serving(lambda *_: chat_answer(f"Thanks! {LEAVES} ignored")) as (base, _):
        assert user(base, tmp_path).write(SITUATION, [], 1) == ("Thanks!", True)
    with serving(unsteady()) as (base, seen):
        mine, talk = user(base, tmp_path, max_messages=3), []
        for _ in range(3):
            message = mine.write(SITUATION, talk, 5)
            assert not message.left
            talk += [("user", message.text), ("agent", "And?")]
        assert mine.write(SITUATION, talk, 5) == ("The user has left.", True)
        assert len(seen) == 3


def test_a_user_that_wrote_nothing_has_not_left(tmp_path):
    """A model that reasons for all of its tokens says nothing."""
    with serving(lambda *_: chat_answer("", finish="length")) as (base, _):
        with pytest.raises(EnvError, match="wrote nothing within 256 tokens") as caught:
            user(base, tmp_path).write(SITUATION, [], 1)
        assert "max_tokens" in caught.value.hint


def test_failures_of_the_server_are_one_line(tmp_path):
    refused = lambda *_: (401, {}, b'{"error": {"message": "bad key"}}')  # noqa: E731
    with serving(refused) as (base, _), pytest.raises(ModelError, match="refuses the key"):
        user(base, tmp_path).write(SITUATION, [], 1)
    down = lambda *_: (503, {}, b"{}")  # noqa: E731
    with serving(down) as (base, _), pytest.raises(EnvError, match="user `u` does not answer"):
        user(base, tmp_path).write(SITUATION, [], 1)
    with serving(unsteady()) as (base, _):
        mine = user(base, tmp_path, api={"max_requests": 1})
        with pytest.raises(BudgetError) as caught:
            mine.write(SITUATION, [], 1)
    assert "`env.user.api.max_requests`" in caught.value.hint


def _record(path, text):
    cache = ResponseCache(path, ApiSettings())
    return cache.record("same", Completion(text=text)).text


def test_two_processes_use_the_first_of_two_answers(tmp_path):
    path = tmp_path / "u.jsonl"
    early = ResponseCache(path, ApiSettings())
    assert early.get("same") is None
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(_record, (path, "theirs")) == "theirs"
    assert early.record("same", Completion(text="mine")).text == "theirs"
    assert early.get("same").text == "theirs"
    with path.open("ab") as file:  # a third process is killed while it writes
        file.write(b'{"question": "torn')
    assert early.record("other", Completion(text="kept")).text == "kept"
    assert ResponseCache(path, ApiSettings()).get("other").text == "kept"


def test_an_answer_is_kept_on_a_disk_without_locks(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    path = tmp_path / "u.jsonl"
    assert ResponseCache(path, ApiSettings()).record("q", Completion(text="paid")).text == "paid"
    assert ResponseCache(path, ApiSettings()).get("q").text == "paid"


def test_the_ticket_desk_with_a_model_as_its_customer(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "ticket-desk"))
    from ticket_desk.desk import DeskSettings, TicketDesk

    speaker = ScriptedPolicy(Author("student", "s"), lambda talk, seed: "Action: say[Why?]")
    with serving(unsteady()) as (base, seen):
        api = ApiSettings(base_url=f"{base}/v1")

        def desk():
            model = UserSettings(
                model="u", api=api, cache=str(tmp_path / "u.jsonl"), max_messages=4
            )
            return TicketDesk(DeskSettings(user=model))

        task = desk().tasks("train")[0]
        [whole] = run([RolloutSpec("e", task, None, 1, 0)], desk(), speaker)
        assert whole.status == "terminated"
        assert whole.final_observation == "The user has left. The customer left."
        asked = len(seen)
        assert asked == 4
        expert = replace(whole, author=Author("expert", "s"))
        specs = [RolloutSpec(f"b{t}", task, StateRef("e", t), t, 1) for t in (1, 2, 3)]
        branches = run(specs, desk(), speaker, [expert])
        assert {item.status for item in branches} == {"terminated"}
        assert len(seen) == asked, "every message of the replays was kept"
        assert check_env(desk(), actions=["say[Why?]"] * 6, episodes=1).tolerated == 0
