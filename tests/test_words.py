"""What a tagger's X and y may be: sentences of words, texts to split, and tags."""

import re
import unicodedata

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, strategies as st
from sklearn.utils import _safe_indexing

from sktransformers.inputs.tags import TagCoding, check_tags, find_tags, positions
from sktransformers.inputs.words import as_sentences

WORDS = [["The", "cat", "sat"], ["Olá"], [], ["São", "Paulo", "é", "grande"]]
EQUAL = [["The", "cat"], ["São", "Paulo"], ["a", "b"]]


def object_array(rows):
    array = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        array[i] = row
    return array


def string_lists(rows):
    return pa.array(rows, type=pa.list_(pa.string()))


CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "tuples": lambda rows: [tuple(row) for row in rows],
    "object array": object_array,
    "arrays of str": lambda rows: [np.array(row, dtype=str) for row in rows],
    "arrays of objects": lambda rows: [np.array(row, dtype=object) for row in rows],
    "arrays of StringDType": lambda rows: [np.array(r, np.dtypes.StringDType()) for r in rows],
    "object array of arrays": lambda rows: object_array([np.array(r, dtype=str) for r in rows]),
    "lists of numpy str": lambda rows: [[np.str_(word) for word in row] for row in rows],
    "list of pandas": lambda rows: [pd.Series(row, dtype="str") for row in rows],
    "list of polars": lambda rows: [pl.Series(row, dtype=pl.String) for row in rows],
    "list of pyarrow": lambda rows: [pa.array(row, type=pa.string()) for row in rows],
    "pandas": lambda rows: pd.Series(rows, index=np.arange(len(rows))[::-1] * 3),
    "pandas of arrays": lambda rows: pd.Series([np.array(row, dtype=str) for row in rows]),
    "pandas Arrow": lambda r: pd.Series(r, dtype=pd.ArrowDtype(pa.list_(pa.string()))),
    "polars": lambda rows: pl.Series(rows, dtype=pl.List(pl.String)),
    "pyarrow": string_lists,
    "pyarrow chunked": lambda rows: pa.chunked_array(
        [string_lists(rows[:1]), string_lists(rows[1:])]
    ),
}
RECTANGLES = {
    "numpy str": np.array,
    "numpy object": lambda rows: np.array(rows, dtype=object),
    "numpy StringDType": lambda rows: np.array(rows, dtype=np.dtypes.StringDType()),
}


def check_plain(words, expected):
    assert words == expected
    assert type(words) is list and all(type(sentence) is list for sentence in words)
    assert {type(word) for sentence in words for word in sentence} <= {str}


# ------------------------------------------------------------------------- words as they come


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("rows", [WORDS, EQUAL], ids=["uneven", "equal"])
def test_sentences_in_a_container(container, rows):
    X = CONTAINERS[container](rows)
    words, offsets, texts = as_sentences(X)
    check_plain(words, rows)
    assert offsets is None and texts is None


@pytest.mark.parametrize("container", RECTANGLES)
def test_equal_lengths_that_collapsed(container):
    X = RECTANGLES[container](EQUAL)
    assert X.shape == (3, 2)
    check_plain(as_sentences(X).words, EQUAL)
    check_plain(as_sentences(X[:1]).words, EQUAL[:1])
    check_plain(as_sentences(X[:, :0]).words, [[], [], []])


@pytest.mark.parametrize("container", [*CONTAINERS, *RECTANGLES])
def test_sentences_taken_by_sklearn(container):
    make = {**CONTAINERS, **RECTANGLES}[container]
    rows = EQUAL if container in RECTANGLES else WORDS
    for taken in (np.array([2, 0]), [1], slice(0, 2), np.arange(len(rows)) > 0):
        expected = [rows[i] for i in np.arange(len(rows))[taken]]
        check_plain(as_sentences(_safe_indexing(make(rows), taken)).words, expected)


def test_lists_of_str_are_not_copied():
    assert as_sentences(WORDS).words[0] is WORDS[0]


def with_entry(rows, i, value):
    return [*rows[:i], value, *rows[i + 1 :]]


SPLIT_IT = r'Split a text into words first, .*tokenize="whitespace"; .*\[words\]'
BAD_X = {
    "bare string": (
        "one text",
        ValueError,
        f"^X is one single str; expected a list of.*{SPLIT_IT}",
    ),
    "bytes": (b"text", ValueError, "^X is one single bytes"),
    "texts": (
        ["one text", "two"],
        ValueError,
        rf"^X\[0\] is a value of type str; X must be a list of sentences, each a list of words"
        rf" \(2 of 2 rows are no list\). {SPLIT_IT}",
    ),
    "one sentence": (["The", "cat"], ValueError, rf"^X\[0\] is a value of type str.* {SPLIT_IT}"),
    "one sentence as an array": (np.array(["The", "cat"]), ValueError, SPLIT_IT),
    "a text among sentences": (
        with_entry(WORDS, 2, "x y"),
        ValueError,
        r"^X\[2\] is a value of type str.*1 of 4",
    ),
    "missing sentence": (
        with_entry(WORDS, 1, None),
        ValueError,
        r"^X\[1\] is missing \(None\); X must be .* Drop such rows, or make them empty",
    ),
    "null in pyarrow": (string_lists([["a"], None]), ValueError, r"^X\[1\] is missing"),
    "None among words": (
        with_entry(WORDS, 3, ["a", "b", None, None]),
        ValueError,
        r"^X\[3\]\[2\] is missing \(None\); expected str for every word \(2 of 8 words.* Drop",
    ),
    "NaN among words": ([["a"], ["b", np.nan]], ValueError, r"^X\[1\]\[1\] is missing \(nan\)"),
    "null among words": (string_lists([["a", None]]), ValueError, r"^X\[0\]\[1\] is missing"),
    "NA among words": (
        [pd.Series(["a", None], dtype="string")],
        ValueError,
        r"^X\[0\]\[1\] is mis",
    ),
    "a number": ([["a", 3]], ValueError, r"^X\[0\]\[1\] is 3 of type int; expected str"),
    "numbers": (np.zeros((2, 3)), ValueError, r"^X\[0\]\[0\] is 0\.0 of type float.*6 of 6"),
    "bytes among words": ([[b"a"]], ValueError, r"^X\[0\]\[0\] is a value of type bytes"),
    "too deep": ([[["a"]]], ValueError, r"^X\[0\]\[0\] is a value of type list"),
    "dict rows": ([{"words": ["a"]}], ValueError, r"^X\[0\] is a value of type dict; X must"),
    "set rows": ([{"a"}], ValueError, r"^X\[0\] is a value of type set"),
    "matrix rows": ([np.array([["a"]])], ValueError, r"^X\[0\] is .* of type ndarray"),
    "empty": ([], ValueError, r"^Found array with 0 sample\(s\): X is empty, at least one sent"),
    "empty array": (np.empty((0, 3), dtype=object), ValueError, r"^Found array with 0 sample\(s\)"),
    "None": (None, TypeError, "^X is of type NoneType; expected a list of sentences"),
    "number": (3, TypeError, "^X is of type int"),
    "numpy scalar": (np.str_("a b"), ValueError, "^X is one single str_"),
    "dict": ({"a": ["b"]}, TypeError, "^X is of type dict"),
    "iterator": (iter(WORDS), TypeError, "^X is of type list_iterator"),
    "sparse": (scipy.sparse.eye(3), TypeError, "^X is a sparse matrix"),
    "pandas frame": (pd.DataFrame({"a": WORDS}), ValueError, r"^X is a table with 1 column\(s\)"),
    "polars frame": (pl.DataFrame({"a": [1], "b": [2]}), ValueError, r"table with 2 column\(s\)"),
    "pyarrow table": (pa.table({"a": WORDS}), ValueError, "^X is a table .* Select the column"),
    "three axes": (np.full((1, 2, 3), "a"), ValueError, r"^X has shape \(1, 2, 3\)"),
    "0 axes": (np.array("text"), ValueError, r"^X has shape \(\)"),
}


@pytest.mark.parametrize("name", BAD_X)
def test_bad_sentences(name):
    X, error, message = BAD_X[name]
    with pytest.raises(error, match=message):
        as_sentences(X)


def test_messages_use_the_name():
    with pytest.raises(ValueError, match=r"^X_val\[0\]\[0\] is 3"):
        as_sentences([[3]], name="X_val")
    with pytest.raises(ValueError, match=r"^X_val\[0\] is 3"):
        as_sentences([3], "regex", name="X_val")
    with pytest.raises(ValueError, match=r"^y_val\[0\]\[0\] is 3\.5"):
        check_tags([[3.5]], [["a"]], name="y_val")


# --------------------------------------------------------------------------- texts to be split


def test_whitespace():
    texts = ["The cat\tsat.", "", "  Olá,  São Paulo\n", "\u3000日本 語"]
    words, offsets, kept = as_sentences(texts, "whitespace")
    check_plain(words, [text.split() for text in texts])
    assert kept == texts
    assert offsets == [[(0, 3), (4, 7), (8, 12)], [], [(2, 6), (8, 11), (12, 17)], [(1, 3), (4, 5)]]


REGEX = {
    "punctuation": ("Hi, you_2 (a.b)!", ["Hi", ",", "you_2", "(", "a", ".", "b", ")", "!"]),
    "Portuguese": ("Não é às 3h, João!", ["Não", "é", "às", "3h", ",", "João", "!"]),
    "Devanagari": ("हिन्दी में, क्षत्रिय।", ["हिन्दी", "में", ",", "क्षत्रिय", "।"]),
    "Thai": ("น้ำดื่ม ที่นี่!", ["น้ำดื่ม", "ที่นี่", "!"]),
    "Arabic with vowels": ("كِتَابٌ، قَلَمٌ", ["كِتَابٌ", "،", "قَلَمٌ"]),
    "Hebrew with points": ("שָׁלוֹם.", ["שָׁלוֹם", "."]),
    "zero-width non-joiner": ("می\u200cخواهم بروم", ["می\u200cخواهم", "بروم"]),
    "soft hyphen": ("co\u00adoperate", ["co\u00adoperate"]),
    "Japanese": ("日本語、です。", ["日本語", "、", "です", "。"]),
    "emoji": ("ok👩\u200d💻❤️ go", ["ok", "👩\u200d💻", "❤️", "go"]),
    "mark without a letter": ("\u0301 a", ["\u0301", "a"]),
    "nothing": (" \n", []),
}


@pytest.mark.parametrize("name", REGEX)
def test_regex(name):
    text, expected = REGEX[name]
    words, offsets, _ = as_sentences([text], "regex")
    check_plain(words, [expected])
    assert [text[a:b] for a, b in offsets[0]] == expected


def test_regex_reads_both_forms_of_an_accent_alike():
    text = "Não é às três, João: coração, 10 €!"
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert composed != decomposed
    a, b = (as_sentences([t], "regex").words[0] for t in (composed, decomposed))
    assert a == [unicodedata.normalize("NFC", word) for word in b]
    assert a == re.findall(r"\w+|[^\w\s]", composed)


@pytest.mark.parametrize("tokenize", ["whitespace", "regex"])
@given(text=st.text())
def test_no_character_is_lost(tokenize, text):
    _, [offsets], _ = as_sentences([text], tokenize)
    covered = [i for start, end in offsets for i in range(start, end)]
    assert covered == [i for i, c in enumerate(text) if not c.isspace()]


TOKENIZERS = {
    "words": lambda text: re.findall(r"\w+", text),
    "generator": lambda text: (word for word in re.findall(r"\w+", text)),
    "numpy words": lambda text: np.array(re.findall(r"\w+", text)),
    "offsets": lambda text: [m.span() for m in re.finditer(r"\w+", text)],
    "lists of numpy int": lambda t: [list(np.array(m.span())) for m in re.finditer(r"\w+", t)],
    "array of offsets": lambda text: np.array([m.span() for m in re.finditer(r"\w+", text)]),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenize_by_a_function(name):
    texts = ["a man, a plan", "plan"]
    words, offsets, _ = as_sentences(pd.Series(texts, index=[4, 2]), TOKENIZERS[name])
    check_plain(words, [["a", "man", "a", "plan"], ["plan"]])
    assert offsets == [[(0, 1), (2, 5), (7, 8), (9, 13)], [(0, 4)]]
    assert {type(i) for found in offsets for pair in found for i in pair} == {int}


BAD_TOKENS = {
    "one str": (
        str.upper,
        r"^tokenize returned a value of type str for X\[0\]; expected a list",
    ),
    "not in the text": (
        lambda t: t.upper().split(),
        r"^tokenize returned a str of 3 characters as word 0 of X\[0\], which is not in the text "
        r"from character 0",
    ),
    "wrong order": (
        lambda t: t.split()[::-1],
        r"of 3 characters as word 1 of X\[0\].* from character 11 on\. Words must be pieces",
    ),
    "empty word": (lambda t: ["The", ""], r"a str of 0 characters as word 1 of X\[0\]"),
    "None": (lambda t: None, r"returned missing \(None\) for X\[0\]; expected a list of words"),
    "None inside": (lambda t: [None], r"returned missing \(None\) as word 0 of X\[0\]; exp.* str"),
    "three numbers": (lambda t: [(0, 1, 2)], r"returned a value of type tuple as word 0"),
    "floats": (lambda t: [(0.0, 1.0)], r"returned a value of type tuple"),
    "beyond the end": (lambda t: [(0, 99)], r"returned \(0, 99\) .* to 11, the text's length"),
    "overlap": (lambda t: [(0, 3), (2, 5)], r"returned \(2, 5\) as word 1 of .* from 3 on"),
    "empty span": (lambda t: [(1, 1)], r"returned \(1, 1\)"),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_bad_tokens(name):
    tokenize, message = BAD_TOKENS[name]
    with pytest.raises(ValueError, match=message):
        as_sentences(["The cat sat"], tokenize)


BAD_TEXTS = {
    "words": (
        WORDS,
        ValueError,
        r"^X\[0\] is a value of type list; with tokenize='regex', .*tokenize=None",
    ),
    "words in pyarrow": (string_lists(WORDS), ValueError, "tokenize=None for sentences"),
    "words in a rectangle": (np.array(EQUAL), ValueError, "^X has 2 columns; .*tokenize=None"),
    "bare string": ("text", ValueError, r"^X is one single str; .*\[text\]"),
    "missing": (["a", None], ValueError, r"^X\[1\] is missing \(None\); expected str in every row"),
    "empty": ([], ValueError, r"0 sample\(s\)"),
    "two columns": (pd.DataFrame({"a": ["b"], "c": ["d"]}), ValueError, "^X has 2 columns"),
    "dict": ({}, TypeError, "^X is of type dict"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_texts(name):
    X, error, message = BAD_TEXTS[name]
    with pytest.raises(error, match=message):
        as_sentences(X, "regex")


@pytest.mark.parametrize("tokenize", ["spaces", 3, ["a"], True])
def test_bad_tokenize(tokenize):
    with pytest.raises(ValueError, match=r"^tokenize is .*; expected 'whitespace', 'regex', a fun"):
        as_sentences(["text"], tokenize)


# -------------------------------------------------------------------------------------- tags

TAGS = [["O", "B-X", "I-X"], ["O"], [], ["B-LOC", "I-LOC", "O", "O"]]
EQUAL_TAGS = [["O", "B-X"], ["B-LOC", "I-LOC"], ["O", "O"]]


def check_plain_tags(tags, expected, kind):
    assert tags.shape == (len(expected),) and tags.dtype == object
    assert tags.tolist() == expected and all(type(row) is list for row in tags)
    assert {type(tag) for row in tags for tag in row} == {kind}


@pytest.mark.parametrize("container", CONTAINERS)
def test_tags_in_a_container(container):
    check_plain_tags(check_tags(CONTAINERS[container](TAGS), WORDS), TAGS, str)
    check_plain_tags(check_tags(CONTAINERS[container](EQUAL_TAGS), EQUAL), EQUAL_TAGS, str)


@pytest.mark.parametrize("container", RECTANGLES)
def test_tags_that_collapsed(container):
    check_plain_tags(check_tags(RECTANGLES[container](EQUAL_TAGS), EQUAL), EQUAL_TAGS, str)


@pytest.mark.parametrize("kind", [int, bool])
def test_tags_that_are_no_str(kind):
    rows = [[kind(len(tag) > 1) for tag in row] for row in TAGS]
    for y in (rows, [np.array(row, kind) for row in rows], object_array(rows), pd.Series(rows)):
        check_plain_tags(check_tags(y, WORDS), rows, kind)
    y = np.array([[0, 1], [1, 1], [1, 0]], dtype=kind)
    check_plain_tags(check_tags(y, EQUAL), y.tolist(), kind)


def test_tags_of_empty_sentences():
    assert check_tags([[], []], [[], []]).tolist() == [[], []]


ONE_A_WORD = r"Split it into one tag a word, .*str\.split; .*\[tags\]"
BAD_TAGS = {
    "none": (None, "^This TokenTagger estimator requires y to be passed, but the target y is None"),
    "length": (TAGS[:3], "inconsistent numbers of samples: X has 4 sentences, y has 3 lists of t"),
    "lengths of sentences": (
        [TAGS[0], ["O", "O"], [], ["O"]],
        r"^y\[1\] has 2 tags, but its sentence has 1 words; .*\(2 of 4 sentences differ",
    ),
    "bare string": ("O O", f"^y is one single str; .*{ONE_A_WORD}"),
    "strings": (
        [" ".join(row) for row in TAGS],
        rf"^y\[0\] is a value of type str; y must be .*4 of 4 rows are no list\). {ONE_A_WORD}",
    ),
    "one sentence": (["O", "B-X", "O", "O"], r"^y\[0\] is a value of type str"),
    "missing": (
        [["O", "B-X", None], ["O"], [], [None, "O", "O", "O"]],
        r"^Input y contains NaN: y\[0\]\[2\] is missing \(None\), 2 of 8 tags are\. Every word",
    ),
    "NaN among numbers": (
        [[1, 2, 3], [np.nan], [], [1, 2, 3, 4]],
        r"y\[1\]\[0\] is missing \(nan\), 1 of 8",
    ),
    "missing row": (with_entry(TAGS, 2, None), r"^y\[2\] is missing \(None\)"),
    "floats": (
        [[0.5] * len(row) for row in TAGS],
        r"^y\[0\]\[0\] is 0\.5 of type float; exp.* str",
    ),
    "lists": ([[["O"]] * len(row) for row in TAGS], r"^y\[0\]\[0\] is a value of type list; exp"),
    "mixed": (
        [["O", "O", "O"], ["O"], [], ["O", "O", 7, "O"]],
        r"^y mixes types of tags: y\[0\]\[0\] is 'O', y\[3\]\[2\] is 7\. Use one type",
    ),
    "bool and int": (
        [[1, 0, 1], [True], [], [0, 0, 0, 0]],
        r"y\[0\]\[0\] is 1, y\[1\]\[0\] is True",
    ),
    "table": (pd.DataFrame({"tags": TAGS}), "^y is a table with 1 column"),
    "empty": ([], r"^Found array with 0 sample\(s\): y is empty"),
}


@pytest.mark.parametrize("name", BAD_TAGS)
def test_bad_tags(name):
    y, message = BAD_TAGS[name]
    with pytest.raises(ValueError, match=message):
        check_tags(y, WORDS)


def test_find_tags():
    assert find_tags(check_tags(TAGS, WORDS)).tolist() == ["B-LOC", "B-X", "I-LOC", "I-X", "O"]
    assert find_tags(object_array([[3, 1], [3]])).tolist() == [1, 3]
    with pytest.raises(ValueError, match="at least two tags; y has 1 tag: 'O'"):
        find_tags(object_array([["O"], ["O", "O"]]))
    with pytest.raises(ValueError, match="at least two tags; y has none"):
        find_tags(object_array([[], []]))


@given(rows=st.lists(st.lists(st.sampled_from("abc")), min_size=1))
def test_positions(rows):
    tags = np.array(["a", "b", "c"])
    codes = positions(object_array(rows), tags, "y")
    assert codes.dtype == np.int64
    assert codes.tolist() == ["abc".index(tag) for row in rows for tag in row]
    known = positions(rows, tags[:2], "y") if not any("c" in row for row in rows) else None
    assert known is None or known.tolist() == codes.tolist()


@given(rows=st.lists(st.lists(st.sampled_from("ab")), min_size=1), data=st.data())
def test_positions_of_unknown_tags(rows, data):
    i = data.draw(st.integers(0, len(rows) - 1))
    j = data.draw(st.integers(0, len(rows[i])))
    rows[i].insert(j, "?")
    rows[-1].append("?")  # the first is named
    message = f"y_val[{i}][{j}] is '?', which is none of the 2 tags seen in training."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        positions(object_array(rows), np.array(["a", "b"]), "y_val")


def test_positions_of_another_type():
    with pytest.raises(ValueError, match=r"^y\[0\]\[0\] is 1, which is none of the 2 tags"):
        positions([[1, 2]], np.array(["1", "2"]), "y")


def test_tag_coding():
    coding = TagCoding(np.array([0, 1, 5]), np.ones(3))
    assert coding.names == ["0", "1", "5"]
    assert coding.attributes["classes_"] is coding.tags
