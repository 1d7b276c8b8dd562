//! Laws of bytes and money, for anything that can be said.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::collections::BTreeMap;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SecretKey;
use swarm_protocol::allowance::{Allowance, Class, Meter};
use swarm_protocol::codec::{Link, dag_pb_cid, raw_cid};
use swarm_protocol::finding::Finding;
use swarm_protocol::money::{Account, Accounts, FeeSplit, MicroUsdc, Transfer};
use swarm_protocol::statement::*;
use swarm_protocol::{Millis, Posted, Timestamp};

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn link() -> impl Strategy<Value = Link> {
    any::<[u8; 32]>().prop_map(Link)
}

fn cid() -> impl Strategy<Value = cid::Cid> {
    any::<[u8; 8]>().prop_map(|bytes| raw_cid(&bytes))
}

fn address() -> impl Strategy<Value = Address> {
    any::<[u8; 20]>().prop_map(Address)
}

fn at() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp)
}

fn money() -> impl Strategy<Value = MicroUsdc> {
    any::<u64>().prop_map(MicroUsdc)
}

fn name() -> impl Strategy<Value = String> {
    "[a-z☀ .-]{1,24}"
}

fn assurance() -> impl Strategy<Value = Assurance> {
    select(vec![Assurance::Seeded, Assurance::Distance])
}

fn asset() -> impl Strategy<Value = Asset> {
    prop_oneof![
        Just(Asset::Test),
        (any::<u64>(), address()).prop_map(|(chain, contract)| Asset::Usdc { chain, contract }),
    ]
}

fn posted() -> impl Strategy<Value = Posted> {
    (any::<[u64; 4]>(), any::<[u32; 2]>()).prop_map(|([a, b, c, d], [e, f])| Posted {
        epoch: Millis(a),
        window: Millis(b),
        established: MicroUsdc(c),
        test_credit: MicroUsdc(d),
        max_open_jobs: e,
        audit_rate: f,
        ..Posted::default()
    })
}

fn input() -> impl Strategy<Value = Input> {
    let message = ("user|system", ".{0,20}").prop_map(|(role, content)| Message { role, content });
    prop_oneof![
        ".{1,40}".prop_map(Input::Text),
        vec(message, 1..4).prop_map(Input::Chat),
        (cid(), 1..=MAX_INPUT_BYTES).prop_map(|(cid, bytes)| Input::Linked { cid, bytes }),
        cid().prop_map(|cid| Input::Sealed { cid }),
    ]
}

fn params() -> impl Strategy<Value = Params> {
    let stop = vec(".{1,8}", 0..3);
    (1..=MAX_TOKENS, 0..=MAX_TEMPERATURE, 1..=10_000u32, any::<Option<u64>>(), stop).prop_map(
        |(max_tokens, temperature, top_p, seed, stop)| Params { max_tokens, temperature, top_p, seed, stop },
    )
}

fn job() -> impl Strategy<Value = Job> {
    let types = vec![JobType::LlmGen, JobType::Embed, JobType::SdInfer, JobType::TorchBench];
    let head = (select(types), name(), input(), params());
    let tail = (money(), at(), 1..=u32::MAX, any::<u32>(), assurance());
    (head, tail).prop_map(|((job_type, model, input, params), tail)| {
        let (price, not_after, max_runtime_s, vram_mb, assurance) = tail;
        Job { job_type, model, input, params, price, not_after, max_runtime_s, vram_mb, assurance }
    })
}

fn entry() -> impl Strategy<Value = ListingEntry> {
    let head = (link(), any::<u32>(), digest(), any::<u64>(), name());
    let tail = (money(), assurance(), any::<u32>(), at(), any::<(u64, u64)>());
    (head, tail).prop_map(|((job, attempt, seed, epoch, model), tail)| {
        let (price, assurance, vram_mb, listed_at, free) = tail;
        ListingEntry { job, attempt, seed, epoch, model, price, assurance, vram_mb, listed_at, free }
    })
}

fn lease() -> impl Strategy<Value = Lease> {
    let head = (digest(), link(), any::<u32>(), address(), digest());
    let tail = (any::<u32>(), vec(link(), 0..=MAX_NAMED_CLAIMS), at());
    (head, tail).prop_map(|((lease, job, term, wallet, seed), (window, claims, until))| Lease {
        lease,
        job,
        term,
        wallet,
        seed,
        window,
        claims,
        until,
    })
}

fn receipt() -> impl Strategy<Value = Receipt> {
    let who = (link(), link(), address(), address());
    let place = (any::<u64>(), any::<u64>(), digest(), any::<u64>());
    let amounts = (money(), money(), money(), any::<u64>(), asset());
    let terms = (any::<Option<u64>>(), money()).prop_map(|(rate, at_most)| PpsTerms { rate, at_most });
    let terms = proptest::option::of(terms);
    (who, place, amounts, cid(), any::<u64>(), terms).prop_map(
        |(who, place, amounts, output, output_bytes, pps)| {
            let (job, proof, client, wallet) = who;
            let (epoch, index, leaf, held_until) = place;
            let (price, miner_part, operator_part, units, asset) = amounts;
            let mode = if pps.is_some() { PayoutMode::Pps } else { PayoutMode::Solo };
            Receipt {
                pps,
                job,
                proof,
                client,
                wallet,
                epoch,
                index,
                leaf,
                price,
                miner_part,
                operator_part,
                units,
                mode,
                asset,
                output,
                output_bytes,
                held_until,
            }
        },
    )
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    let offer = (name(), vec(assurance(), 0..3));
    let models = vec(offer.prop_map(|(model, assurances)| ModelOffer { model, assurances }), 0..4);
    let modes = select(vec![PayoutMode::Solo, PayoutMode::Pps]);
    let head = (at(), any::<u64>(), models, 1..=MAX_SLOTS, modes);
    let tail = (proptest::option::of(name()), ".{0,20}", any::<u32>(), any::<bool>());
    (head, tail).prop_map(|((boot_at, counter, models, slots, mode), (ens, device, vram_mb, draining))| {
        Heartbeat { boot_at, counter, models, slots, mode, ens, device, vram_mb, draining }
    })
}

fn beacon() -> impl Strategy<Value = Beacon> {
    let supply = (name(), any::<u64>(), any::<Option<u64>>()).prop_map(|(model, miners, rate)| ModelSupply {
        model,
        miners,
        rate,
    });
    let head = (name(), asset(), any::<u64>(), address(), any::<[u64; 3]>());
    let tree = proptest::option::of(any::<[u8; 4]>().prop_map(|block| dag_pb_cid(&block)));
    (head, vec(supply, 0..4), posted(), tree, proptest::option::of(name())).prop_map(
        |((name, asset, chain, contract, counts), models, posted, tree, node)| {
            let [epoch, pending, leased] = counts;
            Beacon { name, asset, chain, contract, epoch, pending, leased, models, posted, tree, node }
        },
    )
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let reasons = select(vec![Reason::NoFunds, Reason::StaleLease, Reason::JobExpired, Reason::PoolFull]);
    (link(), link(), reasons, ".{0,40}").prop_map(|(subject, job, reason, detail)| Refusal {
        subject,
        job,
        reason,
        detail,
    })
}

fn proof() -> impl Strategy<Value = Proof> {
    let lengths = (0..=MAX_TRANSCRIPT_BYTES, 0..=MAX_OUTPUT_BYTES);
    (link(), digest(), link(), cid(), lengths).prop_map(|(job, lease, transcript, output, lengths)| {
        let (transcript_bytes, output_bytes) = lengths;
        Proof { job, lease, transcript, transcript_bytes, output, output_bytes }
    })
}

fn word() -> impl Strategy<Value = Word> {
    let finding = prop_oneof![
        Just(Finding::Holds),
        Just(Finding::Contradicts),
        any::<u32>().prop_map(Finding::Differs)
    ];
    prop_oneof![
        digest().prop_map(Word::Sealed),
        (finding, digest()).prop_map(|(finding, salt)| Word::Opened { finding, salt }),
    ]
}

fn picked() -> impl Strategy<Value = AuditPicked> {
    let head = (any::<u64>(), any::<u64>(), address(), address(), link());
    let tail = (any::<bool>(), any::<u64>(), prop::option::of(link()));
    (head, proof(), link(), tail).prop_map(|(head, seen, proof, (open, until, challenge))| {
        let (epoch, index, auditor, wallet, asked) = head;
        let Proof { job, lease, transcript, transcript_bytes, output, output_bytes } = seen;
        AuditPicked {
            epoch,
            index,
            auditor,
            job,
            asked,
            proof,
            wallet,
            lease,
            transcript,
            transcript_bytes,
            output,
            output_bytes,
            open,
            until,
            challenge,
        }
    })
}

/// Anything of this kind that is within bounds.
fn body(kind: Kind) -> BoxedStrategy<Body> {
    let releases = [ReleaseCause::Withdrawn, ReleaseCause::ContentUnavailable, ReleaseCause::EngineFailure];
    let ends = [EndCause::NoProgress, EndCause::TimedOut, EndCause::BadProof, EndCause::ReleasedLate];
    match kind {
        Kind::Job => job().prop_map(Body::from).boxed(),
        Kind::Cancel => link().prop_map(|job| Cancel { job }.into()).boxed(),
        Kind::Admitted => {
            (link(), any::<u64>()).prop_map(|(job, epoch)| Admitted { job, epoch }.into()).boxed()
        }
        Kind::Refusal => refusal().prop_map(Body::from).boxed(),
        Kind::Listing => vec(entry(), 1..4).prop_map(|entries| Listing { entries }.into()).boxed(),
        Kind::Claim => {
            (link(), any::<u32>()).prop_map(|(job, attempt)| Claim { job, attempt }.into()).boxed()
        }
        Kind::Release => (link(), digest(), select(releases.to_vec()))
            .prop_map(|(job, lease, cause)| Release { job, lease, cause }.into())
            .boxed(),
        Kind::Lease => lease().prop_map(Body::from).boxed(),
        Kind::LeaseEnded => (link(), digest(), select(ends.to_vec()))
            .prop_map(|(job, lease, cause)| LeaseEnded { job, lease, cause }.into())
            .boxed(),
        Kind::Proof => proof().prop_map(Body::from).boxed(),
        Kind::Receipt => receipt().prop_map(Body::from).boxed(),
        Kind::Heartbeat => heartbeat().prop_map(Body::from).boxed(),
        Kind::Beacon => beacon().prop_map(Body::from).boxed(),
        Kind::EpochOpened => (any::<u64>(), digest(), link(), posted())
            .prop_map(|(epoch, secret_hash, roster, posted)| {
                EpochOpened { epoch, secret_hash, roster, posted }.into()
            })
            .boxed(),
        Kind::EpochSealed => {
            (any::<u64>(), link()).prop_map(|(epoch, header)| EpochSealed { epoch, header }.into()).boxed()
        }
        Kind::Progress => (link(), digest(), any::<u64>(), digest())
            .prop_map(|(job, lease, units, prefix)| Progress { job, lease, units, prefix }.into())
            .boxed(),
        Kind::Attestation => (any::<u64>(), any::<u64>(), digest(), word())
            .prop_map(|(epoch, index, lease, word)| Attestation { epoch, index, lease, word }.into())
            .boxed(),
        Kind::Challenge => (any::<u64>(), any::<u64>(), link())
            .prop_map(|(epoch, index, job)| Challenge { epoch, index, job }.into())
            .boxed(),
        Kind::AuditPicked => picked().prop_map(Body::from).boxed(),
        Kind::Revocation => unreachable!("not built"),
    }
}

fn statement() -> impl Strategy<Value = Statement> {
    let built = Kind::ALL.iter().copied().filter(|kind| kind.is_built()).collect::<Vec<_>>();
    let header = (any::<[u8; 32]>(), address(), at(), any::<[u8; 16]>());
    (header, select(built).prop_flat_map(body)).prop_map(|((pool, by, at, nonce), body)| {
        let header = Header { pool: PoolId(pool), by, at, nonce: Nonce(nonce) };
        Statement { header, body }
    })
}

/// A small change of bytes.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
    Swap(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        2 => any::<Index>().prop_map(Change::Remove),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Change::Swap(a, b)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        match change {
            _ if length == 0 => break,
            Change::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            Change::Insert(at, byte) => bytes.insert(at.index(length), *byte),
            Change::Remove(at) => drop(bytes.remove(at.index(length))),
            Change::Cut(at) => bytes.truncate(at.index(length).max(1)),
            Change::Swap(a, b) => bytes.swap(a.index(length), b.index(length)),
        }
    }
    bytes
}

/// Major type and argument of the head at `at`, and where it ends.
fn head(bytes: &[u8], at: usize) -> (u8, usize, usize) {
    let (major, low) = (bytes[at] >> 5, bytes[at] & 31);
    let extra = if low < 24 { 0 } else { 1 << (low - 24) };
    let argument = bytes[at + 1..=at + extra].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
    (major, if extra == 0 { usize::from(low) } else { argument }, at + 1 + extra)
}

/// Where the heads of the items of canonical CBOR begin.
fn heads(bytes: &[u8]) -> Vec<usize> {
    let (mut heads, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        heads.push(at);
        let (major, argument, end) = head(bytes, at);
        at = end + if matches!(major, 2 | 3) { argument } else { 0 };
    }
    heads
}

/// Where the item at `at` ends.
fn end_of(bytes: &[u8], at: usize) -> usize {
    let (major, argument, end) = head(bytes, at);
    match major {
        2 | 3 => end + argument,
        4 => (0..argument).fold(end, |at, _| end_of(bytes, at)),
        5 => (0..2 * argument).fold(end, |at, _| end_of(bytes, at)),
        6 => end_of(bytes, end),
        _ => end,
    }
}

/// The entries of a map, key and value together.
fn entries(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (_, count, mut at) = head(bytes, 0);
    let mut next = || {
        let (from, value) = (at, end_of(bytes, at));
        at = end_of(bytes, value);
        bytes[from..at].to_vec()
    };
    (0..count).map(|_| next()).collect()
}

/// A map of these entries, in this order.
fn map(entries: &[Vec<u8>]) -> Vec<u8> {
    let count = u8::try_from(entries.len()).unwrap();
    let head = if count < 24 { vec![0xa0 | count] } else { vec![0xb8, count] };
    [head, entries.concat()].concat()
}

/// The same value with one head written longer than it need be; nothing if that one cannot be.
fn longer(bytes: &[u8], at: usize) -> Option<Vec<u8>> {
    let (major, low) = (bytes[at] & 0xe0, bytes[at] & 31);
    if major == 0xe0 {
        return None;
    }
    let (width, argument) = match low {
        0..24 => (0, vec![low]),
        24..27 => (1 << (low - 24), bytes[at + 1..=at + (1 << (low - 24))].to_vec()),
        _ => return None,
    };
    let next = if low < 24 { 24 } else { low + 1 };
    let padding = vec![0; (1 << (next - 24)) - argument.len()];
    Some([&bytes[..at], &[major | next], &padding, &argument, &bytes[at + 1 + width..]].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_statement_comes_back_as_it_went(statement in statement()) {
        let bytes = statement.encode();
        prop_assert_eq!(Statement::decode(&bytes).unwrap(), statement);
    }

    #[test]
    fn what_decodes_encodes_to_itself(statement in statement(), changes in vec(change(), 1..4)) {
        let bytes = changed(statement.encode(), &changes);
        if let Ok(read) = Statement::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn no_head_may_be_longer_than_it_need_be(statement in statement(), which in any::<Index>()) {
        let bytes = statement.encode();
        let heads = heads(&bytes);
        if let Some(longer) = longer(&bytes, heads[which.index(heads.len())]) {
            prop_assert!(Statement::decode(&longer).is_err(), "{:?}", longer);
        }
    }

    #[test]
    fn fields_come_once_in_order_and_are_known(statement in statement(), which in any::<(Index, Index)>()) {
        let bytes = statement.encode();
        let own = entries(&bytes);
        prop_assert_eq!(&map(&own), &bytes);
        let (a, b) = (which.0.index(own.len()), which.1.index(own.len()));
        let mut swapped = own.clone();
        swapped.swap(a, b);
        prop_assert_eq!(Statement::decode(&map(&swapped)).is_ok(), a == b);
        let mut twice = own.clone();
        twice.insert(a, own[a].clone());
        prop_assert!(Statement::decode(&map(&twice)).is_err());
        let mut less = own.clone();
        less.remove(a);
        if let Ok(read) = Statement::decode(&map(&less)) {
            let may_be_absent = [&b"\x63ens"[..], b"\x63pps", b"\x64tree", b"\x64node", b"\x69challenge"].iter().any(|name| own[a].starts_with(name));
            prop_assert!(may_be_absent && read.encode() == map(&less), "{:?}", read);
        }
        for value in [&[0xf6][..], &[0], &[0xfb, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let mut more = own.clone();
            more.push([b"\x78\x19a field that nobody knows", value].concat());
            prop_assert!(Statement::decode(&map(&more)).is_err());
        }
    }

    #[test]
    fn a_snapshot_is_as_strict(payload in vec(any::<u8>(), 0..60), signature in any::<[u8; 32]>(), changes in vec(change(), 1..3)) {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let signed = Signed { payload, signature: key.sign_prehash(&signature) };
        let bytes = signed.encode();
        prop_assert_eq!(Signed::decode(&bytes).unwrap(), signed);
        let bytes = changed(bytes, &changes);
        if let Ok(read) = Signed::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn a_price_is_split_without_rest(price in any::<u64>()) {
        let FeeSplit { miner, operator } = FeeSplit::of(MicroUsdc(price));
        prop_assert_eq!(u128::from(miner.0) + u128::from(operator.0), u128::from(price));
        prop_assert_eq!(u128::from(miner.0), u128::from(price) * 3 / 4);
    }

    #[test]
    fn transfers_make_and_lose_nothing(moves in vec((0..6usize, 0..6usize, 0..100u64), 0..60)) {
        let a = Address([1; 20]);
        let all = [
            Account::Outside,
            Account::ClientFree(a),
            Account::ClientReserved(a),
            Account::MinerHeld(a),
            Account::MinerPayable(a),
            Account::Reserve,
        ];
        let mut accounts = Accounts::default();
        let mut model: BTreeMap<Account, i128> = BTreeMap::new();
        let mut paid = 0;
        for (from, to, amount) in moves {
            let (from, to) = (all[from], all[to]);
            let before = accounts.clone();
            let covered = from == Account::Outside || from == to
                || model.get(&from).copied().unwrap_or(0) >= i128::from(amount);
            let done = accounts.transfer(&Transfer { from, to, amount: MicroUsdc(amount) });
            prop_assert_eq!(done.is_ok(), covered);
            if done.is_err() {
                prop_assert_eq!(&accounts, &before);
                continue;
            }
            *model.entry(from).or_default() -= i128::from(amount);
            *model.entry(to).or_default() += i128::from(amount);
            paid += u128::from(if to == Account::MinerPayable(a) && from != to { amount } else { 0 });
        }
        prop_assert_eq!(accounts.total(), 0);
        for account in all {
            prop_assert_eq!(accounts.balance(&account), model.get(&account).copied().unwrap_or(0));
        }
        prop_assert_eq!(accounts.payouts().get(&a).copied().unwrap_or(0), paid);
    }
}

fn meter() -> impl Strategy<Value = Meter> {
    let class = select(vec![Class::Orders, Class::Race, Class::Presence, Class::Progress]);
    prop_oneof![
        (0u8..2, class).prop_map(|(by, class)| Meter::Signer(Address([by; 20]), class)),
        (0u8..2).prop_map(|peer| Meter::Forwarded(Digest([peer; 32]))),
        (0u8..2).prop_map(|peer| Meter::Introduced(Digest([peer; 32]))),
        (0u8..2).prop_map(|peer| Meter::Handed(Digest([peer; 32]))),
        (0u8..2).prop_map(|peer| Meter::Questions(Digest([peer; 32]))),
    ]
}

proptest! {
    /// Over any span between two that passed, at most a burst and what the rate adds in that time pass; and whoever
    /// stays within the rate is never refused.
    #[test]
    fn no_meter_lets_more_pass_than_its_burst_and_its_rate(
        steps in vec((0u64..400, 1u64..300, vec(meter(), 1..4)), 1..24),
    ) {
        let (mut allowance, mut now) = (Allowance::default(), Timestamp(1_800_000_000_000));
        let mut passed: BTreeMap<Meter, Vec<(Timestamp, u64)>> = BTreeMap::new();
        for (pause, tries, meters) in steps {
            now = now + Millis(pause);
            for meter in meters {
                let taken = (0..tries).filter(|_| allowance.take(meter, now).is_ok()).count() as u64;
                passed.entry(meter).or_default().push((now, taken));
                let all = passed[&meter].iter().map(|(_, taken)| taken).sum::<u64>();
                let rate = meter.rate();
                prop_assert!(taken == tries || all >= u64::from(rate.burst), "refused before a burst had passed");
            }
        }
        for (meter, passed) in passed {
            let (burst, per_second) = (u64::from(meter.rate().burst), u64::from(meter.rate().per_second));
            for (from, (start, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (at, taken) in &passed[from..] {
                    sum += taken;
                    prop_assert!(sum * 1000 <= burst * 1000 + at.since(*start).0 * per_second);
                }
            }
        }
    }
}
