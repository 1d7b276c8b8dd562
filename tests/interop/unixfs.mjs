// Roots of files by ipfs-unixfs-importer, the one that Helia uses, as JSON on stdout.
import { importer } from "ipfs-unixfs-importer";
import { fixedSize } from "ipfs-unixfs-importer/chunker";
import { balanced } from "ipfs-unixfs-importer/layout";
import { MemoryBlockstore } from "blockstore-core";

// The byte at each place of every file.
const byte = (i) => (i * 131 + Math.floor(i / 251) * 7 + Math.floor(i / 65521)) & 0xff;
const MIB = 1 << 20;
const helia = { chunk: MIB, links: 1024 };
const small = { chunk: 16, links: 3 };
const shapes = [
  ...[0, 1, 1000, MIB - 1, MIB, MIB + 1, 8 * MIB, 9 * MIB + 77].map((length) => ({ length, ...helia })),
  ...[16, 17, 48, 49, 144, 145, 160, 433, 1000].map((length) => ({ length, ...small })),
];

const roots = [];
for (const { length, chunk, links } of shapes) {
  const content = Uint8Array.from({ length }, (_, i) => byte(i));
  const options = {
    cidVersion: 1,
    rawLeaves: true,
    chunker: fixedSize({ chunkSize: chunk }),
    layout: balanced({ maxChildrenPerNode: links }),
  };
  const store = new MemoryBlockstore();
  for await (const file of importer([{ content }], store, options)) {
    roots.push({ length, chunk, links, root: file.cid.toString(), size: Number(file.size) });
  }
}
console.log(JSON.stringify(roots, null, 1));
