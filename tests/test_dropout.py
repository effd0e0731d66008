"""Dropout whose masks NumPy draws: the same distribution, the same gradients, torch's seeds."""

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from conftest import make_texts
from families import FAMILIES
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel

from sktransformers import TokenTagger
from sktransformers.modules.model import SelfAttention, SequenceModel
from sktransformers.training import dropout, net, runtime
from sktransformers.training.dropout import cheap_dropout

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def draws(monkeypatch):
    """Shapes of what was dropped from by us."""
    shapes, original = [], dropout._drop

    def counted(x, threshold):
        shapes.append(tuple(x.shape))
        return original(x, threshold)

    monkeypatch.setattr(dropout, "_drop", counted)
    return shapes


@pytest.fixture
def fixed(monkeypatch):
    """A mask that is always the same."""
    generator = torch.Generator().manual_seed(3)
    masks = {}

    def drop(x, threshold):
        if x.shape not in masks:
            masks[x.shape] = torch.rand(x.shape, generator=generator) > 0.4
        return dropout._Drop.apply(x, masks[x.shape], 1 / 0.6)

    monkeypatch.setattr(dropout, "_drop", drop)
    return masks


# -------------------------------------------------------------- distribution


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_rates_and_means(p):
    n, repeats = 30_001, 20
    with cheap_dropout(CPU):
        found = torch.stack(
            [F.dropout(torch.ones(n, dtype=torch.float64), p) for _ in range(repeats)]
        )
    rate = round(p * 2**16) / 2**16
    kept = found != 0
    assert found[kept].unique().tolist() == [pytest.approx(1 / (1 - rate), rel=1e-12)]
    sd = math.sqrt(rate * (1 - rate))
    assert abs(float((~kept).double().mean()) - rate) < 5 * sd / math.sqrt(n * repeats)
    assert abs(float(found.mean()) - 1) < 5 * sd / (1 - rate) / math.sqrt(n * repeats)
    # No place is special, and neighbours know nothing of each other, nor do successive masks.
    assert abs((~kept).double().mean(0) - rate).max() < 7 * sd / math.sqrt(repeats) + 1 / repeats
    centred = (kept.double() - (1 - rate)) / sd
    for lag in (1, 2, 3, 4, 8):
        correlation = float((centred[:, lag:] * centred[:, :-lag]).mean())
        assert abs(correlation) < 5 / math.sqrt(n * repeats)
    assert abs(float((centred[1:] * centred[:-1]).mean())) < 5 / math.sqrt(n * repeats)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("call", [F.dropout, torch.dropout, nn.Dropout(0.25)])
def test_types(dtype, call, draws):
    x = torch.rand(50, 3, dtype=dtype) + 1
    with cheap_dropout(CPU):
        found = call(x) if isinstance(call, nn.Module) else call(x, 0.25, True)
    assert draws == [(50, 3)]
    assert found.dtype == dtype
    torch.testing.assert_close(found, torch.where(found == 0, 0, x / 0.75))
    assert 0.1 < float((found == 0).float().mean()) < 0.4


def test_odd_inputs(draws):
    x = torch.rand(6, 5) + 1
    with cheap_dropout(CPU):
        for p in (0.0, 1.0):
            assert torch.equal(F.dropout(x, p), (1 - p) * x)
        assert F.dropout(x, 0.5, training=False) is x
        assert torch.equal(torch.dropout(x, 0.5, False), x)
        assert torch.equal(nn.Dropout().eval()(x), x)
        for p in (-0.1, 1.1):
            with pytest.raises(ValueError, match="between 0 and 1"):
                F.dropout(x, p)
        assert draws == []
        for shape in ((), (0,), (3, 0, 2), (1,), (7,)):
            assert F.dropout(torch.ones(shape), 0.5).shape == shape
        turned = F.dropout(x.T, 0.5)
        torch.testing.assert_close(turned, torch.where(turned == 0, 0, 2 * x.T))
        every_second = F.dropout(x[::2], 0.5)
        torch.testing.assert_close(every_second, torch.where(every_second == 0, 0, 2 * x[::2]))
        expanded = F.dropout(torch.ones(1, 1).expand(50, 50), 0.5)
        assert 0.4 < float(expanded.mean() / 2) < 0.6


def test_in_place():
    x = torch.rand(40, 3)
    before = x.clone()
    with cheap_dropout(CPU):
        found = F.dropout(x, 0.5, inplace=True)
    assert found is x
    torch.testing.assert_close(x, torch.where(x == 0, 0, 2 * before))
    leaf = torch.rand(40, 3, requires_grad=True)
    with cheap_dropout(CPU):
        hidden = leaf * 1.0
        F.dropout(hidden, 0.5, inplace=True).sum().backward()
        with pytest.raises(RuntimeError, match="leaf"):
            F.dropout(leaf, 0.5, inplace=True)
    assert torch.equal(leaf.grad, 2 * (hidden != 0))


def test_gradients(fixed):
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)

    def drop(x):
        with cheap_dropout(CPU):
            return F.dropout(x.sin(), 0.4)

    assert torch.autograd.gradcheck(drop, x)
    assert torch.autograd.gradgradcheck(drop, x)


def test_a_mask_takes_a_byte_a_number():
    saved = []
    x = torch.rand(100, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x), cheap_dropout(CPU):
        F.dropout(x, 0.5)
    assert sum(tensor.nbytes for tensor in saved) == 100


# ---------------------------------------------------------------- attention


def math_path(*args, **kwargs):
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        return F.scaled_dot_product_attention(*args, **kwargs)


def qkv(dtype=torch.float64, kv_heads=4, kv_length=7, width=4):
    shapes = [(2, 4, 6, width), (2, kv_heads, kv_length, width), (2, kv_heads, kv_length, 5)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def masks():
    padding = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    padding[1, ..., 4:] = False
    window = (torch.arange(6)[:, None] - torch.arange(7)).abs() < 3
    nothing = padding & window
    nothing[1, :, 2] = False  # the padding row of a sliding window
    bias = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    return {
        "none": {},
        "causal": {"is_causal": True},
        "padding": {"attn_mask": padding},
        "window": {"attn_mask": window},
        "nothing to see": {"attn_mask": nothing},
        "additive": {"attn_mask": bias},
        "additive, nothing to see": {"attn_mask": bias.masked_fill(~nothing, -math.inf)},
        "scale": {"scale": 0.3, "attn_mask": padding},
    }


@pytest.mark.parametrize("name", masks())
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_attention_is_torchs(monkeypatch, name, kv_heads, dtype):
    monkeypatch.setattr(dropout, "_drop", lambda x, threshold: x)
    options = {**masks()[name], "enable_gqa": kv_heads < 4}
    if name.startswith("additive"):
        options["attn_mask"] = options["attn_mask"].to(dtype).requires_grad_()
    inputs = qkv(dtype, kv_heads)
    learnt = [x for x in (*inputs, options.get("attn_mask")) if x is not None and x.requires_grad]
    expected = math_path(*inputs, **options)
    with cheap_dropout(CPU):
        found = F.scaled_dot_product_attention(*inputs, **options, dropout_p=0.1)
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    above = torch.randn_like(expected)
    grads = zip(
        torch.autograd.grad(found, learnt, above), torch.autograd.grad(expected, learnt, above)
    )
    for grad, wanted in grads:
        torch.testing.assert_close(grad, wanted, rtol=3 * tolerance, atol=3 * tolerance)


def test_attention_drops_weights(monkeypatch):
    # With the unit matrix for values the output is the dropped weights.
    query, key, _ = qkv()
    value = torch.eye(7, dtype=torch.float64).expand(2, 4, 7, 7)
    expected = math_path(query, key, value)
    with cheap_dropout(CPU):
        found = F.scaled_dot_product_attention(query, key, value, dropout_p=0.25)
    torch.testing.assert_close(found, torch.where(found == 0, 0, expected / 0.75))
    assert 0.15 < float((found == 0).double().mean()) < 0.35


def test_attention_gradients(fixed):
    bias = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)

    def attend(query, key, value, bias):
        with cheap_dropout(CPU):
            return F.scaled_dot_product_attention(query, key, value, bias, 0.4)

    inputs = [x[:1, :1].detach().requires_grad_() for x in qkv(width=2)]
    assert torch.autograd.gradcheck(attend, (*inputs, bias))


def test_attention_in_lower_precision(monkeypatch):
    monkeypatch.setattr(dropout, "_drop", lambda x, threshold: x)
    inputs = qkv(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = math_path(*inputs)
        with cheap_dropout(CPU):
            found = F.scaled_dot_product_attention(*inputs, dropout_p=0.1)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_attention_left_to_torch(draws):
    query, key, value = qkv()
    with cheap_dropout(CPU):
        F.scaled_dot_product_attention(query, key, value, dropout_p=0.0)
        with pytest.raises(RuntimeError):
            bias = torch.zeros(6, 7, dtype=torch.float64)
            F.scaled_dot_product_attention(query, key, value, bias, 0.1, is_causal=True)
    assert draws == []


# ------------------------------------------------------- attention in bf16, without dropout


@pytest.fixture
def tiles(monkeypatch):
    """A CPU that multiplies in bf16, whatever it is."""
    monkeypatch.setattr(runtime, "cpu_has_bf16_tiles", lambda: True)


@pytest.fixture
def fused(monkeypatch):
    """Shapes of the keys that torch's own attention was asked about."""
    shapes, original = [], F.scaled_dot_product_attention

    def counted(query, key, *args, **kwargs):
        found = dropout._attention(query, key, *args, **kwargs)
        if found is None:
            shapes.append(tuple(key.shape))
            found = original(query, key, *args, **kwargs)
        return found

    monkeypatch.setitem(dropout._OURS, original, counted)
    return shapes


VARIANTS = {
    "plain": {},
    "causal": {"is_causal": True},
    "gqa": {"enable_gqa": True},
    "causal_gqa": {"is_causal": True, "enable_gqa": True},
    "scale": {"scale": 0.3},
    "bool_mask": {"attn_mask": "bool"},
    "bias": {"attn_mask": "float"},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_attention_without_dropout(name, autocast, tiles, fused, draws):
    options = dict(VARIANTS[name])
    heads = 2 if options.get("enable_gqa") else 4
    shapes = [(3, 4, 20, 16), (3, heads, 20, 16), (3, heads, 20, 16)]
    inputs = [torch.randn(shape).bfloat16().float() for shape in shapes]
    if not autocast:
        inputs = [x.bfloat16() for x in inputs]
    for x in inputs:
        x.requires_grad_()
    if "attn_mask" in options:
        mask = torch.rand(3, 1, 20, 20) < 0.7
        mask[0, 0, 3] = False  # a query that may look at nothing
        bias = torch.randn(20, 20)
        options["attn_mask"] = mask if options["attn_mask"] == "bool" else bias
    above = torch.randn(3, 4, 20, 16)

    def results(context, inputs):
        with context, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = F.scaled_dot_product_attention(*inputs, **options)
        return [found, *torch.autograd.grad(found, inputs, above.to(found.dtype))]

    found = results(cheap_dropout(CPU), inputs)
    assert fused == draws == []
    assert found[0].dtype == torch.bfloat16
    precise = [x.detach().double().requires_grad_() for x in inputs]
    if "attn_mask" in options and options["attn_mask"].is_floating_point():
        options["attn_mask"] = options["attn_mask"].double()
    with torch.autocast("cpu", enabled=False):
        found_precise = F.scaled_dot_product_attention(*precise, **options)
        grads = torch.autograd.grad(found_precise, precise, above.double())
    for value, expected in zip(found, [found_precise, *grads], strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=3e-2, atol=6e-2)
        difference = (value - expected).detach().norm() / expected.detach().norm()
        assert float(difference) < 1e-2


def test_bf16_attention_that_is_left_to_torch(tiles, fused, monkeypatch):
    def attend(n_keys=8, dtype=torch.bfloat16, grad=True, p=0.0):
        inputs = [torch.randn(1, 2, n, 8, dtype=dtype, requires_grad=grad) for n in (5, n_keys)]
        with cheap_dropout(CPU):
            F.scaled_dot_product_attention(*inputs, inputs[1], dropout_p=p)
        return len(fused)

    assert attend() == 0
    assert attend(n_keys=dropout._MOST_KEYS) == 0
    assert attend(n_keys=dropout._MOST_KEYS + 1) == 1
    assert attend(dtype=torch.float32) == 2
    assert attend(grad=False) == 3
    with torch.no_grad():
        assert attend() == 4
    assert attend(p=1e-9) == 5  # less than we can draw
    monkeypatch.setattr(runtime, "cpu_has_bf16_tiles", lambda: False)
    assert attend() == 6


def test_bf16_attention_with_dropout(tiles, fixed):
    inputs = [torch.randn(2, 3, 7, 8, requires_grad=True) for _ in range(3)]
    above = torch.randn(2, 3, 7, 8)

    def results(on_tiles):
        with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
            patch.setattr(runtime, "cpu_has_bf16_tiles", lambda: on_tiles)
            with cheap_dropout(CPU):
                found = F.scaled_dot_product_attention(*inputs, dropout_p=0.4)
        return [found, *torch.autograd.grad(found, inputs, above.to(found.dtype))]

    for found, expected in zip(results(True), results(False), strict=True):
        assert found.dtype == expected.dtype
        difference = (found - expected).detach().norm() / expected.detach().norm()
        assert float(difference) < 1e-2
        assert not torch.equal(found, expected)  # else this would have compared nothing


# --------------------------------------------------------------- randomness


def test_draws_follow_torchs_generator():
    x = torch.ones(1000)

    def three():
        with cheap_dropout(CPU):
            return [F.dropout(x, 0.5) for _ in range(3)]

    first = three()
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    assert not torch.equal(three()[0], first[0])
    torch.manual_seed(0)
    assert all(map(torch.equal, three(), first))
    torch.manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        three()
    assert all(map(torch.equal, three(), first))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("backward", [torch.Tensor.backward, torch.autograd.backward])
def test_a_checkpointed_layer_draws_the_same_again(draws, reentrant, nested, backward):
    seen = []

    def layer(x):
        x = F.dropout(x, 0.5)
        seen.append(x.detach())
        return x.sin()

    def outer(x):
        return checkpoint(layer, x, use_reentrant=reentrant)

    x = torch.rand(100, requires_grad=True)
    with cheap_dropout(CPU):
        y = checkpoint(outer, x, use_reentrant=reentrant) if nested else outer(x)
        torch.rand(1)  # the random state has moved on
        backward(y.sum())
    assert len(draws) == len(seen) >= 2
    assert all(torch.equal(seen[0], other) for other in seen)
    torch.testing.assert_close(x.grad, torch.where(seen[0] == 0, 0, 2 * seen[0].cos()))


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_backward_takes_what_torchs_does():
    def grads(context):
        x, z = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
        with context:
            y = (x * z) ** 2
            y.backward(torch.arange(3.0), retain_graph=True, inputs=[x])
            y.backward(torch.arange(3.0), create_graph=True, inputs=z)
            torch.autograd.backward([y.sum(), z.grad.sum()], retain_graph=True)
            torch.autograd.backward(tensors=y.sum())
            with pytest.raises(RuntimeError):
                torch.ones(3).sum().backward()
            with pytest.raises(RuntimeError, match="scalar"):
                (x * 2).backward()
        return x.grad, z.grad

    for found, expected in zip(grads(cheap_dropout(CPU)), grads(nullcontext())):
        torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------- models


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_families(name, attention, draws, monkeypatch):
    config = FAMILIES[name].config(50)
    options = {"attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"}
    for option in options & config.to_dict().keys():  # zero by default in some
        setattr(config, option, 0.1)
    try:
        model = AutoModel.from_config(config, attn_implementation=attention).train()
    except ValueError:
        pytest.skip("no such attention")
    ids = torch.randint(10, 50, (3, 8))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["attention_mask"][1, 5:] = 0

    def forbid(*args, **kwargs):
        raise AssertionError("torch dropped something")

    with monkeypatch.context() as patched, cheap_dropout(CPU):
        patched.setattr(torch.Tensor, "bernoulli_", forbid)
        torch.manual_seed(1)
        first = model(**inputs).last_hidden_state
        after = torch.get_rng_state()
        torch.manual_seed(1)
        again = model(**inputs).last_hidden_state
        assert torch.equal(first, again)
        first.sum().backward()
    n_draws = len(draws) // 2
    assert n_draws >= config.num_hidden_layers
    # Torch itself drew nothing: the seeds of our masks are all that was taken.
    torch.manual_seed(1)
    for _ in range(n_draws):
        torch.randint(2**63 - 1, ())
    assert torch.equal(torch.get_rng_state(), after)
    model.eval()
    with torch.no_grad(), cheap_dropout(CPU):
        still = model(**inputs).last_hidden_state
    assert len(draws) == 2 * n_draws
    with torch.no_grad():
        torch.testing.assert_close(still, model(**inputs).last_hidden_state)


def test_multihead_attention_still_works():
    layer = SelfAttention(8, 0.5).train()
    nn.init.ones_(layer.attention.out_proj.weight)
    hidden = torch.randn(2, 5, 8)
    mask = torch.ones(2, 5)
    mask[0, 3:] = 0
    with cheap_dropout(CPU):
        found = layer(hidden, mask)
        found.sum().backward()
        assert not torch.equal(found, layer(hidden, mask))
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("mode", ["cheap", "torch"])
def test_compiled_code_keeps_torchs(mode, draws):
    @torch.compile(backend="aot_eager", fullgraph=True)
    def double(x):
        return F.dropout(x, 0.5) * 2

    with cheap_dropout(CPU) if mode == "cheap" else nullcontext():
        first, second = double(torch.ones(100)), double(torch.ones(100))
    assert set(first.unique().tolist()) == {0.0, 4.0}
    assert not torch.equal(first, second)
    assert draws == []


def test_inside_function_transforms(draws):
    with cheap_dropout(CPU):
        grad = torch.func.grad(lambda x: F.dropout(x, 0.5).sum())(torch.ones(100))
    assert set(grad.unique().tolist()) == {0.0, 2.0}
    assert draws == []


def test_other_devices_are_left_alone():
    assert isinstance(cheap_dropout(torch.device("cuda")), nullcontext)
    assert isinstance(cheap_dropout(torch.device("mps")), nullcontext)


# ---------------------------------------------------------------------- fit


def weights_of(clf):
    return torch.cat([p.detach().flatten() for p in clf.model_.parameters()])


def test_fit_is_reproducible_and_leaves_torchs_state(make_clf, texts, labels, draws):
    state = torch.get_rng_state()
    first = make_clf(max_epochs=1).fit(texts, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert draws
    again = make_clf(max_epochs=1).fit(texts, labels)
    assert torch.equal(weights_of(first), weights_of(again))
    other = make_clf(max_epochs=1, random_state=1).fit(texts, labels)
    assert not torch.equal(weights_of(first), weights_of(other))


def test_nothing_is_drawn_for_validation(make_clf, texts, labels, draws, monkeypatch):
    seen = []
    original = net.FineTuningNet.validation_step

    def counted(self, *args, **kwargs):
        before = len(draws)
        found = original(self, *args, **kwargs)
        seen.append(len(draws) - before)
        return found

    monkeypatch.setattr(net.FineTuningNet, "validation_step", counted)
    X_val, y_val = make_texts(8, seed=1)
    clf = make_clf(max_epochs=1).fit(texts, labels, X_val=X_val, y_val=y_val)
    assert seen and not any(seen)
    n_draws = len(draws)
    clf.predict_proba(texts)
    assert len(draws) == n_draws


def test_a_long_row_draws_the_same_again(make_clf, monkeypatch):
    # Its pieces are computed twice, the second time in the backward pass, last piece first.
    passes = {True: [], False: []}  # whether for a gradient: the masks
    original = dropout._drop

    def noted(x, threshold):
        found = original(x, threshold)
        passes[torch.is_grad_enabled()].append(found.detach() != 0)
        return found

    pieces = []
    encode = SequenceModel.encode

    def counted(self, **inputs):
        pieces.append((torch.is_grad_enabled(), len(passes[torch.is_grad_enabled()])))
        return encode(self, **inputs)

    monkeypatch.setattr(dropout, "_drop", noted)
    monkeypatch.setattr(SequenceModel, "encode", counted)
    clf = make_clf(
        long_text="window", max_batch_tokens=70, max_epochs=1, batch_size=1, head_init="random"
    )
    texts = [" ".join(["fish", "bread"] * n) for n in (60, 90)]
    clf.fit(texts, ["sea", "food"])

    def by_piece(grad):
        begins = [begin for needs, begin in pieces if needs is grad]
        ends = [*begins[1:], len(passes[grad])]
        return [torch.cat([m.flatten() for m in passes[grad][a:b]]) for a, b in zip(begins, ends)]

    first, again = by_piece(False), by_piece(True)
    assert len(first) == len(again) > 3
    # Two steps, and in each of them the pieces come back in reverse; heads drop once a step.
    unmatched = [m.clone() for m in first]
    for mask in again:
        n = [i for i, m in enumerate(unmatched) if torch.equal(m, mask[: len(m)])]
        assert len(n) == 1
        unmatched.pop(n[0])


def test_tagger_with_self_attention(tiny_backbone):
    X = [["fish", "the", "bread"], ["tram"]] * 4
    y = [["a", "b", "a"], ["b"]] * 4
    tagger = TokenTagger(
        tiny_backbone, self_attention=True, max_epochs=1, device="cpu", random_state=0
    )
    assert len(tagger.fit(X, y).predict(X)) == len(X)
