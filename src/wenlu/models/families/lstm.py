"""The LSTM language model as a kind: its settings and its files (``model_type`` wenlu_lstm)."""

from __future__ import annotations

import torch
from torch import nn

from wenlu.models.config import ModelSettings
from wenlu.models.families._files import HFConfig
from wenlu.models.families._own import OwnFamily
from wenlu.models.recurrent import LSTMConfig, RecurrentModel


class LSTMFamily(OwnFamily):
    """Implements ``wenlu.models.config.Family``."""

    uses = frozenset({"num_layers", "hidden_size", "embedding_size", "tie_embeddings", "dropout"})
    model_type, made = "wenlu_lstm", RecurrentModel

    def build(
        self, settings: ModelSettings, *, vocab_size: int, end_id: int, sequence_length: int, seed: int
    ) -> nn.Module:
        """A new model with initial weights drawn from the seed; under ``torch.device("meta")`` its shapes alone.

        The sequence length does not matter to it.
        """
        chosen = {name: value for name in self.uses if (value := getattr(settings, name)) is not None}
        model = RecurrentModel(LSTMConfig(vocab_size=vocab_size, end_token_id=end_id, **chosen))
        if torch.get_default_device().type != "meta":
            model.initialize(seed=seed)
        return model

    def config(self, values: HFConfig) -> LSTMConfig:
        """Read a config.json."""
        names = ("vocab_size", "end_token_id", "embedding_size", "hidden_size", "num_layers")
        sizes = {name: values.integer(name) for name in names}
        tied, dropout = values.boolean("tie_embeddings", False), values.number("dropout", 0.0)
        return LSTMConfig(**sizes, tie_embeddings=tied, dropout=dropout)


FAMILY = LSTMFamily()
