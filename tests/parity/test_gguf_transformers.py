"""GGUF files against the gguf package and transformers, which read the same files; and there and back.

transformers computes in float32 from the same de-quantised numbers, hence 1e-5 for every type; what a type rounds is
measured against the model before it was written.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from gguf_models import KINDS, SPARE, directory, gguf_file, in_blocks, rewrite, sentencepiece_directory
from tiny_sentencepiece import lines
from tiny_sentencepiece import model as sentencepiece_model
from tiny_tokenizers import SENTENCES
from wenlu.bundle import load_bundle
from wenlu.core.errors import TokenizerError
from wenlu.core.gguf import TYPES, read_header
from wenlu.gguf_export import GGUFType, export_gguf
from wenlu.models.checkpoint import load_model
from wenlu.models.config import TransformerConfig
from wenlu.models.families._files import Weights
from wenlu.models.transformer import Transformer
from wenlu.tokenization.tokenizer import Tokenizer

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TOLERANCE = 1e-5
READ_BY_TRANSFORMERS = ["gpt2", "llama", "llama tied", "qwen2", "qwen3"]  # it leaves other keys and biases out
TEXTS = (
    *SENTENCES,
    "It's 2024, and I've got 3.14159 of them; DON'T  ask.\n\n\tTabs, blanks   and lines \r\n end.",
    "红楼梦第一回：甄士隐梦幻识通灵，贾雨村风尘怀闺秀。“此开卷第一回也。”作者自云：曾历过一番梦幻之后。",
    "",
    " x",
)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 400, (2, 40), generator=torch.Generator().manual_seed(1))


def theirs(path: Path) -> torch.nn.Module:
    """The model that transformers makes of a file."""
    made = transformers.AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    assert isinstance(made, torch.nn.Module)
    return made.eval()


def assert_same_logits(path: Path, ids: torch.Tensor) -> None:
    with torch.no_grad():
        found, expected = load_model(path)(ids), theirs(path)(ids).logits
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("kind", READ_BY_TRANSFORMERS)
def test_transformers_computes_the_same_from_the_file(kind: str, tmp_path: Path, ids: torch.Tensor) -> None:
    path, model = gguf_file(tmp_path, kind)
    assert_same_logits(path, ids)
    with torch.no_grad():
        assert torch.equal(load_model(path)(ids), model(ids))


@pytest.mark.parametrize("type", ["f16", "bf16", "q8_0"])
def test_transformers_computes_the_same_from_smaller_types(type: GGUFType, tmp_path: Path, ids: torch.Tensor) -> None:
    assert_same_logits(gguf_file(tmp_path, "llama", type)[0], ids)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    path, model = gguf_file(tmp_path, kind)
    again = load_bundle(path)
    assert isinstance(again.model, Transformer) and _resolved(again.model.config) == _resolved(model.config)
    for (name, was), now in zip(model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(was, now), name
    assert again.tokenizer.fingerprint == Tokenizer.load(tmp_path / "model").fingerprint


@pytest.mark.parametrize("kind", ["gpt2", "gpt2 untied, odd width", "llama biases"])
@pytest.mark.parametrize(("type", "relative"), [("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 0.0)])
def test_smaller_types_round_as_they_say(kind: str, type: GGUFType, relative: float, tmp_path: Path) -> None:
    """Half a unit in the last place; of Q8_0, half of a 127th of the largest in 32, and its scale has 11 bits."""
    path, model = gguf_file(tmp_path, kind, type)
    for (name, was), now in zip(model.named_parameters(), load_model(path).parameters(), strict=True):
        bound = relative * was.abs() + 2**-25
        if type == "q8_0":
            bound = was.detach().abs().max() * (0.5 / 127 + 2**-11)
        if was.dim() == 1 or "position" in name:
            bound = torch.zeros(())
        assert ((was - now).abs() <= bound).all(), name


def test_every_block_format_reads_as_the_gguf_package_reads_it(tmp_path: Path, ids: torch.Tensor) -> None:
    """Random blocks of every type: each tensor as the package has it, and logits as transformers has them."""
    source = tmp_path / "source"
    directory(source, "llama", hidden_size=256, intermediate_size=512, head_dim=64)
    export_gguf(source, tmp_path / "plain.gguf", type="f32")
    path = in_blocks(tmp_path / "plain.gguf", tmp_path / "blocks.gguf")
    header = read_header(path)
    assert {info.type.name for info in header.tensors.values()} == {kind.name for kind in TYPES.values()}
    assert max(info.num_bytes / info.type.block_bytes * info.type.block_size for info in header.tensors.values()) > 1e5
    expected = {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors
    }
    plain = ("token_embd", "ffn_up", "ffn_down", "ffn_gate", "attn_v", "attn_output", "output_norm")
    with Weights(path) as weights:
        file = weights.open[path]
        for name, info in file.infos.items():  # type: ignore[union-attr]
            if any(part in info.name for part in plain):
                assert np.array_equal(weights.read(name).float().numpy(), expected[info.name]), info.name
    assert_same_logits(path, ids)


@pytest.mark.parametrize("rules", ["gpt-2", "default", "llama-bpe", "qwen2"])
def test_byte_level_ids_are_those_of_transformers(rules: str, tmp_path: Path) -> None:
    path = _with_rules(tmp_path, rules)
    assert_same_ids(path, TEXTS)


def test_digits_stand_alone_for_smollm(tmp_path: Path) -> None:
    """transformers does not know these rules and cuts as GPT-2: the same, but for a blank before digits."""
    path = _with_rules(tmp_path, "smollm")
    ours = Tokenizer.load(path)
    assert_same_ids(path, [text for text in TEXTS if not any(letter.isdigit() for letter in text)])
    assert [ours.token(id) for id in ours.encode("a  12")] == ["a", " ", " ", "1", "2"]
    assert [ours.token(id) for id in ours.encode("１２")] != ["１２"]


def test_sentencepiece_ids_are_those_of_transformers_and_of_sentencepiece(tmp_path: Path) -> None:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model("llama"))
    size = processor.get_piece_size()
    types = [
        2 if processor.is_unknown(id) else 3 if processor.is_control(id) else 6 if processor.is_byte(id) else 1
        for id in range(size)
    ]
    writer = gguf.GGUFWriter(tmp_path / "spm.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([processor.id_to_piece(id) for id in range(size)])
    writer.add_token_scores([processor.get_score(id) for id in range(size)])
    writer.add_token_types(types)
    for add, id in ((writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2), (writer.add_unk_token_id, 0)):
        add(id)
    writer.add_chat_template("{{ bos_token }}{{ messages[0]['content'] }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = Tokenizer.load(tmp_path / "spm.gguf")
    for text in TEXTS:
        assert tokenizer.encode(text) == processor.encode(text), text
    assert_same_ids(tmp_path / "spm.gguf", [text for text in TEXTS if not text.startswith(" ")])
    assert tokenizer.with_special_tokens(tokenizer.encode("x")).ids[0] == 1 == tokenizer.start_id
    assert tokenizer.chat_template == "{{ bos_token }}{{ messages[0]['content'] }}"


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_sentencepiece_is_written_and_read_with_the_same_ids(family: str, tmp_path: Path) -> None:
    """Byte tokens, tokens of a user, and spaces at the beginning (Gemma: none is put there), in both languages."""
    ours = sentencepiece_directory(tmp_path, family)
    target = tmp_path / "model.gguf"
    export_gguf(tmp_path / "model", target, type="f32")
    again = Tokenizer.load(target)
    texts = [*TEXTS, "😀 <b>bold</b>\n\n\t", "<s>no control</s>", *lines("en")[:80], *lines("zh")[:80]]
    for text in texts:
        assert again.encode(text) == ours.encode(text), text
        assert again.decode(again.encode(text)) == ours.decode(ours.encode(text)), text
    for one, other in ((again, ours), (load_bundle(target).tokenizer, ours)):
        assert one.with_special_tokens(one.encode("x")) == other.with_special_tokens(other.encode("x"))
        assert (one.start_id, one.end_id, one.pad_id, one.unknown_id) == (
            other.start_id, other.end_id, other.pad_id, other.unknown_id
        )  # fmt: skip
    if family == "llama":
        assert_same_ids(target, [text for text in TEXTS if not text.startswith(" ")])
    kinds = read_header(target).values("tokenizer.ggml.token_type", int)
    assert (kinds.count(2), kinds.count(6), kinds[-SPARE:]) == (1, 256, [5] * SPARE)
    export_gguf(target, tmp_path / "again.gguf", type="f32")
    assert (tmp_path / "again.gguf").read_bytes() == target.read_bytes()


@pytest.mark.parametrize("said", ["dropout", "end_of_word_suffix", "ignore_merges", "lstrip", "rstrip", "single_word"])
def test_what_a_file_cannot_say_of_a_tokenizer_is_refused(said: str, tmp_path: Path) -> None:
    """It would be another tokenizer for llama.cpp, and here."""
    directory(tmp_path / "model", "gpt2")
    path = tmp_path / "model" / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    values = {"dropout": 0.1, "end_of_word_suffix": "</w>", "ignore_merges": True}
    added = {"id": len(whole["model"]["vocab"]), "content": "<tool>", "special": False, "normalized": True}
    added |= {flag: flag == said for flag in ("single_word", "lstrip", "rstrip")}
    whole["model"] |= {key: value for key, value in values.items() if key == said}
    path.write_text(json.dumps(whole | {"added_tokens": [*whole["added_tokens"], added]}), encoding="utf-8")
    with pytest.raises(TokenizerError, match=said) as error:
        export_gguf(tmp_path / "model", tmp_path / "x.gguf", type="f32")
    assert error.value.id == "tokenization.gguf_unsupported" and not (tmp_path / "x.gguf").exists()


def test_sentencepiece_that_scores_cannot_tell_is_refused(tmp_path: Path) -> None:
    """A merge is missing that the scores of the pieces would allow; another normalization; other special tokens."""
    sentencepiece_directory(tmp_path, "llama")
    path = tmp_path / "model" / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    model = whole["model"]
    added = {"id": len(model["vocab"]), "content": "<tool>", "special": False}
    added |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    path.write_text(json.dumps(whole | {"added_tokens": [*whole["added_tokens"], added]}), encoding="utf-8")
    export_gguf(tmp_path / "model", tmp_path / "tool.gguf", type="f32")
    found, expected = (
        Tokenizer.load(place).encode("a <tool> b") for place in (tmp_path / "tool.gguf", tmp_path / "model")
    )
    assert found == expected and added["id"] in found
    for changed in (
        {"added_tokens": [*whole["added_tokens"], added | {"normalized": True}]},
        {"model": model | {"merges": model["merges"][1:]}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, *whole["normalizer"]["normalizers"]]}},
        {"pre_tokenizer": {"type": "Digits", "individual_digits": True}},
        {"post_processor": json.loads(json.dumps(whole["post_processor"]).replace('"ids": [1]', '"ids": [0]'))},
    ):
        path.write_text(json.dumps(whole | changed), encoding="utf-8")
        with pytest.raises(TokenizerError) as error:
            export_gguf(tmp_path / "model", tmp_path / "x.gguf", type="f32")
        assert error.value.id == f"tokenization.gguf_{'template' if 'post_processor' in changed else 'unsupported'}"
        assert not (tmp_path / "x.gguf").exists()


def assert_same_ids(path: Path, texts: list[str] | tuple[str, ...]) -> None:
    """Ours and transformers' from one file; and what we decode is the text."""
    ours, other = (
        Tokenizer.load(path),
        transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name),
    )
    for text in texts:
        assert ours.encode(text) == other.encode(text, add_special_tokens=False), text
        assert ours.decode(ours.encode(text)) == text


def _with_rules(folder: Path, rules: str) -> Path:
    """A file with a small byte-level tokenizer that is said to cut by some rules."""
    return rewrite(gguf_file(folder, "llama")[0], folder / "changed.gguf", keys={"tokenizer.ggml.pre": rules})


def _resolved(config: TransformerConfig) -> TransformerConfig:
    """The config with its derived sizes written out, as files have them."""
    stack = config.main
    return replace(config, decoder=replace(stack, num_kv_heads=stack.kv_heads, head_dim=stack.head_size))
