from cli_command import eaftgate  # noqa: F401
from prepared import (  # noqa: F401
    bad_run,
    base_copy,
    copy_run,
    keep24,
    made,
    nan_head,
    other_tokenizer,
    profile,
    raised,
    random8,
    truncated,
)
