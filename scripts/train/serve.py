"""llama.cpp's own server from its Python package, on loopback: serve.py FILE NAME PORT."""

import sys
import threading

import xllamacpp


def main():
    path, name, port = sys.argv[1:]
    options = xllamacpp.CommonParams()
    options.model.path = path
    options.model_alias = {name}
    options.hostnames = ["127.0.0.1"]
    options.port = int(port)
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(options)
    print("listens at", server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
