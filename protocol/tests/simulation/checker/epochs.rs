use super::audits;
use super::book::{Acceptance, Book, Epoch, Held, Posting};
use super::pps::Shared;
use super::{Law, must};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Context, Digest, derive};
use swarm_crypto::merkle;
use swarm_crypto::standard_tree::StandardTree;
use swarm_protocol::Timestamp;
use swarm_protocol::codec::{Link, encode};
use swarm_protocol::money::{Account, MicroUsdc, Transfer};
use swarm_protocol::pool::{Boundary, EpochHeader, RecordPage, Totals};
use swarm_protocol::race::RosterEntry;
use swarm_protocol::statement::{Asset, PayoutMode};

/// Boundaries until what was earned is paid for good.
const HELD: u64 = 2;

impl Book {
    pub(crate) fn boundary(&mut self, boundary: &Boundary, at: Timestamp, transfers: &[Transfer]) -> Law {
        let Epoch { number, opened_at, .. } = self.epoch;
        must!(boundary.epoch == number, "boundary {} ends epoch {number}", boundary.epoch);
        must!(boundary.end_seq == self.seq, "boundary {number} says it is row {}", boundary.end_seq);
        must!(self.sealing.is_none(), "epoch {number} ends before header {} is fixed", number - 1);
        must!(at >= opened_at + self.posted.epoch, "epoch {number} ends early, at {at:?}");
        must!(boundary.secret == self.epoch_secret(number), "boundary {number} reveals another secret");
        let next = derive(Context::EpochSecret, &encode(&(self.epoch_secret(number + 1),)));
        must!(boundary.next_secret_hash == next, "boundary {number} commits to another secret");
        self.posted_well(boundary)?;
        self.rostered_well(boundary)?;
        let old = self.held.iter().filter(|(epoch, _)| **epoch + audits::LAST <= number);
        let open = old.flat_map(|(_, held)| &held.accepted).any(Acceptance::waits);
        must!(!open, "boundary {number} finds an audit open that began {} epochs ago", audits::LAST);
        let (rate, secret) = (self.posted.audit_rate, boundary.secret);
        if let Some(held) = self.held.get_mut(&number).filter(|_| rate > 0) {
            (held.secret, held.rate) = (Some(secret), rate);
        }
        let shared = self.held.get(&number).map(shared).unwrap_or_default();
        let mut due = self.credit(number, &shared);
        due.extend(self.release(number));
        self.pays(transfers, &due)?;
        self.pps.sealed(&shared, self.posted.pps_percent);
        let rates = self.pps.rates();
        must!(boundary.rates == rates, "boundary {number} posts {:?}, {rates:?} is due", boundary.rates);
        self.held.retain(|epoch, held| epoch + HELD > number || held.accepted.iter().any(Acceptance::waits));
        let (paid, spent) = (self.payouts.values().sum::<u128>(), self.debits.values().sum::<u128>());
        let owed = self.balances.get(&Account::Shortfall).map_or(0, |owed| owed.unsigned_abs());
        must!(paid <= spent + owed, "payouts of {paid} pass debits of {spent}, and {owed} is lacking");
        self.sealing = Some(self.header(boundary));
        let by_share = boundary.roster.0.iter().filter(|entry| entry.mode == PayoutMode::Pps);
        self.pps.wallets = by_share.map(|entry| entry.wallet).collect();
        self.rosters.push(boundary.roster.clone());
        self.posted = boundary.posted.clone();
        let (opened, first_seq) = (self.seq, self.seq + 1);
        self.epoch = Epoch { number: number + 1, opened, first_seq, opened_at: at, ..Epoch::default() };
        Ok(())
    }

    fn posted_well(&self, boundary: &Boundary) -> Law {
        let (said, told) = (&boundary.posted, &self.truth.posted);
        let window = said.window;
        let right =
            if told.window.0 == 0 { window.0 == 0 } else { told.window <= window && window.0 <= 2000 };
        must!(right, "boundary {} posts a window of {window:?}", boundary.epoch);
        let mut rest = said.clone();
        rest.window = told.window;
        must!(rest == *told, "boundary {} posts {said:?}", boundary.epoch);
        Ok(())
    }

    fn rostered_well(&self, boundary: &Boundary) -> Law {
        let roster = &boundary.roster.0;
        let sorted = roster.windows(2).all(|pair| pair[0].wallet < pair[1].wallet);
        must!(sorted, "the roster of boundary {} is not in order", boundary.epoch);
        for entry in roster {
            let RosterEntry { w, fee168, loss24, established, .. } = *entry;
            let (fee, losses) = self.reputation(&entry.wallet, boundary.epoch);
            let units = fee / self.posted.fee_unit.0.max(1);
            let grown = (64 - (units + 1).leading_zeros()).min(16);
            let condemned = self.is_condemned(&entry.wallet);
            let light = losses / 2 >= 16 || condemned;
            let weight = if light { 1 } else { (grown >> (losses / 2)).max(1) };
            let trusted = !condemned && !self.is_careless(&entry.wallet);
            let due = (weight, fee, losses, fee >= self.posted.established.0 && trusted);
            let said = (w, fee168.0, loss24, established);
            must!(said == due, "the roster says {said:?} of {}, {due:?} is due", entry.wallet);
        }
        Ok(())
    }

    /// Fees of the last 168 epochs and half losses of the last 24.
    fn reputation(&self, wallet: &Address, epoch: u64) -> (u64, u32) {
        let Some(known) = self.wallets.get(wallet) else { return (0, 0) };
        let fees = known.fees.iter().filter(|(earned, _)| **earned + 168 > epoch);
        let losses = known.losses.iter().filter(|(lost, ..)| lost + 24 > epoch);
        (fees.map(|(_, fee)| fee).sum(), losses.map(|(_, _, halves)| halves).sum())
    }

    /// What those paid by share get.
    fn credit(&mut self, epoch: u64, shared: &[Shared]) -> Vec<Posting> {
        let reserve = self.balances.get(&Account::Reserve).copied().unwrap_or(0);
        let Some(held) = self.held.get_mut(&epoch) else { return Vec::new() };
        let (credits, scaled) = self.pps.credits(shared, reserve.try_into().expect("never overdrawn"));
        held.scaled = scaled;
        let mut paid = BTreeMap::<Address, u64>::new();
        for (accepted, credit) in held.accepted.iter_mut().filter(|each| each.by_share).zip(credits) {
            accepted.credited = credit;
            *paid.entry(accepted.wallet).or_default() += credit;
        }
        paid.into_iter().map(|(wallet, sum)| (Account::Reserve, Account::MinerHeld(wallet), sum)).collect()
    }

    /// What was held for two boundaries becomes payable, and what waited longer for an audit.
    fn release(&mut self, number: u64) -> Vec<Posting> {
        let mut paid = BTreeMap::<Address, u64>::new();
        let mut spent = Vec::new();
        for (epoch, held) in self.held.iter_mut().filter(|(epoch, _)| **epoch + HELD <= number) {
            if epoch + HELD == number {
                held.audit_pay.iter().for_each(|(w, amount)| *paid.entry(*w).or_default() += amount);
                spent.extend(held.challenge_debits.iter().map(|(client, amount)| (*client, *amount)));
            }
            for each in held.accepted.iter_mut().filter(|each| each.stands && !each.released) {
                if each.audit.as_ref().is_none_or(|audit| !audit.open) {
                    each.released = true;
                    spent.push((each.client, each.price));
                    *paid.entry(each.wallet).or_default() +=
                        if each.by_share { each.credited } else { each.miner };
                }
            }
        }
        for (client, amount) in spent.into_iter().filter(|(_, amount)| *amount > 0) {
            *self.debits.entry(client).or_default() += u128::from(amount);
        }
        let miners =
            paid.iter().map(|(w, amount)| (Account::MinerHeld(*w), Account::MinerPayable(*w), *amount));
        let mut due: Vec<Posting> = miners.collect();
        due.extend(self.release_operator(paid.values().map(|amount| u128::from(*amount)).sum()));
        due
    }

    /// The operator's own makes good what was lacking, and is payable as far as clients' debits cover it.
    fn release_operator(&mut self, miners: u128) -> Vec<Posting> {
        let operator = self.truth.operator;
        let balance = |account| self.balances.get(&account).copied().unwrap_or(0);
        let (held, free) = (Account::OperatorHeld(operator), Account::ClientFree(operator));
        let all = self.held.values().flat_map(|held| &held.accepted);
        let waiting: u64 = all.filter(|each| each.stands && !each.released).map(|each| each.operator).sum();
        let lacking = u64::try_from(-balance(Account::Shortfall)).expect("it is only overdrawn");
        let paid = self.payouts.values().sum::<u128>() + miners;
        let uncovered = paid.saturating_sub(self.debits.values().sum::<u128>());
        let uncovered = u64::try_from(uncovered).expect("test credit is small");
        let more = uncovered.saturating_sub(lacking);
        let due = u64::try_from(balance(held) + i128::from(more) - i128::from(waiting)).unwrap_or(0);
        let lacking = lacking + more;
        let good = due.min(lacking - uncovered);
        let own = u64::try_from(balance(free)).expect("it is not overdrawn").min(lacking - good);
        if own > 0 {
            *self.debits.entry(operator).or_default() += u128::from(own);
        }
        let spent = self.debits.values().sum::<u128>();
        let covered = u64::try_from(spent.saturating_sub(paid)).expect("test credit is small");
        let payable = (held, Account::OperatorPayable(operator), (due - good).min(covered));
        let lent = (Account::Shortfall, held, more);
        vec![lent, (held, Account::Shortfall, good), (free, Account::Shortfall, own), payable]
    }

    /// The header that follows from the rows up to this boundary, its own row included.
    fn header(&self, boundary: &Boundary) -> EpochHeader {
        let leaves = &self.epoch.leaves;
        let pages = leaves.chunks(16_384).map(|page| Link::of(&encode(page)));
        EpochHeader {
            pool: self.truth.pool,
            asset: Asset::Test,
            epoch: boundary.epoch,
            previous: boundary.epoch.checked_sub(1).map(|before| self.headers[&before].1),
            first_seq: self.epoch.first_seq,
            end_seq: self.seq,
            range_hash: self.head,
            counts: self.epoch.counts,
            volume: MicroUsdc(self.epoch.volume),
            proofs_root: merkle::root(leaves),
            leaf_pages: pages.collect(),
            record_pages: self.record_pages(),
            payouts_root: root(&self.payouts),
            debits_root: root(&self.debits),
            audits_root: merkle::root(&self.epoch.audits),
            totals: self.totals(),
            secret: boundary.secret,
            settlement: 4,
            pps_scaled: self.held.get(&boundary.epoch).is_some_and(|held| held.scaled),
            audits_unserved: self.epoch.unserved,
        }
    }

    /// Pages of at most half a MiB of rows; a simulated row is far shorter.
    fn record_pages(&self) -> Vec<Link> {
        let mut pages: Vec<(usize, RecordPage)> = Vec::new();
        for (seq, (before, row)) in (self.epoch.first_seq..).zip(&self.epoch.rows) {
            if pages.last().is_none_or(|(bytes, _)| bytes + row.len() > 512 * 1024) {
                let (previous, carried, records) = (*before, ByteBuf::new(), Vec::new());
                pages.push((0, RecordPage { first_seq: seq, previous, carried, records }));
            }
            let (bytes, page) = pages.last_mut().expect("there is one now");
            *bytes += row.len();
            page.records.push(ByteBuf::from(row.as_slice()));
        }
        pages.iter().map(|(_, page)| Link::of(&encode(page))).collect()
    }

    fn totals(&self) -> Totals {
        let sum = |of: fn(&Account) -> bool| {
            let sum: i128 = self.balances.iter().filter(|(a, _)| of(a)).map(|(_, b)| *b).sum();
            u64::try_from(sum.abs()).expect("test credit is small")
        };
        Totals {
            outside: sum(|a| matches!(a, Account::Outside)),
            shortfall: sum(|a| matches!(a, Account::Shortfall)),
            client_free: sum(|a| matches!(a, Account::ClientFree(_))),
            client_reserved: sum(|a| matches!(a, Account::ClientReserved(_))),
            miner_held: sum(|a| matches!(a, Account::MinerHeld(_))),
            miner_payable: sum(|a| matches!(a, Account::MinerPayable(_))),
            operator_held: sum(|a| matches!(a, Account::OperatorHeld(_))),
            operator_payable: sum(|a| matches!(a, Account::OperatorPayable(_))),
            reserve: sum(|a| matches!(a, Account::Reserve)),
        }
    }

    pub(crate) fn header_fixed(&mut self, epoch: u64, link: Link) -> Law {
        let Some(due) = self.sealing.take() else { return Err(format!("header {epoch} is fixed twice")) };
        must!(due.epoch == epoch, "header {epoch} is fixed where {} is due", due.epoch);
        let fits = Link::of(&encode(&due)) == link;
        must!(fits, "header {epoch} is not what the rows say: volume {}, {:?}", due.volume, due.counts);
        self.headers.insert(epoch, (due, link, self.seq));
        self.ask_auditors(epoch)
    }
}

/// What an epoch accepted by share.
fn shared(held: &Held) -> Vec<Shared> {
    let by_share = held.accepted.iter().filter(|each| each.by_share);
    let shared =
        |each: &Acceptance| Shared { model: each.model.clone(), part: each.miner, units: each.units };
    by_share.map(shared).collect()
}

fn root(amounts: &BTreeMap<Address, u128>) -> Digest {
    let entries: Vec<(Address, u128)> = amounts.iter().map(|(a, b)| (*a, *b)).collect();
    StandardTree::new(&entries).root()
}
