"""
Sets constants of modules in a daemon that a test starts: those that ECHOD_TEST_TIMES names, as
JSON.  The interpreter runs this module when it starts, in the workers of the daemon, too.

Invariant: it imports no module of a daemon.  A module has its constants as soon as it is imported.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

VARIABLE = "ECHOD_TEST_TIMES"

Times = Mapping[str, Mapping[str, float]]


class Finder(MetaPathFinder):
    """
    Finds the modules whose constants are to be set.
    """

    def __init__(self, times: Times):
        """
        @param times: the constants of each module, and their values.
        """
        self._times = times

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """
        Find a module as usual, and let it set its constants when it has run.
        """
        if fullname not in self._times:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            set_constants(module, self._times[fullname])

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def set_constants(module: ModuleType, values: Mapping[str, float]) -> None:
    """
    Set constants that a module has.

    @raise AttributeError: it has no such constant.
    """
    for name, value in values.items():
        getattr(module, name)
        setattr(module, name, value)


def set_times() -> None:
    """
    Set what the environment says, in the modules that are imported now and later.
    """
    times: Times = json.loads(os.environ.get(VARIABLE, "{}"))
    for name, values in times.items():
        if name in sys.modules:
            set_constants(sys.modules[name], values)
    if times:
        sys.meta_path.insert(0, Finder(times))


set_times()
