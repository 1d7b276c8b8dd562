#!/usr/bin/env bash
# Builds swarm-engine for NVIDIA's GPUs, on a machine that needs neither a GPU nor NVIDIA's packages:
#   scripts/build-cuda.sh [CAPABILITY]     90 by default, which is H100 and H200; one build is for one capability
# The toolkit (CUDA 13.0, 1.2 GB) comes from PyPI into target/tools/cuda. What is built lies in target/cuda/dist: the
# programs, and in lib what they need beside NVIDIA's driver. The folder goes to the machine with the GPU as a whole.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

capability=${1:-90}
[[ $capability =~ ^[0-9]{2,3}$ ]] || {
    echo "error: '$capability' is no compute capability" >&2
    echo "  → write it without the point, such as 90 for H100 and H200 or 89 for L4" >&2
    exit 2
}
tools=$PWD/target/tools/cuda
home=$tools/home
dist=target/cuda/dist
toolkit='cuda-toolkit[nvcc,cudart,cccl,nvrtc,curand,crt,nvvm,cublas]==13.0.*'

# What the compiler, the headers and the libraries are expected to lie like.
assemble() {
    [ -x "$tools/venv/bin/pip" ] || python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install -q --disable-pip-version-check "$toolkit"
    local from
    from=$(echo "$tools"/venv/lib/python3*/site-packages/nvidia/cu13)
    rm -rf "$home"
    mkdir -p "$home/lib"
    for part in bin include nvvm; do ln -s "$from/$part" "$home/$part"; done
    for library in "$from"/lib/*; do
        ln -s "$library" "$home/lib/"
        # The linker looks for names without a version.
        case $library in *.so.*) ln -sf "$library" "$home/lib/$(basename "${library%%.so.*}").so" ;; esac
    done
    ln -s lib "$home/lib64"
    stub
}

# A driver for the linker: every name that the bindings may ask for. Its answer to all of them is that there is no device,
# so that a machine without a driver can start what is built, with this library in its path.
stub() {
    local bindings
    cargo fetch --locked --quiet
    for bindings in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-0.19*/src/driver/sys/mod.rs; do :; done
    mkdir -p "$home/stub"
    grep -ohE 'fn cu[A-Z][A-Za-z0-9_]*' "$bindings" | awk '{ print $2 }' | sort -u |
        awk '{ print "int " $1 "(void) { return 100; }" }' >"$home/stub/driver.c"
    [ -s "$home/stub/driver.c" ]
    cc -shared -o "$home/stub/libcuda.so.1" -Wl,-soname,libcuda.so.1 "$home/stub/driver.c"
    ln -sf ../stub/libcuda.so.1 "$home/lib/libcuda.so"
}

assemble
export CUDA_HOME=$home CUDA_PATH=$home CUDA_ROOT=$home CUDA_TOOLKIT_ROOT_DIR=$home
export CUDA_COMPUTE_CAP=$capability PATH="$home/bin:$PATH" LIBRARY_PATH="$home/lib"
# Found beside the program, wherever that is copied to.
# shellcheck disable=SC2016 # the loader's word, not the shell's
export RUSTFLAGS='-C link-arg=-Wl,-rpath,$ORIGIN/lib'
cargo build --locked --release --target-dir target/cuda -p swarm-inference --features cuda --bin swarm-engine --example measure

rm -rf "$dist"
mkdir -p "$dist/lib"
cp target/cuda/release/swarm-engine target/cuda/release/examples/measure "$dist/"
for library in cublas cublasLt curand nvrtc nvrtc-builtins cudart; do
    cp -L "$home"/lib/lib$library.so.* "$dist/lib/"
done

# Without a GPU it must start, say so, and compute on the processor.
device=$(LD_LIBRARY_PATH="$home/stub" CUDA_VISIBLE_DEVICES='' "$dist/swarm-engine" --device)
[ "$device" = cpu ] || [ "$device" = cuda ]
echo "built for compute capability $capability: $dist ($(du -sh "$dist" | cut -f 1)); here it computes on: $device"
