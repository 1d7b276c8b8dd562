"""Makes the fixtures of the decoder tests: tiny random Llama, Qwen2 and Qwen3 models and what other engines compute.

Each model is written as safetensors with its config.json, and as GGUF. The engines are transformers in float32, on
the weights as the file has them, and llama.cpp on the GGUF files themselves.
"""

import argparse
import copy
import json
import shutil
from pathlib import Path

import gguf
import llama_cpp
import numpy
import torch
import transformers
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

import weights

SEED = 17
VOCABULARY = 272
POSITIONS = 48
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
# 4-bit blocks are 256 wide.
WIDE = SMALL | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 2500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
THETA = {"rope_type": "default", "rope_theta": 7000.0}
MODELS = {
    "llama": (LlamaConfig(**SMALL, rope_parameters=LLAMA3, tie_word_embeddings=False), torch.bfloat16),
    "qwen2": (Qwen2Config(**SMALL, rope_parameters=THETA, tie_word_embeddings=True), torch.float32),
    "qwen3": (Qwen3Config(**SMALL, rope_parameters=THETA, tie_word_embeddings=True, head_dim=32), torch.float16),
    "qwen2-wide": (Qwen2Config(**WIDE, rope_parameters=THETA, tie_word_embeddings=True), torch.float32),
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
F32, Q8_0 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0


def random_model(config, dtype):
    """Matrices that keep the scale of what they multiply, branches that add less, norms and biases that differ."""
    random = numpy.random.default_rng(SEED)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                value = random.uniform(0.5, 1.5, parameter.shape)
            elif name.endswith("bias"):
                value = random.normal(0, 0.5, parameter.shape)
            elif "embed_tokens" in name:
                value = random.normal(0, 0.25 if config.tie_word_embeddings else 1, parameter.shape)
            else:
                gain = 0.4 if "o_proj" in name or "down_proj" in name else 2 if "lm_head" in name else 1
                value = random.normal(0, gain / parameter.shape[1] ** 0.5, parameter.shape)
            parameter.copy_(torch.from_numpy(value).to(dtype).float())
    return model


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{IN_BLOCK[part]}.{kind}"


def reordered(config, name: str, matrix, order):
    """Only Llama's queries and keys have another order of rows in GGUF."""
    if config.model_type != "llama":
        return matrix
    if name.endswith("q_proj.weight"):
        return order(matrix, config.num_attention_heads)
    return order(matrix, config.num_key_value_heads) if name.endswith("k_proj.weight") else matrix


def rope_factors(config):
    """By what each frequency is divided."""
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    return (plain / scaled).numpy()


def write_gguf(path: Path, config, model, stored):
    writer = gguf.GGUFWriter(path, config.model_type)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    add_tokens(writer)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(config))
    for name, parameter in model.named_parameters():
        value = numpy.ascontiguousarray(reordered(config, name, parameter.detach().numpy(), weights.interleave))
        kind = stored if value.ndim == 2 else F32
        writer.add_tensor(gguf_name(name), gguf.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokens(writer):
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(rest))]
    pairs = [(a, b) for a in "etao" for b in "etao"][: VOCABULARY - 257]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<|endoftext|>", *letters, *(a + b for a, b in pairs)])
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (VOCABULARY - 1))
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


@torch.no_grad()
def as_stored(path: Path, config, model):
    """The model with the weights of a GGUF file, dequantised."""
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    other = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for name, parameter in other.named_parameters():
        value = reordered(config, name, tensors[gguf_name(name)], weights.separate)
        parameter.copy_(torch.from_numpy(value.copy()))
    return other


@torch.no_grad()
def by_transformers(model, prompt):
    return model(torch.tensor([prompt])).logits[0].numpy()


@torch.no_grad()
def hidden_states(model, prompt):
    states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
    return torch.stack(states)[:, 0].numpy()


def by_llama_cpp(path: Path, prompt):
    engine = llama_cpp.Llama(str(path), n_ctx=128, n_batch=128, n_threads=1, logits_all=True, verbose=False)
    engine.eval(prompt)
    return engine.scores[: len(prompt)].copy()


def quantised(source: Path, path: Path):
    """llama.cpp's own Q4_K_M, which the Python package cannot write."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), options) != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source}")


class Figures:
    def __init__(self):
        self.sections, self.content = [], b""

    def add(self, model: str, engine: str, what: str, values):
        values = numpy.ascontiguousarray(values, dtype="<f4")
        section = {"model": model, "engine": engine, "what": what, "shape": list(values.shape)}
        self.sections.append(section | {"offset_bytes": len(self.content)})
        self.content += values.tobytes()

    def write(self, out: Path, prompt):
        (out / "figures.bin").write_bytes(self.content)
        index = {"file": "figures.bin", "type": "float32 little endian", "prompt": prompt, "sections": self.sections}
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in index.items()]
        (out / "figures.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def distance(found, expected) -> float:
    return float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))


def make(name: str, out: Path, prompt, figures: Figures):
    config, dtype = MODELS[name]
    model = random_model(config, dtype)
    ours, theirs = f"transformers {transformers.__version__}", f"llama-cpp-python {llama_cpp.__version__}"
    if name.endswith("wide"):
        whole, path = out / "whole.gguf", out / f"{name}-q4_k_m.gguf"
        write_gguf(whole, config, model, F32)
        quantised(whole, path)
        whole.unlink()
    else:
        folder, path = out / name, out / f"{name}-q8_0.gguf"
        # Not the model itself: its rotary frequencies would be rounded too.
        copy.deepcopy(model).to(dtype).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "model.safetensors").chmod(0o644)
        write_gguf(path, config, model, Q8_0)
        figures.add(name, ours, "logits", by_transformers(model, prompt))
        figures.add(name, ours, "hidden states", hidden_states(model, prompt))
    expected, found = by_transformers(as_stored(path, config, model), prompt), by_llama_cpp(path, prompt)
    print(f"{path.name}: relative L2 of llama.cpp from transformers {distance(found, expected):.2e}")
    figures.add(path.name, ours, "logits", expected)
    figures.add(path.name, theirs, "logits", found)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    prompt = [0, *numpy.random.default_rng(SEED + 1).integers(1, VOCABULARY, POSITIONS - 1).tolist()]
    figures = Figures()
    for name in MODELS:
        make(name, out, prompt, figures)
    figures.write(out, prompt)


if __name__ == "__main__":
    main()
