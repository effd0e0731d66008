"""Displays in scikit-learn's style: computed once, drawn as often as wanted."""

from typing import Any

from sklearn.utils.validation import check_is_fitted


class HistoryDisplay:
    """Course of a training, epoch by epoch.

    Parameters
    ----------
    history : list of dict
        ``history_`` of a fitted estimator.
    metric : str, default="loss"
        What to show: ``"loss"``, ``"accuracy"`` or another column of the history, with or
        without the prefix ``train_`` and ``valid_``.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curves, after ``plot``.
    figure_ : matplotlib Figure
        Figure that holds them.
    lines_ : list of matplotlib Line2D
        The curves.

    Examples
    --------
    >>> from sktransformers.plotting import HistoryDisplay
    >>> history = [{"epoch": 1, "train_loss": 0.9}, {"epoch": 2, "train_loss": 0.4}]
    >>> HistoryDisplay(history).columns()
    ['train_loss']
    """

    def __init__(self, history: list[dict[str, Any]], *, metric: str = "loss"):
        self.history = history
        self.metric = metric

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, metric: str = "loss", ax: Any = None, **kwargs: Any
    ) -> "HistoryDisplay":
        """Draw the training of a fitted estimator.

        Parameters
        ----------
        estimator : estimator instance
            Fitted estimator of this package.
        metric : str, default="loss"
            Column of its history.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed to ``Axes.plot``.

        Returns
        -------
        display : HistoryDisplay
        """
        check_is_fitted(estimator)
        return cls(estimator.history_, metric=metric).plot(ax=ax, **kwargs)

    def columns(self) -> list[str]:
        """Columns of the history that hold the metric.

        Raises
        ------
        ValueError
            If there is none.
        """
        wanted = (f"train_{self.metric}", f"valid_{self.metric}", self.metric)
        if not self.history:
            raise ValueError("The history is empty: no epoch of training came to its end.")
        columns = [name for name in wanted if name in self.history[-1]]
        if not columns:
            raise ValueError(
                f"metric={self.metric!r} is not in the history, which has "
                f"{sorted(self.history[-1])}."
            )
        return columns

    def plot(self, *, ax: Any = None, **kwargs: Any) -> "HistoryDisplay":
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed to ``Axes.plot``.

        Returns
        -------
        self : HistoryDisplay
        """
        import matplotlib.pyplot as plt

        columns = self.columns()
        if ax is None:
            _, ax = plt.subplots()
        epochs = [row["epoch"] for row in self.history]
        options = {"marker": "o", **kwargs}
        self.lines_ = [
            ax.plot(epochs, [row[name] for row in self.history], label=name, **options)[0]
            for name in columns
        ]
        ax.set(xlabel="epoch", ylabel=self.metric, xticks=epochs)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


class LearningRateDisplay:
    """Losses of a learning rate range test.

    Parameters
    ----------
    lrs : ndarray of shape (n_steps,)
        Learning rates.
    losses : ndarray of shape (n_steps,)
        Loss at each of them.
    smoothed : ndarray of shape (n_steps,)
        Means over neighbouring steps.
    suggestion : float or None, default=None
        Learning rate to mark.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curves, after ``plot``.
    figure_ : matplotlib Figure
        Figure that holds them.
    points_ : matplotlib Line2D
        The losses.
    line_ : matplotlib Line2D
        The smoothed losses.
    suggestion_ : matplotlib Line2D or None
        The mark.

    Examples
    --------
    >>> curve = estimator.find_lr(X, y)  # doctest: +SKIP
    >>> curve.plot()  # doctest: +SKIP
    """

    def __init__(self, lrs: Any, losses: Any, *, smoothed: Any, suggestion: float | None = None):
        self.lrs = lrs
        self.losses = losses
        self.smoothed = smoothed
        self.suggestion = suggestion

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, **kwargs: Any
    ) -> "LearningRateDisplay":
        """Run the range test of an estimator and draw it.

        Parameters
        ----------
        estimator : estimator instance
            Estimator of this package; it need not be fitted, and is left as it is.
        X : array-like
            Rows to train on.
        y : array-like
            Their targets.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed to ``Axes.plot`` for the smoothed losses.

        Returns
        -------
        display : LearningRateDisplay
        """
        return estimator.find_lr(X, y).plot(ax=ax, **kwargs)

    def plot(self, *, ax: Any = None, **kwargs: Any) -> "LearningRateDisplay":
        """Draw the losses, their means and the suggestion.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed to ``Axes.plot`` for the smoothed losses.

        Returns
        -------
        self : LearningRateDisplay
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots()
        (self.points_,) = ax.plot(
            self.lrs, self.losses, ".", color="grey", alpha=0.5, label="loss of a batch"
        )
        (self.line_,) = ax.plot(self.lrs, self.smoothed, **{"label": "smoothed", **kwargs})
        self.suggestion_ = None
        if self.suggestion is not None:
            self.suggestion_ = ax.axvline(
                self.suggestion, ls="--", color="black", label=f"lr={self.suggestion:.2g}"
            )
        ax.set(xlabel="learning rate", ylabel="loss", xscale="log")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
