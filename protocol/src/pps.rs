//! Pay per share: work units are bought at a posted rate, and the reserve carries the variance.
//!
//! All of it is a pure function of an epoch's PPS acceptances, in the order of their leaves, and of what the epochs
//! before left behind: section 9.2 of the specification, to the unit.

use crate::money::MicroUsdc;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// Sealed epochs with units that make a rate.
pub const RATE_EPOCHS: usize = 24;
/// A rate is in micro-USDC for so many work units.
pub const RATE_UNITS: u64 = 1_000_000;
/// The part of what lies in the reserve beyond an epoch's pots, and of its surplus, that one epoch may pay out.
const RESERVE_PART: u128 = 8;

/// One PPS acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Share {
    /// Index into the pool's models.
    pub model: u32,
    /// The miner part of its price, which went into the reserve.
    pub part: MicroUsdc,
    /// Its work units.
    pub units: u64,
}

/// What a model's sealed epochs leave for its rate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// Pot and units of the last [`RATE_EPOCHS`] epochs with units, oldest first.
    pub epochs: VecDeque<(u128, u128)>,
    /// The rate in force; none while there is no history.
    pub rate: Option<u64>,
}

/// What an epoch's PPS acceptances are credited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credits {
    /// For each share, in the order given.
    pub credits: Vec<MicroUsdc>,
    /// Whether the budget did not suffice and all were scaled down.
    pub scaled: bool,
}

/// The most that a job of this miner part is credited, so that whoever pays itself always loses.
pub fn at_most(part: MicroUsdc) -> MicroUsdc {
    MicroUsdc(narrow(u128::from(part.0) * 5 / 4))
}

impl History {
    /// What a job's part counts as for the rate: once there is a full history, no more than twice what its units were
    /// worth, so that one overpriced job does not lift the rate.
    fn counted(&self, share: &Share) -> u64 {
        match self.rate.filter(|_| self.epochs.len() == RATE_EPOCHS) {
            Some(rate) => share.part.0.min(narrow(product(rate, share.units).saturating_mul(2) / million())),
            None => share.part.0,
        }
    }

    fn push(&mut self, pot: u128, units: u128, percent: u32) {
        if self.epochs.len() == RATE_EPOCHS {
            self.epochs.pop_front();
        }
        self.epochs.push_back((pot, units));
        let (pots, units) = self.epochs.iter().fold((0, 0), |sum, epoch| (sum.0 + epoch.0, sum.1 + epoch.1));
        self.rate = Some(narrow(u128::from(percent) * million() * pots / (100 * units)).max(1));
    }
}

/// Takes an epoch's shares into the histories of their models, which posts the next rates. A model without units keeps
/// its rate.
pub fn seal(histories: &mut BTreeMap<u32, History>, shares: impl Iterator<Item = Share>, percent: u32) {
    let none = History::default();
    let known = |model: u32| histories.get(&model).unwrap_or(&none);
    let mut sums = Vec::<(&History, u128, u128)>::new();
    for share in shares {
        let model = share.model as usize;
        while sums.len() <= model {
            sums.push((known(sums.len() as u32), 0, 0));
        }
        let (history, pot, units) = &mut sums[model];
        *pot += u128::from(history.counted(&share));
        *units += u128::from(share.units);
    }
    let sums: Vec<_> = (0..).zip(sums).map(|(model, (_, pot, units))| (model, pot, units)).collect();
    for (model, pot, units) in sums.into_iter().filter(|(_, _, units)| *units > 0) {
        histories.entry(model).or_default().push(pot, units, percent);
    }
}

/// The credits of an epoch's shares. `rates` are those in force in it, by model; `reserve` is what the reserve holds at
/// its end, these shares' parts included, and `funded` what the operator has put into it.
pub fn credits(
    shares: impl Iterator<Item = Share> + Clone,
    rates: &BTreeMap<u32, u64>,
    reserve: MicroUsdc,
    funded: MicroUsdc,
) -> Credits {
    let mut credits = wanted(shares.clone(), rates);
    let pots = sum(shares.clone().map(|share| share.part));
    let wanted = sum(credits.iter().copied());
    let reserve = u128::from(reserve.0);
    let budget = match reserve.checked_sub(pots) {
        Some(beyond) => pots + beyond / RESERVE_PART,
        None => reserve,
    };
    if wanted > budget {
        return Credits { credits: scale_down(&credits, budget, wanted), scaled: true };
    }
    let surplus = (reserve - wanted).saturating_sub(u128::from(funded.0));
    share_out(shares, &mut credits, surplus / RESERVE_PART);
    Credits { credits, scaled: false }
}

/// What a model's units are worth: at its rate, or without one their part of its pot.
#[derive(Clone, Copy)]
enum Worth {
    Rate(u64),
    Pot(u128, u128),
}

/// What each share is worth.
fn wanted(shares: impl Iterator<Item = Share> + Clone, rates: &BTreeMap<u32, u64>) -> Vec<MicroUsdc> {
    let mut worths = Vec::<Worth>::new();
    for share in shares.clone() {
        let model = share.model as usize;
        while worths.len() <= model {
            let rate = rates.get(&(worths.len() as u32)).copied();
            worths.push(rate.map_or(Worth::Pot(0, 0), Worth::Rate));
        }
        if let Worth::Pot(pot, units) = &mut worths[model] {
            *pot += u128::from(share.part.0);
            *units += u128::from(share.units);
        }
    }
    let worth = |share: &Share| match worths[share.model as usize] {
        Worth::Rate(rate) => product(rate, share.units) / million(),
        Worth::Pot(pot, all) => (pot * u128::from(share.units)).checked_div(all).unwrap_or(0),
    };
    shares.map(|share| MicroUsdc(narrow(worth(&share)).min(at_most(share.part).0))).collect()
}

/// Each amount's part of the budget, rounded by largest remainder; of equal remainders the earlier gets the unit.
fn scale_down(amounts: &[MicroUsdc], budget: u128, total: u128) -> Vec<MicroUsdc> {
    let exact = |amount: &MicroUsdc| u128::from(amount.0) * budget;
    let mut scaled: Vec<u128> = amounts.iter().map(|amount| exact(amount) / total).collect();
    let left = budget - scaled.iter().sum::<u128>();
    let mut order: Vec<usize> = (0..amounts.len()).collect();
    order.sort_unstable_by_key(|&at| (Reverse(exact(&amounts[at]) % total), at));
    for at in order.into_iter().take(usize::try_from(left).expect("less than one for each")) {
        scaled[at] += 1;
    }
    scaled.into_iter().map(|amount| MicroUsdc(narrow(amount))).collect()
}

/// Adds each share's part of `extra`, by the room that it has below the most.
fn share_out(shares: impl Iterator<Item = Share> + Clone, credits: &mut [MicroUsdc], extra: u128) {
    let room = |share: Share, credit: &MicroUsdc| u128::from(at_most(share.part).0 - credit.0);
    let all: u128 = shares.clone().zip(&*credits).map(|(share, credit)| room(share, credit)).sum();
    let extra = extra.min(all);
    if extra == 0 {
        return;
    }
    for (share, credit) in shares.zip(credits) {
        credit.0 += narrow(extra * room(share, credit) / all);
    }
}

fn sum(amounts: impl Iterator<Item = MicroUsdc>) -> u128 {
    amounts.map(|amount| u128::from(amount.0)).sum()
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

fn million() -> u128 {
    u128::from(RATE_UNITS)
}

/// Never more than the money of a pool, which fits 64 bits; a rate that does not is the highest there is.
fn narrow(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(part: u64, units: u64) -> Share {
        Share { model: 0, part: MicroUsdc(part), units }
    }

    fn settled(shares: &[Share], rate: Option<u64>, reserve: u64, funded: u64) -> (Vec<u64>, bool) {
        let rates = rate.map(|rate| (0, rate)).into_iter().collect();
        let credits = credits(shares.iter().copied(), &rates, MicroUsdc(reserve), MicroUsdc(funded));
        (credits.credits.iter().map(|credit| credit.0).collect(), credits.scaled)
    }

    #[test]
    fn without_a_history_the_pot_is_shared_by_units() {
        // 100 for 30 units and 200 for 70 units: 90 and 210, each below 5/4 of its part.
        assert_eq!(settled(&[share(100, 30), share(200, 70)], None, 300, 0), (vec![90, 210], false));
        // By units the second would get 150 of 300; it is held to 125; of the 25 left an
        // eighth goes to the first.
        assert_eq!(settled(&[share(200, 50), share(100, 50)], None, 300, 0), (vec![153, 125], false));
    }

    #[test]
    fn a_rate_buys_units_and_what_is_left_fills_an_eighth_of_the_room() {
        // 2000 for a million units: 100 and 60; surplus 300 − 160 = 140, an eighth is 17, rooms 25 and 190.
        let shares = [share(100, 50_000), share(200, 30_000)];
        assert_eq!(settled(&shares, Some(2_000), 300, 0), (vec![100 + 1, 60 + 15], false));
        // What the operator put in is no surplus.
        assert_eq!(settled(&shares, Some(2_000), 300, 140), (vec![100, 60], false));
    }

    #[test]
    fn a_budget_that_does_not_suffice_scales_all_by_largest_remainder() {
        // 125 and 125 and 125 are wanted of 300: pots 300, nothing beyond.
        let shares = [share(100, 90_000), share(100, 90_000), share(100, 90_000)];
        assert_eq!(settled(&shares, Some(2_000), 300, 0), (vec![100, 100, 100], true));
        // 301 + an eighth of 80: 310 of 375; 103.33 each, the first gets the unit.
        assert_eq!(settled(&shares, Some(2_000), 380, 0), (vec![104, 103, 103], true));
        // A reserve below its pots pays what it has.
        assert_eq!(settled(&shares, Some(2_000), 200, 0), (vec![67, 67, 66], true));
    }

    #[test]
    fn a_rate_follows_the_last_24_epochs_and_one_dear_job_does_not_lift_it() {
        let mut histories = BTreeMap::new();
        seal(&mut histories, [share(100, 50_000)].into_iter(), 95);
        assert_eq!(histories[&0].rate, Some(1_900));
        seal(&mut histories, std::iter::empty(), 95);
        seal(&mut histories, [share(5, 0), Share { model: 2, ..share(5, 0) }].into_iter(), 95);
        assert_eq!(histories[&0].epochs.len(), 1, "an epoch without units leaves nothing");
        assert_eq!(histories.len(), 1, "nor does a model without them");
        for _ in 1..RATE_EPOCHS {
            let other = Share { model: 3, ..share(7, 1_000) };
            seal(&mut histories, [other, share(60, 20_000), share(40, 30_000)].into_iter(), 95);
        }
        assert_eq!(histories[&3].rate, Some(6_650));
        // Its part counts as 2 × 1900 × 50 000 / 10^6 = 190.
        seal(&mut histories, [share(1_000_000, 50_000)].into_iter(), 95);
        let history = &histories[&0];
        assert_eq!(history.epochs.len(), RATE_EPOCHS);
        assert_eq!(history.epochs.back(), Some(&(190, 50_000)));
        assert_eq!(history.rate, Some(95 * (23 * 100 + 190) * 1_000_000 / (100 * 24 * 50_000)));
    }

    #[test]
    fn a_self_paid_job_loses_at_every_price() {
        for price in [4, 5, 7, 100, 1_000_003, u64::MAX] {
            let part = crate::money::FeeSplit::of(MicroUsdc(price)).miner;
            assert!(at_most(part).0 < price, "{price}");
        }
    }

    #[test]
    fn the_largest_amounts_do_not_overflow() {
        let most = u64::MAX / 4;
        let shares = [share(most, u64::MAX), share(most, u64::MAX), share(most, 1)];
        for rate in [None, Some(1), Some(u64::MAX)] {
            let (credits, _) = settled(&shares, rate, u64::MAX, 0);
            assert!(credits.iter().map(|credit| u128::from(*credit)).sum::<u128>() <= u128::from(u64::MAX));
        }
        let mut histories = BTreeMap::new();
        for _ in 0..=RATE_EPOCHS {
            seal(&mut histories, shares.into_iter(), 95);
        }
    }
}
