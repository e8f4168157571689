from eaftgate.suite.test_generations import *  # noqa: F403
