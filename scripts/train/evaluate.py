"""Measures the shipped file, as dequantised, and writes the figures into the model card.

Bits per byte on the held-out chapters next to a byte 5-gram model's, samples, and the share of the samples' texts
that holds 40 consecutive characters of the training text.
"""

import argparse
import collections
import json
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional

import weights
from export import NAME
from model import Llama

SEED = 7
ORDER = 5
STRIDE = 128
SAMPLES_PER_PROMPT = 12
SAMPLE_TOKENS = 120
TEMPERATURE = 0.8
TOP_K = 16
COPY_LENGTH = 40
MARKS = ("<!-- figures -->\n", "<!-- end of figures -->\n")
PROMPTS = [
    "It was a fine morning in April, and",
    "The old house stood at the end of the lane,",
    '"I cannot believe it," said Elizabeth,',
    "Mr. Darcy",
    "When the letter arrived,",
    "The bees in the garden",
    "There was nothing she liked so well as",
    "The captain looked at her, and",
    "Once upon a time",
    "My dear sister,",
]


def documents(path: Path) -> list[str]:
    return path.read_text().split("\0")[:-1]


@torch.no_grad()
def model_bits(model, tokenizer, texts: list[str]) -> float:
    """Bits the model needs for the texts; each token is predicted from the 128 to 255 before it, where there are any."""
    context, bits = model.shape.context_length, 0.0
    for text in texts:
        ids = torch.tensor([0, *tokenizer.encode(text).ids])
        scored = 1
        while scored < len(ids):
            end = min(len(ids), scored + (STRIDE if scored > 1 else context - 1))
            window = ids[max(0, end - context) : end]
            surprise = functional.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="none")
            bits += surprise[-(end - scored) :].sum().item() / math.log(2)
            scored = end
    return bits


class WittenBell:
    """A byte n-gram model of order 5, interpolated down to the uniform distribution (Witten and Bell, 1991)."""

    def __init__(self, texts: list[str]):
        self.following = [collections.defaultdict(collections.Counter) for _ in range(ORDER)]
        for text in texts:
            content = text.encode()
            for at, byte in enumerate(content):
                for length in range(min(at, ORDER - 1) + 1):
                    self.following[length][content[at - length : at]][byte] += 1
        self.totals = [{seen: sum(c.values()) for seen, c in level.items()} for level in self.following]

    def probability(self, seen: bytes, byte: int) -> float:
        share = 1 / 256
        for length in range(len(seen) + 1):
            context = seen[len(seen) - length :]
            total = self.totals[length].get(context)
            if total is None:
                break
            counts = self.following[length][context]
            share = (counts[byte] + len(counts) * share) / (total + len(counts))
        return share

    def bits(self, texts: list[str]) -> float:
        found = 0.0
        for text in texts:
            content = text.encode()
            for at, byte in enumerate(content):
                found -= math.log2(self.probability(content[max(0, at - ORDER + 1) : at], byte))
        return found


@torch.no_grad()
def samples(model, tokenizer) -> list[tuple[str, str]]:
    """(prompt, continuation), the samples of one prompt after each other."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for prompt in PROMPTS:
        start = [0, *tokenizer.encode(prompt).ids]
        ids = torch.tensor([start] * SAMPLES_PER_PROMPT)
        for _ in range(SAMPLE_TOKENS):
            top = (model(ids[:, -model.shape.context_length :])[:, -1] / TEMPERATURE).topk(TOP_K)
            choice = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
            ids = torch.cat([ids, top.indices.gather(1, choice)], dim=1)
        for row in ids[:, len(start) :].tolist():
            ended = row.index(0) if 0 in row else len(row)
            found.append((prompt, tokenizer.decode(row[:ended])))
    return found


def pieces(text: str):
    return (text[at : at + COPY_LENGTH] for at in range(len(text) - COPY_LENGTH + 1))


def copies(texts: list[str], source: str) -> int:
    """How many of the texts share a piece of COPY_LENGTH characters with the source."""
    known = set(pieces(source))
    return sum(any(piece in known for piece in pieces(text)) for text in texts)


def card(figures: dict, shown: list[tuple[str, str]]) -> str:
    lines = [
        "| measure | figure |",
        "|---|---|",
        f"| file | {figures['bytes']:,} bytes, {figures['parameters']:,} parameters |",
        f"| trained on | {figures['tokens']:,} tokens in {figures['steps']:,} steps, seed {figures['seed']} |",
        f"| bits per byte, held-out chapters | **{figures['model_bits_per_byte']:.3f}** |",
        f"| the same for a byte 5-gram model (interpolated, Witten-Bell) | {figures['ngram_bits_per_byte']:.3f} |",
        f"| samples with {COPY_LENGTH} consecutive characters of the training text |"
        f" {figures['copies']} of {figures['samples']} ({figures['copies'] / figures['samples']:.1%}) |",
        "",
        f"The first of {SAMPLES_PER_PROMPT} samples for each of {len(PROMPTS)} prompts, not chosen by hand:"
        f" temperature {TEMPERATURE}, top {TOP_K}, {SAMPLE_TOKENS} tokens, seed {SEED}. The prompt is in bold.",
        "",
    ]
    for prompt, text in shown:
        quoted = f"**{prompt}**{text}".rstrip().replace("\n", "\n>\n> ")
        lines += [f"> {quoted}", ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of the Q8_0 file and its card")
    options = parser.parse_args()
    path = options.model / f"{NAME}-q8_0.gguf"
    shape, _, parameters = weights.read(path)
    model = Llama(shape)
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in parameters.items()})
    tokenizer = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    training, heldout = documents(options.work / "train.txt"), documents(options.work / "heldout.txt")
    size = sum(len(text.encode()) for text in heldout)
    checkpoint = torch.load(options.work / "checkpoint.pt")
    found = samples(model, tokenizer)
    figures = {
        "bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": checkpoint["tokens"],
        "steps": checkpoint["step"],
        "seed": checkpoint["seed"],
        "model_bits_per_byte": model_bits(model, tokenizer, heldout) / size,
        "ngram_bits_per_byte": WittenBell(training).bits(heldout) / size,
        "samples": len(found),
        "copies": copies([text for _, text in found], "".join(training)),
    }
    report = card(figures, found[::SAMPLES_PER_PROMPT])
    readme = options.model / "README.md"
    before, rest = readme.read_text().split(MARKS[0])
    readme.write_text(before + MARKS[0] + report + MARKS[1] + rest.split(MARKS[1])[1])
    print(json.dumps(figures, indent=2))
    print(report)


if __name__ == "__main__":
    main()
