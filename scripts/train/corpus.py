"""Makes the corpus: reads the novels out of the Debian package, cleans them, splits them, trains the tokenizer.

Writes to the work directory: train.txt and heldout.txt (one chapter per document, documents end with NUL),
tokenizer.json, train.u16 and heldout.u16 (token ids) and corpus.json (sizes and digests).
"""

import argparse
import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PACKAGE = "r-cran-janeaustenr"
LAZY_LOAD = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
BOOKS = ["Emma", "Mansfield Park", "Northanger Abbey", "Persuasion", "Pride and Prejudice", "Sense and Sensibility"]
HEADING = re.compile(r"(chapter|volume)\s+([ivxl]+|\d+)\.?", re.IGNORECASE)
END = re.compile(r"(the end|finis|a note on the text)\.?", re.IGNORECASE)
END_OF_TEXT = "<|endoftext|>"
HELDOUT_EVERY = 20
VOCABULARY = 2048


def stored_objects(lazy_load: bytes):
    """The objects of an R lazy-load file: each a big-endian u32 length and a zlib stream."""
    while lazy_load:
        stream = zlib.decompressobj()
        content = stream.decompress(lazy_load[4:])
        if len(content) != int.from_bytes(lazy_load[:4], "big"):
            raise ValueError("an object's length differs from what the file says")
        yield content
        lazy_load = stream.unused_data


def strings(serialised: bytes) -> list[str]:
    """The elements of a character vector in R's XDR serialisation, version 3."""
    encoding = struct.unpack_from(">I", serialised, 14)[0]
    at = 18 + encoding
    kind, count = struct.unpack_from(">II", serialised, at)
    if serialised[:2] != b"X\n" or kind & 0xFF != 16:
        raise ValueError("not a character vector in R's XDR form")
    at += 8
    found = []
    for _ in range(count):
        _, length = struct.unpack_from(">Ii", serialised, at)
        found.append(serialised[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return found


def chapters(lines: list[str]) -> list[str]:
    """One text per chapter: one line per paragraph, without headings, front matter, and emphasis marks."""
    texts, paragraph, text, inside = [], [], [], False
    for line in [*lines, "THE END"]:
        line = line.strip()
        boundary = HEADING.fullmatch(line) or END.fullmatch(line)
        if line and not boundary:
            paragraph.append(line)
            continue
        if paragraph and inside:
            text.append(re.sub(r"\s+", " ", " ".join(paragraph).replace("_", "")))
        paragraph = []
        if boundary:
            if text:
                texts.append("\n".join(text) + "\n")
            text, inside = [], bool(HEADING.fullmatch(line))
    return texts


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE in the form of GPT-2's: id 0 ends a text, all 256 bytes have tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    deb = next((work / "deb").glob(f"{PACKAGE}_*.deb"))
    stored = (work / "root" / LAZY_LOAD).read_bytes()
    books = [chapters(strings(content)) for content in stored_objects(stored)]
    texts = [text for book in books for text in book]
    parts = {
        "train": [text for n, text in enumerate(texts) if n % HELDOUT_EVERY != HELDOUT_EVERY // 2],
        "heldout": [text for n, text in enumerate(texts) if n % HELDOUT_EVERY == HELDOUT_EVERY // 2],
    }
    tokenizer = train_tokenizer(parts["train"])
    tokenizer.save(str(work / "tokenizer.json"))
    report = {"package": deb.name, "package_sha256": hashlib.sha256(deb.read_bytes()).hexdigest()}
    report["books"] = dict(zip(BOOKS, map(len, books), strict=True))
    for name, documents in parts.items():
        content = "".join(text + "\0" for text in documents).encode()
        (work / f"{name}.txt").write_bytes(content)
        ids = [i for text in documents for i in [0, *tokenizer.encode(text).ids]]
        numpy.array(ids, dtype="<u2").tofile(work / f"{name}.u16")
        sizes = {"chapters": len(documents), "bytes": len(content) - len(documents), "tokens": len(ids)}
        report[name] = sizes | {"sha256": hashlib.sha256(content).hexdigest()}
    (work / "corpus.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
