// Checks ../vectors/statements.json with ethers and noble-hashes: ids, signers and snapshots. Exits 1 on a difference.
import { readFileSync } from "node:fs";
import { blake3 } from "@noble/hashes/blake3";
import { sha256 } from "@noble/hashes/sha2";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils";
import { verifyTypedData, computeAddress } from "ethers";
import { encode } from "./cbor.mjs";

function base32(bytes) {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  const letters = bits.match(/.{1,5}/g).map((five) => "abcdefghijklmnopqrstuvwxyz234567"[parseInt(five.padEnd(5, "0"), 2)]);
  return letters.join("");
}

const { pool, statements } = JSON.parse(readFileSync(new URL("../vectors/statements.json", import.meta.url)));
const domain = { name: "SwarmPool", version: "1", salt: "0x" + pool };
const types = { Statement: [{ name: "kind", type: "string" }, { name: "digest", type: "bytes32" }] };
for (const { kind, secret_key, by, payload: text, id, signature, snapshot } of statements) {
  const payload = hexToBytes(text);
  const message = { kind, digest: blake3(payload) };
  const checks = {
    id: "b" + base32([1, 0x71, 0x12, 0x20, ...sha256(payload)]) === id,
    key: computeAddress("0x" + secret_key) === by,
    signer: verifyTypedData(domain, types, message, "0x" + signature) === by,
    snapshot: bytesToHex(encode({ payload, signature: hexToBytes(signature) })) === snapshot,
  };
  const failed = Object.keys(checks).filter((check) => !checks[check]);
  if (failed.length > 0) {
    console.error(`${kind} ${id}: ${failed.join(", ")} differ`);
    process.exitCode = 1;
  }
}
console.log(`${statements.length} statements looked at`);
