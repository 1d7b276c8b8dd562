//! The log of a pool on a Redis server, for operators on several machines: one stream, appended by compare-and-set, and
//! one key that says which process is the active one.
//!
//! An entry of the stream is a run of records (`run`); its id is one more than the number of its first record, as ids
//! begin above zero. Beside it stand the number of the next record and the hash of the last, which every append compares
//! and sets in one script, so that Redis keeps all of an append or none of it.

use super::LedgerError;
use redis::{Connection, ErrorKind, RedisError, Script, ScriptInvocation, Value};
use std::thread::sleep;
use std::time::{Duration, Instant};
use swarm_crypto::digest::Digest;

/// How long a process stays the active one without saying so again.
pub const ACTIVE_FOR: Duration = Duration::from_secs(3);
/// How long a server may be away before whoever needs it gives up.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

const APPEND: &str = r"
local active = redis.call('GET', KEYS[3])
if active and active ~= ARGV[1] then return {'deposed', active} end
local tail = redis.call('HMGET', KEYS[2], 'next', 'head')
local next, head = tail[1] or '0', tail[2] or ARGV[7]
if next == ARGV[5] and head == ARGV[6] then return {'done'} end
if next ~= ARGV[3] or head ~= ARGV[4] then return {'conflict', next} end
for i = 8, #ARGV, 2 do redis.call('XADD', KEYS[1], ARGV[i], 'run', ARGV[i + 1]) end
redis.call('HSET', KEYS[2], 'next', ARGV[5], 'head', ARGV[6])
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return {'done'}";
const TAKE: &str = r"
local active = redis.call('GET', KEYS[1])
if active and active ~= ARGV[1] then return active end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''";
const KEEP: &str = r"
local active = redis.call('GET', KEYS[1])
if active and active ~= ARGV[1] then return active end
local seq = redis.call('HGET', KEYS[2], 'seq')
if seq and tonumber(seq) >= tonumber(ARGV[2]) then return '' end
redis.call('HSET', KEYS[2], 'seq', ARGV[2], 'row', ARGV[3])
return ''";
/// The run with the record that is the first to stay begins with that record or before.
const TRIM: &str = r"
local active = redis.call('GET', KEYS[1])
if active and active ~= ARGV[1] then return active end
local seq = redis.call('HGET', KEYS[2], 'seq')
if not seq or tonumber(seq) < tonumber(ARGV[2]) then return '' end
local first = redis.call('XREVRANGE', KEYS[3], ARGV[3], '-', 'COUNT', 1)[1]
if first then redis.call('XTRIM', KEYS[3], 'MINID', first[1]) end
return ''";
const LEAVE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return ''";

/// An entry of a stream: its id, and its fields.
type Entry = (String, Vec<(String, Vec<u8>)>);

/// Which servers, and how much they may lose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Where: the first that is a master is used.
    pub urls: Vec<String>,
    /// Whether a server that can lose what it acknowledged will do.
    pub lossy: bool,
    /// What this process calls itself.
    pub token: String,
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    pub next_seq: u64,
    pub head: Digest,
}

/// A pool's log on Redis.
pub struct RedisLog {
    config: RedisConfig,
    /// The stream, its tail, who is active, and the checkpoint; all in one slot of a cluster.
    keys: [String; 4],
    connection: Option<Connection>,
}

impl std::fmt::Debug for RedisLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLog")
            .field("config", &self.config)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl RedisLog {
    /// Connects to the first master; refuses one that may lose what it has acknowledged.
    pub fn open(config: RedisConfig, pool: &[u8; 32]) -> Result<Self, LedgerError> {
        let key = |name: &str| format!("swarmpool:{{{}}}:{name}", hex::encode(pool));
        let keys = [key("log"), key("tail"), key("active"), key("checkpoint")];
        let mut log = Self { config, keys, connection: None };
        let connection = log.connection()?;
        let unsafe_because = unsafe_setting(connection)?;
        match unsafe_because {
            Some(why) if log.config.lossy => {
                tracing::warn!(
                    "--redis-lossy: {why}; what was promised can be LOST when Redis or its machine fails"
                );
            }
            Some(why) => return Err(LedgerError::LossyRedis(why)),
            None => {}
        }
        Ok(log)
    }

    /// Where the log ends.
    pub fn tail(&mut self) -> Result<Tail, LedgerError> {
        let key = self.keys[1].clone();
        let (next, head): (Option<u64>, Option<String>) =
            self.retry(|connection| redis::cmd("HMGET").arg(&key).arg(&["next", "head"]).query(connection))?;
        let head = head.map_or(Ok(super::NO_RECORD), |text| text.parse());
        let head = head.map_err(|_| self.damaged("the hash of its last record is none"))?;
        Ok(Tail { next_seq: next.unwrap_or(0), head })
    }

    /// Appends runs between two tails; nothing else may have been appended since the first. After a failure it can be
    /// called again with the same, also if the first call was carried out.
    pub fn append(&mut self, from: Tail, to: Tail, runs: &[(u64, Vec<u8>)]) -> Result<(), LedgerError> {
        let script = Script::new(APPEND);
        let mut call = script.prepare_invoke();
        self.keys[..3].iter().for_each(|key| _ = call.key(key));
        call.arg(&self.config.token).arg(millis(ACTIVE_FOR));
        for tail in [from, to] {
            call.arg(tail.next_seq).arg(tail.head.to_string());
        }
        call.arg(super::NO_RECORD.to_string());
        for (seq, run) in runs {
            call.arg(format!("{}-0", seq + 1)).arg(run.as_slice());
        }
        let answer: Vec<String> = self.retry(|connection| call.invoke(connection))?;
        match answer.first().map(String::as_str) {
            Some("done") => Ok(()),
            Some("deposed") => Err(LedgerError::Deposed(answer.get(1).cloned().unwrap_or_default())),
            Some("conflict") => {
                let found = answer.get(1).and_then(|next| next.parse().ok()).unwrap_or(0);
                Err(LedgerError::Conflict { expected: from.next_seq, found })
            }
            _ => Err(self.damaged("it gives no answer to an append")),
        }
    }

    /// At most so many runs, from the one with the record `seq` on.
    pub fn read(&mut self, seq: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, LedgerError> {
        let (key, place) = (self.keys[0].clone(), format!("{}-0", seq.saturating_add(1)));
        let entries = self.retry(|connection| {
            let before: Vec<Entry> = redis::cmd("XREVRANGE")
                .arg(&key)
                .arg(&place)
                .arg("-")
                .arg("COUNT")
                .arg(1)
                .query(connection)?;
            let from = before.first().map_or("-", |(id, _)| id);
            redis::cmd("XRANGE").arg(&key).arg(from).arg("+").arg("COUNT").arg(most).query(connection)
        })?;
        self.runs(entries)
    }

    /// The first record that was not dropped.
    pub fn first_seq(&mut self) -> Result<u64, LedgerError> {
        let key = self.keys[0].clone();
        let first = self.retry(|connection| {
            redis::cmd("XRANGE").arg(&key).arg("-").arg("+").arg("COUNT").arg(1).query(connection)
        })?;
        Ok(self.runs(first)?.first().map_or(0, |(seq, _)| *seq))
    }

    fn runs(&self, entries: Vec<Entry>) -> Result<Vec<(u64, Vec<u8>)>, LedgerError> {
        let run = |(id, fields): Entry| {
            let seq = id.split('-').next()?.parse::<u64>().ok()?.checked_sub(1)?;
            Some((seq, fields.into_iter().next()?.1))
        };
        let runs: Option<Vec<_>> = entries.into_iter().map(run).collect();
        runs.ok_or_else(|| self.damaged("an entry of its log is none of this program's"))
    }

    /// The newest checkpoint that was kept, as it was.
    pub fn checkpoint(&mut self) -> Result<Option<Vec<u8>>, LedgerError> {
        let key = self.keys[3].clone();
        self.retry(|connection| redis::cmd("HGET").arg(&key).arg("row").query(connection))
    }

    /// Keeps a checkpoint of the state after all records before `seq`, unless there is a newer one.
    pub fn keep(&mut self, seq: u64, row: &[u8]) -> Result<(), LedgerError> {
        let script = Script::new(KEEP);
        let mut call = script.key(&self.keys[2]);
        call.key(&self.keys[3]).arg(&self.config.token).arg(seq).arg(row);
        self.as_active(&call)
    }

    /// Drops runs of records before `seq`, as long as the checkpoint is after them.
    pub fn trim(&mut self, seq: u64) -> Result<(), LedgerError> {
        let script = Script::new(TRIM);
        let mut call = script.key(&self.keys[2]);
        call.key(&self.keys[3]).key(&self.keys[0]);
        call.arg(&self.config.token).arg(seq).arg(format!("{}-0", seq.saturating_add(1)));
        self.as_active(&call)
    }

    /// Runs a script that says who is active, if it is another process.
    fn as_active(&mut self, call: &ScriptInvocation<'_>) -> Result<(), LedgerError> {
        let active: String = self.retry(|connection| call.invoke(connection))?;
        if active.is_empty() { Ok(()) } else { Err(LedgerError::Deposed(active)) }
    }

    /// Becomes, or stays, the active process; says who is, if it is another.
    pub fn take(&mut self) -> Result<Option<String>, LedgerError> {
        let (key, token) = (self.keys[2].clone(), self.config.token.clone());
        let script = Script::new(TAKE);
        let active: String =
            self.retry(|connection| script.key(&key).arg(&token).arg(millis(ACTIVE_FOR)).invoke(connection))?;
        Ok((!active.is_empty()).then_some(active))
    }

    /// The same, trying once.
    pub fn renew(&mut self) -> Result<Option<String>, LedgerError> {
        let active = self.once(TAKE)?;
        Ok((!active.is_empty()).then_some(active))
    }

    /// Is the active process no more, so that another need not wait; tries once.
    pub fn leave(&mut self) -> Result<(), LedgerError> {
        self.once(LEAVE).map(|_| ())
    }

    /// Runs a script about who is active.
    fn once(&mut self, script: &str) -> Result<String, LedgerError> {
        let (key, token) = (self.keys[2].clone(), self.config.token.clone());
        let script = Script::new(script);
        let connection = self.connection()?;
        let answered = script.key(&key).arg(&token).arg(millis(ACTIVE_FOR)).invoke(connection);
        answered.map_err(|error| {
            self.connection = None;
            self.unreachable(&error)
        })
    }

    /// Does `work`, over new connections as long as servers are away.
    fn retry<T>(
        &mut self,
        work: impl Fn(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, LedgerError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let error = match self.connection() {
                Ok(connection) => match work(connection) {
                    Ok(done) => return Ok(done),
                    Err(error) if is_final(&error) => return Err(self.unreachable(&error)),
                    Err(error) => self.unreachable(&error),
                },
                Err(error) => error,
            };
            self.connection = None;
            if Instant::now() >= until {
                return Err(error);
            }
            tracing::warn!("{error}; trying again");
            sleep(PAUSE);
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, LedgerError> {
        if self.connection.is_none() {
            self.connection = Some(self.connect()?);
        }
        Ok(self.connection.as_mut().expect("it was just made"))
    }

    /// The first of the servers that is a master.
    fn connect(&self) -> Result<Connection, LedgerError> {
        let mut last = LedgerError::Redis { url: "?".to_owned(), reason: "no server is named".to_owned() };
        for url in &self.config.urls {
            match master(url) {
                Ok(connection) => return Ok(connection),
                Err(reason) => last = LedgerError::Redis { url: hidden(url), reason },
            }
        }
        Err(last)
    }

    fn unreachable(&self, error: &RedisError) -> LedgerError {
        LedgerError::Redis { url: self.urls(), reason: error.to_string() }
    }

    fn damaged(&self, reason: &str) -> LedgerError {
        LedgerError::Redis { url: self.urls(), reason: reason.to_owned() }
    }

    fn urls(&self) -> String {
        self.config.urls.iter().map(|url| hidden(url)).collect::<Vec<_>>().join(", ")
    }
}

/// An address without its password.
fn hidden(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://…{}", &url[..scheme], &url[at..]),
        _ => url.to_owned(),
    }
}

fn master(url: &str) -> Result<Connection, String> {
    let say = |error: RedisError| error.to_string();
    let client = redis::Client::open(url).map_err(say)?;
    let mut connection = client.get_connection_with_timeout(CONNECT_TIMEOUT).map_err(say)?;
    connection.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(say)?;
    connection.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(say)?;
    let role: Vec<Value> = redis::cmd("ROLE").query(&mut connection).map_err(say)?;
    match role.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(connection),
        _ => Err("it is a replica, not the master".to_owned()),
    }
}

/// What makes a server lose acknowledged writes, if anything does.
fn unsafe_setting(connection: &mut Connection) -> Result<Option<String>, LedgerError> {
    for (name, wanted) in
        [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")]
    {
        let found: Result<Vec<String>, RedisError> =
            redis::cmd("CONFIG").arg("GET").arg(name).query(connection);
        let found = found.ok().and_then(|pair| pair.get(1).cloned());
        match found {
            Some(found) if found == wanted => {}
            Some(found) => return Ok(Some(format!("{name} of this Redis is '{found}', not '{wanted}'"))),
            None => return Ok(Some(format!("this Redis does not say what its {name} is"))),
        }
    }
    Ok(None)
}

/// Errors that trying again does not mend.
fn is_final(error: &RedisError) -> bool {
    !error.is_io_error()
        && !error.is_connection_dropped()
        && !error.is_timeout()
        && !matches!(
            error.kind(),
            ErrorKind::Io
                | ErrorKind::Server(
                    redis::ServerErrorKind::BusyLoading
                        | redis::ServerErrorKind::ReadOnly
                        | redis::ServerErrorKind::MasterDown
                        | redis::ServerErrorKind::TryAgain
                )
        )
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
