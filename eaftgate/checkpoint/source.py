"""From what the user typed to a directory: an existing directory, or a Hugging Face Hub id."""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from eaftgate.errors import UserError

HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
WEIGHTS = "*.safetensors"
_ALLOW = [WEIGHTS, "*.json", "*.jinja", "*.txt", "LICENSE*", "USAGE_POLICY*", "README.md"]
_IGNORE = ["original/*", "metal/*"]
"""Other packagings of the same weights, three times the download."""


def resolve(source: str | Path, *, weights: bool = True) -> Path:
    """The directory that `source` names: an existing directory as it is, or a hub id `org/name[@revision]`; without
    `weights`, no more of that than its configuration and tokenizer is downloaded.

    A hub id is downloaded into the Hub cache (or found there). Raises UserError when it is neither, when the
    Hub cannot be reached and the cache does not have it, and when the repository or revision does not exist.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return path
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise UserError(f"{str(source)[:200]!r} is not a usable path ({error}); give a directory or a hub id") from None
    if exists:
        raise UserError(f"{source} is a file; give the directory of the checkpoint instead")
    match = HUB_ID.fullmatch(str(source))
    if match is None or isinstance(source, Path):
        raise UserError(
            f"{str(source)[:200]!r} is not an existing directory; check the path, or give a hub id org/name"
        )
    allowed = _ALLOW if weights else [pattern for pattern in _ALLOW if pattern != WEIGHTS]
    return _download(str(source), match["repo"], match["revision"], allowed)


def cached(repo: str, revision: str | None) -> Path:
    """What the local Hub cache has of a repository, which need not be all of it; the Hub is not asked. Raises UserError
    when it has nothing."""
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=_ALLOW, ignore_patterns=_IGNORE, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        raise UserError(f"the local Hub cache has nothing of {repo}") from None


def _download(source: str, repo: str, revision: str | None, allowed: list[str]) -> Path:
    nothing = f"{source} is neither an existing directory nor"
    try:
        return Path(
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=allowed, ignore_patterns=_IGNORE)
        )
    except GatedRepoError:
        raise UserError(f"{source} is gated on the Hub; accept its terms there and run `hf auth login`") from None
    except RevisionNotFoundError:
        raise UserError(f"{repo} has no revision {revision!r} on the Hub; check the part after '@'") from None
    except RepositoryNotFoundError:
        raise UserError(f"{nothing} a repository on the Hub that you can read; check the spelling") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise UserError(
            f"{nothing} in the local Hub cache, and the Hub cannot be reached; "
            f"run `hf download {repo}` where there is a network, or check the path"
        ) from None
    except Exception as error:  # the HTTP client's exceptions have no common base that huggingface_hub promises
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{source} could not be downloaded from the Hub ({reason}); try again") from None
