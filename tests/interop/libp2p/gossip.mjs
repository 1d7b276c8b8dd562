// A js-libp2p node that listens to a pool's topics. usage: gossip.mjs ADDRESS POOL
// Says {"topic", "data"} on standard error for each message that it hears, data in hex. Each line on standard input
// names a topic, on which it then says bytes that mean nothing.

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { blake3 } from '@noble/hashes/blake3.js'
import { concatBytes, randomBytes, utf8ToBytes } from '@noble/hashes/utils.js'
import { createLibp2p } from 'libp2p'
import { createInterface } from 'node:readline'

const TOPICS = ['jobs', 'claims', 'proofs', 'heartbeats', 'epochs']
const MESH_PAUSE_MS = 100

const [address, pool] = process.argv.slice(2)

function messageId ({ topic, data }) {
  const name = utf8ToBytes(topic)
  const length = new Uint8Array(8)
  new DataView(length.buffer).setBigUint64(0, BigInt(name.length))
  return blake3(concatBytes(length, name, data), { context: utf8ToBytes('swarmpool v1 gossip id') })
}

const node = await createLibp2p({
  addresses: { listen: [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    pubsub: gossipsub({ globalSignaturePolicy: 'StrictNoSign', msgIdFn: messageId, floodPublish: true }),
  },
})
const { pubsub } = node.services
pubsub.addEventListener('message', ({ detail }) => {
  console.error(JSON.stringify({ topic: detail.topic, data: Buffer.from(detail.data).toString('hex') }))
})
for (const topic of TOPICS) pubsub.subscribe(`/${pool}/${topic}`)
await node.dial(multiaddr(address))
console.error('connected')

for await (const topic of createInterface({ input: process.stdin })) {
  while (pubsub.getSubscribers(`/${pool}/${topic}`).length === 0) {
    await new Promise((resolve) => setTimeout(resolve, MESH_PAUSE_MS))
  }
  await pubsub.publish(`/${pool}/${topic}`, randomBytes(200))
}
process.exit(0)
