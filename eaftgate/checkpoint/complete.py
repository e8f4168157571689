"""Whether a checkpoint holds just the tensors that its model class loads.

A loader invents what is missing and leaves out what it does not know, and says so where nobody looks.
"""

from eaftgate.checkpoint.checkpoint import CONFIG_FILE, Checkpoint
from eaftgate.strict_json import shown


def tensor_problems(checkpoint: Checkpoint) -> list[str]:
    """Tensors that are missing, of another shape than config.json says, or one too many; one sentence each.

    Raises UserError when config.json lacks a size.
    """
    needed = checkpoint.family.needed(
        checkpoint.config, checkpoint.dimensions, is_mxfp4=checkpoint.is_mxfp4, where=checkpoint.path / CONFIG_FILE
    )
    missing = [
        f"tensor {name!r} is missing, which the model needs" for name in sorted(needed.keys() - checkpoint.tensors)
    ]
    return missing + [
        f"tensor {shown(name)} is none that the model has"
        if name not in needed
        else f"tensor {name!r} has shape {list(entry.shape)[:8]} where {CONFIG_FILE} says {list(needed[name])}"
        for name, entry in checkpoint.tensors.items()
        if entry.shape != needed.get(name)
    ]
