"""Upload of checkpoints to a model hub. No other module uploads anything."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils.tqdm import disable_progress_bars

from eef.errors import ConfigError, DataError, StoreError
from eef.models.checkpoint import CARD_FILE
from eef.models.manifest import verify_checkpoint

FILES = ("*.safetensors", "*.json", "*.jinja", CARD_FILE, "*.model", "*.txt")
_TOKEN = "HF_TOKEN"  # noqa: S105 – the name of a variable, not a secret


def push(
    directory: Path, repository: str, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Upload a checkpoint and its card to the repository `owner/name`; returns its address.

    The repository is created if it does not exist. The token is read from the environment
    (`HF_TOKEN`). Raises DataError if the checkpoint is incomplete, was changed or has no card;
    ConfigError if there is no token or the name is malformed; StoreError if the hub refuses the
    upload or cannot be reached.
    """
    verify_checkpoint(directory)
    if not (directory / CARD_FILE).is_file():
        raise DataError(
            f"`{directory}` has no model card (`{CARD_FILE}`)",
            hint="a run writes one with each checkpoint",
        )
    token = os.environ.get(_TOKEN, "").strip()
    if not token:
        raise ConfigError(
            f"no token for the hub: the environment variable `{_TOKEN}` is not set",
            hint=f"`export {_TOKEN}=…`",
        )
    api = HfApi(endpoint=endpoint, token=token)
    try:
        with disable_progress_bars():
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository,
                folder_path=directory,
                allow_patterns=list(FILES),
                commit_message="Upload by eef",
            )
    except HFValidationError as error:
        raise ConfigError(
            f"malformed repository name {repository!r}", hint="it has the form `owner/name`"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = (
            f"check that the token in `{_TOKEN}` may write there"
            if status in (401, 403, 404)
            else ""
        )
        raise StoreError(
            f"the hub at {api.endpoint} refuses `{repository}` ({status})", hint=hint
        ) from None
    except OSError as error:
        words = str(error).replace(token, "…")
        raise StoreError(f"cannot reach the hub at {api.endpoint}: {words[:200]}") from None
    return f"{api.endpoint}/{repository}"
