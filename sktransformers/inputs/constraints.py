"""Which tags may follow which, read from the tags' names.

BIO (IOB2, Tjong Kim Sang and Veenstra 1999, arXiv:cs/9907006) marks the words of a span of
type x as B-x I-x I-x ...; BIOES as B-x I-x ... E-x, or S-x for a single word. BILOU is BIOES
with L and U for E and S, and is read as such. Words outside of spans are O.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from sktransformers.inputs.validation import shown

_LETTERS = {"bio": "BI", "bioes": "BIESLU"}
_EXPECTED = {
    "bio": '"O" and tags that begin with "B-" or "I-"',
    "bioes": '"O" and tags that begin with "B-", "I-", "E-" or "S-" (or with "L-" or "U-")',
}


def scheme_of(tags: Iterable[Any]) -> str | None:
    """Scheme that all tags are written in.

    Parameters
    ----------
    tags : iterable
        Distinct tags.

    Returns
    -------
    "bio" or "bioes" or None
        "bioes" with any E, S, L or U; else "bio" with any B; None where a tag is of neither.
    """
    tags = list(tags)
    if not all(_fits(tag, "bioes") for tag in tags):
        return None
    letters = {tag[0] for tag in tags}
    if letters & set("ESLU"):
        return "bioes"
    return "bio" if "B" in letters else None


def forbidden(tags: Iterable[Any], scheme: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What no sentence of the scheme has.

    Parameters
    ----------
    tags : iterable of str
        k distinct tags.
    scheme : {"bio", "bioes"}

    Returns
    -------
    start : ndarray of bool and shape (k,)
        Tags that are never the first.
    transitions : ndarray of bool and shape (k, k)
        Tags of the column that never stand behind the tag of the row.
    end : ndarray of bool and shape (k,)
        Tags that are never the last.

    Raises
    ------
    ValueError
        For a tag that the scheme does not know.
    """
    tags = list(tags)
    for tag in tags:
        if not _fits(tag, scheme):
            raise ValueError(
                f'constraints="{scheme}" expects the tags to be {_EXPECTED[scheme]}, each '
                f"followed by the type of the span; got the tag {shown(tag)}."
            )
    letters = np.array([tag[0] for tag in tags], dtype=object)
    types = np.array([tag[2:] for tag in tags], dtype=object)
    goes_on = np.isin(letters, ["B", "I"])  # the next word may be of the same span, or must be
    inside = np.isin(letters, ["I", "E", "L"])  # the previous word is of the same span
    joined = goes_on[:, None] & inside & (types[:, None] == types)
    if scheme == "bio":
        return inside, inside & ~joined, np.zeros_like(inside)
    return inside, (goes_on[:, None] | inside) & ~joined, goes_on


def _fits(tag: Any, scheme: str) -> bool:
    pattern = f"O|[{_LETTERS[scheme]}]-.+"
    return isinstance(tag, str) and re.fullmatch(pattern, tag, re.DOTALL) is not None
