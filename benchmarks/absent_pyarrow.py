"""Import this before any module of eaftgate to use `Blocks` where pyarrow is not installed.

The module of `Blocks` imports the Parquet reader; whoever builds blocks from arrays never calls it.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import types

_MODULES = ("pyarrow", "pyarrow.parquet")

if importlib.util.find_spec("pyarrow") is None:
    for _name in _MODULES:
        _placeholder = types.ModuleType(_name)
        _placeholder.__spec__ = importlib.machinery.ModuleSpec(_name, None)
        _placeholder.Table = object  # type: ignore[attr-defined]
        sys.modules[_name] = _placeholder
    try:
        importlib.import_module("eaftgate.packs.blocks")
    finally:
        for _name in _MODULES:
            del sys.modules[_name]  # nobody else may take it for the library
