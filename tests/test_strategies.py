"""What each strategy trains, in every family of backbones, and what it leaves alone."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from conftest import make_texts, save_backbone, save_tiny_bert
from families import FAMILIES
from sklearn.base import clone
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, XLMConfig

from sktransformers import (
    CRF,
    AdamW,
    BitFit,
    GradualUnfreezing,
    LoRA,
    MLPHead,
    PairClassifier,
    TokenTagger,
    TransformerSequenceClassifier,
)
from sktransformers.modules.backbone import parts
from sktransformers.training.loading import as_backbone, load
from sktransformers.training.strategies import fold_adapters, lora_layers

pytest.importorskip("peft")

TEXTS, LABELS = make_texts(12)
ABOVE = {
    "modernbert": {"final_norm.weight"},
    "gpt2": {"ln_f.weight", "ln_f.bias"},
    "llama": {"norm.weight"},
    "qwen3": {"norm.weight"},
}
N_BLOCKS = dict.fromkeys(FAMILIES, 2) | {"albert": 1}  # ALBERT's layers share their weights
WITHOUT_BIASES = {"modernbert", "llama", "qwen3"}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A function from the name of a family to the directory of a tiny backbone."""
    made = {}

    def directory(name):
        if name not in made:
            family = FAMILIES[name]
            tokenizer = family.tokenizer()
            config = family.config(len(tokenizer))
            made[name] = save_backbone(tmp_path_factory.mktemp(name), config, tokenizer)
        return made[name]

    return directory


def fit(backbone, **params):
    """A classifier, trained for one epoch of two steps without weight decay."""
    defaults = {
        "lr": 1e-2,
        "max_epochs": 1,
        "batch_size": 6,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0,
        "head_init": "random",
        "device": "cpu",
        "random_state": 0,
    }
    clf = TransformerSequenceClassifier(backbone, **{**defaults, **params})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # texts that are cut
        return clf.fit(TEXTS, LABELS)


def changed(before, after):
    """Names of the parameters of the backbone that training moved."""
    before = dict(before.named_parameters())
    return {
        name for name, p in after.named_parameters() if name in before and (p != before[name]).any()
    }


def used(backbone):
    """Names of the parameters that a step can move: those that get a gradient."""
    ids = torch.arange(2, 6).unsqueeze(0)
    model = copy.deepcopy(backbone).train()
    model(input_ids=ids).last_hidden_state.pow(2).sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is not None}


def pretrained(directory):
    return load(as_backbone(directory), verbose=False).backbone


def names_in(backbone, modules):
    inside = {id(p) for module in modules for p in module.parameters()}
    return {name for name, p in backbone.named_parameters() if id(p) in inside}


# ------------------------------------------------------------------ parts


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_a_family(directories, name):
    backbone = pretrained(directories(name))
    found = parts(backbone)
    assert len(found.blocks) == N_BLOCKS[name]
    assert set(found.above) == ABOVE.get(name, set())
    assert id(backbone.get_input_embeddings().weight) in {id(p) for p in found.below.values()}
    each = [*found.below.values(), *found.above.values()]
    each += [p for block in found.blocks for p in block.parameters()]
    assert len({id(p) for p in each}) == len(each) == len(list(backbone.parameters()))


def test_layers_that_are_no_blocks_are_refused(tmp_path):
    backbone = AutoModel.from_config(XLMConfig(vocab_size=50, emb_dim=16, n_layers=2, n_heads=2))
    with pytest.raises(ValueError, match=r"XLMModel are no list of blocks"):
        parts(backbone)


def test_a_backbone_without_blocks_is_refused():
    class Flat(nn.Module):
        config = PreTrainedConfig()

        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 4)

    with pytest.raises(ValueError, match="No list of blocks was found in the backbone Flat"):
        parts(Flat())


# ------------------------------------------------- what changes in training


@pytest.mark.parametrize("name", FAMILIES)
def test_full_moves_everything_that_is_used(directories, name):
    before = pretrained(directories(name))
    clf = fit(directories(name))
    assert changed(before, clf.model_.backbone) == used(before)


@pytest.mark.parametrize("name", FAMILIES)
def test_head_leaves_the_backbone_alone(directories, name):
    before = pretrained(directories(name))
    clf = fit(directories(name), finetune="head")
    assert changed(before, clf.model_.backbone) == set()
    assert (clf.model_.head.out.bias != 0).all()
    width = clf.model_.head.out.in_features
    assert clf.n_trained_parameters_ == width * 3 + 3


@pytest.mark.parametrize("name", FAMILIES)
def test_top_blocks_and_what_is_above_them_move(directories, name):
    before = pretrained(directories(name))
    found = parts(before)
    clf = fit(directories(name), finetune=1)
    allowed = names_in(before, found.blocks[-1:]) | set(found.above)
    assert changed(before, clf.model_.backbone) == allowed & used(before)


@pytest.mark.parametrize("name", FAMILIES)
def test_bitfit_moves_biases_alone(directories, name):
    before = pretrained(directories(name))
    biases = {key for key, _ in before.named_parameters() if key.endswith("bias")}
    if name in WITHOUT_BIASES:
        assert not biases
        with pytest.raises(
            ValueError, match=r"finetune=BitFit\(\) trains biases, but the backbone"
        ):
            fit(directories(name), finetune=BitFit())
        return
    clf = fit(directories(name), finetune=BitFit())
    assert changed(before, clf.model_.backbone) == biases & used(before)


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_trains_adapters_of_every_family(directories, name):
    before = pretrained(directories(name))
    clf = fit(directories(name), finetune=LoRA(r=2, alpha=4))
    backbone = clf.model_.backbone
    layers = lora_layers(backbone)
    linear = [
        key
        for block in parts(before).blocks
        for key, module in block.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]
    assert len(layers) == len(linear) > 0
    rank_sizes = 0
    for key, layer in layers.items():
        assert layer.merged
        weight = before.get_submodule(key).weight
        rank_sizes += 2 * sum(weight.shape)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        delta = (4 / 2) * b @ a
        if type(before.get_submodule(key)).__name__ == "Conv1D":
            delta = delta.T
        # Merged for prediction; the adapter's own weights still say what was added.
        torch.testing.assert_close(
            layer.get_base_layer().weight, weight + delta, atol=1e-5, rtol=1e-4
        )
    moved = [key for key, layer in layers.items() if layer.lora_B["default"].weight.any()]
    assert len(moved) >= len(layers) - 2  # a family may compute what nothing reads
    assert clf.n_trained_parameters_ == rank_sizes + clf.model_.head.out.in_features * 3 + 3
    others = {
        key: p
        for key, p in backbone.named_parameters()
        if "lora_" not in key and "base_layer" not in key
    }
    old = dict(before.named_parameters())
    assert all(torch.equal(p, old[key]) for key, p in others.items())


def test_gradual_unfreezing_goes_from_the_top_down(directories):
    before = pretrained(directories("gpt2"))
    found = parts(before)
    seen = []
    for epochs in range(1, 6):
        clf = fit(directories("gpt2"), finetune=GradualUnfreezing(), max_epochs=epochs)
        seen.append(changed(before, clf.model_.backbone))
    top = names_in(before, found.blocks[1:]) | set(found.above)
    blocks = names_in(before, found.blocks) | set(found.above)
    everything = blocks | set(found.below)
    assert seen == [set(), top, blocks, everything, everything]


def test_gradual_unfreezing_waits_as_long_as_it_is_told(directories):
    before = pretrained(directories("bert"))
    clf = fit(directories("bert"), finetune=GradualUnfreezing(epochs_per_block=2), max_epochs=3)
    moved = changed(before, clf.model_.backbone)
    assert moved == names_in(before, parts(before).blocks[1:])


def test_a_part_that_thaws_gets_no_step_before(directories):
    """Its first step is that of a fresh optimizer: Adam moves every weight by the rate."""
    before = pretrained(directories("bert"))
    clf = fit(
        directories("bert"),
        finetune=GradualUnfreezing(),
        max_epochs=2,
        batch_size=12,
        optimizer=AdamW(max_grad_norm=None, eps=1e-12),
        lr=1e-3,
    )
    name = "encoder.layer.1.output.dense.weight"
    moved = clf.model_.backbone.get_parameter(name) - before.get_parameter(name)
    assert torch.quantile(moved.detach().abs(), 0.5) == pytest.approx(1e-3, rel=1e-2)


# ------------------------------------------------------------- modes, flags


@pytest.mark.parametrize(
    "finetune, expected",
    [
        ("full", {"embeddings", "encoder.layer.0", "encoder.layer.1"}),
        ("head", set()),
        (1, {"encoder.layer.1"}),
        (LoRA(r=2), {"encoder.layer.0", "encoder.layer.1"}),
        (BitFit(), {"embeddings", "encoder.layer.0", "encoder.layer.1"}),
        (GradualUnfreezing(), set()),
    ],
)
def test_what_is_frozen_computes_without_dropout(tiny_backbone, monkeypatch, finetune, expected):
    from sktransformers.training.net import FineTuningNet

    seen = []
    original = FineTuningNet._run

    def run(net, *args, **kwargs):
        backbone = net.module_.backbone
        seen.append(
            {
                name
                for name in ("embeddings", "encoder.layer.0", "encoder.layer.1")
                if all(
                    m.training
                    for m in backbone.get_submodule(name).modules()
                    if isinstance(m, nn.Dropout)
                )
            }
        )
        assert net.module_.head.training
        return original(net, *args, **kwargs)

    monkeypatch.setattr(FineTuningNet, "_run", run)
    fit(tiny_backbone, finetune=finetune)
    assert seen and all(modes == expected for modes in seen)


@pytest.mark.parametrize(
    "finetune", ["full", "head", 1, GradualUnfreezing(), LoRA(r=2), BitFit()], ids=str
)
def test_flags_are_given_back(tiny_backbone, finetune):
    before = pretrained(tiny_backbone)
    clf = fit(tiny_backbone, finetune=finetune)
    flags = {
        name.replace(".base_layer", ""): p.requires_grad
        for name, p in clf.model_.backbone.named_parameters()
        if "lora_" not in name
    }
    assert flags == {name: p.requires_grad for name, p in before.named_parameters()}
    assert not clf.model_.training


def test_frozen_parameters_get_no_gradient_and_no_optimizer_state(tiny_backbone):
    clf = fit(tiny_backbone, finetune="head")
    in_optimizer = {id(p) for group in clf.net_.optimizer_.param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for p in clf.model_.head.parameters()}


# -------------------------------------------------------- adapters, merged


def test_merged_adapters_predict_what_unmerged_ones_do(tiny_backbone):
    clf = fit(tiny_backbone, finetune=LoRA(), max_epochs=3)
    merged = clf.predict_proba(TEXTS)
    for layer in lora_layers(clf.model_.backbone).values():
        layer.unmerge()
    np.testing.assert_allclose(clf.predict_proba(TEXTS), merged, atol=1e-6)


def test_folded_adapters_leave_a_plain_backbone(tiny_backbone):
    clf = fit(tiny_backbone, finetune=LoRA(), max_epochs=3)
    expected = clf.predict_proba(TEXTS)
    names = [name for name, _ in pretrained(tiny_backbone).named_parameters()]
    fold_adapters(clf.model_.backbone)
    assert [name for name, _ in clf.model_.backbone.named_parameters()] == names
    np.testing.assert_allclose(clf.predict_proba(TEXTS), expected, atol=1e-7)


def test_adapters_survive_pickle_and_clone(tiny_backbone):
    clf = fit(tiny_backbone, finetune=LoRA(r=3))
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    assert clone(clf).get_params()["finetune__r"] == 3


def test_target_modules_by_the_end_of_their_name(tiny_backbone):
    clf = fit(tiny_backbone, finetune=LoRA(target_modules=["query", "attention.self.value"]))
    ends = {name.rpartition(".")[2] for name in lora_layers(clf.model_.backbone)}
    assert ends == {"query", "value"}
    assert len(lora_layers(clf.model_.backbone)) == 4


def test_a_second_fit_goes_on_with_the_same_adapters(tiny_backbone):
    clf = fit(tiny_backbone, finetune=LoRA(r=2), warm_start=True)
    first = {k: v.clone() for k, v in clf.model_.state_dict().items() if "lora_B" in k}
    clf.fit(TEXTS, LABELS)
    second = clf.model_.state_dict()
    assert set(first) == {k for k in second if "lora_B" in k}
    assert all((second[k] != first[k]).any() for k in first)


@pytest.mark.parametrize("finetune", ["full", "head", 1, LoRA(r=4)], ids=str)
def test_a_second_fit_with_another_strategy_starts_from_the_merged_weights(tiny_backbone, finetune):
    clf = fit(tiny_backbone, finetune=LoRA(r=2), warm_start=True)
    expected = clf.predict_proba(TEXTS)
    clf.set_params(finetune=finetune, lr=1e-9).fit(TEXTS, LABELS)
    np.testing.assert_allclose(clf.predict_proba(TEXTS), expected, atol=1e-4)
    assert {layer.r["default"] for layer in lora_layers(clf.model_.backbone).values()} <= {4, 2}
    if isinstance(finetune, LoRA):
        assert {layer.r["default"] for layer in lora_layers(clf.model_.backbone).values()} == {4}


def test_after_adapters_a_full_fit_trains_all(tiny_backbone):
    clf = fit(tiny_backbone, finetune=LoRA(r=2), warm_start=True)
    clf.set_params(finetune="full").fit(TEXTS, LABELS)
    width = 32 * 3 + 3
    assert clf.n_trained_parameters_ == clf.n_parameters_
    assert (
        clf.n_parameters_ == sum(p.numel() for p in pretrained(tiny_backbone).parameters()) + width
    )


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize(
    "finetune, params",
    [
        ("head", {"lr": 1e-2}),
        (1, {"lr": 3e-3}),
        (GradualUnfreezing(), {"lr": 3e-3}),
        (LoRA(), {"lr": 1e-2}),
        (BitFit(), {"lr": 3e-2}),
    ],
    ids=str,
)
def test_every_strategy_learns(tiny_backbone, finetune, params):
    X, y = make_texts(90, seed=1)
    clf = TransformerSequenceClassifier(
        tiny_backbone,
        finetune=finetune,
        max_epochs=8,
        batch_size=8,
        device="cpu",
        random_state=0,
        **params,
    )
    clf.fit(X[:60], y[:60])
    assert clf.score(X[:60], y[:60]) >= 0.5  # of three classes; the backbone is random
    assert clf.history_[-1]["train_loss"] < 0.95 * clf.history_[0]["train_loss"]


def test_strategies_of_the_other_tasks(tiny_backbone):
    sentences = [text.split() for text in TEXTS]
    tags = [["O"] * (len(words) - 1) + ["B-X"] for words in sentences]
    params = {
        "backbone": tiny_backbone,
        "max_epochs": 1,
        "batch_size": 6,
        "device": "cpu",
        "random_state": 0,
        "finetune": LoRA(r=2),
    }
    tagger = TokenTagger(head=CRF(), **params).fit(sentences, tags)
    assert [len(row) for row in tagger.predict(sentences)] == [len(row) for row in sentences]
    pairs = list(zip(TEXTS, reversed(TEXTS)))
    clf = PairClassifier(interaction="all", **params).fit(pairs, LABELS)
    assert len(lora_layers(clf.model_.backbone)) == len(lora_layers(tagger.model_.backbone)) > 0
    assert clf.predict(pairs).shape == (12,)


# ----------------------------------------------------------------- summary


def test_summary_of_a_linear_head(tiny_backbone):
    summary = fit(tiny_backbone, finetune=1).summary()
    names = [part.name for part in summary.parts]
    assert names == ["embeddings", "block 1", "block 2", "head"]
    by_name = {part.name: part for part in summary.parts}
    assert by_name["head"].n_parameters == 32 * 3 + 3
    assert by_name["embeddings"].n_trained == by_name["block 1"].n_trained == 0
    assert by_name["block 2"].n_trained == by_name["block 2"].n_parameters
    assert summary.n_blocks == 2


def test_summary_of_a_deeper_head(tiny_backbone):
    clf = fit(tiny_backbone, head=MLPHead(hidden_sizes=(20, 10)), finetune="head")
    assert clf.summary().n_trained == 32 * 20 + 20 + 20 * 10 + 10 + 10 * 3 + 3


def test_summary_reads_as_a_table(tiny_backbone):
    clf = fit(tiny_backbone, finetune="head")
    lines = str(clf.summary()).splitlines()
    assert lines[0].split() == ["part", "parameters", "trained"]
    assert lines[-1].split() == ["total", f"{clf.n_parameters_:,}", "99"]
    assert "<td>99</td>" in clf.summary()._repr_html_()
    assert clf.n_blocks_ == 2


def test_summary_wants_a_fitted_estimator(tiny_backbone):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        TransformerSequenceClassifier(tiny_backbone).summary()


# --------------------------------------------------------------- bad input


def test_more_blocks_than_there_are(tiny_backbone):
    with pytest.raises(ValueError, match=r"finetune=3 asks for more than the 2 blocks"):
        fit(tiny_backbone, finetune=3)


@pytest.mark.parametrize("finetune", ["top", 0, -1, 1.5, None, True])
def test_what_is_no_strategy(tiny_backbone, finetune):
    with pytest.raises(ValueError, match="'finetune' parameter"):
        fit(tiny_backbone, finetune=finetune)


@pytest.mark.parametrize(
    "lora, match",
    [
        (LoRA(r=0), "'r' parameter of LoRA"),
        (LoRA(alpha=0), "'alpha' parameter of LoRA"),
        (LoRA(dropout=1.0), "'dropout' parameter of LoRA"),
        (LoRA(target_modules="all"), "'target_modules' parameter of LoRA"),
        (LoRA(target_modules=["query", "quarry"]), "names 'quarry', but no linear layer"),
    ],
)
def test_bad_options_of_lora(tiny_backbone, lora, match):
    with pytest.raises(ValueError, match=match):
        fit(tiny_backbone, finetune=lora)


def test_lora_without_peft(tiny_backbone, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install sktransformers\[peft\]"):
        fit(tiny_backbone, finetune=LoRA())


def test_a_users_model_keeps_its_own_flags(tmp_path):
    directory = save_tiny_bert(tmp_path / "bert")
    model = AutoModel.from_pretrained(directory)
    for p in model.embeddings.parameters():
        p.requires_grad = False
    before = copy.deepcopy(model.state_dict())
    clf = fit(model, finetune="full")
    assert AutoConfig.from_pretrained(directory).num_hidden_layers == clf.n_blocks_
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    moved = changed(model, clf.model_.backbone)
    assert moved and not any(name.startswith("embeddings") for name in moved)
