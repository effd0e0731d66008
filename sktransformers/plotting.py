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
