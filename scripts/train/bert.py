"""Makes the fixtures of the embedding tests: a tiny random BERT, and what sentence-transformers computes of it and of
MiniLM.

python bert.py --out tests/fixtures/bert --minilm target/tools/minilm
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from blake3 import blake3
from sentence_transformers import SentenceTransformer, models
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SEED = 23
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
WORDS = ["the", "queen", "bee", "of", "hive", "honey", "##s", "##ing", "##ed", "work", "flower", "sun", "swarm"]
LENGTH = 32
TEXTS = [
    "The queen bee of the hive.",
    "Working bees swarmed.",
    "Émile's honey, 1813!",
    "x",
    "the sun " * 40,
    "日本",
]
# Of one meaning, of another, long, foreign, odd.
REAL = [
    "A bee collects honey from the flowers.",
    "Honeybees gather nectar in the garden.",
    "The central bank raised its interest rate by a quarter of a percent.",
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife. "
    * 16,
    "Größe ist nicht alles – 日本語も少し。",
    "?",
]


def tokenizer():
    vocabulary = SPECIAL + list(LETTERS) + [f"##{letter}" for letter in LETTERS] + WORDS
    made = Tokenizer(WordPiece({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    ends = [("[CLS]", vocabulary.index("[CLS]")), ("[SEP]", vocabulary.index("[SEP]"))]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made, len(vocabulary)


def tiny(folder):
    torch.manual_seed(SEED)
    made, size = tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    shape = BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                       max_position_embeddings=LENGTH, initializer_range=0.5)
    model = BertModel(shape, add_pooling_layer=False).eval()
    work = folder / "work"
    model.save_pretrained(work, safe_serialization=True)
    special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(work)
    transformer = models.Transformer(str(work), max_seq_length=LENGTH)
    pooling = models.Pooling(32, pooling_mode="mean")
    whole = SentenceTransformer(modules=[transformer, pooling, models.Normalize()], device="cpu")
    for name in ["model.safetensors", "config.json", "tokenizer.json"]:
        shutil.copy(work / name, folder / name)
    shutil.rmtree(work)
    write_manifest(folder, "tiny-bert", LENGTH, 32, size, "Apache-2.0")
    write_figures(whole, TEXTS, folder / "figures.json")


def file_entry(path):
    return {"file": path.name, "size": path.stat().st_size, "blake3": blake3(path.read_bytes()).hexdigest()}


def write_manifest(folder, name, length, dimensions, vocabulary, licence):
    manifest = {"name": name, "workload": "embed", **file_entry(folder / "model.safetensors")}
    manifest["files"] = [file_entry(folder / "config.json"), file_entry(folder / "tokenizer.json")]
    manifest |= {"architecture": "bert", "context_length": length, "vocab_size": vocabulary, "dimensions": dimensions,
                 "weight_in": 1, "weight_out": 1, "licence": licence}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def write_figures(model, texts, path):
    ids = [model.tokenizer(text, truncation=True, max_length=model.max_seq_length)["input_ids"] for text in texts]
    vectors = model.encode(texts, normalize_embeddings=True).astype("float32")
    rows = [[float(f"{number:.9g}") for number in vector] for vector in vectors]
    figures = [{"text": t, "ids": i, "vector": v} for t, i, v in zip(texts, ids, rows)]
    lines = ",\n".join(json.dumps(figure, ensure_ascii=False) for figure in figures)
    path.write_text(f"[\n{lines}\n]\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--minilm", type=Path)
    options = arguments.parse_args()
    tiny(options.out)
    if options.minilm:
        model = SentenceTransformer(str(options.minilm), device="cpu")
        write_figures(model, REAL, options.out / "minilm.json")


if __name__ == "__main__":
    main()
