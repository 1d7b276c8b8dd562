//! Where a node keeps its files, one process at a time, and the secrets among them.

use super::disk::{DiskError, create_atomic};
use std::ffi::OsString;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The longest pool, role or node name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Names the directory that holds all data directories.
pub const HOME_VARIABLE: &str = "SWARMPOOL_HOME";

const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
const MAX_SECRET_FILE_BYTES: u64 = 256;

/// Why a data directory or one of its secrets cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HomeError {
    #[error("there is no directory for data; set {HOME_VARIABLE}, XDG_DATA_HOME or HOME")]
    NoHome,
    #[error(
        "{name:?} cannot name a directory: use 1 to {MAX_NAME_BYTES} bytes without '/', control characters or a leading '.'"
    )]
    BadName { name: String },
    #[error(
        "{directory} is in use by {holder}; stop it, or give this node another name or another {HOME_VARIABLE}"
    )]
    InUse { directory: PathBuf, holder: String },
    #[error("{path} can be read by others (mode {mode:o}); run: chmod 600 '{path}'")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is malformed: {reason}; restore it from a copy, or move it away to get a new one")]
    Malformed { path: PathBuf, reason: &'static str },
    #[error("{path} does not exist; copy it from the operator process that has it")]
    Missing { path: PathBuf },
    #[error("the system gave no random bytes: {0}")]
    NoRandomness(String),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// 32 secret bytes that do not show themselves in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The bytes themselves.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// The directory that holds all data directories: `$SWARMPOOL_HOME`, else `$XDG_DATA_HOME/swarmpool`,
/// else `~/.local/share/swarmpool`.
pub fn root() -> Result<PathBuf, HomeError> {
    root_of(|name| std::env::var_os(name))
}

fn root_of(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, HomeError> {
    let directory = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let absolute = |name| directory(name).filter(|path| path.is_absolute());
    directory(HOME_VARIABLE)
        .or_else(|| Some(absolute("XDG_DATA_HOME")?.join("swarmpool")))
        .or_else(|| Some(absolute("HOME")?.join(".local/share/swarmpool")))
        .ok_or(HomeError::NoHome)
}

/// The directory of one node; while this value lives, no other process can open it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: Option<File>,
}

impl DataDir {
    /// Creates `<root>/<pool>/<role>[-<name>]` where needed and takes its lock.
    pub fn open(root: &Path, pool: &str, role: &str, name: Option<&str>) -> Result<Self, HomeError> {
        let mut directory = Self::open_shared(root, pool, role, name)?;
        directory._lock = Some(lock(&directory.path)?);
        Ok(directory)
    }

    /// The same without the lock, for programs of which many may run at once.
    pub fn open_shared(root: &Path, pool: &str, role: &str, name: Option<&str>) -> Result<Self, HomeError> {
        let node = match name {
            Some(name) => format!("{}-{}", checked(role)?, checked(name)?),
            None => checked(role)?.to_owned(),
        };
        let path = root.join(checked(pool)?).join(node);
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_DIRECTORY)
            .create(&path)
            .map_err(|cause| DiskError::io("create", &path, cause))?;
        Ok(Self { path, _lock: None })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The wallet key, in the file `key`, made at first use.
    pub fn key(&self) -> Result<Secret, HomeError> {
        read_or_create_secret(&self.file("key"))
    }

    /// The key behind the node's peer id, in the file `peer.key`, made at first use.
    pub fn peer_key(&self) -> Result<Secret, HomeError> {
        read_or_create_secret(&self.file("peer.key"))
    }

    /// The pool secret, in the file `pool.secret`.
    ///
    /// Only genesis may create it: a standby, or a restored operator, must bring the pool's own.
    pub fn pool_secret(&self, is_genesis: bool) -> Result<Secret, HomeError> {
        let path = self.file("pool.secret");
        match is_genesis {
            true => read_or_create_secret(&path),
            false => read_secret(&path)?.ok_or(HomeError::Missing { path }),
        }
    }
}

/// Reads a file with 64 hexadecimal digits that only its owner can read; `None` if there is no file.
pub fn read_secret(path: &Path) -> Result<Option<Secret>, HomeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(DiskError::io("read", path, cause).into()),
    };
    let failed = |cause| DiskError::io("read", path, cause);
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(HomeError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    file.take(MAX_SECRET_FILE_BYTES).read_to_end(&mut text).map_err(failed)?;
    parse_secret(&text).map(Some).map_err(|reason| HomeError::Malformed { path: path.to_owned(), reason })
}

/// Reads a secret file, or makes one of random bytes; two processes at once get the same secret.
pub fn read_or_create_secret(path: &Path) -> Result<Secret, HomeError> {
    if let Some(secret) = read_secret(path)? {
        return Ok(secret);
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| HomeError::NoRandomness(error.to_string()))?;
    create_atomic(path, format!("{}\n", hex::encode(bytes)).as_bytes())?;
    read_secret(path)?.ok_or_else(|| HomeError::Missing { path: path.to_owned() })
}

fn parse_secret(text: &[u8]) -> Result<Secret, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.len() != 64 {
        return Err("it must hold 64 hexadecimal digits");
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| "it must hold hexadecimal digits only")?;
    match bytes == [0; 32] {
        true => Err("it holds only zeros"),
        false => Ok(Secret(bytes)),
    }
}

fn checked(name: &str) -> Result<&str, HomeError> {
    let is_bad = name.is_empty()
        || name.len() > MAX_NAME_BYTES
        || name.starts_with('.')
        || name.contains(|letter: char| letter == '/' || letter.is_control());
    match is_bad {
        true => Err(HomeError::BadName { name: name.chars().take(MAX_NAME_BYTES).collect() }),
        false => Ok(name),
    }
}

/// Takes the exclusive lock, which ends with the process however it ends, and leaves the process id in it.
fn lock(directory: &Path) -> Result<File, HomeError> {
    let path = directory.join("lock");
    let failed = |cause| DiskError::io("lock", &path, cause);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        .open(&path)
        .map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(HomeError::InUse { directory: directory.to_owned(), holder: holder(&mut file) });
        }
        Err(errno) => return Err(failed(errno.into()).into()),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().ok();
    file.take(MAX_SECRET_FILE_BYTES).read_to_string(&mut text).ok();
    match text.trim().parse::<u32>() {
        Ok(process) => format!("process {process}"),
        Err(_) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    fn root_with(variables: &[(&str, &str)]) -> Result<PathBuf, HomeError> {
        root_of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_root_is_the_first_that_is_set() {
        let all = [("SWARMPOOL_HOME", "here"), ("XDG_DATA_HOME", "/data"), ("HOME", "/home/alice")];
        assert_eq!(root_with(&all).unwrap(), Path::new("here"));
        assert_eq!(root_with(&all[1..]).unwrap(), Path::new("/data/swarmpool"));
        assert_eq!(root_with(&all[2..]).unwrap(), Path::new("/home/alice/.local/share/swarmpool"));
        assert_eq!(
            root_with(&[("SWARMPOOL_HOME", ""), ("XDG_DATA_HOME", "relative"), all[2]]).unwrap(),
            Path::new("/home/alice/.local/share/swarmpool")
        );
        assert!(matches!(root_with(&[]), Err(HomeError::NoHome)));
    }

    #[test]
    fn roles_and_names_have_private_directories_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let open = |role, name| DataDir::open(root.path(), "swarmpool.eth", role, name).unwrap();
        let nodes =
            [open("operator", None), open("miner", Some("alice.eth")), open("miner", Some("bob.eth"))];
        let pool = root.path().join("swarmpool.eth");
        let expected = ["operator", "miner-alice.eth", "miner-bob.eth"].map(|node| pool.join(node));
        for (node, expected) in nodes.iter().zip(expected) {
            assert_eq!(node.path(), expected);
            assert_eq!(mode(node.path()), 0o700);
        }
        assert_eq!(mode(&pool), 0o700);
    }

    #[test]
    fn names_cannot_leave_the_root() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0b", "a\nb", &"x".repeat(129)] {
            for refused in [
                DataDir::open(root.path(), name, "miner", None),
                DataDir::open(root.path(), "pool", name, None),
                DataDir::open(root.path(), "pool", "miner", Some(name)),
            ] {
                assert!(matches!(refused, Err(HomeError::BadName { .. })), "{name:?}");
            }
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let open = || DataDir::open(root.path(), "pool", "miner", None);
        let first = open().unwrap();
        let refused = open().unwrap_err();
        assert!(matches!(refused, HomeError::InUse { .. }));
        let expected = format!("is in use by process {};", std::process::id());
        assert!(refused.to_string().contains(&expected), "{refused}");
        DataDir::open_shared(root.path(), "pool", "miner", None).unwrap();
        drop(first);
        open().unwrap();
    }

    #[test]
    fn a_secret_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let node = DataDir::open(root.path(), "pool", "miner", None).unwrap();
        let key = node.key().unwrap();
        assert_eq!(node.key().unwrap(), key);
        assert_ne!(node.peer_key().unwrap(), key);
        assert_eq!(mode(&node.file("key")), 0o600);
        let text = std::fs::read_to_string(node.file("key")).unwrap();
        assert_eq!(text.trim(), hex::encode(key.expose()));
        assert!(!format!("{key:?}").contains(&text[..8]));
    }

    #[test]
    fn threads_that_race_for_a_new_secret_get_the_same() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        let secrets: Vec<_> = std::thread::scope(|scope| {
            let race = [(); 8].map(|()| scope.spawn(|| read_or_create_secret(&path).unwrap()));
            race.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        let secret = read_or_create_secret(&path).unwrap();
        for open in [0o640, 0o604, 0o620, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).unwrap();
            let refused = read_or_create_secret(&path).unwrap_err();
            assert!(matches!(refused, HomeError::Exposed { .. }));
            let remedy = format!("chmod 600 '{}'", path.display());
            assert!(refused.to_string().contains(&remedy), "{refused}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read_or_create_secret(&path).unwrap(), secret);
    }

    #[test]
    fn a_malformed_secret_is_refused_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        let zeros = "0".repeat(64);
        let odd = "g".repeat(64);
        for text in ["", "hello", zeros.as_str(), odd.as_str(), "\u{ff}", &"1".repeat(300)] {
            std::fs::remove_file(&path).ok();
            create_atomic(&path, text.as_bytes()).unwrap();
            let refused = read_or_create_secret(&path).unwrap_err();
            assert!(matches!(refused, HomeError::Malformed { .. }), "{text}: {refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::remove_file(&path).unwrap();
        create_atomic(&path, format!("0x{}\n", "ab".repeat(32)).as_bytes()).unwrap();
        assert_eq!(read_or_create_secret(&path).unwrap().expose(), &[0xab; 32]);
    }

    #[test]
    fn only_genesis_makes_a_pool_secret() {
        let root = tempfile::tempdir().unwrap();
        let node = DataDir::open(root.path(), "pool", "operator", None).unwrap();
        let refused = node.pool_secret(false).unwrap_err();
        assert!(matches!(refused, HomeError::Missing { .. }), "{refused}");
        let secret = node.pool_secret(true).unwrap();
        assert_eq!(node.pool_secret(false).unwrap(), secret);
        assert_eq!(mode(&node.file("pool.secret")), 0o600);
    }
}
