#!/usr/bin/env bash
# The release gate for NVIDIA's GPUs, as docs/nvidia-validation.md has it:
#   scripts/validate-gpu.sh [--dist FOLDER] [--out FILE] [--soak SECONDS] [MANIFEST…]
# FOLDER is what scripts/build-cuda.sh made (target/cuda/dist), FILE gets what was found as JSON (validation-gpu.json), and each
# MANIFEST is a model to measure. It needs the GPU to itself. The exit code is 0 if every criterion is met, 1 if not.
set -euo pipefail

dist=target/cuda/dist out=validation-gpu.json soak=600
models=()
while [ $# -gt 0 ]; do
    case $1 in
        --dist) dist=$2 && shift 2 ;;
        --out) out=$2 && shift 2 ;;
        --soak) soak=$2 && shift 2 ;;
        -*)
            echo "error: $1 is no option" >&2
            echo "  → see the head of scripts/validate-gpu.sh" >&2
            exit 2
            ;;
        *) models+=("$1") && shift ;;
    esac
done
fail() {
    echo "error: $1" >&2
    echo "  → $2" >&2
    exit 2
}
[ -x "$dist/measure" ] || fail "there is no $dist/measure" "run scripts/build-cuda.sh first, or name its folder with --dist"
command -v nvidia-smi >/dev/null || fail "nvidia-smi is not here" "install NVIDIA's driver; this is for machines with a GPU"
command -v python3 >/dev/null || fail "python3 is not here" "install it"

work=$(mktemp -d)
sampler=
trap '[ -z "$sampler" ] || kill "$sampler" 2>/dev/null; rm -rf "$work"' EXIT
# The GPU that the programs take, numbered alike by both.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
visible=${CUDA_VISIBLE_DEVICES:-0} && gpu=${visible%%,*}
query() { nvidia-smi -i "$gpu" --query-gpu="$1" --format=csv,noheader,nounits; }

query name,uuid,driver_version,memory.total,power.limit,compute_cap >"$work/gpu.csv"
echo "measuring on the processor, for comparison"
CUDA_VISIBLE_DEVICES='' "$dist/measure" "${models[@]}" >"$work/cpu.json"
echo "measuring on the GPU"
"$dist/measure" "${models[@]}" >"$work/gpu.json"

echo "the same again and again for $soak s"
(while sleep 1; do query power.draw,memory.used,temperature.gpu,clocks.sm,utilization.gpu; done) >"$work/samples.csv" &
sampler=$!
end=$((SECONDS + soak)) rounds=0
while [ $SECONDS -lt $end ]; do
    "$dist/measure" "${models[@]}" >"$work/round.$rounds.json" || echo '{"failed": true}' >"$work/round.$rounds.json"
    rounds=$((rounds + 1))
done
kill "$sampler" 2>/dev/null
sampler=

python3 - "$work" "$out" <<'PYTHON'
import glob, json, os, sys, time

work, out = sys.argv[1:]
# Per second, dense: bf16 and f32 in TFLOP, memory in TB. From NVIDIA's data sheets, SXM boards.
LIMITS = {"H100": (989.0, 67.0, 3.35), "H200": (989.0, 67.0, 4.8)}
load = lambda name: json.load(open(os.path.join(work, name)))
gpu, cpu = load("gpu.json"), load("cpu.json")
name, uuid, driver, memory, power, capability = [part.strip() for part in open(f"{work}/gpu.csv").readline().split(",")]
limits = next((limits for part, limits in LIMITS.items() if part in name), None)
rows = []


def criterion(what, passed, found, wanted):
    rows.append({"criterion": what, "passed": bool(passed), "found": found, "wanted": wanted})


criterion("device", (gpu["device"], cpu["device"]) == ("cuda", "cpu"), [gpu["device"], cpu["device"]], ["cuda", "cpu"])
for with_gpu, without in zip(gpu["products"], cpu["products"]):
    kind = with_gpu["dtype"]
    criterion(f"checksums {kind}", with_gpu["checksums"] == without["checksums"], with_gpu["checksums"], without["checksums"])
    peak = limits and {"Bf16": limits[0], "F16": limits[0], "F32": limits[1]}[kind]
    share = peak and with_gpu["gflop_s"] / 1000 / peak
    criterion(f"speed {kind}, share of the peak", share is not None and share >= 0.4, share, "0.4 or more")
for with_gpu, without in zip(gpu["models"], cpu["models"]):
    model = with_gpu["model"]
    criterion(f"{model} is computed on the GPU", with_gpu["computed_on"] == "cuda", with_gpu["computed_on"], "cuda")
    if "vectors" in with_gpu:
        pairs = [(a, b) for x, y in zip(with_gpu["vectors"], without["vectors"]) for a, b in zip(x, y)]
        worst = max(abs(a - b) for a, b in pairs)
        criterion(f"{model}, largest difference to the processor", worst <= 4e-5, worst, "4e-5 or less")
    if "costs" in with_gpu:
        apart = [abs(a - b) for a, b in zip(with_gpu["costs"], without["costs"])]
        mean, wanted = sum(apart) / len(apart), with_gpu["tolerance"]
        criterion(f"{model}, mean difference of costs, 1/4096 bit", mean <= wanted, mean, f"{wanted} or less")
    for rate in with_gpu.get("rates", []):
        if rate["batch"] == 1:
            moved = rate["decode_tokens_s"] * with_gpu["weight_bytes"] / 1e12
            share = limits and moved / limits[2]
            criterion(f"{model}, share of the bandwidth", share is not None and share >= 0.4, share, "0.4 or more")
kinds = {model["model"]: "vectors" in model for model in gpu["models"]}
criterion("both kinds of models", set(kinds.values()) == {True, False}, kinds, "one that embeds, one of text")

samples = [[float(cell) for cell in line.split(",")] for line in open(f"{work}/samples.csv") if line.count(",") == 4 and "N/A" not in line]
rounds = [json.load(open(path)) for path in glob.glob(f"{work}/round.*.json")]
checksums = lambda found: [product["checksums"] for product in found.get("products", [])]
good = sum(checksums(found) == checksums(gpu) and found.get("device") == "cuda" for found in rounds)
criterion("soak", rounds and good == len(rounds), f"{good} of {len(rounds)} rounds alike", "all")
column = lambda number: [sample[number] for sample in samples]
soaked = {}
if samples:
    third = max(1, len(samples) // 3)
    peak_of = lambda part: max(sample[1] for sample in part)
    growth = peak_of(samples[-third:]) - peak_of(samples[:third])
    mean = lambda values: sum(values) / len(values)
    soaked = {
        "samples": len(samples),
        "power_w": {"mean": mean(column(0)), "max": max(column(0))},
        "memory_mib": {"max": max(column(1)), "growth": growth},
        "temperature_c": {"max": max(column(2))},
        "clock_mhz": {"min": min(column(3)), "mean": mean(column(3))},
    }
    criterion("memory ceiling, MiB", max(column(1)) <= 0.95 * float(memory), max(column(1)), f"95 % of {memory}")
    criterion("memory growth, MiB", growth <= 64, growth, "64 or less")
    criterion("power, W", mean(column(0)) <= float(power), mean(column(0)), f"the limit of {power}")
else:
    criterion("samples", False, 0, "one a second")

passed = all(row["passed"] for row in rows)
artifact = {
    "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "passed": passed,
    "gpu": {"name": name, "uuid": uuid, "driver": driver, "memory_mib": memory, "power_limit_w": power, "capability": capability},
    "criteria": rows, "measured": gpu, "on_the_processor": cpu, "soak": soaked,
}
with open(out, "w") as file:
    json.dump(artifact, file, indent=1)
    file.write("\n")
for row in rows:
    print(f"  {'OK  ' if row['passed'] else 'FAIL'}  {row['criterion']}: {row['found']}")
print(f"{name}: {'every criterion is met' if passed else 'not to be released'}; {out}")
sys.exit(0 if passed else 1)
PYTHON
