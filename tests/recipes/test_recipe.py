"""Reading recipes: values are the text that stands there, own keys win, and every mistake has its file and line."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.errors import UserError
from eaftgate.recipes.recipe import SHIPPED, read_section, recipe_text

NAMES = st.sampled_from(["seq_len", "packs", "seed", "w_good", "json"])
TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
OPTIONS = st.dictionaries(NAMES, st.one_of(NUMBERS, st.booleans(), TEXTS))


def values(path: Path, section: str = "prune") -> dict[str, Any]:
    return {option: setting.value for option, setting in read_section(path, section).items()}


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@given(OPTIONS)
def test_what_is_written_is_read_as_the_text_that_means_it(options: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = written(Path(directory) / "r.yaml", recipe_text({"prune": options}, comment="made\nby a test"))
        found = values(path)
    assert found.keys() == options.keys()
    for option, value in options.items():
        if isinstance(value, str):
            assert found[option] == value
        elif isinstance(value, bool):
            assert found[option] == str(value).lower()
        else:
            assert type(value)(found[option]) == value


def test_a_shipped_recipe_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From anywhere, to be used and to be extended; a file of that name comes first."""
    monkeypatch.chdir(tmp_path)
    shipped = values(SHIPPED / "eval-bigblocks.yaml", "gate")
    assert shipped["regime"] == "bigblocks"
    assert values(Path("eval-bigblocks"), "gate") == values(Path("eval-bigblocks.yaml"), "gate") == shipped
    mine = written(tmp_path / "deep" / "mine.yaml", "extends: eval-bigblocks\ngate: {seed: 1}")
    assert values(mine, "gate") == shipped | {"seed": "1"}
    written(tmp_path / "eval-bigblocks.yaml", "gate: {seed: 2}")
    assert values(Path("eval-bigblocks.yaml"), "gate") == {"seed": "2"}
    assert values(mine, "gate") == shipped | {"seed": "1"}  # beside mine.yaml there is none
    for none in (Path("eval-none"), tmp_path / "eval-base.yaml", Path("nowhere/eval-base.yaml")):
        with pytest.raises(UserError, match=f"there is no file {none}"):
            values(none, "gate")


@given(st.lists(OPTIONS, min_size=1, max_size=4), st.booleans())
def test_later_recipes_win_and_the_own_keys_last(layers: list[dict[str, Any]], chained: bool) -> None:
    """As a list of bases, and as a chain in which each extends the one before."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for number, layer in enumerate(layers):
            base: dict[str, str | list[str]] = {"extends": f"{number - 1}.yaml"} if chained and number else {}
            if number == len(layers) - 1 and not chained:
                base = {"extends": [f"{before}.yaml" for before in range(number)]}
            written(root / f"{number}.yaml", yaml.safe_dump(base | {"prune": layer}))
        merged: dict[str, Any] = {}
        for layer in layers:
            merged |= values(written(root / "alone.yaml", yaml.safe_dump({"prune": layer})))
        assert values(root / f"{len(layers) - 1}.yaml") == merged


def test_values_are_text_whatever_yaml_makes_of_them(tmp_path: Path) -> None:
    path = written(
        tmp_path / "r.yaml",
        "prune: {seed: 010, w-good: 1e3, json: no, packs: 2026-11-01, keep_n: '24', out: 0x10, seq_lens: [1_0, on]}",
    )
    assert values(path) == {
        "seed": "010", "w_good": "1e3", "json": "no", "packs": "2026-11-01", "keep_n": "24", "out": "0x10",
        "seq_lens": ["1_0", "on"],
    }  # fmt: skip


def test_extends_is_relative_to_the_recipe_and_null_takes_a_value_back(tmp_path: Path) -> None:
    written(tmp_path / "common" / "base.yaml", "gate: {seed: 1, packs: x}\nprune:\n  keep-n: 24\n  seed: 5\n")
    written(tmp_path / "common" / "more.yaml", "extends: base.yaml\nprune: {method: ean}")
    path = written(tmp_path / "r.yaml", "extends: common/more.yaml\nprune: {keep_n: null, keep_frac: 0.6}\ngate:\n")
    assert values(path) == {"seed": "5", "method": "ean", "keep_frac": "0.6"}
    assert values(path, "gate") == {"seed": "1", "packs": "x"}
    where = {option: setting.where for option, setting in read_section(path, "prune").items()}
    assert where["seed"] == f"{tmp_path}/common/base.yaml:4"
    assert where["keep_frac"] == f"{path}:2"


def test_one_base_by_two_ways_is_no_circle(tmp_path: Path) -> None:
    written(tmp_path / "base.yaml", "prune: {seed: 1}")
    for name in ("a", "b"):
        written(tmp_path / f"{name}.yaml", "extends: base.yaml")
    assert values(written(tmp_path / "r.yaml", "extends: [a.yaml, b.yaml]")) == {"seed": "1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- prune\n- gate", "r.yaml must be a mapping"),
        ("", "r.yaml must be a mapping"),
        ("just text", "r.yaml must be a mapping"),
        ("prune: [keep_n]", "r.yaml: prune must be a mapping"),
        ("prune: 24", "r.yaml: prune must be a mapping"),
        ("\nprnue: {keep_n: 24}", "r.yaml:2: 'prnue' is no command: it must be one of packs build, packs check"),
        ("prune: {keep_n: 24}\nprune: {seed: 1}", "r.yaml:2: 'prune' is there twice"),
        ("prune:\n  keep_n: 24\n  keep_n: 20", "r.yaml:3: 'keep_n' is there twice"),
        ("prune:\n  keep_n: 24\n  keep-n: 20", "r.yaml:3: prune.keep-n is there twice"),
        ("prune: {keep_n: {is: 24}}", "r.yaml:1: prune.keep_n must be one value or a list of values"),
        ("prune: {packs: [[a]]}", "r.yaml:1: prune.packs must be one value or a list of values"),
        ("prune: &a {packs: [*a]}", "r.yaml:1: an anchor or an alias is not read here"),
        ("prune: {[a]: b}", "r.yaml:1: it has a key that is no name"),
        ("prune: {<<: {seed: 1}}", "r.yaml:1: prune.<< must be one value"),
        ("extends: {a: b}", "r.yaml: extends must be one value or a list of values"),
        ("extends: nowhere.yaml", "nowhere.yaml, which "),
        ("gate: {seed: 1}\ncost:", "r.yaml has no section 'prune': it has gate, cost"),
        ("{}", "r.yaml has no section 'prune': it has none"),
        ("extends: .", "recipe not found"),
        ("extends: gpt-oss-20", "did you mean 'gpt-oss-20b'?"),
        ("prune: {keep_n: 24", "r.yaml:1 is not valid YAML"),
        ("prune: *nothing", "r.yaml:1: an anchor or an alias is not read here"),
        ("a: 1\n---\nb: 2", "r.yaml:2 is not valid YAML"),
        ("prune: " + "[" * 5000, "r.yaml:1: it is nested too deeply"),
        ("prune: \x00", "r.yaml cannot be read"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path / "r.yaml", text)
    with pytest.raises(UserError) as refusal:
        read_section(path, "prune")
    assert said in str(refusal.value)
    assert str(path.parent) in str(refusal.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"prune: \xff")
    with pytest.raises(UserError, match=r"r\.yaml cannot be read"):
        read_section(tmp_path / "r.yaml", "prune")


def test_nothing_in_a_recipe_is_executed(tmp_path: Path) -> None:
    target = tmp_path / "made"
    path = written(tmp_path / "r.yaml", f"prune: {{out: !!python/object/apply:os.mkdir ['{target}']}}")
    with pytest.raises(UserError, match=r"r\.yaml:1: the tag .* is not read"):
        values(path)
    assert not target.exists()


@pytest.mark.parametrize("circle", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_circle_is_refused(tmp_path: Path, circle: list[str]) -> None:
    for name, following in zip(circle, [*circle[1:], circle[0]], strict=True):
        written(tmp_path / f"{name}.yaml", f"extends: ./{following}.yaml")
    with pytest.raises(UserError, match=rf"{circle[-1]}\.yaml: extends goes in a circle, back to .*a\.yaml"):
        read_section(tmp_path / "a.yaml", "prune")
