"""How big a model is and what it costs, from its config alone; tests hold each figure against the real model."""

from __future__ import annotations

from dataclasses import dataclass

from wenlu.models.config import TransformerConfig


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


def transformer_statistics(config: TransformerConfig, *, sequence_length: int) -> Statistics:
    """Count parameters, FLOPs and bytes of a Transformer.

    FLOPs: 2 a matrix weight and token, plus 4·S·H·E a layer for scores and mixing, the causal half not discounted;
    backward is twice forward (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B). Activations: the
    tensors that autograd keeps with fused attention and without dropout (after Korthikanti et al. 2022, section 4.1).
    """
    stack, V = config.decoder, config.vocab_size
    D, F, L = stack.hidden_size, stack.intermediate_size, stack.num_layers
    queries, keys = stack.num_heads * stack.head_size, stack.kv_heads * stack.head_size
    gated, normed = stack.ffn == "gated", stack.qk_norm == "head"

    attention_matrices = 2 * D * queries + 2 * D * keys
    ffn_matrices = (3 if gated else 2) * D * F
    bias_sizes = {"q": queries, "k": keys, "v": keys, "o": D, "ffn": (2 if gated else 1) * F + D}
    biases = sum(size for name, size in bias_sizes.items() if name in stack.biases)
    norm = 2 * D if stack.norm == "layer_norm" else D
    layer = attention_matrices + ffn_matrices + biases + 2 * norm + (2 * stack.head_size if normed else 0)
    embedding = V * D + (stack.max_positions * D if stack.position == "learned" else 0)
    total = embedding + L * layer + norm + (0 if config.tie_embeddings else V * D)

    matrices = L * (attention_matrices + ffn_matrices) + V * D
    forward = 2.0 * matrices + 4.0 * L * sequence_length * queries

    norms_and_inputs = 4 * D  # input and output of both norms; the outputs feed the matrices
    attended = 2 * queries + 2 * keys + (queries + keys if normed else 0)  # q, k, v, mixture; q and k before their norm
    inner = (4 if gated else 2) * F
    activations = 4 * (L * (norms_and_inputs + attended + inner) + 2 * D)
    return Statistics(
        parameters=total,
        embedding_parameters=embedding,
        non_embedding_parameters=total - embedding,
        forward_flops_per_token=forward,
        backward_flops_per_token=2 * forward,
        activation_bytes_per_token=activations,
        cache_bytes_per_token=4 * 2 * keys * L,
    )
