from prepared import made  # noqa: F401
