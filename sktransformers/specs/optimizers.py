"""Optimizers.

The estimators' ``weight_decay`` is decoupled with each of them: before a step at rate lr_t,
weights are multiplied with 1 - lr_t * weight_decay. ``l2`` is a term of the loss. Under plain SGD
the two are one; under Adam they differ (Loshchilov and Hutter 2019, arXiv:1711.05101, section
2): a penalty's gradient is divided by the root of the squared gradients' mean like any other, so
that weights with large gradients are penalised less, whereas decay shrinks all alike.
"""

from numbers import Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions

from sktransformers.specs.spec import LARGEST, Spec, shared_parameters

_POSITIVE = Interval(Real, 0, LARGEST, closed="neither")
_RATE = Interval(Real, 0, 1, closed="left")

_documented = shared_parameters(r"""
head_lr : float, default=None
    Peak learning rate of pooling and head; None means ten times that of the backbone.
layer_decay : float in (0, 1], default=1.0
    Factor on the learning rate from one block of the backbone to the one below it: the
    final norm and the top block have that of the backbone, the embeddings the smallest.
max_grad_norm : float or None, default=1.0
    Gradients are scaled down to this norm; None leaves them alone.
l2 : float, default=0.0
    Penalty :math:`\frac{l2}{2} \sum w^2` that is added to the loss, for the weights that
    ``weight_decay`` acts on. Its gradient counts in ``grad_norm``; the losses of the history
    are those of the data alone.
averaging : {"ema", "swa"}, EMA, SWA or None, default=None
    Whether the fitted weights are an average over training steps: `EMA` or `SWA`. So are those
    that validation rows are scored with.
""")


class EMA(Spec):
    r"""Exponential moving average of the weights, :math:`a = d a + (1 - d) w` after each step.

    It begins with the weights before training. The decay of step t = 0, 1, ... is
    :math:`\min(d, (1 + t) / (10 + t))`, so that early weights are forgotten.

    Parameters
    ----------
    decay : float in [0, 1), default=0.99
        d above.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {"decay": [_RATE]}

    def __init__(self, decay=0.99):
        self.decay = decay


class SWA(Spec):
    """Mean of the weights over the last steps (Izmailov et al. 2018, arXiv:1803.05407).

    Best with a schedule that does not end at zero, such as ``"constant"`` or ``"cyclical"``.
    With early stopping the best epoch is kept, be it one before the average began.

    Parameters
    ----------
    start : float in [0, 1), default=0.75
        Share of all steps before the first that counts. Until then epochs are scored with the
        weights of the moment.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {"start": [_RATE]}

    def __init__(self, start=0.75):
        self.start = start


class OptimizerSpec(Spec):
    """What every optimizer has."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "head_lr": [_POSITIVE, None],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "l2": [Interval(Real, 0, LARGEST, closed="left")],
        "averaging": [StrOptions({"ema", "swa"}), EMA, SWA, None],
    }

    def _validate_params(self):
        super()._validate_params()
        betas = getattr(self, "betas", (0.0, 0.0))
        if len(betas) != 2 or not all(map(_RATE.is_satisfied_by, betas)):
            raise InvalidParameterError(
                f"The 'betas' parameter of {type(self).__name__} must be two floats in the range "
                f"[0.0, 1.0). Got {betas!r} instead."
            )
        if isinstance(self.averaging, Spec):
            self.averaging._validate_params()


@_documented
class AdamW(OptimizerSpec):
    r"""Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101).

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
    {shared}
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **OptimizerSpec._parameter_constraints,
        "betas": [tuple, list],
        "eps": [_POSITIVE],
    }

    def __init__(
        self,
        betas=(0.9, 0.999),
        eps=1e-8,
        head_lr=None,
        layer_decay=1.0,
        max_grad_norm=1.0,
        l2=0.0,
        averaging=None,
    ):
        self.betas = betas
        self.eps = eps
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.max_grad_norm = max_grad_norm
        self.l2 = l2
        self.averaging = averaging


@_documented
class Adam(OptimizerSpec):
    r"""Adam (Kingma and Ba 2015, arXiv:1412.6980), with AMSGrad on request.

    With the estimators' decoupled ``weight_decay`` it is `AdamW`; ``weight_decay=0`` and ``l2``
    make it Adam with an L2 penalty.

    Parameters
    ----------
    betas : tuple of two floats in [0, 1), default=(0.9, 0.999)
        Decay rates of the running mean of the gradient and of its square.
    eps : float, default=1e-8
        Term added to the denominator.
    amsgrad : bool, default=False
        Whether the denominator is the largest so far (Reddi et al. 2018, arXiv:1904.09237).
    {shared}
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **OptimizerSpec._parameter_constraints,
        "betas": [tuple, list],
        "eps": [_POSITIVE],
        "amsgrad": ["boolean"],
    }

    def __init__(
        self,
        betas=(0.9, 0.999),
        eps=1e-8,
        amsgrad=False,
        head_lr=None,
        layer_decay=1.0,
        max_grad_norm=1.0,
        l2=0.0,
        averaging=None,
    ):
        self.betas = betas
        self.eps = eps
        self.amsgrad = amsgrad
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.max_grad_norm = max_grad_norm
        self.l2 = l2
        self.averaging = averaging


@_documented
class RAdam(OptimizerSpec):
    r"""Rectified Adam (Liu et al. 2020, arXiv:1908.03265), which needs no warm-up.

    Parameters
    ----------
    betas : tuple of two floats in [0, 1), default=(0.9, 0.999)
        Decay rates of the running mean of the gradient and of its square.
    eps : float, default=1e-8
        Term added to the denominator.
    {shared}
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **OptimizerSpec._parameter_constraints,
        "betas": [tuple, list],
        "eps": [_POSITIVE],
    }

    def __init__(
        self,
        betas=(0.9, 0.999),
        eps=1e-8,
        head_lr=None,
        layer_decay=1.0,
        max_grad_norm=1.0,
        l2=0.0,
        averaging=None,
    ):
        self.betas = betas
        self.eps = eps
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.max_grad_norm = max_grad_norm
        self.l2 = l2
        self.averaging = averaging


@_documented
class SGD(OptimizerSpec):
    r"""Stochastic gradient descent with momentum (Sutskever et al. 2013).

    The update is ``b = momentum * b + g`` and ``w = w - lr_t * b``. Its rates have nothing to do
    with those of Adam: see ``find_lr`` of the estimators.

    Parameters
    ----------
    momentum : float in [0, 1), default=0.9
        Share of the last update that goes into the next.
    nesterov : bool, default=False
        Whether the gradient is that of the point which momentum leads to.
    {shared}
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **OptimizerSpec._parameter_constraints,
        "momentum": [_RATE],
        "nesterov": ["boolean"],
    }

    def _validate_params(self):
        super()._validate_params()
        if self.nesterov and not self.momentum:
            raise InvalidParameterError("SGD(nesterov=True) needs a momentum above zero. Got 0.")

    def __init__(
        self,
        momentum=0.9,
        nesterov=False,
        head_lr=None,
        layer_decay=1.0,
        max_grad_norm=1.0,
        l2=0.0,
        averaging=None,
    ):
        self.momentum = momentum
        self.nesterov = nesterov
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.max_grad_norm = max_grad_norm
        self.l2 = l2
        self.averaging = averaging


@_documented
class Adagrad(OptimizerSpec):
    r"""Adagrad (Duchi et al. 2011).

    Every weight's gradient is divided by the root of the sum of its squares so far.

    Parameters
    ----------
    eps : float, default=1e-10
        Term added to the denominator.
    {shared}
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **OptimizerSpec._parameter_constraints,
        "eps": [_POSITIVE],
    }

    def __init__(
        self,
        eps=1e-10,
        head_lr=None,
        layer_decay=1.0,
        max_grad_norm=1.0,
        l2=0.0,
        averaging=None,
    ):
        self.eps = eps
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.max_grad_norm = max_grad_norm
        self.l2 = l2
        self.averaging = averaging


@_documented
class Adafactor(OptimizerSpec):
    r"""Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), with the rate of the schedule.

    For a matrix it keeps the row and column sums of the squared gradients' mean instead of all
    entries, and no mean of the gradients: a fraction of Adam's memory.

    Parameters
    ----------
    beta2_decay : float, default=-0.8
        The decay rate of squared gradients at step t is 1 - t ** beta2_decay.
    eps : float, default=1e-3
        Smallest scale of a weight that its update is relative to.
    clip : float of at least 1, default=1.0
        Root mean square that the update of a weight is scaled down to.
    {shared}
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **OptimizerSpec._parameter_constraints,
        "beta2_decay": [Interval(Real, None, 0, closed="right")],
        "eps": [_POSITIVE],
        "clip": [Interval(Real, 1, LARGEST, closed="left")],
    }

    def __init__(
        self,
        beta2_decay=-0.8,
        eps=1e-3,
        clip=1.0,
        head_lr=None,
        layer_decay=1.0,
        max_grad_norm=1.0,
        l2=0.0,
        averaging=None,
    ):
        self.beta2_decay = beta2_decay
        self.eps = eps
        self.clip = clip
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.max_grad_norm = max_grad_norm
        self.l2 = l2
        self.averaging = averaging


@_documented
class TorchOptimizer(OptimizerSpec):
    r"""Any optimizer of ``torch.optim``, or a class like them.

    Parameters
    ----------
    name : str or type, default="NAdam"
        Name of a class in ``torch.optim``, or a subclass of ``torch.optim.Optimizer``.
    options : dict, default=None
        Keywords for it. ``lr`` and ``weight_decay`` come from the estimator.
    {shared}
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **OptimizerSpec._parameter_constraints,
        "name": "no_validation",
        "options": [dict, None],
    }

    def __init__(
        self,
        name="NAdam",
        options=None,
        head_lr=None,
        layer_decay=1.0,
        max_grad_norm=1.0,
        l2=0.0,
        averaging=None,
    ):
        self.name = name
        self.options = options
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.max_grad_norm = max_grad_norm
        self.l2 = l2
        self.averaging = averaging
