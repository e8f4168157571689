"""reap-recipe.yaml of a pruned checkpoint: the commands that make the same one again."""

from collections.abc import Mapping, Sequence
from typing import Any

from eaftgate import __version__
from eaftgate.profile.profile import ProfileDescription
from eaftgate.recipes.recipe import RECIPE_FILE, recipe_text


def checkpoint_recipe(profiled: ProfileDescription | None, prune: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """Every option that has a say in the checkpoint, none left to a default. `profiled` describes the profile, if one
    was looked at; `prune` are the options of eaftgate prune; `notes` are further lines of the comment.

    Names of directories are as they were given. That of the profile is not there: it is the other command's output.
    """
    sections: dict[str, Mapping[str, Any]] = {"prune": prune}
    if profiled is not None:
        sections = {"profile": _profile_options(profiled)} | sections
    commands = [f"eaftgate {name} --recipe {RECIPE_FILE}" for name in sections]
    outputs = ["--out NEW"] if profiled is None else ["--out PROFILE", "--profile PROFILE --out NEW"]
    comment = f"What eaftgate {__version__} made this checkpoint with. The same checkpoint again:\n" + "\n".join(
        f"  {command} {output}" for command, output in zip(commands, outputs, strict=True)
    )
    return recipe_text(sections, comment="\n".join([comment, *notes]))


def _profile_options(profiled: ProfileDescription) -> dict[str, Any]:
    options = {
        "base": profiled.base.name,
        "packs": profiled.packs_dir,
        "num_rows": profiled.num_rows,
        "seq_len": profiled.seq_len,
        "seed": profiled.seed,
        "alignment": profiled.alignment,
        "batch_size": profiled.batch_size,
        "device": "cpu" if profiled.model.device == "cpu" else "cuda",
        "dtype": profiled.model.dtype,
    }
    return {key: value for key, value in options.items() if value is not None}
