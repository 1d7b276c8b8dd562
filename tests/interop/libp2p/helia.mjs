// A Helia node that knows one peer. usage: helia.mjs ADDRESS TEXT REPEAT [CID...]
// Serves TEXT, repeated, as one raw block and says its CID on stderr. With CIDs it fetches them from the peer, prints
// their text and ends; without, it stays.

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'

const FETCH_TIMEOUT_MS = 60_000

const [address, text, repeat, ...wanted] = process.argv.slice(2)
const libp2p = {
  addresses: { listen: [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() },
}
const helia = await withBitswap(withLibp2pLight(createHeliaLight(), libp2p)).start()

const block = new TextEncoder().encode(text.repeat(Number(repeat)))
const own = CID.create(1, raw.code, await sha256.digest(block))
await helia.blockstore.put(own, block)
await helia.libp2p.dial(multiaddr(address))
console.error(JSON.stringify({ serves: own.toString(), bytes: block.length }))

for (const cid of wanted) {
  const parts = []
  const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS)
  for await (const part of helia.blockstore.get(CID.parse(cid), { signal })) parts.push(part)
  console.log(JSON.stringify({ cid, text: Buffer.concat(parts).toString() }))
}

if (wanted.length > 0) process.exit(0)
