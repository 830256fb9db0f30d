"""The config.json of one published model of each family, what its sizes and choices depend on, and its parameters.

The counts are those of the classes of ``transformers`` made from the same files: a tied matrix counts once, the bias of
BART's and Marian's logits counts although it is a buffer there, Marian's sinusoids, which are computed, do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wenlu.models.build import family
from wenlu.models.config import TransformerConfig
from wenlu.models.families._files import HFConfig
from wenlu.models.families._transformer import TransformerFamily


@dataclass(frozen=True)
class Published:
    """A published model: its family, its name, what its config.json says, and its parameters with its word head."""

    kind: str
    name: str
    hf: dict[str, object]
    parameters: int

    def config(self) -> TransformerConfig:
        """Its config as Wenlu reads it, with the head for words."""
        known = family(self.kind)
        assert isinstance(known, TransformerFamily)
        return known.config(HFConfig(self.hf, Path("config.json")))


def _bert(vocab_size: int, **more: object) -> dict[str, object]:
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    return {"vocab_size": vocab_size, "max_position_embeddings": 512, **sizes, **more}


def _seq2seq(width: int, layers: int, heads: int, inner: int, **more: object) -> dict[str, object]:
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", inner))
    }
    return {"d_model": width, **sides, **more}


def _llama(
    vocab_size: int, width: int, layers: int, heads: int, kv: int, inner: int, **more: object
) -> dict[str, object]:
    return {
        "vocab_size": vocab_size, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "intermediate_size": inner, **more,
    }  # fmt: skip


_LLAMA3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
_GEMMA2 = {"sliding_window": 4096, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0}

PUBLISHED = [
    Published("bert", "bert-base-uncased", _bert(30522, type_vocab_size=2), 109_514_298),
    Published(
        "roberta",
        "roberta-base",
        _bert(50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5),
        124_697_433,
    ),
    Published(
        "albert",
        "albert-base-v2",
        _bert(30000, embedding_size=128, hidden_act="gelu_new", type_vocab_size=2),
        11_221_680,
    ),
    Published(
        "distilbert",
        "distilbert-base-uncased",
        {"vocab_size": 30522, "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072}
        | {"max_position_embeddings": 512, "activation": "gelu"},
        66_985_530,
    ),
    Published(
        "gpt2",
        "gpt2",
        {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
        124_439_808,
    ),
    Published(
        "llama",
        "Llama-3.2-1B",
        _llama(128256, 2048, 16, 32, 8, 8192, head_dim=64, max_position_embeddings=131072, rope_theta=500000.0)
        | {"rope_scaling": _LLAMA3, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
        1_235_814_400,
    ),
    Published(
        "mistral",
        "Mistral-7B-v0.1",
        _llama(32000, 4096, 32, 32, 8, 14336, max_position_embeddings=32768, sliding_window=4096, rms_norm_eps=1e-5),
        7_241_732_096,
    ),
    Published(
        "qwen2",
        "Qwen2.5-0.5B",
        _llama(151936, 896, 24, 14, 2, 4864, max_position_embeddings=32768, rope_theta=1e6, tie_word_embeddings=True),
        494_032_768,
    ),
    Published(
        "qwen3",
        "Qwen3-0.6B",
        _llama(151936, 1024, 28, 16, 8, 3072, head_dim=128, max_position_embeddings=40960, rope_theta=1e6)
        | {"tie_word_embeddings": True},
        596_049_920,
    ),
    Published(
        "gemma2",
        "gemma-2-2b",
        _llama(256000, 2304, 26, 8, 4, 9216, head_dim=256, max_position_embeddings=8192, rope_theta=10000.0)
        | _GEMMA2
        | {"final_logit_softcapping": 30.0},
        2_614_341_888,
    ),
    Published(
        "gemma3_text",
        "gemma-3-1b-pt",
        _llama(262144, 1152, 26, 4, 1, 6912, head_dim=256, max_position_embeddings=32768, rope_theta=1e6)
        | {"sliding_window": 512, "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000.0},
        999_885_952,
    ),
    Published(
        "t5",
        "t5-base",
        {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
        222_903_552,
    ),
    Published(
        "mt5",
        "mt5-base",
        {"vocab_size": 250112, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
        | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        582_401_280,
    ),
    Published(
        "bart",
        "bart-base",
        _seq2seq(768, 6, 12, 3072, vocab_size=50265, max_position_embeddings=1024),
        139_470_681,
    ),
    Published(
        "marian",
        "opus-mt-en-de",
        _seq2seq(512, 6, 8, 2048, vocab_size=58101, max_position_embeddings=512, activation_function="swish")
        | {"scale_embedding": True},
        73_944_309,
    ),
    Published(
        "whisper",
        "whisper-base",
        _seq2seq(
            512, 6, 8, 2048, vocab_size=51865, num_mel_bins=80, max_source_positions=1500, max_target_positions=448
        ),
        72_593_920,
    ),
]
