"""Importing Wenlu, or any one module of it, opens no socket and starts no process."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import wenlu
from promises import Figure

LOUD = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pty.", "urllib.")
PROGRAM = """
import importlib, json, sys
events, names, loud = [], json.loads(sys.argv[1]), tuple(json.loads(sys.argv[2]))
module = ""
sys.addaudithook(lambda event, arguments: events.append([module, event]) if event.startswith(loud) else None)
for module in names:
    importlib.import_module(module)
quiet = list(events)
module = "alarm"
import socket, subprocess
socket.socket().close()
subprocess.run([sys.executable, "-c", ""], check=True)
print(json.dumps({"events": quiet, "alarms": [event for _, event in events[len(quiet):]]}))
"""


@pytest.mark.promise("T40")
def test_importing_opens_no_socket_and_starts_no_process(figure: Figure) -> None:
    found = pkgutil.walk_packages(wenlu.__path__, "wenlu.")
    names = ["wenlu", *sorted(module.name for module in found if module.name != "wenlu.__main__")]
    assert len(names) > 100
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(names), json.dumps(LOUD)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert {"socket.__new__", "subprocess.Popen"} <= set(seen["alarms"]), "the hook hears what it must"
    assert seen["events"] == []
    figure(f"{len(names)} modules imported: 0 sockets, 0 processes")
