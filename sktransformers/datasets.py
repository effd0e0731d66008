"""Loaders of text that every machine has."""

import importlib
import inspect
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

__all__ = ["load_docstrings"]

# The public modules that are read, by package. A list instead of a walk: a walk would import tests,
# deprecated modules and modules with missing dependencies. "." is the package's own namespace.
_MODULES = {
    "numpy": ". fft lib.scimath linalg ma polynomial random strings",
    "scipy": """
        cluster.hierarchy cluster.vq constants differentiate fft integrate interpolate io linalg
        ndimage optimize signal signal.windows sparse sparse.csgraph sparse.linalg spatial
        spatial.distance spatial.transform special stats stats.contingency stats.mstats stats.qmc
        stats.sampling""",
    "sklearn": """
        base calibration cluster compose covariance cross_decomposition datasets decomposition
        discriminant_analysis dummy ensemble exceptions feature_extraction feature_extraction.image
        feature_extraction.text feature_selection frozen gaussian_process gaussian_process.kernels
        impute inspection isotonic kernel_approximation kernel_ridge linear_model manifold metrics
        metrics.cluster metrics.pairwise mixture model_selection multiclass multioutput naive_bayes
        neighbors neural_network pipeline preprocessing random_projection semi_supervised svm tree
        utils utils.class_weight utils.extmath utils.graph utils.metaestimators utils.multiclass
        utils.random utils.sparsefuncs utils.validation""",
    "torch": """
        . amp autograd autograd.functional autograd.graph autograd.profiler cuda distributions
        distributions.constraints distributions.transforms fft func fx jit library linalg masked
        nested nn nn.functional nn.init nn.parameter nn.utils nn.utils.parametrizations
        nn.utils.parametrize nn.utils.prune nn.utils.rnn optim optim.lr_scheduler optim.swa_utils
        overrides profiler random serialization signal.windows sparse special utils.checkpoint
        utils.data utils.dlpack""",
    "pandas": ". api.extensions api.indexers api.types errors plotting",
}

# Sentences of fewer words ("Return the sum.") say too little about where they come from.
_MIN_WORDS = 4

_SIGNATURE = re.compile(r"^(\w+ = )?[\w.]+\s*\(.*\)(\s*->.*|\s*--)?$")  # "abs(x) -> Tensor"
_UNDERLINE = re.compile(r"^[-=~]{3,}$")
_NO_PROSE = re.compile(r"\.\.|>>>|--|- |(keyword )?args:", re.IGNORECASE)
_POINTER = re.compile(r"^see |\balias (for|of)\b|\bdeprecated\b", re.IGNORECASE)
_SENTENCE = re.compile(r"^(.+?(?<!e\.g)(?<!i\.e)[.!?])(?=\s+[\"'(]?[A-Z]|\s*$)")
_MATH = re.compile(r":math:`([^`]*)`")
_ROLE = re.compile(r":[a-z:]+:(?=`)")
_TARGET = re.compile(r"`([^`<]+?)\s*<[^`>]+>`_{0,2}")  # `text <target>`
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")  # [text](target)
_CITATION = re.compile(r"\s*\[\w+\]_")
_LIBRARIES = r"(?:numpy|scipy|sklearn|scikits?[-\s]?learn|torch|pandas|matplotlib|cupy|jax)"
_DOTTED = re.compile(rf"\b(?:{_LIBRARIES}|np|sp|pd|plt)(?:\.\w+)*\.(\w+)", re.IGNORECASE)
_NAME = re.compile(rf"\w*{_LIBRARIES}\w*", re.IGNORECASE)


def load_docstrings(
    packages: Sequence[str] = ("numpy", "scipy", "sklearn", "torch"),
    *,
    labels: str = "package",
    min_per_class: int = 20,
    max_per_class: int | None = None,
    random_state: Any = 0,
    return_X_y: bool = False,
) -> Any:
    """Load first sentences of docstrings, labelled with where they come from.

    One row is the first sentence of the docstring of a public function or class of a package that
    is installed anyway. Nothing is downloaded: the docstrings are collected when this function is
    called, which imports the packages. Their versions decide the rows; the same versions give the
    same rows in the same order.

    Parameters
    ----------
    packages : sequence of {"numpy", "scipy", "sklearn", "torch", "pandas"}, \
            default=("numpy", "scipy", "sklearn", "torch")
        The packages to read, by the name they are imported under.

    labels : {"package", "module"}, default="package"
        What is to be predicted: the package (`"scipy"`), or its topic, the package's submodule
        (`"scipy.stats"`). Functions in a package's own namespace (`numpy.mean`) have no topic
        and are left out with `"module"`.

    min_per_class : int, default=20
        Labels with fewer rows are left out.

    max_per_class : int or None, default=None
        Keep at most this many rows of a label, drawn at random. None keeps all.

    random_state : int, RandomState instance or None, default=0
        The draw when `max_per_class` is set; unused otherwise.

    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes

        data : list of str
            The sentences, sorted by label, then by text.
        target : ndarray of str of shape (n_samples,)
            The label of each sentence.
        target_names : list of str
            The labels in sorted order.
        DESCR : str
            What the rows are and how many each label has.

    (data, target) : tuple if `return_X_y` is True

    Notes
    -----
    Signatures, reST markup and doctests are removed. Names of libraries are replaced by
    "library" (`numpy.ndarray` by `ndarray`) so that the answer is not in the text. A sentence that
    occurs twice under one label is kept once; one that occurs under two labels is dropped, as
    nothing could tell where it comes from. Sentences of fewer than four words and mere pointers
    ("See ...", "Alias for ...", deprecations) are dropped as well.

    Examples
    --------
    >>> from sktransformers.datasets import load_docstrings
    >>> docs = load_docstrings(("numpy", "scipy"))
    >>> docs.target_names
    ['numpy', 'scipy']
    >>> X, y = load_docstrings(("scipy", "sklearn"), labels="module", return_X_y=True)
    """
    if isinstance(packages, str):
        packages = (packages,)
    for package in packages:
        if package not in _MODULES:
            raise ValueError(
                f"packages: {package!r} is unknown, expected some of {list(_MODULES)}."
            )
    if labels not in ("package", "module"):
        raise ValueError(f"labels must be 'package' or 'module', got {labels!r}.")

    label_of: dict[str, str | None] = {}  # sentence -> its label, None when it has two
    spelling: dict[str, str] = {}  # sentence without case and punctuation -> as it is shown
    for package in packages:
        for module, docstring in _docstrings(package):
            topic = ".".join(module.split(".")[:2])
            if labels == "module" and topic == package:
                continue
            sentence = _first_sentence(docstring)
            if len(sentence.split()) < _MIN_WORDS or _POINTER.search(sentence):
                continue
            label = package if labels == "package" else topic
            key = " ".join(re.findall(r"\w+", sentence.lower()))
            spelling.setdefault(key, sentence)
            if label_of.setdefault(key, label) != label:
                label_of[key] = None

    rows: dict[str, list[str]] = {}
    for key, owner in label_of.items():
        if owner is not None:
            rows.setdefault(owner, []).append(spelling[key])
    rng = check_random_state(random_state)
    data: list[str] = []
    counts: dict[str, int] = {}
    for label in sorted(rows):
        sentences = sorted(rows[label])
        if len(sentences) < min_per_class:
            continue
        if max_per_class is not None and len(sentences) > max_per_class:
            kept = rng.choice(len(sentences), max_per_class, replace=False)
            sentences = [sentences[i] for i in sorted(kept)]
        data += sentences
        counts[label] = len(sentences)

    target = np.repeat(np.array(list(counts), dtype=str), list(counts.values()))
    if return_X_y:
        return data, target
    return Bunch(
        data=data, target=target, target_names=list(counts), DESCR=_describe(counts, labels)
    )


def _docstrings(package: str) -> list[tuple[str, str]]:
    """Return (module name, docstring) of the public functions and classes of a package."""
    found = []
    # Touching a deprecated name or module warns; that is not for the caller's eyes.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for submodule in _MODULES[package].split():
            name = package if submodule == "." else f"{package}.{submodule}"
            try:
                module = importlib.import_module(name)
            except ImportError:
                importlib.import_module(package)  # if this fails, the caller must know
                continue  # the module is not in this version, or was not built
            declared = getattr(module, "__all__", None)
            for attribute in sorted(declared or vars(module)):
                try:
                    obj = getattr(module, attribute)
                except (AttributeError, ImportError):  # removed, or experimental
                    continue
                # Without __all__, a module's namespace also holds what it imports.
                home = package if declared or inspect.isbuiltin(obj) else name
                if attribute.startswith("_") or not _is_function_or_class(obj, home):
                    continue
                if isinstance(obj.__doc__, str):
                    found.append((name, obj.__doc__))
    return found


def _is_function_or_class(obj: object, home: str) -> bool:
    """Whether `obj` is a function or class that the module `home` or one below it defines."""
    module = getattr(obj, "__module__", None)  # None for some compiled functions
    if module is not None and module != home and not module.startswith(home + "."):
        return False
    return inspect.isroutine(obj) or inspect.isclass(obj) or isinstance(obj, np.ufunc)


def _first_sentence(docstring: str) -> str:
    """Return the first sentence of prose of a docstring, without markup; "" if there is none."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = [line.strip() for line in paragraph.splitlines()]
        if len(lines) > 1 and _UNDERLINE.match(lines[1]):
            return ""  # the first section of a docstring without a summary
        text = " ".join(lines)
        if _NO_PROSE.match(text) or _SIGNATURE.match(text):
            continue
        match = _SENTENCE.match(text)
        return _strip(match.group(1) if match else text)
    return ""


def _strip(text: str) -> str:
    """Remove reST markup and mask the names of libraries."""
    text = _MATH.sub(lambda match: match.group(1) if match.group(1).isalnum() else "", text)
    text = _TARGET.sub(r"\1", _ROLE.sub("", text))
    text = _CITATION.sub("", _LINK.sub(r"\1", text))
    text = re.sub(r"\\ |[`*~\\]|\|(?=\w)|(?<=\w)\|", "", text)
    text = _NAME.sub("library", _DOTTED.sub(r"\1", text))
    return " ".join(text.split()).rstrip(" :")


def _describe(counts: dict[str, int], labels: str) -> str:
    table = "\n".join(f"    {label}: {count}" for label, count in counts.items())
    return f"""\
Docstrings of installed packages
--------------------------------

First sentences of the docstrings of public functions and classes, collected from the
packages installed on this machine. The label is the {labels}. Markup is removed, names of
libraries are replaced by "library", sentences that occur under two labels are dropped.

Rows per label:

{table}
"""
