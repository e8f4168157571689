from eaftgate.suite.test_something_decides import *  # noqa: F403
