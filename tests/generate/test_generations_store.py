"""Generations are written once, found by content, believed for their own, and gone on with after a kill."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import build_tokenizer

from eaftgate.errors import UserError
from eaftgate.generate import store as module
from eaftgate.generate.generations import Generations, load_generations
from eaftgate.generate.store import GenerationStore, Request
from eaftgate.packs.pack import Pack, row_identity
from eaftgate.packs.tokenizer import PackTokenizer
from eaftgate.packs.turns import Ending, IntArray, choose_turns
from eaftgate.records import Unusable

TOKENIZER = PackTokenizer(build_tokenizer(), eos_id=1)
ENDING = Ending(TOKENIZER)
VOCABULARY = TOKENIZER.backend.get_vocab_size()
TOOLS = "<|start|>developer<|message|># Tools\n\ntype f = () => any;<|end|>"
TEXTS = tuple(
    f"{TOOLS if number % 2 else ''}<|start|>user<|message|>{number}<|end|>"
    f"<|start|>assistant<|channel|>final<|message|>{number}<|return|>"
    for number in range(6)
)
CHOSEN = choose_turns(
    Pack("p", TEXTS, tuple(map(row_identity, TEXTS)), ("p",) * 6, ("",) * 6), TOKENIZER, count=6, seed=0,
    max_tokens=64, context=None,
)  # fmt: skip


class Echo:
    """Writes the prompt's length as a final answer, the last prompt first; `dies` after so many."""

    def __init__(self, dies: int | None = None, name: str = "echo", says: Callable[[str], str] = str) -> None:
        self._dies, self._name, self._says = dies, name, says
        self.asked: list[int] = []

    def settings(self) -> dict[str, Any]:
        return {"writer": self._name}

    def write(self, prompts: Sequence[IntArray], *, ending: Ending, max_tokens: int) -> Iterator[tuple[int, list[int]]]:
        assert ending is ENDING
        for place in reversed(range(len(prompts))):
            if self._dies is not None and len(self.asked) == self._dies:
                raise KeyboardInterrupt
            self.asked.append(len(prompts[place]))
            text = self._says(f"<|channel|>final<|message|>{len(prompts[place])}<|return|>")
            yield place, TOKENIZER.backend.encode(text).ids[:max_tokens]


def request(writer: Echo, **other: Any) -> Request:
    given = {"checkpoint_digest": "c", "chosen": CHOSEN, "max_tokens": 64, "vocab_size": VOCABULARY, **other}
    return Request(writer=writer, ending=ENDING, **given)


def test_what_was_written_is_found_again_by_content(tmp_path: Path) -> None:
    store, writer = GenerationStore(tmp_path), Echo()
    found = store.get(request(writer))
    assert len(writer.asked) == 6
    assert [turn.reference for turn in found.asked] == [turn.reference for turn in CHOSEN.turns]
    assert [turn.text for turn in found.written] == [
        f"<|channel|>final<|message|>{len(ids)}<|return|>" for ids in CHOSEN.prompts
    ]
    assert all(turn.ended for turn in found.written)
    assert found.seconds_tokens == sum(len(turn.tokens) for turn in found.written)
    assert {found.tools[turn.tools] for turn in found.asked} == {"", "# Tools\n\ntype f = () => any;"}
    assert store.get(request(writer)) == found == GenerationStore(tmp_path).get(request(Echo(dies=0)))
    assert len(writer.asked) == 6
    for other in (Echo(name="other"),):
        assert store.get(request(other)).settings == {"writer": "other"}
    store.get(request(writer, checkpoint_digest="d"))
    store.get(request(writer, replicate="rerun"))
    store.get(request(writer, max_tokens=5))
    assert len(writer.asked) == 24
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 5 + [".lock"] * 5


def test_of_a_prompt_its_end_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eaftgate.generate.generations.ASKED_SHOWN", 24)
    found = GenerationStore(tmp_path).get(request(Echo()))
    assert {turn.shown for turn in found.asked} == {f"{n}<|end|><|start|>assistant"[-24:] for n in range(6)}


def test_a_turn_that_nobody_wrote_is_a_sentence(tmp_path: Path) -> None:
    class Forgetful(Echo):
        def write(self, prompts: Sequence[IntArray], **asked: Any) -> Iterator[tuple[int, list[int]]]:
            return (turn for turn in super().write(prompts, **asked) if turn[0] != 3)

    with pytest.raises(UserError, match="pack p: turn 3 was not written; its engine is broken"):
        GenerationStore(tmp_path).get(request(Forgetful()))
    assert not list(tmp_path.glob("*.json"))


def test_a_text_that_is_cut_off_has_not_ended(tmp_path: Path) -> None:
    found = GenerationStore(tmp_path).get(request(Echo(), max_tokens=3))
    assert not any(turn.ended for turn in found.written)


def test_after_a_kill_the_turns_that_are_missing_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", -1.0)
    store, first, second = GenerationStore(tmp_path), Echo(dies=4), Echo()
    with pytest.raises(KeyboardInterrupt):
        store.get(request(first))
    assert store.get(request(second)).written == GenerationStore(tmp_path / "whole").get(request(Echo())).written
    assert sorted(first.asked + second.asked) == sorted(map(len, CHOSEN.prompts))
    assert len(second.asked) == 2
    assert not list(tmp_path.glob("*.parts"))


def test_after_two_kills_nothing_is_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", -1.0)
    store, writers = GenerationStore(tmp_path), [Echo(dies=2), Echo(dies=2), Echo()]
    for writer in writers[:2]:
        with pytest.raises(KeyboardInterrupt):
            store.get(request(writer))
    store.get(request(writers[2]))
    assert [len(writer.asked) for writer in writers] == [2, 2, 2]


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_what_takes_a_damaged_parts_place_takes_no_sound_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: int
) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", -1.0)
    store, writers = GenerationStore(tmp_path), [Echo(dies=3), Echo(dies=1), Echo()]
    for writer in writers[:2]:
        with pytest.raises(KeyboardInterrupt):
            store.get(request(writer))
        if writer is writers[0]:
            sorted(tmp_path.glob("*.parts/*.json"))[damaged].write_bytes(b"{}")
    store.get(request(writers[2]))
    assert [len(writer.asked) for writer in writers] == [3, 1, 3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda part: part.update(numbers=[6]), "its turns are not those that are asked for"),
        (lambda part: part.update(numbers=[]), "its turns are not those that are asked for"),
        (lambda part: part["written"][0].update(text="x"), "a text is not that of its tokens"),
    ],
)
def test_a_part_is_believed_for_what_it_says_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", -1.0)
    said: list[str] = []
    store, again = GenerationStore(tmp_path, say=said.append), Echo()
    with pytest.raises(KeyboardInterrupt):
        store.get(request(Echo(dies=3)))
    rewritten(next(tmp_path.glob("*.parts/*.json")), change)
    store.get(request(again))
    assert len(again.asked) == 4
    assert reason in said[0]


def test_a_part_that_lies_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", -1.0)
    said: list[str] = []
    store, again = GenerationStore(tmp_path, say=said.append), Echo()
    with pytest.raises(KeyboardInterrupt):
        store.get(request(Echo(dies=3)))
    part = next(tmp_path.glob("*.parts/*.json"))
    part.write_text(part.read_text(encoding="utf-8").replace("final", "finał"), encoding="utf-8")
    store.get(request(again))
    assert len(again.asked) == 4
    assert "its checksum does not hold" in said[0]


def test_a_part_of_other_turns_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever directory it lies in."""
    monkeypatch.setattr(module, "PART_SECONDS", -1.0)
    said: list[str] = []
    store = GenerationStore(tmp_path, say=said.append)
    with pytest.raises(KeyboardInterrupt):
        store.get(request(Echo(dies=3), checkpoint_digest="d"))
    mine = request(Echo())
    next(tmp_path.glob("*.parts")).rename(store.path(mine).with_suffix(".parts"))
    store.get(mine)
    assert ["it is of other turns" in line for line in said] == [True] * 3


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A file that was changed by somebody who knows how a seal is made."""
    from eaftgate.files import sha256_json, write_json

    told = json.loads(path.read_text(encoding="utf-8"))
    del told["sha256"]
    change(told)
    write_json(path, {**told, "sha256": sha256_json(told)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda told: told.update(checkpoint="d"), "another checkpoint"),
        (lambda told: told.update(turns="d"), "another turns"),
        (lambda told: told["asked"][0].update(reference="x"), "its turns are not those that are asked for"),
        (lambda told: told["written"].pop(), "5 of 6 turns"),
        (lambda told: told["written"][0].update(text="x"), "a text is not that of its tokens"),
        (lambda told: told["written"][0].update(ended=False), "a text is not that of its tokens"),
        (lambda told: told["written"][0].update(tokens=[1] * 65), "a turn has no token, or more than 64"),
        (lambda told: told["written"][0].update(tokens=[VOCABULARY]), "a token is none of the"),
        (lambda told: told["asked"][0].update(tools=7), "a turn's functions are not there"),
        (lambda told: told["written"][0].pop("text"), "'written.0.text' is not valid"),
    ],
)
def test_a_file_is_believed_for_what_it_says_of_itself(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    said: list[str] = []
    store = GenerationStore(tmp_path, say=said.append)
    asked = request(Echo())
    whole = store.get(asked)
    rewritten(store.path(asked), change)
    again = request(Echo())
    assert store.get(again).written == whole.written
    assert len(said) == 1
    assert reason in said[0]


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    store, asked = GenerationStore(tmp_path), request(Echo())
    store.get(asked)
    path = store.path(asked)
    assert isinstance(load_generations(path), Generations)
    for damaged in (b"", b"[]", b"{}", path.read_bytes()[:-40], path.read_bytes().replace(b"final", b"Final")):
        path.write_bytes(damaged)
        with pytest.raises(Unusable, match="remove the file and run again"):
            load_generations(path)


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (lambda text: text.removesuffix("<|return|>"), "stopped after .* tokens without an end"),
        (lambda _: "", "0 tokens were written"),
    ],
)
def test_what_no_model_writes_is_refused(tmp_path: Path, says: Callable[[str], str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        GenerationStore(tmp_path).get(request(Echo(says=says)))
    assert not list(tmp_path.glob("*.json"))
