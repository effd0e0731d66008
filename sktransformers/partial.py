"""``partial_fit``, with and without new classes."""

from typing import Any

from torch import nn


class PartialFit:
    """``partial_fit`` of estimators whose outputs stay what they are."""

    def partial_fit(self: Any, X, y, sample_weight=None):
        """Train for one epoch on some rows, from where the last training ended.

        The learning rate is constant, a quarter of ``lr``, and the state of the optimizer goes on,
        whether or not the estimator was pickled in between. The first call on an estimator that
        is not fitted builds the model, as ``fit`` does, and begins with a warm-up.

        Parameters
        ----------
        X, y, sample_weight : array-like
            As in ``fit``.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            As in ``fit``, and with ``early_stopping=True``: one epoch cannot be ended early.
        """
        return self._partial_fit(X, y, sample_weight)


class GrowingClasses:
    """``partial_fit`` that learns of new classes."""

    def partial_fit(self: Any, X, y, classes=None, sample_weight=None):
        """Train for one epoch on some rows, from where the last training ended.

        The learning rate is constant, a quarter of ``lr``, and the state of the optimizer goes on,
        whether or not the estimator was pickled in between. The first call on an estimator that
        is not fitted builds the model, as ``fit`` does, and begins with a warm-up.

        Parameters
        ----------
        X, y, sample_weight : array-like
            As in ``fit``.
        classes : array-like of shape (n_classes,), default=None
            Classes that y may have beyond those known so far: in the first call all that y of
            later calls will have; later, new ones. The head grows, and its other rows stay as
            they are. For an indicator matrix the names of all of its columns.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            As in ``fit``, if y has a class that is neither known nor in ``classes``, and with
            ``early_stopping=True``: one epoch cannot be ended early.
        """
        names = {} if classes is None else {"classes": classes}
        return self._partial_fit(X, y, sample_weight, **names)

    def _growth(self, earlier: Any, coding: Any) -> list[int] | None:
        known = earlier.classes_.tolist()
        labels = coding.attributes["classes_"].tolist()
        if labels == known:
            return None
        layer = earlier.model_.head.out
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"classes has {len(labels) - len(known)} that are new, but a head with "
                f"{type(layer).__name__} (loss) does not grow."
            )
        places = {label: i for i, label in enumerate(known)}
        return [places.get(label, -1) for label in labels]
