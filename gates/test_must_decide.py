from eaftgate.suite.test_must_decide import *  # noqa: F403
