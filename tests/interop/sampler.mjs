// Seeds, draws and tokens of the normative sampler, as JSON on stdout: BigInt arithmetic from the specification's text.
import { blake3 } from "@noble/hashes/blake3";
import { bytesToHex, hexToBytes, utf8ToBytes } from "@noble/hashes/utils";
import { encode } from "./cbor.mjs";

function isqrt(n) {
  let x = 1n << BigInt(Math.ceil(n.toString(2).length / 2));
  for (;;) {
    const y = (x + n / x) / 2n;
    if (y >= x) return x;
    x = y;
  }
}

const roots = [isqrt(1n << 127n)];
while (roots.length < 12) roots.push(isqrt(roots.at(-1) << 64n));

function weight(distance) {
  const whole = distance / 4096n;
  let fraction = 1n << 63n;
  roots.forEach((root, k) => {
    if (distance >> BigInt(11 - k) & 1n) fraction = fraction * root >> 64n;
  });
  return fraction >> 31n + whole;
}

function sample(temperature, topP, draw, candidates) {
  if (temperature === 0) return candidates[0][0];
  const least = candidates[0][1];
  const weights = candidates.map(([, cost]) => weight(BigInt(cost - least) * 10000n / BigInt(temperature)));
  const total = weights.reduce((a, b) => a + b);
  const wanted = (BigInt(topP) * total + 9999n) / 10000n;
  let kept = 0n;
  for (const w of weights) {
    kept += w;
    if (kept >= wanted) break;
  }
  const target = draw * kept >> 64n;
  let sum = 0n;
  for (const [i, w] of weights.entries()) {
    sum += w;
    if (sum > target) return candidates[i][0];
  }
}

const first64 = (bytes) => BigInt("0x" + bytesToHex(bytes.slice(0, 8)));
const context = utf8ToBytes("swarmpool v1 sampling");

const leases = [0, 1, 255].map((fill) => new Uint8Array(32).fill(fill));
const draws = leases.flatMap((lease) => [null, 7n, (1n << 64n) - 1n].map((seed) => {
  const digest = blake3(encode([lease, seed ?? 0n]), { context });
  const at = (position) => first64(blake3(encode([position]), { key: digest })).toString();
  return {
    lease: bytesToHex(lease), seed: seed === null ? null : seed.toString(), sampling_seed: bytesToHex(digest),
    draws: [0, 1, 2, 23, 24, 255, 256, 4095].map((position) => [position, at(position)]),
  };
}));

const lists = [
  [[17, 0]],
  [[3, 4096], [9, 4096], [1, 8192], [2, 12288], [4, 12288]],
  [[100, 300], [7, 9000], [8, 9001], [50, 20000], [51, 30000], [40000, 60000], [151935, 1048576]],
  Array.from({ length: 16 }, (_, i) => [i * 97 % 101, 9000 + 1411 * i]),
  Array.from({ length: 256 }, (_, i) => [i, 32768]),
  [[5, 1048576], [6, 1048576]],
];
const settings = [[0, 10000], [1, 10000], [2500, 9000], [7000, 9500], [10000, 10000], [10000, 1], [13337, 7777],
  [100000, 10000], [100000, 5000]];
const seed = hexToBytes(draws[4].sampling_seed);
const dice = [0n, 1n, 1n << 63n, (1n << 64n) - 1n,
  ...[0, 1, 2, 3, 4, 5].map((position) => first64(blake3(encode([position]), { key: seed })))];
const samples = lists.map((candidates) => ({
  candidates,
  tokens: settings.map(([temperature, top_p]) => ({
    temperature, top_p, picks: dice.map((draw) => [draw.toString(), sample(temperature, top_p, draw, candidates)]),
  })),
}));
const weights = [0, 1, 2, 4095, 4096, 4097, 12345, 65535, 131071, 131072, 131073, 2 ** 20]
  .map((distance) => [distance, weight(BigInt(distance)).toString()]);

// One entry a line.
const lines = (list) => "[\n" + list.map((entry) => "  " + JSON.stringify(entry)).join(",\n") + "\n ]";
const hex = roots.map((root) => root.toString(16).padStart(16, "0"));
console.log(`{\n "roots": ${lines(hex)},\n "weights": ${lines(weights)},\n "draws": ${lines(draws)},
 "samples": ${lines(samples)}\n}`);
