"""The words that stand for classes: their token ids, and examples of them in a prompt."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sktransformers.inputs.batching import Ragged
from sktransformers.inputs.encoding import tokenize, users_level
from sktransformers.inputs.prompts import TargetEncoder, Template
from sktransformers.inputs.targets import ClassCoding
from sktransformers.inputs.validation import shown, some

_BETWEEN = "\n\n"  # behind each example
_NO_LIMIT = 2**31


@dataclass(frozen=True)
class WordsCoding(ClassCoding):
    """Classes with the words that stand for them.

    Parameters
    ----------
    classes, factors
        As in `ClassCoding`.
    words : list of str
        One a class.
    examples : list of (str, str) or None
        Texts and words that stand in the prompt; None leaves there what does.
    """

    words: list[str] = field(kw_only=True)
    examples: list[tuple[str, str]] | None = field(kw_only=True)

    @property
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes of the estimator."""
        return {
            **super().attributes,
            "label_words_": dict(zip(self.classes.tolist(), self.words)),
        }


def words_of(classes: np.ndarray, label_words: Any) -> list[str]:
    """Words that stand for each class: its name, or what the parameter ``label_words`` says.

    Raises
    ------
    ValueError
        If ``label_words`` leaves out a class or names another one, words are empty or no str, or
        two classes have the same.
    """
    labels = classes.tolist()
    given = {label: str(label) for label in labels} if label_words is None else label_words
    for label in labels:
        if label not in given:
            raise ValueError(
                f"label_words has no words for the class {shown(label)}; it has some for "
                f"{some(given)}."
            )
    for label in given:
        if label not in labels:
            raise ValueError(
                f"label_words names {shown(label)}, which is none of the {len(labels)} classes "
                f"{some(labels)}."
            )
    words = [given[label] for label in labels]
    for label, text in zip(labels, words):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"label_words: the words of the class {shown(label)} are {shown(text)}; expected "
                f"a text that is not empty."
            )
    _check_distinct(labels, words, words)
    return words


def one_field(template: str) -> Template:
    """A template of prompts for one text a row.

    Raises
    ------
    ValueError
        If it is no template, or has several fields.
    """
    found = Template.of(template)
    if len(found.fields) > 1:
        raise ValueError(
            f"template={template!r} has the fields {', '.join(found.fields)}; expected one, which "
            f"stands for the text of a row."
        )
    return found


def label_ids(tokenizer: Any, words: dict[Any, str], template: str, is_open: bool) -> Ragged:
    """Token ids of the words of each class, and the token that ends them.

    Where they follow the prompt in the same sequence they are tokenized as there: what a space in
    front of a word is, differs from tokenizer to tokenizer.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it.
    words : dict of str
        One text a class.
    template : str
        As in `SourceEncoder`.
    is_open : bool
        Whether the words follow the prompt in the same sequence.

    Raises
    ------
    ValueError
        If two classes have the same token ids, or the tokenizer makes nothing of the words of one.
    """
    encoder = TargetEncoder(tokenizer, _NO_LIMIT, is_open)
    if is_open:
        end = one_field(template).words[-1]
        before, between = end or "a", joint(template)
        known, *ids = tokenize(
            tokenizer, [before, *(before + between + text for text in words.values())]
        )
        if all(row[: len(known)] == known and len(row) > len(known) for row in ids):
            found = Ragged.of([[*row[len(known) :], encoder.end] for row in ids])
        else:  # the last word of the prompt and the first one of the label are one token
            found = encoder.encode([between + text for text in words.values()])
    else:
        found = encoder.encode(list(words.values()))
    rows = [tuple(found.row(i).tolist()) for i in range(len(found))]
    for label, row in zip(words, rows):
        if len(row) <= len(encoder.begin) + 1:
            raise ValueError(
                f"label_words: the tokenizer of the backbone makes nothing of "
                f"{shown(words[label])}, the words of the class {shown(label)}."
            )
    _check_distinct(list(words), list(words.values()), rows)
    return found


def joint(template: str) -> str:
    """What stands between a prompt and its answer in the same sequence."""
    end = one_field(template).words[-1]
    if not end:
        return "\n"
    return "" if end[-1].isspace() else " "


def with_examples(
    tokenizer: Any, template: str, examples: Sequence[tuple[str, str]], max_length: int
) -> str:
    """A template with answered prompts in front.

    One prompt more, as long as the longest of them, fits into max_length: texts that are too long
    for that are cut, the longest first, with a warning that counts them.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        As `private_tokenizer` returns it.
    template : str
        As in `SourceEncoder`.
    examples : sequence of (str, str)
        Texts and answers.
    max_length : int
        Most tokens of a prompt.

    Raises
    ------
    ValueError
        If the examples do not fit even without their texts.
    """
    if not examples:
        return template
    length = longest = max(len(text) for text, _ in examples)
    while True:
        fronts = [_answered(template, text[:length], words) for text, words in examples]
        n_tokens = [len(ids) for ids in tokenize(tokenizer, fronts)]
        if sum(n_tokens) + max(n_tokens) <= max_length:
            break
        if length == 0:
            raise ValueError(
                f"examples_in_prompt={len(examples)} and max_length={max_length} contradict each "
                f"other: even without their texts the examples are {sum(n_tokens)} tokens long, "
                f"and a row needs some too."
            )
        length -= 1 + length // 16
    if length < longest:
        n_cut = sum(len(text) > length for text, _ in examples)
        warnings.warn(
            f"{n_cut} of {len(examples)} examples in the prompt were cut, so that a row has as "
            f"much room behind them within max_length={max_length} tokens.",
            UserWarning,
            stacklevel=users_level(),
        )
    return "".join(fronts).replace("{", "{{").replace("}", "}}") + template


def _answered(template: str, text: str, words: str) -> str:
    return f"{text.join(one_field(template).words)}{joint(template)}{words}{_BETWEEN}"


def _check_distinct(labels: list[Any], words: list[str], forms: Sequence[Any]) -> None:
    seen: dict[Any, int] = {}
    for i, form in enumerate(forms):
        if form in seen:
            j = seen[form]
            raise ValueError(
                f"label_words: the classes {shown(labels[j])} and {shown(labels[i])} cannot be "
                f"told apart: their words {shown(words[j])} and {shown(words[i])} are the same to "
                f"the model."
            )
        seen[form] = i
