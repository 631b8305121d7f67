"""Train with TRL's GRPO from recorded states of a served environment.

    eef env serve webshop …              # prints the address
    python train.py --model MODEL --server http://127.0.0.1:PORT

`eef export DIR --to trl --as prompts` writes this file as `train.py`, next to `prompts.jsonl`. It
needs `trl` and nothing of `eef`. Every rollout opens a session at the server and restores the state
of its prompt there, where the recorded actions are replayed and every observation is compared. The
model then acts until the episode or its steps end; observations are masked. The reward is the score
of the whole episode. Rollouts of a batch are generated turn by turn with the
model's own `generate`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_MARK = "the-turn-of-the-model"
_ACTION = re.compile(r"action:[ \t]*(.*)", re.IGNORECASE)


class Episode:
    """A session at the server, in the state of a row of `prompts.jsonl`."""

    def __init__(self, server: str, row: dict[str, Any]) -> None:
        self.server, self.number = server, None
        self.number = self._post("/create")
        self.messages = list(row["prompt"])
        self.left, self.score, self.done = row["steps_left"], 0.0, False
        self._post(
            "/restore",
            session_id=row["task_index"],
            actions=row["actions"],
            observations=row["observations"],
            seed=row["seed"],
        )

    def act(self, completion: str) -> str:
        """Execute the action of a completion; returns the next observation."""
        found = _ACTION.findall(completion)
        result = self._post("/step", action=found[-1].strip() if found else "")
        self.left -= 1
        self.score = result["score"]
        self.done = result["done"] or self.left <= 0
        turn = [
            {"role": "assistant", "content": completion},
            {"role": "user", "content": result["state"]},
        ]
        self.messages += turn
        return str(result["state"])

    def close(self) -> None:
        self._post("/close")

    def _post(self, path: str, **fields: Any) -> Any:
        if self.number is not None:
            fields["env_idx"] = self.number
        connection = HTTPConnection(urlsplit(self.server).netloc, timeout=60)
        try:
            body, kind = json.dumps(fields), {"Content-Type": "application/json"}
            connection.request("POST", path, body, kind)
            answer = connection.getresponse()
            value = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{self.server}{path}: {value['error']}")
        return value


def make_rollout_func(
    server: str, rows: Sequence[dict[str, Any]]
) -> Callable[[list[Any], Any], dict[str, Any]]:
    """A `rollout_func` of TRL's GRPOTrainer: one episode for each prompt it is given."""
    by_prompt = {json.dumps(row["prompt"]): row for row in rows}

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        tokenizer = trainer.processing_class
        episodes = [Episode(server, by_prompt[json.dumps(prompt)]) for prompt in prompts]
        texts = [_render(tokenizer, episode.messages) for episode in episodes]
        prompt_ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        completion_ids: list[list[int]] = [[] for _ in episodes]
        mask: list[list[int]] = [[] for _ in episodes]
        while live := [number for number, episode in enumerate(episodes) if not episode.done]:
            contexts = [prompt_ids[number] + completion_ids[number] for number in live]
            for number, new in zip(live, _generate(trainer, contexts), strict=True):
                episode = episodes[number]
                completion = tokenizer.decode(new, skip_special_tokens=True)
                episode.act(completion)
                completion_ids[number] += new
                mask[number] += [1] * len(new)
                if not episode.done:
                    seen = _text_after_turn(tokenizer, episode.messages)
                    if new and new[-1] == tokenizer.eos_token_id:
                        seen = seen.removeprefix(tokenizer.eos_token)
                    ids = tokenizer(seen, add_special_tokens=False)["input_ids"]
                    completion_ids[number] += ids
                    mask[number] += [0] * len(ids)
        for episode in episodes:
            episode.close()
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": completion_ids,
            "logprobs": None,
            "env_mask": mask,
            "episode_reward": [episode.score for episode in episodes],
        }

    return rollout


def episode_reward(completions: Sequence[Any], episode_reward: Sequence[float], **_: Any) -> Any:
    """The reward function: the score of each episode."""
    return list(episode_reward)


def _render(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _text_after_turn(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """The text that the chat template puts between the model's last turn and its next one.

    The turn itself is replaced by a mark: templates may trim a turn, or drop its thoughts.
    """
    marked = [*messages[:-2], {**messages[-2], "content": _MARK}, messages[-1]]
    _, found, after = _render(tokenizer, marked).rpartition(_MARK)
    if not found:
        raise RuntimeError("the chat template does not show the model's turns")
    return after


def _generate(trainer: Any, contexts: Sequence[list[int]]) -> list[list[int]]:
    """The next turn of each context, its end of turn included."""
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    tokenizer, width = trainer.processing_class, max(map(len, contexts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(each)) + each for each in contexts])
    attended = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in contexts])
    model.eval()
    with torch.no_grad():
        written = model.generate(
            ids.to(model.device),
            attention_mask=attended.to(model.device),
            do_sample=True,
            temperature=trainer.args.temperature,
            max_new_tokens=trainer.args.max_completion_length,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=pad,
        )[:, width:].tolist()
    model.train()
    turns = []
    for tokens in written:
        end = tokens.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in tokens else None
        turns.append(tokens[:end])
    return turns


def main() -> None:
    import torch
    from datasets import Dataset  # type: ignore[import-untyped]
    from transformers import AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="a model directory or hub id")
    parser.add_argument("--server", required=True, help="the address `eef env serve` printed")
    parser.add_argument("--out", default="grpo", help="where checkpoints are written")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
    parser.add_argument("--group", type=int, default=8, help="rollouts per state")
    parser.add_argument("--batch", type=int, default=32, help="rollouts per step")
    parser.add_argument("--turn-tokens", type=int, default=96, help="tokens per turn at most")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    options = parser.parse_args()
    lines = (Path(__file__).parent / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    trainer = GRPOTrainer(
        model=options.model,
        processing_class=tokenizer,
        reward_funcs=episode_reward,
        rollout_func=make_rollout_func(options.server, rows),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
        args=GRPOConfig(
            output_dir=options.out,
            max_steps=options.steps,
            num_generations=options.group,
            per_device_train_batch_size=options.batch,
            max_completion_length=options.turn_tokens,
            learning_rate=options.learning_rate,
            logging_steps=1,
            report_to=[],
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
        ),
    )
    trainer.train()
    trainer.save_model(options.out)


if __name__ == "__main__":
    main()
