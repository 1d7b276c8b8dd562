//! Servers that do not do as asked: each is a failed attempt with a reason, within its bound, and nothing more.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swarm_inference::testing::{Scripted, tokenizer};
use swarm_inference::{
    CancelToken, Candidate, EngineError, Flow, GenerateRequest, Greedy, MAX_EVENT_BYTES, OpenAi, Provider,
    ServerConfig, ServerError, ServerTimes, Step,
};

use super::loopback::{Answer, Loopback, chunk, chunked, end, event, whole};
use super::wire::{Form, complete, last_event, step_event};
use super::{MODEL, provider, request, run, server_at, start};

/// The longest that any of them may keep an engine busy.
const BOUND: Duration = Duration::from_secs(8);
/// What those are given that say nothing.
const IMPATIENT: ServerTimes = ServerTimes {
    first_token: Duration::from_millis(2500),
    next_token: Duration::from_millis(1500),
    ..super::TIMES
};
/// How soon an engine that is told to stop has to.
const AT_ONCE: Duration = Duration::from_secs(2);

type Result = std::io::Result<()>;

fn honest() -> Arc<Answer> {
    Arc::new(|body: &Value, stream: &mut TcpStream| {
        complete(&mut Scripted::letters(MODEL), &mut Greedy, Form::Entries, body, stream)
    })
}

/// A good event: the letter `a`, from `a` and `b`.
fn letter() -> Value {
    letter_as(Form::Entries)
}

fn letter_as(form: Form) -> Value {
    let candidates = vec![Candidate { token: 64, cost: 4096 }, Candidate { token: 65, cost: 8192 }];
    let token = tokenizer().encode("a").unwrap()[0];
    let candidates = candidates.into_iter().map(|c| Candidate { token: c.token + token - 64, ..c }).collect();
    let step = Step { position: 0, token, candidates, text: Vec::new() };
    step_event(form, &tokenizer(), &step, "a")
}

/// The good event with another value at a place of the first choice.
fn altered(place: &str, value: Value) -> String {
    let mut event = letter();
    *event.pointer_mut(&format!("/choices/0{place}")).unwrap() = value;
    event.to_string()
}

/// A stream of these events, which then ends as it should.
fn stream_of(events: Vec<String>) -> Arc<Answer> {
    Arc::new(move |_: &Value, stream: &mut TcpStream| {
        chunked(stream)?;
        events.iter().try_for_each(|data| event(stream, data))?;
        end(stream)
    })
}

fn doing(what: impl Fn(&mut TcpStream) -> Result + Send + Sync + 'static) -> Arc<Answer> {
    Arc::new(move |_: &Value, stream: &mut TcpStream| what(stream))
}

fn says(status: &'static str, kind: &'static str, body: &'static str) -> Arc<Answer> {
    doing(move |stream| whole(stream, status, kind, body))
}

/// Waits until the other side has gone.
fn hang(stream: &mut TcpStream) -> Result {
    while stream.read(&mut [0; 64])? > 0 {}
    Ok(())
}

/// Whether a request of eight tokens fails as it should and in time, and the next one does not.
fn fails(what: &str, answer: Arc<Answer>, reason: &str) {
    fails_within(super::TIMES, what, answer, reason);
}

fn fails_within(times: ServerTimes, what: &str, answer: Arc<Answer>, reason: &str) {
    let server = Loopback::start(honest());
    let provider = OpenAi::new(ServerConfig { times, ..server_at(&server.url()) });
    let mut engine = start(&provider);
    server.answer(answer);
    let begun = Instant::now();
    let error = run(engine.as_mut(), &request(8)).expect_err(what);
    let took = begun.elapsed();
    println!("{what}: {took:?}, {error}");
    assert!(matches!(error, EngineError::Server(_)), "{what}: {error:?}");
    assert!(error.to_string().contains(reason), "{what}: {error}");
    assert!(error.to_string().len() < 1_000, "{what}: {error}");
    assert!(took < BOUND, "{what}: {took:?}");
    server.answer(honest());
    assert_eq!(run(engine.as_mut(), &request(8)).expect(what).1.len(), 8);
    assert_eq!((provider.stats().finished, provider.stats().failed), (1, 1));
}

#[test]
fn silence_and_slowness() {
    fails_within(IMPATIENT, "no answer", doing(hang), "sent no token for 2.5s");
    fails_within(
        IMPATIENT,
        "head only",
        doing(|s| chunked(s).and_then(|()| hang(s))),
        "sent no token for 2.5s",
    );
    let drip = |stream: &mut TcpStream| {
        chunked(stream)?;
        chunk(stream, "data: ")?;
        loop {
            chunk(stream, " ")?;
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    fails_within(IMPATIENT, "drip", doing(drip), "sent no token for 2.5s");
    let stall = |stream: &mut TcpStream| {
        chunked(stream)?;
        event(stream, &letter().to_string())?;
        event(stream, &letter().to_string())?;
        hang(stream)
    };
    fails_within(IMPATIENT, "stall after two tokens", doing(stall), "sent no token for 1.5s");
}

#[test]
fn breaking_off() {
    let close = |_: &mut TcpStream| Ok(());
    fails("no answer at all", doing(close), "the server broke off: ");
    let middle = |stream: &mut TcpStream| {
        chunked(stream)?;
        event(stream, &letter().to_string())?;
        stream.write_all(b"fff\r\ndata: {\"choi")
    };
    fails("half an event", doing(middle), "the server broke off");
    let until_closed = |stream: &mut TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")?;
        stream.write_all(format!("data: {}\n\n", letter()).as_bytes())
    };
    fails("one token and the end", doing(until_closed), "ended after 1 tokens");
    fails("no HTTP", doing(|s| s.write_all(b"SSH-2.0-OpenSSH_9.7\r\n")), "the server");
    let heads = |stream: &mut TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        (0..10_000)
            .try_for_each(|_| stream.write_all(b"x-more: of this and of that and of this and of that\r\n"))
    };
    fails("headers without end", doing(heads), "the server broke off: that is no HTTP: ");
}

#[test]
fn other_answers_than_a_stream() {
    let json = "application/json";
    fails(
        "empty",
        says("200 OK", json, ""),
        "with application/json instead of a stream of events; its message: none",
    );
    fails("empty stream", says("200 OK", "text/event-stream", ""), "ended after 0 tokens");
    fails(
        "a page",
        says("200 OK", "text/html", "<h1>hello</h1>"),
        "with text/html instead of a stream of events; its message: none",
    );
    let error = r#"{"error": {"message": "out of memory", "type": "server_error"}}"#;
    fails("an error as 200", says("200 OK", json, error), "stream of events; its message: out of memory");
    fails("500", says("500 Internal Server Error", json, error), "the server answered 500: out of memory");
    let busy = r#"{"object": "error", "message": "try again\nlater"}"#;
    fails("429", says("429 Too Many Requests", json, busy), "the server answered 429: try again later");
    fails("502", says("502 Bad Gateway", "text/html", "<h1>nginx</h1>"), "answered 502: <h1>nginx</h1>");
    let around = |stream: &mut TcpStream| {
        stream.write_all(
            b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /v1/completions\r\ncontent-length: 0\r\n\r\n",
        )
    };
    fails("a redirection to itself", doing(around), "the server answered 307");
    let long = |stream: &mut TcpStream| {
        stream.write_all(b"HTTP/1.1 500 Oh\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 1024])?;
        }
    };
    fails("an endless error", doing(long), "the server answered 500: xxx");
}

#[test]
fn without_end() {
    let line = |stream: &mut TcpStream| {
        chunked(stream)?;
        chunk(stream, "data: {\"choices\": \"")?;
        loop {
            chunk(stream, &"x".repeat(4096))?;
        }
    };
    fails("an endless line", doing(line), &format!("an event of more than {MAX_EVENT_BYTES} bytes"));
    let comments = |stream: &mut TcpStream| {
        chunked(stream)?;
        loop {
            chunk(stream, ": ping\n\n")?;
        }
    };
    fails("endless comments", doing(comments), &format!("an event of more than {MAX_EVENT_BYTES} bytes"));
    let empty = |stream: &mut TcpStream| {
        chunked(stream)?;
        loop {
            event(stream, r#"{"choices": []}"#)?;
        }
    };
    fails("endless events without tokens", doing(empty), "sent 256 events in a row without a token");
    let slow = |stream: &mut TcpStream| {
        chunked(stream)?;
        event(stream, &letter().to_string())?;
        loop {
            event(stream, r#"{"choices": []}"#)?;
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    fails_within(IMPATIENT, "now and then an event without tokens", doing(slow), "sent no token for 1.5s");
}

#[test]
fn tokens_without_end_are_cut_where_they_should_have_been() {
    let server = Loopback::start(honest());
    let mut engine = start(&provider(&server.url()));
    server.answer(doing(|stream| {
        chunked(stream)?;
        loop {
            event(stream, &letter().to_string())?;
        }
    }));
    let (made, steps) = run(engine.as_mut(), &request(8)).unwrap();
    assert_eq!((made.output.as_slice(), steps.len()), (&b"aaaaaaaa"[..], 8));
}

#[test]
fn events_that_cannot_be_read() {
    let one = |what: &str, data: &str, reason: &str| fails(what, stream_of(vec![data.into()]), reason);
    one("no JSON", "{\"choices\": [", "an event that cannot be used: EOF");
    one("a number", "17", "an event that cannot be used");
    one("nesting", &"[".repeat(10_000), "an event that cannot be used");
    one("no choices", r#"{"object": "text_completion"}"#, "ended after 0 tokens");
    one(
        "an error",
        r#"{"error": {"message": "the slot was lost", "code": 500}}"#,
        "failed: the slot was lost",
    );
    one("an error as text", r#"{"error": "gone"}"#, "failed: ");
    let text = r#"{"choices": [{"index": 0, "text": "hello", "logprobs": null}]}"#;
    one("text alone", text, "states no log-probabilities");
    let mut two = letter();
    two["choices"] = json!([two["choices"][0], two["choices"][0]]);
    one("two choices", &two.to_string(), "choices that nobody asked for");
    one("another choice", &altered("/index", json!(1)), "choices that nobody asked for");
    let lists = json!({ "tokens": ["a", "b"], "token_logprobs": [-1.0], "top_logprobs": [{}, {}] });
    one("lists of two lengths", &altered("/logprobs", lists), "have 2, 1 and 2 entries");
    let bytes = doing(|stream| {
        chunked(stream)?;
        stream.write_all(b"a\r\ndata: \xff\xfe\n\n\r\n")?;
        end(stream)
    });
    fails("bytes that are no text", bytes, "it is not UTF-8");
}

#[test]
fn numbers_that_cannot_be_right() {
    let entry = "/logprobs/content/0";
    let one = |what: &str, place: &str, value: Value, reason: &str| {
        fails(what, stream_of(vec![altered(&format!("{entry}{place}"), value)]), reason);
    };
    one(
        "a token out of the vocabulary",
        "/id",
        json!(263),
        "token 0 of the server is 263, which the model does not have",
    );
    one("a negative token", "/id", json!(-1), "cannot be used");
    one("a candidate out of the vocabulary", "/top_logprobs/1/id", json!(9999), "is 9999");
    one("a positive log-probability", "/top_logprobs/1/logprob", json!(0.5), "has the log-probability 0.5");
    one("no log-probability", "/top_logprobs/1/logprob", Value::Null, "cannot be used");
    one("more than certain", "/top_logprobs/1/logprob", json!(-0.01), "probabilities sum to 1.49");
    one(
        "a candidate twice",
        "/top_logprobs/1/id",
        letter().pointer(&format!("/choices/0{entry}/id")).unwrap().clone(),
        "a candidate twice",
    );
    for number in ["NaN", "1e999", "-1e999", "\"-1.0\""] {
        let data = letter()
            .to_string()
            .replace(&letter().pointer(&format!("/choices/0{entry}/logprob")).unwrap().to_string(), number);
        assert!(data.contains(number));
        fails(number, stream_of(vec![data]), "cannot be used");
    }
    let mut one_more = letter();
    one_more["choices"][0]["token_ids"] = json!([97, 97]);
    fails("other ids", stream_of(vec![one_more.to_string()]), "2 tokens and log-probabilities of 1");
    one_more["choices"][0]["token_ids"] = json!([1]);
    fails("another id", stream_of(vec![one_more.to_string()]), "not those of its log-probabilities");
}

#[test]
fn other_tokens_than_it_should_have() {
    let good = || letter().to_string();
    fails("too few", stream_of(vec![good(), good()]), "ended after 2 tokens");
    let ended = last_event(3, 2).to_string();
    fails("too few with a reason", stream_of(vec![good(), good(), ended]), "nothing ends the output: stop");
    let counted = |prompt, tokens| {
        let mut events = vec![good(); 8];
        events.push(last_event(prompt, tokens).to_string());
        stream_of(events)
    };
    fails("more counted than told", counted(3, 9), "counted 9 tokens and told of 8");
    fails("another prompt counted", counted(4, 8), "other tokens than it read as the prompt");
    let spelt = "text is not what its tokens spell";
    fails("other bytes", stream_of(vec![altered("/logprobs/content/0/bytes", json!([98]))]), spelt);
    // What llama.cpp says of a bee: the last of its four tokens, and the bytes of all.
    let bee = json!([0xf0, 0x9f, 0x90, 0x9d, 97]);
    fails("more bytes", stream_of(vec![altered("/logprobs/content/0/bytes", bee)]), spelt);
    for text in ["b", "\u{1f41d}a", "aa"] {
        let mut numbered = letter_as(Form::Numbered);
        numbered["choices"][0]["text"] = json!(text);
        fails("another text", stream_of(vec![numbered.to_string()]), spelt);
    }
    let mut other = letter();
    other["choices"][0]["prompt_token_ids"] = json!([84, 104]);
    fails("another prompt", stream_of(vec![other.to_string()]), "other tokens than it read as the prompt");
}

#[test]
fn a_server_that_is_not_there_or_does_not_take_connections() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Loopback::start(honest());
    let provider = provider(&server.url());
    let mut engine = start(&provider);
    drop(server);
    let error = run(engine.as_mut(), &request(1)).unwrap_err();
    assert_eq!(error.to_string(), "the server could not be reached: nothing listens there");
    // Nobody accepts, and nobody answers who waits.
    let url = format!("http://{}", gone.local_addr().unwrap());
    let begun = Instant::now();
    let error = super::provider(&url).start(&super::config()).err().unwrap();
    assert!(matches!(error, EngineError::Server(ServerError::Silent(_))), "{error}");
    assert!(begun.elapsed() < BOUND);
}

/// A server that says when its client has gone.
fn watched() -> (Arc<Answer>, Receiver<()>, Receiver<()>) {
    let ((begun, has_begun), (gone, has_gone)) = (sync_channel(1), sync_channel(1));
    let answer = doing(move |stream| {
        chunked(stream)?;
        event(stream, &letter().to_string())?;
        begun.send(()).unwrap();
        hang(stream).ok();
        gone.send(()).unwrap();
        Ok(())
    });
    (answer, has_begun, has_gone)
}

#[test]
fn cancelled_runs_end_at_once_and_the_server_learns_of_it() {
    let server = Loopback::start(honest());
    let provider = provider(&server.url());
    for stopping in [false, true] {
        let mut engine = start(&provider);
        let (answer, begun, gone) = watched();
        server.answer(answer);
        let cancel = CancelToken::new();
        let (sender, result) = sync_channel(1);
        let token = cancel.clone();
        let running = std::thread::spawn(move || {
            let made = engine.generate(&request(8), &mut Greedy, &token, &mut |_| Flow::Continue);
            sender.send(made).unwrap();
            engine
        });
        begun.recv_timeout(BOUND).unwrap();
        if stopping {
            provider.stop()
        } else {
            cancel.cancel()
        }
        let error = result.recv_timeout(AT_ONCE).unwrap().unwrap_err();
        assert!(matches!(error, EngineError::Cancelled), "{error}");
        gone.recv_timeout(AT_ONCE).unwrap();
        server.answer(honest());
        let mut engine = running.join().unwrap();
        let next = run(engine.as_mut(), &request(8));
        assert_eq!(next.is_ok(), !stopping, "{next:?}");
    }
}

#[test]
fn deadlines_and_sinks_end_a_run_too() {
    let server = Loopback::start(honest());
    let mut engine = start(&provider(&server.url()));
    let (answer, _begun, gone) = watched();
    server.answer(answer);
    let deadline = Some(Instant::now() + Duration::from_secs(1));
    let late = GenerateRequest { deadline, ..request(8) };
    assert!(matches!(run(engine.as_mut(), &late), Err(EngineError::Deadline)));
    gone.recv_timeout(AT_ONCE).unwrap();
    server.answer(honest());
    let stop = engine.generate(&request(8), &mut Greedy, &CancelToken::new(), &mut |_| Flow::Stop);
    assert!(matches!(stop, Err(EngineError::Cancelled)));
    let long = GenerateRequest { prompt_ids: vec![1; 512], ..request(1) };
    assert!(matches!(run(engine.as_mut(), &long), Err(EngineError::PromptTooLong { .. })));
}
