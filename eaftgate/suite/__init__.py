"""The gate's cases, assertions only: `eaftgate gate`, `pytest --pyargs eaftgate.suite`, and a clone's gates/."""
