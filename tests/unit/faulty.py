"""Copies of a module with one fault, which its tests must catch."""

import inspect
import types


def faulty(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    """A copy of the module with the one place of `old` in its source exchanged."""
    source = inspect.getsource(module)
    assert source.count(old) == 1
    copy = types.ModuleType("faulty")
    exec(compile(source.replace(old, new), "faulty", "exec"), copy.__dict__)
    return copy
