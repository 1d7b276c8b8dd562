//! The wire format, held against an independent encoder of the specification's schema.

use crate::protobuf::WireError;
use cid::Cid;
use cid::multihash::Multihash;
use proptest::prelude::*;
use prost::Message as _;

use super::super::*;
use super::script::cid_of;

#[derive(Clone, PartialEq, prost::Message)]
struct ForeignMessage {
    #[prost(message, optional, tag = "1")]
    wantlist: Option<ForeignWantlist>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    old_blocks: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "3")]
    payload: Vec<ForeignBlock>,
    #[prost(message, repeated, tag = "4")]
    presences: Vec<ForeignPresence>,
    #[prost(int32, tag = "5")]
    pending_bytes: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForeignWantlist {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<ForeignEntry>,
    #[prost(bool, tag = "2")]
    full: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForeignEntry {
    #[prost(bytes = "vec", tag = "1")]
    block: Vec<u8>,
    #[prost(int32, tag = "2")]
    priority: i32,
    #[prost(bool, tag = "3")]
    cancel: bool,
    #[prost(int32, tag = "4")]
    want_type: i32,
    #[prost(bool, tag = "5")]
    send_dont_have: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForeignBlock {
    #[prost(bytes = "vec", tag = "1")]
    prefix: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForeignPresence {
    #[prost(bytes = "vec", tag = "1")]
    cid: Vec<u8>,
    #[prost(int32, tag = "2")]
    kind: i32,
}

fn foreign(message: &Message) -> ForeignMessage {
    let entry = |want: &Want| ForeignEntry {
        block: want.cid.to_bytes(),
        priority: want.priority,
        cancel: want.cancel,
        want_type: i32::from(want.kind == WantKind::Have),
        send_dont_have: want.send_dont_have,
    };
    let entries: Vec<ForeignEntry> = message.wants.iter().map(entry).collect();
    let is_listed = !entries.is_empty() || message.full;
    let block = |block: &Block| ForeignBlock {
        // A version 1 CID without its digest, which is 32 bytes.
        prefix: block.cid.to_bytes()[..block.cid.to_bytes().len() - 32].to_vec(),
        data: block.data.clone(),
    };
    let presence = |p: &Presence| ForeignPresence { cid: p.cid.to_bytes(), kind: i32::from(!p.has) };
    ForeignMessage {
        wantlist: is_listed.then_some(ForeignWantlist { entries, full: message.full }),
        old_blocks: Vec::new(),
        payload: message.blocks.iter().map(block).collect(),
        presences: message.presences.iter().map(presence).collect(),
        pending_bytes: 0,
    }
}

fn any_cid() -> impl Strategy<Value = Cid> {
    let digest = prop::collection::vec(any::<u8>(), 32);
    (digest, prop::sample::select(vec![0x55u64, 0x70, 0x71, 0x0129]), any::<bool>()).prop_map(
        |(digest, codec, old)| {
            let hash = Multihash::wrap(0x12, &digest).unwrap();
            if old { Cid::new_v0(hash).unwrap() } else { Cid::new_v1(codec, hash) }
        },
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    let want = (any_cid(), any::<i32>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(cid, priority, have, cancel, send_dont_have)| {
            let kind = if have { WantKind::Have } else { WantKind::Block };
            Want { cid, priority, kind, cancel, send_dont_have }
        },
    );
    let presence = (any_cid(), any::<bool>()).prop_map(|(cid, has)| Presence { cid, has });
    let block =
        prop::collection::vec(any::<u8>(), 0..2000).prop_map(|data| Block { cid: cid_of(&data), data });
    (
        prop::collection::vec(want, 0..20),
        any::<bool>(),
        prop::collection::vec(block, 0..5),
        prop::collection::vec(presence, 0..20),
    )
        .prop_map(|(wants, full, blocks, presences)| Message {
            wants,
            full,
            blocks,
            presences,
            ..Message::default()
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read_here_and_by_others(message in any_message()) {
        let bytes = message.encode();
        prop_assert_eq!(Message::decode(&bytes).unwrap(), message.clone());
        prop_assert_eq!(ForeignMessage::decode(bytes.as_slice()).unwrap(), foreign(&message));
        prop_assert_eq!(Message::decode(&foreign(&message).encode_to_vec()).unwrap(), message);
    }

    #[test]
    fn weights_bound_what_is_written(message in any_message()) {
        let wants = message.wants.iter().map(Want::weight).sum::<usize>();
        let blocks = message.blocks.iter().map(Block::weight).sum::<usize>();
        let presences = message.presences.iter().map(Presence::weight).sum::<usize>();
        prop_assert!(message.encode().len() <= wants + blocks + presences + 16);
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        check_bounds(&bytes);
    }

    #[test]
    fn changed_messages_are_read_or_refused(
        message in any_message(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9)
    ) {
        let mut bytes = message.encode();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        check_bounds(&bytes);
        check_bounds(&bytes[..bytes.len() / 2]);
    }
}

fn check_bounds(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else { return };
    assert!(message.wants.capacity() <= 2 * MAX_ENTRIES && message.presences.capacity() <= 2 * MAX_ENTRIES);
    assert!(message.blocks.len() <= MAX_MESSAGE_BLOCKS);
    let held: usize = message.blocks.iter().map(|block| block.data.capacity()).sum();
    assert!(held <= bytes.len(), "{held} bytes from {}", bytes.len());
    for block in &message.blocks {
        assert_eq!(block.cid.hash().digest(), cid_of(&block.data).hash().digest());
    }
}

#[test]
fn two_million_empty_entries_take_no_memory() {
    let list = [0x0a, 0].repeat(1 << 20);
    let mut bytes = vec![0x0a];
    let mut length = list.len();
    while length > 0 {
        bytes.push((length & 0x7f) as u8 | if length > 0x7f { 0x80 } else { 0 });
        length >>= 7;
    }
    bytes.extend(list);
    bytes.extend([0x22, 0].repeat(1 << 20));
    let message = Message::decode(&bytes).unwrap();
    assert_eq!((message.wants.capacity(), message.presences.capacity()), (0, 0));
    assert_eq!(message.skipped, 2 << 20);

    let small = [0x1a, 8, 0x0a, 4, 1, 0x55, 0x12, 0x20, 0x12, 0].repeat(2 * MAX_MESSAGE_BLOCKS);
    let message = Message::decode(&small).unwrap();
    assert_eq!((message.blocks.len(), message.unusable_blocks), (MAX_MESSAGE_BLOCKS, MAX_MESSAGE_BLOCKS));
}

#[test]
fn lengths_beyond_the_message_are_refused() {
    // A block of 2^40 bytes, a wantlist of 2^63, a number of more than 64 bits, a group.
    let cases: [(&[u8], WireError); 5] = [
        (&[0x1a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20], WireError::Truncated),
        (&[0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01], WireError::Truncated),
        (&[0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], WireError::LongNumber),
        (&[0x0b, 0x0c], WireError::WrongType),
        (&[0x08, 0x01], WireError::WrongType),
    ];
    for (bytes, error) in cases {
        assert_eq!(Message::decode(bytes), Err(error), "{bytes:?}");
    }
    assert_eq!(
        Message::decode(&[0x28, 0x05, 0x3d, 0, 0, 0, 0, 0x41, 0, 0, 0, 0, 0, 0, 0, 0]),
        Ok(Message::default())
    );
}

#[test]
fn blocks_whose_cid_cannot_be_checked_are_counted_and_dropped() {
    let of = |prefix: &[u8]| {
        let payload = vec![ForeignBlock { prefix: prefix.to_vec(), data: b"x".to_vec() }];
        Message::decode(&ForeignMessage { payload, ..Default::default() }.encode_to_vec()).unwrap()
    };
    assert_eq!(of(&[1, 0x55, 0x12, 32]).blocks[0].cid, cid_of(b"x"));
    let old = of(&[0, 0x70, 0x12, 32]).blocks[0].cid;
    assert_eq!(old, Cid::new_v0(*cid_of(b"x").hash()).unwrap());
    // Another digest, other lengths, an unknown version, version 0 of another codec, bytes too many or too few.
    let cases: [&[u8]; 8] = [
        &[1, 0x55, 0x1e, 32],
        &[1, 0x55, 0x12, 31],
        &[1, 0x55, 0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[2, 0x55, 0x12, 32],
        &[0, 0x55, 0x12, 32],
        &[1, 0x55, 0x12, 32, 0],
        &[1, 0x55, 0x12],
        &[],
    ];
    for prefix in cases {
        let message = of(prefix);
        assert_eq!((message.blocks.len(), message.unusable_blocks), (0, 1), "{prefix:?}");
    }
    let old = ForeignMessage { old_blocks: vec![b"x".to_vec()], ..Default::default() };
    assert_eq!(Message::decode(&old.encode_to_vec()).unwrap().unusable_blocks, 1);
    let of_bytes = |bytes| {
        let block = ForeignBlock { prefix: vec![1, 0x55, 0x12, 32], data: vec![0; bytes] };
        let message = ForeignMessage { payload: vec![block], ..Default::default() };
        Message::decode(&message.encode_to_vec()).unwrap()
    };
    assert_eq!(of_bytes(2 << 20).blocks.len(), 1, "over what this node takes, but no lie");
    assert_eq!(of_bytes((2 << 20) + 1).unusable_blocks, 1);
}

#[test]
fn cids_that_are_none_or_too_long_are_skipped() {
    let mut long = vec![1, 0x55, 0x12, 64];
    long.extend([7; 64]);
    let mut huge = vec![1, 0x55, 0x12, 0xff, 0x7f];
    huge.extend([7; 500]);
    let trailing = [cid_of(b"x").to_bytes(), vec![0]].concat();
    for (cid, is_read) in
        [(long, true), (huge, false), (trailing, false), (vec![], false), (vec![0x12, 0x20, 1], false)]
    {
        let entries = vec![ForeignEntry { block: cid, ..Default::default() }];
        let wantlist = Some(ForeignWantlist { entries, full: false });
        let message =
            Message::decode(&ForeignMessage { wantlist, ..Default::default() }.encode_to_vec()).unwrap();
        assert_eq!((message.wants.len(), message.skipped), (usize::from(is_read), usize::from(!is_read)));
    }
}

#[test]
fn a_message_of_known_bytes() {
    let message =
        Message { wants: vec![Want::new(cid_of(b""), WantKind::Have, false)], ..Message::default() };
    let cid = "01551220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(hex::encode(message.encode_framed()), format!("300a2e0a2c0a24{cid}100120012801"));
}
