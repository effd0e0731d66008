"""Option objects: what a string parameter of an estimator stands for, with its options.

They are small scikit-learn estimators without ``fit``: ``get_params``, ``set_params``
and ``clone`` work, so ``GridSearchCV`` reaches their options through ``clf__optimizer__eps``
or ``clf__head__dropout``. They hold parameters; ``fit`` checks them.
"""

from numbers import Integral, Real

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"


class Backbone(BaseEstimator):
    """A pretrained model, where its name alone does not say enough.

    Parameters
    ----------
    name : str, path or PreTrainedModel, default="sentence-transformers/all-MiniLM-L6-v2"
        Id on the Hugging Face hub, directory, or a loaded model. A loaded model is
        copied and never trained in place; it keeps its own data type and attention kernel.
    tokenizer : str, path or tokenizer, default=None
        Where the tokenizer comes from; None means from the same place as the model.
    revision : str, default=None
        Branch, tag or commit of the hub repository. None means its main branch.
    token : str or bool, default=None
        Access token for private repositories; True means the one that
        ``hf auth login`` stored. A token given as text shows in the repr and in pickles.
    dtype : str, default="float32"
        Data type of the weights, by the name torch gives it.
    attn_implementation : str, default=None
        Attention kernel, as in ``from_pretrained``: ``"eager"``, ``"sdpa"``,
        ``"flash_attention_2"``. None leaves the choice to transformers.
    trust_remote_code : bool, default=False
        Whether code that lies in the hub repository may run on this machine.
    pretrained : bool, default=True
        False takes the architecture and the tokenizer but random weights, for comparison.

    Examples
    --------
    >>> from sktransformers import Backbone
    >>> Backbone("FacebookAI/xlm-roberta-base", attn_implementation="sdpa").revision is None
    True
    """

    _parameter_constraints = {  # noqa: RUF012
        "name": "no_validation",
        "tokenizer": "no_validation",
        "revision": [str, None],
        "token": [str, "boolean", None],
        "dtype": [str],
        "attn_implementation": [str, None],
        "trust_remote_code": ["boolean"],
        "pretrained": ["boolean"],
    }

    def __init__(
        self,
        name=DEFAULT_BACKBONE,
        *,
        tokenizer=None,
        revision=None,
        token=None,
        dtype="float32",
        attn_implementation=None,
        trust_remote_code=False,
        pretrained=True,
    ):
        self.name = name
        self.tokenizer = tokenizer
        self.revision = revision
        self.token = token
        self.dtype = dtype
        self.attn_implementation = attn_implementation
        self.trust_remote_code = trust_remote_code
        self.pretrained = pretrained


_ACTIVATIONS = StrOptions({"relu", "gelu", "tanh", "sigmoid"})


class Linear(BaseEstimator):
    """Linear head, y = softmax(W h + b); with an activation f, y = softmax(W f(h) + b).

    Parameters
    ----------
    dropout : float in [0, 1), default=0.1
        Probability of dropping an entry of the vector during training.
    activation : {"relu", "gelu", "tanh", "sigmoid"} or None, default=None
        Applied to the vector first.
    """

    _parameter_constraints = {  # noqa: RUF012
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "activation": [_ACTIVATIONS, None],
    }

    def __init__(self, dropout=0.1, activation=None):
        self.dropout = dropout
        self.activation = activation

    def _layers(self):
        return {"hidden_sizes": (), "activation": self.activation, "dropout": self.dropout}


class MLPHead(BaseEstimator):
    """Head with hidden layers, y = softmax(W f(V h + c) + b) for one of them.

    Parameters
    ----------
    hidden_sizes : tuple of int, default=(256,)
        Width of each hidden layer.
    activation : {"relu", "gelu", "tanh", "sigmoid"}, default="relu"
        Applied behind each hidden layer.
    dropout : float in [0, 1), default=0.1
        Probability of dropping an entry behind each hidden layer during training.
    """

    _parameter_constraints = {  # noqa: RUF012
        "hidden_sizes": [tuple, list],
        "activation": [_ACTIVATIONS],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(self, hidden_sizes=(256,), activation="relu", dropout=0.1):
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.dropout = dropout

    def _validate_params(self):
        super()._validate_params()
        size = Interval(Integral, 1, None, closed="left")
        if not self.hidden_sizes or not all(map(size.is_satisfied_by, self.hidden_sizes)):
            raise InvalidParameterError(
                f"The 'hidden_sizes' parameter of MLPHead must be one or more integers of at "
                f"least 1. Got {self.hidden_sizes!r} instead."
            )

    def _layers(self):
        return {
            "hidden_sizes": tuple(self.hidden_sizes),
            "activation": self.activation,
            "dropout": self.dropout,
        }


class CRF(BaseEstimator):
    """Linear-chain conditional random field over the tags of a sentence.

    Parameters
    ----------
    constraints : {"auto", "bio", "bioes"} or None, default="auto"
        Which neighbouring tags are impossible. ``"bio"``: I-x only behind B-x or I-x;
        ``"bioes"`` (and BILOU): spans begin with B or S and end with E or S; ``"auto"``
        looks at the tags; None forbids nothing.
    dropout : float in [0, 1), default=0.1
        Probability of dropping an entry of a word's vector during training.
    """

    _parameter_constraints = {  # noqa: RUF012
        "constraints": [StrOptions({"auto", "bio", "bioes"}), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(self, constraints="auto", dropout=0.1):
        self.constraints = constraints
        self.dropout = dropout

    def _layers(self):
        return {"hidden_sizes": (), "activation": None, "dropout": self.dropout}


class Windows(BaseEstimator):
    """Read all of a long text, in windows of ``max_length`` tokens.

    Parameters
    ----------
    stride : int, default=None
        Tokens from the start of one window to the start of the next. None means windows
        side by side, of equal length, for texts and pairs; for tagging, steps of half a
        window, so that every word has context on both sides.
    pooling : {"mean", "max", "attention"}, default="mean"
        How the vectors of the windows become one. Not used for tagging, where every word
        is read in the window that shows most of its context.
    max_windows : int, default=None
        Windows of a text that are read at most; None reads all. Not for tagging.
    """

    _parameter_constraints = {  # noqa: RUF012
        "stride": [Interval(Integral, 1, None, closed="left"), None],
        "pooling": [StrOptions({"mean", "max", "attention"})],
        "max_windows": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, stride=None, pooling="mean", max_windows=None):
        self.stride = stride
        self.pooling = pooling
        self.max_windows = max_windows


class AdamW(BaseEstimator):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101).

    The update of a weight w with gradient g at step t is, as in Algorithm 2 there::

        m = beta1 * m + (1 - beta1) * g            m_hat = m / (1 - beta1 ** t)
        v = beta2 * v + (1 - beta2) * g ** 2       v_hat = v / (1 - beta2 ** t)
        w = w - lr_t * (m_hat / (sqrt(v_hat) + eps) + weight_decay * w)

    Biases and normalisation weights are not decayed.

    Parameters
    ----------
    betas : tuple of two floats in [0, 1), default=(0.9, 0.999)
        Decay rates of the running mean of the gradient and of its square.
    eps : float, default=1e-8
        Term added to the denominator.
    head_lr : float, default=None
        Peak learning rate of pooling and head; None means ten times that of the backbone.
    max_grad_norm : float or None, default=1.0
        Gradients are scaled down to this norm; None leaves them alone.
    """

    _parameter_constraints = {  # noqa: RUF012
        "betas": [tuple, list],
        "eps": [Interval(Real, 0, None, closed="neither")],
        "head_lr": [Interval(Real, 0, None, closed="neither"), None],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(self, betas=(0.9, 0.999), eps=1e-8, head_lr=None, max_grad_norm=1.0):
        self.betas = betas
        self.eps = eps
        self.head_lr = head_lr
        self.max_grad_norm = max_grad_norm

    def _validate_params(self):
        super()._validate_params()
        rate = Interval(Real, 0, 1, closed="left")
        if len(self.betas) != 2 or not all(map(rate.is_satisfied_by, self.betas)):
            raise InvalidParameterError(
                f"The 'betas' parameter of AdamW must be two floats in the range [0.0, 1.0). "
                f"Got {self.betas!r} instead."
            )


_NAMED = {"linear": Linear, "adamw": AdamW, "window": Windows}


def named(option):
    """The option object that a string stands for; objects as they are."""
    return _NAMED[option]() if isinstance(option, str) else option
