//! How values on the command line are written.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::content::MAX_PATH_BYTES;
use swarm_crypto::Address;
use swarm_protocol::Millis;
use swarm_protocol::codec::{JobId, Link};
use swarm_protocol::statement::MAX_NAME_BYTES;

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const MAX_DURATION: u64 = 366 * 86_400_000;
const MAX_WINDOW: Millis = Millis(2000);
const MIN_CONTENT_AGE: Millis = Millis(26 * 3_600_000);
const MIN_CONTENT_BYTES: u64 = 64 << 20;
const MAX_TYPOS: usize = 3;
const SHA2_256: u64 = 0x12;

/// A time such as `400ms`, `30s`, `5m`, `1h` or `7d`; a bare `0` is none.
pub(super) fn duration(text: &str) -> Result<Millis, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let malformed = || format!("write a time like 400ms, 30s, 5m or 1h, not '{text}'");
    let number: u64 = number.parse().map_err(|_| malformed())?;
    if unit.is_empty() && number == 0 {
        return Ok(Millis(0));
    }
    let &(_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
    let millis = number.checked_mul(scale).filter(|millis| *millis <= MAX_DURATION);
    millis.map(Millis).ok_or_else(|| "a year is the longest time".to_owned())
}

/// A time that is not zero.
pub(super) fn positive_duration(text: &str) -> Result<Millis, String> {
    match duration(text)? {
        Millis(0) => Err("must be longer than zero".to_owned()),
        millis => Ok(millis),
    }
}

/// How long content of jobs stays: no job is older than a day, nor held by a miner for longer than an hour after that.
pub(super) fn content_age(text: &str) -> Result<Millis, String> {
    let age = duration(text)?;
    if age < MIN_CONTENT_AGE {
        Err("content stays for at least 26h: a job may wait for a day".to_owned())
    } else {
        Ok(age)
    }
}

/// A size such as `512MiB` or `4GiB`.
pub(super) fn content_size(text: &str) -> Result<u64, String> {
    let (number, scale) = match (text.strip_suffix("GiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1 << 30),
        (_, Some(number)) => (number, 1 << 20),
        _ => return Err(format!("write a size like 512MiB or 4GiB, not '{text}'")),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    match bytes {
        Some(bytes) if bytes >= MIN_CONTENT_BYTES => Ok(bytes),
        _ => Err("64MiB is the least".to_owned()),
    }
}

/// The length of a claim window, which has a fixed limit.
pub(super) fn window(text: &str) -> Result<Millis, String> {
    let window = duration(text)?;
    if window > MAX_WINDOW { Err("2s is the longest window".to_owned()) } else { Ok(window) }
}

/// An address and port such as `127.0.0.1:9477`, or a port of the loopback.
pub(super) fn listener(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| "write an address like 127.0.0.1:9477, or a port".to_owned())
}

/// The address of an IPFS daemon's RPC, such as `http://127.0.0.1:5001`.
pub(super) fn ipfs_api(text: &str) -> Result<String, String> {
    let malformed = || "write an address like http://127.0.0.1:5001".to_owned();
    if text.starts_with("https://") {
        return Err(
            "TLS is not supported; reach the daemon by http, through a tunnel if it is elsewhere".to_owned()
        );
    }
    let address: hyper::Uri = text.parse().map_err(|_| malformed())?;
    let authority = address.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.filter(|_| address.scheme_str() == Some("http")).ok_or_else(malformed)?;
    if authority.as_str().contains('@') {
        return Err("a user and a password cannot be in it".to_owned());
    }
    match (address.path().trim_end_matches('/'), address.query()) {
        ("" | "/api/v0", None) => Ok(format!("http://{authority}")),
        _ => Err(malformed()),
    }
}

/// A dotted name in lower case, such as `alice.eth`.
pub(super) fn ens_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        !label.is_empty() && label.bytes().all(plain)
    };
    if text.len() > MAX_NAME_BYTES || !text.contains('.') || !text.split('.').all(label) {
        return Err(
            "write a name like alice.eth: lower-case letters, digits, - and _, with dots between".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// A name that can be part of a folder's name.
pub(super) fn node_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.bytes().all(plain) {
        return Err("use at most 64 letters, digits, dots, - and _, not beginning with a dot".to_owned());
    }
    Ok(text.to_owned())
}

/// What `verify` checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A job whose receipt is kept, or an epoch's header.
    Link(Link),
    /// A receipt in a file.
    File(PathBuf),
}

impl FromStr for Subject {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Subject::File(PathBuf::from(text)), Subject::Link))
    }
}

/// Whose earnings are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earner {
    Wallet(Address),
    /// A miner that runs, or ran, here.
    Miner(String),
}

impl FromStr for Earner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("0x") {
            Some(_) => {
                text.parse().map(Earner::Wallet).map_err(|_| "an address is 0x and 40 digits".to_owned())
            }
            None => node_name(text).map(Earner::Miner),
        }
    }
}

/// The id of a job.
pub(super) fn job_id(text: &str) -> Result<JobId, String> {
    text.parse().map_err(|_| "a job's id begins with bafyrei; submit prints it".to_owned())
}

/// The id of a proof.
pub(super) fn proof_id(text: &str) -> Result<Link, String> {
    text.parse().map_err(|_| "a proof's id begins with bafyrei; its job's receipt has it".to_owned())
}

/// What names content: a CID with a sha2-256 digest, and a path below it, as in `/ipfs/bafy…/jobs/pending`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentPath {
    pub root: cid::Cid,
    pub path: Vec<String>,
}

impl FromStr for ContentPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PATH_BYTES {
            return Err(format!("a path has at most {MAX_PATH_BYTES} bytes"));
        }
        let text = ["/ipfs/", "ipfs://"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
        let mut names = text.split('/');
        let root = names.next().unwrap_or_default().parse::<cid::Cid>();
        let root = root.map_err(|_| "a CID begins with bafkrei, bafyrei or bafybei".to_owned())?;
        if root.hash().code() != SHA2_256 {
            return Err("only content under a sha2-256 digest can be checked here".to_owned());
        }
        Ok(Self { root, path: names.filter(|name| !name.is_empty()).map(str::to_owned).collect() })
    }
}

impl fmt::Display for ContentPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.root)?;
        self.path.iter().try_for_each(|name| write!(formatter, "/{name}"))
    }
}

/// The known word that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > MAX_NAME_BYTES {
        return None;
    }
    let lower = word.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&lower, name);
    let near = known.iter().copied().min_by_key(|name| distance(name))?;
    (distance(near) <= MAX_TYPOS.min(near.len() / 2)).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_content_an_age() {
        assert_eq!(content_size("4GiB"), Ok(4 << 30));
        assert_eq!(content_size("64MiB"), Ok(64 << 20));
        for text in ["4", "4GB", "GiB", "-1GiB", "63MiB", "18446744073709551615GiB"] {
            assert!(content_size(text).is_err(), "{text}");
        }
        assert_eq!(content_age("26h"), Ok(Millis(26 * 3_600_000)));
        assert!(content_age("25h").unwrap_err().contains("at least 26h"));
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in [
            ("400ms", 400),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Millis(millis)), "{text}");
        }
        for text in ["", "s", "5", "1.5s", "-1s", "1 s", "1S", "1w", "99999999999999999999s", "400d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(positive_duration("0ms").is_err() && positive_duration("1ms").is_ok());
        assert!(window("2s").is_ok() && window("0").is_ok() && window("2001ms").is_err());
    }

    #[test]
    fn a_port_alone_is_one_of_the_loopback() {
        for (text, address) in
            [("9477", "127.0.0.1:9477"), ("0.0.0.0:1", "0.0.0.0:1"), ("[::1]:9477", "[::1]:9477")]
        {
            assert_eq!(listener(text).map(|a| a.to_string()).as_deref(), Ok(address));
        }
        for text in ["", "localhost", "127.0.0.1", "65536", "localhost:9477", "http://127.0.0.1:9477/metrics"]
        {
            assert!(listener(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_daemon_is_named_by_the_address_of_its_api() {
        for text in ["http://127.0.0.1:5001", "http://127.0.0.1:5001/", "http://127.0.0.1:5001/api/v0/"] {
            assert_eq!(ipfs_api(text).as_deref(), Ok("http://127.0.0.1:5001"), "{text}");
        }
        assert_eq!(ipfs_api("http://[::1]:5001").as_deref(), Ok("http://[::1]:5001"));
        assert_eq!(ipfs_api("http://ipfs").as_deref(), Ok("http://ipfs"));
        for bad in [
            "",
            "localhost:5001",
            "127.0.0.1:5001",
            "5001",
            "http://",
            "http://:5001",
            "/ip4/127.0.0.1/tcp/5001",
            "ftp://a:1",
            "https://a:5001",
            "http://me:secret@a:5001",
            "http://a:5001/ipfs",
            "http://a:5001/?x=1",
        ] {
            assert!(ipfs_api(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_checked() {
        for good in ["alice.eth", "a-1.pool.eth", "swarmpool.eth"] {
            assert_eq!(ens_name(good).as_deref(), Ok(good));
        }
        for bad in ["alice", "Alice.eth", ".eth", "alice..eth", "al ice.eth", "../x.eth", ""] {
            assert!(ens_name(bad).is_err(), "{bad}");
        }
        assert!(node_name("gpu-0").is_ok());
        for bad in ["", ".", "..", "a/b", "a b"] {
            assert!(node_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_typo_finds_its_word_and_nonsense_finds_none() {
        let known = ["max_tokens", "temperature", "top_p", "seed", "stop"];
        assert_eq!(nearest("max_token", &known), Some("max_tokens"));
        assert_eq!(nearest("Temprature", &known), Some("temperature"));
        assert_eq!(nearest("topp", &known), Some("top_p"));
        assert_eq!(nearest("presence_penalty", &known), None);
        assert_eq!(nearest("n", &known), None);
    }

    #[test]
    fn content_is_named_as_ipfs_names_it() {
        let root = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
        let named = |text: &str| text.parse::<ContentPath>().map(|content| content.to_string());
        for text in [root.to_owned(), format!("/ipfs/{root}"), format!("ipfs://{root}/")] {
            assert_eq!(named(&text).as_deref(), Ok(root));
        }
        assert_eq!(named(&format!("{root}//jobs/pending/")), Ok(format!("{root}/jobs/pending")));
        for bad in ["", "/", "jobs/pending", "bafk", "z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"] {
            assert!(named(bad).is_err(), "{bad}");
        }
        assert!(named(&format!("{root}/{}", "x/".repeat(MAX_PATH_BYTES))).is_err());
    }

    #[test]
    fn a_receipt_is_named_by_its_job_or_its_file() {
        let job = JobId::of(b"job");
        assert_eq!(job.to_string().parse(), Ok(Subject::Link(job)));
        assert_eq!("receipt.bin".parse(), Ok(Subject::File("receipt.bin".into())));
    }
}
