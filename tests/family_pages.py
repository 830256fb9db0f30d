"""What is generated in ``docs/*/families.md``: a drawing of every kind, and tables of what published models chose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, fields

from published_models import PUBLISHED, Published
from wenlu.cli.commands.describe import draw, find
from wenlu.core import plugins
from wenlu.models.build import FAMILIES
from wenlu.models.config import _READ_BY, ALL_BIASES, RopeScaling, StackConfig, TransformerConfig
from wenlu.models.description import describe_transformer

NOTHING = "·"
ORDER = ["q", "k", "v", "o", "ffn", "embedding", "final"]
DRAWN = {"llama", "mistral", "gemma2", "gemma3_text", "t5"}  # as published, too: a new model makes other choices
NOT_SHOWN = {
    *(field.name for field in fields(StackConfig) if field.name.endswith("_dropout")),
    *("start_token_id", "end_token_id", "pad_token_id", "decoder_start_token_id"),  # of the tokenizer
    *("encoder", "decoder"),  # the rows before
    *("heads", "labels", "pooled_position", "pooler_activation", "classifier_bias", "classifier_dropout"),  # of a file
}
CHOICES: dict[str, tuple[str, str]] = {  # of StackConfig, of TransformerConfig
    "hidden_size": ("hidden size", "隐藏维度"),
    "num_layers": ("layers", "层数"),
    "num_heads": ("heads", "注意力头数"),
    "intermediate_size": ("feed-forward size", "前馈维度"),
    "max_positions": ("positions", "位置数"),
    "num_kv_heads": ("heads for keys and values", "键和值的头数"),
    "head_dim": ("head size, where not hidden size / heads", "每头维度，若不是隐藏维度除以头数"),
    "num_distinct_layers": ("layers with weights of their own", "有自己权重的层数"),
    "attention": ("attention", "注意力"),
    "memory_size": ("attends to states of size", "所关注的状态的维度"),
    "norm": ("norm", "归一化"),
    "norm_eps": ("its epsilon", "归一化的 epsilon"),
    "norm_placement": ("norm stands", "归一化的位置"),
    "outer_norms": ("norm after", "另有归一化在其后"),
    "qk_norm": ("RMSNorm of q and k", "q 和 k 的 RMSNorm"),
    "position": ("positions by", "位置方式"),
    "position_offset": ("first row of positions", "位置表的起始行"),
    "rope_theta": ("rotary base", "旋转底数"),
    "rope_scaling": ("rotary scaling", "旋转缩放"),
    "relative_buckets": ("relative distances", "相对距离数"),
    "relative_distance": ("up to", "最远"),
    "window": ("window", "窗口"),
    "full_every": ("of this many layers one has none", "每这么多层有一层没有窗口"),
    "window_rope_theta": ("rotary base with a window", "有窗口时的旋转底数"),
    "num_segments": ("segments", "段数"),
    "embedding_size": ("embedding size, where not hidden size", "嵌入维度，若不是隐藏维度"),
    "embedding_scale": ("embeddings times", "嵌入乘以"),
    "mel_bins": ("bands of the spectrogram", "频谱图的频带数"),
    "ffn": ("feed-forward", "前馈"),
    "activation": ("activation", "激活函数"),
    "biases": ("biases", "偏置"),
    "attention_scale": ("scores times, where not head size ^ -1/2", "分数乘以，若不是每头维度的 -1/2 次方"),
    "attention_softcap": ("cap of the scores", "分数的上限"),
    "vocab_size": ("vocabulary", "词表"),
    "tie_embeddings": ("output matrix is the tokens' table", "输出矩阵就是词元的表"),
    "head_transform": ("transform before the output", "输出前的变换"),
    "head_bias": ("bias of the logits", "logit 的偏置"),
    "head_scale": ("states times, before the output", "输出前状态乘以"),
    "logit_softcap": ("cap of the logits", "logit 的上限"),
}
WORDS = {
    "en": {"choice": "choice", "parameters": "parameters", "yes": "yes", "no": "no", "all": "all", "none": "none"},
    "zh": {"choice": "选择", "parameters": "参数", "yes": "是", "no": "否", "all": "全部", "none": "无"},
}
GROUPS = {
    "encoders": [one for one in PUBLISHED if one.config().decoder is None],
    "decoders": [one for one in PUBLISHED if one.config().encoder is None],
    "both": [one for one in PUBLISHED if len(one.config().stacks) == 2],
}


def blocks(language: str) -> dict[str, str]:
    """The generated parts of the page by name; the drawings are in the language that WENLU_LANG says."""
    drawings = {f"drawing {kind}": f"```text\n{draw(find(kind)[1])}\n```" for kind in plugins.names(FAMILIES)}
    drawings |= {
        f"published {model.kind}": f"```text\n{draw(describe_transformer(model.config()))}\n```"
        for model in PUBLISHED
        if model.kind in DRAWN
    }
    return drawings | {f"choices {name}": table(models, language) for name, models in GROUPS.items()}


def table(models: list[Published], language: str) -> str:
    """Rows of choices, columns of models; what a stack chose differently from the other stands after a slash."""
    words, configs = WORDS[language], [model.config() for model in models]
    rows = [
        [words["choice"], *(f"`{model.kind}`<br>{model.name}" for model in models)],
        ["---"] * (len(models) + 1),
        [words["parameters"], *(f"{describe_transformer(config).sums['total']:,}" for config in configs)],
        *choice_rows(configs, language),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def choice_rows(configs: list[TransformerConfig], language: str) -> Iterator[list[str]]:
    """A row for each choice that one of the models made."""
    for cls in (StackConfig, TransformerConfig):
        for field in fields(cls):
            if field.name in NOT_SHOWN:
                continue
            shown = []
            for config in configs:
                holders = config.stacks if cls is StackConfig else (config,)
                cells = [cell(holder, field, language) for holder in holders]
                shown.append(" / ".join(cells if len(set(cells)) > 1 else cells[:1]))
            if set(shown) - {NOTHING}:
                label = CHOICES[field.name][0 if language == "en" else 1]
                yield [f"{label} (`{field.name}`)", *shown]


def cell(holder: StackConfig | TransformerConfig, field: Field[object], language: str) -> str:
    """What was chosen; nothing where that is to do without, or where another choice leaves it unread."""
    value, words = getattr(holder, field.name), WORDS[language]
    choice, used = _READ_BY.get(field.name, (field.name, (value,)))
    if getattr(holder, choice) not in used or (value == field.default and value in (None, False, 0, 1.0, "none")):
        return NOTHING
    if isinstance(value, bool):
        return words["yes" if value else "no"]
    if isinstance(value, frozenset):
        return words["all"] if value == ALL_BIASES else ", ".join(sorted(value, key=ORDER.index)) or words["none"]
    if isinstance(value, RopeScaling):
        return f"× {value.factor:g}"
    if isinstance(value, float):
        return f"{value:.5g}" if value < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else NOTHING if value is None else str(value)
