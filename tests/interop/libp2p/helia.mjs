// A Helia node that knows one peer, or, with - for its address, waits for others. usage: helia.mjs ADDRESS COMMAND [ARGUMENT...]
//   serve TEXT REPEAT    serves TEXT, repeated, as one raw block
//   serve-file MIB       serves a UnixFS file of so many MiB, as Helia's importer cuts it
//   read CID...          fetches blocks from the peer, and prints them: text of raw ones, JSON of DAG-CBOR
//   cat CID...           fetches files from the peer, and prints their length and sha2-256
// Who serves says on stderr what, and stays.

import { createHash } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import * as dagCbor from '@ipld/dag-cbor'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { exporter } from 'ipfs-unixfs-exporter'
import { importer } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'

const FETCH_TIMEOUT_MS = 60_000
const FILE_TIMEOUT_MS = 600_000
const REDIAL_MS = 1_000
const MIB = 1 << 20

const [address, command, ...args] = process.argv.slice(2)
const libp2p = {
  addresses: { listen: address === '-' ? ['/ip4/127.0.0.1/tcp/0'] : [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() },
}
const helia = await withBitswap(withLibp2pLight(createHeliaLight(), libp2p)).start()
const connect = () => (address === '-' ? undefined : helia.libp2p.dial(multiaddr(address)))

// js-libp2p gives a connection up when a ping is late, which happens behind large blocks on a slow link.
helia.libp2p.addEventListener('connection:close', async () => {
  if (address === '-' || helia.libp2p.status !== 'started') return
  console.error('the connection ended; dialling again')
  while (helia.libp2p.getConnections().length === 0) {
    await connect().catch(() => new Promise((resolve) => setTimeout(resolve, REDIAL_MS)))
  }
})

const serves = async (cid, bytes) => {
  await connect()
  const own = helia.libp2p.getMultiaddrs()[0]?.toString()
  console.error(JSON.stringify({ serves: cid.toString(), bytes, address: own }))
}

// Small letters, as tests/tests/e2e/helia.rs has them.
const pieces = function* (mib) {
  for (let at = 0; at < mib * MIB; at += MIB) {
    yield Uint8Array.from({ length: MIB }, (_, n) => {
      const i = at + n
      return 97 + ((i * 131 + Math.floor(i / 251) * 7 + Math.floor(i / 65521)) % 26)
    })
  }
}

const plain = (_, value) => {
  if (typeof value === 'bigint') return value.toString()
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  return CID.asCID(value)?.toString() ?? value
}

const fetchBlock = async (cid) => {
  const parts = []
  const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS)
  for await (const part of helia.blockstore.get(cid, { signal })) parts.push(part)
  return Buffer.concat(parts)
}

const commands = {
  async serve(text, repeat) {
    const block = new TextEncoder().encode(text.repeat(Number(repeat)))
    const own = CID.create(1, raw.code, await sha256.digest(block))
    await helia.blockstore.put(own, block)
    await serves(own, block.length)
  },

  async 'serve-file'(mib) {
    const options = {
      cidVersion: 1,
      rawLeaves: true,
      chunker: fixedSize({ chunkSize: MIB }),
      layout: balanced({ maxChildrenPerNode: 1024 }),
    }
    for await (const file of importer([{ content: pieces(Number(mib)) }], helia.blockstore, options)) {
      await serves(file.cid, Number(mib) * MIB)
    }
  },

  async read(...wanted) {
    await connect()
    for (const cid of wanted.map((text) => CID.parse(text))) {
      const block = await fetchBlock(cid)
      const shown = cid.code === dagCbor.code ? { value: dagCbor.decode(block) } : { text: block.toString() }
      console.log(JSON.stringify({ cid: cid.toString(), ...shown }, plain))
    }
    process.exit(0)
  },

  async cat(...wanted) {
    await connect()
    for (const cid of wanted) {
      const begun = Date.now()
      const hash = createHash('sha256')
      const signal = AbortSignal.timeout(FILE_TIMEOUT_MS)
      const file = await exporter(CID.parse(cid), helia.blockstore, { signal })
      let bytes = 0
      for await (const part of file.content({ signal })) {
        hash.update(part)
        bytes += part.length
      }
      console.log(JSON.stringify({ cid, bytes, sha256: hash.digest('hex'), ms: Date.now() - begun }))
    }
    process.exit(0)
  },
}

await commands[command](...args)
