"""Trains queenbee-nano on the corpus: AdamW, cosine schedule, fixed seed; stops and resumes at any checkpoint."""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import os
import time
from pathlib import Path

import numpy
import torch
from torch.nn import functional

from model import Llama, Shape

SEED = 20261121
BATCH = 8
THREADS = 2
STEPS = 2600
WARMUP = 100
PEAK_RATE = 3e-3
LAST_RATE = 1e-4
WEIGHT_DECAY = 0.1
CLIP = 1.0
CHECKPOINT_EVERY = 100
HELDOUT_WINDOWS = 64


def rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return LAST_RATE + (PEAK_RATE - LAST_RATE) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def batch_at(ids, step: int, length: int):
    """The batch of one step, a function of seed and step alone, so that a resumed run sees what it would have seen."""
    starts = numpy.random.default_rng([SEED, step]).integers(0, len(ids) - length - 1, BATCH)
    windows = torch.from_numpy(numpy.stack([ids[s : s + length + 1] for s in starts]).astype(numpy.int64))
    return windows[:, :-1], windows[:, 1:]


def loss_of(model, inputs, targets):
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def differentiate(model, parts, threads) -> float:
    """Sets the gradients to the mean over equal parts of a batch, one thread each, and returns the mean loss.

    On cores that others use too this is faster than threads inside each operation, which would wait for each other.
    """
    parameters = list(model.parameters())

    def of(part):
        loss = loss_of(model, *part)
        return loss.item(), torch.autograd.grad(loss, parameters)

    losses, gradients = zip(*threads.map(of, parts), strict=True)
    for parameter, *shares in zip(parameters, *gradients, strict=True):
        parameter.grad = sum(shares) / len(shares)
    return sum(losses) / len(losses)


@torch.no_grad()
def heldout_loss(model, ids, length: int) -> float:
    starts = numpy.linspace(0, len(ids) - length - 1, HELDOUT_WINDOWS).astype(int)
    windows = torch.from_numpy(numpy.stack([ids[s : s + length + 1] for s in starts]).astype(numpy.int64))
    return loss_of(model, windows[:, :-1], windows[:, 1:]).item()


def optimiser_for(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95))


def save(path: Path, model, optimiser, step: int, heldout: float):
    content = {
        "shape": dataclasses.asdict(model.shape),
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "tokens": step * BATCH * model.shape.context_length,
        "seed": SEED,
        "heldout_loss": heldout,
    }
    torch.save(content, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    train_ids = numpy.fromfile(options.work / "train.u16", dtype="<u2")
    heldout_ids = numpy.fromfile(options.work / "heldout.u16", dtype="<u2")
    model = Llama(Shape())
    model.initialise()
    optimiser = optimiser_for(model)
    checkpoint, first = options.work / "checkpoint.pt", 0
    if checkpoint.exists():
        kept = torch.load(checkpoint)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        first = kept["step"]
    threads = concurrent.futures.ThreadPoolExecutor(THREADS)
    began, length = time.monotonic(), model.shape.context_length
    for step in range(first, options.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, options.steps)
        inputs, targets = batch_at(train_ids, step, length)
        parts = zip(inputs.chunk(THREADS), targets.chunk(THREADS), strict=True)
        loss = differentiate(model, parts, threads)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        done = step + 1
        if done % CHECKPOINT_EVERY == 0 or done == options.steps:
            heldout = heldout_loss(model, heldout_ids, length)
            save(checkpoint, model, optimiser, done, heldout)
            speed = (done - first) * BATCH * length / (time.monotonic() - began)
            line = {"step": done, "loss": round(loss, 4), "heldout": round(heldout, 4), "tokens_per_s": round(speed)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
