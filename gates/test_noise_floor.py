from eaftgate.suite.test_noise_floor import *  # noqa: F403
