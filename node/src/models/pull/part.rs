//! A file on its way: what has come of it stays on the disk, and every byte goes through its digests.

use super::Wanted;
use crate::cli::UserError;
use crate::models::published::{FileBlocks, Indexer};
use crate::storage::disk::DiskError;
use anyhow::Result;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use swarm_inference::ModelFile;

/// What is read again at a time, and seldom more of it than comes at a time.
pub const PIECE_BYTES: usize = 256 << 10;
const PRIVATE_FILE: u32 = 0o600;

/// What a file must be, as its source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Its blake3 digest, in hex: the manifest's.
    Blake3(String),
    /// Its sha2-256 digest, in hex: a hub's for large files.
    Sha256(String),
    /// The id of its git object, in hex: a hub's for small ones.
    Git(String),
    /// Whatever is there.
    Nothing,
}

/// A file on its way.
pub struct Part {
    path: PathBuf,
    file: File,
    wanted: Wanted,
    length: u64,
    digests: Digests,
}

struct Digests {
    blake3: blake3::Hasher,
    other: Other,
    blocks: Indexer,
}

enum Other {
    Nothing,
    Sha256(Sha256),
    Git(sha1_smol::Sha1),
}

impl Digests {
    fn of(wanted: &Wanted) -> Self {
        let other = match &wanted.check {
            Check::Blake3(_) | Check::Nothing => Other::Nothing,
            Check::Sha256(_) => Other::Sha256(Sha256::new()),
            Check::Git(_) => Other::Git(sha1_smol::Sha1::from(format!("blob {}\0", wanted.size))),
        };
        Self { blake3: blake3::Hasher::new(), other, blocks: Indexer::default() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.blocks.push(bytes);
        match &mut self.other {
            Other::Nothing => {}
            Other::Sha256(sha) => sha.update(bytes),
            Other::Git(sha) => sha.update(bytes),
        }
    }

    fn other(self) -> String {
        match self.other {
            Other::Nothing => String::new(),
            Other::Sha256(sha) => hex::encode(sha.finalize()),
            Other::Git(sha) => sha.digest().to_string(),
        }
    }
}

impl Part {
    /// The file as far as it came before, which is not believed but read through its digests again; `took` hears how far.
    pub fn open(folder: &Path, wanted: &Wanted, mut took: impl FnMut(u64) -> Result<()>) -> Result<Self> {
        let path = folder.join(format!("{}.part", wanted.key()));
        // After a crash it may be the very file of a model that is installed, which nobody is to write to.
        if std::fs::metadata(&path).is_ok_and(|there| there.nlink() > 1) {
            std::fs::remove_file(&path).map_err(|cause| DiskError::io("remove", &path, cause))?;
        }
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&path);
        let file = open.map_err(|cause| DiskError::io("create", &path, cause))?;
        let digests = Digests::of(wanted);
        let mut part = Self { path, file, wanted: wanted.clone(), length: 0, digests };
        let there = part.there()?;
        if part.wanted.check == Check::Nothing || there > part.wanted.size {
            part.restart()?;
            return Ok(part);
        }
        // What a source gives by blocks is read again by whoever knows them.
        if !wanted.by_blocks {
            part.read_again(there, &mut took)?;
        }
        Ok(part)
    }

    fn read_again(&mut self, there: u64, took: &mut impl FnMut(u64) -> Result<()>) -> Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        while self.length < there {
            let most = PIECE_BYTES.min(usize::try_from(there - self.length).unwrap_or(PIECE_BYTES));
            let read = self.file.read(&mut piece[..most]).map_err(|cause| self.failed("read", cause))?;
            if read == 0 {
                break;
            }
            self.digests.take(&piece[..read]);
            self.length += read as u64;
            took(read as u64)?;
        }
        self.truncate()
    }

    /// How many bytes there are, read through the digests or not.
    pub fn there(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|cause| self.failed("read", cause))?.len())
    }

    /// How many bytes of the file are there and went through its digests.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether as many bytes came as are wanted.
    pub fn is_full(&self) -> bool {
        self.length == self.wanted.size
    }

    /// So many bytes that came before and were not read through the digests again, if there are so many.
    pub fn next(&self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, self.length).ok().map(|()| bytes)
    }

    /// Counts them in.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.digests.take(bytes);
        self.length += bytes.len() as u64;
    }

    /// Drops what came before and was not counted in.
    pub fn truncate(&mut self) -> Result<()> {
        let cut = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        cut.map(drop).map_err(|cause| self.failed("write", cause).into())
    }

    /// Begins anew.
    pub fn restart(&mut self) -> Result<()> {
        (self.length, self.digests) = (0, Digests::of(&self.wanted));
        self.truncate()
    }

    /// Takes the next bytes; more than were stated are refused, and what came before them goes too.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.length + bytes.len() as u64 > self.wanted.size {
            self.restart()?;
            return Err(UserError::input(format!(
                "{} is longer than the {} bytes that were stated; nothing was installed",
                self.wanted.name, self.wanted.size
            ))
            .hint("pull it again; if it stays so, its source is at fault")
            .into());
        }
        self.file.write_all(bytes).map_err(|cause| self.failed("write", cause))?;
        self.keep(bytes);
        Ok(())
    }

    /// The file, if it is the one that is wanted; else it is gone.
    pub fn finish(self) -> Result<(PathBuf, ModelFile, FileBlocks)> {
        let Wanted { name, size, .. } = self.wanted.clone();
        let blake3 = self.digests.blake3.finalize().to_hex().to_string();
        self.file.sync_all().map_err(|cause| self.failed("sync", cause))?;
        let path = self.path.clone();
        let check = self.wanted.check.clone();
        let mut digests = self.digests;
        let blocks = std::mem::take(&mut digests.blocks).finish(&name);
        let (stated, found) = match check {
            Check::Nothing => (String::new(), String::new()),
            Check::Blake3(stated) => (stated, blake3.clone()),
            Check::Sha256(stated) | Check::Git(stated) => (stated, digests.other()),
        };
        if stated != found {
            // Nobody wants it; that it stays is no harm.
            let _ = std::fs::remove_file(&path);
            return Err(UserError::input(format!(
                "{name} has digest {found}, its source says {stated}; nothing was installed"
            ))
            .hint("pull it again; if it stays so, its source is at fault")
            .into());
        }
        Ok((path, ModelFile { file: name, size, blake3 }, blocks))
    }

    fn failed(&self, doing: &'static str, cause: std::io::Error) -> DiskError {
        DiskError::io(doing, &self.path, cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(content: &[u8], check: Check) -> Wanted {
        Wanted { name: "weights".into(), size: content.len() as u64, check, by_blocks: false }
    }

    fn pull(folder: &Path, wanted: &Wanted, content: &[u8]) -> Result<ModelFile> {
        let mut part = Part::open(folder, wanted, |_| Ok(()))?;
        let from = usize::try_from(part.length()).unwrap();
        part.append(&content[from..])?;
        Ok(part.finish()?.1)
    }

    #[test]
    fn what_came_before_counts_and_every_digest_is_compared() {
        let folder = tempfile::tempdir().unwrap();
        let content = b"what is up, doc?";
        let blake3 = blake3::hash(content).to_hex().to_string();
        // sha256sum, and git hash-object.
        let sha = "af4e812d13b4eae6da91024f15f7679dae49d40aee3fb4c7216b56d04193f46c";
        let git = "bd9dbf5aae1a3862dd1526723246b20206e5fc37";
        for check in
            [Check::Blake3(blake3.clone()), Check::Sha256(sha.into()), Check::Git(git.into()), Check::Nothing]
        {
            let wanted = wanted(content, check);
            let mut part = Part::open(folder.path(), &wanted, |_| Ok(())).unwrap();
            part.append(&content[..7]).unwrap();
            drop(part);
            let mut again = 0;
            drop(
                Part::open(folder.path(), &wanted, |n| {
                    again += n;
                    Ok(())
                })
                .unwrap(),
            );
            assert_eq!(again, if wanted.check == Check::Nothing { 0 } else { 7 });
            let found = pull(folder.path(), &wanted, content).unwrap();
            assert_eq!((found.size, found.blake3.as_str()), (16, blake3.as_str()));
        }
    }

    #[test]
    fn other_bytes_and_more_bytes_are_refused_and_do_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = wanted(b"good", Check::Blake3(blake3::hash(b"good").to_hex().to_string()));
        let told = pull(folder.path(), &wanted, b"evil").unwrap_err().to_string();
        assert!(told.contains("its source says") && told.contains("nothing was installed"), "{told}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let told = pull(folder.path(), &wanted, b"good and more").unwrap_err().to_string();
        assert!(told.contains("longer than the 4 bytes"), "{told}");
        assert_eq!(pull(folder.path(), &wanted, b"good").unwrap().size, 4);
    }
}
