// Roots and proofs of ours, on standard input, as OpenZeppelin's package sees them.
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";
import { readFileSync } from "node:fs";

const types = ["address", "uint256"];
const hex = (bare) => `0x${bare}`;
let proofs = 0;

function check(holds, what) {
  if (!holds) {
    console.error(`error: ${what}`);
    process.exit(1);
  }
}

const trees = JSON.parse(readFileSync(0, "utf8"));
check(trees.length === 35, `${trees.length} trees came`);
for (const { root, entries } of trees) {
  const size = entries.length;
  const tree = StandardMerkleTree.of(entries.map(({ address, amount }) => [address, amount]), types);
  check(tree.root === hex(root), `the root of ${size} accounts is ${tree.root}, ours ${root}`);
  for (const { address, amount, proof } of entries) {
    const accepted = (value) => StandardMerkleTree.verify(hex(root), types, [address, value], proof.map(hex));
    check(accepted(amount), `the proof of ${address} among ${size} is refused`);
    if (proofs++ % 100 === 0) check(!accepted(String(BigInt(amount) + 1n)), `a wrong amount among ${size} is accepted`);
  }
}
console.log(`${trees.length} roots and ${proofs} proofs are OpenZeppelin's`);
