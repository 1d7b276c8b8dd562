"""A py-libp2p node that listens to a pool's topics. usage: gossip.py ADDRESS POOL

Says {"topic", "data"} on standard error for each message that it hears, data in hex. Each line on standard input names
a topic, on which it then says bytes that mean nothing.
"""

import json
import os
import sys

import multiaddr
import trio
from blake3 import blake3
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

TOPICS = ["jobs", "claims", "proofs", "heartbeats", "epochs"]
PROTOCOLS = ["/meshsub/1.1.0", "/meshsub/1.0.0"]


def message_id(message):
    name = message.topicIDs[0].encode()
    hasher = blake3(derive_key_context="swarmpool v1 gossip id")
    hasher.update(len(name).to_bytes(8, "big") + name + message.data)
    return hasher.digest()


def tell(**line):
    print(json.dumps(line), file=sys.stderr, flush=True)


async def listen(subscription):
    while True:
        message = await subscription.get()
        tell(topic=message.topicIDs[0], data=message.data.hex())


async def main(address, pool):
    host = new_host(key_pair=create_new_key_pair())
    router = GossipSub(PROTOCOLS, degree=8, degree_low=6, degree_high=12, heartbeat_interval=1)
    pubsub = Pubsub(host, router, msg_id_constructor=message_id, strict_signing=False)
    async with host.run(listen_addrs=[]), trio.open_nursery() as nursery:
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            for topic in TOPICS:
                nursery.start_soon(listen, await pubsub.subscribe(f"/{pool}/{topic}"))
            await host.connect(info_from_p2p_addr(multiaddr.Multiaddr(address)))
            print("connected", file=sys.stderr, flush=True)
            async for line in trio.wrap_file(sys.stdin):
                await pubsub.publish(f"/{pool}/{line.strip()}", os.urandom(200))
            nursery.cancel_scope.cancel()


trio.run(main, *sys.argv[1:])
