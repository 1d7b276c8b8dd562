"""A Llama in plain PyTorch, with the parameter names and the rotary convention of Hugging Face's checkpoints."""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Shape:
    vocab_size: int = 2048
    context_length: int = 256
    embedding_length: int = 128
    block_count: int = 6
    feed_forward_length: int = 352
    head_count: int = 4
    head_count_kv: int = 4
    rms_epsilon: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_length(self) -> int:
        return self.embedding_length // self.head_count


class RmsNorm(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.embedding_length))
        self.epsilon = shape.rms_epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


def rotary_angles(shape: Shape, length: int):
    """Cosines and sines [length, head_length], the two halves alike."""
    steps = torch.arange(0, shape.head_length, 2) / shape.head_length
    angles = torch.outer(torch.arange(length).float(), shape.rope_base**-steps)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x, cosines, sines):
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        keys = shape.head_count_kv * shape.head_length
        self.q_proj = nn.Linear(shape.embedding_length, shape.embedding_length, bias=False)
        self.k_proj = nn.Linear(shape.embedding_length, keys, bias=False)
        self.v_proj = nn.Linear(shape.embedding_length, keys, bias=False)
        self.o_proj = nn.Linear(shape.embedding_length, shape.embedding_length, bias=False)

    def forward(self, x, angles, mask):
        batch, length, width = x.shape

        def heads(projected):
            return projected.view(batch, length, -1, self.shape.head_length).transpose(1, 2)

        q = rotate(heads(self.q_proj(x)), *angles)
        k = rotate(heads(self.k_proj(x)), *angles)
        v = heads(self.v_proj(x))
        groups = self.shape.head_count // self.shape.head_count_kv
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.shape.head_length) + mask
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.embedding_length, shape.feed_forward_length, bias=False)
        self.up_proj = nn.Linear(shape.embedding_length, shape.feed_forward_length, bias=False)
        self.down_proj = nn.Linear(shape.feed_forward_length, shape.embedding_length, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.input_layernorm = RmsNorm(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape)
        self.mlp = FeedForward(shape)

    def forward(self, x, angles, mask):
        x = x + self.self_attn(self.input_layernorm(x), angles, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Token ids [batch, length] to logits [batch, length, vocab_size]; the output matrix is the embedding's."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.embedding_length)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.block_count))
        self.norm = RmsNorm(shape)

    def initialise(self):
        residual = 0.02 / math.sqrt(2 * self.shape.block_count)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                ends_branch = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=residual if ends_branch else 0.02)

    def forward(self, ids):
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        angles = rotary_angles(self.shape, length)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, angles, mask)
        return functional.linear(self.norm(x), self.embed_tokens.weight)
