"""Tokens per second of processor time of llama.cpp on GGUF files, in lines like those of the benchmark `batch`; --quantise makes the files."""

import argparse
import ctypes
import time
from pathlib import Path

import llama_cpp
import numpy

PROMPT, TOKENS = 256, 48
TYPES = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M}


def quantise(source: Path, folder: Path):
    for kind, ftype in TYPES.items():
        path = folder / f"big-{kind}.gguf"
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype = ftype
        if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), options) != 0:
            raise RuntimeError(f"llama.cpp could not write {path}")


def open_context(path: Path, size: int, threads: int):
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = size * 512
    options.n_batch = options.n_ubatch = 512
    options.n_seq_max = size
    options.n_threads = options.n_threads_batch = threads
    return model, llama_cpp.llama_init_from_model(model, options)


def decode(context, rows):
    """One pass over rows of (token, position, sequence, whether its logits are wanted)."""
    batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for row, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[row], batch.pos[row], batch.logits[row] = token, position, wanted
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
    if llama_cpp.llama_decode(context, batch) != 0:
        raise RuntimeError("llama.cpp could not decode")
    llama_cpp.llama_batch_free(batch)


def likeliest(context, row: int, vocabulary: int) -> int:
    logits = llama_cpp.llama_get_logits_ith(context, row)
    return int(numpy.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (vocabulary,)).argmax())


def rates(context, vocabulary: int, size: int):
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    start, last = time.process_time(), []
    for job in range(size):
        decode(context, [((i * 31 + job * 17) % 250, i, job, i == PROMPT - 1) for i in range(PROMPT)])
        last.append(likeliest(context, PROMPT - 1, vocabulary))
    prefill = size * PROMPT / (time.process_time() - start)
    start = time.process_time()
    for position in range(PROMPT, PROMPT + TOKENS):
        decode(context, [(last[job], position, job, True) for job in range(size)])
        last = [likeliest(context, job, vocabulary) for job in range(size)]
    return prefill, size * TOKENS / (time.process_time() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quantise", type=Path, metavar="F16", help="write big-q8_0.gguf and big-q4_k_m.gguf beside it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("files", type=Path, nargs="*")
    options = parser.parse_args()
    if options.quantise:
        quantise(options.quantise, options.quantise.parent)
    for path in options.files:
        for size in (1, 8):
            model, context = open_context(path, size, options.threads)
            vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
            rates(context, vocabulary, size)
            for name, rate in zip(("prefill", "decode"), rates(context, vocabulary, size)):
                print(f"rate {path.stem} {name} {size} {rate:.2f}", flush=True)
            llama_cpp.llama_free(context)
            llama_cpp.llama_model_free(model)


if __name__ == "__main__":
    main()
