from cli_command import eaftgate  # noqa: F401
from prepared import bad_run, base_copy, copy_run, keep24, made, profile, raised, random8  # noqa: F401
