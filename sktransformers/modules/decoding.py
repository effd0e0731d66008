"""How a language model writes: greedily, with beams, or by drawing."""

import copy
import difflib
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from sktransformers.modules.backbone import position_limit
from sktransformers.modules.language import decoder_start

# Of a checkpoint's own settings: how long answers are, is for the estimator to say; a forced end
# would hide that an answer was cut.
_NOT_THE_CHECKPOINTS = {
    "max_length": None,
    "max_new_tokens": None,
    "min_length": None,
    "min_new_tokens": None,
    "max_time": None,
    "forced_eos_token_id": None,
    "do_sample": False,
}
# Meant for another way of writing, such settings of a checkpoint are left aside without a word.
_OF_DRAWING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
_OF_BEAMS = ("early_stopping", "length_penalty")


def given_settings(generation: Any) -> dict[str, Any]:
    """What the parameter ``generation`` says, checked as far as that needs no model.

    Parameters
    ----------
    generation : None, dict or GenerationConfig
        Of a `GenerationConfig`, all that is not None.

    Raises
    ------
    ValueError
        If it has a name that transformers does not know, or a value that it refuses; if it asks
        for several texts a row; or if it has ``max_length``.
    """
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    known -= {"transformers_version"}
    if isinstance(generation, GenerationConfig):
        given = {
            name: value
            for name, value in vars(generation).items()
            if name in known and value is not None
        }
    else:
        given = dict(generation or {})
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            raise ValueError(
                f"generation has {name!r}, which is no setting of transformers.GenerationConfig"
                f"{f'; did you mean {close[0]!r}' if close else ''}."
            )
    if given.get("max_length") is not None:
        raise ValueError(
            f"generation has max_length={given['max_length']!r}, which counts the source too in "
            f"some models: set max_target_length of the estimator, or max_new_tokens here."
        )
    for name in ("num_return_sequences", "return_dict_in_generate"):
        if given.get(name) not in (None, 1, False) or given.get(name) is True:
            raise ValueError(
                f"generation has {name}={given[name]!r}, but an answer is one text a row."
            )
    temperature = given.get("temperature")
    # transformers looks at it only when it writes, and takes no other type.
    usable = temperature in (None, 1) or (isinstance(temperature, float) and temperature > 0)
    if given.get("do_sample") and not usable:
        raise ValueError(
            f"generation has temperature={temperature!r}; expected a float above zero, or "
            f"do_sample=False."
        )
    for name in ("num_beams", "max_new_tokens"):
        value = given.get(name)
        if value is not None and (isinstance(value, bool) or not _is_count(value)):
            raise ValueError(
                f"generation has {name}={value!r}; expected a whole number of at least 1."
            )
    try:
        GenerationConfig(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"generation={generation!r} is refused by transformers: {error}"
        ) from error
    return given


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def settings(
    native: Any, given: Mapping[str, Any], *, max_new_tokens: int, pad_id: int, end: int
) -> GenerationConfig:
    """All settings of ``generate``: those of the user over those of the checkpoint.

    Parameters
    ----------
    native : PreTrainedModel
        The family's own model.
    given : dict
        As `given_settings` returns it.
    max_new_tokens : int
        Most tokens of an answer, if given does not say.
    pad_id, end : int
        Ids of the tokens for padding, and behind a target in training.
    """
    config = copy.deepcopy(native.generation_config)
    others = dict(_NOT_THE_CHECKPOINTS)
    if not given.get("do_sample"):
        others |= dict.fromkeys(_OF_DRAWING)
    if (given.get("num_beams") or config.num_beams or 1) == 1:
        others |= dict.fromkeys(_OF_BEAMS)
    for name, value in (others | {"max_new_tokens": max_new_tokens, **given}).items():
        setattr(config, name, value)
    if "eos_token_id" not in given:
        config.eos_token_id = sorted({end, *ids_of(config.eos_token_id)})
    if "pad_token_id" not in given:
        config.pad_token_id = pad_id
    if native.config.is_encoder_decoder and config.decoder_start_token_id is None:
        config.decoder_start_token_id = decoder_start(native)
    return config


def try_settings(native: Any, config: GenerationConfig, tokenizer: Any) -> None:
    """Write one token: some of what a model refuses shows only then.

    Random states stay as they were.

    Raises
    ------
    ValueError
        If it cannot be written so.
    """
    writer, was_training = copy.copy(native), native.training
    writer.generation_config = config
    device = native.device
    source = torch.full((1, 2), ids_of(config.eos_token_id)[0], device=device)
    drawing = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=drawing), torch.no_grad():
            native.eval()
            writer.generate(
                input_ids=source,
                attention_mask=torch.ones_like(source),
                generation_config=config,
                tokenizer=tokenizer,
                stopping_criteria=StoppingCriteriaList([_at_once]),
            )
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"generation is refused by the model: {error}") from error
    finally:
        native.train(was_training)


def _at_once(ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.ones(len(ids), dtype=torch.bool, device=ids.device)


def ids_of(token: int | list[int] | None) -> list[int]:
    """Token ids that a setting names: none, one or several."""
    if token is None:
        return []
    return [token] if isinstance(token, int) else list(token)


def check_length(native: Any, n_source: int, n_new: int) -> None:
    """Check that a source and its answer have as many tokens as the model can number.

    Raises
    ------
    ValueError
        If they have more.
    """
    limit = position_limit(native)
    apart = native.config.is_encoder_decoder
    if limit is None or (max(n_source, n_new) if apart else n_source + n_new) <= limit:
        return
    raise ValueError(
        f"The model can number {limit} tokens{'' if apart else ' of source and answer together'}, "
        f"but max_length is {n_source} and max_target_length, or max_new_tokens of generation, is "
        f"{n_new}."
    )
