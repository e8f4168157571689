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
