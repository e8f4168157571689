from cli_command import eaftgate  # noqa: F401
from prepared import base_copy, copy_run, keep24, made, profile, random8  # noqa: F401
