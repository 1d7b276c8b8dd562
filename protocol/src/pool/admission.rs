use super::{Close, MAX_JOBS, Pool, PoolEffect, PoolStory, Record, Stage};
use crate::Timestamp;
use crate::codec::JobId;
use crate::money::{Account, MIN_PRICE, MicroUsdc};
use crate::statement::{Admitted, Cancel, Input, Job, Reason, Topic, Verified};
use crate::workload::check_input;
use swarm_crypto::address::Address;

/// Jobs whose linked input is being fetched.
pub(super) const MAX_AWAITED_INPUTS: usize = 256;
/// Of these, how many of one client.
const MAX_AWAITED_PER_CLIENT: usize = 8;
/// Models that a ledger can name.
const MAX_KNOWN_MODELS: usize = 4096;

impl Pool {
    pub(super) fn handle_job(&mut self, verified: &Verified, job: &Job, now: Timestamp) {
        let id = verified.id();
        if self.state.jobs.contains_key(&id) {
            return self.repeat_fate(&id, now);
        }
        if self.live.awaited_inputs.contains_key(&id) {
            return;
        }
        if let Some((reason, detail)) = self.live.refused.get(&id).cloned() {
            return self.refuse(Topic::Jobs, now, id, id, reason, detail);
        }
        if let Err((reason, detail)) = self.may_admit(verified, job, now) {
            return self.refuse_job(id, reason, detail, now);
        }
        match &job.input {
            Input::Linked { cid, bytes } => {
                self.live.awaited_inputs.insert(id, verified.clone());
                self.effects.push_back(PoolEffect::FetchInput {
                    job: id,
                    client: verified.statement().header.by,
                    cid: *cid,
                    bytes: *bytes,
                });
            }
            Input::Text(_) | Input::Chat(_) | Input::Sealed { .. } => self.admit(verified, job, now),
        }
    }

    pub(super) fn handle_input(&mut self, id: JobId, outcome: Result<(), String>, now: Timestamp) {
        let Some(verified) = self.live.awaited_inputs.remove(&id) else { return };
        let crate::statement::Body::Job(job) = &verified.statement().body else { return };
        let checked = outcome
            .map_err(|why| (Reason::InputUnavailable, why))
            .and_then(|()| self.may_admit(&verified, job, now));
        match checked {
            Ok(()) => self.admit(&verified, job, now),
            Err((reason, detail)) => self.refuse_job(id, reason, detail, now),
        }
    }

    /// A client that was told no has gone; the same bytes, coming again, must not run and cost.
    fn refuse_job(&mut self, id: JobId, reason: Reason, detail: String, now: Timestamp) {
        self.live.note_refused(id, reason, detail.clone());
        self.refuse(Topic::Jobs, now, id, id, reason, detail);
    }

    fn may_admit(&self, verified: &Verified, job: &Job, now: Timestamp) -> Result<(), (Reason, String)> {
        let header = &verified.statement().header;
        let no = |reason, detail: String| Err((reason, detail));
        if self.state.nonces.contains(&(header.by, header.nonce)) {
            return no(
                Reason::NonceReused,
                "this nonce was used for another job; sign again with a new one".into(),
            );
        }
        self.may_run(job)?;
        // What is forgotten is past its time by the clock of the last boundary, and stays so.
        if job.not_after <= now.max(self.state.epoch.opened_at) {
            return no(Reason::Expired, "not_after has passed; submit again with a longer ttl".into());
        }
        if job.not_after > header.at + crate::statement::MAX_JOB_LIFE {
            return no(Reason::Expired, "not_after is more than 24 h after the signing".into());
        }
        let open = self.state.clients.get(&header.by).map_or(0, |client| client.open);
        if open >= self.state.posted.max_open_jobs {
            return no(Reason::TooManyOpenJobs, format!("{open} jobs are open; wait until some are done"));
        }
        // An admission that forgets others takes no room.
        let no_room = self.state.jobs.len() >= MAX_JOBS && !self.state.has_to_forget();
        let full = no_room || !self.may_await_input(header.by, job);
        if full || self.state.models.len() >= MAX_KNOWN_MODELS {
            return no(Reason::PoolFull, "the pool is full; try again later".into());
        }
        if self.state.accounts.balance(&Account::Shortfall) != 0 {
            return no(
                Reason::Shortfall,
                "the pool lacks money and admits nothing until it is made good".into(),
            );
        }
        self.has_funds(header.by, job)
    }

    /// Whether there is room to wait for a job's input, in all and for this client.
    fn may_await_input(&self, client: Address, job: &Job) -> bool {
        let awaited = &self.live.awaited_inputs;
        let own = awaited.values().filter(|waiting| waiting.statement().header.by == client).count();
        !matches!(job.input, Input::Linked { .. })
            || (awaited.len() < MAX_AWAITED_INPUTS && own < MAX_AWAITED_PER_CLIENT)
    }

    fn may_run(&self, job: &Job) -> Result<(), (Reason, String)> {
        if job.price < MIN_PRICE {
            return Err((Reason::PriceTooLow, format!("the least price is {MIN_PRICE} USDC")));
        }
        check_input(job).map_err(|fault| (Reason::Unsupported, fault.to_string()))?;
        match self.config.models.get(&job.model) {
            Some(serves) if *serves == job.job_type => Ok(()),
            Some(serves) => {
                Err((Reason::Unsupported, format!("the model {} is for {}", job.model, serves.as_str())))
            }
            None => {
                let known: Vec<&str> = self.config.models.keys().map(String::as_str).take(4).collect();
                Err((Reason::UnknownModel, format!("this pool serves {}", known.join(", "))))
            }
        }
    }

    fn has_funds(&self, client: Address, job: &Job) -> Result<(), (Reason, String)> {
        let known = self.state.clients.contains_key(&client);
        let due = self.state.posted.test_credit;
        let credit = if known || !self.state.may_come_in(due) { MicroUsdc(0) } else { due };
        let free = self.state.accounts.amount(&Account::ClientFree(client));
        let free = free.checked_add(credit).unwrap_or(free);
        let missing = job.price.saturating_sub(free);
        if missing.0 > 0 {
            return Err((
                Reason::NoFunds,
                format!("{missing} USDC are missing: {free} free, {} asked", job.price),
            ));
        }
        Ok(())
    }

    fn admit(&mut self, verified: &Verified, job: &Job, now: Timestamp) {
        let (id, client) = (verified.id(), verified.statement().header.by);
        self.credit_once(client, now);
        let seed = self.draw_seed(&id, 1);
        self.record(now, Record::Admitted { job: verified.signed().clone(), seed });
        self.effects.push_back(PoolEffect::Store(verified.signed().encode()));
        self.say(Topic::Jobs, now, Admitted { job: id, epoch: self.state.epoch.number });
        self.tell(PoolStory::NewJob { job: id, client, model: job.model.clone(), price: job.price });
        self.list(id);
    }

    /// Gives a new client its test credit.
    pub(super) fn credit_once(&mut self, client: Address, now: Timestamp) {
        let credit = self.state.posted.test_credit;
        if !self.state.clients.contains_key(&client) && credit.0 > 0 && self.state.may_come_in(credit) {
            self.record(now, Record::Credited { client });
        }
    }

    pub(super) fn handle_cancel(&mut self, verified: &Verified, cancel: &Cancel, now: Timestamp) {
        let (subject, id) = (verified.id(), cancel.job);
        let refusal = match self.state.jobs.get(&id) {
            None => Some((Reason::UnknownJob, "no such job in this pool".to_owned())),
            Some(entry) if entry.client != verified.statement().header.by => {
                Some((Reason::NotYours, "only the client who signed a job can cancel it".to_owned()))
            }
            Some(entry) => match &entry.stage {
                Stage::Pending if self.live.is_examined(&id) => {
                    Some((Reason::NotPending, "a proof of it is being checked".to_owned()))
                }
                Stage::Pending => None,
                Stage::Cancelled => return self.repeat_fate(&id, now),
                Stage::Leased(_) => Some((Reason::NotPending, "a miner is running it".to_owned())),
                Stage::Accepted(_) | Stage::Expired | Stage::Unrunnable => {
                    Some((Reason::NotPending, "it is already done".to_owned()))
                }
            },
        };
        match refusal {
            Some((reason, detail)) => self.refuse(Topic::Jobs, now, subject, id, reason, detail),
            None => self.close(id, Close::Cancelled(verified.signed().clone()), now),
        }
    }

    /// Ends a pending job unanswered and gives the money back.
    pub(super) fn close(&mut self, id: JobId, end: Close, now: Timestamp) {
        let word = match end {
            Close::Expired => "expired",
            Close::Cancelled(_) => "cancelled",
            Close::Unrunnable => "unrunnable",
        };
        self.unlist(&id);
        self.record(now, Record::Closed { job: id, end });
        self.tell(PoolStory::Closed { job: id, end: word });
        self.repeat_fate(&id, now);
    }
}
