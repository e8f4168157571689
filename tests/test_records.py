"""Files read by the class that wrote them: what comes back, and one sentence for whatever is wrong with one."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from eaftgate.errors import UserError
from eaftgate.records import Record, read_model, write_model


class Part(Record):
    name: str
    share: float | None = None


class Whole(Record):
    file_schema: Literal["whole-1"] = Field(default="whole-1", alias="schema")
    parts: tuple[Part, ...]
    by_length: dict[int, int]


@dataclass(frozen=True)
class Plain:
    count: int


WHOLE = Whole(parts=(Part(name="a", share=0.5), Part(name="b")), by_length={64: 2})


def read(path: Path) -> Whole:
    return read_model(path, Whole, what="the whole", remedy="make it again")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "whole.json"


def test_what_was_written_is_read(path: Path) -> None:
    write_model(path, WHOLE)
    assert json.loads(path.read_text())["schema"] == "whole-1"
    assert read(path) == WHOLE
    write_model(path, Plain(3))
    assert read_model(path, Plain, what="it", remedy="") == Plain(3)


def test_what_a_later_version_adds_is_not_read_and_what_an_earlier_one_lacks_has_its_default(path: Path) -> None:
    path.write_text('{"schema": "whole-1", "parts": [{"name": "b", "new": 1}], "by_length": {"64": 2}, "newer": []}')
    assert read(path).parts == (Part(name="b", share=None),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"parts": [{"name": 5}], "by_length": {}}', "'parts.0.name' is not valid (Input should be a valid string)"),
        ('{"parts": [{}], "by_length": {}}', "'parts.0.name' is not valid (Field required)"),
        ('{"parts": [], "by_length": {"64": "2"}}', "'by_length.64' is not valid"),
        ('{"parts": [], "by_length": {"x\\ny": 2}}', "is not valid"),
        ('{"schema": "whole-2"}', "'schema' is not valid (Input should be 'whole-1')"),
        ("[]", "must be a JSON object, not a list"),
        ("", "is not valid JSON"),
        ('{"parts": [], "by_length": NaN}', "NaN is not a JSON number"),
        ('{"parts": [], "parts": []}', "duplicate key 'parts'"),
        ('{"parts": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply"),
        ('{"parts": ' + "[" * 400 + "]" * 400 + "}", "is not valid"),
        ('{"parts": [{"name": "\\ud800"}]}', "not UTF-8 text"),
    ],
)
def test_a_malformed_file_is_one_sentence(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"the whole {path}")
    assert said in sentence
    assert sentence.endswith("; make it again")
    assert "\n" not in sentence
    assert len(sentence) < 1000


def test_a_dataclass_is_read_as_strictly(path: Path) -> None:
    path.write_text('{"count": "3"}')
    with pytest.raises(UserError, match=r"'count' is not valid \(Input should be a valid integer\)"):
        read_model(path, Plain, what="it", remedy="make it again")


def test_what_is_no_file_is_said(path: Path) -> None:
    with pytest.raises(UserError, match=r"the whole is missing: there is no file .*whole\.json; make it again"):
        read(path)
    os.mkfifo(path)  # opening it would wait for a writer
    with pytest.raises(UserError, match=r"the whole cannot be read: .*whole\.json is no regular file; make it again"):
        read(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_written(path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_model(path, Part(name="a", share=value))
    assert not path.exists()
