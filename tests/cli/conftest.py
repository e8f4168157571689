from prepared import base_copy, copy_run, made, profile, random8  # noqa: F401
