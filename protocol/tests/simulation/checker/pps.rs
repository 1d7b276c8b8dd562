//! Pay per share, reckoned a second time: by whole epochs kept as they were, and fractions compared by cross products.

use std::collections::BTreeMap;
use swarm_crypto::address::Address;

/// An acceptance paid by share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) model: String,
    pub(crate) part: u64,
    pub(crate) units: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Pps {
    pub(crate) wallets: std::collections::BTreeSet<Address>,
    models: BTreeMap<String, Model>,
    pub(crate) funded: u64,
}

/// The rate, and for each sealed epoch with units what its pot counted as, and its units.
type Model = (Option<u128>, Vec<(u128, u128)>);

fn cap(part: u64) -> u128 {
    u128::from(part) + u128::from(part) / 4
}

fn of<'a>(epoch: &'a [Shared], model: &'a str) -> impl Iterator<Item = &'a Shared> {
    epoch.iter().filter(move |one| one.model == model)
}

impl Pps {
    pub(crate) fn rate(&self, model: &str) -> Option<u64> {
        self.models.get(model)?.0.map(|rate| rate.try_into().expect("small"))
    }

    pub(crate) fn rates(&self) -> BTreeMap<String, u64> {
        self.models.keys().filter_map(|model| Some((model.clone(), self.rate(model)?))).collect()
    }

    /// What each is due, and whether there was too little.
    pub(crate) fn credits(&self, epoch: &[Shared], reserve: u64) -> (Vec<u64>, bool) {
        let worth = |one: &Shared| {
            let worth = match self.rate(&one.model) {
                Some(rate) => u128::from(rate) * u128::from(one.units) / 1_000_000,
                None => {
                    let pot: u128 = of(epoch, &one.model).map(|other| u128::from(other.part)).sum();
                    let units: u128 = of(epoch, &one.model).map(|other| u128::from(other.units)).sum();
                    (pot * u128::from(one.units)).checked_div(units).unwrap_or(0)
                }
            };
            worth.min(cap(one.part))
        };
        let mut credits: Vec<u128> = epoch.iter().map(worth).collect();
        let wanted: u128 = credits.iter().sum();
        let pots: u128 = epoch.iter().map(|one| u128::from(one.part)).sum();
        let reserve = u128::from(reserve);
        let budget = if reserve < pots { reserve } else { pots + (reserve - pots) / 8 };
        let scaled = wanted > budget;
        if scaled {
            let before = credits.clone();
            credits.iter_mut().for_each(|credit| *credit = *credit * budget / wanted);
            let mut by_rest: Vec<usize> = (0..credits.len()).collect();
            // The sort is stable: of equal remainders the earlier comes first.
            by_rest.sort_by_key(|at| wanted - before[*at] * budget % wanted);
            let missing = budget - credits.iter().sum::<u128>();
            by_rest.truncate(missing.try_into().expect("fewer than there are"));
            by_rest.into_iter().for_each(|at| credits[at] += 1);
        } else {
            let extra = (reserve - wanted).saturating_sub(u128::from(self.funded)) / 8;
            let rooms: Vec<u128> =
                epoch.iter().zip(&credits).map(|(one, credit)| cap(one.part) - credit).collect();
            let all: u128 = rooms.iter().sum();
            for (credit, room) in credits.iter_mut().zip(rooms) {
                *credit += (extra.min(all) * room).checked_div(all).unwrap_or(0);
            }
        }
        (credits.into_iter().map(|credit| credit.try_into().expect("small")).collect(), scaled)
    }

    /// The epoch is over.
    pub(crate) fn sealed(&mut self, epoch: &[Shared], percent: u32) {
        let mut models: Vec<&String> = epoch.iter().map(|one| &one.model).collect();
        models.sort();
        models.dedup();
        for model in models {
            let own: Vec<&Shared> = epoch.iter().filter(|one| one.model == *model).collect();
            let units: u128 = own.iter().map(|one| u128::from(one.units)).sum();
            let (rate, before) = self.models.entry(model.clone()).or_default();
            let counts = |one: &&Shared| match rate {
                Some(rate) if before.len() >= 24 => {
                    u128::from(one.part).min(2 * *rate * u128::from(one.units) / 1_000_000)
                }
                _ => u128::from(one.part),
            };
            let pot = own.iter().map(counts).sum();
            if units == 0 {
                continue;
            }
            before.push((pot, units));
            let last = &before[before.len().saturating_sub(24)..];
            let pots: u128 = last.iter().map(|(pot, _)| pot).sum();
            let units: u128 = last.iter().map(|(_, units)| units).sum();
            *rate = Some((u128::from(percent) * 1_000_000 * pots / (100 * units)).max(1));
        }
    }
}
