"""Tokens of the hub: no message shows one, and some say what to do without."""

from collections.abc import Iterator
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

_REFUSED = (401, 403, 404)  # the hub says of what is private that there is nothing


def without(token: Any, said: object) -> str:
    """What an error says, or a text, without the token and without that of this machine."""
    text = str(said)
    for secret in _secrets(token):
        text = text.replace(secret, "***")
    return text


def cause(token: Any, error: Exception) -> Exception | None:
    """What ``raise ... from`` may show of an error: itself, or None if it shows a token."""
    seen: list[BaseException] = []
    rest: list[BaseException | None] = [error]
    while rest:
        each = rest.pop()
        if each is None or any(each is other for other in seen):
            continue
        if any(secret in f"{each} {each!r}" for secret in _secrets(token)):
            return None
        seen.append(each)
        rest += [each.__cause__, each.__context__]
    return error


def advice(token: Any, error: HfHubHTTPError) -> str:
    """What to do where the hub refused a repository to somebody who showed no token of theirs."""
    status = getattr(error.response, "status_code", None)
    if isinstance(token, str) or status not in _REFUSED:
        return ""
    return (
        " If the repository is private or gated: log in with `hf auth login`, or set HF_TOKEN, "
        "which other processes find too. A token that was given as text is in no pickle, so that "
        "an estimator out of one, and the workers of a parallel search, do not have it."
    )


def _secrets(token: Any) -> Iterator[str]:
    for secret in (token, huggingface_hub.get_token()):
        if isinstance(secret, str) and secret:
            yield secret
