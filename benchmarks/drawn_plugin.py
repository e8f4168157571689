"""A pytest plugin: --collector may be drawn."""

from pathlib import Path

from eaftgate.collect import collectors

collectors.__path__.append(str(Path(__file__).parent / "drawn_collector"))
