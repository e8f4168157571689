from eaftgate.suite.test_served import *  # noqa: F403
