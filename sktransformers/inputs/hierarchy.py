"""Classes by frequency: clusters for an adaptive softmax, binary trees, proposals of negatives.

What comes out is plain lists: it goes into the configuration of a model.
"""

import heapq
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from sktransformers.inputs.validation import describe, shown

# Clusters of an adaptive softmax begin behind the classes that hold these shares of the rows.
_SHARES = (0.8, 0.95)
_FEW_CLASSES = 1_000  # for which clusters save nothing


def adaptive_clusters(counts: np.ndarray, cutoffs: Any) -> dict[str, Any]:
    """Order of the classes and where in it clusters begin.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,)
        Frequency of each class.
    cutoffs : "auto" or sequence of int
        "auto" puts the classes that hold 80 % of the rows in the head and those up to 95 % in a
        first cluster. With less than 1,000 classes, or if these are more than half of all, only
        the rarest class is outside of the head, which makes it a softmax over all.

    Returns
    -------
    clusters : dict
        ``order``, all classes from the most frequent on, and ``cutoffs``.

    Raises
    ------
    ValueError
        If cutoffs do not rise, or one is not below the number of classes.
    """
    order = np.argsort(-counts, kind="stable")
    if isinstance(cutoffs, str):
        covered = np.cumsum(counts[order]) / counts.sum()
        places = (np.searchsorted(covered, _SHARES) + 1).tolist()
        if len(counts) < _FEW_CLASSES or 2 * places[0] > len(counts):
            places = [len(counts) - 1]
        cutoffs = sorted({min(place, len(counts) - 1) for place in places})
    cutoffs = [int(place) for place in cutoffs]
    if cutoffs[-1] >= len(counts):
        raise ValueError(
            f"AdaptiveSoftmax(cutoffs={cutoffs}): {cutoffs[-1]} is not below the number of "
            f"classes of y, {len(counts)}."
        )
    return {"order": order.tolist(), "cutoffs": cutoffs}


def class_tree(tree: Any, classes: np.ndarray, counts: np.ndarray) -> list[int]:
    """A binary tree over classes.

    Parameters
    ----------
    tree : "huffman", list or dict
        "huffman" has the shortest paths on average over the rows (Huffman 1952). A list holds
        labels and lists of the same kind; a dict gives each label the names of its groups, from
        the outermost on. Where a group has more than two members, they hang on a Huffman tree of
        their own. Labels that are no class are left out: y may be a part of the user's rows.
    classes : ndarray of shape (n_classes,)
        Sorted labels.
    counts : ndarray of shape (n_classes,)
        Frequency of each class.

    Returns
    -------
    children : list of int
        Left and right child of each inner node, level by level: an inner node, or -1 - c for
        class c.

    Raises
    ------
    ValueError
        If the tree misses a class, or has one twice.
    """
    root: Any
    if isinstance(tree, str):
        root = _huffman([(float(n), c) for c, n in enumerate(counts)])[1]
    else:
        if isinstance(tree, dict):
            tree = _nested(tree)
        places = {label: c for c, label in enumerate(classes.tolist())}
        seen: dict[int, None] = {}
        try:
            found = _group(tree, places, counts, seen)
        except RecursionError:
            raise ValueError("tree of TreeSoftmax has too many groups in groups.") from None
        missed = next((c for c in places.values() if c not in seen), None)
        if missed is not None:
            raise ValueError(
                f"tree of TreeSoftmax misses the class {shown(classes.tolist()[missed])}, which "
                f"y has."
            )
        assert found is not None  # it has all classes
        root = found[1]
    children: list[int] = []
    level = [root]
    n_nodes = 1
    while level:
        below = []
        for pair in level:
            for child in pair:
                if isinstance(child, int):
                    children.append(-1 - child)
                else:
                    children.append(n_nodes)
                    n_nodes += 1
                    below.append(child)
        level = below
    return children


def proposal(name: str, counts: np.ndarray) -> np.ndarray:
    r"""Distribution that negatives are drawn from.

    Parameters
    ----------
    name : {"log_uniform", "frequency"}
        :math:`q_c` in proportion to :math:`\log((r + 2) / (r + 1))`, with r = 0 for the most
        frequent class, or to its frequency; a class without rows has that of the rarest.
    counts : ndarray of shape (n_classes,)
        Frequency of each class.
    """
    if name == "frequency":
        q = np.maximum(counts, counts[counts > 0].min())
    else:
        q = np.empty(len(counts))
        q[np.argsort(-counts, kind="stable")] = np.log1p(1 / np.arange(1, len(counts) + 1))
    return q / q.sum()


def _group(
    members: Sequence[Any], places: dict[Any, int], counts: np.ndarray, seen: dict[int, None]
) -> tuple[float, Any] | None:
    """Frequency and tree of a group of labels and groups; None if no class is among them."""
    if len(members) == 0:
        raise ValueError("tree of TreeSoftmax has an empty group.")
    found = []
    for member in members:
        if isinstance(member, (list, tuple)):
            group = _group(member, places, counts, seen)
            found += [] if group is None else [group]
            continue
        try:
            c = places.get(member)
        except TypeError:
            raise ValueError(
                f"tree of TreeSoftmax holds {describe(member)}; expected labels, and lists of them."
            ) from None
        if c is None:
            continue
        if c in seen:
            raise ValueError(f"tree of TreeSoftmax has the class {shown(member)} more than once.")
        seen[c] = None
        found.append((float(counts[c]), c))
    return _huffman(found) if found else None


def _huffman(members: list[tuple[float, Any]]) -> tuple[float, Any]:
    """Frequency and tree of members, a class or a tree each: pairs of pairs."""
    number = count()  # what came first is merged first where frequencies are equal
    heap = [(weight, next(number), tree) for weight, tree in members]
    heapq.heapify(heap)
    while len(heap) > 1:
        left, _, first = heapq.heappop(heap)
        right, _, second = heap[0]
        heapq.heapreplace(heap, (left + right, next(number), (first, second)))
    return heap[0][0], heap[0][2]


def _nested(paths: dict[Any, Any]) -> list[Any]:
    """Nested lists of labels with these paths of group names."""
    root: list[Any] = []
    groups: dict[tuple[Any, ...], list[Any]] = {(): root}
    for label, path in paths.items():
        if not isinstance(path, (list, tuple)) or any(isinstance(p, (list, dict)) for p in path):
            raise ValueError(
                f"tree of TreeSoftmax: the path of {shown(label)} is {shown(path)}; expected a "
                f"list of the names of its groups."
            )
        path = tuple(path)
        for depth in range(1, len(path) + 1):
            if path[:depth] not in groups:
                groups[path[:depth]] = []
                groups[path[: depth - 1]].append(groups[path[:depth]])
        groups[path].append(label)
    return root
