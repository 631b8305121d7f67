"""A small student for `workflow`, for a machine without a GPU: `python -m … DIR` writes it.

It has random weights and a vocabulary of this environment's own words; behavior cloning teaches it
the expert's workflows. Real meta-agents are models that write code, such as
`hf/Qwen/Qwen2.5-Coder-7B-Instruct`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from eef.envs.workflow.env import Workflow
from eef.envs.workflow.experts import THOUGHTS, WORKFLOWS, make_expert
from eef.models.checkpoint import save_checkpoint
from eef.policy import Sampling
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.students.builder import build_model
from eef.trajectory import TrajectorySet

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def main(directory: str) -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = build_model(tokenizer, width=96, layers=3)
    save_checkpoint(model, tokenizer, Path(directory), base="none")
    print(directory)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the environment's own words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.chat_template = TEMPLATE
    return fast


def _texts() -> list[str]:
    """The prompt, the expert's workflows, and what the environment shows in some episodes."""
    env = Workflow()
    specs = [RolloutSpec(task.id, task, None, 0, 0) for task in env.tasks("train").head(14)]
    episodes = play(
        specs,
        env=env,
        policy=make_expert(env, "hasty"),
        trajectories=TrajectorySet(),
        parameters=RolloutParameters(sampling=Sampling(), step_limit=env.step_limit),
    )
    shown = [step.observation for episode in episodes for step in episode.steps]
    return [env.prompt, *WORKFLOWS.values(), *THOUGHTS.values(), *shown]


if __name__ == "__main__":
    main(sys.argv[1])
