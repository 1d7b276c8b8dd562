"""Writes and reads Llama models as GGUF: everything a reader needs is in the file's metadata."""

import dataclasses
from pathlib import Path

import gguf
import numpy

from model import Shape

TYPES = {
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
}
WHOLE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
IN_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A byte-level vocabulary in id order and its merges ("left right"); id 0 begins and ends a text."""

    texts: list[str]
    merges: list[str]


def names(shape: Shape, tied: bool) -> dict[str, str]:
    """GGUF's tensor name for each parameter name."""
    found = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in WHOLE.items() if not (tied and ours == "lm_head")}
    for block in range(shape.block_count):
        for ours, theirs in IN_BLOCK.items():
            found[f"layers.{block}.{ours}.weight"] = f"blk.{block}.{theirs}.weight"
    return found


def interleave(matrix, heads: int):
    """From rotary pairs (i, i + n/2) within a head, Hugging Face's, to pairs (2i, 2i + 1), llama.cpp's."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def separate(matrix, heads: int):
    """The inverse of interleave."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def reordered(name: str, matrix, shape: Shape, order):
    if name.endswith("q_proj.weight"):
        return order(matrix, shape.head_count)
    if name.endswith("k_proj.weight"):
        return order(matrix, shape.head_count_kv)
    return matrix


def add_metadata(writer: gguf.GGUFWriter, shape: Shape, tokens: Tokens, kind: str):
    writer.add_file_type(TYPES[kind][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.embedding_length)
    writer.add_block_count(shape.block_count)
    writer.add_feed_forward_length(shape.feed_forward_length)
    writer.add_head_count(shape.head_count)
    writer.add_head_count_kv(shape.head_count_kv)
    writer.add_layer_norm_rms_eps(shape.rms_epsilon)
    writer.add_rope_dimension_count(shape.head_length)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens.texts)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if n == 0 else normal for n in range(len(tokens.texts))])
    writer.add_token_merges(tokens.merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def write(path: Path, about: dict[str, str], shape: Shape, tokens: Tokens, parameters: dict, kind: str):
    """Matrices in the type of `kind`, vectors in F32; `parameters` are float32 arrays by Hugging Face's names."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(about["name"])
    writer.add_description(about["description"])
    writer.add_license(about["license"])
    add_metadata(writer, shape, tokens, kind)
    for ours, theirs in names(shape, "lm_head.weight" not in parameters).items():
        value = numpy.ascontiguousarray(reordered(ours, parameters[ours], shape, interleave), dtype=numpy.float32)
        stored = TYPES[kind][0] if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(theirs, gguf.quantize(value, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> tuple[Shape, Tokens, dict]:
    """Shape, vocabulary and parameters (dequantised to float32, by Hugging Face's names) of a file from `write`."""
    reader = gguf.GGUFReader(path)

    def value(key):
        return reader.get_field(key).contents()

    shape = Shape(
        vocab_size=value("llama.vocab_size"),
        context_length=value("llama.context_length"),
        embedding_length=value("llama.embedding_length"),
        block_count=value("llama.block_count"),
        feed_forward_length=value("llama.feed_forward_length"),
        head_count=value("llama.attention.head_count"),
        head_count_kv=value("llama.attention.head_count_kv"),
        rms_epsilon=value("llama.attention.layer_norm_rms_epsilon"),
        rope_base=value("llama.rope.freq_base"),
    )
    tokens = Tokens(value("tokenizer.ggml.tokens"), value("tokenizer.ggml.merges"))
    stored = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    ours_of = {theirs: ours for ours, theirs in names(shape, "output.weight" not in stored).items()}
    parameters = {ours_of[name]: reordered(ours_of[name], matrix, shape, separate) for name, matrix in stored.items()}
    return shape, tokens, parameters
