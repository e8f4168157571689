"""A trace of nine tokens of four classes, some of one type."""

import numpy as np

from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.trace import Trace, TraceShard

KIND = [TokenClass.HEADER, TokenClass.CALL, TokenClass.CALL, TokenClass.FINAL, TokenClass.FINAL, TokenClass.FINAL,
        TokenClass.FINAL, TokenClass.FINAL, TokenClass.CLOSE]  # fmt: skip
TOKEN = [7, 1, 2, 1, 1, 1, 1, 3, 9]
CONTENT = [kind not in (TokenClass.HEADER, TokenClass.CLOSE) for kind in KIND]


def trace(*, of_before: bool = False) -> Trace:
    size = len(KIND)
    at = np.arange(size, dtype=np.int32)
    rng = np.random.default_rng(3)
    shard = TraceShard(
        expert_XLK=(at[:, None, None] % 4 + np.arange(2)).astype(np.uint8),
        gate_XLK=rng.random((size, 1, 2)).astype(np.float16),
        norm_XLK=rng.random((size, 1, 2)).astype(np.float16),
        p_T=rng.random(size, dtype=np.float32),
        entropy_T=rng.random(size, dtype=np.float32),
        predicting_T=at,
        own_T=at,
        row_T=at,
        pack_T=np.zeros(size, np.uint8),
        token_T=np.full(size, -1, np.int32) if of_before else np.array(TOKEN, np.int32),
        kind_T=np.zeros(size, np.uint8) if of_before else np.array(KIND, np.uint8),
        content_T=np.ones(size, bool) if of_before else np.array(CONTENT),
    )
    return Trace((shard,), 1, 5, 2)
