"""A run that is killed, or whose disk is full, is given again: it ends as if nothing had been."""
