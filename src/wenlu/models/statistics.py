"""How big a model is and what it costs, counted on the model itself, which may be on the device ``meta``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from wenlu.models.lora import is_lora

if TYPE_CHECKING:
    from wenlu.models.transformer import Transformer

_PART = re.compile(r"(?:head|\w+\.embeddings|\w+\.layers\.\d+|\w+)\.\w+")  # what a line of a drawing can name


@dataclass(frozen=True)
class Part:
    """A module of a model: its name, in which ``{}`` is a layer's number, and the parameters of one of its copies."""

    name: str
    each: int
    copies: int = 1

    @property
    def parameters(self) -> int:
        """Parameters of all copies."""
        return self.each * self.copies


@dataclass(frozen=True)
class Statistics:
    """Sizes and costs of a model at one sequence length."""

    parameters: int  # a tied matrix counts once
    embedding_parameters: int  # token and position tables; an untied output matrix is not among them
    non_embedding_parameters: int
    forward_flops_per_token: float  # floating-point operations: a multiply-add is two
    backward_flops_per_token: float
    activation_bytes_per_token: int  # kept for the backward pass in float32, logits not included (the loss is chunked)
    cache_bytes_per_token: int  # keys and values in float32


def transformer_statistics(model: Transformer, *, sequence_length: int) -> Statistics:
    """Count parameters, FLOPs and bytes of a Transformer; with two stacks, of as many tokens in each.

    FLOPs: 2 a matrix weight and token, plus 4·S·H·E a layer for scores and mixing, the causal half not discounted;
    backward is twice forward (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B). Activations: the
    tensors that autograd keeps with fused attention and without dropout (after Korthikanti et al. 2022, section 4.1).
    """
    config, parts = model.config, transformer_parts(model)
    total = sum(part.parameters for part in parts)
    tables = sum(part.parameters for part in parts if ".embeddings." in part.name or part.name.endswith(".relative"))
    matrices = scores = activations = cached = 0
    if "language_model" in config.heads:  # the one of the vocabulary; what judges a row or a token is not counted
        matrices = config.main.token_size * config.vocab_size + _matrices(model.head.transform)
    for tower in filter(None, (model.encoder, model.decoder)):
        stack, layers = tower.config, tower.config.num_layers
        queries, keys = stack.num_heads * stack.head_size, stack.kv_heads * stack.head_size
        reads = 1 if stack.memory_size is None else 2  # states of which keys and values are made
        matrices += _matrices(tower.layers) * layers // stack.distinct_layers + _matrices(tower.embeddings)
        seen = sum(min(sequence_length, stack.window_of(number) or sequence_length) for number in range(layers))
        scores += (seen + (reads - 1) * layers * sequence_length) * queries
        before_norms = queries + keys if stack.qk_norm == "head" else 0
        kept = reads * (2 * queries + 2 * keys + before_norms)  # q, k, v, mixture
        of_activation = 1 if stack.activation in ("relu", "tanh") else 2  # others keep their input as well
        inner = (of_activation + (2 if stack.ffn == "gated" else 0)) * stack.intermediate_size
        norms_and_inputs = (1 + reads) * 2 * stack.hidden_size
        activations += 4 * (layers * (norms_and_inputs + kept + inner) + 2 * stack.hidden_size)
        cached = 4 * 2 * keys * layers * reads  # what the last stack keeps, if it is a decoder
    forward = 2.0 * matrices + 4.0 * scores
    return Statistics(
        parameters=total,
        embedding_parameters=tables,
        non_embedding_parameters=total - tables,
        forward_flops_per_token=forward,
        backward_flops_per_token=2 * forward,
        activation_bytes_per_token=activations,
        cache_bytes_per_token=0 if config.decoder is None else cached,
    )


def transformer_parts(model: Transformer) -> list[Part]:
    """All modules that hold parameters, without LoRA's; a tied matrix is one."""
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if (part := _PART.match(name)) and not is_lora(name):
            sizes[re.sub(r"\d+", "{}", part[0])] += parameter.numel()
    layers = {f"{name}.layers.{{}}": stack.distinct_layers for name, stack in model.config.towers.items()}
    copies = {name: layers.get(name.rpartition(".")[0], 1) for name in sizes}
    return [Part(name, size // copies[name], copies[name]) for name, size in sizes.items()]


def _matrices(module: nn.Module | None) -> int:
    """The matrix weights that a token passes; of convolutions, one that keeps all frames reads two for each."""
    found = [part for part in (module.modules() if module else ()) if isinstance(part, nn.Linear | nn.Conv1d)]
    return sum(part.weight.numel() * (2 // part.stride[0] if isinstance(part, nn.Conv1d) else 1) for part in found)
