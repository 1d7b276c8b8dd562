// Digests of one text under every context and hash, made by noble-hashes, as JSON on stdout.
import { blake3 } from "@noble/hashes/blake3";
import { sha256 } from "@noble/hashes/sha2";
import { keccak_256 } from "@noble/hashes/sha3";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils";

const names = ["draw", "lease", "sampling", "leaf", "node", "prefix", "ledger", "checkpoint", "listing", "queue",
  "manifest", "input", "output", "epoch secret", "range"];
const inputs = ["", "a", "swarmpool", "x".repeat(1024), "y".repeat(5000)].map(utf8ToBytes);
const key = utf8ToBytes("a key of exactly thirty-two byte");

const made = inputs.map((input) => ({
  input: bytesToHex(input),
  derived: Object.fromEntries(names.map((name) => [
    `swarmpool v1 ${name}`,
    bytesToHex(blake3(input, { context: utf8ToBytes(`swarmpool v1 ${name}`) })),
  ])),
  key: bytesToHex(key),
  keyed: bytesToHex(blake3(input, { key })),
  blake3: bytesToHex(blake3(input)),
  sha2_256: bytesToHex(sha256(input)),
  keccak256: bytesToHex(keccak_256(input)),
}));
console.log(JSON.stringify(made, null, 1));
