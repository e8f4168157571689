"""Loads eaftgate's plugin also where entry points are not, as with PYTEST_DISABLE_PLUGIN_AUTOLOAD=1."""

pytest_plugins = ["eaftgate.gate.plugin"]
