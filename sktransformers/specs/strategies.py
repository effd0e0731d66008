"""What is trained."""

from numbers import Integral, Real

from sklearn.utils._param_validation import Interval, StrOptions

from sktransformers.specs.spec import LARGEST, Spec


class GradualUnfreezing(Spec):
    """Train the head first, then one more block of the backbone at a time, from the top.

    As in Howard and Ruder 2018 (arXiv:1801.06146), section 3.3. In the first
    ``epochs_per_block`` epochs only pooling and head are trained, in the next the top block
    and the final norm too, and so on; after all blocks come the embeddings. With fewer epochs
    than that the lowest parts are never trained. A model that answers in text has no head beside
    its backbone: it begins with the top block of the decoder.

    Parameters
    ----------
    epochs_per_block : int, default=1
        Epochs after which one more block is trained.
    """

    _parameter_constraints = {  # noqa: RUF012
        "epochs_per_block": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, epochs_per_block=1):
        self.epochs_per_block = epochs_per_block


class LoRA(Spec):
    r"""Low-rank adapters beside frozen weights (Hu et al. 2022, arXiv:2106.09685).

    A linear layer's frozen weight W acts as :math:`W + \frac{\alpha}{r} B A` with trained
    A of shape (r, d_in) and B of shape (d_out, r), which starts at zero. Needs the library
    PEFT (``pip install sktransformers[peft]``). After ``fit`` the adapters are merged, so that
    prediction costs what it does without; their own weights stay in the model.

    Parameters
    ----------
    r : int, default=8
        Rank.
    alpha : float, default=16
        Scale of the adapters, before it is divided by the rank.
    dropout : float in [0, 1), default=0.0
        Probability of dropping an entry of what an adapter reads, in training.
    target_modules : "auto" or list of str, default="auto"
        Names, or ends of names, of the linear layers that get an adapter. ``"auto"`` means
        all of the backbone's blocks.
    """

    _parameter_constraints = {  # noqa: RUF012
        "r": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, LARGEST, closed="neither")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "target_modules": [StrOptions({"auto"}), list, tuple],
    }

    def __init__(self, r=8, alpha=16, dropout=0.0, target_modules="auto"):
        self.r = r
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules


class BitFit(Spec):
    """Train the backbone's bias terms alone, beside the head.

    As in Ben Zaken et al. 2022 (arXiv:2106.10199). Biases of normalisation layers count.
    """
