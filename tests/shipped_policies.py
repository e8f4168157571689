"""The shipped policies, each as what it is."""

from eaftgate.judge.policy import IntervalPolicy, PointPolicy, load_gates


def _points(name: str) -> PointPolicy:
    policy = load_gates().policies[name]
    assert isinstance(policy, PointPolicy)
    return policy


def _intervals(name: str) -> IntervalPolicy:
    policy = load_gates().policies[name]
    assert isinstance(policy, IntervalPolicy)
    return policy


V1, V2, V3 = _points("near-lossless-v1"), _intervals("near-lossless-v2"), _intervals("near-lossless-v3")


def little_evidence() -> IntervalPolicy:
    """near-lossless-v3 for cells of this size."""
    assert V3.evidence is not None
    least = {"min_documents": 10, "min_effective_documents": 10, "min_blocks": 10, "max_document_share": 0.5}
    return V3.model_copy(
        update={
            "evidence": V3.evidence.model_copy(update=least),
            "js2d": V3.js2d.model_copy(update={"swaps": 50}),
        }
    )
