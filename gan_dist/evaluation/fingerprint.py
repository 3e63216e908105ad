"""A fingerprint of code, for results that are cached: it changes when the code that computes them changes."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def code_fingerprint(functions: Iterable[Callable[..., Any]]) -> str:
    """The sha256 of the source of the modules that define the functions, and of the modules of this package that these
    import, directly or indirectly. Other packages are not included.
    """
    sources: dict[str, str] = {}
    pending = {function.__module__ for function in functions}
    while pending:
        name = pending.pop()
        sources[name] = inspect.getsource(importlib.import_module(name))
        pending |= set(_imported_modules(sources[name])) - sources.keys()
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _imported_modules(source: str) -> Iterator[str]:
    """The modules of this package from which a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("gan_dist."):
            yield node.module
