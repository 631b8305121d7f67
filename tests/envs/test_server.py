"""The server: AgentGym's API over HTTP, limits on sessions, many clients at once, no leaks."""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.env import StepResult
from eef.envs.registry import make_env
from eef.envs.server import LARGEST_BODY, serve
from eef.envs.sessions import Refusal
from eef.envs.toy import ToyEnv
from eef.errors import ConfigError, EnvError
from eef.task import TaskSet
from eef.utils.sockets import listen
from tests.fakes.env_server import listening, sessions_of

SHOP = {"synthetic": {"products": 100}, "tagger": "words"}
PLAYERS, EPISODE, ROUNDS = 64, 6, 4


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Corridors(ToyEnv):
    """An environment other than WebShop that can be served."""

    @property
    def task_count(self):
        return self.tasks_per_split

    def task(self, index):
        if not 0 <= index < self.task_count:
            raise EnvError(f"no corridor {index}")
        return self.tasks("test")[index]

    def available(self):
        return {"verbs": ["left", "right", "take", "open"]}


@pytest.fixture(scope="module")
def shop():
    return make_env("webshop", SHOP)


def play(env, index, chance):
    """A trace without a server: actions of a random shopper and their results."""
    trace = [(None, env.reset(env.task(index)), env.available())]
    for _ in range(EPISODE):
        can = env.available()
        choices = [f"click[{label}]" for label in can["clickables"]] + [
            "nothing",
            f"search[{env.goal.query} 'é']",
        ]
        action = chance.choice(choices)
        result = env.step(action)
        trace.append((action, result, env.available()))
        if result.terminated:
            break
    return trace


def test_every_request(shop):
    env = shop.clone()
    with listening(sessions_of(shop)) as client:
        assert client.get("/").json() == "ok"
        number = client.post("/create").json()
        assert type(number) is int
        assert client.get("/list_envs").json() == [number]
        seen = client.post("/reset", json={"env_idx": number, "session_id": 3}).json()
        assert seen == [env.reset(3), None]
        at = {"env_idx": number}
        assert (
            client.get("/instruction_text", params=at).json()
            == f"Instruction: {env.task(3).instruction}"
        )
        assert client.get("/available_actions", params=at).json() == {
            "has_search_bar": True,
            "clickables": ["search"],
        }
        for action in (
            f"search[{env.goal.query}]",
            f"click[{env.goal.asin}]",
            "Click[x]",
            "click[buy now]",
        ):
            told, result = (
                client.post("/step", json={**at, "action": action}).json(),
                env.step(action),
            )
            assert told == {
                "state": result.observation,
                "reward": result.reward,
                "done": result.terminated,
                "info": None,
                "score": result.reward,
                "success": result.reward >= env.success_threshold,
            }
            assert client.get("/observation", params=at).json() == result.observation
            assert client.get("/available_actions", params=at).json() == env.available()
        assert told["done"] is True
        assert (
            client.post("/reset", json={**at, "session_id": None})
            .json()[0]
            .startswith("WebShop [SEP] Instruction:")
        )
        assert client.post("/close", json=at).json() == {"closed": True}
        assert client.post("/close", json=at).json() == {"closed": False}
        assert client.get("/list_envs").json() == []


@pytest.mark.parametrize(
    ("verb", "path", "sent", "status", "words"),
    [
        ("POST", "/step", {"content": b"{"}, 422, "Invalid JSON"),
        ("POST", "/step", {"content": b""}, 422, "Invalid JSON"),
        ("POST", "/step", {"content": b"\xff\xfe"}, 422, "JSON"),
        ("POST", "/step", {"json": {"env_idx": 0}}, 422, "action: Field required"),
        (
            "POST",
            "/step",
            {"json": {"env_idx": "0", "action": "x"}},
            422,
            "env_idx: Input should be a valid integer",
        ),
        ("POST", "/step", {"json": {"env_idx": True, "action": "x"}}, 422, "env_idx"),
        (
            "POST",
            "/step",
            {"json": {"env_idx": 0, "action": 5}},
            422,
            "action: Input should be a valid string",
        ),
        ("POST", "/step", {"json": [0, "x"]}, 422, "the body"),
        ("POST", "/step", {"json": {"env_idx": 99, "action": "x"}}, 404, "no session 99: "),
        ("POST", "/step", {"json": {"env_idx": 10**30, "action": "x"}}, 404, "no session "),
        ("POST", "/step", {"content": b"x" * (LARGEST_BODY + 1)}, 413, "at most"),
        (
            "POST",
            "/reset",
            {"json": {"env_idx": 0, "session_id": 10**9}},
            422,
            "unknown goal 1000000000",
        ),
        ("POST", "/reset", {"json": {"env_idx": 0, "session_id": -1}}, 422, "unknown goal -1"),
        ("POST", "/reset", {"json": {"env_idx": 0, "session_id": "a"}}, 422, "session_id"),
        ("GET", "/observation", {}, 422, "env_idx: Field required"),
        ("GET", "/observation", {"params": {"env_idx": "x"}}, 422, "valid integer"),
        ("GET", "/available_actions", {"params": {"env_idx": -1}}, 404, "no session -1: "),
        ("GET", "/step", {}, 405, "Method Not Allowed"),
        ("GET", "/nowhere", {}, 404, "/nowhere"),
    ],
)
def test_a_bad_request_gets_a_reason(bad_requests, verb, path, sent, status, words):
    answer = bad_requests.request(verb, path, **sent)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert words in answer.json()["error"]


def test_a_session_opens_in_a_recorded_state(shop):
    env = shop.clone()
    trace = play(env, 5, random.Random(1))
    observations = [trace[0][1]] + [result.observation for _, result, _ in trace[1:]]
    actions = [action for action, _, _ in trace[1:]]
    with listening(sessions_of(shop)) as client:
        at = {"env_idx": client.post("/create").json(), "session_id": 5}

        def restore(count, **changes):
            record = {"actions": actions[:count], "observations": observations[: count + 1]}
            return client.post("/restore", json={**at, **record, **changes})

        for count in range(len(actions)):
            assert restore(count).json() == [observations[count], None]
            step = {"env_idx": at["env_idx"], "action": actions[count]}
            assert client.post("/step", json=step).json()["state"] == observations[count + 1]
        changed = restore(2, observations=[*observations[:2], "another page"])
        assert changed.status_code == 422
        assert "the observation in the state differs" in changed.json()["error"]
        changed = restore(2, observations=["another page", *observations[1:3]])
        assert "the observation of step 0 differs" in changed.json()["error"]
        short = restore(2, observations=observations[:2])
        assert "2 observations for 2 actions" in short.json()["error"]
        assert "send one before each action" in short.json()["hint"]
        assert "unknown goal" in restore(0, session_id=10**9).json()["error"]


def test_an_episode_that_is_over_cannot_be_opened(shop):
    env = shop.clone()
    pages, actions = [env.reset(env.task(5))], []
    for action in (f"search[{env.goal.query}]", f"click[{env.goal.asin}]", "click[buy now]"):
        pages.append(env.step(action).observation)
        actions.append(action)
    with listening(sessions_of(shop)) as client:
        at = {"env_idx": client.post("/create").json(), "session_id": 5}
        over = client.post("/restore", json={**at, "actions": actions, "observations": pages})
    assert (over.status_code, over.json()["error"]) == (
        422,
        "the episode of webshop/5 is over in this state",
    )


@pytest.fixture(scope="module")
def bad_requests(shop):
    with listening(sessions_of(shop)) as client:
        assert client.post("/create").json() == 0
        yield client
        assert client.post("/step", json={"env_idx": 0, "action": "search[ok]"}).status_code == 200


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None))
)
values = st.recursive(
    scalars,
    lambda parts: (
        st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3)
    ),
    max_leaves=5,
)
bodies = st.one_of(
    st.binary(max_size=30),
    values.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"env_idx": st.just(0) | values},
        optional={
            "action": values,
            "session_id": values,
            "actions": values,
            "observations": values,
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@given(st.sampled_from(["/step", "/reset", "/restore"]), bodies)
def test_any_body_gets_an_answer(bad_requests, path, body):
    answer = bad_requests.post(path, content=body)
    assert answer.status_code in (200, 404, 422)
    assert answer.status_code == 200 or set(answer.json()) == {"error", "hint"}


def test_no_more_sessions_than_allowed(shop):
    with listening(sessions_of(shop, limit=2)) as client:
        numbers = [client.post("/create").json() for _ in range(2)]
        full = client.post("/create")
        assert (full.status_code, full.json()["error"]) == (503, "all 2 sessions are taken")
        client.post("/close", json={"env_idx": numbers[0]})
        assert client.post("/create").json() not in numbers


def test_idle_sessions_are_closed(shop):
    clock = Clock()
    sessions = sessions_of(shop, idle_s=10, clock=clock, limit=2)
    old, used = sessions.create(), sessions.create()
    clock.now = 8
    sessions.step(used, "search[x]")
    clock.now = 15
    assert type(sessions.create()) is int
    with pytest.raises(Refusal, match="idle for 10 s"):
        sessions.step(old, "search[x]")
    result, score = sessions.step(used, "search[x]")
    assert (bool(result.observation), score) == (True, 0.0)
    clock.now = 100
    sessions.expire()
    assert sessions.numbers() == []


def test_idle_sessions_are_closed_without_a_request(shop):
    sessions = sessions_of(shop, idle_s=0.2)
    with listening(sessions) as client:
        client.post("/create")
        while sessions.numbers():
            threading.Event().wait(0.02)


def test_random_tasks_depend_on_the_seed(shop):
    def drawn(seed):
        sessions = sessions_of(shop, seed=seed)
        number = sessions.create()
        return [sessions.reset(number, None) for _ in range(5)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_bug_in_the_environment_is_a_server_error():
    class Broken(Corridors):
        def step(self, action):
            if action == "open":
                raise RuntimeError("the lock is rusty")
            return StepResult("\ud800 half a pair", 0.0, False)

    with listening(sessions_of(Broken())) as client:
        number = client.post("/create").json()
        for _ in range(20):  # the connection is kept: nothing is lost by asking again at once
            answer = client.post("/step", json={"env_idx": number, "action": "open"})
            assert (answer.status_code, "rusty" in answer.json()["error"]) == (500, True)
        answer = client.post("/step", json={"env_idx": number, "action": "left"})
        assert json.loads(answer.content)["state"] == "\ud800 half a pair"


def test_a_session_whose_first_reset_fails_is_closed():
    class Broken(Corridors):
        fails = True

        def reset(self, task):
            if Broken.fails:
                raise EnvError("no corridor")
            return super().reset(task)

    sessions = sessions_of(Broken(), limit=1)
    for _ in range(2):
        with pytest.raises(EnvError, match="no corridor"):
            sessions.create()
    assert sessions.numbers() == []
    Broken.fails = False
    number = sessions.create()
    assert sessions.numbers() == [number]


@pytest.mark.parametrize("action", ["", "left"])
def test_a_step_is_executed_like_that_of_a_rollout(action):
    with listening(sessions_of(Corridors())) as client:
        at = {"env_idx": client.post("/create").json()}
        first = client.post("/reset", json={**at, "session_id": 2}).json()[0]
        seen = client.post("/step", json={**at, "action": action}).json()["state"]
        sent = {**at, "session_id": 2, "actions": [action], "observations": [first, seen]}
        assert client.post("/restore", json=sent).status_code == 200


class StepwiseCorridors(Corridors):
    """Corridors that reward every step; the score is the mean of the last two rewards."""

    def step(self, action):
        return replace(super().step(action), reward=float(action == "right"))

    def score(self, rewards):
        last = list(rewards)[-2:]
        return sum(last) / 2


def test_the_score_is_that_of_the_whole_episode():
    """Of all rewards, by the rule of the environment, also after a restored state."""
    with listening(sessions_of(StepwiseCorridors())) as client:
        at = {"env_idx": client.post("/create").json()}

        def step(action):
            answer = client.post("/step", json={**at, "action": action}).json()
            return answer["reward"], answer["score"], answer["success"]

        first = client.post("/reset", json={**at, "session_id": 2}).json()[0]
        answer = client.post("/step", json={**at, "action": "right"}).json()
        assert (answer["reward"], answer["score"], answer["success"]) == (1.0, 0.5, False)
        assert step("right") == (1.0, 1.0, True)
        sent = {"session_id": 2, "actions": ["right"], "observations": [first, answer["state"]]}
        assert client.post("/restore", json={**at, **sent}).status_code == 200
        assert step("left") == (0.0, 0.5, False)
        client.post("/reset", json={**at, "session_id": 2})
        assert step("left") == (0.0, 0.0, False)


def test_another_environment_can_be_served():
    env = Corridors()
    with listening(sessions_of(Corridors())) as client:
        at = {"env_idx": client.post("/create").json()}
        assert client.post("/reset", json={**at, "session_id": 2}).json()[0] == env.reset(
            env.task(2)
        )
        for action in ("right", "take red", "open"):
            assert (
                client.post("/step", json={**at, "action": action}).json()["state"]
                == env.step(action).observation
            )
        assert client.get("/available_actions", params=at).json() == env.available()


def test_tasks_without_numbers_of_their_own_are_those_of_the_splits():
    env = ToyEnv()
    tasks = {task.index: task for split in ("train", "test") for task in env.tasks(split)}
    sessions = sessions_of(env)
    with listening(sessions) as client:
        at = {"env_idx": client.post("/create").json()}
        for index, task in list(tasks.items())[::50]:
            answer = client.post("/reset", json={**at, "session_id": index})
            assert answer.json() == [env.reset(task), None]
        answer = client.post("/reset", json={**at, "session_id": -1})
        assert (answer.status_code, answer.json()["error"]) == (
            422,
            "toy: no task has the index -1",
        )
        answer = client.get("/available_actions", params=at)
        assert (answer.status_code, "does not list" in answer.json()["error"]) == (404, True)
        drawn = {client.post("/reset", json={**at, "session_id": None}).json()[0] for _ in range(9)}
        assert len(drawn) > 1


def test_an_environment_that_cannot_be_served():
    class Twins(ToyEnv):
        def tasks(self, split):
            return TaskSet.of([replace(task, index=5) for task in super().tasks(split)])

    class Empty(ToyEnv):
        def tasks(self, split):
            raise EnvError("cannot read desk.db")

    class None_(Corridors):
        task_count = 0

    refused = {Twins: "both have the index 5", Empty: "cannot read desk.db", None_: "has no task"}
    for env, problem in ((kind(), problem) for kind, problem in refused.items()):
        with pytest.raises(ConfigError, match=problem):
            serve(env, host="127.0.0.1", port=0, limit=1, idle_s=1, ready=print)
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="cannot listen on"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("concurrent", [False, True])
def test_one_thread_alone_calls_an_environment_unless_it_is_concurrent(concurrent):
    together, callers = threading.Barrier(4), set()

    class Watched(Corridors):
        def note(self):
            callers.add(threading.get_ident())

        def clone(self):
            self.note()
            return super().clone()

        def task(self, index):
            self.note()
            return super().task(index)

        def step(self, action):
            self.note()
            if concurrent:
                together.wait(60)  # all four act at once
            return super().step(action)

        def available(self):
            self.note()
            return super().available()

        def close(self):
            self.note()

    Watched.concurrent = concurrent
    sessions = sessions_of(Watched())
    numbers = [sessions.create() for _ in range(4)]

    def play(number):
        sessions.step(number, "right")
        sessions.available(number)
        sessions.close(number)

    threads = [threading.Thread(target=play, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(callers) == 1) is not concurrent
    assert (threading.get_ident() in callers) is concurrent


def test_a_session_that_cannot_be_closed_is_logged_and_the_others_are_closed(caplog):
    class Sticky(Corridors):
        closed = 0

        def close(self):
            Sticky.closed += 1
            if Sticky.closed == 1:
                raise RuntimeError("stuck")

    clock = Clock()
    sessions = sessions_of(Sticky(), idle_s=10, clock=clock)
    for _ in range(3):
        sessions.create()
    clock.now = 11
    sessions.expire()
    assert (Sticky.closed, sessions.numbers()) == (3, [])
    assert "session 0 could not be closed properly" in caplog.text


def test_a_session_with_a_request_is_not_idle():
    clock = Clock()
    sessions = sessions_of(Corridors(), idle_s=10, clock=clock)
    number = sessions.create()
    with sessions.at(number):
        clock.now = 50
        sessions.expire()
        assert sessions.numbers() == [number]
    clock.now = 55
    sessions.expire()
    assert sessions.numbers() == [number], "it was used at 50"


def test_a_task_that_an_environment_does_not_know_is_refused():
    class ByKey(Corridors):
        def task(self, index):
            return {task.index: task for task in self.tasks("test")}[index]

    sessions = sessions_of(ByKey())
    number = sessions.create()
    with pytest.raises(EnvError, match="no task has the index -5"):
        sessions.reset(number, -5)


async def trace_of(client, trace, index):
    """The same episode over HTTP."""

    async def ask(method, path, **sent):
        answer = await client.request(method, path, **sent)
        assert answer.status_code == 200, answer.text
        return answer.json()

    number = await ask("POST", "/create")
    observation, _ = await ask("POST", "/reset", json={"env_idx": number, "session_id": index})
    found = [
        (None, observation, await ask("GET", "/available_actions", params={"env_idx": number}))
    ]
    for action, *_ in trace[1:]:
        told = await ask("POST", "/step", json={"env_idx": number, "action": action})
        result = StepResult(told["state"], told["reward"], told["done"])
        found.append(
            (action, result, await ask("GET", "/available_actions", params={"env_idx": number}))
        )
    assert await ask("POST", "/close", json={"env_idx": number}) == {"closed": True}
    return found


async def play_at_once(address, traces):
    limits = httpx2.Limits(max_connections=len(traces))
    async with httpx2.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        return await asyncio.gather(
            *(trace_of(client, trace, index) for index, trace in traces.items())
        )


def state_of(pid):
    """Resident memory in MB, threads and open files of a process."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return (
        int(status["VmRSS"].split()[0]) / 1024,
        int(status["Threads"]),
        len(os.listdir(f"/proc/{pid}/fd")),
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_many_clients_get_the_same_episodes_and_leak_nothing(shop):
    env, chance = shop.clone(), random.Random(0)
    traces = {index: play(env, index, chance) for index in range(PLAYERS)}
    command = [
        sys.executable,
        "-m",
        "eef",
        "env",
        "serve",
        "webshop",
        "--port",
        "0",
        "--sessions",
        str(PLAYERS),
    ]
    settings = ["--set", "synthetic.products=100", "--set", "tagger=words"]
    with subprocess.Popen(
        [*command, *settings], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        address, states = server.stdout.readline().strip(), []
        for _ in range(ROUNDS):
            assert asyncio.run(play_at_once(address, traces)) == list(traces.values())
            assert httpx2.get(f"{address}/list_envs").json() == []
            states.append(state_of(server.pid))
        server.terminate()
        assert (server.wait(), server.stdout.read(), server.stderr.read()) == (143, "", "stopped\n")
    memory, threads, files = zip(*states, strict=True)
    assert memory[-1] - memory[1] < 2, states
    assert max(threads) <= 42, states  # starlette's pool has 40
    assert files[-1] <= files[0] + 2, states  # connections that are just being closed
