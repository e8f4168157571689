from eaftgate.suite.test_noop import *  # noqa: F403
