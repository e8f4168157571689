"""The model card of a pruned checkpoint: what is known of it, as text whatever names hold, and not in the manifest."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from gate_command import BASE

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.profile.profile import Profile
from eaftgate.prune.card import NOT_JUDGED, Card, base_name, licence_of, model_card, read_card, with_verdict
from eaftgate.rewrite.integrity import check_artifact
from eaftgate.rewrite.manifest import read_manifest

APACHE = "                                 Apache License\n                           Version 2.0, January 2004\n"


def test_it_says_what_the_checkpoint_is(keep24: Path, profile: Profile) -> None:
    text = (keep24 / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt_oss", "mixture-of-experts", "expert-pruning", "eaftgate"],
    }
    assert "# checkpoint with 24 of 32 experts a layer" in text
    assert checkpoint_digest(open_checkpoint(BASE)) in text
    assert "`eaft-reap`" in text
    for pack, rows in profile.description.packs.items():
        assert f"| `{pack}` | {rows:,} |" in text
    assert NOT_JUDGED in text
    recipe = (keep24 / "reap-recipe.yaml").read_text(encoding="utf-8")
    assert "".join(f"    {line}\n" for line in recipe.splitlines()) in text
    assert str(BASE) not in text.split("## The same again")[0]  # a path is nobody's business


def test_the_manifest_holds_with_another_card(keep24: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(keep24, tmp_path / "copy"))
    assert "README.md" not in read_manifest(copy).files
    (copy / "README.md").write_text("Another.")
    assert check_artifact(open_checkpoint(copy), None, read_manifest(copy)) == []


def named(name: str, path: Path = BASE) -> Checkpoint:
    return replace(open_checkpoint(BASE), name=name, path=path)


def test_a_base_of_the_hub_is_named_with_its_revision(tmp_path: Path) -> None:
    cached = tmp_path / "snapshots" / "0123abcd"
    shutil.copytree(BASE, cached)
    (cached / "LICENSE").write_text(APACHE)
    base = named("openai/gpt-oss-20b", cached)
    text = model_card(base, "d" * 64, 24, "eaft-reap", None, "prune: {}\n")
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["base_model"], front["license"]) == ("openai/gpt-oss-20b", "apache-2.0")
    assert "`0123abcd`" in text
    assert "| licence of the base | `apache-2.0` |" in text
    assert "## Calibration" not in text
    assert base_name(named("openai/gpt-oss-20b@main")) == ("openai/gpt-oss-20b", "main")


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({}, None),
        ({"LICENSE": APACHE}, "apache-2.0"),
        ({"LICENSE.txt": "MIT License\n\nPermission is hereby granted, free of charge, to any"}, "mit"),
        ({"LICENSE": "All rights reserved"}, None),
        ({"README.md": "---\nlicense: llama3\n---\n# x"}, "llama3"),
        ({"README.md": "---\nlicense: llama3\n---\n# x", "LICENSE": APACHE}, "llama3"),
        ({"README.md": "---\nlicense: unknown\n---\n"}, None),
        ({"README.md": "---\nlicense: &a [*a]\n---\n", "LICENSE": APACHE}, "apache-2.0"),
        ({"README.md": "---\nlicense: 'a b <x>'\n---\n"}, None),
        ({"README.md": "license: mit"}, None),
    ],
)
def test_a_licence_is_known_or_is_not(tmp_path: Path, files: dict[str, str], licence: str | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence_of(tmp_path) == licence


def test_the_verdict_takes_its_place_and_what_was_written_by_hand_stays(keep24: Path) -> None:
    card = read_card(keep24)
    assert card is not None
    done = with_verdict(card, ["**PASS**"], {"license": "mit"})
    assert done.front["license"] == "mit"
    assert "**PASS**" in done.text
    assert NOT_JUDGED not in done.text
    assert done.body.replace("**PASS**", NOT_JUDGED) == card.body
    assert with_verdict(done, [NOT_JUDGED], {}).body == card.body
    assert with_verdict(Card({}, "mine\n"), ["x"], {}).body.startswith("mine\n\n## Verdict\n")
