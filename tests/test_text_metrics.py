"""Scores of texts against texts."""

import importlib.util
import unicodedata

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.base import BaseEstimator
from sklearn.metrics import make_scorer

from sktransformers import Text2TextGenerator, metrics
from sktransformers.text_metrics import METRICS

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
WORDS = st.sampled_from("the tram Tram was late, em São Paulo".split())
SENTENCES = st.lists(WORDS, max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("true", "pred", "is_equal"),
    [
        ("São Paulo", "são  paulo.", True),
        ("São Paulo", "Sao Paulo", False),  # letters keep their accents
        ("a casa", "casa", False),  # and articles stay, of whatever language
        ("the house", "house", False),
        ("bem-vindo", "bemvindo", True),
        ("50 %", "50", True),
        ("5 $", "5", False),  # a symbol is no punctuation
        ("हिन्दी", "हिन्द", False),
        ("?", "!", False),
        ("?", " ?", True),
        ("", "", True),
        ("Straße", "STRASSE", True),
        ("ＡＢＣ", "abc", True),
    ],
)
def test_exact_match(true, pred, is_equal):
    assert metrics.exact_match_score([true], [pred]) == is_equal
    decomposed = unicodedata.normalize("NFD", pred)
    assert metrics.exact_match_score([true], [decomposed]) == is_equal


@pytest.mark.parametrize(
    ("true", "pred", "f1"),
    [
        ("in the old town", "the old harbour", 4 / 7),
        ("a a b", "a b b", 2 / 3),  # as often as both have it
        ("a", "b", 0.0),
        ("a", "", 0.0),
        ("", "", 1.0),
        ("à beira-mar", "À beiramar!", 1.0),
    ],
)
def test_token_f1(true, pred, f1):
    assert metrics.token_f1_score([true], [pred]) == pytest.approx(f1)


@given(SENTENCES, SENTENCES)
def test_rouge_l_is_that_of_the_library_where_texts_are_ascii(true, pred):
    rouge = pytest.importorskip("rouge_score.rouge_scorer")
    true, pred = (text.replace("ã", "a") for text in (true, pred))
    expected = rouge.RougeScorer(["rougeL"]).score(true, pred)["rougeL"].fmeasure
    assert metrics.rouge_l_score([true], [pred]) == pytest.approx(expected)


def test_rouge_l_reads_other_letters():
    assert metrics.rouge_l_score(["pão é bom"], ["Pão é mau"]) == pytest.approx(2 / 3)
    assert metrics.rouge_l_score(["привет мир"], ["привет"]) == pytest.approx(2 / 3)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=5))
def test_corpus_scores_are_those_of_the_library(pairs):
    sacrebleu = pytest.importorskip("sacrebleu")
    true, pred = map(list, zip(*pairs))
    bleu = sacrebleu.corpus_bleu(pred, [true]).score
    chrf = sacrebleu.corpus_chrf(pred, [true]).score
    assert metrics.bleu_score(true, pred) == pytest.approx(bleu / 100, abs=1e-9)
    assert metrics.chrf_score(true, pred) == pytest.approx(chrf / 100, abs=1e-9)


@pytest.mark.parametrize("name", sorted(METRICS))
@given(true=st.lists(TEXTS, min_size=1, max_size=4), data=st.data())
def test_scores_lie_between_zero_and_one(name, true, data):
    pred = [data.draw(TEXTS) for _ in true]
    assert 0 <= METRICS[name](true, pred) <= 1


@pytest.mark.parametrize("name", ["token_f1", "exact_match", "rougeL"])
def test_a_weight_of_two_is_a_row_given_twice(name):
    true, pred = ["a b", "c", "d e f"], ["a", "c", "f e"]
    score = METRICS[name](true, pred, sample_weight=[2, 0, 1])
    twice = METRICS[name]([true[0], true[0], true[2]], [pred[0], pred[0], pred[2]])
    assert score == pytest.approx(twice)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_scores_of_all_rows_have_no_weights(name):
    with pytest.raises(ValueError, match=f"sample_weight and the metric '{name}' contradict"):
        METRICS[name](["a"], ["a"], sample_weight=[1])


@pytest.mark.parametrize("name", sorted(METRICS))
def test_bad_input(name):
    with pytest.raises(ValueError, match="y_true has 1 texts, but y_pred has 2"):
        METRICS[name](["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"y_pred\[0\] is 3 of type int"):
        METRICS[name](["a"], [3])


@pytest.mark.parametrize("name", ["bleu", "chrf", "rougeL"])
def test_a_missing_library_is_named_before_anything_is_loaded(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda library: None)
    with pytest.raises(ImportError, match=r"pip install sktransformers\[text2text\]"):
        Text2TextGenerator("/no/such/place", metric=name, scoring=None).fit(["a"], ["b"])


@pytest.mark.parametrize("name", ["token_f1", "exact_match", "rouge_l", "chrf", "bleu"])
def test_scorers(name):
    class Echo(BaseEstimator):
        def predict(self, X):
            return np.array(X, dtype=object)

    text = "o pão é bom hoje"
    scorer = getattr(metrics, f"{name}_scorer")
    assert scorer(Echo(), [text], [text]) == 1
    assert make_scorer(getattr(metrics, f"{name}_score"))(Echo(), ["x"], [text]) < 0.1
