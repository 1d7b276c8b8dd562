"""A slow and lossy wire between two network namespaces, for kernels without netem.

    link.py SPACE ADDRESS SPACE ADDRESS DELAY_MS LOSS_PERCENT RATE_MBIT

Gives each namespace a device `slow`; every packet that enters one leaves the other DELAY_MS later, unless it is lost by
chance or a queue of QUEUE packets is full. Says `ready` on stderr; ends by SIGTERM, saying what became of the packets.
"""

import collections
import ctypes
import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

QUEUE = 1000
MTU = 1500
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000


def device(space, address, peer):
    """A tun device in a namespace, up, with an address; this process reads and writes its packets."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{space}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {space}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"slow", IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "addr", "add", address, "peer", peer, "dev", "slow"], check=True)
    subprocess.run(["ip", "link", "set", "slow", "mtu", str(MTU), "up"], check=True)
    return tun


class Direction:
    """Packets on their way to one end."""

    def __init__(self, out, delay, loss, rate):
        self.out, self.delay, self.loss, self.rate = out, delay, loss, rate
        self.queue = collections.deque()
        self.free_at = 0.0
        self.carried = self.lost = self.dropped = 0

    def take(self, packet, now):
        if random.random() < self.loss:
            self.lost += 1
        elif len(self.queue) >= QUEUE:
            self.dropped += 1
        else:
            self.free_at = max(now, self.free_at) + len(packet) / self.rate
            self.queue.append((self.free_at + self.delay, packet))

    def give(self, now):
        """Lets out what is due; says when the next is."""
        while self.queue and self.queue[0][0] <= now:
            packet = self.queue.popleft()[1]
            try:
                os.write(self.out, packet)
                self.carried += 1
            except BlockingIOError:
                self.dropped += 1
        return self.queue[0][0] if self.queue else None


def main():
    one, one_address, other, other_address, delay, loss, rate = sys.argv[1:]
    numbers = float(delay) / 1000, float(loss) / 100, float(rate) * 1e6 / 8
    here, there = device(one, one_address, other_address), device(other, other_address, one_address)
    ways = {here: Direction(there, *numbers), there: Direction(here, *numbers)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("ready", file=sys.stderr, flush=True)
    try:
        while True:
            due = [way.give(time.monotonic()) for way in ways.values()]
            waits = [at - time.monotonic() for at in due if at is not None]
            readable, _, _ = select.select(list(ways), [], [], max(0.0, min(waits)) if waits else 1.0)
            for tun in readable:
                try:
                    while True:
                        ways[tun].take(os.read(tun, MTU), time.monotonic())
                except BlockingIOError:
                    pass
    finally:
        carried, lost, dropped = (sum(getattr(way, name) for way in ways.values()) for name in ("carried", "lost", "dropped"))
        print(f"{carried} packets carried, {lost} lost by chance, {dropped} dropped", file=sys.stderr, flush=True)


main()
