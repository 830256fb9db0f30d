"""The LSTM language model as a kind: its settings and its files (``model_type`` wenlu_lstm)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from wenlu.models.config import ModelSettings
from wenlu.models.families._files import HFConfig, write_model
from wenlu.models.families._own import fill
from wenlu.models.meta import meta_device
from wenlu.models.recurrent import LSTMConfig, RecurrentModel

MODEL_TYPE = "wenlu_lstm"


class LSTMFamily:
    """Implements ``wenlu.models.config.Family``."""

    uses = frozenset({"num_layers", "hidden_size", "embedding_size", "tie_embeddings", "dropout"})

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

    def load(self, hf: Mapping[str, object], directory: Path, *, dtype: torch.dtype) -> nn.Module:
        """The model of a directory whose config.json is ``hf``."""
        values = HFConfig(hf, directory / "config.json")
        names = ("vocab_size", "end_token_id", "embedding_size", "hidden_size", "num_layers")
        sizes = {name: values.integer(name) for name in names}
        tied, dropout = values.boolean("tie_embeddings", False), values.number("dropout", 0.0)
        config = LSTMConfig(**sizes, tie_embeddings=tied, dropout=dropout)
        with meta_device():
            model = RecurrentModel(config)
        fill(model, directory, dtype=dtype)
        return model

    def save(self, model: nn.Module, directory: Path) -> bool:
        """Write config.json and the weights in float32; False for another kind of model."""
        if not isinstance(model, RecurrentModel):
            return False
        tensors = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
        write_model(directory, {"model_type": MODEL_TYPE, **asdict(model.config)}, tensors)
        return True


FAMILY = LSTMFamily()
