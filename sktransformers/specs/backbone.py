"""The pretrained model."""

import copy
import re
from numbers import Real
from typing import Any

from sklearn.utils._param_validation import Interval

from sktransformers.specs.secret import Secret
from sktransformers.specs.spec import Spec

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
# What a header of HTTP takes (RFC 6750); errors of its library would show others.
_TOKEN = re.compile(r"[\w.~+/-]+=*", re.ASCII)


class Backbone(Spec):
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
        Access token for private repositories; True means the one that ``hf auth login`` stored,
        which other processes find too. One given as text is in no repr, no saved model and no
        pickle, so that the workers of a parallel search do not have it.
    dtype : str, default="float32"
        Data type of the weights, by the name torch gives it.
    device_map : str or dict, default=None
        For a backbone that is larger than one device: which parts of it go where, as in
        ``from_pretrained`` of the transformers library. ``"auto"`` or ``"balanced"``, or
        devices by the names of modules, ``"cpu"`` and ``"disk"`` among them. Needs the library
        accelerate. ``device`` must be ``"auto"``; the head lies where the last block is.
    attn_implementation : str, default=None
        Attention kernel, as in ``from_pretrained``: ``"eager"``, ``"sdpa"``,
        ``"flash_attention_2"``, which computes nothing for padding and wants a GPU with CUDA, the
        package flash-attn and half precision. None leaves the choice to transformers.
    trust_remote_code : bool, default=False
        Whether code that lies in the hub repository may run on this machine.
    pretrained : bool, default=True
        False takes the architecture and the tokenizer but random weights, for comparison.
    bidirectional : bool, default=False
        Whether the tokens of a decoder see those behind them too, without the causal mask it was
        pretrained with. For all pooling but ``"last"``, which has no need of it, and for
        `TokenTagger`. Not every family can, which is tried when it is loaded. An encoder sees both
        ways anyhow.
    dropout : float in [0, 1), default=None
        Probability of all the dropout in the backbone during training: of embeddings, hidden
        vectors and attention weights. None leaves what its configuration says.
    compact_vocabulary : bool, default=True
        Whether training keeps gradients and moments only of those rows of a large input
        embedding that occur in the training texts. The fitted weights are the same; memory and
        time of a step are less. Nothing is changed where most rows occur, where the embedding
        is frozen or shared with an output, or with optimizers that would move other rows too.
    keep_weights : bool, default=True
        Whether the pretrained weights stay in memory after they were read, for the next ``fit`` of
        this process. Those of one backbone are kept, the last one. They are read anew when the
        files have changed, or always with ``trust_remote_code=True``.
    skip_unread : bool, default=True
        Whether the last block is computed only where pooling reads it, as far as a token's
        vector does not depend on the others: for the pooling of one token, ``"cls"`` or
        ``"last"``. The result is the same.
    gradient_checkpointing : bool, default=False
        Whether training forgets what is inside the blocks and computes it again for the gradients
        (Chen et al. 2016, arXiv:1604.06174): less memory, about a third more time, the same
        result. Not every family in the transformers library can.
    compile : bool, default=False
        Whether ``torch.compile`` compiles the blocks for training, which takes a minute and a C++
        compiler. Dropout masks are then torch's own, also on the CPU. There it has brought nothing
        in our measurements. Not together with ``gradient_checkpointing``.

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
        "token": "no_validation",
        "dtype": [str],
        "device_map": [str, dict, None],
        "attn_implementation": [str, None],
        "trust_remote_code": ["boolean"],
        "pretrained": ["boolean"],
        "bidirectional": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left"), None],
        "compact_vocabulary": ["boolean"],
        "keep_weights": ["boolean"],
        "skip_unread": ["boolean"],
        "gradient_checkpointing": ["boolean"],
        "compile": ["boolean"],
    }

    def __init__(
        self,
        name=DEFAULT_BACKBONE,
        *,
        tokenizer=None,
        revision=None,
        token=None,
        dtype="float32",
        device_map=None,
        attn_implementation=None,
        trust_remote_code=False,
        pretrained=True,
        bidirectional=False,
        dropout=None,
        compact_vocabulary=True,
        keep_weights=True,
        skip_unread=True,
        gradient_checkpointing=False,
        compile=False,
    ):
        self.name = name
        self.tokenizer = tokenizer
        self.revision = revision
        self.token = token
        self.dtype = dtype
        self.device_map = device_map
        self.attn_implementation = attn_implementation
        self.trust_remote_code = trust_remote_code
        self.pretrained = pretrained
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.compact_vocabulary = compact_vocabulary
        self.keep_weights = keep_weights
        self.skip_unread = skip_unread
        self.gradient_checkpointing = gradient_checkpointing
        self.compile = compile

    def get_params(self, deep=True):
        """Parameters by their names.

        Parameters
        ----------
        deep : bool, default=True
            Whether options of parameters are among them.

        Returns
        -------
        params : dict
            A token is the text that was given, but its repr does not show it.
        """
        params = super().get_params(deep)
        params["token"] = Secret.of(params["token"])
        return params

    def _validate_params(self):
        super()._validate_params()
        check_token(self.token, "The 'token' parameter of Backbone")

    def __getstate__(self):
        token = self.token if isinstance(self.token, bool) else None
        return {**super().__getstate__(), "token": token}

    def __copy__(self):  # through __getstate__ the token would be lost
        new = type(self).__new__(type(self))
        new.__dict__.update(vars(self))
        return new

    def __deepcopy__(self, memo):
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(vars(self), memo))
        return new


def check_token(token: Any, name: str) -> None:
    """Check a token of the hub.

    Raises
    ------
    TypeError, ValueError
        If it is none, without showing it.
    """
    if token is None or isinstance(token, bool):
        return
    if not isinstance(token, str):
        raise TypeError(
            f"{name} must be a str, a bool or None; it is of type {type(token).__name__}."
        )
    if not _TOKEN.fullmatch(token):
        raise ValueError(
            f"{name} is no token of the hub: it is empty, or has a space, a line break or another "
            f"character that no token has."
        )
