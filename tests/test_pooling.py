import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sktransformers.modules.pooling import POOLINGS, Pooling

WIDTH = 4
modes = pytest.mark.parametrize("mode", POOLINGS)


def make(mode, seed=0):
    pooling = Pooling(mode, WIDTH)
    if mode == "attention":
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            pooling.score.copy_(torch.randn(WIDTH, generator=generator))
    return pooling


def reference(mode, tokens, score):
    """Pool the real tokens of one text, a list of lists of float."""
    if mode == "cls":
        return tokens[0]
    if mode == "last":
        return tokens[-1]
    columns = list(zip(*tokens, strict=True))
    if mode == "max":
        return [max(column) for column in columns]
    weights = [1.0] * len(tokens)
    if mode == "attention":
        weights = [
            np.exp(sum(t * s for t, s in zip(token, score, strict=True))) for token in tokens
        ]
    return [
        sum(w * x for w, x in zip(weights, column, strict=True)) / sum(weights)
        for column in columns
    ]


def batch(texts, side, filler):
    """Pad texts (lists of vectors) on one side with vectors of the value filler."""
    longest = max(map(len, texts))
    hidden = torch.full((len(texts), longest, WIDTH), filler, dtype=torch.float64)
    mask = torch.zeros(len(texts), longest, dtype=torch.int64)
    for i, tokens in enumerate(texts):
        where = slice(0, len(tokens)) if side == "right" else slice(longest - len(tokens), None)
        hidden[i, where] = torch.tensor(tokens, dtype=torch.float64)
        mask[i, where] = 1
    return hidden, mask


vectors = st.lists(st.floats(-3, 3), min_size=WIDTH, max_size=WIDTH)


@modes
@pytest.mark.parametrize("side", ["right", "left"])
@settings(max_examples=40)
@given(
    texts=st.lists(st.lists(vectors, min_size=1, max_size=6), min_size=1, max_size=5),
    filler=st.sampled_from([0.0, 1e6, -1e6, float("nan"), float("inf")]),
)
def test_every_mode_equals_its_formula_whatever_the_padding(mode, side, texts, filler):
    pooling = make(mode)
    hidden, mask = batch(texts, side, filler)
    score = pooling.score.tolist() if mode == "attention" else None
    expected = torch.tensor([reference(mode, tokens, score) for tokens in texts]).double()
    pooled = pooling(hidden, mask)
    assert pooled.shape == (len(texts), WIDTH)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)


def test_mean_is_that_of_sentence_transformers():
    hidden = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    expanded = mask.unsqueeze(-1).expand(hidden.size()).float()
    expected = (hidden * expanded).sum(1) / torch.clamp(expanded.sum(1), min=1e-9)
    torch.testing.assert_close(Pooling("mean", WIDTH)(hidden, mask), expected)


def test_attention_starts_at_the_mean():
    hidden, mask = batch([[[1.0, 2, 3, 4]] * 2, [[0.0, 1, 0, 1], [5.0, 5, 5, 5]] * 2], "right", 9)
    start = Pooling("attention", WIDTH)(hidden, mask)
    torch.testing.assert_close(start, Pooling("mean", WIDTH)(hidden, mask))


@modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_keeps_its_type_and_stays_finite(mode, dtype):
    hidden, mask = batch([[[3.0] * WIDTH] * 300, [[-3.0] * WIDTH]], "right", 0.0)
    pooled = make(mode)(hidden.to(dtype), mask)
    assert pooled.dtype == dtype
    expected = torch.tensor([[3.0] * WIDTH, [-3.0] * WIDTH], dtype=dtype)
    torch.testing.assert_close(pooled, expected, rtol=0.02, atol=0.0)


@modes
def test_gradients_reach_real_tokens_only(mode):
    hidden, mask = batch([[[1.0, 2, 3, 4], [4.0, 3, 2, 1]], [[1.0, 1, 2, 2]]], "right", 0.5)
    hidden.requires_grad_()
    pooling = make(mode).double()
    (pooling(hidden, mask) ** 2).sum().backward()
    reached = hidden.grad.abs().sum(dim=-1) > 0
    assert not reached[1, 1]
    assert reached[1, 0]
    both = {"cls": [True, False], "last": [False, True]}.get(mode, [True, True])
    assert reached[0].tolist() == both
    if mode == "attention":
        assert pooling.score.grad.abs().sum() > 0
        torch.autograd.gradcheck(lambda h: pooling(h, mask), hidden)
