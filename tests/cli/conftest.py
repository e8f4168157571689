from prepared import base_copy, copy_run, made, profile  # noqa: F401
