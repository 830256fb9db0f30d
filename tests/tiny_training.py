"""A tiny corpus and tiny settings for tests of training, and a server of forked trainers that can be killed.

As a script it is the server: torch is imported once, every life of a trainer is a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from wenlu.core.errors import EXIT_SIGINT, EXIT_SIGTERM, Terminated
from wenlu.core.settings import Resolved, load
from wenlu.data.store import Store, TokenStore
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import EvaluateSettings, RunSettings

TRANSFORMER = (
    "model.kind=qwen3",
    "model.num_layers=2",
    "model.num_heads=2",
    "model.hidden_size=16",
    "model.dropout=0.1",
)
GPT2 = ("model.kind=gpt2", "model.num_layers=2", "model.num_heads=2", "model.hidden_size=16", "model.dropout=0.1")
LSTM = ("model.kind=lstm", "model.hidden_size=16", "model.embedding_size=8", "model.dropout=0.1", "optimizer.name=adam")
SMALL = ("train.batch_size=2", "train.sequence_length=16", "train.threads=1", "train.precision=fp32", "train.steps=12")
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "你好", "世界", "文炉", "炼字"]


def tiny_texts(count: int = 60) -> list[str]:
    """Sentences of 3 to 20 words, drawn with a seed."""
    draw = random.Random(7)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 20))) for _ in range(count)]


def tiny_store(directory: Path) -> Store:
    """A corpus in memory with a tokenizer of characters in a directory; the same call gives the same corpus."""
    texts = tiny_texts()
    folder = directory / "tokenizer"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        Tokenizer.train(texts, TokenizerSettings(kind="characters", vocab_size=100)).save(folder)
    tokenizer = Tokenizer.load(folder)
    end_id, vocab_size = tokenizer.end_id, tokenizer.vocab_size

    def split(part: Sequence[str]) -> TokenStore:
        documents = [[*tokenizer.encode(text), end_id] for text in part]
        return TokenStore.from_documents(documents, end_id=end_id, vocab_size=vocab_size)

    return Store(
        directory, train=split(texts[:50]), validation=split(texts[50:]), test=split([]), record={}, fingerprint="tiny"
    )


def tiny_settings(*overrides: str) -> Resolved[RunSettings]:
    """Settings from overrides, the later ones win; without a model's, those of a tiny Transformer."""
    model = () if any(override.startswith("model.") for override in overrides) else TRANSFORMER
    return load(RunSettings, overrides=[*model, *SMALL, *overrides])


def tiny_evaluate(
    model: nn.Module, store: TokenStore, settings: EvaluateSettings, *, context: int, max_tokens: int
) -> Mapping[str, float]:
    """The mean loss of the first documents."""
    total, count = 0.0, 0
    with torch.no_grad():
        for number in range(3):
            labels = torch.from_numpy(store.document(number).astype("int64"))[None, :context]
            inputs = torch.cat([labels.new_full((1, 1), store.end_id), labels[:, :-1]], dim=1)
            total -= float(model.target_log_probs(inputs, labels).sum())  # type: ignore[operator]
            count += labels.numel()
    return {"loss": total / count}


def losses(run: Path) -> list[tuple[int, str]]:
    """(step, bits of the loss) of every step in a run's log."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(record["step"], record["loss"].hex()) for record in records if record["event"] == "step"]


class Lives:
    """Talks to the server: each call is one life of a trainer in a process of its own.

    ``imports`` are modules that every life would import late.
    ``seconds`` are those of the last life: from its last signal, or else from its start, to its end.
    """

    def __init__(self, *, imports: Sequence[str] = ()) -> None:
        self.seconds = 0.0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "WENLU_LANG": "en", "PYTHONPATH": os.pathsep.join(sys.path)}
        self._server = subprocess.Popen(
            [sys.executable, __file__, *imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def live(
        self,
        run: Path,
        settings: Sequence[str] = (),
        *,
        lines: int | None = None,
        delay: float = 0.0,
        signals: Sequence[int] = (signal.SIGKILL,),
    ) -> int:
        """Train ``run``, or resume it when it is there; the exit code, negative for a signal.

        With ``lines``, send ``signals`` ``delay`` seconds after the log has that many lines; 0 are there at the start.
        """
        request = {
            "run": str(run),
            "settings": list(settings),
            "lines": lines,
            "delay": delay,
            "signals": [int(number) for number in signals],
        }
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        code, self.seconds = json.loads(self._server.stdout.readline())
        return int(code)

    def close(self) -> None:
        """End the server."""
        self._server.communicate(timeout=30)


def _serve() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:  # whatever is imported late is imported once
        train_run(tiny_settings("train.steps=1"), Path(folder) / "run", store=tiny_store(Path(folder) / "corpus"))
    for line in sys.stdin:
        request = cast(dict[str, object], json.loads(line))
        ready, begun = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(_life(request, begun))
        os.close(begun)
        os.read(ready, 1)  # a signal that comes before its handler would end the process, not the trainer
        os.close(ready)
        started = time.monotonic()
        if request["lines"] is not None:
            started = _disturb(child, request)
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - started]), flush=True)


def _life(request: Mapping[str, object], begun: int) -> int:
    run = Path(str(request["run"]))
    sys.stdout = sys.stderr
    signal.alarm(120)  # a trainer that hangs fails its test
    signal.signal(signal.SIGTERM, _terminate)  # as the command line does
    try:
        os.close(begun)
        store = tiny_store(run.parent / "corpus")
        if (run / "run.toml").is_file():
            return resume_run(run, evaluate=tiny_evaluate, store=store).exit_code
        settings = tiny_settings(*cast(list[str], request["settings"]))
        return train_run(settings, run, evaluate=tiny_evaluate, store=store).exit_code
    except KeyboardInterrupt as stop:
        return EXIT_SIGTERM if isinstance(stop, Terminated) else EXIT_SIGINT
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 99)


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _disturb(child: int, request: Mapping[str, object]) -> float:
    """Wait until the child's log is long enough, then send it the signals; when the last one was sent."""
    log, lines, sent = Path(str(request["run"])) / "log.jsonl", cast(int, request["lines"]), time.monotonic()
    while lines and (not log.is_file() or log.read_bytes().count(b"\n") < lines):
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return sent
        time.sleep(0.0005)
    time.sleep(cast(float, request["delay"]))
    for place, number in enumerate(cast(list[int], request["signals"])):
        time.sleep(0.02 if place else 0)
        sent = time.monotonic()
        os.kill(child, number)
    return sent


if __name__ == "__main__":
    _serve()
