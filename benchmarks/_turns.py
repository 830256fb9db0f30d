"""Processes that train in turns, a few steps each, so that all of them meet the same machine.

A child waits within its training loop until its parent asks for steps on its standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence

import torch


class Turns:
    """Times steps in groups: reads how many, takes them, prints the wall and processor seconds and tokens of each."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.wanted = 0
        self.tokens = 0  # of the current step, counted by whoever knows them
        self.seconds: list[tuple[float, float, int]] = []
        self.out, sys.stdout = sys.stdout, sys.stderr  # so that nothing else can be printed between our lines
        self.wait()

    def wait(self) -> bool:
        """Wait for the next turn; False when there is none."""
        line = sys.stdin.readline()
        self.wanted, self.seconds = int(line or 0), []
        self.last = time.perf_counter(), time.process_time()
        return bool(line)

    def step(self) -> bool:
        """To be called after every step; False when the training may end."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        self.seconds.append((now[0] - self.last[0], now[1] - self.last[1], self.tokens))
        self.tokens = 0
        self.last = now
        if len(self.seconds) < self.wanted:
            return True
        print(json.dumps(self.seconds), file=self.out, flush=True)
        return self.wait()


class Child:
    """A process that trains in turns, seen from the one that started it; ``first`` is its first step in seconds."""

    def __init__(self, command: Sequence[str], *, warmup_steps: int) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self.take(1)[0][0]
        self.take(warmup_steps)

    def take(self, steps: int) -> list[tuple[float, float, int]]:
        """Let it take some steps; of each the seconds by wall and by processor, and the tokens if they are counted."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a variant ended with exit code {self.process.wait()}")
        seconds: list[tuple[float, float, int]] = json.loads(line)
        return seconds

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
