"""Upload policies to the Hugging Face Hub, and load them from it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from ertacache import value_checks
from ertacache._version import __version__
from ertacache.errors import SharingError
from ertacache.policy import Policy
from ertacache.presenting.model_card import card
from ertacache.presenting.published_figures import CARD_FILE, EVALUATION_FILE, POLICY_FILE, PROMPTS_FILE, Figures
from ertacache.sharing.figures import as_json, read
from ertacache.sharing.names import is_model, is_repository

# The client lets the errors of its transport through. That is another library in each version, httpx or httpx2; their
# errors have one base class, from which the client's own error derives.
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
    """Upload a policy to the Hugging Face Hub, in one commit with a model card and its figures.

    Args:
        policy: the policy.
        repo_id: the repository, ``"you/name"``; created if it does not exist. Its card is replaced.
        evaluation: the file that ``ertacache evaluate`` wrote about this policy; its prompts, arguments and figures
            are published. Without it the card says that nothing was measured.
        base_model: the Hub id of the model that the policy is for; by default the one that was evaluated.
        private: whether a repository that is created now is private; by default as in your account's settings.
        revision: the branch to commit to, created if it does not exist; by default main.
        token: your access token; by default the one you are logged in with.
        endpoint: the address of another Hub than the public one; by default the variable ``HF_ENDPOINT``.

    Returns:
        The URL of the commit.

    Raises:
        ArgumentError: if an argument has the wrong type.
        SharingError: if the upload fails, or the evaluation is damaged or about other policies.
    """
    value_checks.text("repo_id", repo_id)
    evaluation = value_checks.optional(value_checks.path)("evaluation", evaluation)
    value_checks.optional(value_checks.text)("base_model", base_model)
    private = value_checks.optional(value_checks.flag)("private", private)
    _check_access(revision, token, endpoint)
    if not is_repository(repo_id):
        raise SharingError(
            "this cannot be the name of a repository on the Hub", given=repr(repo_id), cure="Name it 'you/name'."
        )
    if base_model is not None and not is_model(base_model):
        raise SharingError(
            "this cannot be the name of a model on the Hub",
            given=repr(base_model),
            cure="Give its Hub id, 'someone/name', or leave base_model out: others cannot open a folder of yours.",
        )
    figures = None if evaluation is None else _figures_of(policy, evaluation, base_model)
    files = _files(policy, card(policy, repo_id, figures=figures, base_model=base_model), figures)
    _check_old_client(endpoint)
    title = f"{policy.method.name}: {len(policy.computed_steps)} of {policy.num_made_steps} steps computed"
    api = _api(token, endpoint)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not revision.startswith("refs/"):  # a pull request's reference exists already
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return _commit(api, repo_id, files, title, revision)
    except _FAILURES as error:
        raise SharingError(
            f"the policy was not uploaded: {_message_of(error)}",
            given=repo_id + (f" at {revision}" if revision else ""),
            cure="Give a repository that you may write to, and log in with `hf auth login` or pass token=.",
        ) from error


def pretrained(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Policy:
    """Load a policy from a file, a folder, or the Hugging Face Hub.

    Args:
        name: a policy file, a folder that holds ``policy.safetensors``, or a repository, ``"you/name"``. A file or
            folder of that name takes precedence over a repository.
        revision: a branch, tag or commit; only what a commit names can never change.
        token: your access token; by default the one you are logged in with.
        endpoint: the address of another Hub than the public one; by default the variable ``HF_ENDPOINT``.
        cache_dir: where to keep downloads; by default in the Hub's own cache.
        local_files_only: use only what was downloaded before, without the network.

    Returns:
        The policy.

    Raises:
        ArgumentError: if an argument has the wrong type.
        SharingError: if there is no policy of that name.
        PolicyFileError: if it is damaged, was not written by this library, or has another schema.
    """
    path = _policy_file(
        name,
        revision=revision,
        token=token,
        endpoint=endpoint,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    return Policy.load(path)


def _policy_file(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The path of a policy file on this machine, downloaded from the Hub if need be; for arguments see `pretrained`.

    Raises:
        ArgumentError: if an argument has the wrong type.
        SharingError: if there is no policy of that name.
    """
    path = value_checks.path("name", name)
    _check_access(revision, token, endpoint)
    cache = value_checks.optional(value_checks.path)("cache_dir", cache_dir)
    local_files_only = value_checks.flag("local_files_only", local_files_only)
    if os.path.isfile(path):  # False also where the system cannot look
        return path
    if os.path.isdir(path):
        if os.path.isfile(path / POLICY_FILE):
            return path / POLICY_FILE
        raise SharingError(
            f"the folder holds no {POLICY_FILE}", given=os.fspath(name), cure="Give the path of the policy file itself."
        )
    cure = f"Give a policy file, a folder that holds {POLICY_FILE}, or a repository on the Hub, 'you/name'."
    if not isinstance(name, str) or not is_repository(name):
        raise SharingError(
            "there is no policy file of that name, and this cannot be the name of a repository",
            given=os.fspath(name),
            cure=cure,
        )
    try:
        found = _api(token, endpoint).hf_hub_download(
            name,
            POLICY_FILE,
            revision=revision,
            cache_dir=None if cache is None else os.fspath(cache),
            local_files_only=local_files_only,
        )
    except _FAILURES as error:
        what = "there is no policy file of that name here, and none could be downloaded from the Hub"
        raise SharingError(
            f"{what}: {_message_of(error)}",
            given=name + (f" at {revision}" if revision else ""),
            cure=f"{cure} For a private repository log in with `hf auth login` or pass token=.",
        ) from error
    return Path(found)


def _check_access(revision: Any, token: Any, endpoint: Any) -> None:
    for name, value in (("revision", revision), ("endpoint", endpoint)):
        value_checks.optional(value_checks.text)(name, value)
    if not isinstance(token, bool):  # the client also takes a flag: False for no token
        value_checks.optional(value_checks.text)("token", token)


def _figures_of(policy: Policy, evaluation: str | os.PathLike[str], base_model: str | None) -> Figures:
    if os.path.exists(evaluation) and not os.path.isfile(evaluation):
        cure = "Give the file that `ertacache evaluate` wrote."
        raise SharingError("the evaluation is not a file", given=os.fspath(evaluation), cure=cure)
    figures = read(policy, evaluation)
    if figures.model and base_model not in (None, figures.model):
        raise SharingError(
            "the evaluation is about another model",
            given=f"base_model={base_model!r}, measured on {figures.model!r}",
            cure="Leave base_model out: the card then names the model that was measured.",
        )
    return figures


def _files(policy: Policy, text: str, figures: Figures | None) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="ertacache-") as folder:
        policy.save(Path(folder) / POLICY_FILE)
        files = {POLICY_FILE: (Path(folder) / POLICY_FILE).read_bytes(), CARD_FILE: text.encode()}
    if figures is not None:
        files[EVALUATION_FILE] = (json.dumps(as_json(policy, figures), indent=1) + "\n").encode()
        files[PROMPTS_FILE] = "".join(f"{line}\n" for line in figures.prompts).encode()
    return files


def _commit(api: HfApi, repo_id: str, files: Mapping[str, bytes], title: str, revision: str | None) -> str:
    """Upload the files in one commit, without leaving the figures of an earlier policy; the URL of the commit."""
    stale = {EVALUATION_FILE, PROMPTS_FILE}.difference(files) & set(api.list_repo_files(repo_id, revision=revision))
    added = [CommitOperationAdd(name, content) for name, content in files.items()]
    removed = [CommitOperationDelete(name) for name in sorted(stale)]
    done = api.create_commit(repo_id, [*added, *removed], commit_message=title, revision=revision)
    return str(done.commit_url)


def _api(token: str | None, endpoint: str | None) -> HfApi:
    # The client itself reads the variable only once, when it is imported.
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    return HfApi(endpoint=endpoint.rstrip("/"), token=token, library_name="ertacache", library_version=__version__)


def _check_old_client(endpoint: str | None) -> None:
    """Refuse a push that huggingface_hub before 1.0 would make, and then fail to read the URL of."""
    address = _api(None, endpoint).endpoint
    if int(huggingface_hub.__version__.split(".")[0]) < 1 and address != constants.ENDPOINT.rstrip("/"):
        raise SharingError(
            "huggingface_hub before 1.0 pushes to the Hub of the variable HF_ENDPOINT alone",
            given=f"{address}, huggingface_hub {huggingface_hub.__version__}",
            cure="Set HF_ENDPOINT before Python starts, or install huggingface-hub 1.0 or later.",
        )


def _message_of(error: Exception) -> str:
    """The client's message in one line: its first two lines, the status with the address, and the reason."""
    lines = [line.strip() for line in str(error).splitlines()]
    relevant = [line for line in lines if line and not line.startswith("For more information")]
    return " ".join(relevant[:2]) or type(error).__name__
