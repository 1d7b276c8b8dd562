//! A look at another miner's proof, with the model itself.

use super::engines::Engines;
use super::shell::{FETCH_TIMEOUT, fetch_text};
use crate::daemon::{self, Daemon};
use crate::link::Link;
use crate::network::{MAX_BLOCK, Until};
use crate::recheck::{self, Bounds};
use crate::workload::{KnownModel, Models};
use anyhow::{Context, Result, anyhow, bail, ensure};
use cid::Cid;
use std::sync::Arc;
use std::time::{Duration, Instant};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;
use swarm_inference::CancelToken;
use swarm_protocol::acceptance;
use swarm_protocol::codec;
use swarm_protocol::finding::{self, Finding};
use swarm_protocol::miner::Looked;
use swarm_protocol::pool::{AUDIT_EPOCHS, EpochHeader, RecordPage, pages_around};
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::{AuditPicked, Body, Input, Intake, Job, Proof, Signed, Statement, Verified};

/// The longest that a model may take over one proof, and that records may take to come.
const LOOK_TIMEOUT: Duration = Duration::from_secs(600);

/// What a finding is made of, as it was fetched.
struct Content {
    job: Job,
    linked: Option<String>,
    transcript: Vec<u8>,
    output: Vec<u8>,
}

/// Headers that are walked back at most to the epoch of a proof whose audit is open.
const MAX_WALK: u64 = AUDIT_EPOCHS + 2;
/// Pages of records in which an acceptance is looked for at most: 2 GiB.
const MAX_PAGES: usize = 4096;

/// What is to be said of a proof, and which was accepted; an error if nothing is, because something could not be had or be
/// run.
pub(super) async fn look(
    link: Link,
    daemon: Option<Daemon>,
    models: Arc<Models>,
    engines: Engines,
    picked: AuditPicked,
) -> Result<Looked> {
    let looking = accepted(&link, daemon.as_ref(), &picked);
    let found = tokio::time::timeout(LOOK_TIMEOUT, looking).await;
    let (lease, proof) = found.context("the records of its epoch could not be had in time")??;
    let finding = Err("the operator told of another proof than it accepted".to_owned());
    let looked = Looked { finding, lease, proof: Box::new(proof) };
    if looked.misled(&picked).is_some() {
        return Ok(looked);
    }
    let finding =
        finding_of(link, daemon, models, engines, picked).await.map_err(|error| format!("{error:#}"));
    Ok(Looked { finding, ..looked })
}

/// What is to be said of the content that the operator named.
async fn finding_of(
    link: Link,
    daemon: Option<Daemon>,
    models: Arc<Models>,
    engines: Engines,
    picked: AuditPicked,
) -> Result<Finding> {
    if is_lazy(&picked) {
        return Ok(Finding::Holds);
    }
    let content = fetch(&link, daemon.as_ref(), &picked).await?;
    let model = models.get(&content.job.model).context("its model is not served here")?.clone();
    // A look ends with its deadline at the latest, and the process waits for none.
    tokio::task::spawn_blocking(move || judge(&picked, &content, &model, &engines)).await?
}

/// The lease and the proof by which the job was accepted, from the pages of its epoch under the header that the operator has
/// signed: what it tells an auditor is only its word.
async fn accepted(link: &Link, daemon: Option<&Daemon>, picked: &AuditPicked) -> Result<(Digest, Verified)> {
    let header = header(link, daemon, picked.epoch).await?;
    let pages = pages_around(picked.index, header.counts.accepted, header.record_pages.len());
    for page in pages.take(MAX_PAGES) {
        let block = block(link, daemon, &header.record_pages[page].cid()).await?;
        let page: RecordPage = codec::decode(&block).context("a page of records is none")?;
        if let Some((lease, proof)) = page.acceptance(&picked.job) {
            return Ok((lease, signed_then(link, &proof)?));
        }
    }
    bail!("the records of epoch {} accept no such job", picked.epoch)
}

async fn header(link: &Link, daemon: Option<&Daemon>, wanted: u64) -> Result<EpochHeader> {
    let Some(Answer::Sealed(Some(signed))) = link.ask(Query::Sealed).await else {
        bail!("the operator names no sealed epoch");
    };
    let newest = link.check(&signed)?;
    let Body::EpochSealed(sealed) = &newest.statement().body else { bail!("the operator sealed no epoch") };
    let mut next = sealed.header;
    for _ in 0..MAX_WALK {
        let header: EpochHeader = codec::decode(&block(link, daemon, &next.cid()).await?)?;
        if header.epoch == wanted {
            return Ok(header);
        }
        next = header.previous.with_context(|| format!("epoch {wanted} is not sealed"))?;
    }
    bail!("epoch {wanted} is too far back")
}

/// A statement as of its own time, which may be hours ago.
fn signed_then(link: &Link, signed: &Signed) -> Result<Verified> {
    let at = Statement::decode(&signed.payload)?.header.at;
    let mut intake = Intake::new(link.pool(), Address::ZERO);
    intake.verify(None, &signed.encode(), at).map_err(|refused| anyhow!("{refused}"))
}

async fn fetch(link: &Link, daemon: Option<&Daemon>, picked: &AuditPicked) -> Result<Content> {
    let signed = Signed::decode(&block(link, daemon, &picked.asked.cid()).await?)?;
    let Body::Job(job) = signed_then(link, &signed)?.statement().body.clone() else {
        bail!("the operator named no job");
    };
    if signed.id() != picked.job {
        bail!("the operator named another job");
    }
    acceptance::check_prompt(&job)?;
    let linked = match &job.input {
        Input::Linked { cid, bytes } => Some(fetch_text(link, daemon, cid, *bytes).await?),
        Input::Text(_) | Input::Chat(_) | Input::Sealed { .. } => None,
    };
    let transcript = block(link, daemon, &picked.transcript.cid()).await?;
    let output = block(link, daemon, &picked.output).await?;
    Ok(Content { job, linked, transcript, output })
}

async fn block(link: &Link, daemon: Option<&Daemon>, cid: &Cid) -> Result<Vec<u8>> {
    let from: Vec<_> = link.peer().into_iter().collect();
    let until = Until::within(FETCH_TIMEOUT);
    Ok(daemon::fetch(daemon, link.network(), cid, &from, MAX_BLOCK, until).await?)
}

/// Check A, and if that holds check B.
fn judge(picked: &AuditPicked, content: &Content, model: &KnownModel, engines: &Engines) -> Result<Finding> {
    let Content { job, linked, transcript, output } = content;
    let workload = model.workload();
    ensure!(workload == job.job_type, "the model of that name here is for {}", workload.as_str());
    let proof = Proof {
        job: picked.job,
        lease: picked.lease,
        transcript: picked.transcript,
        transcript_bytes: picked.transcript_bytes,
        output: picked.output,
        output_bytes: picked.output_bytes,
    };
    let delivery = (&proof, transcript.as_slice(), output.as_slice());
    let checked = match model.accept(job, linked.as_deref(), &[], delivery)? {
        Ok(_) => {
            let cancel = CancelToken::new();
            let bounds = Bounds { deadline: Some(Instant::now() + LOOK_TIMEOUT), cancel: &cancel };
            let mut engine = engines.beside(model)?;
            Ok(recheck::distances(engine.as_mut(), model, job, delivery, bounds)?)
        }
        Err(fault) => Err(fault),
    };
    let (finding, _) = finding::judge(checked.as_ref(), &model.tolerance())?;
    Ok(finding)
}

/// Of auditors whom `SWARMPOOL_LAZY_AUDITS` names one folder, whoever is first at a proof says that it holds, in debug builds,
/// for tests of challenges.
#[cfg(debug_assertions)]
fn is_lazy(picked: &AuditPicked) -> bool {
    let Some(folder) = std::env::var_os("SWARMPOOL_LAZY_AUDITS") else { return false };
    let proof = format!("{}-{}", picked.epoch, picked.index);
    std::fs::File::create_new(std::path::Path::new(&folder).join(proof)).is_ok()
}

#[cfg(not(debug_assertions))]
fn is_lazy(_: &AuditPicked) -> bool {
    false
}
