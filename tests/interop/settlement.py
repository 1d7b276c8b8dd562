"""A second implementation of a pool's settlement, written from docs/protocol.md alone.

    pip install -r requirements.txt
    settlement.py FOLDER | ARCHIVE.car ...

Each archive is a CARv1 file whose root is a pool's newest epoch header; it holds all earlier headers and all record
pages. Of every row this program computes the transfers, of every epoch the PPS credits, rates, releases and roster
weights, the course of its audits, and then the whole header, which must have the link of the published one. Signatures are not checked, nor is
what sections 6 and 7 say about races and deadlines.

An archive is read up to its first difference, which is printed; in the summary it counts as one that differs. Sections
in comments are those of docs/protocol.md.
"""

import hashlib
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import cbor2
from blake3 import blake3
from Crypto.Hash import keccak

DAG_CBOR_SHA256 = b"\x01\x71\x12\x20"
SHA256 = 0x12
ZERO = bytes(32)
MILLION = 10**6

LEAST_PRICE = 4
MINER_SHARE, SHARES = 7500, 10000
HOLD_EPOCHS = 2
RATE_EPOCHS = 24
FEE_EPOCHS = 168
LOSS_EPOCHS = 24
MOST_WEIGHT = 16
MOST_RATE = 2**64 - 1
SETTLEMENT = 4
AUDIT_EPOCHS = 4
SEAT_EPOCHS = 1
AUDITED = ("llm_gen", "embed", "sd_infer")
MOST_AUDITORS = 7
SCORE_AUDITS = 20
SCORE_MISSES = 3
BEYOND_DOUBT = 2048
CARELESS_ERRORS = 2
PAGE_BYTES = 524_288
LEAVES_PER_PAGE = 16_384

TIMEOUTS = ("no_progress", "timed_out")
HALF_LOSSES = {
    "no_progress": 2,
    "timed_out": 2,
    "bad_proof": 2,
    "released": 0,
    "released_late": 1,
    "engine_failure": 1,
}

OUTSIDE, SHORTFALL, RESERVE = ("Outside", None), ("Shortfall", None), ("Reserve", None)
COUNTED = ("admitted", "leased", "accepted", "expired", "cancelled", "unrunnable")
TOTALS = {
    "ClientFree": "client_free",
    "ClientReserved": "client_reserved",
    "MinerHeld": "miner_held",
    "MinerPayable": "miner_payable",
    "OperatorHeld": "operator_held",
    "OperatorPayable": "operator_payable",
    "Reserve": "reserve",
}


class Difference(Exception):
    """What was published is not what the specification gives."""


def require(holds, what):
    if not holds:
        raise Difference(what)


# Encoding and hashes, section 1


class Link(bytes):
    """A binary CID that is encoded as a link."""


def head(major, value):
    if value < 24:
        return bytes([major << 5 | value])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | code]) + value.to_bytes(size, "big")
    raise Difference(f"{value} does not fit 64 bits")


@lru_cache(maxsize=4096)
def encode_text(text):
    raw = text.encode()
    return head(3, len(raw)) + raw


def encode(value):
    """Canonical DAG-CBOR."""
    kind = type(value)
    if kind is int:
        return head(0, value)
    if kind is str:
        return encode_text(value)
    if kind is bytes:
        return head(2, len(value)) + value
    if kind is Link:
        return b"\xd8\x2a" + head(2, len(value) + 1) + b"\x00" + value
    if kind is bool:
        return b"\xf5" if value else b"\xf4"
    if kind is list:
        return head(4, len(value)) + b"".join(map(encode, value))
    if kind is dict:
        # An encoded key begins with its length, so bytewise order is the order asked for.
        entries = sorted((encode_text(name), encode(each)) for name, each in value.items())
        return head(5, len(entries)) + b"".join(name + each for name, each in entries)
    raise TypeError(f"{kind} has no encoding")


def link_of(block):
    return Link(DAG_CBOR_SHA256 + hashlib.sha256(block).digest())


@cache
def derivation(name):
    return blake3(derive_key_context=f"swarmpool v1 {name}")


def derive(name, data):
    return derivation(name).copy().update(data).digest()


def keyed(key, *values):
    return blake3(encode(list(values)), key=key).digest()


def keccak256(data):
    return keccak.new(data=data, digest_bits=256).digest()


# Archives


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def cid_at(data, at):
    """The CID that begins here, and where it ends."""
    start = at
    version, at = varint(data, at)
    _codec, at = varint(data, at)
    function, at = varint(data, at)
    length, at = varint(data, at)
    require((version, function, length) == (1, SHA256, 32), "archive: a CID that is not version 1 with sha2-256")
    return data[start : at + length], at + length


def read_archive(path):
    """The root of an archive, and its blocks by CID."""
    data = path.read_bytes()
    length, start = varint(data, 0)
    end = start + length
    header = cbor2.loads(data[start:end])
    require(header["version"] == 1 and len(header["roots"]) == 1, "archive: not CARv1 with one root")
    blocks = {}
    while end < len(data):
        length, start = varint(data, end)
        end = start + length
        require(end <= len(data), "archive: cut off")
        cid, start = cid_at(data, start)
        block = data[start:end]
        require(hashlib.sha256(block).digest() == cid[-32:], f"archive: {cid.hex()} is not the CID of its block")
        blocks[cid] = block
    return target(header["roots"][0]), blocks


def target(tag):
    """The CID that a decoded link names."""
    require(tag.tag == 42 and tag.value[0] == 0, "a link that is none")
    return tag.value[1:]


def read_block(blocks, cid):
    require(cid in blocks, f"archive: {cid.hex()} is missing")
    return cbor2.loads(blocks[cid])


def published_headers(root, blocks):
    """Headers and their CIDs, from the genesis on."""
    headers = []
    cid = root
    while cid is not None:
        header = read_block(blocks, cid)
        headers.append((cid, header))
        cid = target(header["previous"]) if "previous" in header else None
    return headers[::-1]


def published_rows(header, blocks):
    """The rows that a header's record pages hold."""
    rows = []
    for tag in header["record_pages"]:
        page = read_block(blocks, target(tag))
        if "carried" in page:
            rows[-1] += page["carried"]
        rows += page["records"]
    return rows


# Pages and trees, section 11


def record_pages(first_seq, previous, rows, hashes):
    """The pages of a range of rows with these hashes, `previous` being that of the row before."""
    pages = []
    page, size = new_page(first_seq, previous), 0
    for seq, (row, row_hash) in enumerate(zip(rows, hashes), first_seq):
        if size and size + len(row) > PAGE_BYTES:
            pages.append(page)
            page, size = new_page(seq, previous), 0
        page["records"].append(row[:PAGE_BYTES])
        size += len(row)
        for cut in range(PAGE_BYTES, len(row), PAGE_BYTES):
            pages.append(page)
            part = row[cut : cut + PAGE_BYTES]
            page, size = new_page(seq + 1, row_hash) | {"carried": part}, len(part)
        previous = row_hash
    return pages + [page]


def new_page(first_seq, previous):
    return {"first_seq": first_seq, "previous": previous, "records": []}


def leaf_pages(leaves):
    return [leaves[at : at + LEAVES_PER_PAGE] for at in range(0, len(leaves), LEAVES_PER_PAGE)]


def proofs_root(leaves):
    """RFC 9162's tree: the left side has the greatest power of two that is less than the number of leaves."""
    if not leaves:
        return ZERO
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return derive("node", proofs_root(leaves[:left]) + proofs_root(leaves[left:]))


def standard_tree_root(leaves):
    # OpenZeppelin's library lays the tree out in an array: the children of i at 2i + 1 and 2i + 2, leaves backwards.
    tree = [ZERO] * (len(leaves) - 1) + leaves[::-1]
    for i in range(len(leaves) - 2, -1, -1):
        tree[i] = keccak256(b"".join(sorted(tree[2 * i + 1 : 2 * i + 3])))
    return tree[0]


class Lifetime:
    """Amounts by address that never decrease, and the root of their standard tree."""

    def __init__(self):
        self.amounts = Counter()
        self.total = 0
        self.leaves = {}
        self.changed = set()
        self.last_root = ZERO

    def add(self, address, amount):
        self.amounts[address] += amount
        self.total += amount
        self.changed.add(address)

    def root(self):
        if self.changed:
            for address in self.changed:
                encoded = bytes(12) + address + self.amounts[address].to_bytes(32, "big")
                self.leaves[address] = keccak256(keccak256(encoded))
            self.changed.clear()
            self.last_root = standard_tree_root(sorted(self.leaves.values()))
        return self.last_root


# Pool id, section 2


def namehash(name):
    node = ZERO
    for label in reversed(name.split(".")):
        node = keccak256(node + keccak256(label.encode()))
    return node


@cache
def pool_id(name, operator, chain, contract):
    return keccak256(namehash(name) + operator + chain.to_bytes(32, "big") + contract)


# Weights, section 6


def weight(fees, half_losses, fee_unit):
    doublings = (1 + fees // fee_unit).bit_length() - 1
    return max(1, min(MOST_WEIGHT, 1 + doublings) >> half_losses // 2)


# State


@dataclass(slots=True)
class Lease:
    wallet: bytes
    term: int
    seed: bytes
    provable: bool = True


@dataclass(slots=True)
class Job:
    client: bytes
    model: str
    price: int
    seed: bytes
    job_type: str
    attempt: int = 1
    state: str = "pending"
    lease: Lease | None = None
    losses: list = field(default_factory=list)


@dataclass(slots=True)
class Seat:
    auditor: bytes
    since: int
    said: object = None
    challenger: bytes | None = None
    challenge: bytes | None = None
    paid_in: object = None
    returned: bool = False
    erred: bool = False

    @property
    def live(self):
        return self.said is None or isinstance(self.said, bytes)

    def is_late(self, epoch):
        """Whether the word that is missing is, with the header that opens this epoch, too late."""
        return self.live and self.since + SEAT_EPOCHS * (1 if self.said is None else 2) < epoch


@dataclass(slots=True)
class Audit:
    order: list
    seats: list = field(default_factory=list)
    open: bool = True
    end: str | None = None

    @property
    def waits(self):
        return any(seat.live for seat in self.seats)

    @property
    def asked_by_pool(self):
        return not self.seats or self.seats[0].challenger is None

    def findings(self):
        return [choice(seat.said)[0] for seat in self.seats if not seat.live and seat.said != "late"]

    def debtor(self, challenger):
        """The last of a challenger's seats whose money has not come back."""
        seats = [seat for seat in self.seats if seat.challenger == challenger and not seat.returned]
        require(seats, "no such challenge")
        return seats[-1]


@dataclass(slots=True)
class Acceptance:
    client: bytes
    wallet: bytes
    model: str
    price: int
    units: int
    mode: str
    miner_part: int
    operator_part: int
    lease: bytes
    job: bytes
    stands: bool = True
    credited: int = 0
    released: bool = False
    audit: Audit | None = None

    @property
    def earned(self):
        """What its wallet holds for it."""
        return self.miner_part if self.mode == "solo" else self.credited

    @property
    def at_most(self):
        """The most that it can be credited."""
        return 5 * self.miner_part // 4

    @property
    def waits(self):
        return self.audit is not None and self.audit.open

    @property
    def audit_price(self):
        return max(1, self.price // 4)


@dataclass(slots=True)
class Epoch:
    number: int
    first_seq: int
    previous_hash: bytes
    secret_hash: bytes | None = None
    posted: dict = field(default_factory=dict)
    modes: dict = field(default_factory=dict)
    roster: list = field(default_factory=list)
    secret: bytes | None = None
    rates: dict = field(default_factory=dict)
    scaled: bool = False
    rows: list = field(default_factory=list)
    hashes: list = field(default_factory=list)
    seeds: list = field(default_factory=list)
    leaves: list = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    acceptances: list = field(default_factory=list)
    audits: list = field(default_factory=list)
    unserved: int = 0
    challenge_debits: Counter = field(default_factory=Counter)
    audit_pay: Counter = field(default_factory=Counter)
    fees: Counter = field(default_factory=Counter)
    half_losses: Counter = field(default_factory=Counter)

    def standing(self):
        """The acceptances that were not overturned."""
        return [each for each in self.acceptances if each.stands]

    def standing_pps(self):
        return [each for each in self.acceptances if each.stands and each.mode == "pps"]


# Audits, section 8.1


def outcome(findings):
    """How an audit ends, or how many more are asked."""
    said = Counter(findings)
    for end in said:
        if said[end] >= 2 and all(said[end] > said[other] for other in said if other != end):
            return end
    if len(findings) == 1:
        return "holds" if findings[0] == "holds" else 2
    return 1


def is_error(finding, end, findings):
    """Whether who found this cannot have looked."""
    means = [choice(each)[1] for each in findings if choice(each)[0] == "differs"]
    return finding == "holds" and (end == "contradicts" or (end == "differs" and min(means) >= BEYOND_DOUBT))


# Pay per share, section 9.2


def credits_of(acceptances, rates, reserve, put_in):
    """What each PPS acceptance of an epoch is credited, and whether that was scaled down."""
    wants = wanted(acceptances, rates)
    pots, total = sum(each.miner_part for each in acceptances), sum(wants)
    budget = pots + (reserve - pots) // 8 if reserve > pots else reserve
    if total > budget:
        return scaled_down(wants, total, budget), True
    rooms = [each.at_most - want for each, want in zip(acceptances, wants)]
    return with_surplus(wants, rooms, max(0, reserve - total - put_in)), False


def wanted(acceptances, rates):
    pots, units = Counter(), Counter()
    for each in acceptances:
        pots[each.model] += each.miner_part
        units[each.model] += each.units

    def share(each):
        if each.model in rates:
            return rates[each.model] * each.units // MILLION
        return pots[each.model] * each.units // units[each.model] if each.units else 0

    return [min(share(each), each.at_most) for each in acceptances]


def scaled_down(wants, total, budget):
    credits = [want * budget // total for want in wants]
    by_remainder = sorted(range(len(wants)), key=lambda leaf: (-(wants[leaf] * budget % total), leaf))
    for leaf in by_remainder[: budget - sum(credits)]:
        credits[leaf] += 1
    return credits


def with_surplus(wants, rooms, surplus):
    room = sum(rooms)
    if not room:
        return wants
    share = min(surplus // 8, room)
    return [want + share * each // room for want, each in zip(wants, rooms)]


# Ledger, sections 9 to 11


class Pool:
    """The fold of the rows."""

    def __init__(self):
        self.seq = -1
        self.hash = ZERO
        self.balances = Counter()
        self.moved = []
        self.payouts, self.debits = Lifetime(), Lifetime()
        self.put_in = 0
        self.credited = set()
        self.deposits = {}
        self.jobs = {}
        self.pots = {}
        self.due = deque()
        self.scores = {}
        self.errors = {}
        self.open = Epoch(0, 0, ZERO)
        self.epochs = [self.open]
        self.header = self.header_link = None
        self.fixed = -1

    def take(self, raw):
        """Adds a row and compares its transfers with those that follow from it."""
        row = cbor2.loads(raw)
        self.seq += 1
        self.hash = derive("ledger", self.hash + raw)
        self.open.rows.append(raw)
        self.open.hashes.append(self.hash)
        name, content = choice(row["record"])
        require((name == "Genesis") == (self.seq == 0), f"{name} out of place")
        require(name in RECORDS, f"unknown record {name}")
        self.moved = []
        if name in AUDITS:
            self.open.audits.append(derive("leaf", raw))
        if self.due:
            due = self.due.popleft()
            require((name, content) == due, f"{name} where {due[0]} is due")
        else:
            require(name not in DUE, f"{name}, which is not due")
            if name == "AuditClosed":
                self.check_late(**content)
        RECORDS[name](self, **content)
        published = [(choice(each["from"]), choice(each["to"]), each["amount"]) for each in row["transfers"]]
        if published != self.moved:
            raise Difference(f"{name}: transfers {shown(published)}, not {shown(self.moved)}")
        require(sum(self.balances.values()) == 0, "the sum over all accounts is not zero")
        if name == "Boundary":
            self.seal(**content)

    # Transfers

    def move(self, source, to, amount):
        if not amount:
            return
        self.balances[source] -= amount
        self.balances[to] += amount
        self.moved.append((source, to, amount))
        if self.balances[source] < 0 and source not in (OUTSIDE, SHORTFALL):
            raise Difference(f"{shown(source)} is overdrawn by {-self.balances[source]}")

    def move_covered(self, source, to, amount):
        """What the source lacks comes from Shortfall."""
        there = min(amount, self.balances[source])
        self.move(source, to, there)
        self.move(SHORTFALL, to, amount - there)

    def pay_out(self, held, payable, amount):
        if amount:
            self.payouts.add(payable[1], amount)
            self.move(held, payable, amount)

    # Records

    def genesis(self, name, operator, asset, pool_secret_hash, secret_hash, posted):
        chain, contract = (0, bytes(20)) if asset == "test" else (asset["usdc"]["chain"], asset["usdc"]["contract"])
        self.id = pool_id(name, operator, chain, contract)
        self.asset = asset
        self.operator = operator
        self.operator_free = "ClientFree", operator
        self.operator_held = "OperatorHeld", operator
        self.open.secret_hash = secret_hash
        self.open.posted = posted

    def credit(self, client):
        require(self.asset == "test" and client not in self.credited, "test credit that is not due")
        self.credited.add(client)
        self.move(OUTSIDE, ("ClientFree", client), self.open.posted["test_credit"])

    def deposit(self, client, amount, reference):
        require(reference not in self.deposits, "deposited twice")
        self.deposits[reference] = client, amount
        self.move(OUTSIDE, ("ClientFree", client), amount)

    def undo_deposit(self, reference):
        require(self.deposits.get(reference) is not None, "no such deposit")
        client, amount = self.deposits[reference]
        self.deposits[reference] = None
        free = "ClientFree", client
        there = min(amount, self.balances[free])
        self.move(free, OUTSIDE, there)
        self.move_covered(self.operator_held, OUTSIDE, amount - there)

    def fund_reserve(self, amount):
        self.put_in += amount
        self.debits.add(self.operator, amount)
        self.move(self.operator_free, RESERVE, amount)

    def admit(self, job, seed):
        link = link_of(job["payload"])
        payload = cbor2.loads(job["payload"])
        client, price = payload["by"], payload["price"]
        require(link not in self.jobs, "admitted twice")
        require(price >= LEAST_PRICE, f"admitted for {price}")
        require(self.balances[SHORTFALL] == 0, "admitted while Shortfall is not zero")
        self.jobs[link] = Job(client, payload["model"], price, seed, payload["job_type"])
        self.open.seeds.append((link, 1, seed))
        self.open.counts["admitted"] += 1
        self.move(("ClientFree", client), ("ClientReserved", client), price)

    def bind(self, name, wallet, confirmed):
        """A name moves no money."""

    def lease(self, job, term, wallet, window, claims, until):
        leased = self.job_in("pending", job)
        require(term == leased.attempt, f"leased for attempt {term}, not {leased.attempt}")
        leased.state = "leased"
        leased.lease = Lease(wallet, term, leased.seed)
        self.open.counts["leased"] += 1

    def end_lease(self, job, cause, seed):
        ended = self.job_in("leased", job)
        ended.state = "pending"
        ended.attempt += 1
        ended.seed = seed
        ended.lease.provable = cause in TIMEOUTS
        ended.losses.append((self.open, ended.lease.wallet, HALF_LOSSES[cause]))
        self.open.half_losses[ended.lease.wallet] += HALF_LOSSES[cause]
        self.open.seeds.append((Link(job), ended.attempt, seed))

    def accept(self, job, lease, proof, units):
        proven = self.jobs.get(job)
        require(proven and proven.state in ("pending", "leased"), "accepted for a job that is not open")
        require(proven.lease and proven.lease.provable, "accepted for a lease that can no longer be proven")
        wallet = proven.lease.wallet
        lease_id = derive("lease", encode([self.id, Link(job), proven.lease.term, wallet, proven.lease.seed]))
        payload = cbor2.loads(proof["payload"])
        require(payload["by"] == wallet, "accepted from another than the lease's holder")
        require(lease == payload["lease"] == lease_id, "accepted for another lease")
        require(target(payload["job"]) == job, "accepted for another job")
        proven.state = "accepted"
        part = proven.price * MINER_SHARE // SHARES
        rest = proven.price - part
        mode = self.open.modes.get(wallet, "solo")
        accepted = Acceptance(
            proven.client, wallet, proven.model, proven.price, units, mode, part, rest, lease, job
        )
        self.open.acceptances.append(accepted)
        self.open.leaves.append(leaf_hash(job, link_of(proof["payload"]), accepted))
        self.open.counts["accepted"] += 1
        self.open.fees[wallet] += rest
        reserved = "ClientReserved", proven.client
        self.move(reserved, ("MinerHeld", wallet) if mode == "solo" else RESERVE, part)
        self.move(reserved, self.operator_held, rest)

    def close(self, job, end):
        closed = self.job_in("pending", job)
        closed.state = choice(end)[0].lower()
        require(closed.state in ("expired", "cancelled", "unrunnable"), f"closed as {closed.state}")
        self.open.counts[closed.state] += 1
        if closed.state == "unrunnable":
            for epoch, wallet, half_losses in closed.losses:
                epoch.half_losses[wallet] -= half_losses
        self.move(("ClientReserved", closed.client), ("ClientFree", closed.client), closed.price)

    def pick(self, leaf, auditor):
        self.seat(leaf, Seat(auditor, self.open.number))

    def seat(self, leaf, seat):
        acceptance = self.acceptance(leaf)
        if acceptance.audit is None:
            acceptance.audit = Audit(self.auditors(leaf))
        acceptance.audit.open = True
        acceptance.audit.seats.append(seat)

    def attest(self, leaf, attestation):
        statement = cbor2.loads(attestation["payload"])
        acceptance = self.acceptance(leaf)
        same = statement["epoch"] == leaf["epoch"] and statement["index"] == leaf["index"]
        require(same and statement["lease"] == acceptance.lease, "attested of another acceptance")
        audit, auditor = acceptance.audit, statement["by"]
        require(audit is not None, "attested without an audit")
        seat = next((seat for seat in audit.seats if seat.auditor == auditor), None)
        require(seat is not None and seat.live, "attested by somebody who is not asked")
        word, content = choice(statement["word"])
        if word == "sealed":
            require(seat.said is None, "sealed twice")
            seat.said = content
            return
        require(all(each.said is not None for each in audit.seats), "opened before all have sealed")
        finding = content["finding"]
        seal = keyed(content["salt"], self.id, acceptance.lease, auditor, finding)
        require(seat.said == seal, "opened what was not sealed")
        seat.said = finding
        self.make_due("AuditPaid", leaf, auditor=auditor, amount=acceptance.audit_price)
        if not audit.waits:
            self.conclude(leaf)

    def pay_audit(self, leaf, auditor, amount):
        audit = self.acceptance(leaf).audit
        seat = next(seat for seat in audit.seats if seat.auditor == auditor)
        self.open.audit_pay[auditor] += amount
        if seat.challenger is None:
            return self.move_covered(self.operator_held, ("MinerHeld", auditor), amount)
        seat.paid_in = self.open
        self.open.challenge_debits[seat.challenger] += amount
        self.move(("ClientReserved", seat.challenger), ("MinerHeld", auditor), amount)

    def close_audit(self, leaf, end):
        acceptance = self.acceptance(leaf)
        audit = acceptance.audit
        self.silence(leaf, lambda seat: True)
        before, audit.open = audit.end, False
        if end == "unserved":
            self.open.unserved += 1
            return
        audit.end = end
        self.judge_auditors(audit)
        counts = before != end and (end != "holds" or audit.asked_by_pool)
        condemned = counts and self.score(acceptance.wallet, end == "differs")
        if acceptance.stands and (end == "contradicts" or condemned):
            self.make_due("Overturned", leaf)
        if end != "holds" and before != end:
            for seat in audit.seats:
                if seat.paid_in is not None and not seat.returned:
                    self.return_due(leaf, seat)

    def challenge(self, leaf, challenge, challenger, auditor, amount):
        statement = cbor2.loads(challenge["payload"])
        challenged = self.acceptance(leaf)
        same = statement["epoch"] == leaf["epoch"] and statement["index"] == leaf["index"]
        same = same and target(statement["job"]) == challenged.job
        said = link_of(challenge["payload"])
        asked = challenged.audit.seats if challenged.audit else []
        require(all(seat.challenge != said for seat in asked), "challenged twice by one statement")
        require(same and statement["by"] == challenger, "challenged by another, or for something else")
        require(self.header and leaf["epoch"] <= self.fixed, "challenged before its epoch was sealed")
        require(leaf["epoch"] + HOLD_EPOCHS >= self.open.number, "challenged too late")
        require(challenged.stands and not challenged.waits, "challenged while it is audited, or after it was overturned")
        require(self.epochs[leaf["epoch"]].posted["audit_rate"] > 0, "challenged where nobody audits")
        require(self.jobs[challenged.job].job_type in AUDITED, "challenged what is not computed again")
        order = self.auditors(leaf)
        require(order[len(asked) : len(asked) + 1] == [auditor] and auditor != challenger, "another auditor is the next")
        require(amount == challenged.audit_price, f"{amount} for a challenge")
        self.seat(leaf, Seat(auditor, self.open.number, challenger=challenger, challenge=said))
        self.move(("ClientFree", challenger), ("ClientReserved", challenger), amount)

    def return_challenge(self, leaf, challenger, amount):
        seat = self.acceptance(leaf).audit.debtor(challenger)
        seat.returned = True
        free = "ClientFree", challenger
        if seat.paid_in is None:
            return self.move(("ClientReserved", challenger), free, amount)
        if seat.paid_in.number + HOLD_EPOCHS >= self.open.number:
            seat.paid_in.challenge_debits[challenger] -= amount
        self.move_covered(self.operator_held, free, amount)

    def overturn(self, leaf):
        overturned = self.acceptance(leaf)
        overturned.stands = False
        self.epochs[leaf["epoch"]].fees[overturned.wallet] -= overturned.operator_part
        held, free = ("MinerHeld", overturned.wallet), ("ClientFree", overturned.client)
        if overturned.mode == "solo":
            self.move(held, free, overturned.miner_part)
        else:
            self.move(held, RESERVE, overturned.credited)
            self.move_covered(RESERVE, free, overturned.miner_part)
        self.move_covered(self.operator_held, free, overturned.operator_part)

    def settle(self, epoch, end_seq, secret, next_secret_hash, roster, posted, rates, settlement):
        require(epoch == self.open.number, f"the boundary of epoch {epoch}, not {self.open.number}")
        require(end_seq == self.seq, f"end_seq {end_seq}, not {self.seq}")
        require(settlement == SETTLEMENT, f"version {settlement} of the settlement rules")
        require(derive("epoch secret", encode([secret])) == self.open.secret_hash, "not the secret committed to")
        for job, attempt, seed in self.open.seeds:
            require(keyed(secret, job, attempt) == seed, f"draw seed of attempt {attempt} at {job.hex()}")
        late = self.epochs[: max(0, epoch - AUDIT_EPOCHS + 1)][-AUDIT_EPOCHS:]
        require(not any(each.waits for old in late for each in old.acceptances), "an audit is open too long")
        self.open.secret = secret
        self.pay_credits()
        self.release_miners()
        self.release_operator()

    def fix_header(self, epoch, header):
        require(self.header and epoch == self.header["epoch"], f"the header of epoch {epoch} is not the last")
        require(header == self.header_link, f"fixes {header.hex()}, not {self.header_link.hex()}")
        self.fixed = epoch
        self.ask_auditors(epoch)

    # Audits

    def make_due(self, name, leaf, **content):
        self.due.append((name, {"leaf": leaf} | content))

    def return_due(self, leaf, seat):
        amount = self.acceptance(leaf).audit_price
        self.make_due("ChallengeReturned", leaf, challenger=seat.challenger, amount=amount)

    def auditors(self, leaf):
        acceptance, epoch = self.acceptance(leaf), self.epochs[leaf["epoch"]]
        barred = acceptance.wallet, acceptance.client, self.operator
        able = (entry["wallet"] for entry in epoch.roster if entry["established"] and acceptance.model in entry["models"])
        drawn = sorted((keyed(epoch.secret, acceptance.lease, each), each) for each in able if each not in barred)
        return [wallet for _, wallet in drawn[:MOST_AUDITORS]]

    def ask_auditors(self, number):
        """What the header of an epoch makes due."""
        for epoch in self.epochs[max(0, number - AUDIT_EPOCHS) :]:
            for index, each in enumerate(epoch.acceptances):
                late = lambda seat: seat.is_late(self.open.number)
                if each.audit and any(late(seat) for seat in each.audit.seats):
                    leaf = {"epoch": epoch.number, "index": index}
                    self.silence(leaf, late)
                    if not each.audit.waits:
                        self.conclude(leaf)
        picked = self.epochs[number]
        for index, each in enumerate(picked.acceptances):
            draw = int.from_bytes(keyed(picked.secret, each.lease))
            if self.jobs[each.job].job_type not in AUDITED:
                continue
            if draw * 10_000 < picked.posted["audit_rate"] << 256:
                leaf = {"epoch": number, "index": index}
                each.audit = Audit(self.auditors(leaf))
                if each.audit.order:
                    self.make_due("AuditPicked", leaf, auditor=each.audit.order[0])
                else:
                    self.make_due("AuditClosed", leaf, end="unserved")

    def silence(self, leaf, is_late):
        for seat in self.acceptance(leaf).audit.seats:
            if seat.live and is_late(seat):
                seat.said = "late"
                if seat.challenger is not None:
                    self.return_due(leaf, seat)

    def conclude(self, leaf):
        audit = self.acceptance(leaf).audit
        findings = audit.findings()
        end, left = outcome(findings), audit.order[len(audit.seats) :]
        only_challenged = not findings and not audit.asked_by_pool
        if isinstance(end, str):
            self.make_due("AuditClosed", leaf, end=end)
        elif not left or only_challenged:
            self.make_due("AuditClosed", leaf, end="unserved")
        else:
            for auditor in left[:end]:
                self.make_due("AuditPicked", leaf, auditor=auditor)

    def judge_auditors(self, audit):
        opened = [seat for seat in audit.seats if seat.said != "late"]
        findings = [seat.said for seat in opened]
        for seat in opened:
            before, seat.erred = seat.erred, is_error(seat.said, audit.end, findings)
            if seat.erred != before:
                newest, errors = self.errors_of(seat.auditor)
                changed = (self.open.number, errors + 1) if seat.erred else (newest, max(0, errors - 1))
                self.errors[seat.auditor] = changed

    def errors_of(self, wallet):
        """The epoch of its newest error as an auditor, and how many it has made."""
        newest, errors = self.errors.get(wallet, (0, 0))
        return (newest, errors) if newest + FEE_EPOCHS > self.open.number else (newest, 0)

    def score(self, wallet, differs):
        """Whether this miss condemns the wallet."""
        score = deque(self.score_of(wallet), maxlen=SCORE_AUDITS)
        score.append(differs)
        self.scores[wallet] = self.open.number, score
        return differs and self.is_condemned(wallet)

    def score_of(self, wallet):
        """Its last audits, unless the newest is too long ago."""
        newest, score = self.scores.get(wallet, (0, ()))
        return score if newest + FEE_EPOCHS > self.open.number else ()

    def is_condemned(self, wallet):
        return sum(self.score_of(wallet)) >= SCORE_MISSES

    def check_late(self, leaf, end):
        late = leaf["epoch"] + AUDIT_EPOCHS == self.open.number and self.acceptance(leaf).waits
        require(late and end == "unserved", "an audit is closed before its time")

    # What records name

    def job_in(self, state, link):
        job = self.jobs.get(link)
        require(job and job.state == state, f"not a {state} job")
        return job

    def acceptance(self, leaf):
        return self.epochs[leaf["epoch"]].acceptances[leaf["index"]]

    # Boundaries

    def pay_credits(self):
        acceptances = self.open.standing_pps()
        credits, self.open.scaled = credits_of(acceptances, self.open.rates, self.balances[RESERVE], self.put_in)
        by_wallet = Counter()
        for each, credit in zip(acceptances, credits):
            each.credited = credit
            by_wallet[each.wallet] += credit
        for wallet, amount in sorted(by_wallet.items()):
            self.move(RESERVE, ("MinerHeld", wallet), amount)

    def release_miners(self):
        if self.open.number < HOLD_EPOCHS:
            return
        due = self.epochs[-1 - HOLD_EPOCHS]
        by_wallet = Counter(due.audit_pay)
        for epoch in self.epochs[-1 - AUDIT_EPOCHS : -HOLD_EPOCHS]:
            for each in epoch.standing():
                if not each.released and not each.waits:
                    each.released = True
                    self.debits.add(each.client, each.price)
                    by_wallet[each.wallet] += each.earned
        for challenger, amount in due.challenge_debits.items():
            if amount:
                self.debits.add(challenger, amount)
        for wallet, amount in sorted(by_wallet.items()):
            self.pay_out(("MinerHeld", wallet), ("MinerPayable", wallet), amount)

    def release_operator(self):
        """Section 9.1."""
        standing = (each for epoch in self.epochs[-1 - AUDIT_EPOCHS :] for each in epoch.standing())
        waiting = sum(each.operator_part for each in standing if not each.released)
        uncovered = max(0, self.payouts.total - self.debits.total)
        self.move(SHORTFALL, self.operator_held, max(0, uncovered + self.balances[SHORTFALL]))
        due = max(0, self.balances[self.operator_held] - waiting)
        good = min(due, -self.balances[SHORTFALL] - uncovered)
        self.move(self.operator_held, SHORTFALL, good)
        own = min(self.balances[self.operator_free], -self.balances[SHORTFALL])
        if own:
            self.debits.add(self.operator, own)
            self.move(self.operator_free, SHORTFALL, own)
        covered = max(0, self.debits.total - self.payouts.total)
        self.pay_out(self.operator_held, ("OperatorPayable", self.operator), min(due - good, covered))

    def seal(self, epoch, end_seq, secret, next_secret_hash, roster, posted, rates, settlement):
        """Makes the header and opens the next epoch."""
        self.add_pots()
        own = self.rates(self.open.posted["pps_percent"])
        require(rates == own, f"rates {shown(rates)}, not {shown(own)}")
        self.check_roster(roster, self.open.posted)
        self.header = self.make_header(secret)
        self.header_link = link_of(encode(self.header))
        for used in (self.open.rows, self.open.hashes, self.open.seeds, self.open.leaves):
            used.clear()
        modes = {entry["wallet"]: entry["mode"] for entry in roster}
        self.open = Epoch(epoch + 1, end_seq + 1, self.hash, next_secret_hash, posted, modes, roster)
        self.open.rates = rates
        self.epochs.append(self.open)

    def add_pots(self):
        """Section 9.2. What is overturned later still counts for the rates."""
        capped = {model for model, sums in self.pots.items() if len(sums) == RATE_EPOCHS}
        pots, units = Counter(), Counter()
        for each in self.open.standing_pps():
            pot = each.miner_part
            if each.model in capped:
                pot = min(pot, 2 * self.open.rates[each.model] * each.units // MILLION)
            pots[each.model] += pot
            units[each.model] += each.units
        for model in pots:
            if units[model]:
                self.pots.setdefault(model, deque(maxlen=RATE_EPOCHS)).append((pots[model], units[model]))

    def rates(self, percent):
        rates = {}
        for model, sums in self.pots.items():
            pot, units = map(sum, zip(*sums))
            rates[model] = min(max(1, percent * MILLION * pot // (100 * units)), MOST_RATE)
        return rates

    def check_roster(self, roster, posted):
        wallets = [entry["wallet"] for entry in roster]
        require(wallets == sorted(set(wallets)), "the roster is not in order")
        for entry in roster:
            wallet = entry["wallet"]
            fees = sum(epoch.fees[wallet] for epoch in self.epochs[-FEE_EPOCHS:])
            half_losses = sum(epoch.half_losses[wallet] for epoch in self.epochs[-LOSS_EPOCHS:])
            condemned = self.is_condemned(wallet)
            careless = self.errors_of(wallet)[1] >= CARELESS_ERRORS
            own = {
                "w": 1 if condemned else weight(fees, half_losses, posted["fee_unit"]),
                "fee168": fees,
                "loss24": half_losses,
                "established": fees >= posted["established"] and not condemned and not careless,
            }
            for name, value in own.items():
                require(entry[name] == value, f"roster: {name} of {wallet.hex()} is {entry[name]}, not {value}")

    def make_header(self, secret):
        epoch = self.open
        pages = record_pages(epoch.first_seq, epoch.previous_hash, epoch.rows, epoch.hashes)
        header = {
            "pool": self.id,
            "asset": self.asset,
            "epoch": epoch.number,
            "first_seq": epoch.first_seq,
            "end_seq": self.seq,
            "range_hash": self.hash,
            "counts": {name: epoch.counts[name] for name in COUNTED},
            "volume": sum(each.price for each in epoch.acceptances),
            "proofs_root": proofs_root(epoch.leaves),
            "leaf_pages": [link_of(encode(page)) for page in leaf_pages(epoch.leaves)],
            "record_pages": [link_of(encode(page)) for page in pages],
            "payouts_root": self.payouts.root(),
            "debits_root": self.debits.root(),
            "audits_root": proofs_root(epoch.audits),
            "totals": self.totals(),
            "secret": secret,
            "settlement": SETTLEMENT,
            "pps_scaled": epoch.scaled,
            "audits_unserved": epoch.unserved,
        }
        if self.header_link is not None:
            header["previous"] = self.header_link
        return header

    def totals(self):
        totals = dict.fromkeys(TOTALS.values(), 0)
        totals |= {"outside": -self.balances[OUTSIDE], "shortfall": -self.balances[SHORTFALL]}
        for (kind, _), amount in self.balances.items():
            if kind in TOTALS:
                totals[TOTALS[kind]] += amount
        return totals

    def compare(self, cid, published):
        """The header of the last boundary with a published one."""
        require(self.header is not None, "no boundary")
        if cid == self.header_link:
            return
        published = with_links(published)
        for name in [*self.header, *(name for name in published if name not in self.header)]:
            own, theirs = self.header.get(name), published.get(name)
            require(own == theirs, f"header: {name} is {shown(theirs)}, not {shown(own)}")
        raise Difference(f"header: {cid.hex()} is not canonical")


RECORDS = {
    "Genesis": Pool.genesis,
    "Credited": Pool.credit,
    "Deposited": Pool.deposit,
    "DepositUndone": Pool.undo_deposit,
    "ReserveFunded": Pool.fund_reserve,
    "Admitted": Pool.admit,
    "Bound": Pool.bind,
    "Leased": Pool.lease,
    "LeaseEnded": Pool.end_lease,
    "Accepted": Pool.accept,
    "Closed": Pool.close,
    "AuditPicked": Pool.pick,
    "Attested": Pool.attest,
    "AuditPaid": Pool.pay_audit,
    "AuditClosed": Pool.close_audit,
    "Challenged": Pool.challenge,
    "ChallengeReturned": Pool.return_challenge,
    "Overturned": Pool.overturn,
    "Boundary": Pool.settle,
    "HeaderFixed": Pool.fix_header,
}

DUE = {"AuditPicked", "AuditPaid", "ChallengeReturned", "Overturned"}
AUDITS = DUE | {"Attested", "AuditClosed", "Challenged"}


def leaf_hash(job, proof, accepted):
    block = {
        "job": Link(job),
        "proof": proof,
        "wallet": accepted.wallet,
        "price": accepted.price,
        "units": accepted.units,
        "mode": accepted.mode,
    }
    return derive("leaf", encode(block))


def choice(value):
    """The name of a choice, and its content."""
    if isinstance(value, str):
        return value, None
    (entry,) = value.items()
    return entry


def with_links(value):
    """What a decoded block holds, with its links as CIDs."""
    if isinstance(value, cbor2.CBORTag):
        return target(value)
    if isinstance(value, list):
        return [with_links(each) for each in value]
    if isinstance(value, dict):
        return {name: with_links(each) for name, each in value.items()}
    return value


def shown(value):
    """For people: bytes in hexadecimal, accounts and transfers as section 9 writes them."""
    match value:
        case bytes():
            return value.hex()
        case (source, to, amount) if isinstance(value, tuple):
            return f"{shown(source)} → {shown(to)}: {amount}"
        case (name, address) if isinstance(value, tuple):
            return name if address is None else f"{name} {address.hex()}"
        case list():
            return "[" + ", ".join(map(shown, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{name}: {shown(each)}" for name, each in value.items()) + "}"
    return str(value)


# Program

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError, EOFError, cbor2.CBORDecodeError)


def check(path):
    """How many headers of an archive agree, and what differs first, if anything."""
    pool, agreed = Pool(), 0
    try:
        root, blocks = read_archive(path)
        for cid, header in published_headers(root, blocks):
            for row in published_rows(header, blocks):
                pool.take(row)
            pool.compare(cid, header)
            agreed += 1
        return agreed, None
    except Difference as difference:
        what = str(difference)
    except (OSError, *MALFORMED) as error:
        what = f"cannot be read: {error!r}"
    return agreed, f"{path.name}: epoch {agreed}, row {pool.seq}: {what}"


def archives(arguments):
    for path in map(Path, arguments):
        yield from sorted(path.glob("*.car")) if path.is_dir() else [path]


def main():
    count = agreed = different = 0
    for path in archives(sys.argv[1:]):
        headers, difference = check(path)
        count += 1
        agreed += headers
        if difference is not None:
            different += 1
            print(difference)
    print(f"{count} archives: {agreed} headers agree, {different} differ")
    sys.exit(1 if different or not count else 0)


if __name__ == "__main__":
    main()
