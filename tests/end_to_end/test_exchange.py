"""``wenlu import``, ``export`` and ``parity``: checkpoints in and out, and the mistakes of a tired user."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from tiny_tokenizers import tiny
from wenlu import exchange
from wenlu.bundle import load_bundle, save_bundle
from wenlu.cli.main import main
from wenlu.core import plugins
from wenlu.core.publication import verify
from wenlu.generation.settings import GenerationSettings
from wenlu.models import pickled
from wenlu.models.build import FAMILIES, build_model, family
from wenlu.models.checkpoint import load_model
from wenlu.models.config import ModelSettings
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.transformer import Transformer

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

KINDS = [name for name in plugins.names(FAMILIES) if isinstance(family(name), TransformerFamily)]
TOKENIZER = tiny("bpe")
TASKS = plugins.names("wenlu.tasks")
VOCAB = TOKENIZER.vocab_size
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 160}


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words), "--json"], prog_name="wenlu")


def said(found: Result) -> dict[str, object]:
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def refusal(found: Result, code: int = 2) -> dict[str, str]:
    assert found.exit_code == code, (found.output, found.exception)
    [line] = [line for line in found.stderr.splitlines() if line.startswith('{"error"')]
    return json.loads(line)["error"]


def randomize(model: torch.nn.Module, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def reference_model(**values: object) -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(**GPT2, bos_token_id=TOKENIZER.end_id, eos_token_id=TOKENIZER.end_id, **values)
    model = transformers.GPT2LMHeadModel(config)
    randomize(model)
    return model.eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What ``save_pretrained`` writes, and a tokenizer beside it."""
    folder = tmp_path / "theirs"
    reference_model().save_pretrained(folder)
    TOKENIZER.save(folder)
    return folder


def tokens(batch: int = 2, length: int = 60) -> torch.Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_computes_the_same_there_and_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 48, "num_heads": 4, "num_layers": 2, "initialization": "gpt2"}
    settings = ModelSettings(kind=kind, **{k: v for k, v in sizes.items() if k in family(kind).uses})
    model = build_model(settings, vocab_size=VOCAB, end_id=TOKENIZER.end_id, sequence_length=128, seed=1).eval()
    randomize(model)
    two_sided = model.config.encoder is not None and model.config.decoder is not None
    ids = {"pad_token_id": TOKENIZER.pad_id} | ({"decoder_start_token_id": TOKENIZER.end_id} if two_sided else {})
    model.config = replace(model.config, **ids)
    (tmp_path / "ours").mkdir()
    chosen = GenerationSettings(temperature=0.5, top_k=7, repetition_penalty=1.2)
    save_bundle(tmp_path / "ours", model=model, tokenizer=TOKENIZER, generation=chosen)
    said(wenlu("export", tmp_path / "ours", "--format", "hf", "-o", tmp_path / "hf"))

    config = json.loads((tmp_path / "hf/config.json").read_text(encoding="utf-8"))
    reference = getattr(transformers, config["architectures"][0]).from_pretrained(tmp_path / "hf").eval()
    assert reference.config.model_type == kind
    with torch.no_grad():
        read = tokens()
        if two_sided and (bins := model.config.encoder.mel_bins):
            read = torch.randn(
                2, bins, 2 * model.config.encoder.max_positions, generator=torch.Generator().manual_seed(7)
            )
        expected = reference(read, **({"decoder_input_ids": tokens()} if two_sided else {})).logits
        found = model(tokens(), **({"memory": model.encode(read)} if two_sided else {}))
    assert ((found - expected).abs().max() / expected.abs().max()).item() <= 1e-5
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "hf").top_k == 7
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs("文本 text", add_special_tokens=False)["input_ids"] == TOKENIZER.encode("文本 text")

    said(wenlu("import", tmp_path / "hf", "-o", tmp_path / "again"))
    state, again = model.state_dict(), load_model(tmp_path / "again").state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes(), name
    assert said(wenlu("parity", tmp_path / "ours", tmp_path / "again"))["difference"] == 0.0
    assert load_bundle(tmp_path / "again").task in TASKS
    assert load_bundle(tmp_path / "again").generation == chosen.replace(end_token_ids=(TOKENIZER.end_id,))


def test_an_import_lists_what_it_used_and_what_it_left(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    save_file({**tensors, "transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4)}, checkpoint / "model.safetensors")
    generation = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "num_beams": 4, "eos_token_id": [0, 5]}
    (checkpoint / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    config = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config | {"legacy": True}), encoding="utf-8")
    (checkpoint / "README.md").write_text("about", encoding="utf-8")
    (checkpoint / "onnx").mkdir()
    record = said(wenlu("import", checkpoint, "-o", tmp_path / "model"))
    assert record["family"] == "gpt2"
    assert record["parameters"] == sum(parameter.numel() for parameter in reference_model().parameters())
    assert {"n_embd", "n_layer", "layer_norm_epsilon"} <= set(record["config_used"])
    assert record["config_not_read"]["initializer_range"] == 0.02
    assert not set(record["config_used"]) & set(record["config_not_read"])
    assert (record["tokenizer_file"], record["tokenizer_kind"]) == ("tokenizer.json", "bpe")
    assert record["tokenizer_not_read"] == ["legacy"]
    assert record["chat_template"] is True
    assert record["files_left"] == ["README.md", "onnx/"]
    assert record["generation"] == {"temperature": 0.6, "top_p": 0.9, "end_token_ids": [0, 5]}
    assert any("num_beams" in line for line in record["notices"])
    assert any("transformer.h.0.attn.bias" in line for line in record["notices"])
    verify(tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    assert bundle.generation.end_token_ids == (0, 5)
    assert bundle.tokenizer.chat_template == "{{ messages }}"
    shown = CliRunner().invoke(main, ["import", str(checkpoint), "-o", str(tmp_path / "other")], prog_name="wenlu")
    for word in ("gpt2", "initializer_range=0.02", "README.md", "temperature=0.6", "legacy"):
        assert word in shown.stdout


def test_shards_of_bfloat16_are_imported_and_the_default_name_is_that_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = reference_model().bfloat16()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert not (tmp_path / "sharded/model.safetensors").exists()
    TOKENIZER.save(tmp_path / "words")
    monkeypatch.chdir(tmp_path)
    record = said(wenlu("import", "sharded", "--tokenizer", "words"))
    assert record["path"] == "models/sharded"
    assert record["files_left"] == []
    ours = load_model(tmp_path / "models/sharded")
    with torch.no_grad():
        expected = model.float()(tokens()).logits
        assert ((ours(tokens()) - expected).abs().max() / expected.abs().max()).item() <= 1e-5
    assert refusal(wenlu("import", "sharded", "--tokenizer", "words"))["id"] == "core.target_exists"
    said(wenlu("import", "sharded", "--tokenizer", "words", "--replace"))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 548105171\n"


def edit(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | values), encoding="utf-8")


def shard(folder: Path) -> None:
    shutil.rmtree(folder)
    reference_model().save_pretrained(folder, max_shard_size="20KB")
    TOKENIZER.save(folder)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


MISTAKES: list[tuple[str, Callable[[Path], object], str, str, str]] = [
    ("wrong folder", lambda f: (f / "config.json").unlink(), ".", "exchange.not_here", "model.safetensors"),
    ("folder above", lambda f: f, "..", "exchange.not_here", "theirs"),
    ("no folder", lambda f: f, "nowhere", "exchange.no_directory", "nowhere"),
    ("a file", lambda f: f, "model.safetensors", "exchange.a_file", "wenlu import"),
    ("no tokenizer", lambda f: (f / "tokenizer.json").unlink(), ".", "tokenization.no_files", "--tokenizer"),
    ("half a download", lambda f: (f / "model.safetensors").rename(f / "model.safetensors.part"), ".",
     "exchange.unfinished", "model.safetensors.part"),
    ("cut short", lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-99]), ".",
     "models.weights_damaged", "cut short"),
    ("a shard missing", shard, ".", "models.weights_missing", "model-00002"),
    ("weights missing", lambda f: (f / "model.safetensors").unlink(), ".", "models.weights_missing", "safetensors"),
    ("pointer weights", lambda f: (f / "model.safetensors").write_text(POINTER), ".", "core.lfs_pointer", "548.1 MB"),
    ("pointer tokenizer", lambda f: (f / "tokenizer.json").write_text(POINTER), ".", "core.lfs_pointer", "git lfs"),
    ("pointer config", lambda f: (f / "config.json").write_text(POINTER), ".", "core.lfs_pointer", "config.json"),
    ("remote code", lambda f: edit(f, auto_map={"AutoModel": "m.M"}), ".", "models.remote_code", "remove auto_map"),
    ("pipelines", lambda f: edit(f, custom_pipelines={"x": {"impl": "m.M"}}), ".", "models.remote_code", "m.M"),
    ("remote tokenizer", lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "t.T"}}'),
     ".", "tokenization.remote_code", "t.T"),
    ("a pickle", lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), ".",
     "models.pickle_refused", "--convert-pickle"),
    ("unknown kind", lambda f: edit(f, model_type="mamba"), ".", "models.unknown_type", "gpt2"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "place", "id", "word"), [row[1:] for row in MISTAKES], ids=[r[0] for r in MISTAKES])
def test_a_mistake_is_told_with_its_remedy_and_leaves_nothing(
    spoil: Callable[[Path], object],
    place: str,
    id: str,
    word: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(checkpoint)
    source = checkpoint.parent if place == ".." else checkpoint / place
    for language in ("en", "zh"):
        monkeypatch.setenv("WENLU_LANG", language)
        error = refusal(wenlu("import", source, "-o", tmp_path / "new"))
        assert error["id"] == id
        assert word in " ".join(error.values()) or language == "zh"
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".new*"))


@pytest.mark.parametrize("kind", ["lstm", "ngram"])
def test_a_model_that_only_we_compute_is_not_exported(kind: str, tmp_path: Path) -> None:
    from golden.make import GOLDEN

    assert refusal(wenlu("export", GOLDEN / "1/models" / kind, "-o", tmp_path / "hf"))["id"] == "exchange.only_ours"
    assert not (tmp_path / "hf").exists()


def test_options_without_effect_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    export = ("export", checkpoint, "-o", tmp_path / "out")
    assert refusal(wenlu(*export, "--type", "f16"))["id"] == "exchange.type_unused"
    assert refusal(wenlu(*export, "--format", "gguf", "--replace"))["id"] == "exchange.replace_unused"


def test_parity_ends_with_3_above_its_threshold(checkpoint: Path, tmp_path: Path) -> None:
    said(wenlu("import", checkpoint, "-o", tmp_path / "same"))
    record = said(wenlu("parity", checkpoint, tmp_path / "same"))
    assert (record["difference"], record["within"]) == (0.0, True)
    assert len(record["prompts"]) == 16
    assert max(prompt["tokens"] for prompt in record["prompts"]) == 160  # cut to what the model can read
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["transformer.h.1.mlp.c_proj.bias"][0] += 0.02
    save_file(tensors, checkpoint / "model.safetensors")
    found = wenlu("parity", checkpoint, tmp_path / "same")
    assert refusal(found, code=3)["id"] == "evaluation.parity_above"
    difference = json.loads(found.stdout)["difference"]
    with torch.no_grad():
        ids = torch.tensor([load_bundle(checkpoint).tokenizer.encode("The capital of France is")])
        one, other = (load_model(place)(ids).double() for place in (checkpoint, tmp_path / "same"))
    [prompt] = [p for p in json.loads(found.stdout)["prompts"] if p["text"] == "The capital of France is"]
    assert prompt["difference"] == pytest.approx(((one - other).abs().max() / other.abs().max()).item())
    assert 1e-5 < prompt["difference"] <= difference
    assert said(wenlu("parity", checkpoint, tmp_path / "same", "--threshold", 2 * difference))["within"] is True
    assert refusal(wenlu("parity", checkpoint, tmp_path / "same", "--threshold", -1))["id"].endswith("parity_threshold")


def test_parity_of_other_tokenizers_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "other")
    tiny("characters").save(tmp_path / "other")
    assert refusal(wenlu("parity", checkpoint, tmp_path / "other"))["id"] == "evaluation.parity_tokens"


def test_parity_does_not_pass_over_what_is_no_number(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "same")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["transformer.wpe.weight"][40:] = float("nan")  # which short texts never see
    save_file(tensors, tmp_path / "same/model.safetensors", metadata={"format": "pt"})
    found = wenlu("parity", checkpoint, tmp_path / "same", "--threshold", 1e9)
    assert refusal(found, code=3)["id"] == "evaluation.parity_above"


def test_parity_compares_every_head(tmp_path: Path) -> None:
    settings = ModelSettings(kind="bert", hidden_size=16, num_heads=2, num_layers=1)
    new = build_model(settings, vocab_size=VOCAB, end_id=TOKENIZER.end_id, sequence_length=16, seed=1).eval()
    config = replace(new.config, heads=frozenset({"pooler", "sequence"}), labels=("no", "yes"), head_bias=False)
    parts = {"one": None, "judge": "head.classifier.weight", "pooler": "head.pooler.weight"}
    for name, part in parts.items():
        model = Transformer(config)
        model.load_state_dict(new.state_dict(), strict=False)
        randomize(model)
        if part is not None:
            with torch.no_grad():
                model.get_parameter(part).mul_(2)
        (tmp_path / name).mkdir()
        model.kind = "bert"
        save_bundle(tmp_path / name, model=model, tokenizer=TOKENIZER)
    for name in ("judge", "pooler"):
        found = wenlu("parity", tmp_path / name, tmp_path / "one", "--threshold", 1e-2)
        assert refusal(found, code=3)["id"] == "evaluation.parity_above"
    (tmp_path / "words").mkdir()
    save_bundle(tmp_path / "words", model=new, tokenizer=TOKENIZER)
    message = refusal(wenlu("parity", tmp_path / "one", tmp_path / "words"))
    assert message["id"] == "evaluation.parity_heads" and "pooler, sequence" in message["found"]


def test_weights_that_are_not_finite_are_copied_and_named(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["transformer.wpe.weight"][3, 5] = float("nan")
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    [told] = said(wenlu("import", checkpoint, "-o", tmp_path / "model"))["notices"]
    assert "decoder.embeddings.position.weight" in told
    assert load_file(tmp_path / "model/model.safetensors")["transformer.wpe.weight"][3, 5].isnan()


def test_zeros_of_another_sign_are_not_the_same() -> None:
    zeros = torch.zeros(3)
    assert exchange._same_bits(zeros, zeros.clone()) and not exchange._same_bits(zeros, -zeros)


def as_pickle(checkpoint: Path, state: object, name: str = "pytorch_model.bin") -> None:
    (checkpoint / "model.safetensors").unlink(missing_ok=True)
    torch.save(state, checkpoint / name)


def test_a_pickle_is_converted_on_request_bit_for_bit(checkpoint: Path, tmp_path: Path) -> None:
    state = reference_model().state_dict()  # the output matrix is the embedding, in one memory
    as_pickle(checkpoint, {"model": {**state, "steps": 7}, "epoch": 1}, "last.ckpt")
    torch.save({}, checkpoint / "optimizer.pt")
    record = said(wenlu("import", checkpoint, "--convert-pickle", "-o", tmp_path / "one"))
    assert (record["converted"], record["converted_left"]) == (["last.ckpt"], ["steps"])
    assert record["files_left"] == ["optimizer.pt"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_dir()) == []
    (checkpoint / "last.ckpt").unlink()
    names = sorted(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in parts.items():
        torch.save({name: state[name] for name in part}, checkpoint / file, _use_new_zipfile_serialization=False)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert said(wenlu("import", checkpoint, "--convert-pickle", "-o", tmp_path / "two"))["converted"] == sorted(parts)
    written = [load_file(tmp_path / place / "model.safetensors") for place in ("one", "two")]
    for name, tensor in written[0].items():
        assert torch.equal(tensor, state[name]), name
        assert torch.equal(tensor, written[1][name]), name
    assert len(written[0]) == len(state) - 1  # tied


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("executed", "w")


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({"weight": Bomb()}, "open"),
        ({"weight": torch.zeros(1).expand(10**11)}, "memory"),  # a file of 1 kB, tensors of 400 GB
    ],
    ids=["program", "memory"],
)
@pytest.mark.promise("T22")
def test_the_child_gives_up_and_leaves_nothing(
    state: object, word: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_pickle(checkpoint, state)
    monkeypatch.chdir(tmp_path)
    error = refusal(wenlu("import", checkpoint, "--convert-pickle", "-o", tmp_path / "new"))
    assert error["id"] == "models.pickle_failed"
    assert word in error["found"].lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


@pytest.mark.parametrize(("state", "word"), [([torch.zeros(1)], "list"), ({"step": 3}, "no tensors")])
def test_what_holds_no_tensors_is_not_converted(state: object, word: str) -> None:
    with pytest.raises(SystemExit, match=word):
        pickled._tensors(state)


def test_a_directory_with_several_pickles_or_none_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    words = ("import", checkpoint, "--convert-pickle", "-o", tmp_path / "new")
    assert refusal(wenlu(*words))["id"] == "models.pickle_none"
    for name in ("a.pt", "b.pt"):
        (checkpoint / name).write_bytes(b"\x80\x02")
    assert refusal(wenlu(*words))["id"] == "models.pickle_several"


ATTEMPTS = {
    "socket.__new__": "import socket; socket.socket()",
    "os.system": "import os; os.system('true')",
    "subprocess.Popen": "import subprocess; subprocess.run(['true'])",
    "open": "open('written', 'w')",
    "pickle.find_class": "import pickle; pickle.loads(pickle.dumps(len))",
    "ctypes.dlopen": "import ctypes; ctypes.CDLL('libm.so.6')",
}


@pytest.mark.promise("T23")
@pytest.mark.parametrize("event", ATTEMPTS)
def test_the_child_ends_at_what_reading_tensors_does_not_need(event: str, tmp_path: Path) -> None:
    watched = "import sys, wenlu.models.pickled as p; sys.addaudithook(p._watch); open(p.__file__).close()"
    program = f"{watched}; {ATTEMPTS[event]}"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert child.returncode == 77
    assert f"stopped at {event}" in child.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_misnamed_gguf_files_and_misspelt_kinds_are_named(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tired user gives: each time one message, and nothing is left."""
    monkeypatch.setenv("WENLU_LANG", language)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"GGUF" + bytes(60))
    for words, said in (
        (("describe", "model.bin"), ".gguf"),
        (("generate", "hello", "--model", "model.bin"), ".gguf"),
        (("parity", "model.bin", "model.bin"), ".gguf"),
        (("export", "model.bin", "-o", "back"), ".gguf"),
        (("export", "model.bin", "--format", "gguf", "-o", "back.gguf"), ".gguf"),
        (("export", "model.bin", "--format", "gguf", "-o", "back.bin"), "back.bin"),
        (("import", "model.bin", "-o", "back"), ".gguf"),
        (("describe", "brt"), "bert"),
    ):
        found = wenlu(*words)
        assert found.exit_code == 2 and found.stdout == "", words
        [line] = found.stderr.splitlines()
        assert said in line and "albert" not in line and ": null" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]
