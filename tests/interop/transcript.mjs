// A transcript's canonical block and its prefix digests, as JSON on stdout.
import { blake3 } from "@noble/hashes/blake3";
import { sha256 } from "@noble/hashes/sha2";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils";
import { encode } from "./cbor.mjs";

const context = utf8ToBytes("swarmpool v1 prefix");
const hash = (...values) => blake3(encode(values), { context });

function flatten(candidates) {
  let before = 0;
  return candidates.flatMap(([token, cost]) => {
    const pair = [token, cost - before];
    before = cost;
    return pair;
  });
}

const lease = new Uint8Array(32).fill(1);
const model_digest = new Uint8Array(32).fill(2);
const prompt = [1, 23, 24, 255, 256, 65535, 65536, 4294967295];
const steps = [
  [9, [[9, 0]]],
  [300, [[12, 4096], [300, 4096], [7, 12288]]],
  [0, [[70000, 20], [1, 50000], [0, 120000], [2, 1048576]]],
];
const stop = "eos";

const flat = steps.map(([token, candidates]) => [token, flatten(candidates)]);
const block = encode({ model: "queenbee-nano", model_digest, prompt, steps: flat, stop });
const prefixes = [hash(lease, model_digest, prompt)];
for (const [token, candidates] of flat) prefixes.push(hash(prefixes.at(-1), token, candidates));
console.log(JSON.stringify({
  model: "queenbee-nano", model_digest: bytesToHex(model_digest), lease: bytesToHex(lease), prompt, steps, stop,
  block: bytesToHex(block), sha2_256: bytesToHex(sha256(block)), prefixes: prefixes.map(bytesToHex),
}, null, 1));
