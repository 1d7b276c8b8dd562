use super::book::{Acceptance, Book, Posting, genuine, split};
use super::facts::{Facts, HeardClaim};
use super::jobs::{Accepted, JobFacts, LeaseFacts, Stage, by_time, halves};
use super::{Law, must};
use crate::mint::Mint;
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Context, Digest, derive};
use swarm_protocol::codec::{JobId, encode};
use swarm_protocol::money::Account;
use swarm_protocol::pool::Leaf;
use swarm_protocol::statement::{Body, EndCause, PayoutMode, Signed};
use swarm_protocol::{Millis, Timestamp};

impl Book {
    #[expect(clippy::too_many_arguments, reason = "they are the fields of one record")]
    pub(crate) fn leased(
        &mut self,
        id: JobId,
        (term, wallet): (u32, Address),
        window: u32,
        until: Timestamp,
        claims: &[Signed],
        at: Timestamp,
        mint: &Mint,
        facts: Option<&Facts>,
    ) -> Law {
        let named = named(id, term, claims, mint)?;
        must!(named.contains_key(&wallet), "{id} is leased to {wallet}, whose claim is not named");
        let job = self.jobs.get(&id).ok_or_else(|| format!("unknown job {id} is leased"))?;
        must!(matches!(job.stage, Stage::Pending), "job {id} is leased while {:?}", job.stage);
        must!(term as usize == job.attempts.len(), "{id} is leased for attempt {term}");
        must!(!job.barred().any(|(barred, _)| barred == wallet), "{wallet} has {id} again");
        must!(at < job.body.not_after, "{id} is leased after its time");
        let most = Millis(u64::from(job.body.max_runtime_s) * 1000).min(self.posted.lease);
        let bound = (at + most).min(job.body.not_after);
        must!(at < until && until <= bound, "the lease on {id} is until {until:?}, past {bound:?}");
        self.may_hold(&wallet, job, at)?;
        let listed_at = job.latest().listed_at;
        let open = at.since(listed_at).0.checked_div(self.posted.window.0).unwrap_or(0);
        must!(u64::from(window) == open, "{id} is leased in window {open}, the row says {window}");
        self.won(&id, job, wallet, named.keys(), at, facts)?;

        let seed = job.latest().seed;
        let lease = derive(Context::Lease, &encode(&(self.truth.pool, id, term, wallet, seed)));
        let (named, seq) = (claims.iter().map(Signed::id).collect(), self.seq);
        let facts = LeaseFacts { id: lease, wallet, at, until, window, named, seq, ended: None };
        let job = self.jobs.get_mut(&id).expect("it was just seen");
        job.attempts.last_mut().expect("it is listed").lease = Some(facts);
        job.stage = Stage::Leased;
        self.epoch.counts.leased += 1;
        Ok(())
    }

    pub(crate) fn live_leases(&self, wallet: &Address) -> usize {
        let leases = self.jobs.values().filter_map(JobFacts::live_lease);
        leases.filter(|lease| lease.wallet == *wallet).count()
    }

    fn may_hold(&self, wallet: &Address, job: &JobFacts, at: Timestamp) -> Law {
        let holds = self.live_leases(wallet);
        let (_, established) = self.standing(job, wallet);
        must!(established || holds == 0, "{wallet} is not established and holds {holds} leases already");
        let lost = self.wallets.get(wallet).and_then(|known| known.last_loss_at);
        let cool = lost.is_none_or(|lost| at >= lost + self.posted.cooldown);
        must!(cool, "{wallet} has a lease at {at:?}, hot from its loss at {lost:?}");
        Ok(())
    }

    /// Weight and class of a wallet in the race for a job.
    fn standing(&self, job: &JobFacts, wallet: &Address) -> (u32, bool) {
        let epoch = usize::try_from(job.latest().epoch).expect("few epochs");
        let entry = self.rosters[epoch].0.iter().find(|entry| entry.wallet == *wallet);
        entry.map_or((1, false), |entry| (entry.w, entry.established))
    }

    fn rank(&self, id: &JobId, job: &JobFacts, wallet: &Address, all_class_1: bool) -> (u8, Digest) {
        let (weight, established) = self.standing(job, wallet);
        let seed = &job.latest().seed;
        let draw = |t: u32| derive(Context::Draw, &encode(&(seed, id, wallet, t)));
        let draw = (0..weight).map(draw).min().expect("a weight is at least 1");
        (if all_class_1 || established { 1 } else { 2 }, draw)
    }

    /// The winner beats the claims named and those surely in hand, and nobody surely better was still awaited.
    fn won<'a>(
        &self,
        id: &JobId,
        job: &JobFacts,
        winner: Address,
        named: impl Iterator<Item = &'a Address>,
        at: Timestamp,
        facts: Option<&Facts>,
    ) -> Law {
        let attempt = job.latest();
        let term = u32::try_from(job.attempts.len()).expect("few attempts");
        let heard = facts.and_then(|facts| facts.claims.get(&(*id, term)));
        let sure = |wallet: &Address| facts.is_some_and(|facts| facts.surely_eligible(wallet, job, self));
        let in_hand = heard.into_iter().flatten().filter(|claim| claim.sure && sure(&claim.wallet));
        let rivals: BTreeSet<Address> = named.copied().chain(in_hand.map(|claim| claim.wallet)).collect();
        let open_to_all =
            attempt.seed.0.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % 10) == 0;
        let rules: &[bool] = if open_to_all { &[true] } else { &[true, false] };
        let best =
            |all: bool, rival: &Address| self.rank(id, job, &winner, all) <= self.rank(id, job, rival, all);
        let fair = rules.iter().any(|all| rivals.iter().all(|rival| best(*all, rival)));
        must!(fair, "{winner} has {id}, but did not win against {rivals:?}");

        let Some(facts) = facts else { return Ok(()) };
        let window = self.posted.window.0;
        let closed = |claim: &HeardClaim| {
            let index = claim.at.since(attempt.listed_at).0.checked_div(claim.window.0).unwrap_or(0);
            at >= attempt.listed_at + claim.window.times(index + 1)
        };
        if window == 0 || heard.into_iter().flatten().any(closed) {
            return Ok(());
        }
        for wallet in facts.wallets().filter(|wallet| **wallet != winner && sure(wallet)) {
            let worse = rules.iter().any(|all| best(*all, wallet));
            must!(worse, "{id} went to {winner} before the window closed, though {wallet} is better");
        }
        Ok(())
    }

    pub(crate) fn lease_ended(
        &mut self,
        id: &JobId,
        cause: EndCause,
        seed: Digest,
        at: Timestamp,
        facts: Option<&Facts>,
    ) -> Law {
        let job = self.jobs.get(id).ok_or_else(|| format!("a lease on unknown job {id} ends"))?;
        let Some(lease) = job.live_lease() else {
            return Err(format!("a lease on {id} ends while it is {:?}", job.stage));
        };
        if let Some(facts) = facts {
            self.may_end(id, lease, cause, at, facts)?;
        }
        let (wallet, seq, epoch) = (lease.wallet, self.seq, self.epoch.number);
        let job = self.jobs.get_mut(id).expect("it was just seen");
        let lease = job.attempts.last_mut().and_then(|attempt| attempt.lease.as_mut());
        lease.expect("it is live").ended = Some((cause, seq));
        job.stage = Stage::Pending;
        if halves(cause) > 0 {
            let known = self.wallets.entry(wallet).or_default();
            known.losses.push((epoch, *id, halves(cause)));
            if halves(cause) >= 2 {
                known.last_loss_at = Some(at);
            }
        }
        self.listed(*id, seed, at)
    }

    fn may_end(&self, id: &JobId, lease: &LeaseFacts, cause: EndCause, at: Timestamp, facts: &Facts) -> Law {
        if by_time(cause) {
            let suspended = facts.is_suspended(id, &lease.id, self);
            must!(!suspended, "time ends the lease on {id} while its proof is examined");
        }
        let right = match cause {
            EndCause::TimedOut => at >= lease.until,
            EndCause::NoProgress => at >= facts.patience(lease, &self.posted),
            EndCause::BadProof => facts.refused_any(),
            EndCause::EngineFailure => facts.released(lease.id, lease.wallet, true),
            EndCause::Released => {
                let released = [true, false].iter().any(|e| facts.released(lease.id, lease.wallet, *e));
                released && at <= lease.at + Millis(2_000)
            }
            EndCause::ReleasedLate => {
                [true, false].iter().any(|e| facts.released(lease.id, lease.wallet, *e))
            }
        };
        must!(right, "the lease on {id} of {} from {:?} ends by {cause:?} at {at:?}", lease.wallet, lease.at);
        Ok(())
    }

    /// The transfers that are due.
    pub(crate) fn accepted(
        &mut self,
        id: &JobId,
        lease: &Digest,
        signed: &Signed,
        units: u64,
        mint: &Mint,
        facts: Option<&Facts>,
    ) -> Result<Vec<Posting>, String> {
        let (proof, statement) = genuine(signed, mint)?;
        let Body::Proof(body) = statement.body else { return Err(format!("{proof} is no proof")) };
        let job = self.jobs.get(id).ok_or_else(|| format!("unknown job {id} is accepted"))?;
        must!(!job.stage.is_terminal(), "job {id} is accepted while {:?}", job.stage);
        let holder = job.provable().filter(|live| live.id == *lease).map(|live| live.wallet);
        must!(holder == Some(statement.header.by), "{id} is accepted under {lease}, which is not its lease");
        let holder = statement.header.by;
        must!(body.job == *id && body.lease == *lease, "{id} is accepted by a proof of {}", body.job);
        if let Some(facts) = facts {
            let verdict = facts.verdict(&proof);
            must!(verdict == Some(&Ok(units)), "{id} is accepted with {units} units, examined {verdict:?}");
        }
        let (price, client) = (job.body.price, job.client);
        let by_share = self.pps.wallets.contains(&holder);
        let mode = if by_share { PayoutMode::Pps } else { PayoutMode::Solo };
        let model = job.body.model.clone();
        let leaf = Leaf { job: *id, proof, wallet: holder, price, units, mode };
        let leaf = derive(Context::Leaf, &encode(&leaf));
        let (epoch, index) = (self.epoch.number, self.epoch.leaves.len() as u64);
        self.epoch.leaves.push(leaf);
        let rate = by_share.then(|| self.pps.rate(&model));
        let (seq, wallet, signed) = (self.seq, holder, signed.clone());
        let accepted = Accepted { seq, epoch, index, leaf, proof, signed, body, wallet, units, rate };
        self.jobs.get_mut(id).expect("it was just seen").stage = Stage::Accepted(Box::new(accepted));
        self.epoch.counts.accepted += 1;
        self.epoch.volume += price.0;
        let (miner, operator) = split(price);
        let acceptance = Acceptance {
            job: *id,
            client,
            wallet: holder,
            model,
            lease: *lease,
            price: price.0,
            miner,
            operator,
            units,
            by_share,
            credited: 0,
            stands: true,
            released: false,
            audit: None,
        };
        self.held.entry(epoch).or_default().accepted.push(acceptance);
        *self.wallets.entry(holder).or_default().fees.entry(epoch).or_default() += operator;
        let from = Account::ClientReserved(client);
        let operators = Account::OperatorHeld(self.truth.operator);
        let to = if by_share { Account::Reserve } else { Account::MinerHeld(holder) };
        Ok(vec![(from, to, miner), (from, operators, operator)])
    }

    /// Three wallets whose engines failed, or three established ones that lost it.
    pub(crate) fn is_unrunnable(&self, id: &JobId) -> bool {
        let Some(job) = self.jobs.get(id) else { return false };
        let count = |counts: &dyn Fn(&Address, EndCause) -> bool| {
            let wallets = job.barred().filter(|(wallet, cause)| counts(wallet, *cause));
            wallets.map(|(wallet, _)| wallet).collect::<BTreeSet<_>>().len() >= 3
        };
        count(&|_, cause| cause == EndCause::EngineFailure)
            || count(&|wallet, cause| halves(cause) >= 2 && self.standing(job, wallet).1)
    }
}

/// The wallets of the claims that a lease names.
fn named(id: JobId, term: u32, claims: &[Signed], mint: &Mint) -> Result<BTreeMap<Address, ()>, String> {
    must!((1..=8).contains(&claims.len()), "the lease on {id} names {} claims", claims.len());
    let mut wallets = BTreeMap::new();
    for signed in claims {
        let (_, statement) = genuine(signed, mint)?;
        let right = matches!(&statement.body, Body::Claim(c) if c.job == id && c.attempt == term);
        must!(right, "the lease on {id} names {:?}", statement.body);
        let by = statement.header.by;
        must!(wallets.insert(by, ()).is_none(), "the lease on {id} names two claims of {by}");
    }
    Ok(wallets)
}
