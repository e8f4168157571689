"""Base and candidates are at the end what they were when they were opened."""

from eaftgate.gate.run import GateRun


def test_unchanged(model_case: str, run: GateRun) -> None:
    """Every byte of the weights is read again: what a run before knows of them is not asked."""
    run.models.check_unchanged(model_case)
