"""Passages that the docstrings of the estimators share."""

import textwrap

_SHARED = {
    "backbone": """
backbone : str, path, Backbone or PreTrainedModel, default="sentence-transformers/all-MiniLM-L6-v2"
    Pretrained model: an id on the Hugging Face hub, a directory, or a `Backbone` where
    the name alone is not enough. The default (22 million parameters, English) comes
    from the package ``sktransformers[offline]`` when that is installed. A loaded
    ``PreTrainedModel`` is copied, also by ``clone``, and never trained in place.
""",
    "pooling": """
pooling : {"auto", "cls", "mean", "max", "last", "attention"}, default="auto"
    How token vectors become one. ``"auto"`` is what the backbone was trained with: the
    pooling of a sentence-transformers checkpoint, else the last token of a decoder, the mean
    of T5's encoder, and the CLS token, or the last one where the tokenizer has none.
""",
    "class_loss": """
loss : str or object, default="auto"
    What training minimises: ``"cross_entropy"``, ``"focal"``, ``"binary_cross_entropy"``, or an
    object (`CrossEntropy`, `FocalLoss`, `BinaryCrossEntropy`) with options such as label
    smoothing, the classes of soft targets, and weights of labels. ``"auto"`` is the
    cross-entropy, and for an indicator matrix y the binary cross-entropy. For very many classes:
    ``"adaptive_softmax"``, ``"tree_softmax"``, ``"sampled_softmax"`` (`AdaptiveSoftmax`,
    `TreeSoftmax`, `SampledSoftmax`).
""",
    "number_loss": """
loss : {"squared_error", "huber"}, SquaredError or HuberLoss, default="squared_error"
    Loss on standardised targets, averaged over several outputs. Huber's is quadratic up to an
    error of one standard deviation and linear from there on, so that outliers count less;
    ``HuberLoss(delta=...)`` says where.
""",
    "finetune": """
finetune : {"full", "head"}, int, GradualUnfreezing, LoRA or BitFit, default="full"
    What is trained: everything; pooling and head alone; with them the top n blocks of the
    backbone and its final norm; one more block at a time; low-rank adapters; biases. What is
    frozen computes as in prediction, without dropout.
""",
    "optimisation": """
lr : float, default=None
    Peak learning rate of the backbone. None means
    ``2e-4 * (384 / hidden_size) ** 2``, at least 1e-5 and at most 1e-3: 2e-4 for the
    default backbone, 5e-5 for one as wide as BERT-base; with LoRA five times that, with
    BitFit ten times. The value used is ``lr_``; ``find_lr`` helps to find another.
max_epochs : int, default=3
    Passes over the training rows.
batch_size : int, default=16
    Rows that the optimizer sees in a step.
optimizer : {"adamw", "adam", "radam", "sgd", "adagrad", "adafactor"} or object, default="adamw"
    Optimizer; an object (`AdamW`, ..., `TorchOptimizer`) holds its options.
schedule : str or object, default="linear"
    What the learning rate does after warm-up, until the last step: ``"linear"``, ``"cosine"``,
    ``"constant"``, ``"polynomial"``, ``"exponential"``, ``"step"``, ``"cyclical"``,
    ``"inverse_square_root"``, ``"warmup_stable_decay"``, ``"reduce_on_plateau"``, or an object
    with its options (`LinearDecay`, `Cosine`, `Constant`, `Polynomial`, `Exponential`, `Steps`,
    `Cyclical`, `InverseSquareRoot`, `WarmupStableDecay`, `ReduceOnPlateau`).
warmup : float in [0, 1) or int, default=0.1
    Steps in which the learning rate rises, as a share of all steps or a number.
weight_decay : float, default=0.01
    Decoupled weight decay of everything but biases and normalisation weights.
anchor : float, default=0.0
    Weight a of the penalty :math:`a/2 \\|w - w_0\\|^2` on the distance of the weights from
    where this training starts (L2-SP, Li et al. 2018, arXiv:1802.01483, equation 4), against
    forgetting. A head that starts anew has nowhere to stay near.
""",
    "max_batch_tokens": """
max_batch_tokens : int, default=4096
    Token slots, padding included, that the device sees at once, in training and
    prediction. It bounds memory and never changes what the optimizer sees: a batch
    that needs more goes through in groups of rows whose gradients add up, a long
    text in groups of windows. What runs out of memory goes on with half of it, and a
    warning.
augment : augmenter, list of augmenters or None, default=None
    Changes the training rows, not the validation rows, anew in every epoch: `RandomSwap()`,
    `SynonymReplacement()`, ..., or another object with ``transform``. Several are applied one
    after the other.
""",
    "training": """
early_stopping : bool, default=False
    Whether to hold out a stratified part of the training rows, score it after every
    epoch, stop when it no longer improves, and keep the best epoch's weights.
    Rows given as ``X_val`` in ``fit`` are used in the same way.
validation_fraction : float in (0, 1) or int, default=0.1
    Share or number of training rows to hold out with ``early_stopping=True``.
n_iter_no_change : int, default=2
    Epochs in a row without an improvement of more than ``tol`` that end training.
tol : float, default=1e-4
    See ``n_iter_no_change``.
scoring : str, callable or None, default="loss"
    What is watched on the validation rows: the loss, or a scikit-learn scorer; None
    means ``score``.
warm_start : bool, default=False
    Whether a further ``fit`` goes on from the fitted model and the state of its optimizer, with
    a new schedule. ``backbone``, pooling and head are then not looked at.
replay : int, Replay or None, default=None
    Earlier training rows that are kept in memory, and are trained with the new ones by
    ``partial_fit`` and by a further ``fit`` with ``warm_start=True``, against forgetting. An int
    is their number; ``Replay`` holds options. They are left out of pickles unless it says so.
memory : str, path, joblib.Memory, Cache or None, default=None
    Folder in which the outputs of frozen parts of the backbone are kept for later fits, folds and
    candidates of a search, and the states that a halving search over ``max_epochs`` goes on from.
    None keeps the former in memory during ``fit``. `Cache` holds options.
checkpoint : str, path, Checkpoint or None, default=None
    Directory in which the state of training is kept after every epoch. A ``fit`` with the same
    rows and parameters goes on from there and says so. `Checkpoint` holds options.
callbacks : list of skorch callbacks, default=None
    Copied and run after the package's own.
device : str or torch.device, default="auto"
    Where to compute; ``"auto"`` takes CUDA, else MPS (Apple), else the CPU.
precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
    Precision of the forward pass; weights stay as they are. ``"auto"`` is bf16 where the
    device multiplies matrices in it (CUDA; CPUs with AMX), else fp32. On a CPU this is so in
    training only: predictions are then in fp32.
random_state : int, RandomState instance or None, default=None
    Seed of dropout, the order of rows, held-out rows and a random head. The same
    seed gives the same model. Global random states are left as they were.
verbose : int, default=0
    1 shows a progress bar, 2 also a line an epoch.
""",
    "attributes": """
model_ : PreTrainedModel
    The fine-tuned model.
tokenizer_ : transformers tokenizer
    The tokenizer, with truncation and padding off.
history_ : list of dict
    One dict an epoch: ``epoch``, ``train_loss``, for labels and tags ``train_accuracy``
    (over the epoch, with dropout on; not with losses for very many classes), with
    validation rows ``valid_loss``, ``valid_accuracy`` and for a scorer ``valid_score``,
    ``grad_norm`` (mean, before clipping), ``lr`` (at the last step), ``seconds``,
    ``tokens_per_second`` (without padding). Batches are kept with ``callbacks=[BatchHistory()]``.
n_iter_ : int
    Epochs trained.
n_samples_seen_ : int
    Training rows of ``fit`` and of each ``partial_fit`` and further ``fit`` with
    ``warm_start=True`` since: a row that came twice counts twice, in whatever number of epochs.
    Without validation rows, those that ``replay`` brings back, and those of weight zero.
lr_ : float
    Peak learning rate of the backbone that was used.
n_blocks_, n_parameters_, n_trained_parameters_ : int
    Blocks of the backbone, parameters of the model, and how many of them ``fit`` trained;
    ``summary()`` has them part by part.
max_length_ : int
    Length that texts are cut to.
net_ : skorch.NeuralNet
    The net that trained; not part of pickles.
""",
    "long_text": """
max_length : int, default=None
    Tokens that the backbone reads at once, special tokens included. None means what it
    can read, at most 512.
long_text : {"truncate", "window"} or Windows, default="truncate"
    What becomes of longer texts: cut, with a warning that counts them, or read whole in
    windows whose vectors are pooled. ``"window"`` means ``Windows()``: side by side, and
    their mean. A fitted estimator keeps the pooling, but may be told to read windows or not.
""",
    "class_weight": """
class_weight : dict, "balanced" or None, default=None
    Weight of each class in the loss and in the probe, on top of ``sample_weight``.
    ``"balanced"`` makes all classes weigh the same in sum. A row of soft targets weighs what
    its classes weigh on average; for an indicator matrix there is `BinaryCrossEntropy`.
threshold : float, array-like of shape (n_labels,), dict or "tuned", default=0.5
    For an indicator matrix y: ``predict`` gives a row the labels whose probability is above it,
    for all labels, one each, or by name, where labels left out have 0.5. ``"tuned"`` is for the
    largest F1: on validation rows one for each label, where rare labels follow the others; else
    one for all, which gives the training rows as many labels as were best on rows that the probe
    held out. Probabilities stay as they are.
""",
    "target_unit": """
target_mean_, target_scale_ : float or ndarray of shape (n_outputs,)
    Weighted mean and standard deviation of the training targets; arrays if y had several
    columns.
""",
    "class_count_": """
class_count_ : ndarray of int and shape (n_classes,)
    How many of the rows that ``n_samples_seen_`` counts have each class; of soft targets, the
    most probable one.
""",
    "threshold_": """
threshold_ : float or ndarray of shape (n_labels,)
    What probabilities must exceed, if y was an indicator matrix. Setting the parameter
    ``threshold`` changes it in the next ``fit``.
""",
    "table": """
n_features_in_ : int
    1, only if X was a table.
feature_names_in_ : ndarray of shape (1,)
    Only if X was a table with a column name.
""",
}


def shared_docs(cls):
    """Put the shared passages where the docstring of a class names them: ``{backbone}``."""
    for name, passage in _SHARED.items():
        indented = textwrap.indent(passage.strip("\n"), "    ")
        cls.__doc__ = cls.__doc__.replace(f"    {{{name}}}", indented)
    return cls
