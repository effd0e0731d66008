import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
from sklearn.exceptions import NotFittedError

from sktransformers.plotting import HistoryDisplay, LearningRateDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_curves_are_the_history(make_clf, texts, labels):
    clf = make_clf(max_epochs=3, early_stopping=True, n_iter_no_change=3).fit(texts, labels)
    display = HistoryDisplay.from_estimator(clf)
    names = [line.get_label() for line in display.lines_]
    assert names == ["train_loss", "valid_loss"]
    for name, line in zip(names, display.lines_):
        assert list(line.get_xdata()) == [1, 2, 3]
        assert list(line.get_ydata()) == [row[name] for row in clf.history_]


def test_draws_into_given_axes_with_given_style(make_clf, texts, labels):
    clf = make_clf().fit(texts, labels)
    _, ax = plt.subplots()
    display = HistoryDisplay.from_estimator(clf, metric="lr", ax=ax, color="black")
    assert display.ax_ is ax and display.figure_ is ax.figure
    assert [line.get_color() for line in display.lines_] == ["black"]


def test_errors(make_clf):
    with pytest.raises(NotFittedError):
        HistoryDisplay.from_estimator(make_clf())
    with pytest.raises(ValueError, match=r"'f1' is not in the history.*train_loss"):
        HistoryDisplay([{"epoch": 1, "train_loss": 1.0}], metric="f1").plot()


def test_learning_rates(make_clf, texts, labels):
    curve = make_clf().find_lr(texts, labels, lr_min=1e-5, lr_max=1e-1, n_steps=9)
    _, ax = plt.subplots()
    display = curve.plot(ax=ax, color="green")
    assert display.ax_ is ax and display.figure_ is ax.figure and ax.get_xscale() == "log"
    for line, values in ((display.points_, curve.losses), (display.line_, curve.smoothed)):
        assert list(line.get_xdata()) == list(curve.lrs)
        assert list(line.get_ydata()) == list(values)
    assert display.line_.get_color() == "green"
    if curve.suggestion is not None:
        assert display.suggestion_.get_xdata()[0] == curve.suggestion
    again = LearningRateDisplay.from_estimator(make_clf(), texts, labels)
    assert 50 < len(again.lrs) <= 100


def test_learning_rates_without_a_suggestion():
    display = LearningRateDisplay([0.1, 1.0], [1, 2], smoothed=[1, 2]).plot()
    assert display.suggestion_ is None
