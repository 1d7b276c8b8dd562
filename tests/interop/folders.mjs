// Roots of sharded folders by ipfs-unixfs-importer, the one that Helia uses, as JSON on stdout.
import { importer } from "ipfs-unixfs-importer";
import { MemoryBlockstore } from "blockstore-core";

// What is in a folder of so many files: each holds its own name.
const names = (count) => Array.from({ length: count }, (_, i) => `bee-${i}`);

const roots = [];
for (const files of [1, 2, 10, 100, 257, 1000, 5000]) {
  const store = new MemoryBlockstore();
  const source = names(files).map((name) => ({ path: `hive/${name}`, content: new TextEncoder().encode(name) }));
  const options = { cidVersion: 1, rawLeaves: true, shardSplitThresholdBytes: 0 };
  let last;
  for await (const entry of importer(source, store, options)) last = entry;
  roots.push({ files, root: last.cid.toString(), size: Number(last.size) });
}
console.log(JSON.stringify(roots, null, 1));
