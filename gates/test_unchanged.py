from eaftgate.suite.test_unchanged import *  # noqa: F403
