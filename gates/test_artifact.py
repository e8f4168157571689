from eaftgate.suite.test_artifact import *  # noqa: F403
