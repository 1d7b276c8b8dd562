//! A disk whose power can be cut: what was not synced is lost, kept or torn, each at random.

use super::Dice;
use redb::{Database, StorageBackend};
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What reads see.
    current: Vec<u8>,
    /// What the last sync left.
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    /// How many more changes and syncs are carried out before the power goes.
    left: Option<u64>,
    fails_with: Option<ErrorKind>,
    changes: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Length(u64),
    Write(u64, Vec<u8>),
}

impl SimDisk {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A disk with an empty database: files are created beside their place and renamed, so a cut before is no case.
    pub(super) fn created() -> Self {
        let disk = Self::new();
        drop(Database::builder().create_with_backend(disk.clone()).unwrap());
        Self::from_image(disk.image())
    }

    pub(super) fn cut_power(&self) {
        self.cut_power_after(0);
    }

    pub(super) fn cut_power_after(&self, changes: u64) {
        self.state().left = Some(changes);
    }

    /// From now on, changes fail with this error.
    pub(super) fn fail_with(&self, kind: ErrorKind) {
        self.state().fails_with = Some(kind);
    }

    /// Changes and syncs so far.
    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }

    pub(super) fn image(&self) -> Vec<u8> {
        self.state().current.clone()
    }

    pub(super) fn from_image(image: Vec<u8>) -> Self {
        let state = State { synced: image.clone(), current: image, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// One of the disks that may be found after the cut.
    pub(super) fn after_crash(&self, dice: &mut Dice) -> Self {
        let state = self.state();
        let mut image = state.synced.clone();
        for change in &state.unsynced {
            match change {
                Change::Length(length) if dice.below(4) > 0 => image.resize(*length as usize, 0),
                Change::Length(_) => {}
                Change::Write(offset, data) => tear(&mut image, *offset as usize, data, dice),
            }
        }
        Self::from_image(image)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn change(&self) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.state();
        if let Some(kind) = state.fails_with {
            return Err(kind.into());
        }
        match &mut state.left {
            Some(0) => return Err(Error::other("the power is cut")),
            Some(left) => *left -= 1,
            None => {}
        }
        state.changes += 1;
        Ok(state)
    }
}

/// Puts all sectors of a write, none of them, or any of them.
fn tear(image: &mut [u8], offset: usize, data: &[u8], dice: &mut Dice) {
    let fate = dice.below(3);
    for (index, sector) in data.chunks(SECTOR).enumerate() {
        let kept = match fate {
            0 => false,
            1 => true,
            _ => dice.below(2) == 0,
        };
        let at = offset + index * SECTOR;
        if kept && at + sector.len() <= image.len() {
            image[at..at + sector.len()].copy_from_slice(sector);
        }
    }
}

impl StorageBackend for SimDisk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.state().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let state = self.state();
        let from = offset as usize;
        let found = state.current.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        let mut state = self.change()?;
        state.current.resize(len as usize, 0);
        state.unsynced.push(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut state = self.change()?;
        state.synced = state.current.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut state = self.change()?;
        let from = offset as usize;
        let room = state.current.get_mut(from..from + data.len());
        room.ok_or(ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        state.unsynced.push(Change::Write(offset, data.to_vec()));
        Ok(())
    }
}
