"""Saved directories on the Hugging Face hub."""

import glob
import os
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from sktransformers.inference.directory import recover
from sktransformers.persistence import card, checks, info
from sktransformers.persistence.errors import SavedModelError
from sktransformers.specs.backbone import check_token
from sktransformers.training import credentials, loading

# Kinds of files that a save writes, and all that is downloaded: no pickles, no code.
_KINDS = (
    *(".jinja", ".json", ".md", ".model", ".safetensors"),
    *(".spm", ".tiktoken", ".txt", ".vocab"),
)


def find(name: Any, revision: str | None = None, token: Any = None, verbose: bool = False) -> Path:
    """The directory of a name: itself, or a copy of a repository of the hub.

    Parameters
    ----------
    name : str or path-like
        A directory, or the id of a repository.
    revision : str, default=None
        Branch, tag or commit of a repository; None means its main branch.
    token : str or bool, default=None
        For a private repository; None and True mean the one that ``hf auth login`` stored.
    verbose : bool, default=False
        Whether download bars may show.

    Returns
    -------
    folder : Path
        Of the hub's cache, if the name is an id. Only files that a save writes are in it.

    Raises
    ------
    SavedModelError
        If there is no such directory, or the hub does not give one.
    ValueError
        If there is a directory of the name and revision is no None.
    """
    folder = Path(os.path.expanduser(name))
    recover(folder)
    if os.path.isdir(folder):
        if revision is not None:
            raise ValueError(
                f"revision={revision!r} is for the id of a repository, but {str(folder)!r} is a "
                f"directory."
            )
        return folder
    if not is_id(name):
        raise SavedModelError(f"There is no directory {str(folder)!r}, and it is no id of the hub.")
    return _download(name, revision, token, _is_cached(name, revision, token), verbose)


def find_id(
    name: Any, revision: str | None = None, token: Any = None, verbose: bool = False
) -> Path | None:
    """Likewise of an id alone; None if there is no saved model of that id."""
    if not is_id(name) or os.path.isdir(name):
        return None
    try:
        is_cached = _is_cached(name, revision, token)
    except SavedModelError:  # for others to say
        return None
    return _download(name, revision, token, is_cached, verbose)


def _download(name: str, revision: str | None, token: Any, is_cached: bool, verbose: bool) -> Path:
    """The copy of a repository in the hub's cache."""
    try:
        with loading.quiet(verbose):
            # By its revision, so that the cache knows which commit that is when it is asked alone.
            about = huggingface_hub.hf_hub_download(
                name, info.NAME, revision=revision, token=token, local_files_only=is_cached
            )
            found = huggingface_hub.snapshot_download(
                name,
                revision=Path(about).parent.name,  # the commit
                token=token,
                allow_patterns=_written(about),
                local_files_only=is_cached,
            )
    except Exception as error:  # of the client, and of the HTTP library below it
        raise SavedModelError(
            f"The files of {name!r} could not be downloaded: {credentials.without(token, error)}"
        ) from None
    return Path(found)


def _is_cached(name: str, revision: str | None, token: Any) -> bool:
    """Whether a saved directory of the hub is to be had from the cache alone.

    Raises
    ------
    SavedModelError
        If there is none.
    """
    at = "" if revision is None else f" at revision {revision!r}"
    absent = f"There is no directory {name!r}, and no saved model of that id{at} on the hub"
    try:
        with loading.quiet(verbose=False):
            about, reason = loading.ask_hub(name, revision, token)
    except HfHubHTTPError as error:
        said = credentials.without(token, error)
        raise SavedModelError(f"{absent}: {said}{credentials.advice(token, error)}") from None
    if about is not None:
        if all(file.rfilename != info.NAME for file in about.siblings or ()):
            raise SavedModelError(f"{absent}: the repository has no {info.NAME}.")
        return False
    cached = huggingface_hub.try_to_load_from_cache(name, info.NAME, revision=revision)
    if not isinstance(cached, str):
        raise SavedModelError(
            f"{absent} that could be had: it is not in the hub's local cache, and "
            f"{credentials.without(token, reason)}."
        )
    return True


def is_id(name: Any) -> bool:
    """Whether a name can be the id of a repository."""
    if not isinstance(name, str) or loading.looks_like_path(name):
        return False
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_id(repo_id: Any) -> None:
    """Check the id of a repository to be written.

    Raises
    ------
    ValueError
        If it cannot be one.
    """
    if not is_id(repo_id):
        raise ValueError(
            f"repo_id={repo_id!r} is no id of a repository of the hub; expected one such as "
            f'"user/name".'
        )


def upload(
    folder: Path,
    repo_id: str,
    *,
    token: Any,
    private: bool | None,
    revision: str | None,
    commit_message: str,
    create_pr: bool,
    verbose: bool,
) -> Any:
    """Write a saved directory to a repository, which is made if there is none.

    Parameters are those of ``push_to_hub``; with verbose, bars show.

    Returns
    -------
    commit : huggingface_hub.CommitInfo

    Raises
    ------
    ConnectionError
        If the client fails, without the token in the message.
    TypeError, ValueError
        If the token cannot be one.
    """
    check_token(token, "token")
    api = huggingface_hub.HfApi(token=token)
    try:
        with loading.quiet(verbose):
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            card.address(folder, repo_id)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
                delete_patterns=_former(api, repo_id, revision),
            )
    except Exception as error:  # of the client, and of the HTTP library below it
        said = credentials.without(token, error)
        raise ConnectionError(
            f"push_to_hub({repo_id!r}) failed: {type(error).__name__}: {said}"
        ) from None


def _former(api: huggingface_hub.HfApi, repo_id: str, revision: str | None) -> list[str]:
    """Patterns of the files that an earlier push wrote."""
    try:
        return _written(api.hf_hub_download(repo_id, info.NAME, revision=revision))
    except Exception:  # there was none, or what it wrote cannot be read
        return []


def _written(path: str) -> list[str]:
    """Patterns of the files that were written with a ``sktransformers.json``."""
    about = checks.read_json(Path(path))
    names = about.get("files") if isinstance(about, dict) else None
    return [glob.escape(str(name)) for name in names or () if str(name).endswith(_KINDS)]
