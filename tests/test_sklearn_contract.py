"""What scikit-learn does with an estimator: copy, store, search, nest and watch it."""

import copy
import pickle
import re
import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from conftest import LEARNS
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.fixes import parse_version

from sktransformers import AdamW, Backbone, BatchHistory, Linear
from sktransformers.training import runtime

SKLEARN = parse_version(sklearn.__version__)


def column(texts):
    """Texts as a table of one column, for what insists on two dimensions."""
    return np.array(texts, dtype=object)[:, None]


def strip_markup(texts):
    return [re.sub(r"<[^>]*>", "", text) for text in texts]


# ------------------------------------------------------------- parameters and copies


def test_clone(make_clf, tiny_backbone, texts, labels):
    clf = make_clf(
        backbone=Backbone(tiny_backbone),
        optimizer=AdamW(eps=1e-6),
        head=Linear(dropout=0.0),
        class_weight={"food": 2.0},
    ).fit(texts, labels)
    twin = clone(clf)
    assert repr(twin.get_params()) == repr(clf.get_params())
    assert all(getattr(twin, x) is not getattr(clf, x) for x in ("backbone", "optimizer", "head"))
    with pytest.raises(NotFittedError):
        twin.predict(texts)
    assert_array_equal(twin.fit(texts, labels).predict_proba(texts), clf.predict_proba(texts))


@pytest.mark.parametrize(
    "name, value, in_use",
    [
        ("optimizer__eps", 1e-3, lambda clf: clf.net_.optimizer_.param_groups[0]["eps"]),
        ("head__dropout", 0.5, lambda clf: clf.model_.head.hidden[-1].p),
        ("backbone__dtype", "float64", lambda clf: str(clf.model_.dtype).removeprefix("torch.")),
        ("backbone__revision", "v1", lambda clf: clf.backbone.revision),
    ],
)
def test_nested_parameters(make_clf, tiny_backbone, texts, labels, name, value, in_use):
    clf = make_clf(backbone=Backbone(tiny_backbone), optimizer=AdamW(), head=Linear(), max_epochs=1)
    assert clf.get_params()[name] != value
    assert clf.set_params(**{name: value}).get_params()[name] == value
    assert in_use(clf.fit(texts, labels)) == value


def test_set_params_refuses_unknown_names(make_clf):
    with pytest.raises(ValueError, match="Invalid parameter 'epochs'"):
        make_clf().set_params(epochs=3)
    with pytest.raises(ValueError, match="Invalid parameter 'epsilon'"):
        make_clf(optimizer=AdamW()).set_params(optimizer__epsilon=1e-6)


def reload_by_pickle(clf, path):
    return pickle.loads(pickle.dumps(clf))


def reload_by_joblib(clf, path, **how):
    joblib.dump(clf, path / "clf.joblib", compress=0 if how else 3)
    return joblib.load(path / "clf.joblib", **how)


def reload_by_memory_map(clf, path):
    return reload_by_joblib(clf, path, mmap_mode="r")


RELOADS = [
    reload_by_pickle,
    reload_by_joblib,
    reload_by_memory_map,
    lambda clf, path: copy.deepcopy(clf),
    lambda clf, path: copy.copy(clf),
]
RELOAD_NAMES = ["pickle", "joblib", "memory map", "deepcopy", "copy"]


@pytest.mark.parametrize("reload", RELOADS, ids=RELOAD_NAMES)
def test_reload_before_fit(reload, make_clf, fitted, texts, labels, tmp_path):
    clf = reload(make_clf(**LEARNS), tmp_path)
    with pytest.raises(NotFittedError):
        clf.predict(texts)
    assert_array_equal(clf.fit(texts, labels).predict_proba(texts), fitted.predict_proba(texts))


@pytest.mark.parametrize("reload", RELOADS, ids=RELOAD_NAMES)
def test_reload_after_fit(reload, fitted, texts, labels, tmp_path):
    clf = reload(fitted, tmp_path)
    assert_array_equal(clf.predict_proba(texts), fitted.predict_proba(texts))
    assert_array_equal(clf.classes_, fitted.classes_)
    assert clf.history_ == fitted.history_
    assert "TransformerSequenceClassifier" in clf._repr_html_()
    # What was loaded can be trained again, and the original does not notice.
    before = fitted.predict_proba(texts)
    clf.set_params(max_epochs=1).fit(texts, labels[::-1])
    assert_array_equal(fitted.predict_proba(texts), before)


def test_pickle_holds_the_weights_and_moments_once_and_no_net(fitted):
    assert hasattr(fitted, "net_")
    assert "net_" not in fitted.__getstate__()
    assert not hasattr(pickle.loads(pickle.dumps(fitted)), "net_")
    weights = sum(p.numel() * p.element_size() for p in fitted.model_.parameters())
    moments = 2 * weights  # at most: Adam has two numbers for each that it trained
    assert len(pickle.dumps(fitted)) < 1.5 * (weights + moments)
    assert all(p.grad is None for p in fitted.model_.parameters())


# There may be no GPU here: the next two tests pretend that there was one.


def test_pickle_holds_cpu_tensors(fitted, texts, monkeypatch):
    with monkeypatch.context() as patch:
        cuda = property(lambda model: torch.device("cuda"))
        patch.setattr(type(fitted.model_), "device", cuda)
        state = fitted.__getstate__()
    # The model in the state is a copy of its own: the user's stays on the device.
    assert state["model_"] is not fitted.model_
    assert {p.device.type for p in state["model_"].state_dict().values()} == {"cpu"}
    clf = copy.copy(fitted)
    clf.model_ = state["model_"]
    assert_array_equal(clf.predict_proba(texts), fitted.predict_proba(texts))


def test_reload_without_the_device(fitted, texts, labels, monkeypatch):
    monkeypatch.setattr(runtime, "is_available", lambda device: device.type == "cpu")
    on_gpu = copy.copy(fitted).set_params(device="cuda")
    with pytest.warns(UserWarning, match="'cuda' is not available.* stays on the CPU"):
        clf = pickle.loads(pickle.dumps(on_gpu))
    assert_array_equal(clf.predict_proba(texts), fitted.predict_proba(texts))
    with pytest.raises(ValueError, match="'cuda' is not available"):
        clf.fit(texts, labels)
    # "auto" takes what there is.
    with warnings.catch_warnings(action="error"):
        pickle.loads(pickle.dumps(on_gpu.set_params(device="auto")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_reload_on_another_device(device, make_clf, texts, labels):
    clf = make_clf(device="cuda", precision="fp32").fit(texts, labels)
    there = pickle.loads(pickle.dumps(clf.set_params(device=device)))
    assert there.model_.device.type == device
    assert_allclose(there.predict_proba(texts), clf.predict_proba(texts), atol=1e-5)


def test_html_repr(make_clf, fitted):
    unfitted = make_clf()._repr_html_()
    assert "Not fitted" in unfitted and "TransformerSequenceClassifier" in unfitted
    with warnings.catch_warnings(action="error"):  # it looks at all fitted attributes
        html = fitted._repr_html_()
    assert "Not fitted" not in html and "<span>Fitted</span>" in html


# ----------------------------------------------------------- pipelines and searches


def test_pipeline_cleans_text(make_clf, texts, labels):
    pipe = Pipeline([("clean", FunctionTransformer(strip_markup)), ("clf", make_clf())])
    marked = [f"<p>{text}</p>" for text in texts]
    plain = make_clf().fit(texts, labels)
    assert_array_equal(pipe.fit(marked, labels).predict_proba(marked), plain.predict_proba(texts))
    assert_array_equal(pipe.classes_, plain.classes_)


SEARCHES = {
    "grid": lambda clf, grid, **how: GridSearchCV(clf, grid, **how),
    "random": lambda clf, grid, **how: RandomizedSearchCV(
        clf, grid, n_iter=2, random_state=0, **how
    ),
}


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("search", SEARCHES)
def test_search(search, n_jobs, make_clf, texts, labels):
    pipe = Pipeline(
        [("clean", FunctionTransformer()), ("clf", make_clf(head=Linear(), optimizer=AdamW()))]
    )
    grid = {"clf__head__dropout": [0.0, 0.3], "clf__optimizer__eps": [1e-8]}
    found = SEARCHES[search](pipe, grid, cv=2, n_jobs=n_jobs, error_score="raise")
    found.fit(texts, labels)
    assert sorted(found.cv_results_["param_clf__head__dropout"]) == [0.0, 0.3]
    best = clone(pipe).set_params(**found.best_params_).fit(texts, labels)
    assert_allclose(found.predict_proba(texts), best.predict_proba(texts), atol=1e-6)
    assert found.score(texts, labels) == best.score(texts, labels)


def test_workers_agree(make_clf, fitted, texts, labels):
    clf = make_clf(batch_size=4, precision="fp32")  # what conftest says does not reach workers
    cv = StratifiedKFold(3)  # 32 training rows: 16 steps
    here, there = (
        cross_val_predict(clf, texts, labels, cv=cv, n_jobs=n_jobs, method="predict_proba")
        for n_jobs in (1, 2)
    )
    assert_allclose(here, there, rtol=0, atol=1e-4)
    # A fitted one travels as well.
    parts = joblib.Parallel(n_jobs=2)(
        joblib.delayed(fitted.predict_proba)(texts[i : i + 24]) for i in (0, 24)
    )
    assert_allclose(np.concatenate(parts), fitted.predict_proba(texts), rtol=0, atol=1e-4)


def test_threads_agree(make_clf, texts, labels):
    # torch's random state belongs to the process: fits in threads must not share it.
    with joblib.parallel_config(backend="threading"):
        here, there = (
            cross_val_predict(
                make_clf(), texts, labels, cv=3, n_jobs=n_jobs, method="predict_proba"
            )
            for n_jobs in (1, 2)
        )
    assert_allclose(here, there, rtol=0, atol=1e-5)


def test_halving_over_epochs(make_clf, texts, labels):
    search = HalvingGridSearchCV(
        make_clf(),
        {"lr": [1e-3, 1e-5]},
        resource="max_epochs",
        min_resources=2,
        max_resources=4,
        factor=2,
        cv=2,
        random_state=0,
        error_score="raise",
    ).fit(texts, labels)
    assert search.n_resources_ == [2, 4]
    assert search.best_params_["max_epochs"] == search.best_estimator_.n_iter_ == 4


def test_cross_val_predict(make_clf, texts, labels):
    cv = StratifiedKFold(2)
    proba = cross_val_predict(make_clf(), texts, labels, cv=cv, method="predict_proba")
    for train, test in cv.split(texts, labels):
        clf = make_clf().fit([texts[i] for i in train], [labels[i] for i in train])
        assert_array_equal(proba[test], clf.predict_proba([texts[i] for i in test]))


def test_learning_curve(make_clf, texts, labels):
    sizes, train, test = learning_curve(
        make_clf(**LEARNS), texts, labels, train_sizes=[12, 24], cv=2, error_score="raise"
    )
    assert sizes.tolist() == [12, 24]
    assert train.shape == test.shape == (2, 2)
    assert train[-1].mean() > 0.8


# ------------------------------------------------------------------ meta-estimators


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_calibration(method, make_clf, texts, labels):
    if method == "temperature" and SKLEARN < parse_version("1.8"):
        pytest.skip("new in scikit-learn 1.8")
    clf = CalibratedClassifierCV(make_clf(**LEARNS), method=method, cv=2)
    proba = clf.fit(texts, labels).predict_proba(texts)
    parts = [part.predict_proba(texts) for part in clf.calibrated_classifiers_]
    assert_allclose(proba, (parts[0] + parts[1]) / 2)
    assert_allclose(proba.sum(axis=1), 1)
    assert clf.score(texts, labels) > 0.6  # either has seen half of the rows


def test_frozen_estimator_is_not_fitted_again(fitted, texts, labels):
    weights = copy.deepcopy(fitted.model_.state_dict())
    frozen = FrozenEstimator(fitted)
    clf = CalibratedClassifierCV(frozen, method="sigmoid").fit(texts, labels)
    assert clf.score(texts, labels) > 0.8
    assert_array_equal(clone(frozen).fit(texts, labels[::-1]).predict(texts), fitted.predict(texts))
    for name, tensor in fitted.model_.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_tuned_threshold(make_clf, binary):
    texts, labels = binary
    scorer = make_scorer(f1_score, pos_label="sea")
    clf = TunedThresholdClassifierCV(
        make_clf(**LEARNS), scoring=scorer, cv=2, thresholds=20, random_state=0
    ).fit(texts, labels)
    proba = clf.estimator_.predict_proba(texts)[:, 1]
    expected = np.where(proba >= clf.best_threshold_, "sea", "food")
    assert_array_equal(clf.predict(texts), expected)


def test_voting(make_clf, texts, labels):
    tfidf = make_pipeline(TfidfVectorizer(), LogisticRegression())
    clf = VotingClassifier([("ours", make_clf(**LEARNS)), ("tfidf", tfidf)], voting="soft")
    proba = clf.fit(texts, labels).predict_proba(texts)
    parts = [part.predict_proba(texts) for part in clf.estimators_]
    assert_allclose(proba, (parts[0] + parts[1]) / 2)
    assert clf.score(texts, labels) > 0.8


def test_stacking(make_clf, texts, labels):
    tfidf = make_pipeline(TfidfVectorizer(), LogisticRegression())
    clf = StackingClassifier([("ours", make_clf(**LEARNS)), ("tfidf", tfidf)], cv=2)
    clf.fit(texts, labels)
    assert clf.stack_method_ == ["predict_proba", "predict_proba"]
    assert clf.transform(texts).shape == (48, 6)
    assert clf.score(texts, labels) > 0.8


def test_one_vs_rest(make_clf, texts, labels):
    clf = OneVsRestClassifier(make_clf(**LEARNS)).fit(texts, labels)
    assert [part.classes_.tolist() for part in clf.estimators_] == [[0, 1]] * 3
    scores = np.column_stack([part.decision_function(texts) for part in clf.estimators_])
    assert_array_equal(clf.predict(texts), clf.classes_[scores.argmax(axis=1)])
    assert clf.score(texts, labels) > 0.8


def test_bagging(make_clf, texts, labels):
    X = column(texts)
    clf = BaggingClassifier(make_clf(), n_estimators=2, random_state=0).fit(X, labels)
    proba = clf.predict_proba(X)
    parts = [part.predict_proba(X) for part in clf.estimators_]
    assert np.abs(parts[0] - parts[1]).max() > 1e-3  # other rows, another seed
    assert_allclose(proba, (parts[0] + parts[1]) / 2)


def test_adaboost(make_clf, texts, labels):
    X = column(texts)
    clf = AdaBoostClassifier(make_clf(max_epochs=4), n_estimators=2, random_state=0)
    clf.fit(X, labels)
    assert clf.score(X, labels) > 0.6
    # The second sees the same rows with other weights: its seed is not all that differs.
    first, second = clf.estimators_
    weights = np.where(first.predict(X) == labels, 1.0, np.exp(clf.estimator_weights_[0]))
    by_hand = clone(second).fit(X, labels, sample_weight=weights)
    assert_allclose(second.predict_proba(X), by_hand.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize(
    "frame, output",
    [(pd.DataFrame, "default"), (pd.DataFrame, "pandas"), (pl.DataFrame, "polars")],
)
def test_text_column_of_a_frame(frame, output, make_clf, texts, labels):
    X = frame({"stars": np.arange(48), "text": texts})
    pick = ColumnTransformer([("text", "passthrough", ["text"])])
    pipe = make_pipeline(pick.set_output(transform=output), make_clf()).fit(X, labels)
    plain = make_clf().fit(texts, labels)
    assert_array_equal(pipe.predict_proba(X), plain.predict_proba(texts))
    assert pipe[-1].n_features_in_ == 1


# ------------------------------------------------------------------ metadata routing


def test_routing_of_weights(make_clf, texts, labels):
    # Every fourth label is wrong and weighs nothing.
    wrong = [label if i % 4 else "city" for i, label in enumerate(labels)]
    weights = np.array([float(i % 4 > 0) for i in range(48)])
    kept = np.flatnonzero(weights)
    expected = make_clf().fit([texts[i] for i in kept], [labels[i] for i in kept])

    def search(clf):
        pipe = Pipeline([("clean", FunctionTransformer()), ("clf", clf)])
        return GridSearchCV(pipe, {"clf__max_epochs": [2]}, cv=2, error_score="raise")

    with config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            search(make_clf()).fit(texts, wrong, sample_weight=weights)
        clf = make_clf().set_fit_request(sample_weight=True)
        found = search(clf.set_score_request(sample_weight=True))
        found.fit(texts, wrong, sample_weight=weights)
        score = found.score(texts, wrong, sample_weight=weights)
    assert_array_equal(found.predict_proba(texts), expected.predict_proba(texts))
    assert score == expected.score([texts[i] for i in kept], [labels[i] for i in kept])


def test_routing_of_validation_rows(make_clf, texts, labels):
    with config_context(enable_metadata_routing=True):
        clf = make_clf().set_fit_request(X_val=True, y_val=True)
        pipe = Pipeline([("clean", FunctionTransformer()), ("clf", clf)])
        pipe.fit(texts[:24], labels[:24], X_val=texts[24:], y_val=labels[24:])
    assert "valid_loss" in pipe[-1].history_[0]


# ------------------------------------------------------------ scikit-learn's callbacks


@pytest.fixture
def callback():
    return pytest.importorskip("sklearn.callback", reason="new in scikit-learn 1.9")


# A progress bar lives in a thread of its own, whose failure would go unnoticed.
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore:The estimator FunctionTransformer does not support")
@pytest.mark.parametrize("n_jobs", [None, 1, 2], ids=["alone", "1 job", "2 jobs"])
def test_progress_bar(n_jobs, callback, make_clf, texts, labels, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    bar = callback.ProgressBar(max_propagation_depth=None)
    clf = make_clf(max_epochs=2)
    if n_jobs is not None:
        pipe = make_pipeline(FunctionTransformer(), clf)
        grid = {"transformersequenceclassifier__lr": [1e-3, 1e-4]}
        clf = GridSearchCV(pipe, grid, cv=2, n_jobs=n_jobs, error_score="raise")
    clf.set_callbacks(bar).fit(texts, labels)
    lines = [line for line in capfd.readouterr().out.splitlines() if line.strip()]
    n_fits = 1 if n_jobs is None else 5
    assert sum("TransformerSequenceClassifier - epoch #" in line for line in lines) == 2 * n_fits
    assert all("100%" in line for line in lines)
    indents = [len(line) - len(line.lstrip()) for line in lines]
    assert max(indents) == (2 if n_jobs is None else 8)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_progress_bar_when_stopped_early(callback, make_clf, texts, labels, capfd):
    clf = make_clf(max_epochs=9, lr=1e-9, early_stopping=True, n_iter_no_change=1)
    clf.set_callbacks(callback.ProgressBar()).fit(texts, labels)
    lines = [line for line in capfd.readouterr().out.splitlines() if line.strip()]
    assert clf.n_iter_ < 9
    assert len(lines) == 1 + clf.n_iter_
    assert all("100%" in line for line in lines)


def test_scoring_monitor(callback, make_clf, texts, labels):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    clf = make_clf(max_epochs=3).set_callbacks(monitor).fit(texts, labels)
    rows = monitor.get_logs().data
    epochs = [row["accuracy"] for row in rows if row["task_name"] == "epoch"]
    assert len(epochs) == 3 and len(set(epochs)) > 1
    assert epochs[-1] == clf.score(texts, labels)
    # A score for each step would take a prediction of all rows each time.
    assert {row["task_name"] for row in rows if "accuracy" in row} == {"fit", "epoch"}
    unwatched = make_clf(max_epochs=3).fit(texts, labels)
    assert_array_equal(clf.predict_proba(texts), unwatched.predict_proba(texts))


def test_scoring_monitor_counts_weights(callback, make_clf, texts, labels):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    weights = np.arange(48) % 3
    clf = make_clf().set_callbacks(monitor).fit(texts, labels, sample_weight=weights)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert epochs[-1]["accuracy"] == clf.score(texts, labels, sample_weight=weights)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_scoring_monitor_in_a_search(n_jobs, callback, make_clf, texts, labels):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    clf = make_clf(max_epochs=2).set_callbacks(monitor)
    GridSearchCV(clf, {"lr": [1e-3, 1e-4]}, cv=2, n_jobs=n_jobs).fit(texts, labels)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(epochs) == 2 * (2 * 2 + 1)


def test_callback_ends_training(callback, make_clf, texts, labels):
    class StopAfterTwo:
        def setup(self, estimator, context): ...

        def teardown(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            return context.task_name == "epoch" and context.task_id == 1

    clf = make_clf(max_epochs=5, callbacks=[BatchHistory()]).set_callbacks(StopAfterTwo())
    clf.fit(texts, labels)
    assert clf.n_iter_ == 2
    # Other callbacks see the last epoch to its end.
    assert all("batch_history" in row for row in clf.history_)
