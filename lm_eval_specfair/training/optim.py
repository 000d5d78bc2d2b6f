"""Optimizers and the learning rate's course."""

import math

import torch
from torch import nn

from lm_eval_specfair.training.options import TrainConfig

BETAS = (0.9, 0.95)
MUON_WEIGHT_DECAY = 0.01


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """One or two optimizers over all parameters that learn.

    Muon takes the hidden matrices, its updates scaled to the size of AdamW's, so that both share
    one learning rate; embeddings, heads and norms are AdamW's in any case.
    """
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # A tied head is not listed under its own name, an untied one is.
    hidden = [
        p
        for name, p in learning
        if config.optimizer == "muon"
        and p.ndim == 2
        and not any(word in name for word in ("embed", "lm_head", "wte", "wpe"))
    ]
    taken = {id(p) for p in hidden}
    rest = [p for _, p in learning if id(p) not in taken]
    made: list[torch.optim.Optimizer] = []
    if hidden:
        made.append(
            torch.optim.Muon(
                hidden,
                lr=config.learning_rate,
                weight_decay=MUON_WEIGHT_DECAY,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if rest:
        made.append(torch.optim.AdamW(rest, lr=config.learning_rate, betas=BETAS, weight_decay=0.0))
    return made


def rate_factor(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate at a step (from 0): up, level, down as a root."""
    steps = config.num_steps
    rise = (step + 1) / max(1.0, steps * config.warmup)
    fall = math.sqrt((steps - step) / (steps * config.decay)) if config.decay else 1.0
    return min(1.0, rise, fall)
