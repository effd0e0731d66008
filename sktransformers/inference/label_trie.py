"""How likely a model finds each of a few texts behind every source.

The texts, such as the words of labels, share their beginnings: they are a trie. Its nodes of one
depth, the prefixes of that length, go through the decoder together, for all sources of a batch;
what the decoder keeps of a prefix (its cache) is gathered for those that go on from it. So a source
is read once, and a prefix that several labels share is read once behind it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sktransformers.inference.predictor import Predictor, to_numpy
from sktransformers.inputs.batching import (
    Encoded,
    Ragged,
    as_budget,
    on_device,
    pad,
    token_budget,
)
from sktransformers.modules.language import LanguageModel
from sktransformers.modules.softmax import precise
from sktransformers.modules.stepwise import Read, begin, go_on


class Depth(NamedTuple):
    """The nodes of a trie at one depth.

    Parameters
    ----------
    tokens : ndarray of shape (n_nodes,)
        Last token of each node's prefix; the root, which is the only one at its depth, has none.
    parents : ndarray of shape (n_nodes,)
        Place of each node's parent among the nodes above.
    labels : ndarray of shape (n_going_on,)
        Labels that have a token behind one of these nodes.
    nodes, following : ndarray of shape (n_going_on,)
        The node of each of them, and this token.
    """

    tokens: np.ndarray
    parents: np.ndarray
    labels: np.ndarray
    nodes: np.ndarray
    following: np.ndarray


def trie(labels: Ragged) -> list[Depth]:
    """The trie of token ids, without its leaves: nothing is read behind the end of a label."""
    lengths, start = labels.lengths, labels.start[:-1]
    node = np.zeros(len(labels), np.int64)
    tokens = parents = np.zeros(1, np.int64)
    depths = []
    for depth in range(int(lengths.max(initial=0))):
        here = np.flatnonzero(lengths > depth)
        following = labels.flat[start[here] + depth].astype(np.int64)
        depths.append(Depth(tokens, parents, here, node[here], following))
        going_on = lengths[here] > depth + 1
        edges = np.stack([node[here], following], axis=1)[going_on]
        distinct, places = np.unique(edges, axis=0, return_inverse=True)
        parents, tokens = distinct.T
        node[here[going_on]] = places.ravel()
    return depths


def label_scores(
    model: LanguageModel, predictor: Predictor, sources: Encoded, labels: Ragged
) -> np.ndarray:
    r"""Mean log-likelihood of the tokens of each label behind each source.

    For a label :math:`y_1 \dots y_n`, whose last token says that it ends,
    :math:`\frac{1}{n} \sum_i \log p(y_i | x, y_1 \dots y_{i-1})`.

    Parameters
    ----------
    model : LanguageModel
        In evaluation mode.
    predictor : Predictor
        Its ``max_batch_tokens`` bounds what the decoder reads and keeps at once: sources times
        labels times the tokens of both.
    sources : Encoded
        One text a row.
    labels : Ragged
        Token ids of the labels.

    Returns
    -------
    scores : ndarray of shape (n_sources, n_labels)
    """
    depth = int(labels.lengths.max())
    slots = len(labels) * (sources.sequences.lengths + depth)
    budget = as_budget(predictor.max_batch_tokens)

    def compute(rows: np.ndarray) -> np.ndarray:
        def give(left: bool) -> tuple[Tensor, Tensor]:
            inputs = pad(sources, rows, predictor.pad_id, predictor.device, left)
            return inputs["input_ids"], inputs["attention_mask"]

        longest = int(slots[rows].max())
        room = budget.of(longest) * len(labels) // (len(rows) * longest)
        some = np.arange(0, len(labels), max(1, room))  # cut only where a source is on its own
        parts = np.split(np.arange(len(labels)), some[1:])
        with torch.inference_mode():
            return _scores(model, give, [labels.take(part) for part in parts])

    def cut(rows: np.ndarray) -> list[np.ndarray]:
        return token_budget(slots, rows, budget)

    def lengths(rows: np.ndarray) -> np.ndarray:
        """Slots of each row, or of each label of one that is on its own."""
        each = slots[rows]
        return each if len(rows) > 1 else np.repeat(each // len(labels), len(labels))

    scores = np.empty((len(sources), len(labels)))
    each = np.arange(len(sources))
    with predictor.autocast():  # left and entered for each piece, it would cast the weights anew
        for rows, part in predictor.in_pieces(compute, cut, each, budget, lengths):
            scores[rows] = part
    return scores / labels.lengths


def _scores(
    model: LanguageModel, give: Callable[[bool], tuple[Tensor, Tensor]], parts: list[Ragged]
) -> np.ndarray:
    """Summed log-likelihoods of labels, part by part.

    ``give(left)`` is ids and mask of the sources, padded on the left or on the right.
    """
    read = begin(model, *give(model.reads_source_first))
    if read.goes_on:
        sums = [_walk(model, read, trie(labels)) for labels in parts]
    else:  # each label is read whole behind each source
        sums = [_force(model, *give(False), labels) for labels in parts]
    return to_numpy(torch.cat(sums, dim=1))


def _walk(model: LanguageModel, read: Read, depths: list[Depth]) -> Tensor:
    """Summed log-likelihoods of shape (n_sources, n_labels), depth by depth."""
    device, n = read.logits.device, len(read.logits)
    source = torch.arange(n, device=device).unsqueeze(1)
    sums: Any = None
    for depth, above in zip(depths, [None, *depths]):
        tokens, parents, labels, nodes, following = (on_device(x, device) for x in depth)
        if above is None:
            sums = precise(read.logits).new_zeros(n, len(labels))
        else:
            rows = (source * len(above.tokens) + parents).flatten()
            read = go_on(model, read, rows, tokens.repeat(n))
        logits = precise(read.logits).unflatten(0, (n, len(tokens)))
        rest = logits.logsumexp(dim=2)
        sums[:, labels] += logits[:, nodes, following] - rest[:, nodes]
    return sums


def _force(model: LanguageModel, source: Tensor, mask: Tensor, labels: Ragged) -> Tensor:
    """Summed log-likelihoods of shape (n_sources, n_labels), all tokens of a label at once."""
    n = len(source)
    target = pad(Encoded.of_texts(labels), np.arange(len(labels)), 0, source.device)
    ids, real = (target[name].repeat(n, 1) for name in ("input_ids", "attention_mask"))
    source, mask = (x.repeat_interleave(len(labels), dim=0) for x in (source, mask))
    logits = precise(model.token_logits(source, mask, ids, real))
    found = logits.gather(1, ids[real.bool()].unsqueeze(1)).squeeze(1) - logits.logsumexp(dim=1)
    sums = found.new_zeros(real.shape).masked_scatter(real.bool(), found).sum(dim=1)
    return sums.unflatten(0, (n, len(labels)))
