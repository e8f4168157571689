from prepared import bad_run, base_copy, copy_run, made, profile, raised, random8  # noqa: F401
