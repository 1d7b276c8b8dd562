//! Answers in files: where they are wanted there, and pictures where there is nothing that could take their bytes.

use super::Session;
use super::answer::Rendered;
use super::partial::{Partial, unwritable};
use crate::storage::disk::write_atomic;
use anyhow::Result;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use swarm_protocol::codec::JobId;

/// Writes an answer to the file that it is wanted in. A picture goes to a file of the client's folder where no file is named and
/// stdout is a terminal, or is to hold JSON. Says which file it was, if one.
pub(super) fn file(
    session: &Session,
    job: JobId,
    answer: &Rendered,
    out: Option<&Path>,
) -> Result<Option<PathBuf>> {
    if let Some(out) = out {
        return write(out, &answer.text()).map(Some);
    }
    let taken = std::io::stdout().is_terminal() || session.printer.is_json();
    if !answer.is_binary() || !taken {
        return Ok(None);
    }
    let path = session.saved.picture_path(&job)?;
    write_atomic(&path, &answer.text())?;
    Ok(Some(path))
}

fn write(out: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let put = |mut file: File| file.write_all(bytes).and_then(|()| file.flush());
    let failed = |error: std::io::Error| unwritable(out, &error);
    let is_folder = std::io::Error::from(std::io::ErrorKind::IsADirectory);
    match std::fs::metadata(out) {
        Ok(there) if there.is_dir() => return Err(failed(is_folder).into()),
        // A pipe or a device is written to, not replaced.
        Ok(there) if !there.is_file() => {
            File::options().write(true).open(out).and_then(put).map_err(failed)?;
            return Ok(out.to_owned());
        }
        _ => {}
    }
    let (partial, file) = Partial::create(out)?;
    put(file).map_err(failed)?;
    Ok(partial.keep()?)
}
