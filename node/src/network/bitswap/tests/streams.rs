//! Readers and writers against peers that send too much, too slowly, or never read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, interval, timeout};

use super::super::reading::{Memory, Patience, Reader, Taken};
use super::super::shell::Report;
use super::super::writing::Writer;
use super::super::*;
use super::script::{blocks, peer, want, wants};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);

/// Gives its bytes at once, or one by one; then it is silent. Never takes any.
struct Wire {
    bytes: Vec<u8>,
    at: usize,
    each: Option<Interval>,
}

impl Wire {
    fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0, each: None }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut count = into.len().min(self.bytes.len() - self.at);
        if let Some(each) = &mut self.each {
            std::task::ready!(each.poll_tick(cx));
            count = count.min(1);
        }
        if count == 0 {
            return Poll::Pending;
        }
        into[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// What a reader reports until it ends by itself, one of whose limits is short.
async fn reads(wire: Wire, patience: Patience, expects_blocks: bool) -> Vec<Report> {
    let (reports, mut received) = mpsc::channel(10);
    let until = if expects_blocks { u64::MAX } else { 0 };
    let reader = Reader {
        peer: peer(1),
        share: Memory::share(),
        whole: Memory::whole(),
        started: Instant::now(),
        expected_until: Arc::new(AtomicU64::new(until)),
        reports,
        patience,
    };
    timeout(LONG, reader.run(wire)).await.expect("the reader ends");
    let mut all = Vec::new();
    while let Ok(report) = received.try_recv() {
        all.push(report);
    }
    all
}

fn idle() -> Patience {
    Patience { idle: SHORT, piece: LONG, message: LONG }
}

fn is_malformed(reports: &[Report]) -> bool {
    matches!(reports, [Report::Event(Event::Malformed(_))])
}

#[tokio::test]
async fn messages_are_read_until_the_peer_is_silent() {
    let (one, two) = (wants(&[want("A", WantKind::Have)]), blocks(&["A", "B"]));
    let wire = Wire::of([one.encode_framed(), two.encode_framed()].concat());
    let read: Vec<Message> = reads(wire, idle(), false)
        .await
        .into_iter()
        .map(|report| match report {
            Report::Received { message, .. } => message,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(read, [one, two]);
}

#[tokio::test]
async fn a_declared_length_of_2_to_the_40_or_over_the_limit_ends_the_stream_at_once() {
    let announced = async |length: u64, expects_blocks| {
        let mut bytes = Vec::new();
        crate::protobuf::put_varint(&mut bytes, length);
        reads(Wire::of(bytes), Patience { idle: LONG, ..idle() }, expects_blocks).await
    };
    for length in [1 << 40, MAX_MESSAGE_BYTES as u64 + 1] {
        assert!(is_malformed(&announced(length, true).await), "{length}");
        assert!(is_malformed(&announced(length, false).await), "{length}");
    }
    let unasked = announced(MAX_UNASKED_BYTES as u64 + 1, false).await;
    assert!(unasked.is_empty(), "what nobody asked for is left unread, but is no offence");
    let endless = Wire::of(vec![0xff; 11]);
    assert!(is_malformed(&reads(endless, idle(), true).await));
    let nonsense = Wire::of(vec![3, 0x0b, 0x0b, 0x0b]);
    assert!(is_malformed(&reads(nonsense, idle(), true).await));
}

#[tokio::test]
async fn a_long_message_is_read_from_a_peer_that_was_asked_for_blocks() {
    let data = vec![7; MAX_UNASKED_BYTES];
    let cid = super::script::cid_of(&data);
    let message = Message { blocks: vec![Block { cid, data }], ..Message::default() };
    let reports = reads(Wire::of(message.encode_framed()), idle(), true).await;
    assert!(matches!(&reports[..], [Report::Received { message: read, .. }] if *read == message));
}

#[tokio::test]
async fn a_peer_that_trickles_is_cut_off() {
    let message = wants(&[want("A", WantKind::Have)]).encode_framed();
    let trickle = Wire { each: Some(interval(SHORT)), ..Wire::of(message) };
    let patience = Patience { idle: LONG, piece: 2 * SHORT, message: LONG };
    assert!(reads(trickle, patience, false).await.is_empty());

    let half = wants(&[want("A", WantKind::Have)]).encode_framed()[..20].to_vec();
    let patience = Patience { idle: LONG, piece: LONG, message: SHORT };
    assert!(reads(Wire::of(half), patience, false).await.is_empty());
}

#[tokio::test]
async fn a_writer_gives_up_a_peer_that_never_reads() {
    let (reports, mut received) = mpsc::channel(10);
    let (_sender, others) = mpsc::channel(1);
    let writer = Writer { peer: peer(1), generation: 3, reports };
    writer.run(Wire::of(Vec::new()), vec![1; 100], others).await;
    let report = received.recv().await;
    let stalled = Report::NotWritten { peer: peer(1), generation: 3, reason: NotSent::Stalled };
    assert_eq!(format!("{report:?}"), format!("{:?}", Some(stalled)));
}

#[tokio::test]
async fn one_peer_takes_no_memory_that_others_need() {
    let (whole, share) = (Memory::whole(), Memory::share());
    let mut taken = Vec::new();
    while let Ok(one) = timeout(SHORT, take(&share, &whole, MAX_MESSAGE_BYTES)).await {
        taken.push(one);
    }
    assert_eq!(taken.len(), 1, "a second long message of the same peer waits");
    assert!(timeout(SHORT, take(&share, &whole, MAX_UNASKED_BYTES)).await.is_ok(), "a short one does not");
    assert!(
        timeout(SHORT, take(&Memory::share(), &whole, MAX_MESSAGE_BYTES)).await.is_ok(),
        "nor another peer's"
    );
}

async fn take(share: &Memory, whole: &Memory, length: usize) -> Taken {
    let share = share.take(length).await.expect("the pool is open");
    (share, whole.take(length).await.expect("the pool is open"))
}
