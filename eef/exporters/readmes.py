"""Guides: the README that lies beside each export, and the code that verl needs to read its own."""

from __future__ import annotations

_HEAD = "{count} examples, written by `eef export`. The text that carries loss is the text `eef` trains on"

READMES = {
    "trl": _HEAD
    + """ (each turn's end, `{end}`, among it).

- `tokens.parquet`: `input_ids` and `labels` (-100: no loss). Nothing is left to a template or a tokenizer:

      dataset = datasets.load_dataset("parquet", data_files="tokens.parquet", split="train")
      trl.SFTTrainer(model, trl.SFTConfig(max_length=None), train_dataset=dataset)

  TRL's default `max_length` of 1024 would cut the last actions off.
- `messages.jsonl`: `messages` with `train` on each, and `chat_template.jinja`, which heeds it: set
  `tokenizer.chat_template` to that file's text and `SFTConfig(assistant_only_loss=True, max_length=None)`. The template
  is there where it gives the text of the model's own for every example.
""",
    "axolotl": _HEAD
    + """.

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
    eot_tokens: ["{end}"]      # where the model's end of turn is not its end of sequence

Each row ends in a trained turn, as Axolotl asks for.
""",
    "llamafactory": _HEAD
    + """, but for what is said below.

- `v0/`: a row for each trained action, which is its last message. Set `dataset_dir` to that directory, `dataset: eef`
  and `mask_history: true`. An example with n trained actions is n rows, each of the same weight in the loss.
- `v1/`: `loss_weight` on every message. v1 gives a message's weight to its header and to what follows its end of turn
  too (`<|im_start|>assistant\\n` and a newline, in ChatML): these fixed tokens carry loss there and none in `eef`.
""",
    "llamafactory-v1": _HEAD
    + """, but for this: LLaMA-Factory v1 gives a message's weight to its header and to what
follows its end of turn too (`<|im_start|>assistant\\n` and a newline, in ChatML).

`loss_weight` stands on every message.
""",
    "ms-swift": _HEAD
    + """.

    swift sft --dataset train.jsonl …

`loss` stands on every message; ms-swift heeds it on the assistant's. Where weights are real numbers they stand in
`loss_scale`, and `--is_binary_loss_scale false` must be given.
""",
    "openai": _HEAD
    + """.

`weight` (0 or 1) stands on every message. OpenAI's schema has it for the assistant's messages; it trains no others.
""",
    "together": _HEAD
    + """.

`weight` (0 or 1) stands on every message: one weight anywhere makes Together train on all messages that have none.
""",
    "agentgym": _HEAD
    + """, in AgentGym's `conversations[from, value, loss]` with `item_id`.

Rules in words stand where AgentGym has them: as a first turn of the user, to which the agent agrees (`loss` false).
""",
    "verl": _HEAD
    + """.

verl's own multi-turn dataset trains every turn of the assistant. `dataset.py` gives it the ids and `loss_mask` of
`train.parquet` as they are:

    data.train_files=train.parquet data.custom_cls.path=dataset.py data.custom_cls.name=MaskedDataset
""",
    "prompt-completion": _HEAD
    + """.

A row for each trained action: `prompt` (all the text before it, special tokens included), `completion` (the action and
`{end}`), `weight`. Tokenize both without adding special tokens, and put loss on the completion alone.
""",
    "parquet": _HEAD
    + """.

Our rows: `messages` (with `train` and `weight` on each), `input_ids` and `weights` (a loss weight for each token),
`meta` (JSON: where each turn comes from, and why it is trained).
""",
    "atif": """{count} trajectories in the Agent Trajectory Interchange Format (ATIF v1.6), written by `eef export`.

`extra.train` and `extra.weight` of a step say what `eef` trains on; `extra` of a document follows it back.
""",
}

VERL_DATASET = '''"""Rows of `eef export --to verl`, for verl's SFT trainer: ids and loss mask as they are."""

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
            raise ValueError(f"row {item} has {len(ids)} tokens, data.max_length is {longest}: raise it")
        if self.config.get("pad_mode", "right") == "no_padding":
            return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}
        short = longest - len(ids)
        return {
            "input_ids": torch.cat([ids, torch.full((short,), self.pad)]),
            "attention_mask": torch.cat([torch.ones(len(ids)), torch.zeros(short)]).long(),
            "position_ids": torch.cat([torch.arange(len(ids)), torch.zeros(short, dtype=torch.long)]),
            "loss_mask": torch.cat([mask, torch.zeros(short)]),
        }
'''
