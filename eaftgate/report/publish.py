"""Putting a pruned checkpoint on the Hub, with its verdict in the card: only what a lock says has passed, under a
licence that is known, unless told otherwise.

What is uploaded is what the manifest lists, the manifest and the card, in one commit; nothing in the directory changes.
The login is huggingface_hub's own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from eaftgate.errors import UserError
from eaftgate.gate.summary import cells_table
from eaftgate.markdown import code, escaped
from eaftgate.prune.card import Card, read_card, with_verdict
from eaftgate.report.lock import Lock, read_lock, verify_lock
from eaftgate.rewrite.manifest import CARD_FILE, MANIFEST_FILE, read_kept, verify_files

_REPO = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}", re.ASCII)


@dataclass(frozen=True)
class Published:
    """`verdict` is None for one that was published without a lock."""

    url: str
    private: bool
    files: int
    verdict: str | None


def publish(
    directory: Path,
    repo: str,
    *,
    lock: Path | None = None,
    public: bool = False,
    revision: str | None = None,
    unverified: bool = False,
    licence: str | None = None,
    base_model: str | None = None,
) -> Published:
    """Upload the checkpoint to the repository, which is made where there is none.

    Raises UserError when it is not what its manifest says, has no lock that holds and passes (but for `unverified`), no
    licence is known, the repository is public and `public` was not said, and for whatever the Hub refuses.
    """
    if not _REPO.fullmatch(repo):
        raise UserError(f"{repo[:200]!r} is no repository of the Hub: give it as OWNER/NAME")
    if not directory.is_dir():
        raise UserError(f"{str(directory)[:1000]} is no directory: give a checkpoint that eaftgate prune made")
    manifest = read_kept(directory)
    if problems := verify_files(directory, manifest.files, hash_contents=True):
        raise UserError(f"{directory} is not what its manifest says: {problems[0]}; prune again")
    judged = None if unverified else _judged(directory, lock)
    card = read_card(directory) or Card({}, f"\n# {escaped(directory.resolve().name)}\n")
    front = _front(card, directory, licence, base_model)
    lines = _verdict_lines(judged) if judged is not None else ["Published without a lock that says that it has passed."]
    text = with_verdict(card, lines, front).text
    operations = [
        huggingface_hub.CommitOperationAdd(name, str(directory / name))
        for name in [*sorted(manifest.files), MANIFEST_FILE]
    ]
    operations.append(huggingface_hub.CommitOperationAdd(CARD_FILE, text.encode()))
    try:
        private = _repository(repo, public=public)
        url = _commit(repo, revision, operations, f"{manifest.keep_n} of {manifest.base.num_experts} experts")
    except LocalTokenNotFoundError:
        raise UserError("there is no login to the Hub here: run hf auth login") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        login = "; hf auth login logs in as somebody who may write to it" if status in (401, 403) else ""
        raise UserError(f"the Hub refuses {repo} (status {status}){login}") from None
    except UserError:
        raise
    except Exception as error:  # the HTTP client's have no common base; their texts may hold what is nobody's business
        raise UserError(f"the Hub cannot be reached ({type(error).__name__}); try again") from None
    return Published(url, private, len(operations), None if judged is None else judged.verdict)


def _judged(directory: Path, lock: Path | None) -> Lock:
    """The lock, which holds for just this checkpoint, and passes."""
    where = lock or directory.with_name(f"{directory.name}.lock.json")
    if not where.is_file():
        raise UserError(
            f"nothing says that {directory} has passed: there is no {where}; give its --lock (eaftgate lock), or "
            "--unverified"
        )
    if problems := verify_lock(where, checkpoint=str(directory)):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{where} does not say that {directory} has passed: {problems[0]}{more}; or give --unverified")
    return read_lock(where)


def _front(card: Card, directory: Path, licence: str | None, base_model: str | None) -> dict[str, Any]:
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(f"--license is {licence!r}: it must be a name as the Hub has them, like apache-2.0")
    if licence is None and card.licence is None:
        raise UserError(
            f"no licence is known of the base of {directory}: its {CARD_FILE} and LICENSE say none; give --license "
            "NAME if you may pass it on"
        )
    if base_model is not None and not _REPO.fullmatch(base_model):
        raise UserError(f"--base-model is {base_model!r}: give it as OWNER/NAME")
    given = {"license": licence, "base_model": base_model}
    return {key: value for key, value in given.items() if value is not None}


def _verdict_lines(lock: Lock) -> list[str]:
    """What the lock pins, for the card."""
    cells = sorted(lock.cells, key=lambda cell: cell.severity != "primary")

    def word(index: int) -> str:
        cell = cells[index]
        return f"**{cell.verdict.upper()}**" if cell.severity == "primary" else f"({cell.verdict})"

    return [
        f"**{lock.verdict.upper()}** under {code(lock.policy)}, regime {code(lock.regime)}, eaftgate "
        f"{escaped(lock.eaftgate)}. In brackets: shown, and does not decide.",
        "",
        *cells_table(cells, {}, word),
    ]


def _repository(repo: str, *, public: bool) -> bool:
    """Whether it is private, once it is there."""
    hub = huggingface_hub.HfApi()
    try:
        private = bool(hub.repo_info(repo).private)
    except RepositoryNotFoundError:
        hub.create_repo(repo, private=not public, exist_ok=True)
        return not public
    if not private and not public:
        raise UserError(f"{repo} is there and public: give --public to publish to it")
    return private


def _commit(repo: str, revision: str | None, operations: Sequence[Any], message: str) -> str:
    hub = huggingface_hub.HfApi()
    if revision is not None:
        hub.create_branch(repo, branch=revision, exist_ok=True)
    return str(hub.create_commit(repo, list(operations), commit_message=message, revision=revision).commit_url)
