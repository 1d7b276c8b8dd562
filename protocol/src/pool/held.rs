//! Money that is earned and can still be overturned, and what becomes of it at boundaries.

use super::record::LeafAt;
use super::state::{Pps, State, add};
use crate::codec::JobId;
use crate::money::{FeeSplit, MicroUsdc};
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
    /// How many of them were accepted in mode PPS.
    pub shares: u64,
    /// By miner and auditor.
    pub miners: BTreeMap<Address, MicroUsdc>,
    /// The operator's.
    pub operator: MicroUsdc,
    /// By client: what becomes a lifetime debit at release.
    pub debits: BTreeMap<Address, MicroUsdc>,
    /// Whether its PPS credits were scaled down.
    pub scaled: bool,
    /// Challenges of its acceptances that were not returned, by leaf and challenger: made in which epoch, for how much.
    pub challenges: BTreeMap<(u64, Address), (u64, MicroUsdc)>,
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
    /// In mode PPS, what it was credited at its boundary.
    pub credit: MicroUsdc,
    /// Whether an audit overturned it.
    pub overturned: bool,
}

impl HeldLeaf {
    /// What the miner holds for it now.
    pub fn earned(&self) -> MicroUsdc {
        match self.mode {
            PayoutMode::Solo => FeeSplit::of(self.price).miner,
            PayoutMode::Pps => self.credit,
        }
    }

    /// What it counts as in pay per share, if it does.
    pub(super) fn share(&self) -> Option<Share> {
        let counts = self.mode == PayoutMode::Pps && !self.overturned;
        let part = FeeSplit::of(self.price).miner;
        counts.then_some(Share { model: self.model, part, units: self.units })
    }
}

impl Held {
    pub(super) fn accept(&mut self, leaf: HeldLeaf) {
        let split = FeeSplit::of(leaf.price);
        if leaf.mode == PayoutMode::Solo {
            add(self.miners.entry(leaf.wallet).or_default(), split.miner);
        }
        self.shares += u64::from(leaf.mode == PayoutMode::Pps);
        add(&mut self.operator, split.operator);
        add(self.debits.entry(leaf.client).or_default(), leaf.price);
        self.leaves.push(leaf);
    }

    /// What counts of its PPS acceptances, in the order of its leaves.
    pub(super) fn shares(&self) -> Vec<Share> {
        self.shared_leaves().iter().filter_map(HeldLeaf::share).collect()
    }

    /// The same acceptances, for writing their credits.
    fn shared(&mut self) -> impl Iterator<Item = &mut HeldLeaf> {
        let leaves = if self.shares == 0 { &mut [] } else { &mut self.leaves[..] };
        leaves.iter_mut().filter(|leaf| leaf.share().is_some())
    }

    /// Where all acceptances in mode PPS are: nowhere, if there are none.
    pub(super) fn shared_leaves(&self) -> &[HeldLeaf] {
        if self.shares == 0 { &[] } else { &self.leaves }
    }

    fn overturn(&mut self, index: usize) -> HeldLeaf {
        let leaf = self.leaves.get_mut(index).expect("a held acceptance is overturned");
        assert!(!std::mem::replace(&mut leaf.overturned, true), "an acceptance is overturned once");
        let leaf = leaf.clone();
        take(self.miners.entry(leaf.wallet).or_default(), leaf.earned());
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

    /// Takes in what an epoch's acceptances leave for the rates.
    fn seal(&mut self, shares: &[Share], percent: u32) {
        let mut models: Vec<u32> = shares.iter().map(|share| share.model).collect();
        models.sort_unstable();
        models.dedup();
        for model in models {
            let own = shares.iter().copied().filter(|share| share.model == model);
            self.models.entry(model).or_default().seal(own, percent);
        }
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

    /// The credits of the open epoch's PPS acceptances, were it to end now.
    pub(super) fn pps_credits(&self) -> Credits {
        let shares = self.held.get(&self.epoch.number).map(Held::shares).unwrap_or_default();
        let reserve = self.accounts.amount(&crate::money::Account::Reserve);
        pps::credits(&shares, &self.pps.rates(), reserve, self.pps.funded)
    }

    /// The rates that the next epoch will have, were the open one to end now; by the models' names.
    pub(super) fn next_rates(&self) -> BTreeMap<String, u64> {
        let mut pps = self.pps.clone();
        let shares = self.held.get(&self.epoch.number).map(Held::shares).unwrap_or_default();
        pps.seal(&shares, self.posted.pps_percent);
        pps.rates().into_iter().map(|(model, rate)| (self.models[model as usize].clone(), rate)).collect()
    }

    /// The rate in force for a model.
    pub fn rate(&self, model: &str) -> Option<u64> {
        let index = self.models.iter().position(|known| known == model)?;
        self.pps.models.get(&u32::try_from(index).ok()?)?.rate
    }

    /// What a boundary does beside its transfers: credits are noted, rates made, and what is released leaves the hold.
    /// `credits` are those that the transfers paid.
    pub(super) fn settle(&mut self, epoch: u64, credits: Credits) {
        let shares = self.held.get(&epoch).map(Held::shares).unwrap_or_default();
        self.pps.seal(&shares, self.posted.pps_percent);
        if let Some(held) = self.held.get_mut(&epoch) {
            held.scaled = credits.scaled;
            let mut earned = Vec::with_capacity(credits.credits.len());
            for (leaf, credit) in held.shared().zip(credits.credits) {
                leaf.credit = credit;
                earned.push((leaf.wallet, credit));
            }
            for (wallet, credit) in earned {
                add(held.miners.entry(wallet).or_default(), credit);
            }
        }
        if let Some(held) = epoch.checked_sub(HELD_EPOCHS).and_then(|due| self.held.remove(&due)) {
            for (client, amount) in held.debits.into_iter().filter(|(_, amount)| amount.0 > 0) {
                *self.debits.entry(client).or_default() += u128::from(amount.0);
            }
        }
        self.deposits.retain(|_, (made, _, _)| *made + DEPOSIT_EPOCHS > epoch);
    }

    /// How a wallet is paid in the open epoch: as its roster says, and for its own jobs if it is not on it.
    pub fn mode(&self, wallet: &Address) -> PayoutMode {
        let entry = self.rosters[&self.epoch.number].0.get(wallet);
        entry.map_or(PayoutMode::Solo, |entry| entry.mode)
    }

    pub(super) fn hold_for_auditor(&mut self, auditor: Address, amount: MicroUsdc) {
        let held = self.held.entry(self.epoch.number).or_default();
        add(held.miners.entry(auditor).or_default(), amount);
    }

    /// A challenger pays its auditor as a client pays its miner, so this becomes its debit when that is released.
    pub(super) fn challenge(&mut self, at: LeafAt, challenger: Address, amount: MicroUsdc) {
        let epoch = self.epoch.number;
        add(self.held.entry(epoch).or_default().debits.entry(challenger).or_default(), amount);
        let held = self.held.get_mut(&at.epoch).expect("a held acceptance is challenged");
        held.challenges.insert((at.index, challenger), (epoch, amount));
    }

    pub(super) fn return_challenge(&mut self, at: LeafAt, challenger: Address) {
        let held = self.held.get_mut(&at.epoch).expect("a held acceptance was challenged");
        let (epoch, amount) = held.challenges.remove(&(at.index, challenger)).expect("it was challenged");
        let held = self.held.get_mut(&epoch).expect("a challenge is held longer than what it challenges");
        take(held.debits.entry(challenger).or_default(), amount);
    }

    /// What an open challenge cost.
    pub(super) fn challenged(&self, at: LeafAt, challenger: Address) -> Option<MicroUsdc> {
        self.held.get(&at.epoch)?.challenges.get(&(at.index, challenger)).map(|(_, amount)| *amount)
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
