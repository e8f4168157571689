"""A pytest plugin that adds a folder to those in which collectors are found."""

from pathlib import Path

from eaftgate.collect import collectors

collectors.__path__.append(str(Path(__file__).parent / "third_collector"))
