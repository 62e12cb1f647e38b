"""What was trained, handed on: a copy of it, a model with it merged in, a repository on the hub.

A folder that is made is new: nothing that somebody has is written over.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cutlayer.config.read import SETTINGS_FILE
from cutlayer.data.find import answers, is_hub_id
from cutlayer.data.left_out import bars_on_terminals_only
from cutlayer.errors import AssetError, ConfigError, needing, reason
from cutlayer.files import Remedy, write_folder_atomically
from cutlayer.jobs.facts import CARD_FILE, FACTS_FILE, TrainedFolder, model_card

_LOG = logging.getLogger(__name__)

_REMEDY = Remedy("nothing was written", "choose another folder")
# what a merged model may be in
MERGED_NUMBERS = ("float32", "bfloat16", "float16")
# of an adapter's folder, what a merged model has in another form
_OF_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", CARD_FILE, FACTS_FILE)
_PUBLIC = "https://huggingface.co"
_PATIENCE_S = 5.0


def check_new(folder: Path) -> None:
    """Raises ConfigError for a folder that holds something."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already: give a new folder")


def export_trained(folder: TrainedFolder, to: Path) -> None:
    """Copy what was trained, with all that belongs to it, into the new folder `to`.

    Raises ConfigError for a folder that holds something, StorageError for a full disk.
    """
    _write_new(to, lambda made: _copy(folder.path, made, ()))


def merge_trained(
    folder: TrainedFolder, to: Path, *, model: str | None = None, dtype: str = "float32"
) -> None:
    """Write the whole model, with what was trained in its weights, into the new folder `to`: one
    that `from_pretrained` reads, and that `model.name` may name.

    Of a run that trained all weights, that is a copy. `model`: where the weights that it was
    trained over are now. `dtype`: the numbers of the result, float32, bfloat16 or float16; the base
    has those of its file, whatever the run held it in.

    Raises ConfigError for a folder that holds something; AssetError for weights that are not to be
    had, ModelError for others than it was trained over; StorageError for a full disk.
    """
    check_new(to)
    if folder.is_model:
        export_trained(folder, to)
        return
    with needing("merging", "train"):
        import torch

        from cutlayer.jobs.use import find_base
        from cutlayer.model.merge import merge_adapter
    facts = replace(folder.facts, merged=dtype)
    base = find_base(folder, model).path
    if set(facts.numbers) != {"float32"}:
        below, above = facts.numbers
        _LOG.warning(
            f"the run held the base in {below} on devices and {above} at the server; the adapter is"
            " merged into the base's own weights, over which it gives other results: `cutlayer"
            " evaluate` says how good they are"
        )

    def write(made: Path) -> None:
        merge_adapter(
            base,
            facts.task,
            folder.path,
            made,
            class_names=facts.class_names,
            dtype=getattr(torch, dtype),
        )
        _copy(folder.path, made, _OF_ADAPTERS)
        text = json.dumps(asdict(facts), indent=1) + "\n"
        (made / FACTS_FILE).write_text(text, encoding="utf-8")
        (made / CARD_FILE).write_text(model_card(facts, is_model=True), encoding="utf-8")

    _write_new(to, write)


def _write_new(to: Path, write: Callable[[Path], None]) -> None:
    check_new(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    write_folder_atomically(to, write, _REMEDY)


def _copy(folder: Path, to: Path, left_out: tuple[str, ...]) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.name not in left_out:
            shutil.copyfile(path, to / path.name)


# The hub.


def push_trained(
    folder: TrainedFolder,
    name: str,
    *,
    private: bool = True,
    message: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Upload what was trained, with all that belongs to it, as the model `name` (OWNER/NAME) of the
    hub, which is made if it is not there yet, and give its address.

    `private`: of a repository that is made. `endpoint`: the hub's address, None: $HF_ENDPOINT or
    the public one. `token`: None: the one that `hf auth login` keeps, or $HF_TOKEN.

    Raises ConfigError for a name that cannot be; AssetError without network or token, and for what
    the hub refuses.
    """
    if not is_hub_id(name):
        raise ConfigError(f"{name} is no name on the hub: give OWNER/NAME, or NAME for your own")
    with needing("pushing", "train"):
        from huggingface_hub import HfApi, get_token
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or _PUBLIC
    token = token or get_token()
    if token is None:
        raise AssetError(
            f"pushing to {endpoint} needs a token that may write: run `hf auth login`, or set"
            " HF_TOKEN"
        )
    _require_network(endpoint)
    _tell_paths(folder)
    facts = folder.facts
    api: Any = HfApi(endpoint=endpoint, token=token)
    told = message or f"cutlayer: round {facts.round} of {facts.rounds} on {Path(facts.data).name}"
    try:
        with bars_on_terminals_only():
            made = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=made.repo_id, folder_path=folder.path, commit_message=told)
    except Exception as error:  # whatever the library and its transports raise
        raise AssetError(f"{name} was not pushed to {endpoint}: {_refusal(error)}") from error
    return str(made)


def _require_network(endpoint: str) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise AssetError(f"HF_HUB_OFFLINE keeps from asking {endpoint}: unset it to push")
    if not answers(endpoint, _PATIENCE_S):
        raise AssetError(f"no answer from {endpoint}: is there a network? nothing was pushed")


def _refusal(error: Exception) -> str:
    """What the hub says, and what to do about it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    remedy = {
        401: "it does not know the token: run `hf auth login` again",
        403: "the token may not write there: take one that may, or a name of your own",
    }.get(status or 0)
    return reason(error) if remedy is None else f"{remedy} ({reason(error)})"


def _tell_paths(folder: TrainedFolder) -> None:
    """What is pushed may name folders of this machine, which others neither have nor need know."""
    base, config = folder.facts.base, folder.config
    if not folder.is_model and Path(base.weights).is_absolute():
        _LOG.warning(
            f"the adapter is over {base.weights}, which is on this machine alone: whoever takes it"
            f" needs these weights too; {CARD_FILE} has their SHA-256, and how to get them if they"
            " came in a package"
        )
    named = [name for name in (config.model.name, config.data.name) if Path(name).is_absolute()]
    if named:
        _LOG.warning(f"{SETTINGS_FILE} and {FACTS_FILE} name {', '.join(named)} of this machine")
