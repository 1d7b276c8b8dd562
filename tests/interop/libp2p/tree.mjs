// Reads a pool's tree from a CAR archive with @ipld/car, ipfs-unixfs-exporter and @ipld/dag-cbor, each block checked
// against its CID, and prints the state that it walks to as JSON. usage: tree.mjs ARCHIVE
import { createReadStream } from "node:fs";
import { CarReader } from "@ipld/car";
import * as dagCbor from "@ipld/dag-cbor";
import { exporter } from "ipfs-unixfs-exporter";
import { CID } from "multiformats/cid";
import { sha256 } from "multiformats/hashes/sha2";

const archive = await CarReader.fromIterable(createReadStream(process.argv[2]));
const [root] = await archive.getRoots();
const blocks = new Map();
for await (const { cid, bytes } of archive.blocks()) {
  const digest = await sha256.digest(bytes);
  if (!CID.create(1, cid.code, digest).equals(cid)) throw new Error(`${cid} holds something else`);
  blocks.set(cid.toString(), bytes);
}
const blockstore = {
  async *get(cid) {
    const block = blocks.get(cid.toString());
    if (!block) throw new Error(`${cid} is not in the archive`);
    yield block;
  },
};

async function list(path) {
  const folder = await exporter(`${root}/${path}`, blockstore);
  const names = {};
  for await (const entry of (folder.entries ?? folder.content)()) {
    const resolved = await exporter(`${root}/${path}/${entry.name}`, blockstore);
    names[entry.name] = resolved.cid.toString();
  }
  return names;
}

const folders = {};
for (const path of ["jobs/pending", "jobs/claimed", "proofs", "epochs", "miners"]) folders[path] = await list(path);
const file = await exporter(`${root}/state.json`, blockstore);
const parts = [];
for await (const part of file.content()) parts.push(part);
const kinds = {};
for (const [job, snapshot] of Object.entries(folders["jobs/pending"])) {
  const { payload } = dagCbor.decode(blocks.get(snapshot));
  const id = CID.create(1, dagCbor.code, await sha256.digest(payload));
  if (id.toString() !== job) throw new Error(`${job} is the name of ${id}`);
  kinds[job] = dagCbor.decode(payload).kind;
}
const state = JSON.parse(Buffer.concat(parts).toString());
console.log(JSON.stringify({ root: root.toString(), blocks: blocks.size, folders, kinds, state }));
