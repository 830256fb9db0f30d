"""The errors a user can meet.

    WenluError
    ├── SettingsError     a setting or an option is wrong                        exit 2
    ├── DataError         a text, table or token file is wrong                   exit 2
    ├── TokenizerError    a tokenizer is wrong, or does not fit                  exit 2
    ├── CheckpointError   a run, model or checkpoint directory is wrong          exit 2
    ├── RequestError      a prompt or a request is wrong                         exit 2
    ├── GateError         a check that was asked for did not hold                exit 3
    ├── RunError          the run could not go on (lock, space, resources)       exit 1
    ├── NotFiniteError    a loss, gradient or weight is NaN or infinite          exit 1
    └── DeviceError       the processor or accelerator cannot do what is asked   exit 1

An error carries an id and values, never a finished text. The texts stand in ``core/messages/{en,zh}.toml`` under
``[error.<id>]`` with the four parts of every message: ``what`` is wrong, ``where``, the value ``found``, and what to do
(``fix``). They are formatted when somebody reads them, in that reader's language.
"""

from __future__ import annotations

import re
from typing import ClassVar

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_GATE = 3
EXIT_SIGINT = 130
EXIT_SIGTERM = 143

# How torch words it; a processor's allocator raises RuntimeError, an accelerator's a subclass of it.
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


class WenluError(Exception):
    """Base of all errors that Wenlu raises for a user; ``id`` names its text in the catalogue."""

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, id: str, /, **values: object) -> None:
        super().__init__(id)
        self.id = id
        self.values = values

    def __str__(self) -> str:
        from wenlu.core.messages import error_text

        return error_text(self.id, self.values)


class Terminated(KeyboardInterrupt):
    """SIGTERM where no run is there to save: it unwinds a command as Ctrl-C does, so that nothing is left behind."""


class _InputError(WenluError):
    """What the user gave cannot be used."""

    exit_code = EXIT_WRONG_INPUT


class SettingsError(_InputError):
    """A setting, an option or a combination of them is wrong."""


class DataError(_InputError):
    """A text, a table, a corpus or a token store cannot be used as it is."""


class TokenizerError(_InputError):
    """A tokenizer cannot be trained, read or applied."""


class CheckpointError(_InputError):
    """A run, model or checkpoint directory is missing, damaged or of another kind."""


class RequestError(_InputError):
    """A prompt, or what is asked of a model, cannot be served."""


class GateError(WenluError):
    """A check that the user asked for did not hold (verify, lint, parity, threshold)."""

    exit_code = EXIT_GATE


class RunError(WenluError):
    """A run cannot start or go on: it is locked, or the machine lacks what it needs."""


class NotFiniteError(WenluError):
    """A loss, a gradient or a weight is NaN or infinite; nothing was changed by the step that found it."""


class DeviceError(WenluError):
    """The processor or the accelerator cannot do what is asked."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch could not get the memory that it asked for."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))
