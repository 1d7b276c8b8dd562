use super::*;
use std::fs;

const GOOD: &str = r#"{
  "job_type": "llm_gen",
  "model": "queenbee-nano",
  "input": {"text": "Once"},
  "params": {"max_tokens": 60},
  "payment": {"amount": "0.10", "currency": "USDC"},
  "limits": {"vram_mb": 0},
  "ttl_s": 600
}"#;

fn parse(text: &str) -> Result<JobFile, String> {
    JobFile::parse(text, Path::new("folder"))
}

fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replace(from, to)
}

/// What is replaced in a good file, what by, and what the user is told.
const MISTAKES: &[(&str, &str, &str)] = &[
    // Not JSON.
    ("\"0.10\"", "NaN", "line 6, column 25: expected value, found 'NaN'"),
    ("\"queenbee-nano\"", "'queenbee'", "line 3, column 12: expected value"),
    (
        "\"ttl_s\": 600\n}",
        "\"ttl_s\": 600",
        "line 8, column 14: the file ends too early (EOF while parsing an object)",
    ),
    ("\"ttl_s\": 600", "\"ttl_s\": 600,", "line 9, column 1: trailing comma"),
    ("\"ttl_s\": 600", "\"ttl_s\": 600, \"ttl_s\": 60", "ttl_s is given twice; keep one"),
    ("{\"max_tokens\": 60}", "{\"seed\": 1, \"seed\": 2}", "params.seed is given twice; keep one"),
    // Fields.
    ("\"ttl_s\"", "\"ttl\"", "ttl is not a field of a job file; did you mean \"ttl_s\"?"),
    (
        "\"max_tokens\"",
        "\"max_token\"",
        "params.max_token is not a field of params; did you mean \"max_tokens\"?",
    ),
    (
        "\"max_tokens\": 60",
        "\"presence_penalty\": 1",
        "params.presence_penalty is not a field of params, which has: max_tokens, temperature, top_p, seed, stop",
    ),
    ("\"model\": \"queenbee-nano\",", "", "model is missing; add \"model\": \"queenbee-nano\""),
    (
        "\"payment\": {\"amount\": \"0.10\", \"currency\": \"USDC\"},",
        "",
        "payment is missing; add \"payment\": {\"amount\": \"0.10\", \"currency\": \"USDC\"}",
    ),
    (", \"currency\": \"USDC\"", "", "payment.currency is missing; add \"currency\": \"USDC\""),
    ("{\"max_tokens\": 60}", "[]", "params must be an object in braces, not a list"),
    ("\"queenbee-nano\"", "7", "model must be text in quotes, not a number"),
    ("\"queenbee-nano\"", "\"\"", "model must not be empty"),
    ("\"queenbee-nano\"", "\"a\\nb\"", "model must be a name of at most 128 bytes on one line"),
    (
        "\"llm_gen\"",
        "\"llm\"",
        "job_type must be \"llm_gen\" or \"embed\" or \"sd_infer\" or \"torch_bench\", not \"llm\"",
    ),
    ("\"llm_gen\"", "\"sd_infer\"", "params.max_tokens is for llm_gen, not for sd_infer; leave it out"),
    ("\"llm_gen\"", "\"embed\"", "params is for llm_gen, not for embed; leave it out"),
    ("{\"text\": \"Once\"}", "{\"texts\": [\"Once\"]}", "input.texts is for job_type embed"),
    ("{\"text\": \"Once\"}", "{\"picture\": {\"prompt\": \"x\"}}", "input.picture is for job_type sd_infer"),
    ("{\"text\": \"Once\"}", "{\"product\": {}}", "input.product is for job_type torch_bench"),
    // Numbers.
    ("60}", "0}", "params.max_tokens must be 1 to 4096, not 0"),
    ("60}", "4097}", "params.max_tokens must be 1 to 4096, not 4097"),
    ("60}", "-1}", "params.max_tokens must be 1 to 4096, not -1"),
    ("60}", "1.5}", "params.max_tokens must be a whole number, not 1.5"),
    ("60}", "\"60\"}", "params.max_tokens must be a whole number, not text"),
    (
        "\"max_tokens\": 60",
        "\"temperature\": 0.70001",
        "params.temperature must have at most four decimals, not 0.70001",
    ),
    (
        "\"max_tokens\": 60",
        "\"temperature\": 0.7000000000000000001",
        "params.temperature must have at most four decimals, not 0.7000000000000000001",
    ),
    ("\"max_tokens\": 60", "\"temperature\": -1", "params.temperature must be 0 to 10, not -1"),
    ("\"max_tokens\": 60", "\"temperature\": 10.0001", "params.temperature must be 0 to 10, not 10.0001"),
    (
        "\"max_tokens\": 60",
        "\"temperature\": \"hot\"",
        "params.temperature must be a plain decimal number such as 0.7, not hot",
    ),
    ("\"max_tokens\": 60", "\"top_p\": 0", "params.top_p must be 0.0001 to 1, not 0"),
    (
        "\"max_tokens\": 60",
        "\"top_p\": 9e-1",
        "params.top_p must be a plain decimal number such as 0.7, not 9e-1",
    ),
    (
        "\"max_tokens\": 60",
        "\"seed\": 18446744073709551616",
        "params.seed must be 0 to 18446744073709551615, not 18446744073709551616",
    ),
    ("\"max_tokens\": 60", "\"stop\": \"end\"", "params.stop must be a list in brackets, not text"),
    ("\"max_tokens\": 60", "\"stop\": [\"\"]", "params.stop[0] must not be empty"),
    (
        "\"max_tokens\": 60",
        "\"stop\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]",
        "params.stop has 9 entries; 8 is the most",
    ),
    ("\"ttl_s\": 600", "\"ttl_s\": 86401", "ttl_s must be 1 to 86400, not 86401"),
    ("\"vram_mb\": 0", "\"max_runtime_s\": 0", "limits.max_runtime_s must be 1 to 86400, not 0"),
    (
        "\"ttl_s\": 600",
        "\"assurance\": \"sure\"",
        "assurance must be \"seeded\" or \"distance\", not \"sure\"",
    ),
    // Money.
    (
        "\"0.10\"",
        "\"0.1234567\"",
        "payment.amount: '0.1234567' has more than six decimals; the smallest amount is 0.000001 USDC",
    ),
    ("\"0.10\"", "\"-1\"", "payment.amount: '-1' is not an amount; write it like \"0.10\""),
    ("\"0.10\"", "\"NaN\"", "payment.amount: 'NaN' is not an amount; write it like \"0.10\""),
    ("\"0.10\"", "\"\"", "payment.amount: '' is not an amount; write it like \"0.10\""),
    ("\"0.10\"", "0.10", "payment.amount must be text such as \"0.10\", not a number"),
    ("\"0.10\"", "\"0.000003\"", "payment.amount must be at least 0.000004 USDC, not 0.000003"),
    ("\"0.10\"", "\"99999999999999999999\"", "payment.amount: '99999999999999999999' is too large"),
    ("\"USDC\"", "\"EUR\"", "payment.currency must be \"USDC\", not \"EUR\""),
    // Input.
    ("{\"text\": \"Once\"}", "\"Once\"", "input must be an object in braces, not text"),
    ("{\"text\": \"Once\"}", "{}", "input must have exactly one of text, messages, file, or cid with bytes"),
    (
        "{\"text\": \"Once\"}",
        "{\"text\": \"Once\", \"file\": \"a\"}",
        "input must have exactly one of text, messages, file, or cid with bytes",
    ),
    ("{\"text\": \"Once\"}", "{\"text\": \"\"}", "input.text must not be empty"),
    (
        "{\"text\": \"Once\"}",
        "{\"prompt\": \"Once\"}",
        "input.prompt is not a field of input, which has: text, messages, file, cid, bytes",
    ),
    (
        "{\"text\": \"Once\"}",
        "{\"sealed\": \"x\"}",
        "input.sealed is not built in this version: every input is public",
    ),
    ("{\"text\": \"Once\"}", "{\"messages\": []}", "input.messages must not be empty"),
    (
        "{\"text\": \"Once\"}",
        "{\"messages\": [{\"role\": \"bot\", \"content\": \"hi\"}]}",
        "input.messages[0].role must be \"system\" or \"user\" or \"assistant\", not \"bot\"",
    ),
    (
        "{\"text\": \"Once\"}",
        "{\"messages\": [{\"role\": \"user\"}]}",
        "input.messages[0].content is missing; add \"content\": \"what is said\"",
    ),
    ("{\"text\": \"Once\"}", "{\"cid\": \"bafy\", \"bytes\": 4}", "input.cid must be a CID, not \"bafy\""),
    (
        "{\"text\": \"Once\"}",
        "{\"cid\": \"bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku\"}",
        "input.bytes is missing; add \"bytes\": the length of the text",
    ),
    (
        "{\"text\": \"Once\"}",
        "{\"cid\": \"QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG\", \"bytes\": 4}",
        "input.cid must be a CIDv1 of a raw block or a UnixFS file with sha2-256 (it begins with bafkrei or bafybei)",
    ),
];

#[test]
fn each_mistake_is_told_in_one_plain_line() {
    let found = |from: &str, to: &str| parse(&changed(from, to)).err();
    let wrong = MISTAKES.iter().filter(|(from, to, told)| found(from, to).as_deref() != Some(*told));
    let wrong: Vec<_> = wrong.map(|(from, to, _)| (to, found(from, to))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_schema_refuses_what_it_can_express() {
    let beyond = [
        "is given twice",
        "four decimals, not 0.7",
        "at least 0.000004",
        "is for llm_gen",
        "is for job_type embed",
        "is for job_type sd_infer",
        "too large",
        "on one line",
        "must be a CID",
        "not 9e-1",
    ];
    for (from, to, told) in MISTAKES {
        let Ok(value) = serde_json::from_str(&changed(from, to)) else { continue };
        let expected = !beyond.iter().any(|part| told.contains(part));
        assert_eq!(schema::check(&value).is_err(), expected, "{to}");
    }
}

#[test]
fn a_good_file_is_a_job_with_the_defaults_of_the_schema() {
    let job = parse(r#"{"job_type":"llm_gen","model":"m","input":{"text":"Once"},"payment":{"amount":"0.10","currency":"USDC"}}"#)
        .unwrap();
    assert_eq!(
        (job.params.clone(), (job.max_runtime_s, job.vram_mb)),
        (workloads::defaults(JobType::LlmGen).0, (120, ANY_MEMORY))
    );
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let default = |place: &str| schema.pointer(place).unwrap().to_string();
    let params = "/$defs/params/properties";
    assert_eq!(default(&format!("{params}/max_tokens/default")), job.params.max_tokens.to_string());
    assert_eq!(default(&format!("{params}/temperature/default")), "0.7");
    assert_eq!(default(&format!("{params}/top_p/default")), "0.95");
    assert_eq!(default("/$defs/limits/properties/max_runtime_s/default"), job.max_runtime_s.to_string());
    assert_eq!(default("/properties/ttl_s/default"), (job.ttl.0 / 1000).to_string());
    let signed = job.job(job.prepare().unwrap().input, Timestamp(5));
    assert_eq!((signed.input, signed.not_after), (Input::Text("Once".into()), Timestamp(600_005)));
    assert_eq!((signed.price, signed.assurance), (MicroUsdc(100_000), Assurance::Seeded));
}

/// A file of another workload than text.
fn other(job_type: &str, input: &str) -> Result<JobFile, String> {
    let payment = r#"{"amount":"0.10","currency":"USDC"}"#;
    parse(&format!(r#"{{"job_type":"{job_type}","model":"m","input":{input},"payment":{payment}}}"#))
}

#[test]
fn texts_are_the_lines_of_an_embedding_job() {
    let job = other("embed", r#"{"texts":["One\ntext.","Another."]}"#).unwrap();
    assert_eq!(job.job_type, JobType::Embed);
    assert_eq!(job.prepare().unwrap().input, Input::Text("One text.\nAnother.".into()));
    assert_eq!((job.params.temperature, job.params.max_tokens, job.assurance), (0, 1, Assurance::Distance));
    for (input, told) in [
        (r#"{"texts":[]}"#, "input.texts must not be empty"),
        (r#"{"texts":["a"," \n"]}"#, "input.texts[1] must not be blank"),
        (r#"{"texts":["a"],"text":"b"}"#, "input.text is not a field of input; did you mean \"texts\"?"),
        (
            r#"{"messages":[{"role":"user","content":"hi"}]}"#,
            "input must be texts, text, file, or cid with bytes for job_type embed",
        ),
    ] {
        assert_eq!(other("embed", input).unwrap_err(), told, "{input}");
    }
    let many = format!(r#"{{"texts":[{}"x"]}}"#, r#""x","#.repeat(256));
    assert_eq!(other("embed", &many).unwrap_err(), "input.texts has 257 entries; 256 is the most");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("texts.txt");
    fs::write(&path, "x\n\n".repeat(257)).unwrap();
    let file = format!(r#"{{"file":"{}"}}"#, path.display());
    let told = other("embed", &file).unwrap().prepare().unwrap_err();
    assert!(
        told.message.ends_with("holds 257 texts, each line being one; 1 to 256 are embedded"),
        "{told:?}"
    );
}

#[test]
fn a_picture_is_a_line_and_its_prompt() {
    let picture =
        |more: &str| other("sd_infer", &format!(r#"{{"picture":{{"prompt":"A bee,\nflying"{more}}}}}"#));
    let text = |more: &str| match picture(more).unwrap().prepare().unwrap().input {
        Input::Text(text) => text,
        input => panic!("{input:?}"),
    };
    assert_eq!(text(""), "512 512 30 7500\nA bee,\nflying");
    let all = r#","width":64,"height":1024,"steps":1,"guidance":1.25"#;
    assert_eq!(text(all), "64 1024 1 1250\nA bee,\nflying");
    assert_eq!(text(r#","guidance":"12.5000""#), "512 512 30 12500\nA bee,\nflying");
    let job = picture("").unwrap();
    assert_eq!((job.job_type, job.params.seed, job.max_runtime_s), (JobType::SdInfer, None, 300));
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let default = |name: &str| {
        let place = format!("/$defs/picture/properties/picture/properties/{name}/default");
        schema.pointer(&place).unwrap().to_string()
    };
    let due = workloads::PICTURE;
    let due = [due.width, due.height, due.steps].map(|number| number.to_string());
    assert_eq!(["width", "height", "steps"].map(default), due);
    assert_eq!(default("guidance"), "7.5");
    for (more, told) in [
        (r#","width":63"#, "input.picture.width must be 64 to 1024, not 63"),
        (
            r#","width":65"#,
            "input.picture cannot be painted: a side of a picture is a multiple of 64 up to 1024",
        ),
        (
            r#","width":640,"height":576"#,
            "input.picture cannot be painted: a picture has at most 327680 pixels, such as 512 by 640",
        ),
        (r#","steps":101"#, "input.picture.steps must be 1 to 100, not 101"),
        (r#","guidance":0.5"#, "input.picture.guidance must be 1 to 30, not 0.5"),
        (r#","guidance":7.0005"#, "input.picture.guidance must have at most three decimals"),
        (r#","seed":7"#, "input.picture.seed is a parameter; write \"params\": {\"seed\": 7}"),
    ] {
        assert_eq!(picture(more).unwrap_err(), told, "{more}");
    }
    let long = format!(r#"{{"picture":{{"prompt":"{}"}}}}"#, "x".repeat(2049));
    assert_eq!(
        other("sd_infer", &long).unwrap_err(),
        "input.picture.prompt has 2049 bytes; 2048 is the most"
    );
    let told = other("sd_infer", r#"{"text":"a bee"}"#).unwrap_err();
    assert_eq!(told, "input.text is not a field of input, which has: picture");
}

#[test]
fn a_product_is_one_line_of_a_benchmark() {
    let product = |dtype: &str, m: u32, repeats: u32| {
        let input =
            format!(r#"{{"product":{{"dtype":"{dtype}","m":{m},"n":4096,"k":4096,"repeats":{repeats}}}}}"#);
        other("torch_bench", &input)
    };
    let job = product("bf16", 1, 9).unwrap();
    assert_eq!(job.job_type, JobType::TorchBench);
    assert_eq!(job.prepare().unwrap().input, Input::Text("bf16 1 4096 4096 9".into()));
    assert_eq!(product("f64", 1, 1).unwrap_err(), {
        "input.product.dtype must be \"f32\" or \"f16\" or \"bf16\", not \"f64\""
    });
    assert_eq!(product("f32", 4097, 1).unwrap_err(), "input.product.m must be 1 to 4096, not 4097");
    assert_eq!(product("f32", 4096, 9).unwrap_err(), {
        "input.product is too large: repetitions times cells of both matrices are at most 268435456"
    });
    assert_eq!(other("torch_bench", r#"{"text":"f32 1 1 1 1"}"#).unwrap_err(), {
        "input.text is not a field of input, which has: product"
    });
}

#[test]
fn decimals_are_exact_as_numbers_and_as_text() {
    for (written, units) in
        [("0.7", 7_000), ("\"0.7\"", 7_000), ("0.0001", 1), ("1", 10_000), ("0.29", 2_900), ("10", 100_000)]
    {
        let job = parse(&changed("\"max_tokens\": 60", &format!("\"temperature\": {written}"))).unwrap();
        assert_eq!(job.params.temperature, units, "{written}");
    }
    let job = parse(&changed("\"max_tokens\": 60", "\"seed\": 18446744073709551615")).unwrap();
    assert_eq!(job.params.seed, Some(u64::MAX));
}

#[test]
fn large_inputs_travel_as_blocks() {
    let small = parse(GOOD).unwrap().prepare().unwrap();
    assert_eq!((small.input, small.text), (Input::Text("Once".into()), None));

    let text = "a".repeat(MAX_INLINE_BYTES);
    let large = parse(&changed("Once", &text)).unwrap().prepare().unwrap();
    let (cid, bytes) = (codec::raw_cid(text.as_bytes()), text.len() as u64);
    assert_eq!((large.input, large.text), (Input::Linked { cid, bytes }, Some(text.clone().into_bytes())));

    let chat = format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{text}\"}}]}}");
    let large = parse(&changed("{\"text\": \"Once\"}", &chat)).unwrap().prepare().unwrap();
    let expected = format!("user: {text}\nassistant:");
    assert_eq!(large.text.unwrap(), expected.as_bytes());

    let told = parse(&changed("Once", &"a".repeat(MAX_PROMPT_BYTES as usize + 1))).unwrap_err();
    assert_eq!(told, "input.text has 4194305 bytes; 4194304 is the most");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("job.json"), changed("{\"text\": \"Once\"}", "{\"file\": \"prompt.txt\"}")).unwrap();
    fs::write(at("latin1.json"), b"\"\xe9\"").unwrap();
    fs::write(at("huge.json"), vec![b' '; MAX_JOB_FILE_BYTES as usize + 1]).unwrap();
    let told = |error: UserError| {
        let text = format!("{} → {}", error.message, error.hint.unwrap_or_default());
        text.replace(&format!("{}/", folder.path().display()), "")
    };
    let read = |name: &str| told(JobFile::read(&at(name)).unwrap_err());
    assert_eq!(read("none.json"), "none.json does not exist → check the path");
    assert_eq!(read("latin1.json"), "latin1.json is not UTF-8 text: byte 1 is wrong → save it as UTF-8");
    assert_eq!(read("huge.json"), "huge.json has more than 2097152 bytes → make it smaller");
    fs::create_dir(at("folder")).unwrap();
    assert_eq!(read("folder"), "folder is a folder → name a file in it");

    let job = JobFile::read(&at("job.json")).unwrap();
    assert_eq!(told(job.prepare().unwrap_err()), "prompt.txt does not exist → check the path");
    fs::write(at("prompt.txt"), "").unwrap();
    assert_eq!(told(job.prepare().unwrap_err()), "prompt.txt is empty → write the prompt into it");
    fs::write(at("prompt.txt"), "Once").unwrap();
    assert_eq!(job.prepare().unwrap().text, Some(b"Once".to_vec()));
}

#[test]
fn the_examples_are_good_jobs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let jobs: Vec<&PathBuf> =
        files.iter().filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    assert!(jobs.len() >= 3);
    for path in jobs {
        JobFile::read(path).unwrap().prepare().unwrap();
    }
}

#[test]
fn the_job_of_the_readme_is_good() {
    let readme = include_str!("../../../README.md");
    let job = readme.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(parse(job).unwrap().model, "queenbee-nano");
}
