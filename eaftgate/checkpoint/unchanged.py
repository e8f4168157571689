"""Whether a checkpoint is still the one that was opened: one that is replaced meanwhile is read half old, half new."""

from eaftgate.checkpoint.checkpoint import TOKENIZER_FILES, Checkpoint, open_checkpoint, text_digest
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.checkpoint.stamps import stamp_if_there
from eaftgate.errors import UserError


def check_unchanged(checkpoint: Checkpoint, digest: str, *, hash_again: bool = False) -> None:
    """Raises UserError when a file of `checkpoint`, whose `checkpoint_digest` was `digest`, is another than it was.

    Where no size, time or inode has moved, nothing is read, unless `hash_again`. Where one has, the content decides: a
    file that was touched, linked or copied to its own place is the same, and is not read once more for that.
    """
    now = {name: stamp_if_there(checkpoint.path / name) for name in checkpoint.stamps}
    moved = [name for name, stamp in now.items() if stamp != checkpoint.stamps[name]]
    for name in TOKENIZER_FILES:
        if name in moved and text_digest(checkpoint.path / name) != checkpoint.texts[name]:
            raise _changed(checkpoint, name)
    weights = [name for name in moved if name not in TOKENIZER_FILES]
    if weights or hash_again:
        try:
            same = checkpoint_digest(open_checkpoint(checkpoint.path, foreign=checkpoint.foreign is not None)) == digest
        except UserError as error:
            raise _changed(checkpoint, *weights, because=f" ({error})") from None
        if not same:
            raise _changed(checkpoint, *weights)
    checkpoint.stamps.update(now)


def _changed(checkpoint: Checkpoint, *names: str, because: str = "") -> UserError:
    what = checkpoint.path / names[0] if names else f"a file of {checkpoint.path}"
    return UserError(
        f"{what} was changed or replaced while it was in use{because}; leave the checkpoint as it is and run again"
    )
