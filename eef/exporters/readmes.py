"""READMEs: one beside each export, on its files and how to train on them; verl's dataset class."""

from __future__ import annotations

from eef.exporters.chat_template import Comparison

_HEAD = """\
{what}, written by `eef export`.
{promise}
File names in this README are relative to its directory.
"""

EXACT = "The text that carries loss is the text `eef` trains on."
HOSTED = (
    "The messages that carry loss are those `eef` trains on; the chat template of the trainer's "
    "model adds its own text around them."
)

_EXCEPTION = """\
Exception: LLaMA-Factory v1 also applies a message's weight to its header and to the text after its
end of turn (`<|im_start|>assistant\\n` and a newline, in ChatML). These fixed tokens carry loss
there, but not in `eef`."""

READMES = {
    "trl": _HEAD
    + """Each turn's end, `{end}`, is part of it.

- `tokens.parquet`: `input_ids` and `labels` (-100: no loss). No template or tokenizer is needed:

      dataset = datasets.load_dataset("parquet", data_files="tokens.parquet", split="train")
      trl.SFTTrainer(model, trl.SFTConfig(max_length=None), train_dataset=dataset)

  TRL's default `max_length` of 1024 would cut off the last actions.
{messages}
""",
    "axolotl": _HEAD
    + """
    datasets:
      - path: train.jsonl
        ds_type: json
        type: chat_template
        field_messages: messages
        message_property_mappings: {{role: role, content: content}}
        message_field_training: train
        roles_to_train: []
        train_on_eos: turn
        train_on_eot: turn
    eot_tokens: ["{end}"]      # if the model's end of turn is not its end of sequence

Each row ends in a trained turn, as Axolotl requires.
""",
    "llamafactory": _HEAD
    + f"""
- `v0/`: one row per trained action, which is its last message. Set `dataset_dir` to that directory,
  `dataset: eef` and `mask_history: true`. An example with n trained actions is n rows, each of the
  same weight in the loss.
- `v1/`: `loss_weight` on every message.

{_EXCEPTION}
""",
    "llamafactory-v1": _HEAD
    + f"""
`loss_weight` is set on every message.

{_EXCEPTION}
""",
    "ms-swift": _HEAD
    + """
    swift sft --dataset train.jsonl …

`loss` is set on every message; ms-swift applies it to the assistant's. If weights are real numbers,
they are in `loss_scale`, and `--is_binary_loss_scale false` is required.
""",
    "openai": _HEAD
    + """
`weight` (0 or 1) is set on every message of the assistant; no others are trained.
""",
    "together": _HEAD
    + """
`weight` (0 or 1) is set on every message: if some messages have one, Together also trains on all
messages without one.
""",
    "agentgym": _HEAD
    + """
The rows have AgentGym's `conversations[from, value, loss]` and `item_id`. As in AgentGym, the
prompt is in a first user turn that the agent acknowledges (`loss` false).
""",
    "verl": _HEAD
    + """
verl's own multi-turn dataset trains every turn of the assistant. `dataset.py` passes it the token
ids and `loss_mask` of `train.parquet` unchanged:

    data.train_files=train.parquet data.custom_cls.path=dataset.py \\
        data.custom_cls.name=MaskedDataset
""",
    "prompt-completion": _HEAD
    + """
One row per trained action: `prompt` (all text before it, special tokens included), `completion`
(the action and `{end}`) and `weight`. Tokenize both without adding special
tokens, and apply the loss to the completion only.
""",
    "parquet": _HEAD
    + """
The rows of `eef`: `messages` (with `train` and `weight` on each), `input_ids` and `weights` (one
loss weight per token), `meta` (JSON: where each turn comes from, and why it is trained).
""",
    "atif": """\
{what}, in the Agent Trajectory Interchange Format (ATIF v1.6), written by
`eef export`.

`extra.train` and `extra.weight` of a step are what `eef` trains on; `extra` of a document is its
provenance.
{promise}
""",
}
"""Target → the text of its README. `what`, `promise`, `end` (of a turn) and `messages` (of TRL) are
filled in."""

MARKED = """\
- `messages.jsonl`: `messages` with `train` on each. `chat_template.jinja` applies it: set
  `tokenizer.chat_template` to the text of that file and use
  `SFTConfig(assistant_only_loss=True, max_length=None)`. It renders every example to the text that
  `eef` trains on."""

UNMARKED = """\
- `messages.jsonl`: `messages` with `train` on each, for a chat template of your own. There is no
  `chat_template.jinja`: a template with fixed texts around messages would not render every example
  to the text that `eef` trains on."""


def promise_of(found: Comparison, model: str, variables: str, date: str) -> str:
    """The README's section on a trainer that renders messages by the model's chat template.

    `variables` and `date` are those of the run, "" if there are none.
    """
    if found.different:
        return (
            "The text that this trainer trains on is not the text that `eef` trains on: the chat "
            f"template of `{model}`, applied to a whole conversation, changes {found.different} of "
            f"{found.total} texts. The first has {_quote(found.theirs)} instead of "
            f"{_quote(found.ours)}. To train on the same text, export to `trl`, `verl`, "
            "`prompt-completion` or `parquet`, which contain it."
        )
    promise = (
        f"{EXACT} The chat template of `{model}` renders every example to it"
        + (f" if it gets the variables `{variables}`" if found.needs_variables else "")
        + "."
    )
    if date:
        promise += f" The template prints the date on which it is rendered; `eef` used {date}."
    return promise


def _quote(text: str) -> str:
    """A text as Markdown code on one line."""
    shown = text.replace("\n", "\\n").replace("`", "'")
    return f"`{shown}`" if shown else "nothing"


VERL_DATASET = '''\
"""Rows of `eef export --to verl` for verl's SFT trainer: token ids and loss mask unchanged."""

import pandas as pd
import torch
from torch.utils.data import Dataset


class MaskedDataset(Dataset):
    def __init__(self, parquet_files, tokenizer, config=None, processor=None, max_samples=-1):
        files = [parquet_files] if isinstance(parquet_files, str) else list(parquet_files)
        self.rows = pd.concat([pd.read_parquet(path) for path in files]).reset_index(drop=True)
        self.rows = self.rows[:max_samples] if max_samples > 0 else self.rows
        self.config = config or {}
        self.pad = tokenizer.pad_token_id or 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, item):
        row = self.rows.iloc[item]
        ids = torch.tensor(list(row["input_ids"]), dtype=torch.long)
        mask = torch.tensor(list(row["loss_mask"]), dtype=torch.float32)
        longest = self.config.get("max_length", len(ids))
        if len(ids) > longest:
            raise ValueError(f"row {item} has {len(ids)} tokens; `data.max_length` is {longest}")
        if self.config.get("pad_mode", "right") == "no_padding":
            return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}
        short = longest - len(ids)
        return {
            "input_ids": torch.cat([ids, torch.full((short,), self.pad)]),
            "attention_mask": torch.cat([torch.ones(len(ids)), torch.zeros(short)]).long(),
            "position_ids": torch.cat(
                [torch.arange(len(ids)), torch.zeros(short, dtype=torch.long)]
            ),
            "loss_mask": torch.cat([mask, torch.zeros(short)]),
        }
'''
