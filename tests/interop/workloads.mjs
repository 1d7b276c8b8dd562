// Blocks, prefix digests, checksums and noise of the workloads without token steps, as JSON on stdout.
import { blake3 } from "@noble/hashes/blake3";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils";
import { encode } from "./cbor.mjs";

const context = utf8ToBytes("swarmpool v1 prefix");
const hash = (...values) => blake3(encode(values), { context });
const lease = new Uint8Array(32).fill(1);
const model_digest = new Uint8Array(32).fill(2);

function embedding() {
  const texts = [[101, 7592, 102], [], [101, 65535, 65536, 255, 23, 102]];
  const numbers = [[1, 0, 0], [-0.6, 0.8, 0], [0.5, -0.5, Math.SQRT1_2]];
  const vectors = numbers.map((vector) => new Uint8Array(Float32Array.from(vector).buffer));
  const prefixes = [hash(lease, model_digest)];
  texts.forEach((ids, n) => prefixes.push(hash(prefixes.at(-1), ids, vectors[n])));
  const block = encode({ model: "all-minilm-l6-v2", model_digest, texts });
  return { texts, vectors: vectors.map(bytesToHex), block: bytesToHex(block), prefixes: prefixes.map(bytesToHex) };
}

const U64 = (1n << 64n) - 1n;
const P = (1n << 31n) - 1n;

function numbers(seed, stream) {
  let state = BigInt("0x" + bytesToHex(seed.slice(8 * stream, 8 * stream + 8)));
  return () => {
    state = state + 0x9e3779b97f4a7c15n & U64;
    let z = state;
    z = (z ^ z >> 30n) * 0xbf58476d1ce4e5b9n & U64;
    z = (z ^ z >> 27n) * 0x94d049bb133111ebn & U64;
    return z ^ z >> 31n;
  };
}

function matrix(seed, stream, rows, columns) {
  const next = numbers(seed, stream);
  const cells = [];
  while (cells.length < rows * columns) {
    const number = next();
    for (let pair = 0n; pair < 32n; pair++) cells.push((number >> 2n * pair & 1n) - (number >> 2n * pair + 1n & 1n));
  }
  return Array.from({ length: rows }, (_, row) => cells.slice(row * columns, (row + 1) * columns));
}

// Multiplies the matrices, and then sums the product up.
function checksums(seed, m, n, k, repeats) {
  const [a, b] = [matrix(seed, 0, m, k), matrix(seed, 1, k, n)];
  const product = a.map((row) => b[0].map((_, j) => row.reduce((sum, cell, l) => sum + cell * b[l][j], 0n)));
  const next = numbers(seed, 2);
  const factors = (count) => Array.from({ length: count }, () => next() >> 33n);
  return Array.from({ length: repeats }, () => {
    const [x, y] = [factors(m), factors(n)];
    let sum = 0n;
    product.forEach((row, i) => row.forEach((cell, j) => sum += x[i] * cell * y[j]));
    return Number((sum % P + P) % P);
  });
}

function benchmark([spec, m, n, k, repeats, bytes], number) {
  const seed = blake3(utf8ToBytes(`bench ${number}`));
  const sums = checksums(seed, m, n, k, repeats);
  const laps = sums.map((sum, lap) => [70000 - 300 * (lap + number), sum]);
  const prefixes = [hash(lease, model_digest, spec)];
  for (const [ns, sum] of laps) prefixes.push(hash(prefixes.at(-1), ns, sum));
  const times = laps.map(([ns]) => ns);
  const output = encode({
    spec, operations: 2 * m * n * k * repeats, traffic: (m * k + k * n + m * n) * bytes * repeats,
    total_ns: times.reduce((sum, ns) => sum + ns), best_ns: Math.min(...times),
  });
  const block = encode({ model: "matmul", model_digest, spec, laps });
  return {
    spec, seed: bytesToHex(seed), checksums: sums, laps, block: bytesToHex(block), output: bytesToHex(output),
    prefixes: prefixes.map(bytesToHex),
  };
}

// The seed of a picture's noise, and the first of its numbers.
function noise(seed) {
  const digest = blake3(encode([seed]), { context: utf8ToBytes("swarmpool v1 sampling") });
  const drawn = blake3(new Uint8Array(0), { key: digest, dkLen: 64 });
  const uniform = (at) => Number(BigInt("0x" + bytesToHex(drawn.slice(at, at + 8))) >> 11n);
  const numbers = [0, 16, 32, 48].flatMap((at) => {
    const radius = Math.sqrt(-2 * Math.log((uniform(at) + 1) / 2 ** 53));
    const angle = 2 * Math.PI * (uniform(at + 8) / 2 ** 53);
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
  return { seed: seed.toString(), digest: bytesToHex(digest), numbers };
}

function picture() {
  const [spec, prompt] = ["128 64 2 7500", [49406, 320, 5004, 49407]];
  const seed = blake3(encode([7n]), { context: utf8ToBytes("swarmpool v1 sampling") });
  const steps = [0, 1].map((step) => Array.from({ length: 64 }, (_, at) => (at - 32) * 4099 ** step));
  const prefixes = [hash(lease, model_digest, spec, prompt, seed)];
  for (const summary of steps) prefixes.push(hash(prefixes.at(-1), summary));
  const block = encode({ model: "tiny-diffusion", model_digest, spec, prompt, seed, steps });
  const noises = [7n, 300n, (1n << 64n) - 1n].map(noise);
  return { spec, prompt, steps, block: bytesToHex(block), prefixes: prefixes.map(bytesToHex), noise: noises };
}

const specs = [["f32 1 1 1 1", 1, 1, 1, 1, 4], ["f16 5 3 70 4", 5, 3, 70, 4, 2], ["bf16 33 64 31 3", 33, 64, 31, 3, 2]];
console.log(JSON.stringify({
  lease: bytesToHex(lease), model_digest: bytesToHex(model_digest), embed: embedding(), image: picture(),
  bench: specs.map(benchmark),
}, null, 1));
