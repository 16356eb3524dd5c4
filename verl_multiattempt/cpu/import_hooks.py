"""Runs a callback right after a module's first import, so that start-up does not have to import the module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

Callback = Callable[[ModuleType], None]


class _Loader(Loader):
    """The module's own loader, with the callback after ``exec_module``."""

    def __init__(self, loader: Loader, name: str, callbacks: dict[str, Callback]) -> None:
        self._loader = loader
        self._name = name
        self._callbacks = callbacks

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        callback = self._callbacks.pop(self._name, None)
        if callback is not None:
            callback(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)  # get_source and the like, for inspect and tracebacks


class _Finder(MetaPathFinder):
    """Answers for the awaited modules only, by asking the other finders."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Callback] = {}
        self._asking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.callbacks or fullname in self._asking:
            return None
        self._asking.add(fullname)
        try:
            spec = find_spec(fullname)  # asks this finder too, which then stands back
        finally:
            self._asking.discard(fullname)
        # Looking for a module is not importing it: the callback stays until the module is executed.
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, fullname, self.callbacks)
        return spec


_finder = _Finder()


def after_import(name: str, callback: Callback) -> None:
    """Call ``callback(module)`` once: now if the module ``name`` is imported already, else right after its import.

    An exception of the callback fails the import, so it cannot go unnoticed.
    """
    module = sys.modules.get(name)
    if module is not None:
        callback(module)
        return
    _finder.callbacks[name] = callback
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
