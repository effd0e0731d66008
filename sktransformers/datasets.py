"""Loaders of text that every machine has."""

import ast
import importlib
import importlib.util
import inspect
import io
import re
import tokenize
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

__all__ = ["load_docstring_pairs", "load_docstrings", "load_python_tokens"]

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

# Modules of the standard library that are written in Python, in one file, and here to stay.
_STDLIB = """
    argparse bdb calendar cmd configparser csv difflib doctest filecmp fileinput fractions ftplib
    getopt gettext glob gzip imaplib ipaddress mailbox mimetypes netrc optparse pickle platform
    plistlib poplib pprint pstats queue quopri sched selectors shelve shlex shutil smtplib
    socketserver statistics subprocess tarfile tempfile textwrap threading timeit trace uuid wave
    webbrowser"""

# Lines of code with fewer words show too little, longer ones are tables.
_WORDS_OF_A_LINE = range(4, 41)

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


def load_docstring_pairs(
    packages: Sequence[str] = ("numpy", "scipy", "sklearn", "torch"),
    *,
    min_per_topic: int = 30,
    random_state: Any = 0,
    return_X_y: bool = False,
) -> Any:
    """Load pairs of sentences of docstrings, labelled with whether their topic is the same.

    The sentences are those of :func:`load_docstrings`; the topic of a sentence is the submodule
    it comes from, such as `scipy.stats`. Half of the sentences are paired with another one of
    their topic, the others with one of another topic of the same package. Most pairs on one
    topic have no word of content in common, so that counting common words does not go far.

    Parameters
    ----------
    packages : sequence of {"numpy", "scipy", "sklearn", "torch", "pandas"}, \
            default=("numpy", "scipy", "sklearn", "torch")
        The packages to read, by the name they are imported under.

    min_per_topic : int, default=30
        Topics with fewer sentences are left out.

    random_state : int, RandomState instance or None, default=0
        Which sentences are paired, and the order of the rows.

    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes

        data : list of (str, str)
            The pairs, in random order. A sentence is in one pair only, so that rows held out
            for testing hold nothing that was seen in training.
        target : ndarray of str of shape (n_samples,)
            `"same"` or `"other"`.
        target_names : list of str
            `["other", "same"]`.
        DESCR : str
            What the rows are and how many each label has.

    (data, target) : tuple if `return_X_y` is True

    Examples
    --------
    >>> from sktransformers.datasets import load_docstring_pairs
    >>> X, y = load_docstring_pairs(("scipy",), return_X_y=True)
    >>> len(X[0]), sorted(set(y.tolist()))
    (2, ['other', 'same'])
    """
    docs = load_docstrings(packages, labels="module", min_per_class=min_per_topic)
    rng = check_random_state(random_state)
    same: list[tuple[str, str]] = []
    left: dict[str, list[tuple[str, str]]] = {}  # package -> its (topic, sentence) to be paired
    for topic in docs.target_names:
        sentences = [docs.data[i] for i in rng.permutation(np.flatnonzero(docs.target == topic))]
        n = len(sentences) // 4
        same += zip(sentences[:n], sentences[n : 2 * n])
        rest = left.setdefault(topic.split(".")[0], [])
        rest += [(topic, sentence) for sentence in sentences[2 * n :]]
    other = [pair for rest in left.values() for pair in _cross_pairs(rest, rng)]

    order = rng.permutation(len(same) + len(other))
    data = [(same + other)[i] for i in order]
    target = np.where(order < len(same), "same", "other")
    if return_X_y:
        return data, target
    descr = _PAIRS_DESCR.format(same=len(same), other=len(other))
    return Bunch(data=data, target=target, target_names=["other", "same"], DESCR=descr)


def _cross_pairs(rows: list[tuple[str, str]], rng: Any) -> list[tuple[str, str]]:
    """Pair sentences of different topics, given as (topic, sentence); some may remain."""
    rows = [rows[i] for i in rng.permutation(len(rows))]
    pairs = []
    while rows:
        topic, sentence = rows.pop()
        match = next((i for i, row in enumerate(rows) if row[0] != topic), None)
        if match is None:
            break
        pairs.append((sentence, rows.pop(match)[1]))
    return pairs


_PAIRS_DESCR = """\
Pairs of sentences of docstrings
--------------------------------

Two first sentences of docstrings of the packages installed on this machine. The label says
whether both come from the same submodule of a package ("same") or from two of its submodules
("other"). Each sentence is in one pair only.

Rows per label:

    other: {other}
    same: {same}
"""


def load_python_tokens(
    modules: Sequence[str] | None = None,
    *,
    max_samples: int | None = 2000,
    random_state: Any = 0,
    return_X_y: bool = False,
) -> Any:
    """Load lines of Python code, cut into words, with a tag that says what each word is for.

    The lines are statements of modules of the standard library, which comes with every Python;
    its version decides the rows. The tags are read from the syntax tree, which sees what the
    word alone does not tell: `name` may be a parameter here and a variable there.

    Parameters
    ----------
    modules : sequence of str or None, default=None
        Modules to read, by the name they are imported under; they are not imported. None means
        about fifty of the standard library.

    max_samples : int or None, default=2000
        Keep at most this many lines, drawn at random. None keeps all.

    random_state : int, RandomState instance or None, default=0
        The draw.

    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes

        data : list of list of str
            The words of each line, in the order of the modules.
        target : ndarray of object and shape (n_samples,)
            Lists with the tag of each word, in BIO notation: the first word of a span of type
            x is tagged `B-x`, the others `I-x`, words outside of spans `O`. `os.path.join(a)`
            begins with a span of five words: a dotted name is one span, dots included.
        target_names : list of str
            The tags in sorted order.
        groups : ndarray of str of shape (n_samples,)
            The module of each line, for splits that keep modules apart.
        DESCR : str
            What the rows and the types of spans are, and how many spans of each type there are.

    (data, target) : tuple if `return_X_y` is True

    Notes
    -----
    Comments are removed and strings are shown as `"..."`. A line that occurs twice is kept once;
    lines with f-strings, with other characters than ASCII, and those of fewer than 4 or more
    than 40 words are dropped.

    Examples
    --------
    >>> from sktransformers.datasets import load_python_tokens
    >>> X, y = load_python_tokens(["shlex"], return_X_y=True)
    >>> len(X) == len(y) and all(len(words) == len(tags) for words, tags in zip(X, y))
    True
    """
    if isinstance(modules, str):
        modules = (modules,)
    seen: set[tuple[str, ...]] = set()
    rows: list[tuple[list[str], list[str], str]] = []
    for module in _STDLIB.split() if modules is None else modules:
        for words, tags in _tagged_lines(_source(module)):
            if tuple(words) not in seen:
                seen.add(tuple(words))
                rows.append((words, tags, module))
    if max_samples is not None and len(rows) > max_samples:
        rng = check_random_state(random_state)
        rows = [rows[i] for i in sorted(rng.choice(len(rows), max_samples, replace=False))]

    data = [words for words, _, _ in rows]
    target = np.empty(len(rows), dtype=object)
    target[:] = [tags for _, tags, _ in rows]
    if return_X_y:
        return data, target
    flat = [tag for tags in target for tag in tags]
    table = "\n".join(
        f"    {kind}: {flat.count('B-' + kind)}  ({meaning})" for kind, meaning in _KINDS.items()
    )
    return Bunch(
        data=data,
        target=target,
        target_names=sorted(set(flat)),
        groups=np.array([module for _, _, module in rows], dtype=str),
        DESCR=_TOKENS_DESCR.format(table=table),
    )


_KINDS = {
    "argument": "name of an argument in a call, key in f(key=1)",
    "attribute": "dotted name that is not called",
    "definition": "name of a function or class where it is defined",
    "exception": "what is raised or caught",
    "function": "what is called, a dotted name or its last part",
    "module": "what is imported, or imported from",
    "parameter": "name of a parameter where its function is defined",
    "variable": "name that gets a value",
}

_TOKENS_DESCR = """\
Words of Python code
--------------------

Lines of modules of the standard library, cut into words. The tags mark spans in BIO notation;
they are read from the syntax tree.

Spans of each type:

{table}
"""


def _source(module: str) -> str:
    """Source of a module; "" if this Python has none."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package it is in
        spec = None
    if spec is None:
        raise ValueError(f"modules: there is no module {module!r}.")
    read = getattr(spec.loader, "get_source", None)
    return (read(module) if read else None) or ""


def _tagged_lines(source: str) -> list[tuple[list[str], list[str]]]:
    """Words and tags of each logical line of a module that shows enough of the language."""
    tokens, lines = _code_tokens(source)
    tags = _Tags(tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of syntax that will change
        tags.visit(ast.parse(source))
    found = []
    for line in lines:
        words: list[str] = []
        kinds: list[str] = []
        for i in line:
            word = '"..."' if tokens[i].type == tokenize.STRING else tokens[i].string
            if word == '"..."' and words[-1:] == [word]:
                continue  # strings side by side are one
            words.append(word)
            kinds.append(tags.found.get(i, "O"))
        if len(words) in _WORDS_OF_A_LINE and not any(map(_is_odd, (tokens[i] for i in line))):
            found.append((words, kinds))
    return found


def _code_tokens(source: str) -> tuple[list[tokenize.TokenInfo], list[range]]:
    """Tokens without comments and layout, and which of them make each logical line."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens: list[tokenize.TokenInfo] = []
    lines, begin = [], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            lines.append(range(begin, len(tokens)))
            begin = len(tokens)
        elif token.type not in layout:
            tokens.append(token)
    return tokens, lines


def _is_odd(token: tokenize.TokenInfo) -> bool:
    """Whether a token is read differently by different Pythons, or stands at an unknown place."""
    prefix = re.split("[\"']", token.string, maxsplit=1)[0]
    formatted = tokenize.tok_name[token.type].startswith(("FSTRING", "TSTRING"))
    formatted |= token.type == tokenize.STRING and "f" in prefix.lower()
    return formatted or not token.line.isascii()


class _Tags(ast.NodeVisitor):
    """Collect the tags of a module's tokens in `found`, by the token's position in the list."""

    def __init__(self, tokens: list[tokenize.TokenInfo]):
        self.tokens = tokens
        self.starting = {token.start: i for i, token in enumerate(tokens)}
        self.ending = {token.end: i for i, token in enumerate(tokens)}
        self.found: dict[int, str] = {}

    def mark(self, kind: str, first: int | None, last: int | None = None) -> None:
        """Tag a span of tokens that has no tag yet: parents are visited before children."""
        if first is None:
            return
        span = range(first, (first if last is None else last) + 1)
        if not any(i in self.found for i in span):
            self.found.update({i: f"{'B' if i == first else 'I'}-{kind}" for i in span})

    def start(self, node: Any) -> int | None:
        return self.starting.get((node.lineno, node.col_offset))

    def end(self, node: Any) -> int | None:
        return self.ending.get((node.end_lineno, node.end_col_offset))

    def string(self, i: int | None) -> str:
        return "" if i is None or not 0 <= i < len(self.tokens) else self.tokens[i].string

    def mark_dotted(self, kind: str, node: ast.expr) -> None:
        """Tag a name with its dots, or the last part of what does not begin with a name."""
        if isinstance(node, ast.Name):
            self.mark(kind, self.start(node))
        if not isinstance(node, ast.Attribute):
            return
        first = last = self.end(node)
        value: ast.expr = node
        while isinstance(value, ast.Attribute) and first is not None:
            value = value.value
            name = getattr(value, "attr", getattr(value, "id", None))
            if name is None or self.string(first - 2) != name:
                first = last
                break
            first -= 2
        self.mark(kind, first, last)

    def mark_alias(self, i: int | None) -> None:
        """Tag the name behind "as", if the token is one."""
        if i is not None and self.string(i) == "as":
            self.mark("variable", i + 1)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.mark("variable", self.start(node))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.mark_dotted("attribute", node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.mark_dotted("function", node.func)
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg is not None:
            self.mark("argument", self.start(node))
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self.mark("parameter", self.start(node))
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            self.mark_dotted("exception", raised)
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            for kind in node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]:
                self.mark_dotted("exception", kind)
            end = self.end(node.type)
            self.mark_alias(None if end is None else end + 1)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            first = self.start(alias)
            if first is not None:
                last = first + 2 * alias.name.count(".")
                self.mark("module", first, last)
                self.mark_alias(last + 1)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        first = self.start(node)
        if node.module is not None and first is not None:
            first += 1
            while self.string(first).strip(".") == "":  # as in "from ..package import name"
                first += 1
            self.mark("module", first, first + 2 * node.module.count("."))
        for alias in node.names:
            at = self.start(alias)
            self.mark_alias(None if at is None else at + 1)

    def _visit_definition(self, node: Any) -> None:
        i = self.start(node)
        while i is not None and self.string(i) in ("async", "def", "class"):
            i += 1
        self.mark("definition", i)
        self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _visit_definition
