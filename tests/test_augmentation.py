"""Augmenters alone, in pipelines, and in the training of every estimator."""

import copy
import pickle
import sys
import types
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NO_DROPOUT, make_tokenizer, save_tiny_bert
from families import FAMILIES
from hypothesis import given, strategies as st
from sklearn.base import BaseEstimator, clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback
from tokenizers import decoders
from tokenizers.models import BPE, Unigram
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
)

from sktransformers import (
    Backbone,
    BackTranslation,
    MaskedReplacement,
    PairClassifier,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
    TokenTagger,
    TransformerSequenceClassifier,
)
from sktransformers.inputs import augmentation as edits
from sktransformers.inputs.encoding import TextEncoder, private_tokenizer
from sktransformers.inputs.synonyms import neighbour_source, whole_words
from sktransformers.training import loading

SYNONYMS = {"bread": ["toast", "loaf"], "boat": "ship", "tram": ("metrô",), "o": {"a", "um"}}
TEXTS = [
    "Um filme longo, mas muito bonito.",
    "",
    "我喜欢，这部电影。",
    "...!?",
    " \t\n",
    "film",
    "A  tab\tand (some) “quotes”… e\u0301te\u0301 caf\u00e9!\n",
    "http://x.com/abc don't stop — guarda-chuva 👩\u200d👩\u200d👧 3.5",
]


# ------------------------------------------------------------------------ fixtures


@pytest.fixture(scope="module")
def tiny_mlm(tmp_path_factory):
    """Directory of a tiny masked language model with random weights."""
    directory = tmp_path_factory.mktemp("tiny-mlm")
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForMaskedLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def tiny_translators(tmp_path_factory):
    """Directories of two tiny sequence-to-sequence models with random weights."""
    tokenizer, paths = make_tokenizer(), []
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    for seed in range(2):
        config = BartConfig(
            vocab_size=len(tokenizer),
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_position_embeddings=128,
            forced_eos_token_id=3,
            init_std=0.5,
            **ids,
        )
        directory = tmp_path_factory.mktemp(f"tiny-translator-{seed}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForSeq2SeqLM.from_config(config)
        model.final_logits_bias[0, 3] = 4.0  # or it would never come to an end
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        paths.append(str(directory))
    return paths


@pytest.fixture
def quiet_backbone(tmp_path):
    """Directory of a tiny BERT without dropout."""
    return save_tiny_bert(tmp_path / "quiet", **NO_DROPOUT)


class Spy(BaseEstimator):
    """An augmenter of the user's: keeps what it is given, and marks it."""

    def __init__(self, mark="bread"):
        self.mark = mark

    def transform(self, X):
        self.__dict__.setdefault("seen", []).append(copy.deepcopy(list(X)))
        return [self._marked(x) for x in X]

    def _marked(self, x):
        return f"{x} {self.mark}" if isinstance(x, str) else [self.mark for _ in x]


class Calls(BaseEstimator):
    """An augmenter that returns whatever a function makes of the rows."""

    def __init__(self, function):
        self.function = function

    def transform(self, X):
        return self.function(X)


class Batches(Callback):
    """Keeps the token ids of every batch, the rows it holds, their targets and weights."""

    def on_train_begin(self, net, **kwargs):
        self.epochs = []

    def on_epoch_begin(self, net, **kwargs):
        self.epochs.append([])

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        if training:
            self.epochs[-1].append(batch)

    def rows(self, epoch):
        """Row -> its token ids, target and weight."""
        found = {}
        for batch in self.epochs[epoch]:
            for i, row in enumerate(batch["rows"]):
                ids = batch["encoded"].sequences.row(i).tolist()
                found[int(row)] = ids, batch["targets"][i], batch["weights"][i]
        return found


def recorded(clf):
    return next(c for _, c in clf.net_.callbacks_ if isinstance(c, Batches))


def weights_of(clf):
    return {name: p.detach().clone() for name, p in clf.model_.named_parameters()}


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights_of(a).values(), weights_of(b).values()))


def words_of(text):
    return edits.split(text)[0]


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(x in rest for x in part)


WORD_EDITS = {
    "synonyms": SynonymReplacement(SYNONYMS),
    "insertion": RandomInsertion(),
    "insertion of synonyms": RandomInsertion(SYNONYMS),
    "deletion": RandomDeletion(),
    "swap": RandomSwap(),
}

# ------------------------------------------------------------------- edits of words

any_text = st.text(
    st.one_of(st.sampled_from(" \t\n.,!?()-'\u0301\u200dáÇé电🎬"), st.characters(codec="utf-8")),
    max_size=60,
)
spoken = st.lists(
    st.sampled_from(["bread", "boat,", "(tram)", "o", "pão", "e\u0301", "...", "don't", "BOAT"]),
    max_size=12,
).map(" ".join)
texts_of_all_kinds = st.one_of(any_text, spoken)
seeds = st.integers(0, 2**31 - 1)
rates = st.floats(0, 1)


@given(texts_of_all_kinds)
def test_a_text_is_its_words_and_gaps(text):
    words, gaps = edits.split(text)
    assert edits.join(words, gaps) == text
    assert len(gaps) == len(words) + 1
    assert all(any(c.isspace() for c in gap) for gap in gaps[1:-1])
    assert all(c.isalnum() or c == "_" for word in words for c in word[0])


@given(texts_of_all_kinds, rates, seeds)
def test_deletion_keeps_a_subsequence(text, rate, seed):
    augmenter = RandomDeletion(rate=rate, rows=1.0, random_state=seed)
    (new,) = augmenter.transform([text])
    assert is_subsequence(words_of(new), words_of(text))
    assert is_subsequence(new, text)
    assert len(words_of(new)) >= min(1, len(words_of(text)))
    others = [c for gap in edits.split(text)[1] for c in gap if not c.isspace()]
    assert [c for gap in edits.split(new)[1] for c in gap if not c.isspace()] == others


@given(texts_of_all_kinds, rates, seeds)
def test_swap_keeps_the_words_and_what_is_between(text, rate, seed):
    (new,) = RandomSwap(rate=rate, rows=1.0, random_state=seed).transform([text])
    assert edits.split(new)[1] == edits.split(text)[1]
    assert Counter(words_of(new)) == Counter(words_of(text))


@given(texts_of_all_kinds, rates, seeds, st.sampled_from([None, SYNONYMS]))
def test_insertion_keeps_the_text_as_a_subsequence(text, rate, seed, synonyms):
    (new,) = RandomInsertion(synonyms, rate=rate, rows=1.0, random_state=seed).transform([text])
    assert is_subsequence(text, new)
    assert is_subsequence(words_of(text), words_of(new))
    added = len(words_of(new)) - len(words_of(text))
    assert added in (0, edits.some(len(words_of(text)), rate))


@given(texts_of_all_kinds, rates, seeds)
def test_replacement_keeps_the_number_of_words_and_what_is_between(text, rate, seed):
    augmenter = SynonymReplacement(SYNONYMS, rate=rate, rows=1.0, random_state=seed)
    (new,) = augmenter.transform([text])
    assert edits.split(new)[1] == edits.split(text)[1]
    known = {"bread", "boat", "tram", "o"}
    for old, word in zip(words_of(text), words_of(new), strict=True):
        assert old == word or old.lower() in known


@pytest.mark.parametrize("name", WORD_EDITS)
@given(st.lists(texts_of_all_kinds, min_size=1, max_size=5), seeds)
def test_no_rate_or_no_rows_is_the_identity(name, texts, seed):
    augmenter = clone(WORD_EDITS[name]).set_params(random_state=seed)
    assert augmenter.set_params(rate=0.0, rows=1.0).transform(texts) == texts
    assert augmenter.set_params(rate=1.0, rows=0.0).transform(texts) == texts


@pytest.mark.parametrize("name", WORD_EDITS)
def test_a_seed_repeats_and_another_one_differs(name, texts):
    draw = [clone(WORD_EDITS[name]).set_params(random_state=s).transform(texts) for s in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]
    state = np.random.RandomState(0)
    augmenter = clone(WORD_EDITS[name]).set_params(random_state=state)
    augmenter.random_state = state  # clone copies
    assert augmenter.transform(texts) != augmenter.transform(texts)


@pytest.mark.parametrize("name", WORD_EDITS)
def test_awkward_texts(name):
    new = clone(WORD_EDITS[name]).set_params(rate=0.5, rows=1.0, random_state=0).transform(TEXTS)
    assert len(new) == len(TEXTS)
    assert new[1:5] == TEXTS[1:5]  # nothing, no spaces, no word
    assert all(isinstance(text, str) and bool(text) == bool(old) for text, old in zip(new, TEXTS))


def test_the_share_of_rows_and_of_words():
    texts = [" ".join(f"w{i}" for i in range(20))] * 2000
    new = RandomDeletion(rate=0.25, rows=0.3, random_state=0).transform(texts)
    lengths = np.array([len(text.split()) for text in new])
    assert 0.27 < np.mean(lengths < 20) < 0.33
    assert 14.8 < lengths[lengths < 20].mean() < 15.2
    new = RandomInsertion(rate=0.25, rows=1.0, random_state=0).transform(texts[:5])
    assert [len(text.split()) for text in new] == [25] * 5


def test_a_deleted_word_takes_one_space_along():
    words, gaps = edits.split("(One) two, three\nfour.")

    for draws, expected in (
        ((0, 1, 1, 1), "() two, three\nfour."),
        ((1, 0, 1, 1), "(One), three\nfour."),
        ((1, 1, 0, 1), "(One) two,\nfour."),
        ((1, 1, 1, 0), "(One) two, three."),
        ((1, 0, 0, 1), "(One),\nfour."),
    ):
        rng = types.SimpleNamespace(random=lambda n, draws=draws: np.array(draws))
        assert edits.deleted(words, gaps, 0.5, rng) == expected


# ---------------------------------------------------------------------------- synonyms


@pytest.mark.parametrize(
    "word, new",
    [("bread", "toast"), ("Bread", "Toast"), ("BREAD", "TOAST"), ("bread's", "bread's")],
)
def test_synonyms_take_over_the_case(word, new):
    augmenter = SynonymReplacement({"bread": "toast"}, rows=1.0)
    assert augmenter.transform([f"« {word}», please"]) == [f"« {new}», please"]


def test_a_word_as_it_stands_comes_before_its_lower_case():
    augmenter = SynonymReplacement({"Polish": "Warsaw", "polish": "shine"}, rows=1.0, rate=1.0)
    assert augmenter.transform(["Polish polish"]) == ["Warsaw shine"]


def test_an_accent_may_be_a_code_point_of_its_own():
    augmenter = SynonymReplacement({"caf\u00e9": "bar"}, rows=1.0)
    assert augmenter.transform(["um cafe\u0301!"]) == ["um bar!"]
    augmenter = SynonymReplacement({"cafe\u0301": "bar"}, rows=1.0)
    assert augmenter.transform(["um caf\u00e9!"]) == ["um bar!"]


def test_stop_words_stay():
    synonyms = {"in": "inside", "a": "one", "boat": "ship"}
    params = {"rows": 1.0, "rate": 1.0}
    text = ["In a boat"]
    assert SynonymReplacement(synonyms, **params).transform(text) == ["Inside one ship"]
    for stop_words in ("english", ["IN", "a"]):
        augmenter = SynonymReplacement(synonyms, stop_words=stop_words, **params)
        assert augmenter.transform(text) == ["In a ship"]


def test_the_order_of_a_set_does_not_matter():
    found = [
        SynonymReplacement({"o": options}, rows=1.0, rate=1.0, random_state=0).transform(["o o o"])
        for options in ({"a", "um", "uma"}, ["a", "um", "uma"])
    ]
    assert found[0] == found[1]


@pytest.fixture
def wordnet(monkeypatch):
    """A stand-in for NLTK's WordNet with two synsets."""

    class Synset:
        def __init__(self, names):
            self.names = names

        def lemma_names(self, lang="eng"):
            return self.names[lang]

    synsets = [
        Synset({"eng": ["boat", "small_ship"], "por": ["barco", "bote"]}),
        Synset({"eng": ["Boat", "gravy_boat", "small_ship"], "por": []}),
    ]

    class WordNetError(Exception):
        pass

    class WordNet:
        @staticmethod
        def synsets(word, lang="eng"):
            if lang not in ("eng", "por"):
                raise WordNetError(f"Language {lang} is not supported.")
            return [s for s in synsets if word.lower() in map(str.lower, s.names[lang])]

    parts = {"nltk": {}, "nltk.corpus": {"wordnet": WordNet}, "nltk.corpus.reader": {}}
    parts["nltk.corpus.reader.wordnet"] = {"WordNetError": WordNetError}
    for name, content in parts.items():
        module = types.ModuleType(name)
        module.__dict__.update(content, __path__=[])
        monkeypatch.setitem(sys.modules, name, module)
    return WordNet


def test_wordnet(wordnet):
    augmenter = SynonymReplacement("wordnet", rows=1.0, rate=1.0)
    drawn = {augmenter.transform(["a Boat!"])[0] for _ in range(40)}
    assert drawn == {"a Small ship!", "a Gravy boat!"}
    augmenter = SynonymReplacement("wordnet", language="por", rows=1.0, rate=1.0)
    assert augmenter.transform(["o Barco"]) == ["o Bote"]
    assert RandomInsertion("wordnet", language="por", rows=1.0, rate=0.5).transform(["o Barco"])[
        0
    ] in ("bote o Barco", "o bote Barco", "o Barco bote")
    with pytest.raises(ValueError, match=r"language='xx' is none that WordNet knows.*\"por\""):
        augmenter.set_params(language="xx").transform(["o Barco"])


def test_a_tagger_gets_single_words_of_wordnet(wordnet, tiny_backbone):
    X, y = [["the", "boat", "stops"]] * 4, [["O", "A", "O"]] * 4
    spy = Spy("boat")
    augment = [SynonymReplacement("wordnet", rows=1.0, rate=1.0), spy]
    TokenTagger(tiny_backbone, augment=augment, max_epochs=1, device="cpu").fit(X, y)
    assert spy.seen == [X]  # all synonyms are two words


@pytest.mark.parametrize("language, data", [("eng", "wordnet"), ("por", "wordnet omw-1.4")])
def test_wordnet_without_its_data(language, data, monkeypatch):
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(ValueError, match=rf"not on this machine.*nltk.downloader {data}$"):
        SynonymReplacement("wordnet", language=language).fit(["a text"])


def test_wordnet_without_nltk(monkeypatch):
    for name in ("nltk", "nltk.corpus"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"needs the library NLTK: pip install .*\[augment\]"):
        SynonymReplacement("wordnet").transform(["a text"])


def test_neighbours_are_those_of_the_cosine(tiny_backbone):
    loaded = loading.load(Backbone(tiny_backbone), verbose=False)
    tokenizer = private_tokenizer(loaded.tokenizer)
    weight = loaded.backbone.get_input_embeddings().weight.detach().numpy()
    ids, words = whole_words(tokenizer)
    assert set("bread cheese pão the".split()) < set(words)
    assert not {"[MASK]", "##a", "!", "7"} & set(words)
    by_hand = weight[ids].astype(np.float64)
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    order = np.argsort(-(by_hand @ by_hand[words.index("boat")]))
    expected = [words[i] for i in order if words[i] != "boat"][:3]
    find = neighbour_source(weight, tokenizer, 3)
    assert list(find(["xyzzy", "boat", "Boat"])) == [[], expected, expected]
    augmenter = SynonymReplacement("embedding", rows=1.0, rate=1.0, n_neighbors=3)
    augmenter.set_params(backbone=tiny_backbone)
    drawn = {augmenter.transform(["xyzzy Boat"])[0] for _ in range(60)}
    assert drawn == {f"xyzzy {word.capitalize()}" for word in expected}


def test_in_fit_the_embedding_is_that_of_the_estimator(make_clf, tiny_backbone, texts, labels):
    spies = Spy(), Spy()
    for spy, backbone in zip(spies, (None, tiny_backbone)):
        augment = [SynonymReplacement("embedding", rate=0.5, rows=1.0, backbone=backbone), spy]
        make_clf(augment=augment).fit(texts, labels)
    assert spies[0].seen == spies[1].seen
    assert spies[0].seen[0] != spies[0].seen[1]


# -------------------------------------------------------------------- masked language models


def test_masked_words_are_drawn_from_the_likeliest(tiny_mlm):
    text = "the Bread, is (very) tasty"
    tokenizer = make_tokenizer()
    model = AutoModelForMaskedLM.from_pretrained(tiny_mlm).eval()
    encoded = tokenizer("the [MASK], is (very) tasty", return_tensors="pt")
    place = encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    logits = model(**encoded).logits[0, place]
    ids, words = whole_words(tokenizer)
    order = logits[torch.from_numpy(ids)].argsort(descending=True)
    likeliest = [words[i] for i in order if words[i] != "bread"][:4]
    drawn = Counter()
    augmenter = MaskedReplacement(tiny_mlm, top_k=4, rate=0.2, rows=1.0, random_state=0)
    for new in augmenter.transform([text] * 2000):
        assert edits.split(new)[1] == edits.split(text)[1]
        changed = [i for i, pair in enumerate(zip(words_of(new), words_of(text))) if len({*pair})]
        assert len(words_of(new)) == 5 and changed
        if words_of(new)[1] != "Bread":
            drawn[words_of(new)[1]] += 1
    assert set(drawn) <= {edits.like("Bread", word) for word in likeliest}
    chances = torch.softmax(
        logits[[tokenizer.convert_tokens_to_ids(word) for word in likeliest]], 0
    ).tolist()
    shares = [drawn[edits.like("Bread", word)] / drawn.total() for word in likeliest]
    np.testing.assert_allclose(shares, chances, atol=0.08)


def test_masked_replacement_of_awkward_texts(tiny_mlm):
    augmenter = MaskedReplacement(tiny_mlm, rows=1.0, rate=0.4, random_state=0)
    texts = [*TEXTS, "a [MASK] in a text", "bread and cheese " * 40]
    new = augmenter.transform(texts)
    assert new[1:6] == texts[1:6] and new[8] == texts[8]
    assert [edits.split(text)[1] for text in new] == [edits.split(text)[1] for text in texts]
    long, changed = words_of(texts[9]), words_of(new[9])
    # The model reads 64 tokens: what is behind them stays.
    assert long[62:] == changed[62:] and long[:60] != changed[:60]
    assert augmenter.transform(texts) == new
    identity = MaskedReplacement(tiny_mlm, rows=1.0, rate=0.0)
    assert identity.transform(texts) == texts


MASKED = "roberta distilbert electra deberta-v3 modernbert xlm-roberta mpnet albert".split()


@pytest.mark.parametrize("family", MASKED)
def test_masked_language_models_of_every_family(family, tmp_path, texts):
    tokenizer = FAMILIES[family].tokenizer()
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.model, BPE):  # those of the fixtures only encode
        backend.decoder = decoders.ByteLevel()
    elif isinstance(backend.model, Unigram):
        backend.decoder = decoders.Metaspace()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(FAMILIES[family].config(len(tokenizer)))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    known = set(whole_words(private_tokenizer(tokenizer))[1])
    # The small vocabulary of Unigram has no more than a few words.
    assert (
        {"w", "pra"} <= known if isinstance(backend.model, Unigram) else {"the", "bread"} <= known
    )
    augmenter = MaskedReplacement(str(tmp_path), rate=0.5, rows=1.0, random_state=0)
    new = augmenter.transform(texts)
    assert [len(text.split()) for text in new] == [len(text.split()) for text in texts]
    pairs = [pair for old, text in zip(texts, new) for pair in zip(words_of(old), words_of(text))]
    changed = {b for a, b in pairs if a != b}
    assert len(changed) > 3 and changed <= known
    # From files and from memory: weights that are tied are not missing.
    assert (
        MaskedReplacement(
            Backbone(model, tokenizer=tokenizer), rate=0.5, rows=1.0, random_state=0
        ).transform(texts)
        == new
    )


def test_masked_replacement_does_not_depend_on_the_batch(tiny_mlm, texts, monkeypatch):
    augmenter = MaskedReplacement(tiny_mlm, rows=1.0, rate=0.4, random_state=0)
    whole = augmenter.transform(texts)
    monkeypatch.setattr("sktransformers.inference.filling._MOST_LOGITS", 1)
    assert augmenter.transform(texts) == whole


def test_a_loaded_masked_language_model_stays_as_it_is(tiny_mlm, texts):
    model = AutoModelForMaskedLM.from_pretrained(tiny_mlm).train()
    params = {"rows": 1.0, "random_state": 0}
    new = MaskedReplacement(model, **params).transform(texts)
    assert model.training
    assert new == MaskedReplacement(tiny_mlm, **params).transform(texts)


def test_a_backbone_without_such_a_head(make_clf, tiny_backbone, texts, labels):
    message = "MaskedReplacement, backbone: .* is no checkpoint of AutoModelForMaskedLM"
    with pytest.raises(ValueError, match=message):
        MaskedReplacement(tiny_backbone).transform(texts)
    spy = Spy()
    with pytest.raises(ValueError, match=message):
        make_clf(augment=[spy, MaskedReplacement()]).fit(texts, labels)
    assert not hasattr(spy, "seen")
    with pytest.raises(ValueError, match=r"^SynonymReplacement, backbone: .* does not exist"):
        SynonymReplacement(backbone="/no/such/directory").transform(texts)


# -------------------------------------------------------------------------- translation


def test_back_translation(tiny_translators, texts):
    augmenter = BackTranslation(*tiny_translators, rows=1.0, random_state=0)
    state = torch.get_rng_state()
    new = augmenter.transform([*texts[:8], *TEXTS])
    assert torch.equal(torch.get_rng_state(), state)
    assert new[9] == "" and new[11:13] == TEXTS[3:5]  # nothing to translate
    assert all(new[:8]) and new[:8] != texts[:8]
    assert new == augmenter.transform([*texts[:8], *TEXTS])
    assert new != clone(augmenter).set_params(random_state=1).transform([*texts[:8], *TEXTS])


def test_back_translation_without_sampling_is_what_the_models_generate(tiny_translators, texts):
    tokenizer = make_tokenizer()
    models = [AutoModelForSeq2SeqLM.from_pretrained(path).eval() for path in tiny_translators]
    expected = []
    for text in texts[:6]:
        for model in models:
            encoded = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            n = 2 * encoded["input_ids"].shape[1] + 16
            ids = model.generate(**encoded, max_new_tokens=n, num_beams=2, do_sample=False)
            text = tokenizer.decode(ids[0], skip_special_tokens=True).strip()
        expected.append(text)
    assert sum(map(bool, expected)) > 2 and expected != texts[:6]
    for given_as in (tiny_translators, models):
        for i, text in enumerate(texts[:6]):
            augmenter = BackTranslation(*given_as, rows=1.0, do_sample=False, num_beams=2)
            if given_as is models and i:
                break
            assert augmenter.transform([text]) == [expected[i] or text]


def test_a_text_that_is_too_long_is_not_translated(tiny_translators):
    long = "bread " * 200
    assert BackTranslation(*tiny_translators, rows=1.0).transform([long]) == [long]


@pytest.mark.parametrize("side", ["forward", "backward"])
def test_back_translation_says_which_model_is_wrong(side, tiny_translators, tiny_backbone):
    models = dict(zip(("forward", "backward"), tiny_translators))
    augmenter = BackTranslation(**{**models, side: tiny_backbone})
    message = f"BackTranslation, {side}: .* is no checkpoint of AutoModelForSeq2SeqLM"
    with pytest.raises(ValueError, match=message):
        augmenter.transform(["a text"])


# --------------------------------------------------------------------- as an estimator


def all_augmenters(mlm, translators):
    return [
        *map(clone, WORD_EDITS.values()),
        SynonymReplacement(backbone=mlm),
        MaskedReplacement(mlm),
        BackTranslation(*translators),
    ]


def test_clone_pickle_and_parameters(tiny_mlm, tiny_translators, texts):
    for augmenter in all_augmenters(tiny_mlm, tiny_translators):
        augmenter.set_params(rows=1.0, random_state=3)
        before = augmenter.get_params()
        new = augmenter.fit(texts).transform(texts)
        assert augmenter.get_params() == before == vars(augmenter)  # nothing is kept
        assert len(pickle.dumps(augmenter)) < 2000
        for copied in (clone(augmenter), pickle.loads(pickle.dumps(augmenter))):
            assert copied.fit_transform(texts) == new
        assert augmenter.transform(pd.DataFrame({"text": texts}, index=range(9, 57))) == new
        assert augmenter.transform(np.array(texts)) == new


def test_in_a_pipeline_and_a_search(texts, labels):
    model = make_pipeline(
        RandomDeletion(random_state=0), TfidfVectorizer(), LogisticRegression()
    ).fit(texts, labels)
    assert model.score(texts, labels) > 0.9
    search = GridSearchCV(model, {"randomdeletion__rate": [0.0, 0.3]}, cv=2).fit(texts, labels)
    assert search.best_params_["randomdeletion__rate"] in (0.0, 0.3)


BAD_PARAMETERS = {
    "rate": (RandomSwap(rate=1.5), "'rate' parameter of RandomSwap"),
    "rows": (RandomSwap(rows=-0.1), "'rows' parameter of RandomSwap"),
    "state": (RandomSwap(random_state="x"), "'random_state' parameter"),
    "synonyms": (SynonymReplacement("thesaurus"), "'synonyms' parameter of SynonymRep"),
    "none": (SynonymReplacement(None), "'synonyms' parameter of SynonymRep"),
    "number": (SynonymReplacement({"a": 3}), r"synonyms\['a'\] is 3 of type int"),
    "in a list": (RandomInsertion({"a": ["b", None]}), r"synonyms\['a'\] is .*list of str"),
    "key": (SynonymReplacement({3: "a"}), "synonyms: 3 of type int is no word"),
    "empty": (SynonymReplacement({"a": [" "]}), r"synonyms\['a'\] holds an empty str"),
    "stop words": (SynonymReplacement({}, stop_words="german"), "stop_words='german' is no list"),
    "stop word": (SynonymReplacement({}, stop_words=[3]), "stop_words holds 3 of type int"),
    "neighbours": (SynonymReplacement(n_neighbors=0), "'n_neighbors' parameter"),
    "backbone": (SynonymReplacement(backbone=3), "backbone must be a hub id"),
    "top_k": (MaskedReplacement(top_k=0), "'top_k' parameter"),
    "device": (MaskedReplacement(device="abacus"), "device='abacus' is no device"),
    "models": (BackTranslation(3, "x"), "forward must be a hub id"),
    "temperature": (BackTranslation("x", "y", temperature=0), "'temperature' parameter"),
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters(name, make_clf, monkeypatch):
    augmenter, message = BAD_PARAMETERS[name]
    monkeypatch.setattr(loading, "load", None)  # nothing is loaded
    for act in (
        lambda: augmenter.fit(["a"]),
        lambda: augmenter.transform(["a"]),
        lambda: make_clf(augment=augmenter).fit(["a", "b"], [0, 1]),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            act()


@pytest.mark.parametrize("name", WORD_EDITS)
def test_bad_input(name):
    augmenter = WORD_EDITS[name]
    for X, message in (
        ("a text", "X is one single str"),
        (["good", None, "fine"], r"X\[1\] is missing \(None\); expected str"),
        ([["a", "b"]], r"X\[0\] is a value of type list.*join the words"),
        ([], "X is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            augmenter.transform(X)


# ------------------------------------------------------------------------------- in fit


def test_every_epoch_has_a_draw_of_its_own(make_clf, texts, labels):
    spy = Spy()
    clf = make_clf(augment=[RandomSwap(rows=1.0, rate=0.5), spy], max_epochs=3)
    clf.fit(texts, labels)
    assert len(spy.seen) == 3 == clf.n_iter_
    for rows in spy.seen:
        assert [Counter(row.split()) for row in rows] == [Counter(row.split()) for row in texts]
    draws = [tuple(rows) for rows in spy.seen]
    assert len({*draws, tuple(texts)}) == 4


def test_the_seed_of_the_estimator_decides(make_clf, texts, labels):
    def drawn(random_state, own):
        spy = Spy()
        augment = [RandomSwap(rows=1.0, random_state=own), spy]
        return spy, make_clf(augment=augment, random_state=random_state).fit(texts, labels)

    (first, a), (again, b), (other, c) = drawn(0, 1), drawn(0, 2), drawn(1, 1)
    assert first.seen == again.seen != other.seen
    assert same_weights(a, b) and not same_weights(a, c)


def test_what_is_drawn_is_trained_with_its_target_and_weight(make_clf, texts, labels):
    spy, sample_weight = Spy(), np.linspace(0.1, 2, len(texts))
    clf = make_clf(augment=[RandomDeletion(rows=1.0, rate=0.5), spy], callbacks=[Batches()])
    clf.fit(texts, labels, sample_weight=sample_weight)
    encoder = TextEncoder(clf.tokenizer_, clf.max_length_)
    codes = np.searchsorted(clf.classes_, labels)
    for epoch, drawn in enumerate(spy.seen):
        encoded = encoder.encode([f"{text} bread" for text in drawn]).encoded
        rows = recorded(clf).rows(epoch)
        assert sorted(rows) == list(range(len(texts)))
        for i, (ids, target, weight) in rows.items():
            assert ids == encoded.sequences.row(i).tolist()
            assert target == codes[i]
            assert weight == pytest.approx(sample_weight[i] / sample_weight.mean())


@pytest.mark.parametrize("how", ["held out", "X_val"])
def test_validation_rows_are_not_augmented(how, make_clf, texts, labels):
    texts = [f"{text} {'the ' * (i % 7)}n{i}" for i, text in enumerate(texts)]
    spy = Spy()
    clf = make_clf(augment=spy, early_stopping=how == "held out", max_epochs=3)
    if how == "X_val":
        clf.fit(texts[:36], labels[:36], X_val=texts[36:], y_val=labels[36:])
        assert all(rows == texts[:36] for rows in spy.seen)
        loss = clf.history_[-1]["valid_loss"]
        proba = clf.predict_proba(texts[36:])
        codes = np.searchsorted(clf.classes_, labels[36:])
        if clf.n_iter_ == np.argmin([row["valid_loss"] for row in clf.history_]) + 1:
            assert loss == pytest.approx(-np.log(proba[np.arange(12), codes]).mean(), rel=1e-4)
        return
    clf.fit(texts, labels)
    assert {len(rows) for rows in spy.seen} == {43}  # a tenth is held out
    assert all(rows == spy.seen[0] for rows in spy.seen)
    assert set(spy.seen[0]) < set(texts)


def test_nothing_drawn_trains_as_without(make_clf, texts, labels):
    plain = make_clf().fit(texts, labels)
    augment = [RandomSwap(rows=0.0), SynonymReplacement({}, rows=1.0), RandomDeletion(rate=0.0)]
    assert same_weights(plain, make_clf(augment=augment).fit(texts, labels))
    assert same_weights(plain, make_clf(augment=[]).fit(texts, labels))
    changed = make_clf(augment=RandomSwap(rows=1.0)).fit(texts, labels)
    assert not same_weights(plain, changed)


def test_models_of_augmenters_leave_no_trace(
    make_clf, tiny_mlm, tiny_translators, texts, labels, capfd, caplog
):
    plain = make_clf().fit(texts, labels)
    loaders = [
        SynonymReplacement(rows=0.0),
        MaskedReplacement(tiny_mlm, rows=0.0),
        BackTranslation(*tiny_translators, rows=0.0),
    ]
    assert same_weights(plain, make_clf(augment=loaders).fit(texts, labels))
    for augmenter in loaders:
        augmenter.set_params(rows=0.5)
    np_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again = (make_clf(augment=loaders).fit(texts, labels) for _ in range(2))
    assert same_weights(first, again) and not same_weights(first, plain)
    assert np.array_equal(np.random.get_state()[1], np_state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert len(pickle.dumps(first)) < len(pickle.dumps(plain)) + 3000
    assert clone(first).get_params()["augment"][1].backbone == tiny_mlm
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_models_are_loaded_once_a_fit(make_clf, tiny_mlm, texts, labels, monkeypatch):
    loads, original = [], loading.load_whole
    monkeypatch.setattr(loading, "load_whole", lambda *a, **k: loads.append(a) or original(*a, **k))
    make_clf(augment=MaskedReplacement(tiny_mlm), max_epochs=3).fit(texts, labels)
    assert len(loads) == 1


def test_an_augmenter_of_the_users_may_use_torchs_random_numbers(make_clf, texts, labels):
    def shuffled(rows):
        return [rows[i] for i in torch.randperm(len(rows))]

    fits = [make_clf(augment=Calls(shuffled)).fit(texts, labels) for _ in range(2)]
    assert same_weights(*fits)


def test_what_is_given_is_not_changed(make_clf, texts, labels):
    given_texts, augment = list(texts), [RandomSwap(rows=1.0)]
    before = augment[0].get_params()
    clf = make_clf(augment=augment).fit(given_texts, labels)
    assert given_texts == texts and clf.augment is augment
    assert vars(augment[0]) == before


def test_a_search_over_an_augmenters_options(make_clf, binary):
    search = GridSearchCV(
        make_clf(augment=RandomDeletion(), max_epochs=1), {"augment__rate": [0.0, 0.4]}, cv=2
    ).fit(*binary)
    assert set(search.cv_results_["param_augment__rate"]) == {0.0, 0.4}


def test_the_vocabulary_is_not_compacted(make_clf, texts, labels, capsys, tmp_path):
    backbone = save_tiny_bert(tmp_path / "large", vocab_size=5000)
    params = {"backbone": backbone, "verbose": 1, "max_epochs": 1}
    make_clf(**params).fit(texts, labels)
    assert "tokens of the vocabulary are trained" in capsys.readouterr().out
    make_clf(augment=RandomSwap(), **params).fit(texts, labels)
    assert "not compacted: augment may bring other tokens" in capsys.readouterr().out


def test_find_lr_draws_too(make_clf, texts, labels):
    spy = Spy()
    make_clf(augment=spy).find_lr(texts, labels, n_steps=8)
    assert len(spy.seen) >= 2


# -------------------------------------------------------------------------- pairs, tags


def test_each_text_of_a_pair_by_itself(tiny_backbone, texts, labels):
    pairs, spy = list(zip(texts, texts[::-1])), Spy()
    augment = [RandomDeletion(rows=0.5, rate=0.5), spy]
    for interaction in ("cross", "all"):
        params = {"interaction": interaction, "max_epochs": 2, "device": "cpu", "random_state": 0}
        clf = PairClassifier(tiny_backbone, augment=augment, **params)
        clf.fit(pairs, labels).predict(pairs)
    assert len(spy.seen) == 4
    for rows in spy.seen:
        assert len(rows) == 2 * len(pairs)
        for old, new in zip([text for pair in pairs for text in pair], rows):
            assert is_subsequence(new.split(), old.split())
        changed = np.array([row not in pair for row, pair in zip(rows[::2], pairs)])
        other = np.array([row not in pair for row, pair in zip(rows[1::2], pairs)])
        assert (changed != other).any()


SENTENCES = [["The", "boat", "stops", "."], [], ["bread"], ["o", "barco", ",", "o", "tram"]] * 6
TAGS = [["O", "B-X", "O", "O"], [], ["B-Y"], ["O", "B-X", "O", "O", "B-Y"]] * 6


def make_tagger(backbone, **params):
    defaults = {"max_epochs": 2, "device": "cpu", "random_state": 0, "batch_size": 8}
    return TokenTagger(backbone, **{**defaults, **params})


def test_a_tagger_keeps_words_and_tags_together(tiny_backbone, tiny_mlm):
    spy = Spy()
    augment = [
        SynonymReplacement({**SYNONYMS, "boat": ["big ship", "ship"]}, rows=1.0),
        MaskedReplacement(tiny_mlm, rows=0.5),
        spy,
    ]
    sentences = copy.deepcopy(SENTENCES)
    make_tagger(tiny_backbone, augment=augment).fit(sentences, TAGS)
    assert sentences == SENTENCES
    assert len(spy.seen) == 2 and spy.seen[0] != spy.seen[1]
    words = set()
    for rows in spy.seen:
        assert [len(row) for row in rows] == [len(row) for row in SENTENCES if row]
        for old, new in zip(filter(None, SENTENCES), rows):
            assert all(a == b for a, b in zip(old, new) if a in ".,")
            words |= set(new)
    assert "ship" in words and not any(" " in word for word in words)


def test_a_tagger_trains_on_what_was_drawn(quiet_backbone):
    """All words become one and the same: nothing but the share of each tag can be learnt."""
    tagger = make_tagger(
        quiet_backbone, augment=Spy("bread"), crf=False, max_epochs=30, lr=1e-2, head_init="random"
    ).fit([["boat"], ["tram"]] * 8, [["A"], ["B"]] * 8)
    np.testing.assert_allclose(tagger.predict_proba([["bread"]])[0], [[0.5, 0.5]], atol=0.1)


REFUSED = {
    "insertion": RandomInsertion(),
    "deletion": RandomDeletion(),
    "swap": RandomSwap(),
    "translation": BackTranslation("a", "b"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tagger_refuses_what_moves_words(name, tiny_backbone):
    message = rf"augment={type(REFUSED[name]).__name__}\(\.\.\.\) and TokenTagger contradict"
    for augment in (REFUSED[name], [SynonymReplacement({}), REFUSED[name]]):
        with pytest.raises(ValueError, match=message):
            make_tagger("no/such/backbone", augment=augment).fit(SENTENCES, TAGS)


def secret(rows):
    """Something with a text inside that no message may show."""
    return [row[:-1] if len(row) == 4 else row for row in rows]


BAD_RETURNS = {
    "too few": (lambda rows: rows[1:], ValueError, "returned 47 entries; it was given 48"),
    "no list": (lambda rows: None, TypeError, "returned an object of type NoneType"),
    "a str": (lambda rows: "abc", TypeError, "returned an object of type str"),
    "None inside": (
        lambda rows: [*rows[:5], None, *rows[6:]],
        ValueError,
        "returned at position 5 an object of type NoneType; expected str",
    ),
    "a list inside": (
        lambda rows: [[row] for row in rows],
        ValueError,
        "returned at position 0 an object of type list; expected str",
    ),
}


@pytest.mark.parametrize("name", BAD_RETURNS)
def test_an_augmenter_of_the_users_that_returns_something_else(name, make_clf, texts, labels):
    function, error, message = BAD_RETURNS[name]
    with pytest.raises(error, match=f"augment: transform of Calls {message}") as caught:
        make_clf(augment=Calls(function)).fit(texts, labels)
    assert not any(text in str(caught.value) for text in texts)


def test_an_augmenter_of_the_users_may_return_an_array(make_clf, texts, labels):
    arrays = [np.array, pd.Series, tuple]
    fits = [make_clf(augment=Calls(kind)).fit(texts, labels) for kind in arrays]
    assert same_weights(fits[0], make_clf().fit(texts, labels))
    assert same_weights(fits[0], fits[1]) and same_weights(fits[0], fits[2])


def test_an_augmenter_that_changes_the_number_of_words(tiny_backbone):
    message = (
        "augment: transform of Calls returned at position 0 3 words where 4 were given; "
        "TokenTagger has a tag for each word"
    )
    with pytest.raises(ValueError, match=message) as caught:
        make_tagger(tiny_backbone, augment=Calls(secret)).fit(SENTENCES, TAGS)
    assert "boat" not in str(caught.value)


@pytest.mark.parametrize(
    "augment, message",
    [
        ("swap", "'augment' parameter of TransformerSequenceClassifier must be"),
        (3, "'augment' parameter"),
        (RandomSwap, "augment is a value of type type; expected an augmenter"),
        ([RandomSwap(), None], r"augment\[1\] is missing \(None\); expected an augmenter"),
        ([RandomSwap(), "swap"], r"augment\[1\] is a value of type str; expected an augmenter"),
    ],
    ids=["str", "int", "class", "None inside", "str inside"],
)
def test_what_is_no_augmenter(augment, message):
    clf = TransformerSequenceClassifier("no/such/backbone", augment=augment)
    with pytest.raises((ValueError, TypeError), match=message):
        clf.fit(["a", "b"], [0, 1])
