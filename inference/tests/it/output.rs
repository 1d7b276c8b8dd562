use swarm_inference::testing::tokenizer;
use swarm_inference::{StopReason, StopRule, finish_output, stop_reason};

const END: u32 = 262;

fn rule(stop: &[String]) -> StopRule<'_> {
    StopRule { eos: Some(END), stop, max_tokens: 8, room: 9 }
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn only_a_final_end_token_is_left_out() {
    let tokenizer = tokenizer();
    let mut ids = bytes("hey");
    ids.push(END);
    assert_eq!(finish_output(&tokenizer, &ids, Some(END), &[]), b"hey");
    assert_eq!(finish_output(&tokenizer, &bytes("hey"), Some(END), &[]), b"hey");
    assert_eq!(finish_output(&tokenizer, &[], Some(END), &[]), b"");
    assert_eq!(finish_output(&tokenizer, &bytes("hey"), Some(u32::from(b'y')), &[]), b"he");
}

#[test]
fn the_stop_sequence_that_begins_first_cuts() {
    let stop = ["cd".to_owned(), "bcd".to_owned(), String::new()];
    assert_eq!(finish_output(&tokenizer(), &bytes("abcd"), None, &stop), b"a");
    let inside = ["é".to_owned()];
    assert_eq!(finish_output(&tokenizer(), &bytes("caféx"), None, &inside), b"caf");
}

#[test]
fn a_transcript_ends_where_the_rule_says() {
    let tokenizer = tokenizer();
    let stop = ["ab".to_owned()];
    let ended = |ids: &[u32]| stop_reason(&tokenizer, ids, rule(&stop));
    assert_eq!(ended(&bytes("xxab")), Some((3, StopReason::StopSequence)));
    assert_eq!(ended(&bytes("abxx")), Some((1, StopReason::StopSequence)));
    assert_eq!(ended(&[1, END, 2]), Some((1, StopReason::Eos)));
    assert_eq!(ended(&bytes("xxxxxxxx")), Some((7, StopReason::MaxTokens)));
    assert_eq!(ended(&bytes("xxxxxxab")), Some((7, StopReason::StopSequence)));
    assert_eq!(ended(&bytes("xxxxxxx")), None);
    let tight = StopRule { room: 3, ..rule(&stop) };
    assert_eq!(stop_reason(&tokenizer, &bytes("xxxx"), tight), Some((2, StopReason::Context)));
}
