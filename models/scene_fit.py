"""Training that goes on where it was interrupted, in bfloat16 where the processor or the GPU is fast at it."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SECONDS_BETWEEN_SAVES = 120
MAX_GRADIENT_NORM = 1.0


def fast_precision() -> AbstractContextManager:
    """Autocast to bfloat16 on a GPU or a processor that multiplies in it; float32 elsewhere."""
    if DEVICE.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported()
    else:
        is_fast = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=is_fast)


def save_atomically(state: dict, file: Path) -> None:
    """Write a state, such that an interrupted write leaves the one before."""
    unfinished = file.with_suffix(".unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, file)


def step_generator(seed: int, step: int) -> Generator:
    """The random numbers of a step: those it would have had without an interruption."""
    return Generator().manual_seed(seed * 1_000_003 + step)


def fit(
    module: nn.Module,
    losses_of: Callable[[Generator], dict[str, Tensor]],
    steps: int,
    peak_learning_rate: float,
    file: Path,
    seed: int,
) -> None:
    """Train what of `module` takes gradients, in place, on the sum of a step's losses.

    AdamW with a one-cycle learning rate. Weights, optimizer and step are saved to `file` every two minutes and at the
    end; where `file` exists, training goes on from it.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, peak_learning_rate, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_learning_rate, steps, pct_start=0.08)
    done = 0
    if file.is_file():
        state = torch.load(file, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = state["step"]

    def save(step: int) -> None:
        states = {"module": module, "optimizer": optimizer, "schedule": schedule}
        save_atomically({name: each.state_dict() for name, each in states.items()} | {"step": step}, file)

    saved_at = time.monotonic()
    module.train()
    with tqdm(total=steps, initial=done, desc=file.stem, unit="step", mininterval=5) as progress:
        for step in range(done, steps):
            with fast_precision():
                losses = losses_of(step_generator(seed, step))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            progress.set_postfix({name: f"{loss.item():.3f}" for name, loss in losses.items()}, refresh=False)
            progress.update()
            if time.monotonic() - saved_at > SECONDS_BETWEEN_SAVES or step + 1 == steps:
                save(step + 1)
                saved_at = time.monotonic()
    module.eval()
