"""Tokens of the hub and texts of the user: what they must never be shown in."""

import copy
import io
import logging
import pickle
import pprint
import warnings
from contextlib import contextmanager
from functools import partial

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import make_texts
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from tiny_estimators import KINDS, backbone, fitted, make

import sktransformers
from sktransformers import CRF, Backbone, MaskedReplacement, metrics
from sktransformers.specs.secret import Secret
from sktransformers.training import credentials

TOKEN = "hf_thisIsASecret"
X, Y = make_texts(12)


def spec(token=TOKEN, **options):
    return Backbone(backbone(), token=token, **options)


# -------------------------------------------------------------------- tokens


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def private(kind):
    """An estimator of every class whose backbone has a token."""
    name = make(kind).backbone
    return make(kind, backbone=Backbone(name, token=TOKEN))


def shown(thing):
    """All that shows an object, whatever is asked for."""
    found = [repr(thing), str(thing), f"{thing}", pprint.pformat(thing)]
    for display in ("diagram", "text"):
        for changed in (True, False):
            with sklearn.config_context(display=display, print_changed_only=changed):
                found += [repr(thing), str(thing), str(thing._repr_mimebundle_())]
    found += [repr(thing.get_params()), pprint.pformat(thing.get_params())]
    return "\n".join([*found, thing._repr_html_()])


def written(thing):
    """All that a process hands to another."""
    files = [pickle.dumps(thing, protocol) for protocol in range(2, 6)]
    file = io.BytesIO()
    joblib.dump(thing, file)
    return b"".join([*files, file.getvalue(), cloudpickle.dumps(thing)])


def test_a_token_is_not_shown(private):
    searched = [{"backbone": [private.backbone], "backbone__token": [Secret(TOKEN)]}]
    for thing in (
        private,
        private.backbone,
        make_pipeline(private),
        GridSearchCV(make_pipeline(private), {}),
        GridSearchCV(private, searched),
        ColumnTransformer([("text", private, "text")]),
        make_pipeline(clone(private), copy.deepcopy(private)),
    ):
        assert TOKEN not in shown(thing)
    assert "token='***'" in repr(private)


def test_a_token_is_in_no_pickle(private):
    for thing in (private, private.backbone, make_pipeline(private), private.get_params()):
        assert TOKEN.encode() not in written(thing)
    again = pickle.loads(pickle.dumps(private))
    assert again.backbone.token is None
    assert again.backbone.name == private.backbone.name
    assert pickle.loads(pickle.dumps(private.get_params()))["backbone__token"] is None
    other = clone(private).set_params(backbone__token="hf_other")
    assert joblib.hash(private) == joblib.hash(other)


def test_whoever_needs_the_token_has_it():
    given = spec()
    assert given.token is TOKEN  # as it was given
    for same in (clone(given), clone(clone(given)), copy.copy(given), copy.deepcopy(given)):
        assert same is not given
        assert same.token == TOKEN
        assert f"Bearer {same.token}" == f"Bearer {TOKEN}"
    assert given.get_params()["token"] == TOKEN
    assert Backbone(**given.get_params()).token == TOKEN
    clf = make("classifier", backbone=given)
    assert copy.deepcopy(clf).backbone.token == TOKEN
    assert clone(clf).set_params(backbone__token="hf_other").backbone.token == "hf_other"
    assert given.token == TOKEN


@pytest.mark.parametrize("token", [None, True, False])
def test_what_is_no_secret_stays(token):
    given = spec(token)
    assert given.get_params()["token"] is token
    assert pickle.loads(pickle.dumps(given)).token is token
    assert clone(given).token is token


def test_a_search_over_backbones():
    clf = make("classifier")
    grid = {"backbone": [spec(), spec(dropout=0.1)], "backbone__token": [Secret(TOKEN), None]}
    search = GridSearchCV(clf, grid, cv=2).fit(X, Y)
    assert search.best_estimator_.backbone.token == search.best_params_["backbone__token"]
    for thing in (search.best_params_, search.cv_results_, search.best_estimator_):
        assert TOKEN not in repr(thing)
        assert TOKEN.encode() not in pickle.dumps(thing)
    assert TOKEN not in search._repr_html_()


def test_a_fitted_estimator_has_it_nowhere(tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    clf = make("classifier", backbone=spec(), memory=tmp_path / "memory", verbose=2)
    clf.set_params(finetune="head").fit(X, Y).predict(X)
    clf.save_pretrained(tmp_path / "saved")
    clf.save_pretrained(tmp_path / "delta", weights="delta")
    for path in tmp_path.rglob("*"):
        assert TOKEN not in path.name
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN.encode() not in written(clf)
    assert TOKEN not in "".join([*capfd.readouterr(), caplog.text, shown(clf)])
    assert sktransformers.load(tmp_path / "saved").backbone.token is None
    assert pickle.loads(pickle.dumps(clf)).backbone.token is None


BAD_TOKENS = {
    "bytes": TOKEN.encode(),
    "list": [TOKEN],
    "dict": {"token": TOKEN},
    "array": np.array([TOKEN]),
    "number": 3,
    "class": Secret,
    "empty": "",
    "blank": " ",
    "space": f"{TOKEN} ",
    "line": f"{TOKEN}\n",
    "header": f"{TOKEN}\r\nX-Evil: 1",
    "not ASCII": f"{TOKEN}é",
    "lone surrogate": f"{TOKEN}\ud800",
    "NUL": f"{TOKEN}\0",
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_what_is_no_token_is_refused_unseen(name):
    token = BAD_TOKENS[name]
    there = Backbone("someone/private", token=token)
    clf = make("classifier", backbone=there)
    calls = {
        "fit": lambda: clf.fit(X, Y),
        "clone": lambda: clone(clf).fit(X, Y),
        "augment": lambda: clf.set_params(
            backbone=backbone(), augment=MaskedReplacement(there)
        ).fit(X, Y),
        "load": lambda: sktransformers.load("someone/private", token=token),
        "from_pretrained": lambda: type(clf).from_pretrained("someone/private", token=token),
    }
    for call in calls:
        with pytest.raises((TypeError, ValueError), match="token") as caught:
            calls[call]()
        assert TOKEN not in chain(caught.value), call
    assert TOKEN not in shown(clf.set_params(backbone=Backbone("a/b", token=token)))
    assert TOKEN.encode() not in written(clf)


def chain(error):
    """What a traceback shows of an error and of those that it came from."""
    found = ""
    while error is not None:
        found += f"{error} {error!r}\n"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def test_a_backbone_that_is_no_backbone_is_not_shown():
    with pytest.raises(TypeError, match="of type dict") as caught:
        make("classifier", backbone={"name": "a/b", "token": TOKEN}).fit(X, Y)
    assert TOKEN not in str(caught.value)


def test_errors_that_repeat_the_token():
    error = ValueError(f"Illegal header value b'Bearer {TOKEN}'")
    assert credentials.without(TOKEN, error) == "Illegal header value b'Bearer ***'"
    assert credentials.cause(TOKEN, error) is None
    assert credentials.cause("hf_other", error) is error
    outer = RuntimeError("failed")
    outer.__context__ = error
    error.__context__ = outer  # a circle
    assert credentials.cause(TOKEN, outer) is None
    assert credentials.cause(None, outer) is outer


def test_the_token_of_the_machine_is_hidden_too(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert credentials.without(None, f"Bearer {TOKEN}") == "Bearer ***"
    assert credentials.cause(None, ValueError(TOKEN)) is None


# --------------------------------------------------------------------- texts

MARK = "zqsecret"
LONG = "a label that is far longer than anything anybody would take for a label, namely "


def marked(rows):
    """Rows whose every text is known by a mark; labels and numbers as they are."""
    if isinstance(rows, str):
        return f"{rows} {MARK}"
    if isinstance(rows, (list, tuple)):
        return type(rows)(map(marked, rows))
    return rows


class Odd:
    """An object that shows its text."""

    def __repr__(self):
        return LONG + MARK


def deeper(row):
    return [[row]]


# Of rows as they should be, what is made of the one in the middle.
BAD_ROWS = {
    "None": lambda row: None,
    "NaN": lambda row: float("nan"),
    "NA": lambda row: pd.NA,
    "number": lambda row: 7,
    "bytes": lambda row: repr(row).encode(),
    "nested": deeper,
    "deeply nested": lambda row: [deeper(row)],
    "twice": lambda row: [row, row],
    "ragged": lambda row: (row, row, row),
    "one": lambda row: (row,),
    "dict": lambda row: {"text": row, LONG + MARK: row},
    "set": lambda row: {repr(row)},
    "object": lambda row: Odd(),
    "array": lambda row: np.array([[repr(row)]]),
    "joined": repr,
    "exception": lambda row: ValueError(row),
}
# Likewise of all rows.
BAD_WHOLE = {
    "none": lambda rows: None,
    "string": repr,
    "bytes": lambda rows: repr(rows).encode(),
    "empty": lambda rows: [],
    "dict": lambda rows: dict.fromkeys(map(repr, rows)),
    "dict of columns": lambda rows: {"text": rows},
    "set": lambda rows: set(map(repr, rows)),
    "iterator": iter,
    "columns": lambda rows: (rows, rows),
    "three columns": lambda rows: pd.DataFrame([[repr(r)] * 3 for r in rows]),
    "columns of odd names": lambda rows: pd.DataFrame({LONG + MARK: rows, "b": rows, "c": rows}),
    "array": lambda rows: np.array([[[repr(row)]] for row in rows]),
    "scalar": lambda rows: np.array(repr(rows)),
    "bytes inside": lambda rows: [repr(row).encode() for row in rows],
    "shorter": lambda rows: rows[:-1],
    "nested": lambda rows: [rows],
    "object": lambda rows: Odd(),
    "objects": lambda rows: [Odd()] * len(rows),
    "joined": lambda rows: [repr(row) for row in rows],
    "table": lambda rows: pd.DataFrame({"a": [repr(row) for row in rows]}),
    "categories": lambda rows: pd.Categorical([repr(row) for row in rows]),
    "indicators": lambda rows: np.array([[repr(row)] * 2 for row in rows]),
    "surrogates": lambda rows: [f"{row}\ud800" for row in rows],
    "long": lambda rows: [repr(row) * 40 for row in rows],
}


def in_the_middle(change, rows):
    return [*rows[:3], change(rows[3]), *rows[4:]]


WRONG = {f"row: {name}": partial(in_the_middle, change) for name, change in BAD_ROWS.items()}
WRONG |= {f"all: {name}": change for name, change in BAD_WHOLE.items()}


@contextmanager
def nothing_said(capfd, caplog, what):
    """Check that whatever happens inside, the mark is nowhere to be read."""
    caplog.clear()
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            yield
        except (AttributeError, TypeError, ValueError, NotFittedError) as error:
            assert MARK not in chain(error), what
    for warning in warned:
        assert MARK not in f"{warning.message} {warning.message!r}", what
    assert MARK not in "".join([*capfd.readouterr(), caplog.text]), what


def rows_of(kind):
    """Rows and targets; targets that are texts are marked as well, labels are not."""
    known = KINDS[kind]
    X, y = known.X[:6], known.y if known.y is None else known.y[:6]
    return marked(X), marked(y) if kind == "generator" else y


READERS = ["classifier", "regressor", "pair", "tagger", "tasks", "generator", "answers", "adapter"]
METHODS = ("predict", "predict_proba", "transform", "perplexity")


@pytest.mark.parametrize("kind", READERS)
def test_texts_of_x_are_never_shown(kind, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    X, y = rows_of(kind)
    unfitted, known = make(kind, verbose=2), fitted(kind)
    with nothing_said(capfd, caplog, "nothing wrong"):
        unfitted.fit(X, y).predict(X) if hasattr(unfitted, "predict") else unfitted.fit(X)
    for name, wrong in WRONG.items():
        with nothing_said(capfd, caplog, name):
            unfitted.fit(wrong(X), y)
        for method in METHODS:
            if hasattr(known, method):
                with nothing_said(capfd, caplog, name):
                    getattr(known, method)(wrong(X))
        if kind != "adapter":
            with nothing_said(capfd, caplog, name):
                known.score(wrong(X), y)
            with nothing_said(capfd, caplog, name):
                unfitted.fit(X, y, X_val=wrong(X), y_val=y)


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "adapter"])
def test_texts_of_y_are_never_shown(kind, capfd, caplog):
    """Labels may be, though not whole ones that are long."""
    caplog.set_level(logging.DEBUG)
    X, _ = rows_of(kind)
    y = KINDS[kind].y[:6]
    texts = marked([LONG] * len(X))
    unfitted, known = make(kind), fitted(kind)
    for name, wrong in WRONG.items():
        for call in (unfitted.fit, known.score):
            with nothing_said(capfd, caplog, name):
                call(X, wrong(texts))
        with nothing_said(capfd, caplog, name):
            known.score(X, y, sample_weight=wrong(texts))
        with nothing_said(capfd, caplog, name):
            unfitted.fit(X, y, sample_weight=wrong(texts))
        with nothing_said(capfd, caplog, name):
            unfitted.fit(X, y, X_val=X, y_val=wrong(texts))


LABEL = LONG + MARK
TEXT = f"short {MARK}"


def going_on(kind, X, y, **options):
    return copy.deepcopy(fitted(kind)).partial_fit(X, y, **options)


# Other places where a text may be wrong. Of labels and names, long ones.
ELSEWHERE = {
    "unknown class": lambda: going_on("classifier", X, [LABEL, *Y[1:]]),
    "classes": lambda: going_on("classifier", X, Y, classes=[LABEL, LABEL]),
    "class_weight": lambda: make("classifier", class_weight={LABEL: 2.0}).fit(X, Y),
    "weight": lambda: make("classifier", class_weight={"sea": LABEL}).fit(X, Y),
    "one class": lambda: make("classifier").fit(X, [LABEL] * 12),
    "unknown tag": lambda: fitted("tagger").score([["a"]], [[LABEL]]),
    "tag": lambda: make("tagger", crf=CRF("bio")).fit([["a"]], [[LABEL]]),
    "tags": lambda: make("tagger").fit([["a", "b"]], [[LABEL, 3]]),
    "words": lambda: make("tagger", tokenize=lambda text: [TEXT]).fit(["a"], [["O"]]),
    "split": lambda: make("tagger", tokenize=lambda text: {TEXT}).fit([TEXT], [["O"]]),
    "offsets": lambda: make("tagger", tokenize=lambda text: [(0, TEXT)]).fit([TEXT], [["O"]]),
    "task": lambda: make("tasks", tasks={LABEL: "regression"}).fit(X, [["a", 1.0]] * 12),
    "entry": lambda: make("tasks").fit(X, [[LABEL, 1], [3, 1], *[["a", 1]] * 10]),
    "template": lambda: make("generator", template="{a} {b}").fit([{LABEL: TEXT}], [TEXT]),
    "columns": lambda: make("generator", template="{a} {b}").fit(
        pd.DataFrame({LABEL: [TEXT], "c": [TEXT]}), [TEXT]
    ),
    "no room": lambda: make("generator", max_length=3, template="{text} and so on").fit(
        [TEXT], [TEXT]
    ),
    "prefix": lambda: make("generator").fit(X, Y, prefix=[TEXT]),
    "prefixes": lambda: make("generator").fit(X, Y, prefix=[TEXT, 3] * 6),
    "answer": lambda: make("generator").fit(X, [TEXT, " "] * 6),
    "label words": lambda: make("answers", label_words={LABEL: "a"}).fit(X, Y),
    "same words": lambda: make("answers", label_words=dict.fromkeys(Y, LABEL)).fit(X, Y),
    "pearson": lambda: metrics.pearson_score([TEXT, "a"], [1, 2]),
    "weights of a score": lambda: metrics.exact_match_score(X, X, sample_weight=[TEXT] * 12),
    "spans": lambda: metrics.spans(TEXT),
    "a text among answers": lambda: metrics.token_f1_score([TEXT, [TEXT]], ["a", "b"]),
    "augment": lambda: make("classifier", augment=Bad()).fit([TEXT] * 12, Y),
}


class Bad:
    """An augmenter that gives nothing that is a text."""

    def transform(self, X):
        return [{text} for text in X]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_texts_are_shown_nowhere_else(name, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    with nothing_said(capfd, caplog, name), pytest.raises((TypeError, ValueError)) as caught:
        ELSEWHERE[name]()
    assert MARK not in chain(caught.value)


def test_long_labels_are_cut_and_short_ones_shown():
    with pytest.raises(ValueError, match="'moon'"):
        fitted("tagger").score([["a"]], [["moon"]])
    with pytest.raises(ValueError, match=r"'a label that is far longer than anyt\.\.\."):
        fitted("tagger").score([["a"]], [[LABEL]])
