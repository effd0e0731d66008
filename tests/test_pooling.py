import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from sktransformers.modules.pooling import POOLINGS, SEGMENT_POOLINGS, Pooling, SegmentPooling

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


# --------------------------------------------------------------------- segments


segment_modes = pytest.mark.parametrize("mode", SEGMENT_POOLINGS)
segments_ = st.lists(st.lists(vectors, min_size=1, max_size=5), min_size=1, max_size=6)


def make_segments(mode, seed=0):
    pooling = SegmentPooling(mode, WIDTH)
    if mode == "attention":
        with torch.no_grad():
            pooling.score.copy_(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)))
    return pooling


def pool_one(mode, segment, score=None):
    """One segment, a tensor of shape (size, width), by torch's own functions."""
    if mode == "attention":
        return (segment @ score).softmax(dim=0) @ segment
    return {
        "first": lambda: segment[0],
        "last": lambda: segment[-1],
        "mean": lambda: segment.mean(dim=0),
        "max": lambda: segment.max(dim=0).values,
    }[mode]()


def flatten(segments, dtype=torch.float64):
    sizes = torch.tensor([len(segment) for segment in segments])
    return torch.tensor([v for segment in segments for v in segment], dtype=dtype), sizes


@segment_modes
@settings(max_examples=40)
@given(segments=segments_)
def test_segments_are_pooled_as_one_by_one(mode, segments):
    pooling = make_segments(mode).double()
    flat, sizes = flatten(segments)
    score = getattr(pooling, "score", None)
    expected = torch.stack([pool_one(mode, part, score) for part in flat.split(sizes.tolist())])
    pooled = pooling(flat, sizes)
    assert pooled.shape == (len(segments), WIDTH)
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)


@segment_modes
def test_gradients_of_segments(mode):
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(9, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    sizes = torch.tensor([2, 1, 5, 1])
    pooling = make_segments(mode).double()
    torch.autograd.gradcheck(lambda v: pooling(v, sizes), flat)
    weight = torch.randn(4, WIDTH, dtype=torch.float64, generator=generator)
    wanted = [flat, *pooling.parameters()]
    found = torch.autograd.grad((pooling(flat, sizes) * weight).sum(), wanted)
    parts = [pool_one(mode, part, *wanted[1:]) for part in flat.split(sizes.tolist())]
    expected = torch.autograd.grad((torch.stack(parts) * weight).sum(), wanted)
    assert len(found) == 1 + (mode == "attention")
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


@segment_modes
def test_segments_of_one_vector_are_that_vector(mode):
    flat = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pooling = make_segments(mode)
    pooled = pooling(flat, torch.ones(5, dtype=torch.int64))
    assert torch.equal(pooled, flat)
    pooled.sum().backward()
    assert torch.equal(flat.grad, torch.ones(5, WIDTH))


def test_attention_over_segments_starts_at_the_mean():
    flat, sizes = flatten([[[1.0, 2, 3, 4]], [[0.0, 1, 0, 1], [5.0, 5, 5, 5], [1.0, 0, 0, 0]]])
    start = SegmentPooling("attention", WIDTH)(flat, sizes)
    torch.testing.assert_close(start, SegmentPooling("mean", WIDTH)(flat, sizes))


def test_scores_of_any_size():
    # The largest of each segment is taken off, not the largest of all.
    pooling = SegmentPooling("attention", WIDTH)
    with torch.no_grad():
        pooling.score.fill_(1.0)
    flat, sizes = flatten([[[1e4] * WIDTH, [0.0] * WIDTH], [[-1e4] * WIDTH, [-2e4] * WIDTH]])
    expected = torch.tensor([[1e4] * WIDTH, [-1e4] * WIDTH], dtype=torch.float64)
    assert torch.equal(pooling.double()(flat, sizes), expected)


@pytest.mark.parametrize("mode", ["mean", "attention"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_thousands_of_vectors_in_half_precision(mode, dtype):
    # Summed up in bfloat16, as a device may do, ones would stop at 256.
    pooling = SegmentPooling(mode, WIDTH)
    pooled = pooling(torch.ones(3001, WIDTH, dtype=dtype), torch.tensor([3000, 1]))
    assert pooled.dtype == dtype
    assert (pooled == 1).all()


def test_the_largest_of_negative_numbers():
    flat, sizes = flatten([[[-3.0] * WIDTH, [-2.0] * WIDTH], [[-7.0] * WIDTH]])
    pooled = SegmentPooling("max", WIDTH)(flat, sizes)
    assert pooled[:, 0].tolist() == [-2.0, -7.0]


@segment_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_segments_in_lower_precision(mode, dtype):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([3, 1, 300, 20])
    exact = torch.randn(324, WIDTH, dtype=torch.float64, generator=generator) + 1.0
    flat = exact.to(dtype).requires_grad_()
    pooling = make_segments(mode)
    pooled = pooling(flat, sizes)
    assert pooled.dtype == dtype
    score = pooling.score.double() if mode == "attention" else None
    parts = flat.detach().double().split(sizes.tolist())
    expected = torch.stack([pool_one(mode, part, score) for part in parts])
    tolerance = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(pooled.double(), expected, rtol=tolerance, atol=tolerance)
    pooled.float().sum().backward()
    assert flat.grad.dtype == dtype
    assert flat.grad.isfinite().all()


@segment_modes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_segments_under_autocast(mode, dtype):
    # Vectors of a backbone under autocast may come in either precision.
    sizes = torch.tensor([2, 3])
    flat = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    pooling = make_segments(mode)
    expected = pooling(flat, sizes)
    for part in (flat, flat.to(dtype)):
        with torch.autocast("cpu", dtype):
            pooled = pooling(part, sizes)
        torch.testing.assert_close(pooled.float(), expected, rtol=0.03, atol=0.03)
