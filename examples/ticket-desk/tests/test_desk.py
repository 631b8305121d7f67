"""The desk keeps the protocol, its policies decide the reward, and its logs are verified."""

import json
from dataclasses import replace

from ticket_desk import logs
from ticket_desk.customers import make_case, make_customer
from ticket_desk.desk import SPEC, TicketDesk
from ticket_desk.expert import make_expert

from eef import check_env
from eef.envs.registry import make_env
from eef.importers.importer import Importer
from eef.importers.verify import TaskIndex


def test_it_keeps_the_protocol():
    env = TicketDesk()
    found = check_env(
        env,
        actions=["say[Your address?]", "look_up[x]", "refund[{}]", "cancel[o-1]", "x", "close[]"],
        expert=make_expert(env, "careful"),
    )
    assert found.wins >= 3


def test_the_customer_depends_on_ticket_and_seed_alone():
    case = make_case(7)
    assert make_customer(case, 1) == make_customer(case, 1)
    assert len({make_customer(case, seed).says for seed in range(20)}) > 3
    customer = make_customer(case, 1)
    for _ in range(10):  # a customer leaves in the end
        customer = customer.hear("hm")
    assert (customer.left, customer.says) == (True, "I have waited long enough.")


def test_a_recorded_state_comes_back_with_its_own_customer():
    env = TicketDesk()
    task = env.tasks("train")[0]
    greetings = {env.reset(replace(task, seed=seed)) for seed in range(20)}
    assert len(greetings) > 2
    assert env.reset(task) == env.reset(task)


def test_logs_of_a_production_agent_are_verified(tmp_path):
    path = tmp_path / "logs.jsonl"
    logs.main(str(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 30
    assert rows[0]["messages"][-1]["content"] == "The ticket is closed."
    env = make_env("ticket_desk.desk:SPEC", {})
    importer = Importer(TaskIndex(env, {"train": env.tasks("train")}))
    items = list(importer.trajectories([path]))
    assert importer.report.replayed == 30
    assert len({item.episode_seed for item in items}) == 30
    wins = sum(item.success for item in items)
    assert 10 <= wins <= 25
    assert SPEC.make.name == env.name == "ticket-desk"
