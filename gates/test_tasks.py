from eaftgate.suite.test_tasks import *  # noqa: F403
