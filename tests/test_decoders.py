"""Decoders, and T5's encoder, as backbones of the estimators."""

import copy
import functools
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from conftest import make_texts
from families import _SIZE, FAMILIES, Family, byte_level
from language_models import language_model, language_tokenizer
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import log_loss
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    ByT5Tokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    OpenAIGPTConfig,
    OPTConfig,
    T5Config,
    T5EncoderModel,
    T5GemmaConfig,
    T5GemmaModuleConfig,
    UMT5Config,
)

from sktransformers import (
    Backbone,
    BitFit,
    Cache,
    GradualUnfreezing,
    LoRA,
    MaskedReplacement,
    MultiTaskSequenceEstimator,
    PairClassifier,
    PairRegressor,
    TokenTagger,
    TransformerSequenceClassifier,
    TransformerSequenceRegressor,
    Windows,
)
from sktransformers.modules import attention
from sktransformers.modules.attention import attend_both_ways, looks_ahead
from sktransformers.modules.dispatch import is_dispatched
from sktransformers.modules.model import SequenceModel
from sktransformers.training import loading
from sktransformers.training.loading import load

_GEMMA_NAMES = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
_GEMMA_SIZE = {
    **_SIZE,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def gemma_tokenizer():
    return byte_level("<bos> $A", _GEMMA_NAMES)


DECODERS = {
    "gpt2": FAMILIES["gpt2"],
    "llama": FAMILIES["llama"],
    "qwen3": FAMILIES["qwen3"],
    "smollm": Family(  # a Llama with GPT-2's tokenizer, and tied
        lambda n: LlamaConfig(
            vocab_size=n,
            num_key_value_heads=1,
            bos_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=True,
            **_SIZE,
        ),
        FAMILIES["gpt2"].tokenizer,
    ),
    "opt": Family(
        lambda n: OPTConfig(
            vocab_size=n,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=64,
            max_position_embeddings=40,
            word_embed_proj_dim=24,  # as OPT-350m, whose blocks are wider than its vectors
            init_std=0.1,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
        ),
        lambda: byte_level("</s> $A", {"pad_token": "<pad>", "eos_token": "</s>"}),
    ),
    "gemma2": Family(
        lambda n: Gemma2Config(vocab_size=n, sliding_window=4, **_GEMMA_SIZE), gemma_tokenizer
    ),
    "gemma3": Family(
        lambda n: Gemma3TextConfig(vocab_size=n, sliding_window=4, **_GEMMA_SIZE), gemma_tokenizer
    ),
}
TEXTS, LABELS = make_texts(12)
# Of very different lengths, so that padding matters.
MIXED = ["fish", *TEXTS, " ".join(["bread", "wave"] * 3), ""]
NUMBERS = [float(len(text)) for text in TEXTS]
TASKS = np.array([LABELS, NUMBERS], dtype=object).T
SENTENCES = [text.split() for text in TEXTS]
TAGS = [["FOOD" if "a" in word else "O" for word in words] for words in SENTENCES]
PAIRS = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1]))
FIT = {"max_epochs": 1, "batch_size": 4, "device": "cpu", "random_state": 0}
STILL = {**FIT, "lr": 1e-12, "head_init": "random"}  # a head as it started


@functools.lru_cache(maxsize=1)
def _folder():
    return tempfile.TemporaryDirectory()  # deleted when the process ends


@functools.cache
def decoder(name, auto=AutoModelForCausalLM):
    """Directory of a tiny decoder, as on the hub: with the head of its vocabulary."""
    family = DECODERS[name]
    directory = Path(_folder().name) / f"{name}-{auto.__name__}"
    tokenizer = family.tokenizer()
    config = family.config(len(tokenizer))
    config.num_labels = 3
    if config.pad_token_id is None:
        config.pad_token_id = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config)
        if auto is not AutoModelForCausalLM:
            torch.nn.init.normal_(model.score.weight, std=0.5)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def padded(tokenizer, side, texts):
    """Ids and mask of texts, padded on a side with what means something elsewhere."""
    rows = [tokenizer(text)["input_ids"] or [tokenizer.eos_token_id] for text in texts]
    ids = torch.full((len(rows), max(map(len, rows))), 7)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(ids.shape[1] - len(row), None)
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


# ------------------------------------------------------------------------ all estimators


@pytest.mark.parametrize("name", DECODERS)
def test_all_estimators_take_decoders(name):
    backbone = decoder(name)
    found = [
        TransformerSequenceClassifier(backbone, **FIT).fit(TEXTS, LABELS).predict_proba(MIXED),
        TransformerSequenceRegressor(backbone, **FIT).fit(TEXTS, NUMBERS).predict(MIXED),
        PairClassifier(backbone, **FIT).fit(PAIRS, LABELS).predict_proba(PAIRS),
        PairRegressor(backbone, interaction="all", **FIT).fit(PAIRS, NUMBERS).predict(PAIRS),
        MultiTaskSequenceEstimator(backbone, **FIT)
        .fit(TEXTS, TASKS)
        .predict(MIXED)[:, 1]
        .astype(float),
    ]
    with pytest.warns(UserWarning, match=r"is causal: .*bidirectional=True.*all-MiniLM-L6-v2"):
        tagger = TokenTagger(backbone, **FIT).fit(SENTENCES, TAGS)
    found += list(tagger.predict_proba(SENTENCES))
    assert all(np.isfinite(part).all() for part in found)


LEARNERS = {
    **{name: (name, {}) for name in ("opt", "gemma2", "gemma3")},
    "both ways": ("smollm", {"bidirectional": True}),
    "t5": ("t5", {}),
}


@pytest.mark.parametrize("case", LEARNERS)
def test_learns_a_dozen_texts_by_heart(case):
    name, options = LEARNERS[case]
    directory = decoder(name) if name in DECODERS else encoder_decoder(name)
    clf = TransformerSequenceClassifier(
        Backbone(directory, **options),
        pooling="mean" if options else "auto",
        head_init="random",
        lr=5e-3,
        **{**FIT, "max_epochs": 10},
    )
    proba = clf.fit(TEXTS, LABELS).predict_proba(TEXTS)
    assert log_loss(LABELS, proba) < 0.6  # from ln 3 = 1.1


def test_start_of_the_head():
    model = TransformerSequenceClassifier(decoder("gpt2"), **STILL).fit(TEXTS, LABELS).model_
    out = model.head.out
    assert out.weight.shape == (3, 32)
    assert abs(out.weight.mean()) < 0.008  # four standard errors
    assert 0.015 < out.weight.std() < 0.025
    assert (out.bias.abs() < 1e-9).all()


def test_large_numbers_do_not_hide_what_tokens_see(monkeypatch):
    hidden = torch.ones(1, 4, 8, dtype=torch.bfloat16)
    hidden[..., 0] = 100.0
    seen = torch.where(torch.arange(8) > 3, 0.5, 0.0).bfloat16()

    def vectors(backbone, ids, mask):
        return hidden + seen * (ids[0, -1] == 5)

    monkeypatch.setattr(attention, "token_vectors", vectors)
    assert looks_ahead(AutoModelForCausalLM.from_pretrained(decoder("gpt2")))


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma3"])
def test_summary_names_the_vocabulary_head_that_was_dropped(name):
    clf = TransformerSequenceClassifier(decoder(name), **STILL).fit(TEXTS, LABELS)
    config = clf.model_.backbone.config
    width = {"opt": 24}.get(name, 32)
    dropped = clf.summary().dropped_head
    assert dropped == (config.vocab_size, width, True)
    assert dropped.n_parameters == config.vocab_size * width
    line = f"dropped: vocabulary head, {width} x {config.vocab_size} = {dropped.n_parameters:,} "
    assert line in str(clf.summary())
    assert line in clf.summary()._repr_html_()
    assert clf.n_parameters_ == sum(p.numel() for p in clf.model_.parameters())
    assert pickle.loads(pickle.dumps(clf)).summary() == clf.summary()


def test_summary_of_a_head_that_is_narrower_than_the_blocks(tmp_path):
    tokenizer = FAMILIES["albert"].tokenizer()
    config = FAMILIES["albert"].config(len(tokenizer))
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    clf = TransformerSequenceClassifier(tmp_path, **STILL).fit(TEXTS, LABELS)
    assert clf.summary().dropped_head == (len(tokenizer), 16, True)


def test_summary_of_a_head_of_its_own_and_of_none(tiny_backbone):
    model = AutoModelForCausalLM.from_pretrained(decoder("llama"))
    backbone = Backbone(model, tokenizer=decoder("llama"))
    clf = TransformerSequenceClassifier(backbone, **STILL).fit(TEXTS, LABELS)
    assert clf.summary().dropped_head == (model.config.vocab_size, 32, False)
    assert "embeddings" not in str(clf.summary().dropped_head)
    for without in (tiny_backbone, Backbone(model.model, tokenizer=decoder("llama"))):
        clf = TransformerSequenceClassifier(without, **STILL).fit(TEXTS, LABELS)
        assert clf.summary().dropped_head is None
        assert "dropped" not in str(clf.summary())


def test_no_keys_and_values_are_kept_for_tokens_to_come():
    given = AutoModel.from_pretrained(decoder("llama"))
    backbone = load(Backbone(given, tokenizer=decoder("llama")), verbose=False).backbone
    ids = torch.tensor([[5, 6]])
    assert given(ids).past_key_values is not None  # nothing of the user's is changed
    assert backbone(ids).past_key_values is None


# ------------------------------------------------------------ padding, on either side


@pytest.mark.parametrize("name", DECODERS)
def test_logits_do_not_depend_on_padding(name):
    clf = TransformerSequenceClassifier(decoder(name), **FIT).fit(TEXTS, LABELS)
    assert clf.model_.config.pooling == "last"
    for pooling in ("last", "mean", "max"):
        clf.model_.pooling.mode = pooling
        logits = clf.decision_function(MIXED)
        assert np.ptp(logits, axis=0).max() > 1e-3  # else this test could not fail
        alone = np.concatenate([clf.decision_function([text]) for text in MIXED])
        assert_allclose(alone, logits, rtol=0, atol=2e-5)
        with torch.no_grad():
            for side in ("right", "left"):
                found = clf.model_(**padded(clf.tokenizer_, side, MIXED)).logits
                assert_allclose(found, logits, rtol=0, atol=2e-5)


def test_last_token_is_a_real_one():
    clf = TransformerSequenceClassifier(decoder("llama"), **STILL).fit(TEXTS, LABELS)
    theirs = AutoModelForCausalLM.from_pretrained(decoder("llama")).model.eval()
    with torch.no_grad():
        for text in MIXED:
            ids = clf.tokenizer_(text, return_tensors="pt")["input_ids"]
            vector = theirs(ids).last_hidden_state[0, -1]
            expected = clf.model_.head.out(vector).numpy()
            assert_allclose(clf.decision_function([text])[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_side_that_a_tokenizer_pads_does_not_matter(name, tmp_path):
    right = TransformerSequenceClassifier(decoder(name), **FIT).fit(TEXTS, LABELS)
    tokenizer = copy.deepcopy(right.tokenizer_)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    tokenizer(["a", "fish and bread"], padding=True)  # which stays inside a fast one
    left = TransformerSequenceClassifier(Backbone(decoder(name), tokenizer=tokenizer), **FIT)
    left.fit(TEXTS, LABELS)
    assert_array_equal(left.decision_function(MIXED), right.decision_function(MIXED))


def test_vocabulary_does_not_grow_without_a_padding_token():
    before = AutoModelForCausalLM.from_pretrained(decoder("gpt2")).transformer.wte.weight
    clf = TransformerSequenceClassifier(decoder("gpt2"), **FIT).fit(TEXTS, LABELS)
    assert clf.tokenizer_.pad_token is None
    assert clf.model_.backbone.wte.weight.shape == before.shape
    assert len(clf.tokenizer_) == len(before)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", DECODERS)
def test_logits_are_those_of_the_familys_own_class(name, native):
    directory = decoder(name, AutoModelForSequenceClassification)
    theirs = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    if native:
        clf = TransformerSequenceClassifier.from_pretrained(directory, device="cpu")
    else:
        clf = TransformerSequenceClassifier(directory, **STILL).fit(TEXTS, LABELS)
        with torch.no_grad():
            clf.model_.head.out.weight.copy_(theirs.score.weight)
            clf.model_.head.out.bias.zero_()
    texts = [text for text in MIXED if text]  # of nothing, theirs would read padding
    inputs = padded(clf.tokenizer_, "right", texts)
    pad_id = theirs.config.pad_token_id  # by which their classes find the last token
    inputs["input_ids"].masked_fill_(inputs["attention_mask"] == 0, pad_id)
    with torch.no_grad():
        expected = theirs(**inputs).logits.numpy()
        assert np.ptp(expected, axis=0).max() > 1e-2
        assert_allclose(clf.decision_function(texts), expected, rtol=0, atol=2e-5)
        for side in ("right", "left"):
            found = clf.model_(**padded(clf.tokenizer_, side, texts)).logits
            assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_decoder_is_read_at_its_last_token_whatever_its_tokenizer_has():
    tokenizer = copy.deepcopy(load(Backbone(decoder("llama")), verbose=False).tokenizer)
    tokenizer.cls_token = "<s>"  # as XGLM's: the first token, which has seen nothing else
    assert load(Backbone(decoder("llama"), tokenizer=tokenizer), verbose=False).pooling == "last"


def test_what_a_decoder_cannot_do():
    clf = TransformerSequenceClassifier(decoder("gpt2"), augment=MaskedReplacement(), **FIT)
    with pytest.raises(ValueError, match=r"gpt2.* is no checkpoint of AutoModelForMaskedLM"):
        clf.fit(TEXTS, LABELS)
    for name in ("opt", "gemma3"):
        tagger = TokenTagger(decoder(name), head="native", **FIT)
        with pytest.raises(ValueError, match="has no head for AutoModelForTokenClassification"):
            tagger.fit(SENTENCES, TAGS)


# --------------------------------------------------------------------- bidirectional


def vectors(backbone, ids, mask, **kwargs):
    with torch.no_grad():
        return backbone(input_ids=ids, attention_mask=mask, **kwargs).last_hidden_state


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("name", DECODERS)
def test_attention_both_ways(name, kernel):
    if (name, kernel) == ("gemma2", "sdpa"):
        pytest.skip("transformers has no sdpa for its capped scores")
    causal = load(Backbone(decoder(name), attn_implementation=kernel), verbose=False).backbone
    spec = Backbone(decoder(name), attn_implementation=kernel, bidirectional=True)
    both = load(spec, verbose=False).backbone
    assert not looks_ahead(causal.eval())
    assert looks_ahead(both.eval())
    assert not both.training
    ids = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    found = vectors(both, ids, mask)
    # The family's own attention under a mask that hides padding and nothing else; no longer than
    # Gemma's windows, which are still there.
    no_padding = torch.zeros(2, 1, 4, 4)
    no_padding[1, :, :, 3] = torch.finfo(torch.float32).min
    expected = vectors(causal, ids, no_padding, position_ids=torch.arange(4).expand(2, 4))
    real = mask.bool()
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=2e-5)
    torch.testing.assert_close(vectors(both, ids[:1], mask[:1]), found[:1], rtol=0, atol=2e-5)
    assert (vectors(causal, ids, mask)[real] - found[real]).abs().max() > 1e-2


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_classifier_that_sees_both_ways(pooling, tmp_path):
    backbone = Backbone(decoder("smollm"), bidirectional=True)
    clf = TransformerSequenceClassifier(backbone, pooling=pooling, **FIT).fit(TEXTS, LABELS)
    logits = clf.decision_function(MIXED)
    causal = TransformerSequenceClassifier(decoder("smollm"), pooling=pooling, **FIT)
    causal.fit(TEXTS, LABELS)
    assert np.abs(causal.decision_function(MIXED) - logits).max() > 1e-3
    alone = np.concatenate([clf.decision_function([text]) for text in MIXED])
    assert_allclose(alone, logits, rtol=0, atol=2e-5)
    assert_array_equal(pickle.loads(pickle.dumps(clf)).decision_function(MIXED), logits)
    clf.model_.save_pretrained(tmp_path / "model")
    clf.model_.backbone.save_pretrained(tmp_path / "backbone")
    clf.tokenizer_.save_pretrained(tmp_path / "backbone")
    loaded = SequenceModel.from_pretrained(tmp_path / "model").eval()
    for name in (tmp_path / "backbone", clf.model_.backbone):  # also without another word
        again = load(Backbone(name, tokenizer=clf.tokenizer_), verbose=False).backbone
        assert looks_ahead(again)
    with torch.no_grad():
        for text, expected in zip(MIXED[:-1], logits):
            found = loaded(**clf.tokenizer_(text, return_tensors="pt")).logits[0]
            assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_tagger_that_sees_both_ways_is_not_warned_of(recwarn):
    backbone = Backbone(decoder("llama"), bidirectional=True)
    for params in ({"backbone": backbone}, {"backbone": decoder("llama"), "self_attention": True}):
        TokenTagger(**params, **FIT).fit(SENTENCES, TAGS)
    assert not [w for w in recwarn if "causal" in str(w.message)]


def test_an_encoder_sees_both_ways_anyhow(tiny_backbone):
    plain, both = (
        load(Backbone(tiny_backbone, bidirectional=flag), verbose=False).backbone
        for flag in (False, True)
    )
    assert looks_ahead(plain)
    assert both.config.to_dict() == plain.config.to_dict()


@pytest.mark.parametrize("pooling", ["last", "auto"])
def test_the_last_token_needs_no_attention_both_ways(pooling):
    message = rf"pooling='{pooling}' and Backbone\(bidirectional=True\) contradict"
    backbone = Backbone(decoder("gpt2"), bidirectional=True)
    for estimator, X, y in (
        (TransformerSequenceClassifier(backbone, pooling=pooling, **FIT), TEXTS, LABELS),
        (PairClassifier(backbone, pooling=pooling, **FIT), PAIRS, LABELS),
        (MultiTaskSequenceEstimator(backbone, pooling=pooling, **FIT), TEXTS, TASKS),
    ):
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, y)
        assert not hasattr(estimator, "model_")


def test_bidirectional_contradicts_a_native_head():
    clf = TransformerSequenceClassifier(
        Backbone(decoder("gpt2"), bidirectional=True), head="native", **FIT
    )
    with pytest.raises(ValueError, match=r'bidirectional=True\) and head="native" contradict'):
        clf.fit(TEXTS, LABELS)


def test_a_family_that_keeps_its_mask_is_refused():
    config = OpenAIGPTConfig(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=20)
    model = AutoModel.from_config(config)
    spec = Backbone(model, tokenizer=decoder("gpt2"), bidirectional=True)
    with pytest.raises(ValueError, match=r"bidirectional=True\): OpenAIGPTModel .* not let its"):
        attend_both_ways(model)
    model = AutoModel.from_config(OpenAIGPTConfig(**{**config.to_dict(), "vocab_size": 500}))
    clf = TransformerSequenceClassifier(spec.set_params(name=model), pooling="mean", **FIT)
    with pytest.raises(ValueError, match=r"bidirectional=True\): OpenAIGPTModel"):
        clf.fit(TEXTS, LABELS)


# ------------------------------------------------------------- what is trained, and how


def trained(clf, backbone):
    """Names of the backbone's parameters that a fit changed."""
    before = load(Backbone(backbone), verbose=False).backbone.state_dict()
    after = clf.model_.backbone.named_parameters()
    return {name for name, weight in after if not torch.equal(weight, before[name])}


FINAL_NORMS = {"gpt2": "ln_f.", "opt": "decoder.final_layer_norm."}


@pytest.mark.parametrize("name", DECODERS)
def test_the_last_blocks_and_the_final_norm_alone(name):
    clf = TransformerSequenceClassifier(decoder(name), finetune=1, **FIT).fit(TEXTS, LABELS)
    top = ("h.1.", "layers.1.", "decoder.layers.1.", "decoder.project_out.")
    top += (FINAL_NORMS.get(name, "norm."),)
    inside = {n for n, _ in clf.model_.backbone.named_parameters() if n.startswith(top)}
    assert any(n.startswith(FINAL_NORMS.get(name, "norm.")) for n in inside)
    assert trained(clf, decoder(name)) <= inside
    assert len(inside) - len(trained(clf, decoder(name))) <= 2  # a bias of keys has no gradient
    assert clf.n_blocks_ == 2


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma3"])
def test_frozen_decoders_run_once(name):
    for finetune in ("head", 1):
        found = [
            TransformerSequenceClassifier(
                decoder(name), finetune=finetune, memory=memory, **{**FIT, "max_epochs": 2}
            )
            .fit(TEXTS, LABELS)
            .decision_function(MIXED)
            for memory in (None, Cache(max_ram_mb=0))
        ]
        assert_allclose(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma3"])
def test_adapters_in_decoders(name):
    clf = TransformerSequenceClassifier(decoder(name), finetune=LoRA(r=2), **FIT)
    clf.fit(TEXTS, LABELS)
    assert 0 < clf.n_trained_parameters_ < clf.n_parameters_ / 3
    logits = clf.decision_function(MIXED)
    alone = np.concatenate([clf.decision_function([text]) for text in MIXED])
    assert_allclose(alone, logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma3"])
def test_gradient_checkpointing_changes_nothing(name):
    found = [
        TransformerSequenceClassifier(Backbone(decoder(name), **options), **FIT)
        .fit(TEXTS, LABELS)
        .decision_function(MIXED)
        for options in ({}, {"gradient_checkpointing": True})
    ]
    assert_allclose(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("finetune", ["full", LoRA(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_half_precision(name, finetune):
    backbone = Backbone(decoder(name), dtype="bfloat16")
    clf = TransformerSequenceClassifier(backbone, finetune=finetune, **FIT).fit(TEXTS, LABELS)
    assert clf.model_.backbone.dtype == torch.bfloat16
    assert {p.dtype for p in clf.model_.parameters()} == {torch.bfloat16}
    proba = clf.predict_proba(MIXED)
    full = TransformerSequenceClassifier(decoder(name), finetune=finetune, **FIT)
    assert_allclose(proba, full.fit(TEXTS, LABELS).predict_proba(MIXED), rtol=0, atol=0.1)


# ----------------------------------------------------- long texts, and none at all


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_windows_over_texts_beyond_the_context(name):
    long = " ".join(TEXTS * 4)
    clf = TransformerSequenceClassifier(
        decoder(name), long_text=Windows(stride=10), max_length=40, **FIT
    )
    clf.fit([*TEXTS, long], [*LABELS, "sea"])
    encoder = clf._make_encoder(clf.model_, clf.tokenizer_, 40)
    windows = encoder.encode([long]).encoded.sequences
    assert len(windows) > 3
    with torch.no_grad():
        rows = [
            torch.from_numpy(windows.row(i).astype(np.int64))[None] for i in range(len(windows))
        ]
        last = [clf.model_.backbone(row).last_hidden_state[0, -1] for row in rows]
        expected = clf.model_.head.out(torch.stack(last).mean(dim=0)).numpy()
    assert_allclose(clf.decision_function([long])[0], expected, rtol=0, atol=2e-5)
    assert_allclose(clf.decision_function(["fish", long])[1], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_empty_texts(name):
    texts = ["", *TEXTS, "  "]
    clf = TransformerSequenceClassifier(decoder(name), **FIT).fit(texts, ["sea", *LABELS, "sea"])
    together = clf.predict_proba(["", "fish and bread", "   "])
    assert np.isfinite(together).all()
    assert_allclose(clf.predict_proba([""])[0], together[0], rtol=0, atol=1e-5)


# --------------------------------------------------------------- the encoder of T5


@functools.cache
def encoder_decoder(name):
    """Directory of a tiny T5, mT5, UMT5 or ByT5 with its decoder."""
    if name in ("t5", "mt5"):
        return language_model(name)
    config = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    tokenizer = ByT5Tokenizer() if name == "byt5" else language_tokenizer("t5")
    kind = T5Config if name == "byt5" else UMT5Config
    directory = Path(_folder().name) / name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(kind(vocab_size=len(tokenizer), **config))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


T5_LIKE = ("t5", "mt5", "umt5", "byt5")


def test_t5gemma_whose_decoder_is_narrower():
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"head_dim": 16, "intermediate_size": 64, "vocab_size": 120}
    halves = [T5GemmaModuleConfig(hidden_size=size, **sizes) for size in (48, 32)]
    whole = AutoModelForSeq2SeqLM.from_config(
        T5GemmaConfig(encoder=halves[0], decoder=halves[1], vocab_size=120)
    )
    backbone = Backbone(whole, tokenizer=language_tokenizer("t5"))
    clf = TransformerSequenceClassifier(backbone, **FIT).fit(TEXTS, LABELS)
    assert clf.model_.head.out.in_features == 48
    assert clf.predict_proba(TEXTS[:3]).shape == (3, len(clf.classes_))


@pytest.mark.parametrize("name", T5_LIKE)
def test_the_encoder_alone_is_the_backbone(name, capsys):
    whole = AutoModelForSeq2SeqLM.from_pretrained(encoder_decoder(name)).eval()
    theirs = AutoModelForTextEncoding.from_pretrained(encoder_decoder(name)).eval()
    tokenizer = load(Backbone(encoder_decoder(name)), verbose=True).tokenizer
    assert "its decoder is left out" in capsys.readouterr().out
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    mask = torch.ones_like(ids)
    expected = vectors(theirs, ids, mask)
    torch.testing.assert_close(vectors(whole.get_encoder(), ids, mask), expected)
    for given in (encoder_decoder(name), whole, whole.base_model, theirs):
        loaded = load(Backbone(given, tokenizer=tokenizer), verbose=False)
        assert type(loaded.backbone) is type(theirs)
        assert loaded.pooling == "mean"
        torch.testing.assert_close(vectors(loaded.backbone.eval(), ids, mask), expected)
        before = [p.data_ptr() for p in whole.parameters()]
        assert not {p.data_ptr() for p in loaded.backbone.parameters()} & set(before)
    fresh = load(Backbone(whole, tokenizer=tokenizer, pretrained=False), verbose=False).backbone
    assert (vectors(fresh.eval(), ids, mask) - expected).abs().max() > 1e-2
    assert whole.config.is_encoder_decoder  # what the user gave is as it was


@pytest.mark.parametrize("name", T5_LIKE)
def test_all_estimators_take_the_encoder(name, tmp_path):
    backbone = encoder_decoder(name)
    clf = TransformerSequenceClassifier(backbone, **FIT).fit(TEXTS, LABELS)
    logits = clf.decision_function(MIXED)
    alone = np.concatenate([clf.decision_function([text]) for text in MIXED])
    assert_allclose(alone, logits, rtol=0, atol=2e-5)
    with torch.no_grad():
        texts = padded(clf.tokenizer_, "left", MIXED)
        assert_allclose(clf.model_(**texts).logits, logits, rtol=0, atol=2e-5)
    assert_array_equal(pickle.loads(pickle.dumps(clf)).decision_function(MIXED), logits)
    clf.model_.save_pretrained(tmp_path)
    model = SequenceModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_allclose(model(**texts).logits, logits, rtol=0, atol=2e-5)
    assert clf.summary().dropped_head.n_tokens == clf.model_.backbone.config.vocab_size
    found = [
        TransformerSequenceRegressor(backbone, **FIT).fit(TEXTS, NUMBERS).predict(MIXED),
        PairClassifier(backbone, **FIT).fit(PAIRS, LABELS).predict_proba(PAIRS),
        PairRegressor(backbone, interaction="all", **FIT).fit(PAIRS, NUMBERS).predict(PAIRS),
        TokenTagger(backbone, **FIT).fit(SENTENCES, TAGS).predict_proba(SENTENCES[:1])[0],
        MultiTaskSequenceEstimator(backbone, **FIT)
        .fit(TEXTS, TASKS)
        .predict(MIXED)[:, 1]
        .astype(float),
    ]
    assert all(np.isfinite(part).all() for part in found)


@pytest.mark.parametrize(
    "finetune",
    ["full", "head", 1, GradualUnfreezing(), LoRA(r=2)],
    ids=["full", "head", "top", "gradual", "lora"],
)
def test_strategies_of_the_encoder(finetune):
    def fit(memory=None, **options):
        clf = TransformerSequenceClassifier(
            Backbone(encoder_decoder("t5"), **options),
            finetune=finetune,
            memory=memory,
            **{**FIT, "max_epochs": 4},
        )
        return clf.fit(TEXTS, LABELS)

    clf = fit()
    logits = clf.decision_function(MIXED)
    changed = set() if isinstance(finetune, LoRA) else trained(clf, encoder_decoder("t5"))
    if finetune == "head":
        assert changed == set()
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    if finetune == 1:  # the bias of all blocks lies in the first one
        assert all(n.startswith(("encoder.block.1", "encoder.final")) for n in changed)
    if finetune == "full":
        assert {bias, "shared.weight"} <= changed
    for other in (fit(Cache(max_ram_mb=0)), fit(gradient_checkpointing=True)):
        assert_allclose(other.decision_function(MIXED), logits, rtol=0, atol=2e-5)


def test_one_table_of_the_encoder_is_compacted(capsys):
    found = []
    model = AutoModelForSeq2SeqLM.from_pretrained(encoder_decoder("t5"))
    model.resize_token_embeddings(5000)  # smaller tables are not worth it
    for compact in (True, False):
        backbone = Backbone(model, tokenizer=encoder_decoder("t5"), compact_vocabulary=compact)
        clf = TransformerSequenceClassifier(backbone, verbose=1, **{**FIT, "max_epochs": 2})
        found.append(clf.fit(TEXTS, LABELS).model_.backbone.state_dict())
        said = capsys.readouterr().out
        assert ("of 5000 tokens of the vocabulary are trained" in said) == compact
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], rtol=0, atol=1e-6)


def test_the_encoder_in_half_precision():
    backbone = Backbone(encoder_decoder("mt5"), dtype="bfloat16")
    clf = TransformerSequenceClassifier(backbone, **FIT).fit(TEXTS, LABELS)
    full = TransformerSequenceClassifier(encoder_decoder("mt5"), **FIT).fit(TEXTS, LABELS)
    found = clf.predict_proba(MIXED)
    assert_allclose(found, full.predict_proba(MIXED), rtol=0, atol=0.1)


@pytest.mark.parametrize("kind", ["files", "loaded"])
def test_other_encoder_decoders_are_refused(kind, tmp_path):
    given = language_model("bart")
    message = f"'{given}' is an encoder-decoder model, .* 'bart' alone.* Text2TextClassifier and"
    if kind == "loaded":
        given = Backbone(AutoModel.from_pretrained(given), tokenizer=given)
        message = "the loaded BartModel is an encoder-decoder model, .*Text2TextGenerator"
    for estimator, X, y in (
        (TransformerSequenceClassifier(given, **FIT), TEXTS, LABELS),
        (PairRegressor(given, **FIT), PAIRS, NUMBERS),
        (TokenTagger(given, **FIT), SENTENCES, TAGS),
    ):
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, y)
        assert not hasattr(estimator, "model_")


@pytest.mark.parametrize("given", ["t5", "encoder"])
def test_native_heads_of_encoder_decoders_are_refused(given):
    backbone = encoder_decoder("t5")
    if given == "encoder":
        backbone = Backbone(T5EncoderModel.from_pretrained(backbone), tokenizer=backbone)
    clf = TransformerSequenceClassifier(backbone, head="native", **FIT)
    with pytest.raises(ValueError, match="family 't5', which has no head"):
        clf.fit(TEXTS, LABELS)


# ------------------------------------------------------------- larger than one device

ON_DISK = {
    "last block": {"wte": "cpu", "wpe": "cpu", "h.0": "cpu", "h.1": "disk", "ln_f": "cpu"},
    "first block": {"wte": "disk", "wpe": "disk", "h.0": "disk", "h.1": "cpu", "ln_f": "cpu"},
    "all": {"": "disk"},
}
ANYWHERE = {**FIT, "device": "auto"}


@pytest.fixture
def on_cpu(monkeypatch):
    """Whatever this machine has, the device is its CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def estimators(backbone, pooling="auto", **params):
    """Fitted ones, each with numbers that it predicts."""
    clf = TransformerSequenceClassifier(backbone, pooling=pooling, **params).fit(TEXTS, LABELS)
    yield clf, clf.decision_function(MIXED)
    tagger = TokenTagger(backbone, subword="mean", **params).fit(SENTENCES, TAGS)
    yield tagger, np.concatenate(tagger.predict_proba(SENTENCES))
    pairs = PairClassifier(backbone, interaction="all", pooling=pooling, **params)
    yield pairs.fit(PAIRS, LABELS), pairs.decision_function(PAIRS)


@pytest.mark.parametrize("where", ON_DISK)
def test_what_lies_on_disk_predicts_the_same(where, on_cpu):
    spread, together = (
        Backbone(decoder("gpt2"), device_map=places, bidirectional=True)
        for places in (ON_DISK[where], None)
    )
    params = {**ANYWHERE, "finetune": "head", "pooling": "mean"}
    for (one, found), (_, expected) in zip(
        estimators(spread, **params), estimators(together, **params)
    ):
        assert any(p.is_meta for p in one.model_.parameters())
        assert one.model_.device.type == "cpu"
        assert_allclose(found, expected, rtol=0, atol=1e-6)
        if where != "last block":  # the others are the same to the others
            break


def test_states_of_training_tell_backbones_on_disk_apart(on_cpu, tmp_path):
    one = decoder("llama")
    other = shutil.copytree(one, tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
    model.save_pretrained(other)
    shutil.copy(Path(one) / "config.json", other)
    for name in (one, str(other), one):
        TransformerSequenceClassifier(
            Backbone(name, device_map={"": "disk"}),
            **{**ANYWHERE, "head_init": "random", "finetune": "head"},
            checkpoint=tmp_path / "states",
        ).fit(TEXTS, LABELS)
    assert len(list((tmp_path / "states").rglob("step-*"))) == 2


def test_the_last_token_of_a_block_on_disk(on_cpu):
    found = [
        TransformerSequenceClassifier(
            Backbone(decoder("llama"), device_map=places), finetune="head", **ANYWHERE
        )
        .fit(TEXTS, LABELS)
        .decision_function(MIXED)
        for places in ({"": "disk"}, None)
    ]
    assert_allclose(*found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("places", [{"": "disk"}, {"shared": "cpu", "encoder": "disk"}])
def test_the_encoder_of_t5_on_disk(places, on_cpu):
    found = [
        TransformerSequenceClassifier(
            Backbone(encoder_decoder("t5"), device_map=each), finetune="head", **ANYWHERE
        )
        .fit(TEXTS, LABELS)
        .decision_function(MIXED)
        for each in (places, None)
    ]
    assert_allclose(*found, rtol=0, atol=1e-6)


def test_early_stopping_and_a_folder_with_parts_on_disk(on_cpu, tmp_path, capsys):
    backbone = Backbone(decoder("gpt2"), device_map=ON_DISK["last block"])
    clf = TransformerSequenceClassifier(
        backbone,
        finetune="head",
        early_stopping=True,
        validation_fraction=0.25,
        memory=tmp_path,
        verbose=1,
        **{**ANYWHERE, "max_epochs": 3},
    )
    proba = clf.fit(TEXTS, LABELS).predict_proba(MIXED)
    assert_allclose(proba.sum(axis=1), 1)
    said = capsys.readouterr().out
    assert "not kept" in said
    assert not list(tmp_path.rglob("*.safetensors"))
    clf.set_params(memory=None, verbose=0)
    assert_array_equal(clf.fit(TEXTS, LABELS).predict_proba(MIXED), proba)


@pytest.mark.parametrize("places", [{"": "cpu"}, "auto", "balanced"], ids=["dict", "auto", "even"])
def test_all_on_one_device_is_as_without_a_map(places, on_cpu):
    plain, mapped = (
        TransformerSequenceClassifier(
            Backbone(decoder("llama"), device_map=each, attn_implementation="eager"), **ANYWHERE
        )
        for each in (None, places)
    )
    expected = plain.fit(TEXTS, LABELS).decision_function(MIXED)
    assert_array_equal(mapped.fit(TEXTS, LABELS).decision_function(MIXED), expected)
    copied = pickle.loads(pickle.dumps(mapped))
    assert_array_equal(copied.decision_function(MIXED), expected)
    assert_array_equal(
        copied.set_params(warm_start=True).fit(TEXTS, LABELS).decision_function(MIXED),
        plain.set_params(warm_start=True).fit(TEXTS, LABELS).decision_function(MIXED),
    )


@pytest.fixture
def hooked(monkeypatch, on_cpu):
    """What is loaded with a map has accelerate's hooks, as on several devices, but is on one."""
    read = loading._load_model

    def load_model(source, spec, *args):
        model, fresh = read(source, spec, *args)
        if spec.device_map is not None:
            dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)
        return model, fresh

    monkeypatch.setattr(loading, "_load_model", load_model)


@pytest.mark.parametrize(
    ("name", "finetune"),
    [
        ("gpt2", "head"),
        ("gpt2", 1),
        ("gpt2", GradualUnfreezing()),
        ("gpt2", LoRA(r=2)),
        ("gpt2", BitFit()),
        ("gemma3", "full"),
    ],
    ids=["head", "top", "gradual", "lora", "bitfit", "full"],
)
def test_training_through_hooks(name, finetune, hooked):
    several = [{}, {"device_map": "auto"}]
    if finetune == "full":
        several.append({"device_map": "auto", "gradient_checkpointing": True})
    plain, *mapped = (
        TransformerSequenceClassifier(
            Backbone(decoder(name), **options), finetune=finetune, **{**ANYWHERE, "max_epochs": 3}
        ).fit(TEXTS, LABELS)
        for options in several
    )
    for clf in mapped:
        assert is_dispatched(clf.model_.backbone)
        expected = plain.decision_function(MIXED)
        assert_allclose(clf.decision_function(MIXED), expected, rtol=0, atol=1e-5)


def test_what_would_copy_a_spread_backbone_is_refused(hooked, tmp_path):
    clf = TransformerSequenceClassifier(Backbone(decoder("gpt2"), device_map="auto"), **ANYWHERE)
    clf.fit(TEXTS, LABELS)
    before = clf.decision_function(MIXED)
    refused = {
        "A pickle": pickle.dumps,
        "A pickle ": copy.deepcopy,
        r"accelerate\(\)": lambda clf: clf.accelerate("onnx"),
        r"export_onnx\(\)": lambda clf: clf.export_onnx(tmp_path / "onnx"),
        "To go on with training": lambda clf: clf.partial_fit(TEXTS, LABELS),
        "To go on with training ": lambda clf: clf.set_params(warm_start=True).fit(TEXTS, LABELS),
        "A copy of the loaded GPT2Model": lambda clf: load(
            Backbone(clf.model_.backbone, tokenizer=clf.tokenizer_), verbose=False
        ),
    }
    for what, act in refused.items():
        with pytest.raises(ValueError, match=rf"^{what.strip()} .*device_map="):
            act(clf)
    assert_array_equal(clf.decision_function(MIXED), before)
    clf.model_.save_pretrained(tmp_path / "model")
    model = SequenceModel.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        found = model(**padded(clf.tokenizer_, "left", MIXED)).logits
    assert_allclose(found, before, rtol=0, atol=2e-5)
    assert clone(clf).get_params()["backbone__device_map"] == "auto"


def test_what_a_device_map_does_not_go_with(monkeypatch):
    name, places = decoder("gpt2"), {"": "cpu"}
    model = AutoModel.from_pretrained(name)
    cases = [
        (r"device='cpu' and Backbone\(device_map=", Backbone(name), {"device": "cpu"}),
        ("and a loaded model contradict", Backbone(model, tokenizer=name), {}),
        (r"and Backbone\(pretrained=False\) contradict", Backbone(name, pretrained=False), {}),
        (r"and Backbone\(compile=True\) contradict", Backbone(name, compile=True), {}),
        ('and head="native" contradict', Backbone(name), {"head": "native"}),
    ]
    for message, backbone, params in cases:
        backbone.set_params(device_map=places)
        clf = TransformerSequenceClassifier(backbone, **{**ANYWHERE, **params})
        with pytest.raises(ValueError, match=message):
            clf.fit(TEXTS, LABELS)
    backbone = Backbone(name, device_map=ON_DISK["last block"])
    for finetune in ("full", 1, LoRA()):
        clf = TransformerSequenceClassifier(backbone, finetune=finetune, **ANYWHERE)
        with pytest.raises(ValueError, match=r"^finetune=.* and Backbone\(device_map=.*\"head\""):
            clf.fit(TEXTS, LABELS)
    clf = TransformerSequenceClassifier(Backbone(name, device_map="nowhere"), **ANYWHERE)
    with pytest.raises(ValueError, match="nowhere"):
        clf.fit(TEXTS, LABELS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    clf = TransformerSequenceClassifier(Backbone(name, device_map=places), **ANYWHERE)
    with pytest.raises(ImportError, match=r"accelerate: pip install sktransformers\[devices\]"):
        clf.fit(TEXTS, LABELS)


@pytest.mark.parametrize("option", [{"bidirectional": True}, {"device_map": "auto"}])
def test_options_that_do_not_go_with_models_that_answer_in_text(option):
    message = rf"Backbone\({next(iter(option))}=.* models that answer in text"
    for kind in ("t5", "gpt2"):
        spec = loading.as_backbone(Backbone(language_model(kind), **option))
        with pytest.raises(ValueError, match=message):
            loading.load_language(spec, verbose=False)
