from eaftgate.suite.test_evaluations import *  # noqa: F403
