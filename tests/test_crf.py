from itertools import chain, pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from seqeval.scheme import BILOU, IOB2, IOBES, Entities
from torchcrf import CRF

from sktransformers.inputs.constraints import forbidden, scheme_of
from sktransformers.modules import crf
from sktransformers.modules.crf import LinearChainCRF
from sktransformers.modules.losses import CRFLoss

SHAPES = [([1], 1), ([1, 1], 3), ([4, 2, 7], 2), ([3, 9, 9, 1, 5], 5), ([30, 12, 1, 25] * 4, 17)]
shapes = pytest.mark.parametrize("lengths, n_tags", SHAPES)
# All ways of summing have to pass: with no room at all, the exact one is always taken.
ways = pytest.mark.parametrize("way", ["tiny", "short", "fast", "exact"])
BIO = ["O", "B-x", "I-x", "B-y", "I-y"]
BIOES = ["O", "B-x", "I-x", "E-x", "S-x"]


def take(way, monkeypatch):
    """Keep to one way of summing, as far as sentences allow it."""
    if way != "tiny":
        monkeypatch.setattr(crf, "_is_tiny", lambda output: False)
        monkeypatch.setattr(crf, "_SHORT", 10**6 if way == "short" else 0)
        monkeypatch.setattr(crf, "_ROOM", -700.0 if way == "exact" else crf._ROOM)


def make(lengths, n_tags, scale=2.0, dtype=torch.float64, masks=(None, None, None), seed=0):
    """A layer with random scores, and emissions, lengths and tags for it."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    layer = LinearChainCRF(n_tags, *masks).to(dtype)
    with torch.no_grad():
        layer.start.copy_(draw(n_tags))
        layer.transitions.copy_(draw(n_tags, n_tags))
        layer.end.copy_(draw(n_tags))
    emissions = draw(sum(lengths), n_tags)
    tags = torch.randint(n_tags, (sum(lengths),), generator=generator)
    return layer, emissions, torch.tensor(lengths, dtype=torch.long), tags


def peer(layer):
    """pytorch-crf with the scores of a layer."""
    other = CRF(len(layer.start), batch_first=True).to(layer.start.dtype)
    with torch.no_grad():
        other.start_transitions.copy_(layer.start)
        other.transitions.copy_(layer.transitions)
        other.end_transitions.copy_(layer.end)
    return other


def padded(flat, lengths, filler=0):
    """Flat words as a rectangle, and its mask."""
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    rectangle = torch.full((*mask.shape, *flat.shape[1:]), filler, dtype=flat.dtype)
    rectangle[mask] = flat
    return rectangle, mask


def illegal_at_random(n_tags, seed):
    """Masks that leave the last tag free everywhere, so that a legal path exists."""
    rng = np.random.default_rng(seed)
    masks = [rng.random(shape) < 0.4 for shape in ((n_tags,), (n_tags, n_tags), (n_tags,))]
    for mask in masks:
        mask[..., -1] = False
    masks[1][-1] = False
    return masks


def by_hand(output):
    """Of each sentence: logarithm of the sum, marginals and best path over all legal paths."""
    start, transitions, end = (p.detach() for p in (output.start, output.transitions, output.end))
    for words in output.emissions.split(output.lengths.tolist()):
        if not len(words):
            yield 0.0, words, []
            continue
        scores = {}
        for path in product(range(words.shape[1]), repeat=len(words)):
            parts = [start[path[0]], end[path[-1]]]
            parts += [transitions[a, b] for a, b in pairwise(path)]
            if min(parts) > crf.FORBIDDEN / 2:
                scores[path] = float(sum(parts) + sum(w[t] for w, t in zip(words, path)))
        total = torch.tensor(list(scores.values()), dtype=torch.float64).logsumexp(0)
        probabilities = torch.zeros_like(words)
        for path, score in scores.items():
            probabilities[range(len(path)), list(path)] += np.exp(score - float(total))
        yield float(total), probabilities, list(max(scores, key=scores.__getitem__))


@ways
@shapes
@pytest.mark.parametrize("seed", [0, 1])
def test_likelihood_gradients_and_paths_are_those_of_pytorch_crf(
    lengths, n_tags, seed, way, monkeypatch
):
    take(way, monkeypatch)
    layer, emissions, lengths, tags = make(lengths, n_tags, seed=seed)
    other = peer(layer)
    rectangle, mask = padded(emissions, lengths, filler=123.0)
    emissions.requires_grad_()
    rectangle.requires_grad_()
    found = crf.log_likelihood(layer(emissions, lengths), tags)
    expected = other(rectangle, padded(tags, lengths)[0], mask, reduction="none")
    torch.testing.assert_close(found, expected)

    pull = torch.randn(len(lengths), dtype=torch.float64)
    found.backward(pull)
    expected.backward(pull)
    torch.testing.assert_close(emissions.grad, rectangle.grad[mask])
    torch.testing.assert_close(layer.start.grad, other.start_transitions.grad)
    torch.testing.assert_close(layer.end.grad, other.end_transitions.grad)
    if other.transitions.grad is None:  # no sentence has two words
        assert not layer.transitions.grad.any()
    else:
        torch.testing.assert_close(layer.transitions.grad, other.transitions.grad)

    paths = crf.viterbi(layer(emissions, lengths)).split(lengths.tolist())
    assert [path.tolist() for path in paths] == other.decode(rectangle, mask)


@ways
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_all_results_are_those_of_listing_all_paths(constrained, scale, way, monkeypatch):
    take(way, monkeypatch)
    for seed, (lengths, n_tags) in enumerate([([1], 1), ([3, 0, 1, 5], 3), ([2, 6, 6], 3)]):
        masks = illegal_at_random(n_tags, seed) if constrained else (None, None, None)
        layer, emissions, lengths, _ = make(lengths, n_tags, scale, masks=masks, seed=seed)
        output = layer(emissions, lengths)
        totals, probabilities, paths = zip(*by_hand(output))
        found = crf.log_partition(output)
        torch.testing.assert_close(found, torch.tensor(totals, dtype=found.dtype))
        torch.testing.assert_close(crf.marginals(output), torch.cat(probabilities))
        assert crf.viterbi(output).tolist() == list(chain.from_iterable(paths))


def test_the_score_of_a_path_is_the_sum_of_its_parts():
    layer, emissions, lengths, tags = make([3, 0, 1], 4)
    output = layer(emissions, lengths)
    a, b, c, d = tags.tolist()
    start, moves, end = layer.start, layer.transitions, layer.end
    first = emissions[range(3), [a, b, c]].sum() + start[a] + moves[a, b] + moves[b, c] + end[c]
    expected = torch.stack([first, 0 * first, emissions[3, d] + start[d] + end[d]])
    found = crf.path_score(output, tags)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found - crf.log_partition(output), crf.log_likelihood(output, tags))
    found.sum().backward()
    assert layer.start.grad.sum() == layer.end.grad.sum() == layer.transitions.grad.sum() == 2


@ways
@pytest.mark.parametrize("constrained", [False, True])
def test_gradcheck(constrained, way, monkeypatch):
    take(way, monkeypatch)
    masks = illegal_at_random(3, 0) if constrained else (None, None, None)
    layer, emissions, lengths, _ = make([4, 0, 1, 2], 3, masks=masks)
    tags = torch.full((7,), 2)

    def run(emissions, start, transitions, end):
        parameters = {"start": start, "transitions": transitions, "end": end}
        output = torch.func.functional_call(layer, parameters, (emissions, lengths))
        return (
            crf.log_likelihood(output, tags),
            crf.log_partition(output),
            crf.path_score(output, tags),
        )

    inputs = [t.detach().requires_grad_() for t in (emissions, *layer.parameters())]
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("way", ["short", "fast"])
def test_second_derivatives_are_refused_and_not_wrong(way, monkeypatch):
    take(way, monkeypatch)
    layer, emissions, lengths, tags = make([3], 2)
    found = crf.log_likelihood(layer(emissions, lengths), tags)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(found.sum(), layer.start, create_graph=True)


@ways
@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 12), max_size=6),
    n_tags=st.integers(1, 6),
    scale=st.sampled_from([0.1, 3.0, 1e3, 1e4]),
    constrained=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_marginals_sum_to_one_and_nothing_illegal_happens(
    way, lengths, n_tags, scale, constrained, seed
):
    masks = illegal_at_random(n_tags, seed) if constrained else (None, None, None)
    layer, emissions, lengths, _ = make(lengths, n_tags, scale, torch.float32, masks, seed)
    with pytest.MonkeyPatch.context() as patch:
        take(way, patch)
        output = layer(emissions.requires_grad_(), lengths)
        probabilities = crf.marginals(output)
        path = crf.viterbi(output)
        found = crf.log_likelihood(output, path)
        found.sum().backward()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(emissions)))
    assert crf.legal(output, path, lengths).all()
    assert crf.legal(layer, path, lengths).all()
    assert (found <= 0).all()
    for parameter in (emissions, *layer.parameters()):
        assert parameter.grad.isfinite().all()
    if constrained:
        filled = lengths[lengths > 0]
        last = filled.cumsum(0) - 1
        assert not probabilities[last - filled + 1][:, layer.forbidden_start].any()
        assert not probabilities[last][:, layer.forbidden_end].any()
        # Neither the illegal scores nor their gradients are there at all.
        assert not layer.transitions.grad[layer.forbidden].any()


def test_illegal_steps_do_not_enter_the_sum():
    masks = illegal_at_random(4, 3)
    layer, emissions, lengths, _ = make([5, 2], 4, masks=masks)
    before = crf.log_partition(layer(emissions, lengths))
    with torch.no_grad():
        layer.start[layer.forbidden_start] = 1e4
        layer.transitions[layer.forbidden] = 1e4
        layer.end[layer.forbidden_end] = 1e4
    assert torch.equal(before, crf.log_partition(layer(emissions, lengths)))


def test_no_emission_outweighs_a_constraint():
    start, transitions, end = forbidden(BIO, "bio")
    layer = LinearChainCRF(5, start, transitions, end)
    emissions = torch.zeros(6, 5)
    emissions[:, 2] = 1e6  # I-x, behind O: B-x I-x is the best that there is
    emissions[2, 0] = 3e6
    output = layer(emissions, torch.tensor([6]))
    assert crf.viterbi(output).tolist() == [1, 2, 0, 1, 2, 2]
    probabilities = crf.marginals(output)
    assert probabilities[0, 2] == probabilities[3, 2] == 0.0


def test_a_sentence_without_a_legal_path_gets_one_with_the_fewest_illegal_steps():
    layer, emissions, lengths, _ = make([1, 3], 3, masks=([True] * 3, None, None))
    free = make([1, 3], 3)[0]
    with torch.no_grad():
        for name, parameter in free.named_parameters():
            parameter.copy_(0 if name == "start" else layer.get_parameter(name))
    output = layer(emissions, lengths)
    other = free(emissions, lengths)
    assert not crf.legal(output, crf.viterbi(output), lengths).any()
    assert torch.equal(crf.viterbi(output), crf.viterbi(other))
    torch.testing.assert_close(crf.marginals(output), crf.marginals(other), atol=1e-4, rtol=0)
    found = crf.log_likelihood(output, crf.viterbi(output))
    found.sum().backward()
    assert (found <= 0).all() and layer.transitions.grad.isfinite().all()


def test_legal_says_which_sentences_are():
    layer = LinearChainCRF(5, *forbidden(BIO, "bio"))
    lengths = torch.tensor([2, 0, 2, 3, 1])
    tags = torch.tensor([1, 2, 0, 2, 3, 4, 4, 2])
    expected = [True, True, False, True, False]
    output = layer(torch.zeros(8, 5), lengths)
    assert crf.legal(layer, tags, lengths).tolist() == expected
    assert crf.legal(output, tags, lengths).tolist() == expected
    assert ((crf.path_score(output, tags) < crf.FORBIDDEN / 2).logical_not()).tolist() == expected
    loss = crf.log_likelihood(output, tags).sum()
    loss.backward()
    assert loss.isfinite() and layer.transitions.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e4])
def test_float32_and_float64_agree_in_long_sentences_of_large_scores(scale):
    layer, emissions, lengths, _ = make([5000, 1, 300], 4, scale, torch.float32)
    wide = LinearChainCRF(4).double()
    wide.load_state_dict(layer.state_dict())
    tags = crf.viterbi(layer(emissions, lengths))
    tags[::7] = 0
    narrow_in, wide_in = emissions.clone().requires_grad_(), emissions.double().requires_grad_()
    narrow = crf.log_likelihood(layer(narrow_in, lengths), tags)
    precise = crf.log_likelihood(wide(wide_in, lengths), tags)
    assert narrow.dtype == torch.float32 and precise.dtype == torch.float64
    torch.testing.assert_close(narrow, precise.float())
    narrow.sum().backward()
    precise.sum().backward()
    torch.testing.assert_close(narrow_in.grad, wide_in.grad.float())
    torch.testing.assert_close(layer.transitions.grad, wide.transitions.grad.float())
    assert torch.equal(
        crf.viterbi(layer(emissions, lengths)), crf.viterbi(wide(emissions.double(), lengths))
    )


@pytest.mark.parametrize("scale", [300.0, 1e3])
def test_scores_too_far_apart_for_the_fast_sums_are_summed_exactly(scale, monkeypatch):
    layer, emissions, lengths, tags = make([9, 4], 4, scale, masks=illegal_at_random(4, 0))
    tags = torch.full_like(tags, 3)
    outputs = []
    for way in ("tiny", "short", "fast", "exact"):
        take(way, monkeypatch)
        layer.zero_grad()
        found = crf.log_likelihood(layer(emissions, lengths), tags)
        found.sum().backward()
        outputs.append([found.detach(), *(p.grad.clone() for p in layer.parameters())])
    for *others, exact in zip(*outputs):
        for other in others:
            torch.testing.assert_close(other, exact)


@pytest.mark.parametrize(("scale", "stays"), [(2.0, True), (1e3, False)])
def test_sentences_side_by_side_whose_sums_vanish_are_summed_otherwise(scale, stays):
    layer, emissions, lengths, tags = make([9, 4, 0, 32], 4, scale)
    output = layer(emissions, lengths)
    assert (crf._short(output, tags, False) is not None) == stays
    long = layer(torch.zeros(33, 4), torch.tensor([33]))
    assert crf._short(long, None, False) is None
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        crf.log_likelihood(output, torch.full_like(tags, 4))


@ways
def test_a_tag_that_cannot_be_reached_does_no_harm(way, monkeypatch):
    take(way, monkeypatch)
    masks = np.zeros(3, bool), np.zeros((3, 3), bool), np.zeros(3, bool)
    masks[0][1] = True
    masks[1][:, 1] = True
    layer, emissions, lengths, _ = make([6, 2], 3, masks=masks)
    probabilities = crf.marginals(layer(emissions, lengths))
    assert not probabilities[:, 1].any()
    kept = [0, 2]
    small = LinearChainCRF(2).double()
    with torch.no_grad():
        small.start.copy_(layer.start[kept])
        small.transitions.copy_(layer.transitions[kept][:, kept])
        small.end.copy_(layer.end[kept])
    output = small(emissions[:, kept], lengths)
    torch.testing.assert_close(probabilities[:, kept], crf.marginals(output))
    torch.testing.assert_close(
        crf.log_partition(layer(emissions, lengths)), crf.log_partition(output)
    )


def test_a_very_long_sentence():
    layer, emissions, lengths, tags = make([20_000], 2, dtype=torch.float32)
    output = layer(emissions, lengths)
    found = crf.log_likelihood(output, tags)
    found.backward()
    assert found < 0 and layer.transitions.grad.sum().abs() < 1  # as many moves as expected moves
    assert crf.log_likelihood(output, crf.viterbi(output)) > found


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=7),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_a_sentence_does_not_see_its_batch(lengths, seed, data):
    layer, emissions, _, tags = make(lengths, 4, seed=seed)
    words, paths = emissions.split(lengths), tags.split(lengths)
    order = data.draw(st.permutations(range(len(lengths))))

    def run(rows):
        flat = torch.cat([words[row] for row in rows])
        output = layer(flat, torch.tensor([lengths[row] for row in rows]))
        sizes = output.lengths.tolist()
        return (
            crf.log_likelihood(output, torch.cat([paths[row] for row in rows])),
            crf.viterbi(output).split(sizes),
            crf.marginals(output).split(sizes),
        )

    together = run(order)
    for place, row in enumerate(order):
        alone = run([row])
        torch.testing.assert_close(together[0][place], alone[0][0])
        assert torch.equal(together[1][place], alone[1][0])
        torch.testing.assert_close(together[2][place], alone[2][0])


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_no_words_at_all(lengths):
    layer, emissions, lengths, tags = make(lengths, 3, dtype=torch.float32)
    output = layer(emissions.requires_grad_(), lengths)
    found = crf.log_likelihood(output, tags)
    assert found.tolist() == [0.0] * len(lengths)
    found.sum().backward()
    assert not layer.transitions.grad.any() and emissions.grad.shape == (0, 3)
    assert crf.viterbi(output).shape == (0,)
    assert crf.marginals(output).shape == (0, 3)
    assert crf.legal(output, tags, lengths).all()


def test_lengths_that_do_not_add_up_are_refused():
    layer = LinearChainCRF(3)
    with pytest.raises(ValueError, match=r"Sentences of 4 words in all came with .* 5 words"):
        crf.viterbi(layer(torch.zeros(5, 3), torch.tensor([1, 3])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_promoted(dtype):
    _, emissions, lengths, tags = make([5, 2], 4, dtype=torch.float32)
    half = LinearChainCRF(4, *illegal_at_random(4, 0)).to(dtype)
    emissions = emissions.to(dtype).requires_grad_()
    output = half(emissions, lengths)
    assert all(part.dtype == torch.float32 for part in (output.emissions, *output[2:]))
    found = crf.log_likelihood(output, torch.full_like(tags, 3))
    found.sum().backward()
    assert found.dtype == torch.float32
    assert emissions.grad.dtype == half.transitions.grad.dtype == dtype
    assert emissions.grad.isfinite().all()


def test_autocast_changes_nothing():
    layer, emissions, lengths, tags = make([5, 2], 4, dtype=torch.float32)
    results = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = crf.log_likelihood(layer(emissions, lengths), tags)
            found.sum().backward()
        results.append((found, layer.transitions.grad.clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_constraints_are_saved_with_the_scores():
    masks = forbidden(BIO, "bio")
    layer = LinearChainCRF(5, *masks)
    other = LinearChainCRF(5)
    other.load_state_dict(layer.state_dict())
    for name, mask in zip(("forbidden_start", "forbidden", "forbidden_end"), masks):
        assert np.array_equal(getattr(other, name).numpy(), mask)
    other.constrain()
    assert not other.forbidden.any()
    with pytest.raises(ValueError, match=r"shape \(5, 5\) was expected, got \(4, 4\)"):
        layer.constrain(forbidden=np.zeros((4, 4), bool))


def test_loss_is_the_likelihood_of_sentences_that_weigh_what_their_words_do():
    layer, emissions, lengths, tags = make([3, 0, 1], 4, dtype=torch.float32)
    output = layer(emissions, lengths)
    found = crf.log_likelihood(output, tags)
    torch.testing.assert_close(CRFLoss()(output, tags, torch.ones(4)), -found.sum())
    weights = torch.tensor([1.0, 2.0, 6.0, 0.5])
    expected = -(3.0 * found[0] + 0.5 * found[2])
    loss = CRFLoss()(output, tags, weights)
    torch.testing.assert_close(loss, expected)
    assert loss.shape == () and loss.dtype == torch.float32
    assert CRFLoss()(output, tags, torch.zeros(4)) == 0


def test_with_no_scores_of_neighbours_the_loss_is_the_cross_entropy():
    emissions, tags = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    output = LinearChainCRF(3)(emissions, torch.tensor([4, 2]))
    expected = torch.nn.functional.cross_entropy(emissions, tags, reduction="sum")
    torch.testing.assert_close(CRFLoss()(output, tags, torch.ones(6)), expected)


# The names of tags


@pytest.mark.parametrize(
    "tags, scheme",
    [
        (BIO, "bio"),
        (["B-x"], "bio"),
        (["B-x", "O"], "bio"),
        (["I-x", "O"], None),
        (["O"], None),
        ([], None),
        (BIOES, "bioes"),
        (["O", "S-x"], "bioes"),
        (["O", "B-x", "I-x", "L-x", "U-x"], "bioes"),
        (["NOUN", "VERB"], None),
        ([*BIO, "X"], None),
        ([*BIO, "B-"], None),
        ([*BIO, "b-x"], None),
        ([*BIO, "o"], None),
        (["B-x-1", "I-x-1", "B-é ü", "B-\n"], "bio"),
        ([0, 1, 2], None),
        ([True, False], None),
        ([*BIO, None], None),
        (np.array(BIO), "bio"),
    ],
)
def test_scheme_of(tags, scheme):
    assert scheme_of(tags) == scheme


@pytest.mark.parametrize("scheme, tag", [("bio", "E-x"), ("bio", "NN"), ("bioes", "M-x")])
def test_tags_that_do_not_fit_are_named(scheme, tag):
    with pytest.raises(ValueError, match=rf"^constraints=\"{scheme}\" .*\"B-\".* got .*'{tag}'"):
        forbidden(["O", "B-x", tag, "?"], scheme)


@pytest.mark.parametrize("tag", [1, None, True])
def test_tags_that_are_no_text_are_named(tag):
    with pytest.raises(ValueError, match=rf"got the tag {tag}\."):
        forbidden(["O", tag], "bio")


def test_bio_by_hand():
    start, transitions, end = forbidden(BIO, "bio")
    assert [tag for tag, bad in zip(BIO, start) if bad] == ["I-x", "I-y"]
    assert not end.any()
    bad = {(BIO[a], BIO[b]) for a, b in np.argwhere(transitions)}
    assert bad == {
        ("O", "I-x"), ("O", "I-y"), ("B-x", "I-y"), ("I-x", "I-y"), ("B-y", "I-x"), ("I-y", "I-x")
    }  # fmt: skip


def test_bioes_by_hand():
    start, transitions, end = forbidden(BIOES, "bioes")
    assert start.tolist() == [False, False, True, True, False]
    assert end.tolist() == [False, True, True, False, False]
    after_a_span, within_one = [False, False, True, True, False], [True, True, False, False, True]
    assert transitions.tolist() == [after_a_span, within_one, within_one, after_a_span] + [
        after_a_span
    ]


TYPES = st.lists(st.sampled_from(["x", "y", "LOC", "a-b"]), min_size=1, max_size=3, unique=True)
SCHEMES = {
    "IOB2": (IOB2, "BI", "bio"),
    "IOBES": (IOBES, "BIES", "bioes"),
    "BILOU": (BILOU, "BILU", "bioes"),
}


def walk(masks, length, data):
    """A path drawn from the legal ones: each step keeps a legal end within reach."""
    start, transitions, end = masks
    ends = [~end]
    for _ in range(length - 1):
        ends.append((~transitions & ends[-1]).any(axis=1))
    options, path = ~start, []
    for reachable in reversed(ends):
        path.append(data.draw(st.sampled_from(np.flatnonzero(options & reachable).tolist())))
        options = ~transitions[path[-1]]
    return path


def from_entities(path, scheme):
    """The tags that the spans found in a path, strictly read, would be written with."""
    letters = {BILOU: "BILU"}.get(scheme, "BIES")
    written = ["O"] * len(path)
    (entities,) = Entities([path], scheme).entities
    for entity in entities:
        marks = ["I"] * (entity.end - entity.start)
        marks[0] = "B"
        if scheme is not IOB2:
            marks[-1] = letters[2] if len(marks) > 1 else letters[3]
        written[entity.start : entity.end] = [f"{mark}-{entity.tag}" for mark in marks]
    return written


@pytest.mark.parametrize("name", SCHEMES)
@settings(max_examples=60)
@given(types=TYPES, length=st.integers(1, 9), data=st.data())
def test_seqeval_reads_each_legal_path_strictly_and_no_other(name, types, length, data):
    scheme, letters, constraints = SCHEMES[name]
    tags = ["O", *(f"{letter}-{kind}" for kind in types for letter in letters)]
    assert scheme_of(tags) == constraints
    masks = forbidden(tags, constraints)
    path = [tags[i] for i in walk(masks, length, data)]
    assert from_entities(path, scheme) == path

    # Any path at all: seqeval loses none of its tags exactly if it is legal.
    codes = data.draw(st.lists(st.integers(0, len(tags) - 1), min_size=length, max_size=length))
    path = [tags[i] for i in codes]
    layer = LinearChainCRF(len(tags), *masks)
    legal = bool(crf.legal(layer, torch.tensor(codes), torch.tensor([length])))
    assert (from_entities(path, scheme) == path) == legal


@settings(max_examples=30)
@given(types=TYPES, lengths=st.lists(st.integers(0, 12), max_size=5), seed=st.integers(0, 99))
def test_best_paths_are_legal_in_either_scheme(types, lengths, seed):
    for letters, scheme in (("BI", "bio"), ("BIES", "bioes")):
        tags = ["O", *(f"{letter}-{kind}" for kind in types for letter in letters)]
        layer, emissions, sizes, _ = make(
            lengths, len(tags), 1e3, torch.float32, forbidden(tags, scheme), seed
        )
        path = crf.viterbi(layer(emissions, sizes))
        assert crf.legal(layer, path, sizes).all()
