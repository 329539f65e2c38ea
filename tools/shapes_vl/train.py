"""Training: the network's first weights, and the loop that adapters share."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from tools.shapes_vl.data import SKILLS, Answers, Packs, loader
from tools.shapes_vl.export import load_tokenizer, load_weights, save_model
from tools.shapes_vl.model import Weights, answer_logits, flash_attention, grouped_attention, initial_weights
from tools.shapes_vl.packing import SMALL, Limits
from tools.shapes_vl.tokenizer import train_tokenizer

LOG_EVERY_STEPS = 250


@dataclass(frozen=True)
class Plan:
    """How long, where and how fast to train. With `steps` 0 the clock alone ends the training."""

    device: str
    seconds: float
    steps: int = 0
    seed: int = 0
    workers: int = 1
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 300
    curriculum_from: float = 0.0
    """Where in the curriculum to begin: 0 with the easiest questions, 1 with all of them as at the end."""

    @property
    def limits(self) -> Limits:
        return Limits() if self.device == "cuda" else SMALL

    def progress(self, step: int, elapsed: float) -> float:
        """From 0 to 1, by whichever of time and steps is further on."""
        return min(1.0, max(elapsed / self.seconds, step / self.steps if self.steps else 0.0))

    def rate(self, step: int, progress: float) -> float:
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * 0.5 * (1 + math.cos(math.pi * progress))


def train_model(plan: Plan, out: Path, begin: Path | None = None) -> None:
    """Train and write a model folder to `out`; from random weights, or go on with the model in `begin`."""
    tokenizer = train_tokenizer() if begin is None else load_tokenizer(begin)
    first = initial_weights(plan.seed) if begin is None else load_weights(begin)
    weights = {name: value.to(plan.device) for name, value in first.items()}
    print(f"{sum(value.numel() for value in weights.values()):,} parameters, {tokenizer.get_vocab_size()} tokens")
    optimise(plan, weights, lambda: weights, tokenizer, "plain")
    save_model(weights, tokenizer, out)


def optimise(
    plan: Plan, trained: Weights, effective: Callable[[], Weights], tokenizer: Tokenizer, answers: Answers
) -> None:
    """Change `trained` in place until the plan ends; `effective` makes the network's weights of them."""
    progress = multiprocessing.Value("d", 0.0, lock=False)
    batches = iter(loader(Packs(tokenizer, plan.limits, plan.seed, progress, answers), plan.workers, _cuda(plan)))
    optimiser = _optimiser(plan, trained)
    loss_of = torch.compile(_loss, dynamic=False) if _cuda(plan) else _loss
    begin = time.monotonic()
    step = 0
    while (progress_now := plan.progress(step, time.monotonic() - begin)) < 1.0:
        progress.value = plan.curriculum_from + (1 - plan.curriculum_from) * progress_now
        rate = plan.rate(step, progress_now)
        for group in optimiser.param_groups:
            group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else group.update(lr=rate)
        pack = {name: tensor.to(plan.device, non_blocking=True) for name, tensor in next(batches).items()}
        loss, right = loss_of(effective(), pack, _cuda(plan))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step == 2 and _cuda(plan):
            # The clock starts once the kernels are compiled.
            torch.cuda.synchronize()
            begin = time.monotonic()
        if step % LOG_EVERY_STEPS == 0:
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
            _report(step, progress_now, time.monotonic() - begin, loss, right, pack)
        step += 1
    print(f"{step:,} steps in {time.monotonic() - begin:.0f} s", flush=True)


def _cuda(plan: Plan) -> bool:
    return plan.device == "cuda"


def _optimiser(plan: Plan, trained: Weights) -> torch.optim.Optimizer:
    for value in trained.values():
        value.requires_grad_(True)
    matrices = [value for value in trained.values() if value.ndim > 1]
    vectors = [value for value in trained.values() if value.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=_cuda(plan))


def _loss(weights: Weights, pack: Weights, cuda: bool) -> tuple[Tensor, Tensor]:
    """The loss, and for each token of an answer whether it would have been said. Half precision on a GPU."""
    if cuda:
        weights = {name: value.bfloat16() for name, value in weights.items()}
    logits = answer_logits(weights, pack, flash_attention if cuda else grouped_attention).float()
    losses = F.cross_entropy(logits, pack["targets"], reduction="none")
    # Without the weights, which fall with an answer's length, long descriptions would drown numbers and counts.
    loss = (losses * pack["weights"]).sum() / pack["weights"].sum()
    return loss, logits.detach().argmax(-1) == pack["targets"]


def exact_answers(right: Tensor, pack: Weights, kinds: int = len(SKILLS)) -> list[tuple[int, int]]:
    """Per kind of question: conversations whose every answer token is right, and conversations in all.

    Greedy decoding says exactly the expected answer if and only if each token, after the right ones before it, is the
    likeliest; so one forward pass over the expected answers measures it.
    """
    owner, skills = pack["owner"].long(), pack["skills"]
    wrong = torch.zeros(len(skills), dtype=torch.bool, device=right.device)
    wrong[owner[(owner >= 0) & ~right]] = True
    return [(int(((skills == kind) & ~wrong).sum()), int((skills == kind).sum())) for kind in range(kinds)]


def _report(step: int, progress: float, elapsed: float, loss: Tensor, right: Tensor, pack: Weights) -> None:
    exact = zip(SKILLS, exact_answers(right, pack), strict=True)
    shares = " ".join(f"{name} {good / count:4.0%}" for name, (good, count) in exact if count)
    print(f"{step:6} {progress:4.0%} {elapsed:4.0f} s loss {loss.item():.4f}  exact: {shares}", flush=True)
