"""What maps vectors to logits."""

from numbers import Integral, Real

from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions

from sktransformers.specs.spec import Spec

_ACTIVATIONS = StrOptions({"relu", "gelu", "tanh", "sigmoid"})


class Linear(Spec):
    """Linear head, y = softmax(W h + b); with an activation f, y = softmax(W f(h) + b).

    Parameters
    ----------
    dropout : float in [0, 1), default=0.1
        Probability of dropping an entry of the vector during training.
    activation : {"relu", "gelu", "tanh", "sigmoid"} or None, default=None
        Applied to the vector first.
    bias : bool, default=True
        Whether there is a b. Without it, and with ``pooling="last"``, this is the head that
        decoders have in the transformers library, which then reads what is saved.
    """

    _parameter_constraints = {  # noqa: RUF012
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "activation": [_ACTIVATIONS, None],
        "bias": ["boolean"],
    }

    def __init__(self, dropout=0.1, activation=None, bias=True):
        self.dropout = dropout
        self.activation = activation
        self.bias = bias

    def _layers(self):
        return {
            "hidden_sizes": (),
            "activation": self.activation,
            "dropout": self.dropout,
            "bias": self.bias,
            "batch_norm": False,
            "layer_norm": False,
        }


class MLPHead(Spec):
    """Head with hidden layers, y = softmax(W f(V h + c) + b) for one of them.

    Parameters
    ----------
    hidden_sizes : tuple of int, default=(256,)
        Width of each hidden layer.
    activation : {"relu", "gelu", "tanh", "sigmoid"}, default="relu"
        Applied behind each hidden layer.
    batch_norm : bool, default=False
        Whether each hidden layer's outputs are normalised over the batch, before the
        activation (Ioffe and Szegedy 2015, arXiv:1502.03167). The batch is that of
        ``batch_size`` rows, however few of them the device sees at once.
    layer_norm : bool, default=False
        Whether each row of a hidden layer's outputs is normalised, before the activation (Ba
        et al. 2016, arXiv:1607.06450).
    dropout : float in [0, 1), default=0.1
        Probability of dropping an entry behind each hidden layer during training.
    """

    _parameter_constraints = {  # noqa: RUF012
        "hidden_sizes": [tuple, list],
        "activation": [_ACTIVATIONS],
        "batch_norm": ["boolean"],
        "layer_norm": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        hidden_sizes=(256,),
        activation="relu",
        batch_norm=False,
        layer_norm=False,
        dropout=0.1,
    ):
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.batch_norm = batch_norm
        self.layer_norm = layer_norm
        self.dropout = dropout

    def _validate_params(self):
        super()._validate_params()
        size = Interval(Integral, 1, None, closed="left")
        sizes = self.hidden_sizes
        are_sizes = all(size.is_satisfied_by(x) and not isinstance(x, bool) for x in sizes)
        if not sizes or not are_sizes:
            raise InvalidParameterError(
                f"The 'hidden_sizes' parameter of MLPHead must be one or more integers of at "
                f"least 1. Got {self.hidden_sizes!r} instead."
            )

    def _layers(self):
        return {
            "hidden_sizes": tuple(self.hidden_sizes),
            "activation": self.activation,
            "dropout": self.dropout,
            "bias": True,
            "batch_norm": self.batch_norm,
            "layer_norm": self.layer_norm,
        }


class CRF(Spec):
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
        return Linear(self.dropout)._layers()


class NativeHead(Spec):
    """The head that the backbone's family has in the transformers library.

    The one of its ``AutoModelForSequenceClassification`` or
    ``AutoModelForTokenClassification``, pooling and dropout included. ``"native"`` stands for
    it.
    """
