use super::book::{Book, Epoch};
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
        let mut due = self.credit(number);
        due.extend(self.release(number));
        self.pays(transfers, &due)?;
        let shared = self.held.get(&number).map(|held| held.shared.clone()).unwrap_or_default();
        self.pps.sealed(&shared, self.posted.pps_percent);
        let rates = self.pps.rates();
        must!(boundary.rates == rates, "boundary {number} posts {:?}, {rates:?} is due", boundary.rates);
        if let Some(held) = number.checked_sub(HELD).and_then(|due| self.held.remove(&due)) {
            for (client, amount) in held.clients {
                *self.debits.entry(client).or_default() += u128::from(amount);
            }
        }
        let (paid, spent) = (self.payouts.values().sum::<u128>(), self.debits.values().sum::<u128>());
        must!(paid <= spent, "payouts of {paid} pass debits of {spent}");
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
            let weight = if losses / 2 >= 16 { 1 } else { (grown >> (losses / 2)).max(1) };
            let due = (weight, fee, losses, fee >= self.posted.established.0);
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
    fn credit(&mut self, epoch: u64) -> Vec<(Account, Account, u64)> {
        let reserve = self.balances.get(&Account::Reserve).copied().unwrap_or(0);
        let Some(held) = self.held.get_mut(&epoch) else { return Vec::new() };
        let (credits, scaled) = self.pps.credits(&held.shared, reserve.try_into().expect("never overdrawn"));
        held.scaled = scaled;
        let mut paid = BTreeMap::<Address, u64>::new();
        for (shared, credit) in held.shared.iter().zip(credits) {
            *paid.entry(shared.wallet).or_default() += credit;
            *held.miners.entry(shared.wallet).or_default() += credit;
        }
        paid.into_iter().map(|(wallet, sum)| (Account::Reserve, Account::MinerHeld(wallet), sum)).collect()
    }

    /// What was held for two boundaries becomes payable.
    fn release(&self, epoch: u64) -> Vec<(Account, Account, u64)> {
        let Some(held) = epoch.checked_sub(HELD).and_then(|due| self.held.get(&due)) else {
            return Vec::new();
        };
        let operator = self.truth.operator;
        let miners = held.miners.iter();
        let miners = miners.map(|(w, amount)| (Account::MinerHeld(*w), Account::MinerPayable(*w), *amount));
        let own = (Account::OperatorHeld(operator), Account::OperatorPayable(operator), held.operator);
        miners.chain([own]).collect()
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
            audits_root: Digest::ZERO,
            totals: self.totals(),
            secret: boundary.secret,
            settlement: 3,
            pps_scaled: self.held.get(&boundary.epoch).is_some_and(|held| held.scaled),
            audits_unserved: 0,
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
        Ok(())
    }
}

fn root(amounts: &BTreeMap<Address, u128>) -> Digest {
    let entries: Vec<(Address, u128)> = amounts.iter().map(|(a, b)| (*a, *b)).collect();
    StandardTree::new(&entries).root()
}
