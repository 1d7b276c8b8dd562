//! Answers as people and programs read them: text, vectors, a picture, a benchmark's figures.

use crate::words::{best_rate, per_ns, rates};
use serde_json::{Number, Value, json};
use swarm_protocol::statement::{Body, Input, Job, JobType, Signed, Statement};
use swarm_protocol::workload::bench::{Figures, Spec};
use swarm_protocol::workload::{embed, image};

const NUMBER_BYTES: usize = 4;
const PNG_SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// An output, read as its job's workload writes it.
#[derive(Debug, PartialEq)]
pub(super) enum Rendered {
    /// As it is.
    Bytes(Vec<u8>),
    /// One vector for each text.
    Vectors(Vec<Vec<Value>>),
    /// A PNG, and what it was to be.
    Picture(Vec<u8>, image::Spec),
    /// What a benchmark found.
    Figures(Figures),
}

/// A job's statement, if it was sent from here, and the text that it links to.
type Kept = (Signed, Option<Vec<u8>>);

fn job_of((signed, _): &Kept) -> Option<Job> {
    match Statement::decode(&signed.payload).ok()?.body {
        Body::Job(job) => Some(job),
        _ => None,
    }
}

/// What the job's workload counts as it goes on.
pub(super) fn steps(kept: Option<&Kept>) -> &'static str {
    match kept.and_then(job_of).map(|job| job.job_type) {
        Some(JobType::Embed) => "texts",
        Some(JobType::TorchBench) => "products",
        Some(JobType::SdInfer) => "steps",
        Some(JobType::LlmGen) | None => "tokens",
    }
}

impl Rendered {
    /// Reads the output of a job, as text if it is not known which.
    pub fn read(output: &[u8], kept: Option<&Kept>) -> Self {
        let read = kept.and_then(|kept| {
            let job = job_of(kept)?;
            match job.job_type {
                JobType::LlmGen => None,
                JobType::SdInfer => picture(output, &job),
                JobType::Embed => vectors(output, &job, kept.1.as_deref()),
                JobType::TorchBench => Figures::decode(output).ok().map(Self::Figures),
            }
        });
        read.unwrap_or_else(|| Self::Bytes(output.to_vec()))
    }

    /// What belongs into the one JSON object.
    pub fn fields(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Bytes(bytes) => {
                let text = ("answer", Value::from(String::from_utf8_lossy(bytes)));
                let hex =
                    std::str::from_utf8(bytes).is_err().then(|| ("answer_hex", hex::encode(bytes).into()));
                std::iter::once(text).chain(hex).collect()
            }
            Self::Vectors(vectors) => vec![("vectors", json!(vectors))],
            Self::Picture(_, image::Spec { width, height, .. }) => {
                vec![("picture", json!({ "format": "png", "width": width, "height": height }))]
            }
            Self::Figures(figures) => vec![("figures", figures_json(figures))],
        }
    }

    /// Whether a terminal cannot show it: a picture, also of a job that was not sent from here.
    pub fn is_binary(&self) -> bool {
        match self {
            Self::Picture(..) => true,
            Self::Bytes(bytes) => bytes.starts_with(&PNG_SIGNATURE),
            Self::Vectors(_) | Self::Figures(_) => false,
        }
    }

    /// What is printed for a person: a vector to a line, as a list of JSON; a picture as it is.
    pub fn text(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) | Self::Picture(bytes, _) => bytes.clone(),
            Self::Vectors(vectors) => {
                let line = |vector: &Vec<Value>| format!("{}\n", json!(vector));
                vectors.iter().map(line).collect::<String>().into_bytes()
            }
            Self::Figures(figures) => in_words(figures).into_bytes(),
        }
    }
}

fn vectors(output: &[u8], job: &Job, linked: Option<&[u8]>) -> Option<Rendered> {
    let text = match &job.input {
        Input::Text(text) => text,
        Input::Linked { .. } => std::str::from_utf8(linked?).ok()?,
        Input::Chat(_) | Input::Sealed { .. } => return None,
    };
    let texts = embed::texts(text).len();
    let (numbers, []) = output.as_chunks::<NUMBER_BYTES>() else { return None };
    if numbers.is_empty() || numbers.len() % texts != 0 {
        return None;
    }
    let vector = |numbers: &[[u8; NUMBER_BYTES]]| {
        numbers.iter().map(|bytes| number(f32::from_le_bytes(*bytes))).collect()
    };
    Some(Rendered::Vectors(numbers.chunks(numbers.len() / texts).map(vector).collect()))
}

fn picture(output: &[u8], job: &Job) -> Option<Rendered> {
    let Input::Text(text) = &job.input else { return None };
    let (spec, _) = image::Spec::of_input(text).ok()?;
    Some(Rendered::Picture(output.to_vec(), spec))
}

/// A number in the fewest digits that lead back to it.
fn number(number: f32) -> Value {
    let shortest = number.to_string().parse().ok();
    shortest.and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}

fn figures_json(figures: &Figures) -> Value {
    json!({
        "spec": figures.spec, "operations": figures.operations, "traffic_bytes": figures.traffic,
        "total_ns": figures.total_ns, "best_ns": figures.best_ns,
        "gflop_per_s": per_ns(figures.operations, figures.total_ns), "best_gflop_per_s": best_rate(figures),
        "gb_per_s": per_ns(figures.traffic, figures.total_ns),
    })
}

fn in_words(figures: &Figures) -> String {
    let what = Spec::parse(&figures.spec).map_or_else(
        |_| figures.spec.clone(),
        |Spec { m, n, k, repeats, .. }| {
            let format = figures.spec.split(' ').next().unwrap_or_default();
            format!("{format}, {m}×{k} by {k}×{n}, {repeats} times")
        },
    );
    let ms = figures.total_ns / 1_000_000;
    format!("{what}: {} ({ms} ms in all, by the miner's clock)\n", rates(figures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        for (given, due) in
            [(0.1f32, "0.1"), (-0.053_843_22, "-0.05384322"), (1.0, "1.0"), (f32::NAN, "null")]
        {
            assert_eq!(number(given).to_string(), due);
        }
        let tiny = number(1e-20f32).to_string();
        assert_eq!(tiny.parse::<f32>().unwrap(), 1e-20);
    }

    #[test]
    fn a_benchmark_is_told_in_words() {
        let spec = Spec::parse("f32 512 512 512 4").unwrap();
        let laps = [(20_000_000, 1), (10_000_000, 2), (30_000_000, 3), (40_000_000, 4)];
        let figures = Figures::of(&spec, &laps).unwrap();
        let words = "f32, 512×512 by 512×512, 4 times: 10.7 GFLOP/s (best 26.8), 0.1 GB/s (100 ms in all, by the miner's clock)\n";
        assert_eq!(String::from_utf8(Rendered::Figures(figures).text()).unwrap(), words);
    }

    #[test]
    fn an_output_of_a_job_that_is_not_known_stays_what_it_is() {
        assert_eq!(Rendered::read(b"text", None).text(), b"text");
        let fields = Rendered::read(&[0xff, 0xfe], None).fields();
        assert_eq!(fields[1], ("answer_hex", "fffe".into()));
        let is_binary = |bytes: &[u8]| Rendered::read(bytes, None).is_binary();
        assert!(is_binary(b"\x89PNG\r\n\x1a\n...") && !is_binary(b"PNG") && !is_binary(b""));
    }
}
