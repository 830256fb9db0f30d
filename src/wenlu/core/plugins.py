"""A folder's files are its registry: the plugins of a package are its modules whose names do not begin with ``_``.

Third parties add theirs under the entry-point group of the same dotted name (``wenlu.tasks``, ``wenlu.data.readers``);
those are read only when a name is not found in the folder.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib import metadata
from types import ModuleType

from wenlu.core.errors import SettingsError


def names(package: str) -> list[str]:
    """Names of the plugins in a package, sorted; nothing but the package itself is imported."""
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted({module.name for module in modules if not module.name.startswith("_")})


def load(package: str, name: str) -> ModuleType:
    """Import the plugin of this name.

    Raises:
        SettingsError: ``core.unknown_plugin`` when neither the folder nor an entry point has the name.
    """
    known = names(package)
    if name in known:
        return importlib.import_module(f"{package}.{name}")
    extra = {entry.name: entry for entry in metadata.entry_points(group=package)}
    if name in extra:
        module = extra[name].load()
        assert isinstance(module, ModuleType), f"entry point {name} of {package} must name a module"
        return module
    known, kind = sorted({*known, *extra}), package.rpartition(".")[2]
    raise SettingsError("core.unknown_plugin", kind=kind, name=name, suggestion=closest(name, known), known=known)


def closest(name: str, known: list[str]) -> str:
    """The known name nearest to a misspelt one, or all known names when none is near."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return near[0] if near else ", ".join(known)
