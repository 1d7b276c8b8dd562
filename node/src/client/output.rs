//! What a person, or a program, gets to see: answers on stdout, everything else on stderr.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_crypto::address::Address;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::{Body, Receipt, Signed, Statement};
use swarm_protocol::submission::Stage;

use crate::words::who;

/// Prints progress and results.
#[derive(Clone)]
pub(crate) struct Printer {
    json: bool,
    quiet: bool,
    bar: Option<Arc<ProgressBar>>,
    last: Arc<Mutex<String>>,
    /// An answer is being printed as it comes: nothing may move on the terminal.
    reading: Arc<AtomicBool>,
}

impl Printer {
    pub fn new(json: bool, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let bar = terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}");
            Arc::new(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())))
        });
        Self { json, quiet, bar, last: Arc::default(), reading: Arc::default() }
    }

    /// True if one JSON object is wanted.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Where the job is now: a line that moves on a terminal, a line of its own elsewhere.
    pub fn stage(&self, text: String) {
        let before =
            std::mem::replace(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner), text.clone());
        if before == text {
            return;
        }
        match &self.bar {
            Some(_) if self.reading.load(Ordering::Relaxed) => {}
            Some(bar) => {
                bar.enable_steady_tick(Duration::from_millis(120));
                bar.set_message(text);
            }
            None => self.note(&text),
        }
    }

    /// Something a person should know.
    pub fn note(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Ends the moving line.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The answer: text as it is, with a line end.
    pub fn answer(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        // A closed pipe is no reason to complain.
        let _ = out.write_all(bytes);
        if !bytes.ends_with(b"\n") {
            let _ = out.write_all(b"\n");
        }
        let _ = out.flush();
    }

    /// The answer, to the byte.
    pub fn bytes(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        // A closed pipe is no reason to complain.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// A part of the answer, as it comes.
    pub fn piece(&self, bytes: &[u8]) {
        if !self.reading.swap(true, Ordering::Relaxed) {
            self.finish();
        }
        let mut out = std::io::stdout().lock();
        // A closed pipe is no reason to complain.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// What was printed in parts is not the answer: it ends here, and why.
    pub fn break_off(&self, why: &str) {
        // A closed pipe is no reason to complain.
        let _ = std::io::stdout().lock().write_all(b"\n");
        eprintln!("{why}");
    }

    /// One JSON object.
    pub fn object(&self, value: &serde_json::Value) {
        self.answer(value.to_string().as_bytes());
    }
}

/// A stage in words; `steps` is what the job's workload counts.
pub(crate) fn stage_text(stage: &Stage, steps: &str) -> String {
    let again = |attempt: &u32| if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
    match stage {
        Stage::Announced => "announced, waiting for the operator".to_owned(),
        Stage::Admitted => "admitted, the price is reserved".to_owned(),
        Stage::Listed { attempt, ahead: Some(ahead) } if *ahead > 0 => {
            format!("listed, {ahead} jobs before it{}", again(attempt))
        }
        Stage::Listed { attempt, .. } => format!("listed, miners race for it{}", again(attempt)),
        Stage::Leased { attempt, to, name } => {
            format!("leased to {}{}", who(to, name.as_deref()), again(attempt))
        }
        Stage::Running { to, name, units, attempt } => {
            format!("running at {}: {units} {steps}{}", who(to, name.as_deref()), again(attempt))
        }
        Stage::Proven { .. } => "proven, the operator checks the proof".to_owned(),
        Stage::Receipted { by, epoch } => format!("receipted: {} earned it in epoch {epoch}", who(by, None)),
    }
}

/// The receipt inside its snapshot, and who signed it.
pub(crate) fn receipt_of(signed: &Signed) -> Option<(Receipt, Address)> {
    let statement = Statement::decode(&signed.payload).ok()?;
    let by = statement.header.by;
    match statement.body {
        Body::Receipt(receipt) => Some((receipt, by)),
        _ => None,
    }
}

/// A receipt as JSON, with its signed bytes.
pub(crate) fn receipt_json(signed: &Signed) -> serde_json::Value {
    let Some((receipt, operator)) = receipt_of(signed) else { return serde_json::Value::Null };
    let mut json = serde_json::json!({
        "job": receipt.job.to_string(),
        "proof": receipt.proof.to_string(),
        "operator": operator.to_string(),
        "miner": receipt.wallet.to_string(),
        "client": receipt.client.to_string(),
        "epoch": receipt.epoch,
        "index": receipt.index,
        "price_usdc": receipt.price.to_string(),
        "miner_usdc": receipt.miner_part.to_string(),
        "operator_usdc": receipt.operator_part.to_string(),
        "asset": if receipt.asset == swarm_protocol::statement::Asset::Test { "test" } else { "usdc" },
        "mode": receipt.mode,
        "work_units": receipt.units,
        "output": receipt.output.to_string(),
        "output_bytes": receipt.output_bytes,
        "held_until_boundary": receipt.held_until,
        "signed": hex::encode(signed.encode()),
    });
    if let Some(terms) = receipt.pps {
        json["at_most_usdc"] = terms.at_most.to_string().into();
        if let Some(rate) = terms.rate {
            json["usdc_for_a_million_units"] = MicroUsdc(rate).to_string().into();
        }
    }
    json
}
