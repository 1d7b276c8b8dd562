// Statements signed by ethers, as JSON on stdout.
import { TypedDataEncoder, Wallet, keccak256, toUtf8Bytes, zeroPadValue } from "ethers";

const types = { Statement: [{ name: "kind", type: "string" }, { name: "digest", type: "bytes32" }] };
const domain = (pool) => ({ name: "SwarmPool", version: "1", salt: `0x${pool}` });
const hash = (text) => keccak256(toUtf8Bytes(text)).slice(2);

const kinds = ["job", "cancel", "claim", "lease", "proof", "receipt", "heartbeat", "beacon", "epoch_sealed", "", "ünïcode ☃"];
const pools = ["00".repeat(32), "ff".repeat(32), hash("pool one")];
const keys = [zeroPadValue("0x01", 32).slice(2), hash("alice"), hash("bob")];

async function statements() {
  const made = [];
  for (const [k, key] of keys.entries()) {
    const wallet = new Wallet(`0x${key}`);
    for (const [p, pool] of pools.entries()) {
      for (const kind of kinds) {
        const value = { kind, digest: `0x${hash(`payload ${k} ${p} ${kind}`)}` };
        made.push({
          key,
          address: wallet.address,
          public_key: wallet.signingKey.compressedPublicKey.slice(2),
          pool,
          kind,
          digest: value.digest.slice(2),
          signing_hash: TypedDataEncoder.hash(domain(pool), types, value).slice(2),
          signature: (await wallet.signTypedData(domain(pool), types, value)).slice(2),
        });
      }
    }
  }
  return made;
}

console.log(JSON.stringify(await statements(), null, 1));
