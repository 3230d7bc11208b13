"""Up to the Hub, and down from it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from ertacache import arguments
from ertacache._version import __version__
from ertacache.errors import SharingError
from ertacache.policy import Policy
from ertacache.sharing.card import card
from ertacache.sharing.figures import Figures, as_json, read
from ertacache.sharing.names import (
    CARD_FILE,
    EVALUATION_FILE,
    POLICY_FILE,
    PROMPTS_FILE,
    is_model,
    is_repository,
)

# The client lets errors of its transport through, which is another library in each of its versions: httpx, httpx2. They
# have one root, from which the client's own error derives.
_TRANSPORT: type[Exception] = HfHubHTTPError.__mro__[1]
_FAILURES = (OSError, ValueError, RuntimeError, _TRANSPORT)


def push(
    policy: Policy,
    repo_id: str,
    *,
    evaluation: str | os.PathLike[str] | None = None,
    base_model: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a policy, its card and its figures in one commit: what `Policy.push_to_hub` does.

    Raises:
        ArgumentError: if an argument has another type.
        SharingError: if the upload fails, or the evaluation is damaged or of other policies.
    """
    arguments.text("repo_id", repo_id)
    evaluation = arguments.optional(arguments.path)("evaluation", evaluation)
    arguments.optional(arguments.text)("base_model", base_model)
    private = arguments.optional(arguments.flag)("private", private)
    _check_access(revision, token, endpoint)
    if not is_repository(repo_id):
        raise SharingError("this cannot be a repository of the Hub", given=repr(repo_id), cure="Name it 'you/name'.")
    if base_model is not None and not is_model(base_model):
        raise SharingError(
            "this cannot be a model on the Hub",
            given=repr(base_model),
            cure="Give its id there, 'someone/name', or none: a folder of yours means nothing to others.",
        )
    if evaluation is not None and os.path.exists(evaluation) and not os.path.isfile(evaluation):
        cure = "Give the file that `ertacache evaluate` wrote."
        raise SharingError("the evaluation is no file", given=os.fspath(evaluation), cure=cure)
    figures = read(policy, evaluation) if evaluation is not None else None
    if figures and figures.model and base_model not in (None, figures.model):
        raise SharingError(
            "the evaluation is of another model",
            given=f"base_model={base_model!r}, measured on {figures.model!r}",
            cure="Leave base_model out: the card names the model that was measured.",
        )
    files = _files(policy, card(policy, repo_id, figures=figures, base_model=base_model), figures)
    api = _api(token, endpoint)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not revision.startswith("refs/"):  # as that of a pull request, which is there
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # What an earlier policy measured must not stand beside this one.
        stale = {EVALUATION_FILE, PROMPTS_FILE}.difference(files) & set(api.list_repo_files(repo_id, revision=revision))
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        removed = [CommitOperationDelete(name) for name in sorted(stale)]
        title = f"{policy.method.name}: {len(policy.computed_steps)} of {policy.num_made_steps} steps computed"
        done = api.create_commit(repo_id, [*added, *removed], commit_message=title, revision=revision)
    except _FAILURES as error:
        raise SharingError(
            f"the policy was not uploaded: {_told(error)}",
            given=repo_id + (f" at {revision}" if revision else ""),
            cure="Give a repository that you may write to, and log in with `hf auth login` or pass token=.",
        ) from error
    return str(done.commit_url)


def fetched(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The path of a policy file: the file itself, that in a folder, or a copy of the Hub's.

    Raises:
        ArgumentError: if an argument has another type.
        SharingError: if there is none.
    """
    path = arguments.path("name", name)
    _check_access(revision, token, endpoint)
    cache = arguments.optional(arguments.path)("cache_dir", cache_dir)
    local_files_only = arguments.flag("local_files_only", local_files_only)
    if os.path.isfile(path):  # where the system cannot even look, it is none
        return path
    if os.path.isdir(path):
        if os.path.isfile(path / POLICY_FILE):
            return path / POLICY_FILE
        raise SharingError(
            f"the folder holds no {POLICY_FILE}", given=os.fspath(name), cure="Give the path of the policy file itself."
        )
    cure = f"Give a policy file, a folder that holds {POLICY_FILE}, or a repository of the Hub, 'you/name'."
    if not isinstance(name, str) or not is_repository(name):
        raise SharingError("there is no policy file, and no repository of that name", given=os.fspath(name), cure=cure)
    try:
        found = _api(token, endpoint).hf_hub_download(
            name,
            POLICY_FILE,
            revision=revision,
            cache_dir=None if cache is None else os.fspath(cache),
            local_files_only=local_files_only,
        )
    except _FAILURES as error:
        raise SharingError(
            f"there is no policy file here, and the Hub gave none: {_told(error)}",
            given=name + (f" at {revision}" if revision else ""),
            cure=f"{cure} For a private one log in with `hf auth login` or pass token=.",
        ) from error
    return Path(found)


def _check_access(revision: Any, token: Any, endpoint: Any) -> None:
    for name, value in (("revision", revision), ("endpoint", endpoint)):
        arguments.optional(arguments.text)(name, value)
    if not isinstance(token, bool):  # which the client takes too: False for none
        arguments.optional(arguments.text)("token", token)


def _files(policy: Policy, text: str, figures: Figures | None) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="ertacache-") as folder:
        policy.save(Path(folder) / POLICY_FILE)
        files = {POLICY_FILE: (Path(folder) / POLICY_FILE).read_bytes(), CARD_FILE: text.encode()}
    if figures is not None:
        files[EVALUATION_FILE] = (json.dumps(as_json(policy, figures), indent=1) + "\n").encode()
        files[PROMPTS_FILE] = "".join(f"{line}\n" for line in figures.prompts).encode()
    return files


def _api(token: str | None, endpoint: str | None) -> HfApi:
    # The client reads the variable when it is imported, long before anybody says where to go.
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    return HfApi(endpoint=endpoint.rstrip("/"), token=token, library_name="ertacache", library_version=__version__)


def _told(error: Exception) -> str:
    """What the client says, in one line: it begins with a bare status and the address, and ends with advice."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("For more information")]
    return " ".join(said[:2]) or type(error).__name__
