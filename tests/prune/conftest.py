from cli_command import eaftgate  # noqa: F401
from prepared import keep24, made, profile  # noqa: F401
