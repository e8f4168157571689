from eaftgate.suite.test_near_lossless import *  # noqa: F403
