//! `job.json`: what a client writes, checked and turned into a job.
//!
//! `docs/job.schema.json` is the published form; [`JobFile::read`] holds each file against it and says in one
//! plain line what is wrong. Numbers are read from their text, so that no amount passes through a float.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cid::Cid;
use swarm_protocol::codec;
use swarm_protocol::money::{MIN_PRICE, MicroUsdc};
use swarm_protocol::statement::{
    Assurance, Input, Job, JobType, MAX_INPUT_BYTES, MAX_JOB_LIFE, MAX_NAME_BYTES, MAX_PROMPT_BYTES,
    MAX_STOP_BYTES, MAX_STOPS, MAX_TEMPERATURE, MAX_TOKENS, Message, Params,
};
use swarm_protocol::{Millis, Timestamp};

use crate::cli::UserError;
use crate::content::import;
use fields::{Fault, Field, Fields, shown};
use json::Json;

mod fields;
mod json;
mod schema;
#[cfg(test)]
mod tests;
mod workloads;

pub use schema::SCHEMA;

/// The largest job file, in bytes.
pub const MAX_JOB_FILE_BYTES: u64 = 2 * 1024 * 1024;
/// The largest encoded input that travels inside the statement, in bytes.
pub const MAX_INLINE_BYTES: usize = 6 * 1024;
/// Most messages of one conversation.
pub const MAX_MESSAGES: usize = 1024;
/// The longest run that a job may ask for, in seconds.
pub const MAX_RUNTIME_S: u64 = 86_400;
/// The most device memory that a job may ask for, in MiB.
pub const MAX_VRAM_MB: u64 = 1024 * 1024;

/// A job file that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFile {
    pub job_type: JobType,
    pub model: String,
    pub source: Source,
    pub params: Params,
    pub price: MicroUsdc,
    pub max_runtime_s: u32,
    pub vram_mb: u32,
    pub ttl: Millis,
    pub assurance: Assurance,
}

/// Where a job's input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Text(String),
    Chat(Vec<Message>),
    /// A file of UTF-8 text.
    File(PathBuf),
    /// A raw block or a UnixFS file that some node serves, and its length.
    Block {
        cid: Cid,
        bytes: u64,
    },
}

/// A job's input, and the text behind it if the client has to serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedInput {
    pub input: Input,
    pub text: Option<Vec<u8>>,
}

impl JobFile {
    /// Reads and checks the job file at `path`.
    pub fn read(path: &Path) -> Result<Self, UserError> {
        let text = read_text(path, MAX_JOB_FILE_BYTES)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(|problem| {
            let (problem, hint) = problem.split_once("; ").unwrap_or((&problem, EXAMPLE));
            UserError::input(format!("{}: {problem}", path.display())).hint(hint)
        })
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| syntax(text, &error))?;
        let json = json::parse(text).map_err(|error| match error {
            json::Error::Syntax(error) => syntax(text, &error),
            json::Error::Duplicate(path) => format!("{} is given twice; keep one", shown(&path)),
        })?;
        let job = Self::from_json(&json, folder).map_err(|fault| fault.to_string())?;
        schema::check(&value)?;
        Ok(job)
    }

    fn from_json(json: &Json, folder: &Path) -> Result<Self, Fault> {
        const KNOWN: [&str; 8] =
            ["job_type", "model", "input", "params", "payment", "limits", "ttl_s", "assurance"];
        let fields = Fields::of(&Field::root(json), &KNOWN)?;
        let max_ttl = MAX_JOB_LIFE.0 / 1000;
        let job_type = job_type(&fields.require("job_type", "\"llm_gen\"")?)?;
        let limits = limits(fields.get("limits").as_ref(), workloads::max_runtime_s(job_type))?;
        workloads::check_fields(job_type, &fields)?;
        let defaults = workloads::defaults(job_type);
        Ok(Self {
            job_type,
            model: model(&fields.require("model", "\"queenbee-nano\"")?)?,
            source: source(job_type, &fields.require("input", workloads::example(job_type))?, folder)?,
            params: fields
                .get("params")
                .map_or_else(|| Ok(defaults.0.clone()), |field| params(&field, &defaults.0))?,
            price: price(&fields.require("payment", PAYMENT)?)?,
            max_runtime_s: limits.0,
            vram_mb: limits.1,
            ttl: Millis::from_secs(fields.whole("ttl_s", (1, max_ttl), 600)?),
            assurance: fields.get("assurance").map_or(Ok(defaults.1), |field| assurance(&field))?,
        })
    }

    /// Reads the input's file, if it is one, and links to what is too large for a statement.
    pub fn prepare(&self) -> Result<PreparedInput, UserError> {
        let inline = |input: Input| (codec::encode(&input).len() <= MAX_INLINE_BYTES).then_some(input);
        match &self.source {
            Source::Text(text) => {
                inline(Input::Text(text.clone())).map_or_else(|| linked(text), in_statement)
            }
            Source::Chat(messages) => inline(Input::Chat(messages.clone()))
                .map_or_else(|| linked(&rendered(messages)), in_statement),
            Source::File(path) => {
                let text = read_text(path, MAX_PROMPT_BYTES)?;
                if text.is_empty() {
                    return Err(UserError::input(format!("{} is empty", path.display()))
                        .hint("write the prompt into it"));
                }
                workloads::check_file(self.job_type, path, &text)?;
                linked(&text)
            }
            Source::Block { cid, bytes } => in_statement(Input::Linked { cid: *cid, bytes: *bytes }),
        }
    }

    /// The job that is signed at `now`.
    pub fn job(&self, input: Input, now: Timestamp) -> Job {
        Job {
            job_type: self.job_type,
            model: self.model.clone(),
            input,
            params: self.params.clone(),
            price: self.price,
            not_after: now + self.ttl,
            max_runtime_s: self.max_runtime_s,
            vram_mb: self.vram_mb,
            assurance: self.assurance,
        }
    }
}

/// The names of all parameters.
const PARAMS: [&str; 5] = ["max_tokens", "temperature", "top_p", "seed", "stop"];

const EXAMPLE: &str = "correct the file; swarm-client submit --help shows a good one";
const PAYMENT: &str = "{\"amount\": \"0.10\", \"currency\": \"USDC\"}";
/// MiB of device memory where a file says nothing: whatever it takes.
const ANY_MEMORY: u32 = 0;

fn job_type(field: &Field<'_>) -> Result<JobType, Fault> {
    Ok(match field.choice(&["llm_gen", "embed", "sd_infer", "torch_bench"])? {
        "embed" => JobType::Embed,
        "sd_infer" => JobType::SdInfer,
        "torch_bench" => JobType::TorchBench,
        _ => JobType::LlmGen,
    })
}

fn model(field: &Field<'_>) -> Result<String, Fault> {
    let name = field.text()?;
    if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(Fault::new(
            &field.path,
            format!("must be a name of at most {MAX_NAME_BYTES} bytes on one line"),
        ));
    }
    Ok(name.to_owned())
}

fn source(job_type: JobType, field: &Field<'_>, folder: &Path) -> Result<Source, Fault> {
    if field.has("sealed") {
        return Err(Fault::new("input.sealed", "is not built in this version: every input is public"));
    }
    if let Some(source) = workloads::source(job_type, field)? {
        return Ok(source);
    }
    let fields = Fields::of(field, &["text", "messages", "file", "cid", "bytes"])?;
    let forms = ["text", "messages", "file", "cid"].map(|name| fields.get(name));
    match forms {
        [Some(text), None, None, None] => Ok(Source::Text(within_input(&text, text.text()?)?.to_owned())),
        [None, Some(messages), None, None] => Ok(Source::Chat(chat(&messages)?)),
        [None, None, Some(file), None] => Ok(Source::File(folder.join(file.text()?))),
        [None, None, None, Some(cid)] => {
            let bytes = fields.require("bytes", "the length of the text")?.whole((1, MAX_INPUT_BYTES))?;
            Ok(Source::Block { cid: block_cid(&cid)?, bytes })
        }
        _ => Err(Fault::new(&field.path, "must have exactly one of text, messages, file, or cid with bytes")),
    }
}

fn within_input<'a>(field: &Field<'_>, text: &'a str) -> Result<&'a str, Fault> {
    if text.len() as u64 > MAX_PROMPT_BYTES {
        let problem = format!("has {} bytes; {MAX_PROMPT_BYTES} is the most", text.len());
        return Err(Fault::new(&field.path, problem));
    }
    Ok(text)
}

fn chat(field: &Field<'_>) -> Result<Vec<Message>, Fault> {
    let items = field.list(MAX_MESSAGES)?;
    if items.is_empty() {
        return Err(Fault::new(&field.path, "must not be empty"));
    }
    let message = |item: &Field<'_>| {
        let fields = Fields::of(item, &["role", "content"])?;
        let role = fields.require("role", "\"user\"")?.choice(&["system", "user", "assistant"])?;
        let content = fields.require("content", "\"what is said\"")?.text()?;
        Ok(Message { role: role.to_owned(), content: content.to_owned() })
    };
    let messages: Vec<Message> = items.iter().map(message).collect::<Result<_, Fault>>()?;
    within_input(field, &rendered(&messages))?;
    Ok(messages)
}

fn block_cid(field: &Field<'_>) -> Result<Cid, Fault> {
    let text = field.text()?;
    let wrong = |_| Fault::new(&field.path, format!("must be a CID, not \"{}\"", shown(text)));
    let cid = Cid::from_str(text).map_err(wrong)?;
    if !codec::may_be_file(&cid) {
        return Err(Fault::new(
            &field.path,
            "must be a CIDv1 of a raw block or a UnixFS file with sha2-256 (it begins with bafkrei or bafybei)",
        ));
    }
    Ok(cid)
}

fn params(field: &Field<'_>, default: &Params) -> Result<Params, Fault> {
    let fields = Fields::of(field, &PARAMS)?;
    let max_tokens = fields.whole("max_tokens", (1, MAX_TOKENS.into()), default.max_tokens.into())?;
    let tenths = |name, range, default| {
        fields.get(name).map_or(Ok(default), |field: Field<'_>| field.ten_thousandths(range))
    };
    Ok(Params {
        max_tokens: narrow(max_tokens),
        temperature: tenths("temperature", (0, MAX_TEMPERATURE), default.temperature)?,
        top_p: tenths("top_p", (1, 10_000), default.top_p)?,
        seed: fields.get("seed").map(|field| field.whole((0, u64::MAX))).transpose()?,
        stop: fields.get("stop").map_or_else(|| Ok(Vec::new()), |field| stops(&field))?,
    })
}

fn stops(field: &Field<'_>) -> Result<Vec<String>, Fault> {
    let stop = |item: &Field<'_>| {
        let text = item.text()?;
        if text.len() > MAX_STOP_BYTES {
            return Err(Fault::new(
                &item.path,
                format!("has {} bytes; {MAX_STOP_BYTES} is the most", text.len()),
            ));
        }
        Ok(text.to_owned())
    };
    field.list(MAX_STOPS)?.iter().map(stop).collect()
}

fn price(field: &Field<'_>) -> Result<MicroUsdc, Fault> {
    let fields = Fields::of(field, &["amount", "currency"])?;
    fields.require("currency", "\"USDC\"")?.choice(&["USDC"])?;
    let amount = fields.require("amount", "\"0.10\"")?;
    let text = amount.string("text such as \"0.10\"")?;
    let price = MicroUsdc::from_str(&shown(text))
        .map_err(|error| Fault::new(format!("{}:", amount.path), error.to_string()))?;
    if price < MIN_PRICE {
        return Err(Fault::new(&amount.path, format!("must be at least {MIN_PRICE} USDC, not {text}")));
    }
    Ok(price)
}

/// Seconds of a run, and MiB of device memory.
fn limits(field: Option<&Field<'_>>, max_runtime_s: u32) -> Result<(u32, u32), Fault> {
    let Some(field) = field else { return Ok((max_runtime_s, ANY_MEMORY)) };
    let fields = Fields::of(field, &["max_runtime_s", "vram_mb"])?;
    let runtime = fields.whole("max_runtime_s", (1, MAX_RUNTIME_S), max_runtime_s.into())?;
    let vram = fields.whole("vram_mb", (0, MAX_VRAM_MB), ANY_MEMORY.into())?;
    Ok((narrow(runtime), narrow(vram)))
}

fn assurance(field: &Field<'_>) -> Result<Assurance, Fault> {
    Ok(match field.choice(&["seeded", "distance"])? {
        "seeded" => Assurance::Seeded,
        _ => Assurance::Distance,
    })
}

fn narrow(checked: u64) -> u32 {
    u32::try_from(checked).expect("its range was checked")
}

fn in_statement(input: Input) -> Result<PreparedInput, UserError> {
    Ok(PreparedInput { input, text: None })
}

fn linked(text: &str) -> Result<PreparedInput, UserError> {
    let (bytes, (cid, _)) = (text.len() as u64, import(text.as_bytes()));
    Ok(PreparedInput { input: Input::Linked { cid, bytes }, text: Some(text.as_bytes().to_vec()) })
}

fn rendered(messages: &[Message]) -> String {
    let turn = |message: &Message| swarm_inference::Message {
        role: message.role.clone(),
        content: message.content.clone(),
    };
    swarm_inference::render_chat(&messages.iter().map(turn).collect::<Vec<_>>())
}

fn read_text(path: &Path, max: u64) -> Result<String, UserError> {
    let name = path.display();
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => UserError::input(format!("{name} does not exist")).hint("check the path"),
        ErrorKind::IsADirectory => UserError::input(format!("{name} is a folder")).hint("name a file in it"),
        ErrorKind::PermissionDenied => {
            UserError::input(format!("{name} may not be read by you")).hint("see its permissions with ls -l")
        }
        _ => UserError::input(format!("{name} cannot be read: {error}")).hint("check the path"),
    };
    let mut bytes = Vec::new();
    File::open(path).map_err(unreadable)?.take(max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max {
        return Err(UserError::input(format!("{name} has more than {max} bytes")).hint("make it smaller"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        UserError::input(format!("{name} is not UTF-8 text: byte {at} is wrong")).hint("save it as UTF-8")
    })
}

fn syntax(text: &str, error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let row = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let from = row.char_indices().map(|(at, _)| at).take_while(|at| *at < column).last().unwrap_or(0);
    let word: String = row[from..].chars().take_while(|c| c.is_alphanumeric()).collect();
    let full = error.to_string();
    let cause = full.split(" at line ").next().unwrap_or(&full);
    if error.is_eof() {
        return format!("line {line}, column {column}: the file ends too early ({cause})");
    }
    if error.is_syntax() && !word.is_empty() {
        return format!("line {line}, column {column}: {cause}, found '{}'", shown(&word));
    }
    format!("line {line}, column {column}: {cause}")
}
