"""Every malformed input is refused in one sentence, every odd but sound one taken, and nothing is left behind."""

from pathlib import Path

import pytest
from prepared import once

from attacks.attack import Attack, Box, all_kinds
from attacks.run import run
from attacks.sound import make_sound


def _cases() -> list[object]:
    return [
        pytest.param(attack, id=f"{kind}: {attack.name}", marks=[pytest.mark.slow] if attack.slow else [])
        for kind, attacks in all_kinds().items()
        for attack in attacks
    ]


@pytest.fixture(scope="session")
def sound(made: Path) -> Path:
    return once(made / "sound", make_sound)


@pytest.mark.parametrize("attack", _cases())
def test_attack(attack: Attack, sound: Path, tmp_path: Path) -> None:
    assert run(attack, Box(tmp_path / "box", sound)) == []


def test_names_are_unique_in_a_kind() -> None:
    for kind, attacks in all_kinds().items():
        names = [attack.name for attack in attacks]
        assert sorted(set(names)) == sorted(names), kind
