//! What a client keeps: signed jobs, so that it can go on with them, and receipts, so that it can prove them.

use crate::cli::UserError;
use crate::evidence::EvidenceFile;
use crate::storage::disk::{DiskError, write_atomic};
use anyhow::{Result, anyhow};
use std::path::{Path, PathBuf};
use swarm_protocol::codec::JobId;
use swarm_protocol::statement::Signed;

use super::output::receipt_json;

/// Kept jobs among which the newest are looked for.
const MAX_JOBS_LOOKED_AT: usize = 100_000;
/// The largest file read back.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A client's folder.
#[derive(Debug, Clone)]
pub(crate) struct Saved(PathBuf);

impl Saved {
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    fn file(&self, kind: &str, job: &JobId, extension: &str) -> Result<PathBuf> {
        let folder = self.0.join(kind);
        std::fs::create_dir_all(&folder).map_err(|cause| DiskError::io("create", &folder, cause))?;
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

    /// A job that was kept, and the input that it links to.
    pub fn job(&self, job: &JobId) -> Result<Option<(Signed, Option<Vec<u8>>)>> {
        let path = self.file("jobs", job, "job")?;
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(|cause| DiskError::io("read", &path, cause))?;
        let signed =
            Signed::decode(&bytes).map_err(|e| anyhow!("{} is damaged ({e}); remove it", path.display()))?;
        Ok(Some((signed, std::fs::read(self.file("jobs", job, "input")?).ok())))
    }

    /// The jobs kept last, at most `most`, the newest first; what cannot be read is passed over.
    pub fn newest_jobs(&self, most: usize) -> Vec<Signed> {
        let Ok(folder) = std::fs::read_dir(self.0.join("jobs")) else { return Vec::new() };
        let files = folder.filter_map(|file| {
            let file = file.ok().filter(|file| file.path().extension().is_some_and(|e| e == "job"))?;
            let metadata = file.metadata().ok().filter(|known| known.len() <= MAX_FILE_BYTES)?;
            Some((metadata.modified().ok()?, file.path()))
        });
        let mut files: Vec<_> = files.take(MAX_JOBS_LOOKED_AT).collect();
        files.sort_unstable_by(|a, b| b.cmp(a));
        let read = |(_, path): (_, PathBuf)| Signed::decode(&std::fs::read(path).ok()?).ok();
        files.into_iter().take(most).filter_map(read).collect()
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

    /// Where a picture is put that nobody named a file for.
    pub fn picture_path(&self, job: &JobId) -> Result<PathBuf> {
        self.file("pictures", job, "png")
    }

    /// Where a job's receipt is kept, if it is.
    pub fn receipt_path(&self, job: &JobId) -> Result<Option<PathBuf>> {
        let path = self.file("receipts", job, "json")?;
        Ok(path.exists().then_some(path))
    }
}

/// Reads a receipt file: its signed bytes are what counts; the second value names a field that does not follow from them.
pub(crate) fn read_receipt(path: &Path) -> Result<(Signed, Option<String>), UserError> {
    let bad = |why: &str| {
        UserError::input(format!("{} {why}", path.display())).hint(
            "receipts are kept as receipts/<job>.json in the client's folder, and come with submit --json",
        )
    };
    let unreadable = |error: std::io::Error| bad(&format!("cannot be read: {error}"));
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE_BYTES {
        return Err(bad("is too large to be a receipt"));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|_| bad("is not a receipt file"))?;
    let json = json.get("receipt").unwrap_or(&json);
    let signed =
        json.get("signed").and_then(|v| v.as_str()).ok_or_else(|| bad("has no text in field 'signed'"))?;
    let bytes = hex::decode(signed).map_err(|_| bad("has a field 'signed' that is not hexadecimal"))?;
    let signed =
        Signed::decode(&bytes).map_err(|_| bad("has a field 'signed' that holds no signed statement"))?;
    let told = receipt_json(&signed);
    let differs = json.as_object().into_iter().flatten().find(|(name, value)| told.get(name) != Some(value));
    Ok((signed, differs.map(|(name, _)| name.clone())))
}

/// A file of evidence, if it is one.
pub(crate) fn read_evidence(path: &Path) -> Option<EvidenceFile> {
    std::fs::metadata(path).ok().filter(|file| file.len() <= MAX_FILE_BYTES)?;
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// The answer kept beside a receipt file, if it is there.
pub(crate) fn read_answer(receipt: &Path) -> Option<Vec<u8>> {
    std::fs::read(receipt.with_extension("answer")).ok()
}
