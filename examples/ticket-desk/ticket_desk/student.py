"""A small student that calls tools, for a machine without a GPU.

`python -m ticket_desk.student DIR` writes it.

It has random weights and a vocabulary of this desk. On a GPU, take a model of a hub whose chat
template renders tools, for example `hf/Qwen/Qwen2.5-0.5B-Instruct`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from eef.env import toolset_of
from eef.students.builder import build_model
from ticket_desk.desk import TicketDesk
from ticket_desk.expert import make_expert

TEMPLATE = (
    "{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|end|>"
    "{% endif %}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% for call in message['tool_calls'] %}{% if message['content'] or not loop.first %}\n"
    '{% endif %}<tool_call>\n{"name": "{{ call.function.name }}", "arguments": '
    "{{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")


def main(directory: str) -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = build_model(tokenizer, width=96, layers=3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    print(Path(directory))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the desk's own words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",  # noqa: S106
        pad_token="<|end|>",  # noqa: S106
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.chat_template = TEMPLATE
    return fast


def _texts() -> list[str]:
    env = TicketDesk()
    expert = make_expert(env, "careful")
    texts = [env.prompt, *(str(each) for each in toolset_of(env).records())]
    for task in env.tasks("train"):
        talk = [{"role": "user", "content": env.reset(task)}]
        for _ in range(env.step_limit):
            from eef.env import execute
            from eef.policy import GREEDY
            from eef.react import parse_completion

            (turn,) = expert.act([talk], [0], GREEDY)
            result = execute(env, parse_completion(turn.text)[1] or "")
            talk += [
                {"role": "assistant", "content": turn.text},
                {"role": "user", "content": result.observation},
            ]
            if result.terminated:
                break
        texts += [each["content"] for each in talk]
    return texts


if __name__ == "__main__":
    main(sys.argv[1])
