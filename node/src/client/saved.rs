//! What a client keeps: signed jobs, so that it can go on with them, and receipts, so that it can prove them.

use crate::cli::UserError;
use crate::storage::disk::write_atomic;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use swarm_protocol::codec::JobId;
use swarm_protocol::statement::Signed;

use super::output::receipt_json;

/// The largest file read back.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A client's folder.
#[derive(Debug, Clone)]
pub(crate) struct Saved(PathBuf);

impl Saved {
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    fn file(&self, kind: &str, job: &JobId, extension: &str) -> Result<PathBuf> {
        let folder = self.0.join(kind);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder.join(format!("{job}.{extension}")))
    }

    /// Keeps a job before it is sent.
    pub fn keep_job(&self, signed: &Signed, input: Option<&[u8]>) -> Result<()> {
        write_atomic(&self.file("jobs", &signed.id(), "job")?, &signed.encode())?;
        if let Some(input) = input {
            write_atomic(&self.file("jobs", &signed.id(), "input")?, input)?;
        }
        Ok(())
    }

    /// A job that was kept, and the input block that it links to.
    pub fn job(&self, job: &JobId) -> Result<Option<(Signed, Option<Vec<u8>>)>> {
        let path = self.file("jobs", job, "job")?;
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let signed =
            Signed::decode(&bytes).with_context(|| format!("{} is damaged; remove it", path.display()))?;
        Ok(Some((signed, std::fs::read(self.file("jobs", job, "input")?).ok())))
    }

    /// Keeps a receipt and the answer; says where.
    pub fn keep_receipt(&self, job: &JobId, signed: &Signed, answer: &[u8]) -> Result<PathBuf> {
        if !answer.is_empty() {
            write_atomic(&self.file("receipts", job, "answer")?, answer)?;
        }
        let path = self.file("receipts", job, "json")?;
        let text = serde_json::to_string_pretty(&receipt_json(signed))?;
        write_atomic(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Where a job's receipt is kept, if it is.
    pub fn receipt_path(&self, job: &JobId) -> Result<Option<PathBuf>> {
        let path = self.file("receipts", job, "json")?;
        Ok(path.exists().then_some(path))
    }
}

/// Reads a receipt file: the signed bytes inside it are what counts.
pub(crate) fn read_receipt(path: &Path) -> Result<Signed> {
    let bad = |why: &str| UserError::input(format!("{}: {why}", path.display()));
    let length = std::fs::metadata(path).map_err(|e| bad(&format!("cannot be read: {e}")))?.len();
    if length > MAX_FILE_BYTES {
        return Err(bad("is too large to be a receipt").into());
    }
    let text = std::fs::read_to_string(path).map_err(|e| bad(&format!("cannot be read: {e}")))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|_| bad("is not a receipt file"))?;
    let json = json.get("receipt").unwrap_or(&json);
    let signed = json.get("signed").and_then(|v| v.as_str()).ok_or_else(|| bad("has no field 'signed'"))?;
    let bytes = hex::decode(signed).map_err(|_| bad("field 'signed' is not hexadecimal"))?;
    Ok(Signed::decode(&bytes).map_err(|e| bad(&format!("field 'signed' is not a signed statement: {e}")))?)
}

/// The answer kept beside a receipt file, if it is there.
pub(crate) fn read_answer(receipt: &Path) -> Option<Vec<u8>> {
    std::fs::read(receipt.with_extension("answer")).ok()
}
