"""Exports the last checkpoint as GGUF, and for the shipped Q8_0 file writes the manifest beside it."""

import argparse
import json
from pathlib import Path

import torch
from blake3 import blake3

import weights
from model import Shape

NAME = "queenbee-nano"
LICENCE = "Apache-2.0"
DESCRIPTION = "A small Llama that writes English prose, trained on the six completed novels of Jane Austen."


def vocabulary(path: Path) -> weights.Tokens:
    bpe = json.loads(path.read_text())["model"]
    texts = sorted(bpe["vocab"], key=bpe["vocab"].get)
    return weights.Tokens(texts, [" ".join(pair) for pair in bpe["merges"]])


def write_manifest(path: Path, shape: Shape):
    content = path.read_bytes()
    manifest = {
        "name": NAME,
        "file": path.name,
        "size": len(content),
        "blake3": blake3(content).hexdigest(),
        "architecture": "llama",
        "context_length": shape.context_length,
        "vocab_size": shape.vocab_size,
        "top_k": 16,
        "weight_in": 1,
        "weight_out": 4,
        "licence": LICENCE,
    }
    path.with_name("manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of the Q8_0 file and its manifest")
    parser.add_argument("--type", choices=weights.TYPES, default="q8_0", help="other types go to the work directory")
    options = parser.parse_args()
    checkpoint = torch.load(options.work / "checkpoint.pt")
    shape = Shape(**checkpoint["shape"])
    parameters = {name: tensor.numpy() for name, tensor in checkpoint["model"].items()}
    about = {"name": NAME, "description": DESCRIPTION, "license": LICENCE}
    shipped = options.type == "q8_0"
    folder = options.model if shipped else options.work
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}-{options.type}.gguf"
    weights.write(path, about, shape, vocabulary(options.work / "tokenizer.json"), parameters, options.type)
    if shipped:
        write_manifest(path, shape)
    print(f"{path.name}: {path.stat().st_size} bytes, step {checkpoint['step']}, {checkpoint['tokens']} tokens")


if __name__ == "__main__":
    main()
