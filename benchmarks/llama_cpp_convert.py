"""llama.cpp's convert_hf_to_gguf.py, with two changes, for `llama_cpp.py`.

    python benchmarks/llama_cpp_convert.py LLAMA_CPP PRE CHECKPOINT OUT

Special tokens get another name, <|end|> that of <~end~>, and a type that llama-perplexity reads as one token where it
stands in a text. By their own names it does so with <|start|>, <|channel|>, <|message|> and <|constrain|> alone: what
ends a generation is several words in a text, whatever a GGUF says. PRE names the pre-tokenizer where llama.cpp does not
know it by its hash, as that of a small model (gpt-4o is gpt-oss'); "-" where it does.
"""

import importlib
import re
import runpy
import sys
from pathlib import Path


def renamed(text: str) -> str:
    """A text with special tokens in it, as the converted model reads it."""
    return re.sub(r"<\|(\w+)\|>", r"<~\1~>", text)


def main() -> None:
    llama_cpp, pre, checkpoint, out = sys.argv[1:]
    script = Path(llama_cpp) / "convert_hf_to_gguf.py"
    sys.path[:0] = [str(Path(llama_cpp) / "gguf-py"), llama_cpp]
    types_of, text_model = (
        importlib.import_module("gguf").TokenType,
        importlib.import_module("conversion.base").TextModel,
    )
    vocabulary = text_model.get_vocab_base

    def readable(model: object) -> tuple[list[str], list[int], str]:
        tokens, types, found = vocabulary(model)
        of_user = [types_of.USER_DEFINED if kind == types_of.CONTROL else kind for kind in types]
        return [renamed(token) for token in tokens], of_user, found

    text_model.get_vocab_base = readable
    if pre != "-":
        text_model.get_vocab_base_pre = lambda *_: pre
    sys.argv = [str(script), checkpoint, "--outfile", out]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
