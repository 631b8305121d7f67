"""`eef env serve` and clients that are slow, half open, oversized, malformed, or many."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eef.envs.server import LARGEST_BODY
from tests.fakes.faults import sizes

SESSIONS = 500
SHOP = ("--set", "synthetic.products=100", "--set", "tagger=words")
BODY = b'{"env_idx": 0, "session_id": 0}'
WELL_FORMED = b"POST /reset HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@pytest.fixture(scope="module")
def address():
    """A server in a process of its own, with one session; it must be in order at the end."""
    command = [sys.executable, "-m", "eef", "env", "serve", "webshop", "--port", "0", *SHOP]
    with subprocess.Popen(
        [*command, "--sessions", str(SESSIONS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        url = server.stdout.readline().strip()
        assert httpx2.post(f"{url}/create").json() == 0
        yield url
        assert_in_order(url)
        server.terminate()
        assert "Traceback" not in server.communicate(timeout=30)[1]


def assert_in_order(url):
    answer = httpx2.post(f"{url}/reset", content=BODY, timeout=30)
    assert (answer.status_code, answer.json()[0][:7]) == (200, "WebShop")


def connect(url):
    host, port = url.removeprefix("http://").split(":")
    return closing(socket.create_connection((host, int(port)), timeout=10))


def answer_to(url, data, *, wait=10.0, end=False):
    """What the server sends to some bytes until it closes the connection or pauses for `wait`
    seconds; with `end`, the client closes its side after them."""
    with connect(url) as client:
        client.settimeout(wait)
        received = b""
        try:
            client.sendall(data)
            if end:
                client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                received += part
        except OSError:  # it pauses, or closed the connection before the end
            pass
        return received


def request(line, *headers, body=b""):
    lines = (line, *headers, f"Content-Length: {len(body)}" if body else "", "Connection: close")
    return "\r\n".join(line for line in lines if line).encode("latin-1") + b"\r\n\r\n" + body


PATHS = (
    "/../../etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//create",
    "/create/",
    "/create/../step",
    "/CREATE",
    "/%00",
    "/reset%0d%0aX-Injected:%20yes",
    "/\xff\xfe",
    "/" + "a" * 60_000,
    "/observation?env_idx=0&env_idx=1",
    "/observation?env_idx=" + "9" * 5000,
    "/observation?" + "&".join(f"k{n}=v" for n in range(5000)),
    "http://elsewhere.example/list_envs",
    "*",
    "create",
)
TRICKS = {
    "no host": request("GET / HTTP/1.1"),
    "two hosts": request("GET / HTTP/1.1", "Host: a", "Host: b"),
    "two lengths": request("POST /reset HTTP/1.1", "Host: x", "Content-Length: 3", body=BODY),
    "negative length": request("POST /reset HTTP/1.1", "Host: x", "Content-Length: -5"),
    "length in words": request("POST /reset HTTP/1.1", "Host: x", "Content-Length: many"),
    "length and chunks": request(
        "POST /reset HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", body=BODY
    ),
    "unknown coding": request("POST /reset HTTP/1.1", "Host: x", "Transfer-Encoding: gzip"),
    "bad chunk": request("POST /reset HTTP/1.1", "Host: x", "Transfer-Encoding: chunked")
    + b"zz\r\nhello\r\n0\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\nX: y\r\n\tz\r\n\r\n",
    "header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "large header": request("GET / HTTP/1.1", "Host: x", "X: " + "y" * 200_000),
    "many headers": request("GET / HTTP/1.1", "Host: x", *(f"X{n}: y" for n in range(5000))),
    "websocket": request(
        "GET / HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: eA==",
    ),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/9.9": request("GET / HTTP/9.9", "Host: x"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "unknown verb": request("BREW /reset HTTP/1.1", "Host: x", body=BODY),
    "TRACE": request("TRACE / HTTP/1.1", "Host: x"),
    "CONNECT": request("CONNECT elsewhere:443 HTTP/1.1", "Host: x"),
    "HEAD": request("HEAD / HTTP/1.1", "Host: x"),
    "newlines only": b"\n\r\n\n\r\n" * 1000,
    "nothing": b"",
    "pipelined": (WELL_FORMED + BODY) * 20,
    "body cut short": request("POST /reset HTTP/1.1", "Host: x", body=BODY)[:-5],
    "oversized": request("POST /reset HTTP/1.1", "Host: x", body=b" " * (LARGEST_BODY + 1)),
    "oversized by its length": request(
        "POST /reset HTTP/1.1", "Host: x", f"Content-Length: {10**15}"
    ),
    "oversized in chunks": request("POST /reset HTTP/1.1", "Host: x", "Transfer-Encoding: chunked")
    + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 20,
    "deep": request("POST /reset HTTP/1.1", "Host: x", body=b"[" * 100_000),
    "long number": request(
        "POST /reset HTTP/1.1", "Host: x", body=b'{"env_idx": 1%s}' % (b"0" * 100_000)
    ),
}


@pytest.mark.parametrize("path", PATHS, ids=[path[:30] for path in PATHS])
def test_odd_paths_get_an_answer_of_the_server(path, address):
    received = answer_to(address, request(f"GET {path} HTTP/1.1", "Host: x"))
    assert re.match(rb"HTTP/1.1 (200|400|404|405|414|422|431) ", received), received[:200]
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"X-Injected" not in head
    assert b"root:" not in body


@pytest.mark.parametrize("trick", TRICKS)
def test_odd_requests_get_an_answer_or_a_closed_connection(trick, address):
    received = answer_to(address, TRICKS[trick], wait=0.3)
    answer_to(address, TRICKS[trick], end=True)
    assert not received or re.match(rb"HTTP/1.1 [245]\d\d ", received), received[:200]
    assert b"Traceback" not in received
    assert not received.startswith(b"HTTP/1.1 500")
    assert_in_order(address)


@sizes(40, 2000, "requests")
def test_random_bytes_do_no_harm(requests, address):
    lines = st.sampled_from([b"GET / HTTP/1.1", b"POST /step HTTP/1.1", b"Host: x", b""])
    parts = lines | st.binary(max_size=40) | st.just(b"Content-Length: 9")

    @settings(max_examples=requests)
    @given(st.lists(parts, max_size=8).map(b"\r\n".join))
    def check(data):
        received = answer_to(address, data, end=True)
        assert not received or re.match(rb"HTTP/1.1 [24]\d\d ", received), received[:200]

    check()
    assert_in_order(address)


@sizes(100, 400, "clients")
def test_slow_and_half_open_clients_do_not_keep_others_waiting(clients, address):
    """Clients that send one byte at a time, or half a request, while others are answered."""
    data = WELL_FORMED + BODY
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(address)) for _ in range(clients)]
        for number, client in enumerate(slow):
            client.sendall(data[: number % len(data)])
        started = time.monotonic()
        for at in range(20):
            for client in slow[:10]:  # these begin with bytes 0 to 9 and go on
                number = slow.index(client)
                client.sendall(data[number + at : number + at + 1])
            assert_in_order(address)
        assert time.monotonic() - started < 30
        last = slow[-1]
        last.sendall(data[(clients - 1) % len(data) :])
        assert last.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert_in_order(address)


@sizes(60, SESSIONS - 1, "sessions")
def test_many_sessions_at_once(sessions, address):
    """Each session sees its own task; one more than the limit is refused."""

    async def play(client, index):
        number = (await client.post("/create")).json()
        reset = {"env_idx": number, "session_id": index % 5}
        observation = (await client.post("/reset", json=reset)).json()[0]
        action = {"env_idx": number, "action": "search[blue]"}
        step = (await client.post("/step", json=action)).json()
        text = await client.get("/instruction_text", params={"env_idx": number})
        return number, index % 5, observation, step["state"], text.json()

    async def everyone():
        limits = httpx2.Limits(max_connections=100)
        async with httpx2.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
            return await asyncio.gather(*(play(client, index) for index in range(sessions)))

    played = asyncio.run(everyone())
    by_task = {}
    for _, task, *seen in played:
        by_task.setdefault(task, set()).add(tuple(seen))
    assert {task: len(seen) for task, seen in by_task.items()} == dict.fromkeys(range(5), 1)
    numbers = [number for number, *_ in played]
    assert len(set(numbers)) == sessions
    if sessions == SESSIONS - 1:
        refused = httpx2.post(f"{address}/create")
        assert refused.status_code == 503
        assert json.loads(refused.content)["error"] == f"all {SESSIONS} sessions are taken"
    with httpx2.Client(base_url=address) as client:
        for number in numbers:
            assert client.post("/close", json={"env_idx": number}).json() == {"closed": True}
        assert client.get("/list_envs").json() == [0]
