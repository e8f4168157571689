from prepared import base_copy, copy_run, made  # noqa: F401
