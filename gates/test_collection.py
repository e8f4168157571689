from eaftgate.suite.test_collection import *  # noqa: F403
