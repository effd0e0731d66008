"""Rows of X become prompts, prompts token ids; targets get their end."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from language_models import LANGUAGE_MODELS, language_tokenizer, word_tokenizer

from sktransformers.inputs.batching import Answered, Budget, Encoded, Ragged
from sktransformers.inputs.encoding import private_tokenizer
from sktransformers.inputs.prompts import (
    Row,
    SourceEncoder,
    TargetEncoder,
    Template,
    with_targets,
)
from sktransformers.inputs.sources import as_sources, with_prefix

QA = "question: {question} context: {context}"
TOKENIZERS = {kind: private_tokenizer(language_tokenizer(kind)) for kind in LANGUAGE_MODELS}


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


# ---------------------------------------------------------------- templates


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{", "braces"),
        ("{}", "name or number"),
        ("{a.b}", "name or number"),
        ("{a[0]}", "name or number"),
        ("{a!r}", "name or number"),
        ("{a:>5}", "name or number"),
        ("no field", "no field"),
        ("{{a}}", "no field"),
    ],
)
def test_a_template_that_is_none(template, words):
    with pytest.raises(ValueError, match=f"template=.*{words}"):
        Template.of(template)


@given(st.text(max_size=20), st.text(max_size=20))
def test_braces_of_texts_do_not_matter(a, b):
    template = Template.of("{{x}} {a} | {b} {a}")
    assert "".join(template.pieces(Row("p{", (a, b)))) == f"p{{{{x}} {a} | {b} {a}"


# --------------------------------------------------------------------- rows

TABLE = {"context": ["c0", "c1"], "question": ["q0", "q1"], "other": [1, 2]}
ROWS = [Row("", ("q0", "c0")), Row("", ("q1", "c1"))]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pd", "pl", "pa"])
def test_fields_are_columns(make):
    assert as_sources(make(TABLE), QA, "") == ROWS
    assert as_sources(make(TABLE), "{1} {0}", "") == ROWS


@pytest.mark.parametrize(
    "X",
    [
        [("c0", "q0"), ("c1", "q1")],
        [["c0", "q0"], ["c1", "q1"]],
        np.array([["c0", "q0"], ["c1", "q1"]]),
        pd.Series([("c0", "q0"), ("c1", "q1")], index=[7, 3]),
    ],
    ids=["tuples", "lists", "array", "series"],
)
def test_fields_are_numbers_of_columns(X):
    assert as_sources(X, "question: {1} context: {0}", "") == ROWS


def test_fields_are_keys():
    rows = [{"question": f"q{i}", "context": f"c{i}", "id": i} for i in range(2)]
    assert as_sources(rows, QA, "") == ROWS


@pytest.mark.parametrize(
    "X",
    [["a", "b"], np.array(["a", "b"]), pd.DataFrame({"review": ["a", "b"]}), pd.Series(["a", "b"])],
    ids=["list", "array", "table", "series"],
)
def test_one_text_a_row_has_any_name(X):
    assert as_sources(X, "{text}", "p ") == [Row("p ", ("a",)), Row("p ", ("b",))]


@pytest.mark.parametrize(
    ("X", "template", "message"),
    [
        (["a"], QA, "one text a row, but template=.* has 2 fields"),
        ([("a", "b")], QA, r"X\[0\] has 2 texts without names.*'question'"),
        ([("a", "b"), ("a",)], "{0} {1}", r"X\[1\] has 1 texts"),
        (
            [{"context": "a"}],
            QA,
            r"'question', which is no key of X\[0\] \(which has \['context'\]\)",
        ),
        (pd.DataFrame(TABLE), "{answer}", "'answer', which is no column of X .'context', 'quest"),
        (pd.DataFrame(TABLE), "{other}", r"X\[0\] has 1 of type int in 'other'"),
        (np.array([["a", "b"]]), "{2}", "'2', which is no column of X .its 2 columns"),
        ((["a", "b"], ["c", "d"]), "{0} {1}", "tuple of 2 columns"),
        (["a", None], "{text}", r"X\[1\] is missing"),
        ([("a", None)], "{0} {1}", r"X\[0\] has missing .None. in '1'"),
        ("a", "{text}", "one single str"),
        ([], "{text}", "empty"),
        ([3.5], "{text}", r"X\[0\] is 3.5"),
    ],
    ids=range(13),
)
def test_what_is_no_row(X, template, message):
    with pytest.raises(ValueError, match=message):
        as_sources(X, template, "")


def test_one_prefix_or_one_a_row():
    assert [row.prefix for row in with_prefix(ROWS, "a ")] == ["a ", "a "]
    assert [row.prefix for row in with_prefix(ROWS, pd.Series(["a ", "b "]))] == ["a ", "b "]
    with pytest.raises(ValueError, match="prefix has 3 entries for 2 rows"):
        with_prefix(ROWS, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"prefix\[1\] is missing"):
        with_prefix(ROWS, ["a", None])


# ------------------------------------------------------------------ sources


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_a_source_is_the_tokenizers_own(kind):
    tokenizer = TOKENIZERS[kind]
    encoder = SourceEncoder(tokenizer, 60, "say: {a} and {b}", False)
    encoded, counts = encoder.encode([("pão bread", "the sea"), ("a", "")])
    for i, text in enumerate(["say: pão bread and the sea", "say: a and "]):
        assert encoded.sequences.row(i).tolist() == tokenizer(text)["input_ids"]
    assert counts.truncated == 0


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_the_longest_text_is_cut_and_words_stay(kind):
    tokenizer = TOKENIZERS[kind]
    long = "boat wave fish " * 20
    encoder = SourceEncoder(tokenizer, 40, "o {a} is {b} in", False)
    encoded, counts = encoder.encode([Row("the ", (long, "soup")), Row("the ", ("soup", long))])
    assert counts.truncated == 2 and counts.texts == 2
    for i in range(2):
        ids = encoded.sequences.row(i)
        assert 39 <= len(ids) <= 40
        text = decode(tokenizer, ids)
        assert text.startswith("the o ") and text.endswith(" in")
        assert " is " in text and "soup" in text  # the short text is whole


def test_both_texts_are_cut_to_the_same_length_where_both_are_long():
    tokenizer = word_tokenizer(["a", "b", "say", "and"])
    encoder = SourceEncoder(tokenizer, 9, "say {x} and {y}", False)
    encoded, _ = encoder.encode([("a " * 9, "b " * 5)])
    assert decode(tokenizer, encoded.sequences.row(0)) == "say a a a and b b b"


class Slow:
    """A tokenizer that says of no token where it comes from."""

    is_fast = False

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, texts, **options):
        options.pop("verbose", None)
        return self._tokenizer(texts, **options)


@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=2),
    st.integers(6, 20),
    st.booleans(),
)
def test_what_is_cut_fits(sizes, max_length, is_fast):
    fast = word_tokenizer(["a", "b", "say", "and"])
    encoder = SourceEncoder(fast if is_fast else Slow(fast), max_length, "say {x} and {y}", False)
    encoded, counts = encoder.encode([("a " * sizes[0], "b " * sizes[1])])
    n_a, n_b = (int((encoded.sequences.flat == fast.convert_tokens_to_ids(t)).sum()) for t in "ab")
    left = max_length - 3  # words of the template, and the end
    assert n_a + n_b + 3 == len(encoded.sequences.flat) <= max_length
    assert counts.truncated == (sum(sizes) > left)
    if sum(sizes) <= left:
        assert (n_a, n_b) == tuple(sizes)
    else:
        level = max(n_a, n_b)
        assert n_a == min(sizes[0], level) and n_b == min(sizes[1], level)
        assert left - n_a - n_b <= 1


def test_no_room_for_the_texts():
    encoder = SourceEncoder(word_tokenizer(["a", "say", "it"]), 5, "say it {x}", False)
    with pytest.raises(ValueError, match=r"max_length=5 leaves no room.*are 4 tokens\."):
        encoder.encode([Row("say it ", ("a a",))])


def test_a_decoders_source_is_left_open():
    tokenizer = TOKENIZERS["t5"]
    ids = SourceEncoder(tokenizer, 9, "{x}", True).encode(["sea"])[0].sequences.row(0)
    assert ids[-1] != tokenizer.eos_token_id


# ------------------------------------------------------------------ targets


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_a_target_ends(kind):
    tokenizer = TOKENIZERS[kind]
    is_open = kind in ("gpt2", "llama")
    encoder = TargetEncoder(tokenizer, 60, is_open)
    ids, n_cut = encoder.read(["the sea", "pão"])
    assert n_cut == 0 and encoder.end == tokenizer.eos_token_id
    for i, text in enumerate(["the sea", "pão"]):
        row = ids.row(i).tolist()
        assert row[-1] == tokenizer.eos_token_id and row.count(row[-1]) == 1
        assert decode(tokenizer, row) == text
        if not is_open:
            assert row == tokenizer(text_target=text)["input_ids"]


def test_a_long_target_is_cut_and_still_ends():
    encoder = TargetEncoder(word_tokenizer(["a"]), 3, False)
    with pytest.warns(UserWarning, match="1 of 3 targets are longer than max_target_length=3"):
        ids = encoder.encode(["a", "a a", "a a a"])
    assert ids.lengths.tolist() == [2, 3, 3]
    assert (ids.row(2) == ids.row(1)).all()


def test_no_room_for_a_target():
    with pytest.raises(ValueError, match=r"max_target_length=2 leaves no room.*2 special"):
        TargetEncoder(TOKENIZERS["bart"], 2, False)


# ------------------------------------------------------------------ batches


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=20),
    st.integers(1, 120),
)
def test_groups_hold_every_row_and_fit_the_budget(sizes, budget):
    sources = [[1] * n for n, _ in sizes]
    targets = [[2] * n for _, n in sizes]
    both = with_targets(Encoded.of_texts(Ragged.of(sources)), Ragged.of(targets))
    assert isinstance(both.take(np.array([0])), Answered)
    assert both.slots.tolist() == [sum(pair) for pair in sizes]
    groups = both.groups(budget)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(sizes)))
    for group in groups:
        longest = np.array(sizes)[group].max(axis=0)
        assert len(group) == 1 or len(group) * longest.sum() <= budget


# ------------------------------------------------------- unusual tokenizers


class TwoLanguages:
    """Cuts sources into letters and targets into words, as Marian has two vocabularies."""

    is_fast = False
    eos_token_id, sep_token_id, pad_token_id, unk_token_id = 9, None, 9, None

    def __call__(self, texts=None, text_target=None, add_special_tokens=True, **options):
        given, size = (texts, 1) if text_target is None else (text_target, 2)
        if isinstance(given, str):
            return {"input_ids": [size] * len(given) + [9] * add_special_tokens}
        return {"input_ids": [[size] * len(text) + [9] * add_special_tokens for text in given]}


def test_targets_are_tokenized_as_targets():
    assert TargetEncoder(TwoLanguages(), 8, False).encode(["abc"]).flat.tolist() == [2, 2, 2, 9]


def test_a_tokenizer_that_wants_to_know_the_language():
    class Unsure(TwoLanguages):
        def __call__(self, texts=None, text_target=None, **options):
            if text_target is not None:
                raise KeyError(None)
            return super().__call__(texts, **options)

    with pytest.raises(ValueError, match=r"Unsure wants to know the language.*tgt_lang"):
        TargetEncoder(Unsure(), 8, False)


def test_a_long_prompt_with_half_a_surrogate_pair():
    encoder = SourceEncoder(TOKENIZERS["bart"], 12, "{text}", False)
    found = encoder.encode(["boat " * 50 + "\ud83d", "\ud83d " + "boat " * 50])
    assert found.encoded.sequences.lengths.tolist() == [12, 12]
    assert found.counts.truncated == 2


def test_lack_of_memory_halves_rows_of_source_and_target():
    sources = Encoded.of_texts(Ragged.of([[5] * 200] * 16))
    both = with_targets(sources, Ragged.of([[6] * 20] * 16))
    budget = Budget(4096)
    assert budget.shrink(both.lengths)
    assert [len(group) for group in both.groups(budget)] == [9, 7]
