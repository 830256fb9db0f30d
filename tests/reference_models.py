"""Models of transformers with every parameter random, saved by their own ``save_pretrained``, and ours of their files.

A case is one variant of a family. Its reference and our model answer the same ``Batch`` under the same names, so that
each test is one comparison over all cases.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

from wenlu.models.attention import Backend
from wenlu.models.build import family
from wenlu.models.config import TransformerConfig
from wenlu.models.families._files import read_config
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.transformer import Transformer

hf.logging.set_verbosity_error()
hf.logging.disable_progress_bar()

VOCAB, LENGTH, POSITIONS = 97, 150, 640
FIRST_WORD = 3  # ids below are special

IDS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
THREE = {"num_labels": 3}
GPT2 = IDS | {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
BERT = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT |= {"intermediate_size": 80, "max_position_embeddings": POSITIONS}
ROBERTA = BERT | {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1}
ALBERT = BERT | {"embedding_size": 20, "num_hidden_layers": 3}
DISTILBERT = {"vocab_size": VOCAB, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80}
DISTILBERT |= {"max_position_embeddings": POSITIONS}
LLAMA = IDS | {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
LLAMA |= {"intermediate_size": 80, "max_position_embeddings": POSITIONS}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 300.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 900.0, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 500_000.0}
MISTRAL = LLAMA | {"head_dim": 10, "sliding_window": 37}
GEMMA2 = LLAMA | {"head_dim": 10, "sliding_window": 37, "query_pre_attn_scalar": 12, "num_hidden_layers": 4}
GEMMA2 |= {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
GEMMA3 = LLAMA | {"head_dim": 10, "sliding_window": 37, "query_pre_attn_scalar": 12, "num_hidden_layers": 6}
GEMMA3_SCALED = {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": PLAIN | {"rope_theta": 50.0}}}
T5 = {"vocab_size": VOCAB, "d_model": 48, "d_kv": 10, "d_ff": 80, "num_layers": 2, "num_decoder_layers": 3}
T5 |= {"num_heads": 4, "decoder_start_token_id": 0}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART = {"vocab_size": VOCAB, "d_model": 48, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4}
BART |= {"decoder_attention_heads": 6, "encoder_ffn_dim": 80, "decoder_ffn_dim": 70, "decoder_start_token_id": 2}
BART |= {"max_position_embeddings": POSITIONS, "pad_token_id": 1, "activation_dropout": 0.15, "attention_dropout": 0.05}
MARIAN = BART | {"scale_embedding": True, "activation_function": "swish"}
WHISPER = BART | {"num_mel_bins": 20, "max_source_positions": 130, "max_target_positions": POSITIONS}

CASES: dict[str, tuple[type[nn.Module], type[hf.PretrainedConfig], dict[str, object]]] = {
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config, GPT2),
    "gpt2 untied, odd width": (
        hf.GPT2LMHeadModel, hf.GPT2Config, GPT2 | {"tie_word_embeddings": False, "n_inner": 50},
    ),
    "gpt2 exact gelu": (hf.GPT2LMHeadModel, hf.GPT2Config, GPT2 | {"activation_function": "gelu"}),
    "gpt2 unscaled": (hf.GPT2LMHeadModel, hf.GPT2Config, GPT2 | {"scale_attn_weights": False}),
    "gpt2 sequence": (hf.GPT2ForSequenceClassification, hf.GPT2Config, GPT2 | THREE),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, LLAMA | {"rope_parameters": PLAIN, "rms_norm_eps": 1e-5}),
    "llama 3.1 tied": (
        hf.LlamaForCausalLM, hf.LlamaConfig, LLAMA | {"rope_parameters": LLAMA3, "tie_word_embeddings": True},
    ),
    "llama linear": (hf.LlamaForCausalLM, hf.LlamaConfig, LLAMA | {"rope_parameters": LINEAR}),
    "llama biases": (
        hf.LlamaForCausalLM, hf.LlamaConfig, LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 10},
    ),
    "llama multi-query": (
        hf.LlamaForCausalLM, hf.LlamaConfig, LLAMA | {"num_key_value_heads": 1, "attention_dropout": 0.2},
    ),
    "llama sequence": (hf.LlamaForSequenceClassification, hf.LlamaConfig, LLAMA | THREE),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config, LLAMA),
    "qwen2 tied": (
        hf.Qwen2ForCausalLM, hf.Qwen2Config, LLAMA | {"tie_word_embeddings": True, "rope_parameters": PLAIN},
    ),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config, LLAMA | {"head_dim": 16}),
    "qwen3 tied": (hf.Qwen3ForCausalLM, hf.Qwen3Config, LLAMA | {"head_dim": 12, "tie_word_embeddings": True}),
    "mistral": (hf.MistralForCausalLM, hf.MistralConfig, MISTRAL),
    "mistral without window": (hf.MistralForCausalLM, hf.MistralConfig, MISTRAL | {"sliding_window": None}),
    "gemma2": (hf.Gemma2ForCausalLM, hf.Gemma2Config, GEMMA2),
    "gemma3": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, GEMMA3),
    "gemma3 scaled": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, GEMMA3 | GEMMA3_SCALED),
    "bert": (hf.BertForMaskedLM, hf.BertConfig, BERT),
    "bert base": (hf.BertModel, hf.BertConfig, BERT),
    "bert pre-training": (hf.BertForPreTraining, hf.BertConfig, BERT),
    "bert sequence": (hf.BertForSequenceClassification, hf.BertConfig, BERT | THREE | {"classifier_dropout": 0.3}),
    "bert token": (hf.BertForTokenClassification, hf.BertConfig, BERT | THREE | {"hidden_act": "relu"}),
    "bert answer": (hf.BertForQuestionAnswering, hf.BertConfig, BERT),
    "roberta": (hf.RobertaForMaskedLM, hf.RobertaConfig, ROBERTA),
    "roberta base": (hf.RobertaModel, hf.RobertaConfig, ROBERTA),
    "roberta sequence": (hf.RobertaForSequenceClassification, hf.RobertaConfig, ROBERTA | THREE),
    "roberta token": (hf.RobertaForTokenClassification, hf.RobertaConfig, ROBERTA | THREE),
    "roberta answer": (hf.RobertaForQuestionAnswering, hf.RobertaConfig, ROBERTA),
    "albert": (hf.AlbertForMaskedLM, hf.AlbertConfig, ALBERT | {"num_hidden_layers": 4, "num_hidden_groups": 2}),
    "albert base": (hf.AlbertModel, hf.AlbertConfig, ALBERT),
    "albert pre-training": (hf.AlbertForPreTraining, hf.AlbertConfig, ALBERT),
    "albert sequence": (hf.AlbertForSequenceClassification, hf.AlbertConfig, ALBERT | THREE),
    "albert token": (hf.AlbertForTokenClassification, hf.AlbertConfig, ALBERT | THREE),
    "albert answer": (hf.AlbertForQuestionAnswering, hf.AlbertConfig, ALBERT),
    "distilbert": (hf.DistilBertForMaskedLM, hf.DistilBertConfig, DISTILBERT),
    "distilbert base": (hf.DistilBertModel, hf.DistilBertConfig, DISTILBERT),
    "distilbert sequence": (hf.DistilBertForSequenceClassification, hf.DistilBertConfig, DISTILBERT | THREE),
    "distilbert token": (hf.DistilBertForTokenClassification, hf.DistilBertConfig, DISTILBERT | THREE),
    "distilbert answer": (hf.DistilBertForQuestionAnswering, hf.DistilBertConfig, DISTILBERT),
    "t5": (hf.T5ForConditionalGeneration, hf.T5Config, T5),
    "t5 v1.1": (hf.T5ForConditionalGeneration, hf.T5Config, T5 | GATED),
    "mt5": (hf.MT5ForConditionalGeneration, hf.MT5Config, T5 | GATED),
    "bart": (hf.BartForConditionalGeneration, hf.BartConfig, BART),
    "bart scaled": (hf.BartForConditionalGeneration, hf.BartConfig, BART | {"scale_embedding": True}),
    "bart sequence": (hf.BartForSequenceClassification, hf.BartConfig, BART | THREE),
    "bart answer": (hf.BartForQuestionAnswering, hf.BartConfig, BART),
    "marian": (hf.MarianMTModel, hf.MarianConfig, MARIAN),
    "whisper": (hf.WhisperForConditionalGeneration, hf.WhisperConfig, WHISPER),
}  # fmt: skip
ONE_EACH = [
    *("gpt2", "llama 3.1 tied", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "bert", "roberta", "albert"),
    *("distilbert", "t5", "mt5", "bart", "marian", "whisper"),
]

_ENDS = {"SequenceClassification": "sequence", "TokenClassification": "token"}  # of classes, with what logits are
_NAMES = {
    "prediction_logits": "language_model",
    "seq_relationship_logits": "pair",
    "sop_logits": "pair",
    "last_hidden_state": "hidden",
    "pooler_output": "pooler",
    "encoder_last_hidden_state": "memory",
}
_OF_ROWS = {"pair", "sequence", "pooler"}
_OURS = {"start_logits": 0, "end_logits": 1}


@dataclass
class Batch:
    """What both models read: ids or a spectrogram, which of it is padding, and where it stands in theirs."""

    inputs: Tensor
    mask: Tensor
    segments: Tensor | None = None
    targets: Tensor | None = None  # of a decoder that has an encoder
    target_mask: Tensor | None = None
    padding: str = "right"


@dataclass(eq=False)
class Pair:
    """A reference model and the directory it was saved to."""

    reference: nn.Module
    directory: Path

    @functools.cache  # noqa: B019  (a few small tensors, of few pairs)
    def expected(self, *, training: bool = False) -> dict[str, Tensor]:
        """What the reference says of ``batch()``; in training, with seed 5."""
        torch.manual_seed(5)
        with torch.no_grad():
            expected = reference_outputs(self.reference.train(training), self.batch())
        self.reference.eval()
        return expected

    def ours(self, change: Callable[[TransformerConfig], TransformerConfig] | None = None) -> Transformer:
        """Our model of the directory; a change of its config is made after the file has been read."""
        values = read_config(self.directory)
        kind = family(str(values["model_type"]))
        assert isinstance(kind, TransformerFamily)
        with pytest.MonkeyPatch.context() as patch:
            if change is not None:
                read = TransformerFamily._by_tensors
                patch.setattr(TransformerFamily, "_by_tensors", lambda *args: change(read(*args)))
            model = kind.load(values, self.directory, dtype=self.dtype)
        assert isinstance(model, Transformer)
        return model.eval()

    @property
    def dtype(self) -> torch.dtype:
        return next(self.reference.parameters()).dtype

    def batch(self, *, rows: int = 2, length: int = LENGTH, padding: str = "right", seed: int = 7) -> Batch:
        """Random inputs: the first row without padding, the others with ever more of it on one side."""
        generator = torch.Generator().manual_seed(seed)
        config = self.reference.config
        pad = config.pad_token_id or 0

        def draw(length: int) -> tuple[Tensor, Tensor]:
            ids = torch.randint(FIRST_WORD, VOCAB, (rows, length), generator=generator)
            padded = torch.arange(rows)[:, None] * length // 4 if rows > 1 else torch.zeros(1, 1)
            mask = torch.arange(length) < length - padded
            mask = mask.flip(1) if padding == "left" else mask
            return torch.where(mask, ids, pad), mask

        ids, mask = draw(length)
        num_segments = getattr(config, "type_vocab_size", 1)
        segments = torch.randint(0, num_segments, ids.shape, generator=generator) if num_segments > 1 else None
        if not config.is_encoder_decoder:
            return Batch(ids, mask, segments, padding=padding)
        if hasattr(config, "num_mel_bins"):
            frames = torch.randn(rows, config.num_mel_bins, 2 * config.max_source_positions, generator=generator)
            mask = torch.ones(rows, config.max_source_positions, dtype=torch.bool)
            return Batch(frames.to(self.dtype), mask, None, *draw(length), padding)
        if "language_model" in head_of_logits(self.reference):
            return Batch(ids, mask, None, *draw(length - 31), padding)
        last = (torch.arange(length) * mask).argmax(1)  # a classifier of theirs reads the state at the end's token
        ids[torch.arange(rows), last] = config.eos_token_id
        targets = torch.randint(FIRST_WORD, VOCAB, ids.shape, generator=generator)
        return Batch(ids, mask, None, targets, mask, padding)


def head_of_logits(reference: nn.Module) -> str:
    """What ``logits`` mean in the answers of this class."""
    return next((head for end, head in _ENDS.items() if end in type(reference).__name__), "language_model")


def reference_outputs(reference: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Everything that the reference says of what is no padding, under our names."""
    arguments: dict[str, Tensor | None] = {"attention_mask": batch.mask.long()}
    if reference.main_input_name == "input_features":
        arguments = {}
    arguments[reference.main_input_name] = batch.inputs
    if batch.segments is not None:
        arguments["token_type_ids"] = batch.segments
    if batch.targets is not None and batch.target_mask is not None:
        arguments |= {"decoder_input_ids": batch.targets, "decoder_attention_mask": batch.target_mask.long()}
    elif batch.padding == "left" and reference.config.model_type != "roberta":  # which counts them itself
        arguments["position_ids"] = (batch.mask.long().cumsum(1) - 1).clamp(min=0)
    doubled = next(reference.parameters()).dtype == torch.float64
    with without_casts() if doubled else nullcontext():
        output = reference(**arguments, use_cache=False) if hasattr(reference, "lm_head") else reference(**arguments)
    names = _NAMES | {"logits": head_of_logits(reference)}
    found = {names.get(name, name): tensor for name, tensor in output.items() if isinstance(tensor, Tensor)}
    return {name: _of_words(name, tensor, batch) for name, tensor in found.items()}


def our_outputs(model: Transformer, batch: Batch, names: set[str]) -> dict[str, Tensor]:
    """The same of ours; theirs with two stacks count positions from the first slot, padding or not."""
    mask, memory, hidden = batch.mask, None, None
    if batch.targets is None:
        hidden = model.hidden(batch.inputs, mask=mask, segments=batch.segments)
    else:
        mask = batch.target_mask
        positions = torch.arange(batch.mask.shape[1])[None]
        memory = model.encode(batch.inputs, mask=batch.mask, positions=positions)
        positions = torch.arange(batch.targets.shape[1])[None]
        hidden = model.hidden(batch.targets, mask=mask, positions=positions, memory=memory, memory_mask=batch.mask)
    span = model.head.judge("span", hidden, mask) if names & set(_OURS) else None

    def answer(name: str) -> Tensor:
        if name in _OURS and span is not None:
            return span[..., _OURS[name]]
        if name == "language_model":
            return model.logits(hidden)
        if name == "pooler":
            return model.head.pooled(hidden, mask)
        given = {"hidden": hidden, "memory": memory}.get(name)
        return model.head.judge(name, hidden, mask) if given is None else given

    return {name: _of_words(name, answer(name), batch) for name in sorted(names)}


def _of_words(name: str, tensor: Tensor, batch: Batch) -> Tensor:
    if name in _OF_ROWS:
        return tensor
    mask = batch.mask if name == "memory" or batch.target_mask is None else batch.target_mask
    return tensor[mask]


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def largest_difference(
    ours: Transformer, expected: dict[str, Tensor], batch: Batch, *, training: bool = False
) -> float:
    """Over all that the reference says; in training, equal when both drop at the same places at the same rates."""
    if training:
        ours.attention_backend = "eager"
    torch.manual_seed(5)
    found = our_outputs(ours.train(training), batch, set(expected))
    assert all(found[name].shape == tensor.shape for name, tensor in expected.items())
    return max(difference(found[name], tensor) for name, tensor in expected.items())


class Pairs:
    """Pairs made once each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made: dict[object, Pair] = {}

    def __call__(self, case: str, *, dtype: torch.dtype = torch.float32, backend: Backend = "sdpa") -> Pair:
        key = (case, dtype, backend)
        if key not in self.made:
            directory = self.directory / str(len(self.made))
            self.made[key] = make_pair(case, directory, dtype=dtype, backend=backend)
        return self.made[key]


def make_pair(case: str, directory: Path, *, dtype: torch.dtype = torch.float32, backend: Backend = "sdpa") -> Pair:
    """A reference whose every parameter is random; only tables that are computed (Marian's sinusoids) stay."""
    model_class, config_class, values = CASES[case]
    if not model_class._supports_sdpa:
        backend = "eager"
    generator = torch.Generator().manual_seed(0)
    reference = model_class._from_config(config_class(**values), dtype=dtype, attn_implementation=backend).eval()
    computed = "embed_positions" if reference.config.model_type == "marian" else "none"
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if computed not in name:
                parameter.requires_grad_(True)  # whisper's encoder has a table that is not trained
                _randomize(name, parameter, reference.config.model_type, generator)
        for name, buffer in reference.named_buffers():
            if name == "final_logits_bias":
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            if name.endswith("embed_scale"):
                buffer.data = torch.tensor(reference.config.hidden_size**0.5, dtype=dtype)
    reference.save_pretrained(directory)
    return Pair(reference, directory)


def _randomize(name: str, parameter: Tensor, model_type: str, generator: torch.Generator) -> None:
    """Equal in every type, but for rounding."""
    mean, deviation = 0.0, 0.1 if "t5" in model_type else 0.2  # T5 does not scale its scores
    if parameter.dim() == 1:  # norms and biases
        norm = any(word in name.lower() for word in ("norm", "ln_")) and name.endswith("weight")
        mean, deviation = 1.0 if norm and "gemma" not in model_type else 0.0, 0.3
    elif "relative_attention_bias" in name:
        deviation = 1.0
    elif any(table in name for table in ("embed", "wte", "wpe", "shared")):
        deviation = 0.03  # small, so that the epsilon of the first norm matters
    parameter.copy_(mean + deviation * torch.randn(parameter.shape, generator=generator))


@contextmanager
def without_casts() -> Iterator[None]:
    """Doubles stay doubles where the reference casts to float32 inside (norms, the softmax)."""
    to, single, softmax = Tensor.to, Tensor.float, F.softmax

    def kept_to(self: Tensor, *args: object, **kwargs: object) -> Tensor:
        return self if self.dtype == torch.float64 and args[:1] == (torch.float32,) else to(self, *args, **kwargs)

    def kept_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None, **_: object) -> Tensor:
        return softmax(x, dim=dim, dtype=None if x.dtype == torch.float64 else dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "to", kept_to)
        patch.setattr(Tensor, "float", lambda self: self if self.dtype == torch.float64 else single(self))
        patch.setattr(F, "softmax", kept_softmax)
        yield
