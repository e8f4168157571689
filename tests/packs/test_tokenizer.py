"""A checkpoint's tokenizer as packing needs it: its EOS, and nothing that bends ids or offsets."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import build_tokenizer
from tokenizers import Tokenizer, processors

from eaftgate.errors import UserError
from eaftgate.packs.tokenizer import load_tokenizer

IDS = {token: build_tokenizer().token_to_id(token) for token in ("<|return|>", "<|endoftext|>")}


def checkpoint(directory: Path, *, tokenizer_config: Any = None, config: Any = None) -> Path:
    build_tokenizer().save(str(directory / "tokenizer.json"))
    for name, value in (("tokenizer_config.json", tokenizer_config), ("config.json", config)):
        if value is not None:
            (directory / name).write_text(json.dumps(value))
    return directory


@pytest.mark.parametrize(
    ("tokenizer_config", "config", "token"),
    [
        ({"eos_token": "<|return|>"}, {"eos_token_id": IDS["<|endoftext|>"]}, "<|return|>"),
        ({"eos_token": {"content": "<|return|>", "special": True}}, None, "<|return|>"),
        ({}, {"eos_token_id": IDS["<|endoftext|>"]}, "<|endoftext|>"),
        (None, {"eos_token_id": [IDS["<|return|>"], IDS["<|endoftext|>"]]}, "<|return|>"),
        ({"eos_token": "<|unknown|>"}, {"eos_token_id": IDS["<|endoftext|>"]}, "<|endoftext|>"),
    ],
)
def test_where_the_eos_is_named(tmp_path: Path, tokenizer_config: Any, config: Any, token: str) -> None:
    path = checkpoint(tmp_path, tokenizer_config=tokenizer_config, config=config)
    assert load_tokenizer(path).eos_id == IDS[token]


@pytest.mark.parametrize("config", [None, {}, {"eos_token_id": None}, {"eos_token_id": []}, {"eos_token_id": 10**6}])
def test_no_eos(tmp_path: Path, config: Any) -> None:
    with pytest.raises(UserError, match="names no end-of-sequence token"):
        load_tokenizer(checkpoint(tmp_path, config=config))


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=r"tokenizer\.json is a git-lfs pointer, .*`git lfs pull`"):
        load_tokenizer(tmp_path)


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    path = checkpoint(tmp_path, tokenizer_config={}, config={})
    for name, what in (("config", "the model configuration"), ("tokenizer_config", "the tokenizer's configuration")):
        (path / f"{name}.json").write_text("{")
        with pytest.raises(UserError, match=rf"^{what} \S+/{name}\.json is not valid JSON"):
            load_tokenizer(path)
    (path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(Exception) as reason:  # the library raises nothing more special
        Tokenizer.from_file(str(path / "tokenizer.json"))
    with pytest.raises(UserError) as caught:
        load_tokenizer(path)
    assert str(caught.value) == f"{path / 'tokenizer.json'} is not a tokenizer ({reason.value})"


def test_truncation_padding_specials_and_trimming_are_switched_off(tmp_path: Path) -> None:
    """What a fast tokenizer may be saved with; the last would drop white space from the counted tokens."""
    checkpoint(tmp_path, tokenizer_config={"eos_token": "<|return|>"})
    tokenizer = build_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=40)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", 5)]),
        ]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "a  b \n<|end|>"
    encoding = load_tokenizer(tmp_path).backend.encode(text)
    assert encoding.offsets == [(i, i + 1) for i in range(6)] + [(6, len(text))]
    assert tokenizer.encode(text).offsets[:2] == [(0, 0), (0, 1)]  # the file itself does bend them
