from cli_command import eaftgate  # noqa: F401
