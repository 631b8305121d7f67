"""Hub: a checkpoint goes to a model hub. After `eef.models.checkpoint`; the one place that sends anything of ours away."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils.tqdm import disable_progress_bars

from eef.errors import ConfigError, DataError, StoreError
from eef.models.checkpoint import verify_checkpoint

FILES = ("*.safetensors", "*.json", "*.jinja", "README.md", "*.model", "*.txt")
_TOKEN = "HF_TOKEN"  # noqa: S105 – the name of the variable, not what it holds


def push(
    directory: Path, repository: str, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Upload a whole checkpoint with its card into a repository `owner/name`, made if it is not there; its address.

    The token is read from the environment (`HF_TOKEN`). Raises DataError (no checkpoint, weights not as they were
    written, no card), ConfigError (no token, no such name), StoreError (the hub refuses or cannot be reached).
    """
    verify_checkpoint(directory)
    if not (directory / "README.md").is_file():
        raise DataError(
            f"`{directory}` has no model card (`README.md`)",
            hint="a run writes one beside its weights",
        )
    token = os.environ.get(_TOKEN, "").strip()
    if not token:
        raise ConfigError(
            f"no token for the hub: the environment has no `{_TOKEN}`", hint=f"`export {_TOKEN}=…`"
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
            f"no name of a repository: {repository!r}", hint="it has the form `owner/name`"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = f"may the token in `{_TOKEN}` write there?" if status in (401, 403, 404) else ""
        raise StoreError(
            f"the hub at {api.endpoint} refuses `{repository}` ({status})", hint=hint
        ) from None
    except OSError as error:
        words = str(error).replace(token, "…")
        raise StoreError(f"cannot reach the hub at {api.endpoint}: {words[:200]}") from None
    return f"{api.endpoint}/{repository}"
