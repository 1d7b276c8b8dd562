"""Makes the fixture of the inference tests: a tiny random Llama as F16 and Q8_0, and its logits by two engines.

The engines are transformers in float32 on the weights as dequantised, and llama.cpp on the files themselves.
"""

import argparse
import json
from pathlib import Path

import llama_cpp
import numpy
import torch
import transformers

import weights
from model import Shape

SEED = 11
PROMPTS = 8
POSITIONS = 64
LETTERS = "etaoinsr"
SHAPE = Shape(
    vocab_size=320,
    context_length=128,
    embedding_length=64,
    block_count=3,
    feed_forward_length=96,
    head_count=4,
    head_count_kv=2,
    rms_epsilon=1e-4,
    rope_base=2500.0,
)
ABOUT = {
    "name": "tiny",
    "description": "Random weights: a fixture that checks engines against each other.",
    "license": "Apache-2.0",
}


def byte_tokens() -> list[str]:
    """GPT-2's character for each byte: itself where it is printable, else the next one from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(rest))]


def vocabulary() -> weights.Tokens:
    pairs = [(a, b) for a in LETTERS for b in LETTERS][: SHAPE.vocab_size - 257]
    return weights.Tokens(
        ["<|endoftext|>", *byte_tokens(), *(a + b for a, b in pairs)],
        [f"{a} {b}" for a, b in pairs],
    )


def random_parameters() -> dict:
    """Matrices that keep the scale of what they multiply, branches that add less, norms that differ by channel."""
    random = numpy.random.default_rng(SEED)
    width, keys = SHAPE.embedding_length, SHAPE.head_count_kv * SHAPE.head_length
    rows = {"self_attn.k_proj": keys, "self_attn.v_proj": keys}
    rows |= {"mlp.gate_proj": SHAPE.feed_forward_length, "mlp.up_proj": SHAPE.feed_forward_length}
    gains = {"self_attn.o_proj": 0.4, "mlp.down_proj": 0.4}
    found = {}
    for ours in weights.names(SHAPE, tied=False):
        part = ours.removesuffix(".weight").split(".", 2)[-1] if ours.startswith("layers") else ours.split(".")[0]
        if "norm" in part:
            found[ours] = random.uniform(0.5, 1.5, width)
        elif part in ("embed_tokens", "lm_head"):
            found[ours] = random.normal(0, 1 if part == "embed_tokens" else 2 / width**0.5, (SHAPE.vocab_size, width))
        else:
            columns = SHAPE.feed_forward_length if part == "mlp.down_proj" else width
            shape = (rows.get(part, width), columns)
            found[ours] = random.normal(0, gains.get(part, 1.0) / columns**0.5, shape)
    return {name: value.astype(numpy.float32) for name, value in found.items()}


@torch.no_grad()
def by_transformers(path: Path, prompts):
    shape, _, parameters = weights.read(path)
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.embedding_length,
        intermediate_size=shape.feed_forward_length,
        num_hidden_layers=shape.block_count,
        num_attention_heads=shape.head_count,
        num_key_value_heads=shape.head_count_kv,
        max_position_embeddings=shape.context_length,
        rms_norm_eps=shape.rms_epsilon,
        rope_theta=shape.rope_base,
    )
    engine = transformers.LlamaForCausalLM(config).float().eval()
    named = {("" if name == "lm_head.weight" else "model.") + name: value for name, value in parameters.items()}
    engine.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in named.items()})
    return engine(torch.tensor(prompts)).logits.numpy()


def by_llama_cpp(path: Path, prompts):
    engine = llama_cpp.Llama(str(path), n_ctx=SHAPE.context_length, n_threads=1, logits_all=True, verbose=False)
    found = []
    for prompt in prompts:
        engine.reset()
        engine.eval(prompt)
        found.append(engine.scores[: len(prompt)].copy())
    return numpy.stack(found)


def distance(found, expected) -> float:
    return float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    random = numpy.random.default_rng(SEED + 1)
    prompts = [[0, *random.integers(1, SHAPE.vocab_size, POSITIONS - 1).tolist()] for _ in range(PROMPTS)]
    parameters, sections, content = random_parameters(), [], b""
    for kind in ("f16", "q8_0"):
        path = out / f"tiny-{kind}.gguf"
        weights.write(path, ABOUT, SHAPE, vocabulary(), parameters, kind)
        engines = {
            f"transformers {transformers.__version__}": by_transformers(path, prompts),
            f"llama-cpp-python {llama_cpp.__version__}": by_llama_cpp(path, prompts),
        }
        expected, found = engines.values()
        print(f"{path.name}: relative L2 of llama.cpp from transformers {distance(found, expected):.2e}")
        for engine, logits in engines.items():
            sections.append({"model": path.name, "engine": engine, "offset_bytes": len(content)})
            content += logits.astype("<f2").tobytes()
    (out / "logits.bin").write_bytes(content)
    shape = [PROMPTS, POSITIONS, SHAPE.vocab_size]
    index = {"file": "logits.bin", "type": "float16 little endian", "shape": shape, "sections": sections}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in (index | {"prompts": prompts}).items()]
    (out / "logits.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
