"""Servers that somebody else runs, over HTTP: what each kind is asked for, and what of its answers may be believed."""
