from eaftgate.suite.test_stability import *  # noqa: F403
