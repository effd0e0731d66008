"""Parameters that nobody would think of, over all estimators and option objects.

A case is made from its number alone. Its estimator either trains for a few steps and predicts, or
is refused with an error that names a parameter. ``python tests/robustness/fuzzing.py --case 12``
plays one again, ``--cases 10000`` many of them (``make fuzz``).
"""

import argparse
import contextlib
import copy
import io
import logging
import multiprocessing
import pickle
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import tiny_estimators
import torch
from joblib import Memory
from language_models import language_model
from sklearn.base import BaseEstimator, clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import make_scorer
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from skorch.callbacks import Callback, EarlyStopping

import sktransformers as skt
from sktransformers.training.net import StopTraining

SECONDS = 20  # of a case; it takes a twentieth of one

TEXTS, PAIRS = tiny_estimators.TEXTS[:8], tiny_estimators.PAIRS[:8]
LABELS, NUMBERS = tiny_estimators.LABELS[:8], np.linspace(-1.0, 3.0, 8)
SEVERAL = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]] * 2)
COLUMNS = np.stack([NUMBERS, NUMBERS[::-1] ** 2], axis=1)
WORDS, TAGS = tiny_estimators.WORDS[:8], tiny_estimators.TAGS[:8]
TASKS = pd.DataFrame({"a": LABELS, "b": NUMBERS, "c": [0.5, np.nan, -2.0, 1.5] * 2})

# Class, rows and what they may be fitted to, weight of the class among the cases.
DATA: dict[str, tuple[Any, list[Any], int]] = {
    "TransformerSequenceClassifier": (TEXTS, [LABELS, [3, 7] * 4, SEVERAL], 4),
    "TransformerSequenceRegressor": (TEXTS, [NUMBERS, COLUMNS], 2),
    "PairClassifier": (PAIRS, [LABELS, SEVERAL], 2),
    "PairRegressor": (PAIRS, [NUMBERS], 2),
    "TokenTagger": (WORDS, [TAGS], 3),
    "MultiTaskSequenceEstimator": (TEXTS, [TASKS], 2),
    "Text2TextGenerator": (TEXTS, [LABELS], 2),
    "Text2TextClassifier": (TEXTS, [LABELS, [True, False] * 4], 2),
    "MaskedLMAdapter": (TEXTS, [None], 2),
}


class Stop(Callback):
    """Two epochs are enough."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) >= 2:
            raise StopTraining


OPTIMIZERS = [skt.AdamW, skt.Adam, skt.RAdam, skt.SGD, skt.Adagrad, skt.Adafactor]
SCHEDULES = [
    skt.LinearDecay,
    skt.Cosine,
    skt.Constant,
    skt.Polynomial,
    skt.Exponential,
    skt.Steps,
    skt.Cyclical,
    skt.InverseSquareRoot,
    skt.WarmupStableDecay,
    skt.ReduceOnPlateau,
]
CLASS_LOSSES = [
    skt.CrossEntropy,
    skt.FocalLoss,
    skt.BinaryCrossEntropy,
    skt.AdaptiveSoftmax,
    skt.TreeSoftmax,
    skt.SampledSoftmax,
]
NUMBER_LOSSES = [skt.SquaredError, skt.HuberLoss]
AUGMENTERS = [
    skt.RandomSwap,
    skt.RandomDeletion,
    skt.RandomInsertion,
    skt.SynonymReplacement,
]
POOLINGS = ["auto", "cls", "last", "mean", "max", "attention"]
RATE = [0.0, 0.3, 0.9]

# What is in order for a parameter, by its name, or by its class and name. A class stands for an
# object of it with options of its own.
SANE: dict[Any, list[Any]] = {
    "backbone": [skt.Backbone],
    "pooling": POOLINGS,
    "head": ["linear", "native", skt.Linear, skt.MLPHead, skt.NativeHead],
    "head_init": ["probe", "random"],
    "loss": ["auto"],
    "finetune": ["full", "head", 1, 2, 99, skt.GradualUnfreezing, skt.LoRA, skt.BitFit],
    "lr": [None, 1e-6, 1e-2, 1],
    "max_epochs": [1, 2, 3],
    "batch_size": [1, 3, 8, 1000],
    "optimizer": ["adamw", "sgd", "adam", *OPTIMIZERS, skt.TorchOptimizer],
    "schedule": ["linear", "cosine", *SCHEDULES],
    "warmup": [0, 0.0, 1, 0.5, 0.99, 1000],
    "weight_decay": [0, 0.0, 0.1, 1.0],
    "anchor": [0, 0.5, 10.0],
    "max_length": [None, 3, 5, 8, 64],
    "long_text": ["truncate", "window", skt.Windows],
    "max_batch_tokens": [1, 16, 50, 10**6],
    "augment": [None, *AUGMENTERS, lambda: [skt.RandomSwap(), skt.RandomDeletion()]],
    "class_weight": [None, "balanced", lambda: {"food": 2.0}],
    "threshold": [0.1, 0.5, 0.9, "tuned", lambda: [0.2, 0.4, 0.6]],
    "early_stopping": [False, True],
    "validation_fraction": [0.2, 0.5, 3, 4],
    "n_iter_no_change": [1, 2, 100],
    "tol": [0, 1e-4, 10.0],
    "scoring": ["loss", None, "accuracy", "r2", "neg_log_loss", "f1_macro"],
    "warm_start": [False, True],
    "replay": [None, 1, 4, skt.Replay],
    "memory": [None, skt.Cache, lambda: folder("cache"), lambda: Memory(None)],
    "callbacks": [None, list, tuple, lambda: [skt.BatchHistory()], lambda: [("stop", Stop())]],
    "device": ["auto", "cpu", lambda: torch.device("cpu")],
    "precision": ["auto", "fp32", "bf16", "fp16"],
    "random_state": [None, 0, 7, lambda: np.random.RandomState(3)],
    "verbose": [0, 1, 2, False, True],
    "interaction": ["cross", "concat", "difference", "product", "all", "attention"],
    "symmetric": [False, True],
    "tokenize": [None],
    "subword": ["first", "last", "mean", "max"],
    "self_attention": [False, True],
    "crf": ["auto", True, False],
    "tasks": [None, lambda: {"a": "classification", "b": "regression", "c": "regression"}],
    "task_weights": [None, "balanced", lambda: {"a": 2.0}, lambda: [1.0, 0.0, 2.0]],
    "prefix": ["", "say: ", "a" * 500],
    "template": [None, "{text}", "what is {text} about?", "{{}} {text}"],
    "max_target_length": [2, 5, 16],
    "generation": [None, lambda: {"num_beams": 2}, lambda: {"do_sample": True}],
    "metric": ["token_f1", "exact_match", "bleu", "chrf", "rougeL"],
    "label_words": [None, lambda: {"food": "bread", "sea": "wave", "city": "street"}],
    "examples_in_prompt": [0, 1, 3],
    "mask_probability": [0.01, 0.15, 0.99],
    "whole_word": [False, True],
    # of option objects
    "averaging": [None, "ema", "swa", skt.EMA, skt.SWA],
    "head_lr": [None, 1e-3, 1],
    "layer_decay": [1.0, 0.5, 0.01],
    "max_grad_norm": [None, 1.0, 1e-9],
    "l2": [0.0, 0.1],
    "betas": [lambda: (0.0, 0.0), lambda: [0.5, 0.9]],
    "eps": [1e-8, 1.0],
    "amsgrad": [True],
    "momentum": [0.0, 0.5],
    "nesterov": [False, True],
    "beta2_decay": [-0.8, 0, -5],
    "clip": [1, 2.0],
    "dropout": [0, 0.5, 0.99],
    "activation": [None, "relu", "tanh", "sigmoid", "gelu"],
    "bias": [True, False],
    "hidden_sizes": [tuple, lambda: (1,), lambda: [8, 4]],
    "batch_norm": [True, False],
    "checkpoint": [None, skt.Checkpoint, lambda: folder("states")],
    "unit": ["epoch", "step"],
    "keep": [1, 3],
    "layer_norm": [True, False],
    "constraints": ["auto", "bio", "bioes", None],
    "label_smoothing": [0, 0.1, 0.99],
    "classes": [None],
    "pos_weight": [None, "balanced", 3.0, lambda: [1.0, 2.0, 3.0]],
    "gamma": [0.5, 1.0],
    "delta": [0.1, 100.0],
    "cutoffs": ["auto", lambda: [1], lambda: (1, 2)],
    "div_value": [1.0, 4.0],
    "tree": ["huffman", lambda: {"x": ["food", "sea"], "y": ["city"]}],
    "n_negatives": [1, 2, 1000],
    "proposal": ["log_uniform", "frequency"],
    "power": [0.5, 3.0],
    "every": [1, 2],
    "n_cycles": [1, 3],
    "floor": [0.5],
    "decay": [0.2, 0.9],
    "start": [0, 0.5, 0.9],
    "factor": [0.5],
    "patience": [0, 2],
    "epochs_per_block": [1, 2],
    "r": [1, 4],
    "alpha": [1, 32.0],
    "target_modules": ["auto", lambda: ["query"], lambda: ("query", "value")],
    "stride": [None, 1, 2],
    "max_windows": [None, 1, 2],
    "size": [1, 5, 1000],
    "ratio": [0.1, 1.0, 5.0],
    "pickle": [False, True],
    "location": [None, lambda: folder("cache")],
    "max_ram_mb": [0, 1e-3, 100],
    "max_disk_mb": [1e-3, 100],
    "dtype": ["float32", "float16"],
    "rows": [0, 0.5, 1.0],
    "rate": [0, 0.5, 1.0],
    "synonyms": ["embedding", lambda: {"bread": "soup", "wave": ["boat", "fish"]}],
    "stop_words": [None, lambda: ["the"], lambda: {"a"}],
    "language": ["eng", "por"],
    "n_neighbors": [1, 5],
    "token": [None, False],
    "revision": [None],
    "tokenizer": [None],
    "device_map": [None],
    "attn_implementation": [None, "eager", "sdpa"],
    "trust_remote_code": [False],
    "pretrained": [True, False],
    "bidirectional": [False, True],
    "compact_vocabulary": [True, False],
    "keep_weights": [True, False],
    "skip_unread": [True, False],
    "gradient_checkpointing": [True, False],
    "compile": [False],
    "options": [None, dict],
    (skt.Backbone, "name"): [None],
    (skt.Backbone, "dtype"): ["float32", "bfloat16", "float16", "float64"],
    (skt.Checkpoint, "location"): [lambda: folder("states")],
    (skt.FocalLoss, "gamma"): [0, 2.0],
    (skt.TorchOptimizer, "name"): ["NAdam", "RMSprop", "ASGD", "Adamax", "Rprop", "Adadelta"],
    (skt.Windows, "pooling"): ["mean", "max", "attention"],
    ("TransformerSequenceClassifier", "loss"): ["auto", *CLASS_LOSSES],
    ("PairClassifier", "loss"): ["auto", *CLASS_LOSSES],
    ("TokenTagger", "loss"): ["auto", "focal", skt.CrossEntropy, skt.FocalLoss],
    ("TokenTagger", "head"): ["linear", "native", skt.CRF, skt.MLPHead, skt.Linear],
    ("TokenTagger", "class_weight"): [None, "balanced"],
    ("Text2TextClassifier", "loss"): ["auto", skt.CrossEntropy],
    ("Text2TextClassifier", "finetune"): ["auto", None, "full", "head", 1, skt.LoRA, skt.BitFit],
    ("Text2TextGenerator", "loss"): ["auto", skt.CrossEntropy],
    ("TransformerSequenceRegressor", "loss"): ["squared_error", "huber", *NUMBER_LOSSES],
    ("PairRegressor", "loss"): ["squared_error", *NUMBER_LOSSES],
}

# Anything, in the place of anything.
ABSURD: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: False,
    lambda: -1,
    lambda: 0,
    lambda: 1,
    lambda: 0.0,
    lambda: -0.5,
    lambda: 0.5,
    lambda: 1.0,
    lambda: 1.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: -float("inf"),
    lambda: 10**18,
    lambda: 1e300,
    lambda: 1e-300,
    lambda: 1j,
    lambda: Decimal("0.1"),
    lambda: "",
    lambda: "auto",
    lambda: "nonsense",
    lambda: "1",
    lambda: "0.1",
    lambda: "\ud800",
    lambda: b"linear",
    lambda: np.str_("full"),
    lambda: Path("no/such/folder"),
    list,
    lambda: [1],
    lambda: ["a", None],
    lambda: [0.5, "x"],
    lambda: [[1, 2], [3]],
    tuple,
    lambda: (0.5, 0.5),
    lambda: (np.nan, 1),
    dict,
    lambda: {"a": 1},
    lambda: {1: None},
    lambda: {"food"},
    lambda: range(3),
    lambda: np.int64(2),
    lambda: np.uint8(1),
    lambda: np.float16(0.5),
    lambda: np.float32(0.25),
    lambda: np.float64("nan"),
    lambda: np.bool_(True),
    lambda: np.array(0.5),
    lambda: np.array([1, 2]),
    lambda: np.array([0.2, np.nan, 0.3]),
    lambda: np.array(["a", "b"]),
    lambda: np.datetime64("2020-01-01"),
    lambda: pd.NA,
    lambda: pd.Series([1.0, 2.0]),
    lambda: torch.tensor(0.1),
    lambda: torch.device("meta"),
    lambda: torch.nn.Linear(2, 2),
    lambda: np.float64,
    lambda: skt.AdamW,
    lambda: skt.Linear,
    lambda: skt.LoRA,
    lambda: skt.SGD(),
    lambda: skt.Linear(),
    lambda: skt.Windows(),
    lambda: skt.Replay(),
    lambda: skt.EMA(),
    lambda: skt.RandomSwap(),
    lambda: skt.Backbone("no/such"),
    lambda: skt.TransformerSequenceClassifier(),
    lambda: SVC(),
    lambda: len,
    lambda: lambda *args: 0,
    lambda: object(),
    lambda: NotImplemented,
    lambda: ...,
    lambda: np.random.default_rng(0),
]


# Of the right kind, and yet wrong, on the edge of what can be done, or of no use.
ODD: dict[str, list[Any]] = {
    "alpha": [1e-300, 1e38, 1e300, float("inf")],
    "attn_implementation": ["flash_attention_2", "nonsense", "flex_attention"],
    "augment": [
        lambda: [None],
        lambda: [SVC()],
        lambda: [[skt.RandomSwap()]],
        lambda: StandardScaler(),
        lambda: TfidfVectorizer(),
        lambda: FunctionTransformer(),
        lambda: FunctionTransformer(lambda rows: rows[:-1]),
        lambda: FunctionTransformer(lambda rows: [3 for _ in rows]),
        lambda: skt.RandomSwap,
        lambda: skt.MaskedReplacement("no/such"),
        lambda: skt.BackTranslation("no/such", None),
        lambda: skt.SynonymReplacement("wordnet", language="xx"),
    ],
    "batch_size": [10**18],
    "beta2_decay": [-1e300, -float("inf"), -1e-300],
    "betas": [
        lambda: (1, 0),
        lambda: (0.9,),
        lambda: (np.nan, 0.9),
        lambda: ("a", "b"),
        lambda: ((0.9,), 0.9),
        lambda: [0.9, 0.99, 0.999],
        lambda: (np.float32(0.5), np.float16(0.5)),
        lambda: (True, False),
        lambda: (0.999999999, 0.999999999),
        lambda: (0.99, 0.0),
    ],
    "callbacks": [
        lambda: [None],
        lambda: [("a",)],
        lambda: [("a", None)],
        lambda: [Stop(), Stop()],
        lambda: [("x", Stop()), ("x", Stop())],
        lambda: [Stop],
        lambda: ["stop"],
        lambda: [("history", Stop())],
        lambda: [("strategy", Stop()), ("best", Stop())],
        lambda: [(1, Stop())],
        lambda: [EarlyStopping(monitor="train_loss")],
        lambda: [Stop(), 3],
    ],
    "class_weight": [
        dict,
        lambda: {"food": 0},
        lambda: {"food": -1},
        lambda: {"food": np.nan},
        lambda: {"food": np.inf},
        lambda: {"food": "1"},
        lambda: {"nonsense": 1},
        lambda: {0: 1},
        lambda: {"food": 1e300, "sea": 1e300},
        lambda: {"food": 1e-300, "sea": 1e300},
        lambda: dict.fromkeys(["food", "sea", "city"], 0),
        lambda: {3: 1e-200, 7: 1},
        lambda: {"O": 0.0},
        lambda: {"B-PER": 0.0, "O": 1e30},
        lambda: {True: 2.0, False: 1},
    ],
    "classes": [
        list,
        lambda: [0, 1, 2],
        lambda: ["a", "b", "c"],
        lambda: ["a", "a", "b"],
        lambda: np.array([[1]]),
    ],
    "clip": [1e300, float("inf")],
    "cutoffs": [
        list,
        lambda: [0],
        lambda: [3],
        lambda: [2, 1],
        lambda: [1, 1],
        lambda: [1.5],
        lambda: ["a"],
        lambda: [10**18],
        lambda: [True],
        lambda: (np.int64(1),),
    ],
    "decay": [0.0, 1e-300, 1 - 1e-12],
    "delta": [1e-300, 1e300, float("inf")],
    "device": ["cuda", "cuda:0", "meta", "cpu:0", "cpu:1", 0, "mps", "CPU", "xla"],
    "device_map": ["auto", "nonsense", dict, lambda: {"": "cpu"}, lambda: {"": "cuda"}],
    "div_value": [1e300, float("inf")],
    "dropout": [1 - 1e-12, 1e-300],
    "dtype": ["float33", "int8", "auto", "complex64", "float8_e4m3fn", "bool", "torch.float32"],
    "eps": [1e-300, 1e38, 1e300, float("inf")],
    "epochs_per_block": [10**18],
    "every": [10**18],
    "examples_in_prompt": [8, 100, 10**18],
    "factor": [1e-300],
    "finetune": [10**18],
    "floor": [1e-300],
    "gamma": [0, 1e-300, 1e300, float("inf")],
    "generation": [
        lambda: {"num_beams": -1},
        lambda: {"nonsense": 1},
        lambda: {"max_length": -1},
        lambda: {"max_length": 3},
        lambda: {"max_new_tokens": 0},
        lambda: {"max_new_tokens": 2},
        lambda: {"num_return_sequences": 3},
        lambda: {"num_beams": 2, "num_return_sequences": 2},
        lambda: {"do_sample": True, "temperature": 0.0},
        lambda: {"do_sample": True, "top_k": -1},
        lambda: {"do_sample": True, "top_p": 5},
        lambda: {"return_dict_in_generate": True},
        lambda: {"output_scores": True, "return_dict_in_generate": True},
        lambda: {"eos_token_id": -5},
        lambda: {"bad_words_ids": []},
        lambda: {"min_length": 100},
        lambda: {"num_beams": "2"},
        lambda: {"streamer": 3},
        lambda: {"inputs": None},
        lambda: {"input_ids": [1]},
        lambda: {"penalty_alpha": 0.6, "top_k": 2},
        lambda: {"num_beam_groups": 2, "num_beams": 2},
        lambda: {"repetition_penalty": -1.0},
        lambda: {"no_repeat_ngram_size": 1},
        lambda: {3: 4},
    ],
    "head_lr": [1e3, 1e18, 1e-300, 1e300, float("inf")],
    "hidden_sizes": [
        lambda: (0,),
        lambda: (-1,),
        lambda: (1.5,),
        lambda: ("a",),
        lambda: (10**18,),
        lambda: (10**12,),
        lambda: ((3,),),
        lambda: (True,),
        lambda: (np.int64(4), np.uint8(3)),
    ],
    "l2": [1e3, 1e38, 1e300, float("inf")],
    "label_words": [
        dict,
        lambda: {"food": ""},
        lambda: {"food": "bread"},
        lambda: {"food": "bread", "sea": "bread", "city": "bread"},
        lambda: {"food": 3, "sea": "a", "city": "b"},
        lambda: {"food": ["bread", "soup"], "sea": ["wave"], "city": ["rua"]},
        lambda: {"food": "bread", "sea": "wave", "city": "rua", "moon": "onda"},
        lambda: {"food": "the " * 40, "sea": "a", "city": "b"},
        lambda: {"food": "\u4e2d", "sea": "\u6587", "city": "\ud800"},
        lambda: {True: "yes", False: "no"},
        lambda: {"True": "yes", "False": "no"},
    ],
    "language": ["xx", ""],
    "layer_decay": [1e-300],
    "lr": [1e3, 1e18, 1e-300, 1e300, float("inf")],
    "mask_probability": [1e-300, 1 - 1e-12],
    "max_disk_mb": [1e-300, float("inf")],
    "max_epochs": [10**9, 10**18],
    "max_grad_norm": [1e-300, 1e300, float("inf")],
    "max_length": [1, 2, 4, 65, 10**18],
    "max_batch_tokens": [10**18],
    "max_ram_mb": [float("inf"), 1e300, 1e-300],
    "max_target_length": [64, 513],  # a model that has learnt nothing may write as much as it may
    "max_windows": [10**18],
    "keep": [10**18],
    "checkpoint": [
        lambda: __file__,
        lambda: "/proc/nonsense",
        lambda: "~nobody/at/all",
        lambda: skt.Checkpoint(None),
        lambda: skt.Checkpoint(skt.Cache()),
        lambda: skt.Cache("states"),
    ],
    "location": ["", "a\x00b", lambda: __file__, lambda: "/proc/nonsense"],
    "memory": [
        lambda: __file__,
        lambda: "/proc/nonsense",
        lambda: skt.Cache(""),
        lambda: skt.Cache(skt.Cache()),
    ],
    "momentum": [1 - 1e-12],
    "n_cycles": [10**18],
    "n_iter_no_change": [10**18],
    "n_negatives": [10**18],
    "n_neighbors": [10**18],
    "name": [
        "",
        "no/such",
        "../bert",
        "a b",
        lambda: Path(),
        lambda: folder(""),
        lambda: language_model("gpt2"),
        lambda: language_model("t5"),
        lambda: torch.nn.Linear(2, 2),
        tiny_estimators.backbone,
    ],
    "options": [
        lambda: {"lr": 1},
        lambda: {"momentum": -1},
        lambda: {"nonsense": 1},
        lambda: {"foreach": True},
        lambda: {"maximize": True},
        lambda: {"differentiable": True},
        lambda: {"capturable": True},
        lambda: {"eps": "a"},
        lambda: {"eps": np.nan},
        lambda: {1: 2},
        lambda: {"weight_decay": 0.1},
        lambda: {"params": []},
    ],
    "patience": [10**18],
    "pos_weight": [
        lambda: [1],
        lambda: [0, 1, 2],
        lambda: [np.nan, 1, 1],
        lambda: {0: 2.0},
        lambda: {"nonsense": 1},
        float("inf"),
        lambda: np.array([[1.0]]),
        lambda: [1e300] * 3,
        lambda: ["a", "b", "c"],
        1e-300,
        1e300,
    ],
    "power": [1e-300, 1e300, float("inf")],
    "prefix": ["\ud800", "\x00", " " * 1000],
    "r": [33, 64, 10**12, 10**18],
    "random_state": [2**32, 2**32 - 1, 2**31, lambda: np.int64(3), 2.0],
    "ratio": [1e-300, 1e300, float("inf")],
    "replay": [10**18],
    "revision": ["main", "nonsense", ""],
    "scoring": [
        "roc_auc",
        "neg_mean_squared_error",
        "average_precision",
        "adjusted_rand_score",
        "neg_brier_score",
        lambda: lambda *args: np.nan,
        lambda: lambda *args: "good",
        lambda: lambda *args: np.float32(0.5),
        lambda: lambda *args: [1, 2],
        lambda: lambda *args: None,
        lambda: make_scorer(len),
    ],
    "size": [10**18],
    "start": [1 - 1e-12, 1e-300],
    "stop_words": ["english", "nonsense", "", lambda: [1], lambda: [None], lambda: {"a", 1}],
    "stride": [10, 62, 10**18],
    "synonyms": [
        dict,
        lambda: {"bread": None},
        lambda: {1: "b"},
        lambda: {"bread": []},
        lambda: {"bread": [1]},
        lambda: {"bread": ""},
        lambda: {"bread": "\ud800"},
        "wordnet",
    ],
    "target_modules": [
        list,
        lambda: ["nonsense"],
        lambda: [""],
        lambda: ["query", 3],
        lambda: ["LayerNorm"],
        lambda: ("word_embeddings",),
        lambda: ["query", "query"],
        "query",
    ],
    "task_weights": [
        dict,
        lambda: {"a": -1},
        lambda: {"a": np.nan},
        lambda: {"a": np.inf},
        lambda: {"nonsense": 1},
        lambda: [1],
        lambda: [0, 0, 0],
        lambda: [1e300] * 3,
        lambda: ["a", "b", "c"],
        lambda: {"a": 0, "b": 0, "c": 0},
        lambda: {"a": "1"},
    ],
    "tasks": [
        dict,
        lambda: {"a": "nonsense"},
        lambda: {"nonsense": "regression"},
        lambda: ["classification", "regression"],
        lambda: ["classification"] * 3,
        lambda: ["classification", "regression", "regression"],
        lambda: {"a": "regression"},
        lambda: {"b": "classification"},
        lambda: {0: "classification"},
        lambda: {"a": None},
        lambda: {"a": 3},
        lambda: [3, 4, 5],
    ],
    "template": [
        "",
        "{",
        "}",
        "{nonsense}",
        "{text",
        "{text!r}",
        "{text:>10}",
        "{text:nonsense}",
        "{0}",
        "{}",
        "{text.__class__}",
        "{text[0]}",
        "no field",
        "{text}{text}",
        "{text}" * 500,
        "\x00{text}\ud800",
        "{{text}}",
        "{text} {label}",
    ],
    "threshold": [
        list,
        lambda: [0.5],
        lambda: [0.1] * 4,
        lambda: [np.nan] * 3,
        lambda: [0, 0.5, 1],
        lambda: [[0.5] * 3],
        lambda: {0: 0.5},
        lambda: {"nonsense": 0.2},
        lambda: ["a", "b", "c"],
        1e-300,
        1 - 1e-12,
    ],
    "token": ["", "\ud800"],
    "tokenize": [
        "regex",
        "whitespace",
        lambda: str.split,
        lambda: lambda text: text,
        lambda: lambda text: [1],
        lambda: lambda text: [],
    ],
    "tokenizer": ["no/such", "", lambda: language_model("t5"), lambda: Path("no/such"), 3],
    "tol": [1e300, float("inf")],
    "tree": [
        list,
        lambda: ["food"],
        lambda: [["food", "sea"], "city"],
        lambda: [["food", "food"], ["sea", "city"]],
        lambda: {"x": ["food"], "y": ["sea"]},
        lambda: {"food": {}},
        lambda: [[["food"]], [[["sea"]], "city"], []],
        lambda: _deep(300),
        lambda: [3, 7],
        lambda: ["food", "sea", "city", "moon"],
    ],
    "validation_fraction": [1, 7, 8, 9, 10**18, 0.999, 1e-9],
    "warmup": [1 - 1e-12, 10**18, 1e-300],
    "weight_decay": [1e3, 1e38, 1e300, float("inf")],
}


def _deep(depth: int) -> list[Any]:
    tree: list[Any] = ["food", "sea", "city"]
    for _ in range(depth):
        tree = [tree]
    return tree


class Case(NamedTuple):
    """What is tried: parameters beside the usual ones, data, and what is done with them."""

    number: int
    cls: str
    params: dict[str, Any]
    absurd: set[str]  # names of parameters, and of those of option objects, that make no sense
    y: int
    act: str

    def __str__(self) -> str:
        params = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"case {self.number}: {self.cls}({params}), y {self.y}, {self.act}"


ACTS = ("fit",) * 8 + ("validated", "weighted", "twice", "in parts", "pickled", "find_lr")


def make_case(number: int) -> Case:
    """The case of a number, the same in every process."""
    rng = np.random.default_rng(number)
    classes = list(DATA)
    weights = np.array([DATA[name][2] for name in classes])
    name = str(rng.choice(classes, p=weights / weights.sum()))
    known = sorted(getattr(skt, name)().get_params(deep=False))
    absurd: set[str] = set()
    # Most often sound ones, of which some go together badly; or one or two that make no sense.
    n_sane = int(rng.choice(5, p=[0.2, 0.15, 0.3, 0.25, 0.1]))
    n_absurd = int(rng.choice(3, p=[0.35, 0.5, 0.15]))
    params = {}
    for param in rng.choice(known, min(n_sane + n_absurd, len(known)), replace=False):
        bad = len(params) >= n_sane
        params[str(param)] = value_of(rng, name, str(param), bad, absurd)
    epochs = params.get("max_epochs")
    if isinstance(epochs, int) and epochs > 10:
        params.pop("callbacks", None)  # `Stop` is needed
    y = int(rng.integers(len(DATA[name][1])))
    return Case(number, name, params, absurd, y, str(rng.choice(ACTS)))


def value_of(rng: np.random.Generator, owner: Any, name: str, bad: bool, absurd: set[str]) -> Any:
    """A value for a parameter; where it is to be bad, itself or one inside an option object."""
    makers = SANE[(owner, name)] if (owner, name) in SANE else SANE[name]
    options = [maker for maker in makers if isinstance(maker, type) and maker in OPTIONS]
    if bad and not (options and rng.random() < 0.6):
        absurd.add(name)
        if name in ODD and rng.random() < 0.6:
            maker = ODD[name][rng.integers(len(ODD[name]))]
            return maker() if callable(maker) else maker
        return ABSURD[rng.integers(len(ABSURD))]()
    maker = (options if bad else makers)[rng.integers(len(options if bad else makers))]
    if maker in OPTIONS if isinstance(maker, type) else False:
        return option(rng, maker, bad, absurd)
    return maker() if callable(maker) else maker


def option(rng: np.random.Generator, cls: type, bad: bool, absurd: set[str]) -> Any:
    """An option object with some parameters of its own."""
    absurd |= {cls.__name__} if bad else set()
    known = sorted(cls._get_param_names())  # type: ignore[attr-defined]
    if not known:
        return cls()
    chosen = [str(name) for name in known if rng.random() < 0.3]
    worst = str(rng.choice(known)) if bad else None
    if worst is not None and worst not in chosen:
        chosen.append(worst)
    values = {name: value_of(rng, cls, name, name == worst, absurd) for name in chosen}
    if cls is skt.Backbone:
        values.setdefault("name", None)  # the tiny one; see `prepared`
    if cls is skt.Checkpoint:
        values.setdefault("location", folder("states"))
    return cls(**values)


OPTIONS = {
    value
    for makers in SANE.values()
    for value in makers
    if isinstance(value, type) and issubclass(value, BaseEstimator)
}


@cache
def folder(name: str) -> str:
    """A folder of this process."""
    return str(Path(_root().name) / name)


@cache
def _root() -> Any:
    return tempfile.TemporaryDirectory()


def usual(name: str) -> dict[str, Any]:
    """Parameters with which everything is quick."""
    params = {
        "backbone": language_model("t5")
        if name.startswith("Text2Text")
        else tiny_estimators.backbone(),
        "max_epochs": 1,
        "batch_size": 4,
        "lr": 1e-3,
        "head_init": "random",
        "device": "cpu",
        "random_state": 0,
        "callbacks": [Stop()],
        "max_target_length": 6,
    }
    known = getattr(skt, name)().get_params(deep=False)
    return {key: value for key, value in params.items() if key in known}


def defaults(name: str) -> dict[str, Any]:
    """All parameters, as `usual` where it says something."""
    return {**getattr(skt, name)().get_params(deep=False), **usual(name)}


def prepared(case: Case) -> Any:
    """The estimator of a case."""
    estimator = getattr(skt, case.cls)(**usual(case.cls))
    params = case.params
    spec = params.get("backbone")
    if type(spec) is skt.Backbone and spec.name is None and "name" not in case.absurd:
        spec.name = usual(case.cls)["backbone"]
    estimator.set_params(**params)
    return estimator


class Outcome(NamedTuple):
    """How a case ended: "fitted", "refused", "diverged", or the name of a failure and why."""

    kind: str
    text: str = ""

    @property
    def failed(self) -> bool:
        return self.kind not in ("fitted", "refused", "diverged", "not installed")


class Hang(BaseException):
    """A case takes too long."""


def _hang(*args: Any) -> None:
    raise Hang


def play(case: Case) -> Outcome:
    """Play a case and look at how it ended, and at what it left behind."""
    estimator = prepared(case)
    before = shown(estimator.get_params(deep=False))
    state = global_state()
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            contextlib.chdir(_root().name),  # where folders of any name may appear
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("always")
            outcome = _played(estimator, case)
    except Hang:
        return Outcome("hang", "".join(traceback.format_exc(limit=-4)))
    finally:
        signal.alarm(0)
    if outcome.failed:
        return outcome
    for name, value in global_state().items():
        if value != state[name]:
            return Outcome("global state", name)
    if shown(estimator.get_params(deep=False)) != before:
        return Outcome("parameters changed", f"{before}\n{estimator.get_params(deep=False)}")
    for warning in caught:
        if foreign(warning):
            text = f"{warning.filename}:{warning.lineno} {warning.message}"
            return Outcome("warning", f"{warning.category.__name__} {text}")
    if case.number % 8 == 0:
        return _usable(estimator, case) or outcome
    return outcome


def _played(estimator: Any, case: Case) -> Outcome:
    try:
        act(estimator, case)
    except (ValueError, TypeError) as error:
        if names_a_parameter(str(error), case):
            return Outcome("refused", str(error))
        return Outcome(f"unclear {type(error).__name__}", _trace(error))
    except FloatingPointError as error:
        known = re.search(r"\blr\b|learning rate", str(error))
        return Outcome("diverged" if known else "unclear divergence", str(error))
    except ImportError as error:
        known = re.search(r"pip install|needs", str(error))
        return Outcome("not installed" if known else "unclear ImportError", _trace(error))
    except Exception as error:
        return Outcome(type(error).__name__, _trace(error))
    return look_at(estimator, case)


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-3))


def act(estimator: Any, case: Case) -> None:
    """What is done with the estimator before it predicts."""
    X, targets, _ = DATA[case.cls]
    y = targets[case.y]
    supervised = {} if y is None else {"y": y}
    known = estimator.fit.__code__.co_varnames
    if case.act == "validated" and "y_val" in known:
        estimator.fit(X, y, X_val=X[:4], y_val=y[:4])
        return
    if case.act == "weighted" and "sample_weight" in known:
        estimator.fit(X, y, sample_weight=[0.0, 1e-9, 1e9, 1, 2, 3, 4, 5])
        return
    if case.act == "in parts" and hasattr(estimator, "partial_fit"):
        estimator.partial_fit(X, y)
        estimator.partial_fit(X, y)
        return
    if case.act == "find_lr" and hasattr(estimator, "find_lr") and y is not None:
        estimator.find_lr(X, y, n_steps=3)
    estimator.fit(X, **supervised)
    if case.act == "twice":
        estimator.fit(X, **supervised)


def names_a_parameter(text: str, case: Case) -> bool:
    """Whether a message says which parameter it is about, one that makes no sense if there is."""
    names = case.absurd | inner_names(case.params)
    return any(re.search(rf"\b{re.escape(name)}\b", text) for name in names)


def inner_names(params: dict[str, Any]) -> set[str]:
    """Names of parameters, of option objects among them, and of their parameters."""
    names = set(params)
    for value in params.values():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if type(part).__module__.startswith("sktransformers."):
                inner = part.get_params(deep=False) if hasattr(part, "get_params") else {}
                names |= {type(part).__name__} | inner_names(inner)
    return names


def look_at(estimator: Any, case: Case) -> Outcome:
    """Look at the predictions of a fitted estimator."""
    X, targets, _ = DATA[case.cls]
    y = targets[case.y]
    try:
        if case.act == "pickled":
            state = pickle.dumps(copy.copy(estimator).set_params(**defaults(case.cls)))
            estimator = pickle.loads(state)
        bad = odd_predictions(estimator, X[:5], y)
    except Exception as error:
        return Outcome(f"prediction: {type(error).__name__}", _trace(error))
    # The last step may have made the weights too large for any number.
    most = 1 if case.params.get("precision") == "fp16" else 1e3
    enormous = any(isinstance(v, float | int) and v >= most for v in rates(case.params))
    if bad and enormous:
        return Outcome("diverged", bad)
    return Outcome("odd prediction", bad) if bad else Outcome("fitted")


def rates(params: dict[str, Any]) -> list[Any]:
    """Learning rates among parameters."""
    found = [params.get("lr"), getattr(params.get("optimizer"), "head_lr", None)]
    return [value for value in found if not isinstance(value, bool)]


def odd_predictions(estimator: Any, X: Any, y: Any) -> str:
    """What is wrong with predictions, or nothing."""
    if y is None:
        value = estimator.perplexity(X)
        return "" if 1 <= value <= np.inf else f"perplexity {value}"
    for name in ("decision_function", "predict_proba", "predict"):
        if hasattr(estimator, name):
            found = getattr(estimator, name)(X)
            if not _finite(found):
                return f"{name} is not finite: {found}"
    predicted = estimator.predict(X)
    if len(predicted) != len(X):
        return f"{len(predicted)} predictions for {len(X)} rows"
    if isinstance(y, np.ndarray) and np.shape(predicted)[1:] != y.shape[1:]:
        return f"predictions of shape {predicted.shape}"
    if hasattr(estimator, "classes_") and isinstance(y, list) and not isinstance(y[0], list):
        if not set(predicted.tolist()) <= set(y):
            return f"classes {predicted}"
    return ""


def _finite(found: Any) -> bool:
    """Whether all numbers are finite, of rows of words and of several tasks too."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, pd.DataFrame):
        found = [found[name].to_numpy() for name in found]
    if found is None or isinstance(found, str):
        return True
    if isinstance(found, (list, tuple)) or found.dtype.kind == "O":
        return all(map(_finite, found))
    if found.dtype.kind not in "fiub":
        return True
    return bool(np.isfinite(found).all())


def _usable(estimator: Any, case: Case) -> Outcome | None:
    """Whether an estimator works again with the usual parameters."""
    X, targets, _ = DATA[case.cls]
    y = targets[case.y]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            repr(clone(estimator, safe=False))
            estimator.set_params(**defaults(case.cls))
            bad = odd_predictions(estimator.fit(X, y) if y is not None else estimator.fit(X), X, y)
    except Exception as error:
        return Outcome(f"afterwards: {type(error).__name__}", _trace(error))
    return Outcome("odd prediction afterwards", bad) if bad else None


def foreign(warning: Any) -> bool:
    """Whether a warning is none that a user is meant to read."""
    if issubclass(warning.category, RuntimeWarning):
        return True
    # Of ours are those that say so in their own words; others come out of libraries.
    where = warning.filename
    if "torch.jit" in str(warning.message):  # flex_attention imports what torch itself gives up
        return False
    return "torch" in Path(where).parts or "sklearn" in Path(where).parts


def global_state() -> dict[str, Any]:
    """What belongs to the process and not to us."""
    return {
        "numpy's random state": pickle.dumps(np.random.get_state()),
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "float errors": repr(np.geterr()),
    }


def shown(value: Any) -> Any:
    """A value in a form that shows whether it has been changed."""
    if type(value) in OPTIONS:
        return type(value).__name__, shown(value.get_params(deep=False))
    if isinstance(value, dict):
        return {repr(key): shown(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [shown(part) for part in value]
    if isinstance(value, np.random.RandomState):  # which is meant to move on
        return id(value)
    if isinstance(value, (np.ndarray, pd.Series)):
        return np.asarray(value).tolist().__repr__()
    return repr(value)


def play_quietly(number: int) -> tuple[int, Outcome, float]:
    """A case by its number, its outcome and the seconds it took."""
    begin = time.perf_counter()
    case = make_case(number)
    outcome = play(case)
    if outcome.failed:
        outcome = Outcome(outcome.kind, f"{case}\n{outcome.text}")
    return number, outcome, time.perf_counter() - begin


def _one_thread() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=int, help="play this case alone")
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    if args.case is not None:
        _one_thread()
        case = make_case(args.case)
        print(case)
        outcome = play(case)
        print(f"{outcome.kind}: {outcome.text}")
        return int(outcome.failed)
    begin = time.perf_counter()
    numbers = range(args.first, args.first + args.cases)
    counts: Counter[str] = Counter()
    failures = []
    with multiprocessing.get_context("spawn").Pool(args.jobs, _one_thread) as pool:
        for number, outcome, seconds in pool.imap_unordered(play_quietly, numbers, chunksize=20):
            counts[outcome.kind if not outcome.failed else "failed"] += 1
            if outcome.failed:
                failures.append(number)
                print(f"{outcome.kind}, {seconds:.1f} s\n{outcome.text}\n", flush=True)
    print(f"{sum(counts.values())} cases in {time.perf_counter() - begin:.0f} s: {dict(counts)}")
    for number in sorted(failures):
        print(f"failed: python {Path(__file__).name} --case {number}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
