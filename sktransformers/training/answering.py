"""The net of models that answer a text with a text: rows are a source and a target each."""

from typing import Any

from torch import Tensor

from sktransformers.inputs.batching import Encoded, pad
from sktransformers.training.net import FineTuningNet


class AnsweringNet(FineTuningNet):
    """As `FineTuningNet`; the module is a `LanguageModel`, whose outputs are one a target token."""

    def infer(self, x: Encoded, **fit_params: Any) -> Tensor:
        """Logits of the tokens of the targets, row after row."""
        device = self._device()
        source, target = (pad(x, texts, self.pad_id, device) for texts in x.rows.T)
        return self.module_.token_logits(
            source["input_ids"],
            source["attention_mask"],
            target["input_ids"],
            target["attention_mask"],
        )
