//! Files that come into being whole, or not at all.

use crate::cli::UserError;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file under a name of its own until it is whole; what is dropped before is gone.
pub(super) struct Partial {
    path: PathBuf,
    target: PathBuf,
}

impl Partial {
    pub fn create(target: &Path) -> Result<(Self, File), UserError> {
        let mut number = [0; 8];
        let drawn = getrandom::fill(&mut number).map_err(std::io::Error::other);
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = target.with_file_name(format!(".{name}.{}", hex::encode(number)));
        let file =
            drawn.and_then(|()| File::create_new(&path)).map_err(|error| unwritable(target, &error))?;
        Ok((Self { path, target: target.to_owned() }, file))
    }

    /// Gives it its name, which it returns.
    pub fn keep(self) -> Result<PathBuf, UserError> {
        std::fs::rename(&self.path, &self.target).map_err(|error| unwritable(&self.target, &error))?;
        Ok(self.target.clone())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already if it was kept.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> UserError {
    UserError::misuse(format!("{} cannot be written: {error}", path.display())).hint("choose another file")
}
