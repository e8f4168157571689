"""The checkpoint as an artifact: what it says of itself is true, it loads, and it never saw the gate's rows."""

from collections.abc import Callable
from typing import Any

import pytest

from eaftgate.checkpoint.finite import check_finite
from eaftgate.gate.cells import BASE
from eaftgate.gate.models import OTHER_WEIGHTS
from eaftgate.gate.options import OTHER
from eaftgate.gate.run import GateRun
from eaftgate.rewrite.integrity import check_artifact, compare_tensors
from eaftgate.rewrite.manifest import verify_files
from eaftgate.rewrite.yardstick import check_yardstick


def test_integrity(artifact_case: str, run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    """Weights are finite; files, mapping, shards and configuration are the manifest's, kept tensors the base's.

    Without a manifest, every tensor is the base's. A candidate of kind other has the tensors that its model class
    loads, of whatever weights (in a foreign format that is for the engine to find out), and if it has a manifest or
    says that it is a yardstick, the files are as that says.
    """
    candidate, base = run.here[artifact_case].checkpoint, run.here[BASE].checkpoint
    kind = run.plan.options.candidate_kind
    record_property("candidate_kind", kind)
    check_finite(candidate)
    manifest = run.here.manifest(artifact_case)
    record_property("manifest", manifest is not None)
    if kind == OTHER:
        problems = []
        if manifest is not None:
            problems = verify_files(candidate.path, manifest.files, hash_contents=True)
        if yardstick := run.here.yardstick(artifact_case):
            problems += check_yardstick(candidate, yardstick, base_digest=run.here[BASE].digest)
    elif manifest is None:  # all experts, and nothing that says what else was done to them
        problems = compare_tensors(candidate, base, [range(base.num_experts)] * base.num_layers)
        if problems:
            problems = [*problems[:4], OTHER_WEIGHTS]
    else:
        # Keep sets that the manifest contradicts itself about cannot be looked up in the base.
        problems = check_artifact(candidate, base, manifest, base_digest=run.here[BASE].digest) or compare_tensors(
            candidate, base, manifest.keep
        )
    if problems:
        record_property("verdict", "fail")
        pytest.fail("; ".join(problems[:5]), pytrace=False)


def test_engine(checkpoint_case: str, run: GateRun) -> None:
    """The engine that scores loads it and puts out finite numbers."""
    assert run.check_engine(checkpoint_case) > 0


def test_disjoint(disjoint_case: str, run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    """No row that the experts were chosen on is in a gate pack. Where nothing says which those are, this is no case; of
    a checkpoint on a hub that is only known when it is here."""
    if run.chosen_elsewhere(disjoint_case) and not run.plan.options.allow_overlap:
        record_property("verdict", "fail")
        pytest.fail(
            "nothing says which rows its experts were chosen on: give its directory instead of its name on the hub, "
            "or pass --allow-overlap",
            pytrace=False,
        )
    overlap = {pack: rows for pack, rows in run.overlap(disjoint_case).items() if rows}
    for pack, rows in overlap.items():
        record_property(f"overlap_{pack}", rows)
    if overlap and not run.plan.options.allow_overlap:
        record_property("verdict", "fail")
        counts = ", ".join(f"{rows} rows of {pack}" for pack, rows in overlap.items())
        pytest.fail(
            f"{counts} were calibrated on: split the packs (eaftgate packs split) or pass --allow-overlap",
            pytrace=False,
        )
