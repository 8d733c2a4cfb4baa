"""`generate` of transformers as a generator: the tokens as they come, and an end when nobody reads them any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

if TYPE_CHECKING:
    from blip_openvino.runtime.arrays import Array


def stream_tokens(generate: Callable[..., Array], generate_kwargs: Mapping[str, object]) -> Iterator[list[int]]:
    """Run `generate(**generate_kwargs)` and yield the token ids so far after each step, last of all what it returns.

    Beams settle their tokens only at the end: until then their steps yield nothing but empty lists. Closing the
    iterator ends the generation within a step; its thread has ended when this has.

    Args:
        generate: takes `streamer` and `stopping_criteria` as transformers' `generate` does; returns ids [T] int64.

    Raises:
        Exception: what `generate` raises.
    """
    feed = TokenFeed()
    follow = (
        {"streamer": feed}
        if generate_kwargs.get("num_beams", 1) == 1
        else {"stopping_criteria": StoppingCriteriaList([feed])}
    )
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="blip-generate") as pool:
        future = pool.submit(generate, **generate_kwargs, **follow)
        future.add_done_callback(lambda _: feed.steps.put(None))
        try:
            while (ids := feed.steps.get()) is not None:
                yield ids
            yield future.result().tolist()
        finally:
            feed.stopped.set()


class ReaderGoneError(Exception):
    """Ends `generate` in its thread once nobody reads what it writes."""


class TokenFeed(BaseStreamer, StoppingCriteria):
    """The tokens of one generation on their way from its thread to the reader's; None says that there are no more.

    `generate` takes it as a streamer, or with beams, whose tokens are settled only at the end, as a stopping criterion:
    then every step feeds an empty list, so that the reader comes round to say if it has gone.
    """

    def __init__(self):
        self.steps: SimpleQueue[list[int] | None] = SimpleQueue()
        self.stopped = Event()
        self._ids: list[int] = []

    def put(self, value: Array) -> None:
        """A streamer's: the prompt [1, T], then each token [1]."""
        self._check()
        self._ids.extend(value.flatten().tolist())
        self.steps.put(list(self._ids))

    def end(self) -> None:
        """A streamer's: nothing to do, for the thread's end says the same."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        """A stopping criterion's: never stops a row, [rows] bool."""
        self._check()
        self.steps.put([])
        return torch.zeros(len(input_ids), dtype=torch.bool)

    def _check(self) -> None:
        if self.stopped.is_set():
            raise ReaderGoneError
