from eaftgate.suite.test_behaviour import *  # noqa: F403
