// Standard Merkle trees with all their proofs, made by OpenZeppelin's package, as JSON on stdout.
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";
import { getAddress, keccak256, toUtf8Bytes } from "ethers";

const bare = (hex) => hex.slice(2);
const entry = (i) => [getAddress(`0x${keccak256(toUtf8Bytes(`wallet ${i}`)).slice(26)}`), String(2n ** BigInt(i * 9 % 128) - 1n)];

const made = [1, 2, 3, 4, 5, 7, 8, 9, 16, 31].map((count) => {
  const tree = StandardMerkleTree.of(Array.from({ length: count }, (_, i) => entry(i)), ["address", "uint256"]);
  const entries = [...tree.entries()].map(([index, [address, amount]]) => ({
    address,
    amount,
    proof: tree.getProof(index).map(bare),
  }));
  return { root: bare(tree.root), entries };
});
console.log(JSON.stringify(made, null, 1));
