use super::header::{MAX_PAGE_LEAVES, leaf_pages};
use super::held::Sums;
use super::live::{LiveMiner, MAX_LIVE_MINERS, MISSED_HEARTBEATS, Timer};
use super::state::Sealing;
use super::wallet::Standing;
use super::{Boundary, HELD_EPOCHS, Pool, PoolEffect, PoolStory, Record, SETTLEMENT_VERSION, Stage, State};
use crate::money::{Account, MicroUsdc};
use crate::race::{self, Roster, RosterEntry};
use crate::statement::{
    Beacon, EpochOpened, EpochSealed, Heartbeat, Identified, MAX_MODELS, ModelSupply, NameStanding, Topic,
};
use crate::{Millis, Posted, Timestamp};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;

/// Heartbeats per second that all miners together may cause.
const MAX_HEARTBEATS_PER_S: u64 = 200;
/// Most wallets of a roster, those with the highest fees first; its block stays below 1 MiB. The rest draw with w = 1.
pub(super) const MAX_ROSTER: usize = 4096;
/// Pending jobs announced again at a start; miners ask for the rest.
const MAX_RELISTED: usize = 64;

impl State {
    /// The last blocks of the last sealed epoch: its header and the page of leaves that is not full. Those before them
    /// were stored as they filled.
    fn sealed_blocks(&self) -> Vec<Vec<u8>> {
        let Some(Sealing { header, leaves }) = &self.sealed else { return Vec::new() };
        let full = leaves.len() - leaves.len() % MAX_PAGE_LEAVES;
        leaf_pages(&leaves[full..]).into_iter().chain([header.encode()]).collect()
    }

    /// The blocks that a pool stores with a record that it has just applied, beside the pages that it fills.
    pub(super) fn blocks_of(&self, record: &Record) -> Vec<Vec<u8>> {
        match record {
            Record::Admitted { job, .. } => vec![job.encode()],
            Record::Boundary(boundary) => vec![boundary.roster.encode()],
            Record::HeaderFixed { .. } => self.sealed_blocks(),
            _ => Vec::new(),
        }
    }
}

impl Pool {
    /// Says what is open, and gives every live lease fresh time.
    pub(super) fn start(&mut self, now: Timestamp) {
        self.live.now = now;
        self.live.started_at = now;
        self.settle_audits(now);
        self.fund_reserve(now);
        self.open_epoch(now);
        self.beacon_due(now);
        let leased: Vec<_> = self.live.runs.keys().copied().collect();
        for id in leased {
            if let Stage::Leased(granted) = &self.state.jobs[&id].stage {
                let fresh = now + self.state.posted.first_progress;
                self.live.set_deadline(id, fresh.min(granted.until.max(now + self.state.posted.fetch)));
            }
            if let Some(lease) = self.lease_statement(&id, Vec::new()) {
                self.say(Topic::Claims, now, lease);
            }
        }
        self.live.to_list = self.live.queue.values().take(MAX_RELISTED).copied().collect();
        self.store_sealed();
        if let Some((epoch, header)) = self.state.last_header {
            self.say(Topic::Epochs, now, EpochSealed { epoch, header });
        }
    }

    /// When the epoch ends: by record time, but not before miners could say again that they are alive.
    pub(super) fn epoch_due(&self) -> Timestamp {
        let posted = &self.state.posted;
        let regular = self.state.epoch.opened_at + posted.epoch;
        regular.max(self.live.started_at + posted.heartbeat.min(posted.epoch))
    }

    pub(super) fn cross_boundary(&mut self, now: Timestamp) {
        self.fix_header(now);
        self.close_late_audits(now);
        let epoch = self.state.epoch.number;
        let secret = race::epoch_secret(&self.config.secret, &self.state.pool, epoch);
        let next = race::epoch_secret(&self.config.secret, &self.state.pool, epoch + 1);
        let settlement = self.state.settlement();
        let boundary = Boundary {
            epoch,
            end_seq: self.state.seq,
            secret,
            next_secret_hash: race::secret_commitment(&next),
            roster: self.make_roster(),
            posted: self.next_posted(),
            rates: self.state.next_rates(&settlement),
            settlement: SETTLEMENT_VERSION,
        };
        self.tell_settlement(epoch);
        self.record_with(now, Record::Boundary(Box::new(boundary)), Some(settlement));
        self.fund_reserve(now);
        self.open_epoch(now);
    }

    /// Brings what the operator has put into the reserve up to what it wants to, as far as its free money reaches.
    fn fund_reserve(&mut self, now: Timestamp) {
        let missing = self.config.reserve.saturating_sub(self.state.pps.funded);
        if missing.0 == 0 {
            return;
        }
        self.credit_once(self.config.operator, now);
        let free = self.state.accounts.amount(&Account::ClientFree(self.config.operator));
        let amount = missing.min(free);
        if amount.0 > 0 {
            self.record(now, Record::ReserveFunded { amount });
        }
    }

    fn tell_settlement(&mut self, epoch: u64) {
        let Some(due) = epoch.checked_sub(HELD_EPOCHS) else { return };
        let free = self.state.released(epoch);
        if free == Sums::default() {
            return;
        }
        let miner_total = MicroUsdc(free.miners.values().map(|amount| amount.0).sum());
        let (miners, operator) = (free.miners.len() as u64, free.operator);
        self.tell(PoolStory::Settled { epoch: due, miners, miner_total, operator });
    }

    fn make_roster(&self) -> Roster {
        let (newcomer, posted) = (Standing::default(), &self.state.posted);
        let entry = |(wallet, miner): (&Address, &LiveMiner)| {
            let standing = self.state.standings.get(wallet).unwrap_or(&newcomer);
            RosterEntry {
                wallet: *wallet,
                w: standing.weight(posted),
                fee168: standing.fee(),
                loss24: standing.loss_halves(),
                established: standing.is_established(posted),
                models: self.known_models(miner).into_iter().collect(),
                slots: miner.heartbeat.slots,
                mode: miner.heartbeat.mode,
            }
        };
        let mut entries: Vec<RosterEntry> = self.live.miners.iter().map(entry).collect();
        if entries.len() > MAX_ROSTER {
            entries.sort_by_key(|entry| (Reverse(entry.fee168), entry.wallet));
            entries.truncate(MAX_ROSTER);
            entries.sort_by_key(|entry| entry.wallet);
        }
        Roster(entries)
    }

    /// The models that a miner offers and this pool knows, each once.
    fn known_models(&self, miner: &LiveMiner) -> BTreeSet<String> {
        let offered = miner.heartbeat.models.iter().map(|offer| &offer.model);
        offered.filter(|model| self.config.models.contains_key(*model)).take(MAX_MODELS).cloned().collect()
    }

    fn next_posted(&self) -> Posted {
        let configured = &self.config.posted;
        let stretched = Millis(self.live.miners.len() as u64 * 1000 / MAX_HEARTBEATS_PER_S);
        Posted {
            window: race::posted_window(configured.window, self.live.claim_p99()),
            heartbeat: configured.heartbeat.max(stretched),
            ..configured.clone()
        }
    }

    fn open_epoch(&mut self, now: Timestamp) {
        let epoch = self.state.epoch.number;
        let roster = self.state.rosters[&epoch].0.clone();
        let opened = EpochOpened {
            epoch,
            secret_hash: self.state.epoch.secret_hash,
            roster: roster.link(),
            posted: self.state.posted.clone(),
        };
        self.effects.push_back(PoolEffect::Store(roster.encode()));
        self.tell(PoolStory::EpochOpened { epoch, miners: roster.0.len() as u64 });
        self.say(Topic::Epochs, now, opened);
    }

    /// What `EpochOpened` of the open epoch says.
    pub fn epoch_opened(&self, now: Timestamp) -> crate::statement::Statement {
        let epoch = self.state.epoch.number;
        let opened = EpochOpened {
            epoch,
            secret_hash: self.state.epoch.secret_hash,
            roster: self.state.rosters[&epoch].0.link(),
            posted: self.state.posted.clone(),
        };
        self.statement(now, opened)
    }

    /// Fixes the header of the epoch that ended, if it is not fixed yet; only a fixed header is announced.
    pub(super) fn fix_header(&mut self, now: Timestamp) {
        let Some(header) = self.state.sealing.as_ref().map(|sealing| sealing.header.clone()) else { return };
        let (epoch, link) = (header.epoch, header.link());
        self.record(now, Record::HeaderFixed { epoch, header: link });
        self.live.seat(&self.state);
        self.store_sealed();
        self.say(Topic::Epochs, now, EpochSealed { epoch, header: link });
        let (accepted, volume) = (header.counts.accepted, header.volume);
        self.tell(PoolStory::EpochSealed { epoch, header: link, accepted, volume });
    }

    /// Stores the blocks of the last sealed epoch.
    fn store_sealed(&mut self) {
        self.effects.extend(self.state.sealed_blocks().into_iter().map(PoolEffect::Store));
    }

    pub(super) fn handle_heartbeat(
        &mut self,
        identified: &Identified,
        heartbeat: &Heartbeat,
        now: Timestamp,
    ) {
        let verified = identified.verified();
        let wallet = verified.statement().header.by;
        let known = self.live.miners.get(&wallet);
        let order = |h: &Heartbeat| (h.boot_at, h.counter);
        if known.is_some_and(|miner| order(&miner.heartbeat) >= order(heartbeat)) {
            return;
        }
        let joined = known.is_none();
        if joined && self.live.miners.len() >= MAX_LIVE_MINERS {
            return;
        }
        let name = self.usable_name(identified.name(), &wallet);
        let (heartbeat, signed) = (heartbeat.clone(), verified.signed().clone());
        let models = heartbeat.models.iter().map(|offer| offer.model.clone()).collect();
        let miner = LiveMiner { seen_at: now, heartbeat, signed, name: name.clone() };
        self.live.heard(wallet, miner, self.patience());
        self.remind_auditor(&wallet, now);
        if joined {
            self.tell(PoolStory::MinerJoined { wallet, name: name.map(|(name, _)| name), models });
        }
    }

    /// A name is the first wallet's that uses it, but yields to one that ENS confirms.
    fn usable_name(&self, standing: &NameStanding, wallet: &Address) -> Option<(String, bool)> {
        let (name, confirmed) = match standing {
            NameStanding::Unnamed => return None,
            NameStanding::Unverified(name) => (name, false),
            NameStanding::Confirmed(name) => (name, true),
        };
        let durable = self.state.names.get(name).copied();
        let others = self.live.miners.iter().filter(|(other, _)| *other != wallet);
        let alive = others.filter_map(|(other, miner)| {
            miner.name.as_ref().filter(|(taken, _)| taken == name).map(|(_, sure)| (*other, *sure))
        });
        let taken =
            durable.into_iter().chain(alive).any(|(other, sure)| other != *wallet && (sure || !confirmed));
        (!taken).then(|| (name.clone(), confirmed))
    }

    fn patience(&self) -> Millis {
        self.state.posted.heartbeat.times(MISSED_HEARTBEATS)
    }

    pub(super) fn offline(&mut self, wallet: Address, now: Timestamp) {
        let patience = self.patience();
        let gone = self.live.miners.get(&wallet).is_some_and(|miner| miner.seen_at + patience <= now);
        if gone && let Some(miner) = self.live.miners.remove(&wallet) {
            self.tell(PoolStory::MinerOffline { wallet, name: miner.name.map(|(name, _)| name) });
        } else if let Some(miner) = self.live.miners.get(&wallet) {
            let again = miner.seen_at + patience;
            self.live.set(again, Timer::Offline(wallet));
        }
    }

    pub(super) fn beacon_due(&mut self, now: Timestamp) {
        let beacon = self.beacon();
        self.say(Topic::Heartbeats, now, beacon);
        self.live.set(now + self.state.posted.heartbeat.max(Millis(100)), Timer::Beacon);
    }

    /// The pool as it is now.
    pub fn beacon(&self) -> Beacon {
        let mut supply: BTreeMap<String, u64> =
            self.config.models.keys().map(|model| (model.clone(), 0)).collect();
        for miner in self.live.miners.values().filter(|miner| !miner.heartbeat.draining) {
            for model in self.known_models(miner) {
                supply.entry(model).and_modify(|miners| *miners += 1);
            }
        }
        let models = supply.into_iter().take(MAX_MODELS);
        Beacon {
            name: self.config.name.clone(),
            asset: self.state.genesis.asset.clone(),
            chain: 0,
            contract: Address::ZERO,
            epoch: self.state.epoch.number,
            pending: self.live.pending,
            leased: self.live.leased,
            models: models
                .map(|(model, miners)| ModelSupply { rate: self.state.rate(&model), model, miners })
                .collect(),
            posted: self.state.posted.clone(),
            tree: self.live.tree,
            node: self.config.node.clone(),
        }
    }

    /// The beacon as a statement.
    pub fn beacon_statement(&self, now: Timestamp) -> crate::statement::Statement {
        self.statement(now, self.beacon())
    }

    /// The wallet's entry in the open epoch's roster.
    pub fn roster_entry(&self, wallet: &Address) -> Option<&RosterEntry> {
        self.state.rosters[&self.state.epoch.number].0.get(wallet)
    }

    /// What a miner has earned so far: held and payable.
    pub fn earned(&self, wallet: &Address) -> (MicroUsdc, MicroUsdc) {
        let accounts = &self.state.accounts;
        (accounts.amount(&Account::MinerHeld(*wallet)), accounts.amount(&Account::MinerPayable(*wallet)))
    }
}
