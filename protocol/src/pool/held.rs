//! Money that is earned and can still be overturned, and what becomes of it at boundaries.

use super::audit::{Audit, Subject};
use super::record::{LeafAt, Record};
use super::state::{Pps, State, add};
use crate::codec::JobId;
use crate::money::{Account, FeeSplit, MicroUsdc};
use crate::pps::{self, Credits, Share};
use crate::statement::{PayoutMode, PpsTerms};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// Epochs for which a sealed epoch's money is held.
pub const HELD_EPOCHS: u64 = 2;
/// Epochs in which a deposit can be undone.
const DEPOSIT_EPOCHS: u64 = 24;

/// Money of one epoch's acceptances, still held.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// Every acceptance, in the order of its leaves.
    pub leaves: Vec<HeldLeaf>,
    /// Those of them that were accepted in mode PPS, in the same order.
    pub shared: Vec<Shared>,
    /// What each of these was credited, once the epoch has ended.
    pub credits: Vec<MicroUsdc>,
    /// By miner and auditor.
    pub miners: BTreeMap<Address, MicroUsdc>,
    /// The operator's.
    pub operator: MicroUsdc,
    /// By client: what becomes a lifetime debit at release.
    pub debits: BTreeMap<Address, MicroUsdc>,
    /// Whether its PPS credits were scaled down.
    pub scaled: bool,
    /// Its epoch's secret, once the boundary has revealed it; none where audits were not to be had.
    pub secret: Option<Digest>,
    /// Version of the settlement rules by which it ended, where audits are to be had.
    #[serde(default)]
    pub settlement: u32,
    /// Acceptances that it picks, until their auditors are asked.
    pub picked: BTreeMap<u64, Subject>,
    /// Audits of its acceptances, by leaf.
    pub audits: BTreeMap<u64, Audit>,
}

/// An acceptance whose money is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLeaf {
    /// Which job.
    pub job: JobId,
    /// Who pays.
    pub client: Address,
    /// Who earned.
    pub wallet: Address,
    /// Under which lease.
    pub lease: Digest,
    /// The price.
    pub price: MicroUsdc,
    /// Verified work units.
    pub units: u64,
    /// Index into the pool's models.
    pub model: u32,
    /// How the miner is paid.
    pub mode: PayoutMode,
    /// Whether an audit overturned it.
    pub overturned: bool,
}

/// An acceptance in mode PPS: all that an epoch's end asks of it, so that a million of them take little room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Its place among the epoch's acceptances.
    leaf: u32,
    /// Its miner's place on the epoch's roster.
    miner: u32,
    /// What it counts as; nothing once it is overturned.
    share: Share,
}

/// Money of one epoch's acceptances: by wallet, the operator's, and by client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sums {
    pub(super) miners: BTreeMap<Address, MicroUsdc>,
    pub(super) operator: MicroUsdc,
    pub(super) debits: BTreeMap<Address, MicroUsdc>,
}

/// What an epoch's end makes of its acceptances in mode PPS.
pub(super) struct Settlement {
    /// What each is credited.
    credits: Credits,
    /// The same by miner.
    pub(super) earned: BTreeMap<Address, MicroUsdc>,
    /// With the next epoch's rates.
    pps: Pps,
}

impl Held {
    /// `miner` is the miner's place on the roster.
    pub(super) fn accept(&mut self, leaf: HeldLeaf, miner: usize) {
        let split = FeeSplit::of(leaf.price);
        match leaf.mode {
            PayoutMode::Solo => add(self.miners.entry(leaf.wallet).or_default(), split.miner),
            PayoutMode::Pps => self.shared.push(Shared {
                leaf: narrow(self.leaves.len()),
                miner: narrow(miner),
                share: Share { model: leaf.model, part: split.miner, units: leaf.units },
            }),
        }
        add(&mut self.operator, split.operator);
        add(self.debits.entry(leaf.client).or_default(), leaf.price);
        self.leaves.push(leaf);
    }

    /// What the miner holds for an acceptance now.
    pub fn earned(&self, index: usize) -> MicroUsdc {
        let leaf = &self.leaves[index];
        match leaf.mode {
            PayoutMode::Solo => FeeSplit::of(leaf.price).miner,
            PayoutMode::Pps => self.credits.get(self.place(index)).copied().unwrap_or_default(),
        }
    }

    /// Where an acceptance in mode PPS stands among those.
    fn place(&self, index: usize) -> usize {
        self.shared.partition_point(|shared| (shared.leaf as usize) < index)
    }

    /// Acceptances whose audit is open: their money waits.
    pub(super) fn open_audits(&self) -> impl Iterator<Item = u64> {
        self.audits.iter().filter(|(_, audit)| audit.open).map(|(index, _)| *index)
    }

    /// The money that waits for audits, of what stands.
    pub(super) fn waiting(&self) -> Sums {
        let mut sums = Sums::default();
        for index in self.open_audits().map(|index| usize::try_from(index).expect("an index in memory")) {
            let leaf = &self.leaves[index];
            if !leaf.overturned {
                add(sums.miners.entry(leaf.wallet).or_default(), self.earned(index));
                add(&mut sums.operator, FeeSplit::of(leaf.price).operator);
                add(sums.debits.entry(leaf.client).or_default(), leaf.price);
            }
        }
        sums
    }

    /// The rest: what a boundary releases.
    pub(super) fn free(&self) -> Sums {
        let waiting = self.waiting();
        let rest = |all: &BTreeMap<Address, MicroUsdc>, waiting: &BTreeMap<Address, MicroUsdc>| {
            let left = |wallet, amount: MicroUsdc| {
                amount.saturating_sub(waiting.get(wallet).copied().unwrap_or_default())
            };
            let left = all.iter().map(|(wallet, amount)| (*wallet, left(wallet, *amount)));
            left.filter(|(_, amount)| amount.0 > 0).collect()
        };
        Sums {
            miners: rest(&self.miners, &waiting.miners),
            operator: self.operator.saturating_sub(waiting.operator),
            debits: rest(&self.debits, &waiting.debits),
        }
    }

    fn overturn(&mut self, index: usize) -> HeldLeaf {
        let leaf = self.leaves.get_mut(index).expect("a held acceptance is overturned");
        assert!(!std::mem::replace(&mut leaf.overturned, true), "an acceptance is overturned once");
        let (leaf, earned) = (leaf.clone(), self.earned(index));
        if leaf.mode == PayoutMode::Pps {
            let place = self.place(index);
            self.shared[place].share = Share::default();
        }
        take(self.miners.entry(leaf.wallet).or_default(), earned);
        take(&mut self.operator, FeeSplit::of(leaf.price).operator);
        take(self.debits.entry(leaf.client).or_default(), leaf.price);
        leaf
    }
}

impl Pps {
    /// What a receipt says of an acceptance's pay.
    pub(super) fn terms(&self, mode: PayoutMode, model: u32, price: MicroUsdc) -> Option<PpsTerms> {
        let rate = self.models.get(&model).and_then(|history| history.rate);
        let at_most = pps::at_most(FeeSplit::of(price).miner);
        (mode == PayoutMode::Pps).then_some(PpsTerms { rate, at_most })
    }

    /// The rates in force, by model.
    pub(super) fn rates(&self) -> BTreeMap<u32, u64> {
        self.models.iter().filter_map(|(model, history)| Some((*model, history.rate?))).collect()
    }
}

impl State {
    /// An acceptance whose money is held, by its job.
    pub fn held_leaf(&self, job: &JobId) -> Option<(LeafAt, &HeldLeaf)> {
        self.held.iter().find_map(|(epoch, held)| {
            let index = held.leaves.iter().position(|leaf| leaf.job == *job)?;
            Some((LeafAt { epoch: *epoch, index: index as u64 }, &held.leaves[index]))
        })
    }

    /// The acceptance at a place, if its money is held.
    pub(super) fn find_leaf(&self, at: LeafAt) -> Option<&HeldLeaf> {
        self.held.get(&at.epoch)?.leaves.get(usize::try_from(at.index).ok()?)
    }

    /// What the open epoch's PPS acceptances come to, were it to end now.
    pub(super) fn settlement(&self) -> Settlement {
        let roster = &self.rosters[&self.epoch.number].0.0;
        let shared = self.held.get(&self.epoch.number).map_or(&[][..], |held| &held.shared);
        let shares = || shared.iter().map(|shared| shared.share);
        let reserve = self.accounts.amount(&Account::Reserve);
        let credits = pps::credits(shares(), &self.pps.rates(), reserve, self.pps.funded);
        let mut sums = vec![MicroUsdc(0); roster.len()];
        for (shared, credit) in shared.iter().zip(&credits.credits) {
            add(&mut sums[shared.miner as usize], *credit);
        }
        let earned = roster.iter().map(|entry| entry.wallet).zip(sums).filter(|(_, sum)| sum.0 > 0).collect();
        let mut pps = self.pps.clone();
        pps::seal(&mut pps.models, shares(), self.posted.pps_percent);
        Settlement { credits, earned, pps }
    }

    /// The same for a record that ends the epoch.
    pub(super) fn settlement_by(&self, record: &Record) -> Option<Settlement> {
        matches!(record, Record::Boundary(_)).then(|| self.settlement())
    }

    /// The rates that the next epoch will have, by the models' names.
    pub(super) fn next_rates(&self, settlement: &Settlement) -> BTreeMap<String, u64> {
        let rates = settlement.pps.rates().into_iter();
        rates.map(|(model, rate)| (self.models[model as usize].clone(), rate)).collect()
    }

    /// The rate in force for a model.
    pub fn rate(&self, model: &str) -> Option<u64> {
        let index = self.models.iter().position(|known| known == model)?;
        self.pps.models.get(&u32::try_from(index).ok()?)?.rate
    }

    /// What a boundary does beside its transfers: credits are noted, rates made, and what is released leaves the hold.
    pub(super) fn settle(&mut self, epoch: u64, settlement: Settlement) {
        let Settlement { credits, earned, pps } = settlement;
        self.pps = pps;
        if let Some(held) = self.held.get_mut(&epoch) {
            (held.credits, held.scaled) = (credits.credits, credits.scaled);
            for (wallet, amount) in earned {
                add(held.miners.entry(wallet).or_default(), amount);
            }
        }
        for (client, amount) in self.released(epoch).debits {
            *self.debits.entry(client).or_default() += u128::from(amount.0);
        }
        for (_, held) in self.held.iter_mut().filter(|(held, _)| **held + HELD_EPOCHS <= epoch) {
            let Sums { miners, operator, debits } = held.waiting();
            (held.miners, held.operator, held.debits) = (miners, operator, debits);
        }
        let is_held =
            |held: u64, audits: &Held| held + HELD_EPOCHS > epoch || audits.open_audits().next().is_some();
        self.held.retain(|at, held| is_held(*at, held));
        self.deposits.retain(|_, (made, _, _)| *made + DEPOSIT_EPOCHS > epoch);
    }

    /// How a wallet is paid in the open epoch: as its roster says, and for its own jobs if it is not on it.
    pub fn mode(&self, wallet: &Address) -> PayoutMode {
        let entry = self.rosters[&self.epoch.number].0.get(wallet);
        entry.map_or(PayoutMode::Solo, |entry| entry.mode)
    }

    /// What the boundary of an epoch releases: all of what was held since two epochs before it or longer, but what waits
    /// for audits.
    pub(super) fn released(&self, epoch: u64) -> Sums {
        let due = self.held.iter().filter(|(held, _)| **held + HELD_EPOCHS <= epoch);
        due.map(|(_, held)| held.free()).fold(Sums::default(), |mut sums, free| {
            let into = |to: &mut BTreeMap<Address, MicroUsdc>, from: BTreeMap<Address, MicroUsdc>| {
                from.into_iter().for_each(|(wallet, amount)| add(to.entry(wallet).or_default(), amount));
            };
            into(&mut sums.miners, free.miners);
            into(&mut sums.debits, free.debits);
            add(&mut sums.operator, free.operator);
            sums
        })
    }

    /// A challenger pays its auditor as a client pays its miner, so this becomes its debit when that is released.
    pub(super) fn hold_for_auditor(
        &mut self,
        auditor: Address,
        challenger: Option<Address>,
        amount: MicroUsdc,
    ) {
        let held = self.held.entry(self.epoch.number).or_default();
        add(held.miners.entry(auditor).or_default(), amount);
        if let Some(challenger) = challenger {
            add(held.debits.entry(challenger).or_default(), amount);
        }
    }

    /// What was held since `epoch` as a wallet's debit is none.
    pub(super) fn undo_debit(&mut self, epoch: u64, wallet: Address, amount: MicroUsdc) {
        let held = self.held.get_mut(&epoch).expect("what was paid is held");
        take(held.debits.entry(wallet).or_default(), amount);
    }

    pub(super) fn overturn(&mut self, at: LeafAt) {
        let held = self.held.get_mut(&at.epoch).expect("a held acceptance is overturned");
        let leaf = held.overturn(usize::try_from(at.index).expect("an index in memory"));
        if let Some(standing) = self.standings.get_mut(&leaf.wallet) {
            standing.unearn(at.epoch, FeeSplit::of(leaf.price).operator);
        }
    }
}

fn take(sum: &mut MicroUsdc, amount: MicroUsdc) {
    sum.0 = sum.0.checked_sub(amount.0).expect("what is held covers what is taken back");
}

/// A place among an epoch's acceptances or on its roster, both of which fit memory.
fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("an epoch has less than 2^32 acceptances")
}
