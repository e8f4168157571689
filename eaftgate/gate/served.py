"""The models of a run that has nothing of them but their tokenizer: each is what a server has, by its own word.

Nothing tells whether a server has the weights it had yesterday, so that what it answers is known by the run in which it
was asked, and by no other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eaftgate.checkpoint.source import resolve
from eaftgate.collect.collection import TokenStats
from eaftgate.collect.collector import Collector, Said, ScoredModel, Scorer, Served, ServingScorer
from eaftgate.collect.writer import Writer
from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.gate.candidates import UNVERIFIED, ServedIdentity
from eaftgate.gate.cells import BASE
from eaftgate.gate.models import check_same_for_all
from eaftgate.gate.plan import Plan
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import Pack, row_identity
from eaftgate.packs.tokenizer import PackTokenizer, load_tokenizer
from eaftgate.strict_json import is_count, read_object, shown

PROBE = (
    "<|start|>system<|message|>Reasoning: medium<|end|><|start|>user<|message|>Grüße aus 東京 🙂!\n\n    def f(x):\n"
    "\treturn x ** 2  # 1,234.5 %<|end|><|start|>assistant<|channel|>analysis<|message|>It's easy: the square.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>It doesn't take long, don't worry: f(12) = 144.<|return|>"
)
"""What a server is asked about first: scripts, spaces, digits, contractions and Harmony's own tokens."""
APART = 0.05
"""Nats a token, on average: two models whose answers to the probe are nearer than that are not told apart by it. The
same server in other batches is 0.003 to 0.02 from itself (docs/scaling.md)."""


@dataclass(frozen=True)
class ServedModel:
    """`name` is the server's URL. `digest` is none of weights: of what the server says of itself, and of the run.
    `first` is its first answer to the probe; `compared`: it has told its tokens of it."""

    name: str
    digest: str
    tokenizer: Path
    vocab_size: int
    context: int | None
    said: Said
    first: TokenStats
    compared: bool

    def scored(self, name: str) -> ScoredModel:
        """As collectors know it; `name` is the run's."""
        return ScoredModel(name, self.name, self.tokenizer, self.digest, is_mxfp4=False, vocab_size=self.vocab_size)

    def watched(self, collector: Collector) -> Collector:
        """What asks a server looks at what it says of itself by itself."""
        return collector

    def watched_writer(self, writer: Writer) -> Writer:
        return writer


class ServedModels:
    """Asked for what they are when first asked for. `session` names the run; `scorer` opens what asks its servers."""

    def __init__(self, plan: Plan, served: Served, *, session: str, scorer: Callable[[], Scorer]) -> None:
        self._plan, self._served, self._session, self._open_scorer = plan, served, session, scorer
        self._models: dict[str, ServedModel] = {}
        self._refusals: dict[str, str] = {}

    def __getitem__(self, name: str) -> ServedModel:
        """BASE, or a candidate by its short name. Raises UserError for a server that cannot be gated, which is not
        tried again: a gate asks in every case."""
        if name in self._refusals:
            raise UserError(self._refusals[name])
        if name not in self._models:
            try:
                model = self._open(self._served.base if name == BASE else self._plan.checkpoints[name])
            except UserError as error:
                self._refusals[name] = str(error)
                raise
            check_same_for_all(self._plan.options.results, name, model.digest, shown=model.name)
            self._models[name] = model
        return self._models[name]

    def check_unchanged(self, name: str) -> None:
        """Raises UserError when a server says of itself what it did not when it was first asked, or answers the probe
        as another of the run's did."""
        model = self[name]
        now = self._scorer.said(model.name, patient=True)
        for key, was in model.said.items():
            if now.get(key) != was:
                raise UserError(
                    f"{model.name} was changed while the run went on ({key} was {shown(was)} and is "
                    f"{shown(now.get(key))}): let it serve one model, and run again"
                )
        answer = self._probe(model.name)
        moved = _distance(model.first, answer)
        for other in (BASE, *self._plan.checkpoints):
            first = self[other].first
            if _distance(model.first, first) > APART and _distance(first, answer) < moved:
                raise UserError(
                    f"{model.name} answers as {self[other].name} did at first, and no longer as it did itself: let "
                    "each serve one model, and run again"
                )

    def identity(self, name: str) -> ServedIdentity:
        """What is known of a server. Raises UserError as `__getitem__` does."""
        model = self[name]
        return ServedIdentity(
            name=name,
            url=model.name,
            said=model.said,
            tokenizer_compared=model.compared,
            like_base=name != BASE and _distance(model.first, self[BASE].first) == 0,
        )

    @cached_property
    def _scorer(self) -> ServingScorer:
        scorer = self._open_scorer()
        assert isinstance(scorer, ServingScorer)  # of a kind whose needs say `served`
        return scorer

    @cached_property
    def _directory(self) -> Path:
        return resolve(self._served.tokenizer, weights=False)

    @cached_property
    def _tokenizer(self) -> PackTokenizer:
        return load_tokenizer(self._directory)

    @cached_property
    def _config(self) -> dict[str, Any]:
        """Of the model, where it lies beside the tokenizer."""
        path = self._directory / "config.json"
        return read_object(path, what="the model configuration") if path.is_file() else {}

    @cached_property
    def _vocab_size(self) -> int:
        known = self._config.get("vocab_size")
        return known if is_count(known) else 1 + max(self._tokenizer.backend.get_vocab().values())

    @cached_property
    def _blocks(self) -> Blocks:
        """The probe, all of it."""
        pack = Pack("probe", (PROBE,), (row_identity(PROBE),), ("probe",), ("",))
        backend, eos_id = self._tokenizer.backend, self._tokenizer.eos_id
        length = len(backend.encode(PROBE, add_special_tokens=False).ids)
        return build_blocks(pack, backend, eos_id=eos_id, seq_len=length, num_blocks=1).scoring_everything()

    def _open(self, url: str) -> ServedModel:
        said = self._scorer.said(url)
        here = self._blocks.token_ids_BS[0].tolist()
        there = self._scorer.tokens(url, PROBE)
        if there is not None and there != here:
            raise UserError(
                f"{url} has another tokenizer than {self._served.tokenizer} ({_apart(here, there)}): give the "
                "--tokenizer of its model"
            )
        longest = [self._config.get("max_position_embeddings"), said.get("context")]
        return ServedModel(
            name=url,
            digest=f"{UNVERIFIED}-{sha256_json([self._session, url, said])}",
            tokenizer=self._directory,
            vocab_size=self._vocab_size,
            context=min((length for length in longest if is_count(length)), default=None),
            said=said,
            first=self._probe(url),
            compared=there is not None,
        )

    def _probe(self, url: str) -> TokenStats:
        model = ScoredModel("probe", url, self._directory, "", is_mxfp4=False, vocab_size=self._vocab_size)
        try:
            ((_, stats),) = self._scorer.collector(model).batches(self._blocks, 0)
        except UserError as error:
            raise UserError(
                f"{url} does not give the top 20 log-probabilities of a prompt's tokens, which a gate is of ({error})"
            ) from None
        return stats


def _distance(one: TokenStats, other: TokenStats) -> float:
    """Nats a token, on average."""
    return float(np.abs(one.logprob_T.astype(np.float64) - other.logprob_T).mean())


def _apart(here: Sequence[int], there: Sequence[int]) -> str:
    place = next((at for at, both in enumerate(zip(here, there, strict=False)) if both[0] != both[1]), None)
    if place is None:
        return f"{len(there)} tokens for {len(here)} of a text"
    return f"token {place} of a text is {there[place]} there and {here[place]} here"
