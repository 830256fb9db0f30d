"""Watch or break the system calls of a forked child with strace, and a simulated disk to replay what was seen.

The child stops itself where the watching shall begin (``pause``); the parent attaches strace and lets it go on, so that
torch is not imported again for each of many children.
"""

from __future__ import annotations

import ast
import os
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from forking import fork, wait

CHANGES = (
    "write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,"
    "openat,creat,ftruncate,fallocate"
)

_CALL = re.compile(r"^(?:\d+ +)?(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"(?:\.\.\.)?')
_DESCRIPTOR = re.compile(r"^(?:AT_FDCWD|\d+)<(?P<path>.*)>$")


def pause() -> None:
    """Stop this child until its parent has attached strace to it."""
    os.kill(os.getpid(), signal.SIGSTOP)


@contextmanager
def stopped(function: Callable[[], int | None]) -> Iterator[int]:
    """A child that runs ``function`` and has come to its ``pause``; it does not outlive the block."""
    child = fork(function)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status), os.waitstatus_to_exitcode(status)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            wait(child)


def traced(strace: Path, options: Sequence[str], function: Callable[[], int | None]) -> int:
    """Run ``function`` in a child, under strace from its ``pause`` on; the child's exit code."""
    with stopped(function) as child:
        tracer = subprocess.Popen([strace, *options, "-p", str(child)], stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        attached = tracer.stderr.readline()
        assert "attached" in attached, attached
        os.kill(child, signal.SIGCONT)
        code = wait(child)
        tracer.communicate(timeout=60)
    return code


@dataclass(frozen=True)
class Call:
    """A call that worked: its name, the paths it names, and the bytes it wrote."""

    name: str
    paths: tuple[Path, ...]
    data: bytes = b""
    flags: str = ""


def read_calls(log: Path, below: Path) -> list[Call]:
    """The successful calls of ``strace -y -s 9999999`` that name something below a folder."""
    found = (_parse(line) for line in log.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
    return [call for call in found if call is not None and any(path.is_relative_to(below) for path in call.paths)]


def _parse(line: str) -> Call | None:
    match = _CALL.match(line)
    if match is None or int(match["result"]) < 0:
        return None
    strings: list[bytes] = []

    def take(quoted: re.Match[str]) -> str:
        strings.append(ast.literal_eval("b" + quoted[0]))
        return f"${len(strings) - 1}"

    words = _STRING.sub(take, match["arguments"]).split(", ")
    name, folder = match["name"], Path()
    if name == "openat" and "O_CREAT" not in match["arguments"]:
        return None
    paths: list[Path] = []
    data = b""
    for word in words:
        descriptor = _DESCRIPTOR.match(word)
        if descriptor is not None:
            folder = Path(descriptor["path"])
            if not word.startswith("AT_FDCWD") and name not in ("openat", "unlinkat"):
                paths.append(folder)
        elif word.startswith("$") and name in ("write", "pwrite64"):
            data = strings[int(word[1:])]
        elif word.startswith("$"):
            paths.append(folder / os.fsdecode(strings[int(word[1:])]))
    return Call(name, tuple(paths), data, " ".join(words))


@dataclass
class Node:
    """A file or folder in memory, and what of it the disk surely has; ``pending`` are a folder's unsynced changes."""

    entries: dict[str, Node] | None = None
    content: bytes = b""
    durable_entries: dict[str, Node] = field(default_factory=dict)
    durable_content: bytes = b""
    pending: list[Callable[[dict[str, Node]], object]] = field(default_factory=list)

    def change(self, apply: Callable[[dict[str, Node]], object]) -> None:
        assert self.entries is not None
        apply(self.entries)
        self.pending.append(apply)

    def flush(self) -> None:
        """What fsync promises."""
        self.durable_content = self.content
        self.durable_entries = dict(self.entries or {})
        self.pending.clear()


class Disk:
    """A disk below a folder that keeps what was flushed, and of the rest whatever it likes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = Node(entries={})

    def apply(self, call: Call) -> None:
        """Change the disk as a call did."""
        name = call.name
        if name.startswith("rename"):
            self._rename(*call.paths)
        elif name.startswith("mkdir"):
            self._link(call.paths[0], Node(entries={}))
        elif name.startswith(("unlink", "rmdir")):
            self._unlink(call.paths[0])
        elif name == "openat":
            self._create(call.paths[0], truncate="O_TRUNC" in call.flags)
        elif name in ("write", "pwrite64"):
            self._node(call.paths[0]).content += call.data
        elif name == "ftruncate" and call.flags.endswith(" 0"):
            self._node(call.paths[0]).content = b""
        elif name in ("fsync", "fdatasync") and call.paths[0].is_relative_to(self._root):
            self._node(call.paths[0]).flush()

    def unflushed(self, path: Path) -> list[Path]:
        """What below a path a power cut could take away."""
        node = self._node(path)
        found = [path] if node.pending or node.content != node.durable_content else []
        for name in node.entries or {}:
            found += self.unflushed(path / name)
        return found

    def write_to(self, target: Path, draw: random.Random | None) -> None:
        """What a power cut leaves: only what was flushed, or with ``draw`` any part of the rest too."""
        _write_node(self._top, target, draw)

    def _node(self, path: Path) -> Node:
        node = self._top
        for part in path.relative_to(self._root).parts:
            assert node.entries is not None
            node = node.entries[part]
        return node

    def _parent(self, path: Path) -> Node:
        return self._node(path.parent)

    def _link(self, path: Path, node: Node) -> None:
        self._parent(path).change(lambda entries: entries.__setitem__(path.name, node))

    def _unlink(self, path: Path) -> None:
        self._parent(path).change(lambda entries: entries.pop(path.name, None))

    def _create(self, path: Path, *, truncate: bool) -> None:
        node = (self._parent(path).entries or {}).get(path.name)
        if node is None:
            self._link(path, Node())
        elif truncate:
            node.content = b""

    def _rename(self, old: Path, new: Path) -> None:
        assert old.parent == new.parent, "every rename stays in its folder, where it is one change"
        node = self._node(old)

        def apply(entries: dict[str, Node]) -> None:
            if entries.get(old.name) is node:
                del entries[old.name]
            entries[new.name] = node

        self._parent(old).change(apply)


def _write_node(node: Node, path: Path, draw: random.Random | None) -> None:
    if node.entries is None:
        path.write_bytes(_surviving_content(node, draw))
        return
    path.mkdir()
    entries = dict(node.durable_entries)
    for apply in node.pending if draw is not None else ():
        if draw is not None and draw.random() < 0.5:
            apply(entries)
    for name, child in entries.items():
        _write_node(child, path / name, draw)


def _surviving_content(node: Node, draw: random.Random | None) -> bytes:
    """The flushed content, or a new one: what was written since is there, cut, or of its length and full of zeros."""
    if draw is None or node.content == node.durable_content:
        return node.durable_content
    kept = len(node.durable_content) if node.content.startswith(node.durable_content) else 0
    cut = draw.randrange(kept, len(node.content) + 1)
    zeros = node.content[:kept] + bytes(len(node.content) - kept)
    return draw.choice([node.durable_content, node.content, node.content[:cut], zeros])
