"""Logs of an agent: OpenAI messages, tool calls, closing words, the ticket and its seed.

`python -m ticket_desk.logs logs.jsonl` lets the hasty expert serve 30 tickets.
"""

from __future__ import annotations

import json
import sys

from eef.chat import build_conversation
from eef.chat_template import as_text_arguments, structured
from eef.env import toolset_of
from eef.policy import GREEDY
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import TrajectorySet
from ticket_desk.desk import TicketDesk
from ticket_desk.expert import make_expert


def main(path: str, count: int = 30) -> None:
    env = TicketDesk()
    tools = toolset_of(env)
    tasks = env.tasks("train").head(count)
    specs = [RolloutSpec(task.id, task, None, task.index, 0) for task in tasks]
    parameters = RolloutParameters(sampling=GREEDY, step_limit=env.step_limit)
    played = play(
        specs,
        env=env,
        policy=make_expert(env, "hasty"),
        trajectories=TrajectorySet(),
        parameters=parameters,
    )
    with open(path, "w", encoding="utf-8") as file:
        for item in sorted(played, key=lambda each: each.id):
            talk = build_conversation(tools.prompt, item.steps, item.final_observation, tools=tools)
            messages = as_text_arguments(
                structured((each["role"], each["content"]) for each in talk)
            )
            messages.append({"role": "assistant", "content": "The ticket is closed."})
            row = {
                "id": item.id,
                "task": item.task,
                "episode_seed": item.episode_seed,
                "messages": messages,
                "tools": tools.records(),
            }
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
