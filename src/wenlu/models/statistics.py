"""How big a model is and what it costs, from its config alone; tests hold each figure against the real model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wenlu.models.config import StackConfig, TransformerConfig


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


def transformer_statistics(config: TransformerConfig, *, sequence_length: int) -> Statistics:
    """Count parameters, FLOPs and bytes of a Transformer; with two stacks, of as many tokens in each.

    FLOPs: 2 a matrix weight and token, plus 4·S·H·E a layer for scores and mixing, the causal half not discounted;
    backward is twice forward (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B). Activations: the
    tensors that autograd keeps with fused attention and without dropout (after Korthikanti et al. 2022, section 4.1).
    """
    main, parts = config.main, transformer_parts(config)
    total = sum(part.parameters for part in parts)
    tables = sum(part.parameters for part in parts if is_embedding(part))
    matrices, scores, activations = _head_matrices(config), 0, 0
    for stack in config.stacks:
        read = _read(stack)
        attention = sum(_attention_matrices(stack, size) for size in read)
        matrices += stack.num_layers * (attention + _ffn_matrices(stack)) + _embedding_matrices(stack)
        seen = [min(sequence_length, stack.window_of(n) or sequence_length) for n in range(stack.num_layers)]
        scores += sum(seen) * stack.num_heads * stack.head_size
        if stack.memory_size is not None:
            scores += stack.num_layers * sequence_length * stack.num_heads * stack.head_size
        queries, keys = stack.num_heads * stack.head_size, stack.kv_heads * stack.head_size
        before_norms = queries + keys if stack.qk_norm == "head" else 0
        kept = len(read) * (2 * queries + 2 * keys + before_norms)  # q, k, v, mixture
        of_activation = 1 if stack.activation in ("relu", "tanh") else 2  # others keep their input as well
        inner = (of_activation + (2 if stack.ffn == "gated" else 0)) * stack.intermediate_size
        norms_and_inputs = (1 + len(read)) * 2 * stack.hidden_size
        activations += 4 * (stack.num_layers * (norms_and_inputs + kept + inner) + 2 * stack.hidden_size)
    forward = 2.0 * matrices + 4.0 * scores
    keys = main.kv_heads * main.head_size
    return Statistics(
        parameters=total,
        embedding_parameters=tables,
        non_embedding_parameters=total - tables,
        forward_flops_per_token=forward,
        backward_flops_per_token=2 * forward,
        activation_bytes_per_token=activations,
        cache_bytes_per_token=0 if config.decoder is None else 4 * 2 * keys * main.num_layers * len(_read(main)),
    )


def transformer_parts(config: TransformerConfig) -> list[Part]:
    """All modules that hold parameters, in the order in which a token passes them; a tied matrix is one."""
    named = config.towers.items()
    reader = next((name for name, stack in named if stack.mel_bins is None), None)  # the tokens' table is in it
    parts = [
        Part(f"{name}.{module}", size, stack.distinct_layers if module.startswith("layers.") else 1)
        for name, stack in named
        for module, size in _stack_parts(stack, config.vocab_size if name == reader else 0)
    ]
    parts += [Part(f"head.{module}", size) for module, size in _head_parts(config)]
    return [part for part in parts if part.each]


def is_embedding(part: Part) -> bool:
    """Whether a part makes vectors of tokens, positions and what else comes in."""
    return ".embeddings." in part.name or part.name.endswith(".relative")


def _stack_parts(stack: StackConfig, vocab_size: int) -> Iterator[tuple[str, int]]:
    E, D, F = stack.token_size, stack.hidden_size, stack.intermediate_size
    norm, around = _norm(stack, D), stack.norm_placement == "around"
    places = stack.max_positions + stack.position_offset if stack.position == "learned" else 0
    yield "embeddings.token", vocab_size * E
    yield "embeddings.spectrogram", 0 if stack.mel_bins is None else 3 * E * (stack.mel_bins + E) + 2 * E
    yield "embeddings.position", places * E
    yield "embeddings.segment", stack.num_segments * E
    yield "embeddings.norm", _norm(stack, E) if "embedding" in stack.outer_norms else 0
    yield "embeddings.projection", 0 if stack.embedding_size is None else E * D + D
    yield "relative", stack.relative_buckets * stack.num_heads if stack.position == "relative" else 0
    for name, size in zip(("self_attention", "cross_attention"), _read(stack), strict=False):
        yield f"layers.{{}}.{name}_norm", norm
        yield f"layers.{{}}.{name}", _attention(stack, size)
        yield f"layers.{{}}.{name}_end_norm", norm if around and name == "self_attention" else 0
    biases = (2 if stack.ffn == "gated" else 1) * F + D if "ffn" in stack.biases else 0
    yield "layers.{}.ffn_norm", norm
    yield "layers.{}.ffn", _ffn_matrices(stack) + biases
    yield "layers.{}.ffn_end_norm", norm if around else 0
    yield "final_norm", norm if "final" in stack.outer_norms else 0


def _head_parts(config: TransformerConfig) -> Iterator[tuple[str, int]]:
    stack, V, words = config.main, config.vocab_size, "language_model" in config.heads
    D, E = stack.hidden_size, stack.token_size
    yield "transform", D * E + E + _norm(stack, E) if words and config.head_transform is not None else 0
    yield "output", V * E if words and not config.tie_embeddings else 0
    yield "bias", V if words and config.head_bias else 0
    yield "pooler", D * D + D if "pooler" in config.heads else 0
    yield "pair", 2 * D + 2 if "pair" in config.heads else 0
    judged = len(config.labels) if config.heads & {"sequence", "token"} else 0
    yield "classifier", judged * (D + (1 if config.classifier_bias else 0))
    yield "span", 2 * D + 2 if "span" in config.heads else 0


def _head_matrices(config: TransformerConfig) -> int:
    """The matrix weights that a token passes: of the vocabulary, where there is one."""
    stack = config.main
    if "language_model" not in config.heads:
        return 0
    return stack.token_size * (config.vocab_size + (stack.hidden_size if config.head_transform is not None else 0))


def _embedding_matrices(stack: StackConfig) -> int:
    """Of convolutions, the first reads two frames for each position; a table's rows are looked up."""
    spectrogram = 0 if stack.mel_bins is None else 3 * stack.token_size * (2 * stack.mel_bins + stack.token_size)
    return spectrogram + (0 if stack.embedding_size is None else stack.token_size * stack.hidden_size)


def _read(stack: StackConfig) -> list[int]:
    """Sizes of the states of which keys and values are made: the layer's own, and an encoder's."""
    return [stack.hidden_size] if stack.memory_size is None else [stack.hidden_size, stack.memory_size]


def _attention(stack: StackConfig, read: int) -> int:
    queries, keys = stack.num_heads * stack.head_size, stack.kv_heads * stack.head_size
    biases = {"q": queries, "k": keys, "v": keys, "o": stack.hidden_size}
    of_heads = 2 * stack.head_size if stack.qk_norm == "head" else 0
    chosen = sum(size for name, size in biases.items() if name in stack.biases)
    return _attention_matrices(stack, read) + chosen + of_heads


def _attention_matrices(stack: StackConfig, read: int) -> int:
    return 2 * stack.head_size * (stack.hidden_size * stack.num_heads + read * stack.kv_heads)


def _ffn_matrices(stack: StackConfig) -> int:
    return (3 if stack.ffn == "gated" else 2) * stack.hidden_size * stack.intermediate_size


def _norm(stack: StackConfig, size: int) -> int:
    return 2 * size if stack.norm == "layer_norm" else size
