"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user can put right: one sentence saying what is wrong, where, and what to do.

    The command line prints the message and exits with 2; a gate case fails with it as its reason.
    """
