"""Makes `pytest gates/` the gate: the options and cases are those of eaftgate's plugin."""

pytest_plugins = ["eaftgate.gate.plugin"]
