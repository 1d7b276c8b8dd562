//! A look at another miner's proof, with the model itself.

use super::engines::Engines;
use super::shell::{FETCH_TIMEOUT, fetch_text};
use crate::daemon::{self, Daemon};
use crate::link::Link;
use crate::network::{MAX_BLOCK, Until};
use crate::recheck::{self, Bounds};
use crate::workload::{KnownModel, Models};
use anyhow::{Context, Result, bail};
use cid::Cid;
use std::sync::Arc;
use std::time::{Duration, Instant};
use swarm_inference::CancelToken;
use swarm_protocol::acceptance;
use swarm_protocol::finding::{self, Finding};
use swarm_protocol::statement::{AuditPicked, Body, Input, Intake, Job, Proof, Signed};

/// The longest that a model may take over one proof.
const LOOK_TIMEOUT: Duration = Duration::from_secs(600);

/// What a finding is made of, as it was fetched.
struct Content {
    job: Job,
    linked: Option<String>,
    transcript: Vec<u8>,
    output: Vec<u8>,
}

/// What is to be said of a proof; an error if nothing is, because something could not be had or be run.
pub(super) async fn look(
    link: Link,
    daemon: Option<Daemon>,
    models: Arc<Models>,
    engines: Engines,
    picked: AuditPicked,
) -> Result<Finding> {
    let content = fetch(&link, daemon.as_ref(), &picked).await?;
    let model = models.get(&content.job.model).context("its model is not served here")?.clone();
    // A look ends with its deadline at the latest, and the process waits for none.
    tokio::task::spawn_blocking(move || judge(&picked, &content, &model, &engines)).await?
}

async fn fetch(link: &Link, daemon: Option<&Daemon>, picked: &AuditPicked) -> Result<Content> {
    let signed = Signed::decode(&block(link, daemon, &picked.asked.cid()).await?)?;
    // By its own clock: it is hours old.
    let statement = swarm_protocol::statement::Statement::decode(&signed.payload)?;
    let mut intake = Intake::new(link.pool(), swarm_crypto::address::Address::ZERO);
    intake
        .verify(None, &signed.encode(), statement.header.at)
        .map_err(|refused| anyhow::anyhow!("{refused}"))?;
    let Body::Job(job) = statement.body else { bail!("the operator named no job") };
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
