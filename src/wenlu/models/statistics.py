"""How big a model is and what it costs, from its config alone; tests hold each figure against the real model."""

from __future__ import annotations

from dataclasses import dataclass

from wenlu.models.config import StackConfig, TransformerConfig


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
    """Count parameters, FLOPs and bytes of a Transformer; with two stacks, of as many tokens in each.

    FLOPs: 2 a matrix weight and token, plus 4·S·H·E a layer for scores and mixing, the causal half not discounted;
    backward is twice forward (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B). Activations: the
    tensors that autograd keeps with fused attention and without dropout (after Korthikanti et al. 2022, section 4.1).
    """
    main, V = config.main, config.vocab_size
    tables = V * main.token_size + sum(map(_embedding_parameters, config.stacks))
    heads, head_matrices = _head_parameters(config)
    total, matrices, scores, activations = tables + heads, head_matrices, 0, 0
    for stack in config.stacks:
        per_layer, layer_matrices, sizes_of_attention = _layer(stack)
        norm = _norm(stack, stack.hidden_size)
        total += stack.distinct_layers * per_layer + (norm if "final" in stack.outer_norms else 0)
        matrices += stack.num_layers * layer_matrices
        seen = [min(sequence_length, stack.window_of(n) or sequence_length) for n in range(stack.num_layers)]
        scores += sum(seen) * stack.num_heads * stack.head_size
        if stack.memory_size is not None:
            scores += stack.num_layers * sequence_length * stack.num_heads * stack.head_size
        inner = (4 if stack.ffn == "gated" else 2) * stack.intermediate_size
        norms_and_inputs = (2 if stack.memory_size is None else 3) * 2 * stack.hidden_size
        activations += 4 * (stack.num_layers * (norms_and_inputs + sizes_of_attention + inner) + 2 * stack.hidden_size)
    forward = 2.0 * matrices + 4.0 * scores
    keys = main.kv_heads * main.head_size
    return Statistics(
        parameters=total,
        embedding_parameters=tables,
        non_embedding_parameters=total - tables,
        forward_flops_per_token=forward,
        backward_flops_per_token=2 * forward,
        activation_bytes_per_token=activations,
        cache_bytes_per_token=4 * 2 * keys * main.num_layers,
    )


def _norm(stack: StackConfig, size: int) -> int:
    return 2 * size if stack.norm == "layer_norm" else size


def _embedding_parameters(stack: StackConfig) -> int:
    """What a stack has besides the tokens' table."""
    E, D = stack.token_size, stack.hidden_size
    places = stack.max_positions + stack.position_offset if stack.position == "learned" else 0
    relative = stack.relative_buckets * stack.num_heads if stack.position == "relative" else 0
    spectrogram = 0 if stack.mel_bins is None else 3 * E * (stack.mel_bins + E) + 2 * E
    norm = _norm(stack, E) if "embedding" in stack.outer_norms else 0
    projection = 0 if stack.embedding_size is None else E * D + D
    return (places + stack.num_segments) * E + relative + spectrogram + norm + projection


def _layer(stack: StackConfig) -> tuple[int, int, int]:
    """Parameters of a layer, those of them in matrices, and the sizes that its attention keeps of a token."""
    D, F = stack.hidden_size, stack.intermediate_size
    queries, keys = stack.num_heads * stack.head_size, stack.kv_heads * stack.head_size
    gated, normed = stack.ffn == "gated", stack.qk_norm == "head"
    read = [D] if stack.memory_size is None else [D, stack.memory_size]  # by keys and values
    matrices = sum(2 * D * queries + 2 * size * keys for size in read) + (3 if gated else 2) * D * F
    attention_biases = {"q": queries, "k": keys, "v": keys, "o": D}
    biases = len(read) * sum(size for name, size in attention_biases.items() if name in stack.biases)
    biases += (2 if gated else 1) * F + D if "ffn" in stack.biases else 0
    norms = (1 + len(read)) + (2 if stack.norm_placement == "around" else 0)
    of_heads = len(read) * 2 * stack.head_size if normed else 0
    kept = len(read) * (2 * queries + 2 * keys + (queries + keys if normed else 0))  # q, k, v, mixture; before norms
    return matrices + biases + norms * _norm(stack, D) + of_heads, matrices, kept


def _head_parameters(config: TransformerConfig) -> tuple[int, int]:
    """Parameters of the heads, and the matrix weights that a token passes: of the vocabulary, where there is one."""
    stack, V = config.main, config.vocab_size
    D, E, words = stack.hidden_size, stack.token_size, "language_model" in config.heads
    transform = D * E if words and config.head_transform is not None else 0
    total = transform + (E + _norm(stack, E) if transform else 0)
    total += (0 if config.tie_embeddings else V * E) + (V if config.head_bias else 0) if words else 0
    total += D * D + D if "pooler" in config.heads else 0
    total += sum(2 * D + 2 for head in ("pair", "span") if head in config.heads)
    if config.heads & {"sequence", "token"}:
        total += len(config.labels) * (D + (1 if config.classifier_bias else 0))
    return total, transform + (V * E if words else 0)
