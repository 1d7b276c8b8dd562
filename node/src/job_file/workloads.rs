//! What job files of other workloads than text have of their own.

use super::fields::{Fault, Field, Fields};
use super::{PARAMS, Source, within_input};
use crate::cli::UserError;
use std::path::Path;
use swarm_protocol::statement::{Assurance, JobType, Params};
use swarm_protocol::workload::bench::{DType, MAX_REPEATS, MAX_SIDE, Spec};
use swarm_protocol::workload::{embed, image};

/// The longest run where a file says nothing, in seconds: for a picture what a lease lasts by default.
pub(super) fn max_runtime_s(job_type: JobType) -> u32 {
    match job_type {
        JobType::LlmGen | JobType::Embed | JobType::TorchBench => 120,
        JobType::SdInfer => 300,
    }
}

/// What holds where a file says nothing: parameters, and the assurance.
pub(super) fn defaults(job_type: JobType) -> (Params, Assurance) {
    match job_type {
        JobType::LlmGen => {
            let params =
                Params { max_tokens: 128, temperature: 7_000, top_p: 9_500, seed: None, stop: Vec::new() };
            (params, Assurance::Seeded)
        }
        // No token is sampled.
        JobType::Embed | JobType::SdInfer | JobType::TorchBench => {
            let params =
                Params { max_tokens: 1, temperature: 0, top_p: 10_000, seed: None, stop: Vec::new() };
            (params, Assurance::Distance)
        }
    }
}

/// An input to show to somebody who left it out.
pub(super) fn example(job_type: JobType) -> &'static str {
    match job_type {
        JobType::LlmGen => "{\"text\": \"your prompt\"}",
        JobType::Embed => "{\"texts\": [\"a text\", \"another\"]}",
        JobType::SdInfer => "{\"picture\": {\"prompt\": \"what it shows\"}}",
        JobType::TorchBench => {
            "{\"product\": {\"dtype\": \"f32\", \"m\": 512, \"n\": 512, \"k\": 512, \"repeats\": 8}}"
        }
    }
}

/// Refuses fields that are about sampling tokens where none is sampled; a picture's noise has a seed too.
pub(super) fn check_fields(job_type: JobType, fields: &Fields<'_>) -> Result<(), Fault> {
    let foreign = |field: Field<'_>| {
        let problem = format!("is for llm_gen, not for {}; leave it out", job_type.as_str());
        Err(Fault::new(&field.path, problem))
    };
    let (params, assurance) = (fields.get("params"), fields.get("assurance"));
    match job_type {
        JobType::LlmGen => Ok(()),
        JobType::Embed | JobType::TorchBench => params.or(assurance).map_or(Ok(()), foreign),
        JobType::SdInfer => {
            let params = params.map(|params| Fields::of(&params, &PARAMS)).transpose()?;
            let sampling = PARAMS.iter().filter(|name| **name != "seed");
            let of_text = params.and_then(|params| sampling.into_iter().find_map(|name| params.get(name)));
            of_text.or(assurance).map_or(Ok(()), foreign)
        }
    }
}

/// The input of a form that only this workload has; nothing if the common ones are to be read.
pub(super) fn source(job_type: JobType, field: &Field<'_>) -> Result<Option<Source>, Fault> {
    let only = |name: &str, for_type: JobType| match field.has(name) && job_type != for_type {
        true => Err(Fault::new(
            format!("{}.{name}", field.path),
            format!("is for job_type {}", for_type.as_str()),
        )),
        false => Ok(()),
    };
    only("texts", JobType::Embed)?;
    only("picture", JobType::SdInfer)?;
    only("product", JobType::TorchBench)?;
    match job_type {
        JobType::Embed if field.has("texts") => {
            let fields = Fields::of(field, &["texts"])?;
            Ok(Some(Source::Text(texts(&fields.require("texts", "[\"a text\"]")?)?)))
        }
        JobType::Embed if field.has("messages") => {
            Err(Fault::new(&field.path, "must be texts, text, file, or cid with bytes for job_type embed"))
        }
        JobType::SdInfer => {
            let fields = Fields::of(field, &["picture"])?;
            let picture = fields.require("picture", "{\"prompt\": \"what it shows\"}")?;
            Ok(Some(Source::Text(self::picture(&picture)?)))
        }
        JobType::TorchBench => {
            let fields = Fields::of(field, &["product"])?;
            let product = fields.require("product", "{\"dtype\": \"f32\", \"m\": 512, …}")?;
            Ok(Some(Source::Text(spec(&product)?.to_string())))
        }
        JobType::Embed | JobType::LlmGen => Ok(None),
    }
}

/// The texts as the lines of one: a line break within one counts as a space.
fn texts(field: &Field<'_>) -> Result<String, Fault> {
    let items = field.list(embed::MAX_TEXTS)?;
    if items.is_empty() {
        return Err(Fault::new(&field.path, "must not be empty"));
    }
    let line = |item: &Field<'_>| {
        let text = item.text()?.replace('\n', " ");
        match embed::count(&text) {
            0 => Err(Fault::new(&item.path, "must not be blank")),
            _ => Ok(text),
        }
    };
    let lines: Vec<String> = items.iter().map(line).collect::<Result<_, _>>()?;
    Ok(within_input(field, &lines.join("\n"))?.to_owned())
}

/// What a file that says only what a picture shows asks for.
pub(super) const PICTURE: image::Spec = image::Spec { width: 512, height: 512, steps: 30, guidance: 7_500 };

/// A line that says what picture, and from the next on its prompt.
fn picture(field: &Field<'_>) -> Result<String, Fault> {
    if field.has("seed") {
        return Err(Fault::new(
            format!("{}.seed", field.path),
            "is a parameter; write \"params\": {\"seed\": 7}",
        ));
    }
    let fields = Fields::of(field, &["prompt", "width", "height", "steps", "guidance"])?;
    let prompt = fields.require("prompt", "\"what it shows\"")?;
    let shows = prompt.string("text in quotes")?;
    if shows.len() > image::MAX_PROMPT_BYTES {
        let most = image::MAX_PROMPT_BYTES;
        return Err(Fault::new(&prompt.path, format!("has {} bytes; {most} is the most", shows.len())));
    }
    let number = |name, (least, most): (u32, u32), default: u32| {
        let number = fields.whole(name, (least.into(), most.into()), default.into())?;
        Ok(u32::try_from(number).expect("its range was checked"))
    };
    let sides = (image::SIDE_STEP, image::MAX_SIDE);
    let spec = image::Spec {
        width: number("width", sides, PICTURE.width)?,
        height: number("height", sides, PICTURE.height)?,
        steps: number("steps", (1, image::MAX_STEPS), PICTURE.steps)?,
        guidance: fields.get("guidance").map_or(Ok(PICTURE.guidance), |field| guidance(&field))?,
    };
    spec.check().map_err(|fault| Fault::new(&field.path, format!("cannot be painted: {fault}")))?;
    Ok(format!("{spec}\n{shows}"))
}

/// In thousandths.
fn guidance(field: &Field<'_>) -> Result<u32, Fault> {
    let tenths = field.ten_thousandths((10 * image::NO_GUIDANCE, 10 * image::MAX_GUIDANCE))?;
    if !tenths.is_multiple_of(10) {
        return Err(Fault::new(&field.path, "must have at most three decimals"));
    }
    Ok(tenths / 10)
}

fn spec(field: &Field<'_>) -> Result<Spec, Fault> {
    let fields = Fields::of(field, &["dtype", "m", "n", "k", "repeats"])?;
    let name = fields.require("dtype", "\"f32\"")?.choice(&DType::ALL.map(|(name, _)| name))?;
    let (_, dtype) = DType::ALL.into_iter().find(|(known, _)| *known == name).unwrap_or(DType::ALL[0]);
    let number = |name, most: u32, example| {
        let number = fields.require(name, example)?.whole((1, u64::from(most)))?;
        Ok(u32::try_from(number).expect("its range was checked"))
    };
    let spec = Spec {
        dtype,
        m: number("m", MAX_SIDE, "512")?,
        n: number("n", MAX_SIDE, "512")?,
        k: number("k", MAX_SIDE, "512")?,
        repeats: number("repeats", MAX_REPEATS, "8")?,
    };
    spec.check().map_err(|fault| Fault::new(&field.path, format!("is too large: {fault}")))?;
    Ok(spec)
}

/// Refuses a file of more texts than are answered.
pub(super) fn check_file(job_type: JobType, path: &Path, text: &str) -> Result<(), UserError> {
    let count = embed::count(text);
    if job_type != JobType::Embed || (1..=embed::MAX_TEXTS).contains(&count) {
        return Ok(());
    }
    let told = format!(
        "{} holds {count} texts, each line being one; 1 to {} are embedded",
        path.display(),
        embed::MAX_TEXTS
    );
    Err(UserError::input(told).hint("split it into several jobs"))
}
