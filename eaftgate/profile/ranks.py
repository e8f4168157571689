"""Several processes that profile together, as torchrun starts them: one GPU each, one share of the blocks each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size`; `local` is its place on its own machine."""

    rank: int
    size: int
    local: int

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, num_blocks: int, batch_size: int) -> range:
        """Consecutive blocks, in whole batches: so every batch is the one that a single process would have made."""
        batches = -(-num_blocks // batch_size)
        begin, end = (batches * place // self.size * batch_size for place in (self.rank, self.rank + 1))
        return range(min(begin, num_blocks), min(end, num_blocks))

    def wait(self) -> None:
        """Until every rank has come here."""
        if self.size > 1:
            torch.distributed.barrier()


ALONE = Ranks(0, 1, 0)


@contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """What torchrun's environment says (RANK, WORLD_SIZE, LOCAL_RANK), connected; alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    torch.distributed.init_process_group("gloo")  # nothing but barriers: no tensor travels
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), int(os.environ["LOCAL_RANK"]))
    finally:
        torch.distributed.destroy_process_group()
