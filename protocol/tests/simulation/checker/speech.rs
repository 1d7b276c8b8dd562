//! Nothing is said that is not durable, and nothing that is not so.

use super::book::split;
use super::jobs::Stage;
use super::{Checker, Law, Said, must};
use swarm_protocol::codec::{JobId, Link, encode};
use swarm_protocol::pool::LeafAt;
use swarm_protocol::statement::{
    Admitted, Asset, AuditPicked, Body, EpochOpened, EpochSealed, Lease, LeaseEnded, ListingEntry,
    PayoutMode, Reason, Receipt, Refusal, Statement,
};

impl Checker {
    /// The operator says this, to all or to one.
    pub(crate) fn said(&mut self, statement: &Statement) -> Law {
        let header = &statement.header;
        let ours = header.pool == self.truth.pool && header.by == self.truth.operator;
        must!(ours && self.durable > 0, "the operator of no pool says {statement:?}");
        let id = Link::of(&statement.encode());
        let known = *self.spoken.entry((statement.kind(), header.nonce)).or_insert(id);
        must!(known == id, "two statements under one nonce: {known} and {statement:?}");
        match &statement.body {
            Body::Receipt(receipt) => self.receipt(receipt),
            Body::Lease(lease) => self.lease(lease),
            Body::LeaseEnded(ended) => self.lease_ended(ended),
            Body::Listing(listing) => listing.entries.iter().try_for_each(|entry| self.entry(entry)),
            Body::Admitted(Admitted { job, epoch }) => {
                self.durable_job(job)?;
                must!(*epoch <= self.book.epoch.number, "{job} is admitted in epoch {epoch}");
                Ok(())
            }
            Body::Refusal(refusal) => self.refusal(refusal),
            Body::AuditPicked(picked) => self.audit_picked(picked),
            Body::EpochOpened(opened) => self.epoch_opened(opened),
            Body::EpochSealed(sealed) => self.epoch_sealed(sealed),
            Body::Beacon(beacon) => {
                must!(beacon.epoch <= self.book.epoch.number, "a beacon of epoch {}", beacon.epoch);
                Ok(())
            }
            other => Err(format!("the operator says {other:?}")),
        }
    }

    fn durable_job(&self, id: &JobId) -> Law {
        let durable = self.book.jobs.get(id).is_some_and(|job| job.seq < self.durable);
        must!(durable, "job {id} is spoken of, but is not durable");
        Ok(())
    }

    fn receipt(&self, said: &Receipt) -> Law {
        let id = &said.job;
        let stage = self.book.jobs.get(id).map(|job| (&job.stage, job));
        let Some((Stage::Accepted(fact), job)) = stage.filter(|_| self.durable_job(id).is_ok()) else {
            return Err(format!("a receipt for {id}, which is not accepted"));
        };
        must!(fact.seq < self.durable, "a receipt for {id}, whose acceptance is not durable");
        let (miner, operator) = split(job.body.price);
        let due = Receipt {
            pps: fact.rate.map(|rate| {
                let at_most = swarm_protocol::money::MicroUsdc(miner * 5 / 4);
                swarm_protocol::statement::PpsTerms { rate, at_most }
            }),
            job: *id,
            proof: fact.proof,
            client: job.client,
            wallet: fact.wallet,
            epoch: fact.epoch,
            index: fact.index,
            leaf: fact.leaf,
            price: job.body.price,
            miner_part: swarm_protocol::money::MicroUsdc(miner),
            operator_part: swarm_protocol::money::MicroUsdc(operator),
            units: fact.units,
            mode: if fact.rate.is_some() { PayoutMode::Pps } else { PayoutMode::Solo },
            asset: Asset::Test,
            output: fact.body.output,
            output_bytes: fact.body.output_bytes,
            held_until: fact.epoch + 2,
        };
        must!(*said == due, "the receipt {said:?} should be {due:?}");
        Ok(())
    }

    /// An auditor is told what was accepted, and nobody is to open before all have sealed.
    fn audit_picked(&self, said: &AuditPicked) -> Law {
        let at = LeafAt { epoch: said.epoch, index: said.index };
        let accepted = self.book.acceptance(at)?;
        let seats = accepted.audit.as_ref().map_or(&[][..], |audit| &audit.seats);
        let seat = seats.iter().find(|seat| seat.auditor == said.auditor && seat.seq < self.durable);
        let Some(seat) = seat else { return Err(format!("{said:?} is asked, and by no durable row")) };
        let Stage::Accepted(fact) = &self.book.jobs[&accepted.job].stage else {
            return Err(format!("{said:?} is of a job that is not accepted"));
        };
        let told = (said.job, said.proof, said.wallet, said.lease);
        let due = (accepted.job, fact.proof, accepted.wallet, accepted.lease);
        must!(told == due, "{said:?} should be of {due:?}");
        let body = &fact.body;
        let same = (said.transcript, said.transcript_bytes) == (body.transcript, body.transcript_bytes)
            && (said.output, said.output_bytes) == (body.output, body.output_bytes);
        must!(same, "{said:?} names other content than {body:?}");
        must!(!said.open || seat.said != Said::Nothing, "{said:?} before its auditor has sealed");
        Ok(())
    }

    fn lease(&self, said: &Lease) -> Law {
        self.durable_job(&said.job)?;
        let job = &self.book.jobs[&said.job];
        let attempt = job.attempts.get((said.term as usize).wrapping_sub(1));
        let Some((attempt, fact)) = attempt.and_then(|a| a.lease.as_ref().map(|lease| (a, lease))) else {
            return Err(format!("attempt {} at {} was never leased", said.term, said.job));
        };
        must!(fact.seq < self.durable, "the lease on {} is said before it is durable", said.job);
        let same = (said.lease, said.wallet, said.seed, said.window, said.until)
            == (fact.id, fact.wallet, attempt.seed, fact.window, fact.until);
        must!(same, "the lease said is {said:?}, the row's {fact:?}");
        let named = said.claims.is_empty() || said.claims == fact.named;
        must!(named, "the lease on {} names {:?}", said.job, said.claims);
        Ok(())
    }

    fn lease_ended(&self, said: &LeaseEnded) -> Law {
        self.durable_job(&said.job)?;
        let mut leases = self.book.jobs[&said.job].leases();
        let ended = leases.find(|fact| fact.id == said.lease).and_then(|fact| fact.ended);
        let durable = ended.is_some_and(|(cause, seq)| cause == said.cause && seq < self.durable);
        must!(durable, "the lease {} on {} is said to be over", said.lease, said.job);
        Ok(())
    }

    fn entry(&self, said: &ListingEntry) -> Law {
        self.durable_job(&said.job)?;
        let job = &self.book.jobs[&said.job];
        let attempt = job.attempts.get((said.attempt as usize).wrapping_sub(1));
        let Some(fact) = attempt.filter(|attempt| attempt.seq < self.durable) else {
            return Err(format!("attempt {} at {} is listed before it is durable", said.attempt, said.job));
        };
        let same = (said.seed, said.epoch, said.listed_at) == (fact.seed, fact.epoch, fact.listed_at)
            && said.model == job.body.model
            && (said.price, said.assurance, said.vram_mb)
                == (job.body.price, job.body.assurance, job.body.vram_mb);
        must!(same, "the listing says {said:?} of {fact:?}");
        Ok(())
    }

    /// A word that ends a job must be in the rows; and no other refusal of a job may follow its admission.
    fn refusal(&self, said: &Refusal) -> Law {
        let job = self.book.jobs.get(&said.job).filter(|job| job.seq < self.durable);
        let durable = |seq: &u64| *seq < self.durable;
        let stage = job.map(|job| &job.stage);
        let right = match said.reason {
            Reason::JobExpired => matches!(stage, Some(Stage::Expired(seq)) if durable(seq)),
            Reason::JobCancelled => matches!(stage, Some(Stage::Cancelled(seq)) if durable(seq)),
            Reason::JobUnrunnable => matches!(stage, Some(Stage::Unrunnable(seq)) if durable(seq)),
            _ => said.subject != said.job || job.is_none() || stage.is_some_and(Stage::is_terminal),
        };
        must!(right, "job {} is refused by {:?} while {stage:?}", said.job, said.reason);
        Ok(())
    }

    fn epoch_opened(&self, said: &EpochOpened) -> Law {
        let epoch = &self.book.epoch;
        let old = said.epoch < epoch.number;
        must!(old || epoch.opened < self.durable, "epoch {} is opened before it is durable", said.epoch);
        must!(said.epoch <= epoch.number, "epoch {} is opened, but not in the rows", said.epoch);
        let roster = &self.book.rosters[usize::try_from(said.epoch).expect("few epochs")];
        let link = Link::of(&encode(roster));
        must!(said.roster == link, "epoch {} is opened with another roster", said.epoch);
        must!(self.blocks.contains(&link), "the roster of epoch {} is not stored", said.epoch);
        must!(old || said.posted == self.book.posted, "epoch {} is opened with other numbers", said.epoch);
        Ok(())
    }

    fn epoch_sealed(&mut self, said: &EpochSealed) -> Law {
        let fixed = self.book.headers.get(&said.epoch).filter(|(.., seq)| *seq < self.durable);
        let Some((header, link, _)) = fixed else {
            return Err(format!("epoch {} is sealed before its header is fixed", said.epoch));
        };
        must!(*link == said.header, "two headers for epoch {}", said.epoch);
        let blocks = header.leaf_pages.iter().chain(&header.record_pages).chain([link]);
        let missing: Vec<_> = blocks.filter(|block| !self.blocks.contains(block)).collect();
        must!(missing.is_empty(), "epoch {} is sealed, its blocks {missing:?} are not stored", said.epoch);
        let first = *self.sealed.entry(said.epoch).or_insert(said.header);
        must!(first == said.header, "epoch {} is sealed with {first} and {}", said.epoch, said.header);
        Ok(())
    }
}
