//! Keys, signatures, and who is deceived by what: every statement is signed once and judged once.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::sha2_256;
use swarm_crypto::key::{SecretKey, Signature};
use swarm_protocol::Timestamp;
use swarm_protocol::planted;
use swarm_protocol::statement::{Intake, Signed, Statement, Verified};

pub(crate) type Bytes = Rc<[u8]>;
pub(crate) type Node = usize;

/// The operator's node.
pub(crate) const OPERATOR: Node = 0;

thread_local!(static KEYS: std::cell::RefCell<HashMap<Node, (SecretKey, Address)>> = Default::default());

pub(crate) fn key(node: Node) -> (SecretKey, Address) {
    KEYS.with_borrow_mut(|keys| {
        let made = keys.entry(node).or_insert_with(|| {
            let key = SecretKey::from_bytes(&[u8::try_from(node + 1).unwrap(); 32]).unwrap();
            let address = key.address();
            (key, address)
        });
        made.clone()
    })
}

pub(crate) fn wallet(node: Node) -> Address {
    key(node).1
}

/// No signature, but as much of one as a run needs: other bytes for every signer and payload.
fn scribble(node: Node, payload: &[u8]) -> Signed {
    let mark = sha2_256(&[payload, &node.to_be_bytes()].concat());
    let mut signature = [27; 65];
    signature[..32].copy_from_slice(&mark);
    Signed { payload: payload.to_vec(), signature: Signature(signature) }
}

/// The one place where statements are signed.
#[derive(Debug)]
pub(crate) struct Mint {
    pub(crate) pool: PoolId,
    /// Whether signatures made here are scribbles that all believe in.
    vouch: bool,
    signed: HashMap<Vec<u8>, Bytes>,
    /// What was really signed by the wallet that it names, for this pool.
    genuine: HashSet<Bytes>,
    judge: Intake,
    judged: HashMap<Bytes, Option<Rc<Verified>>>,
}

impl Mint {
    pub(crate) fn new(pool: PoolId, vouch: bool) -> Self {
        let judge = Intake::new(pool, wallet(OPERATOR));
        planted::vouch_for_nothing();
        Self { pool, vouch, signed: HashMap::new(), genuine: HashSet::new(), judge, judged: HashMap::new() }
    }

    /// Signs as `node`; the statement says by itself whom it claims to be of, and of which pool.
    pub(crate) fn sign(&mut self, node: Node, statement: &Statement) -> Bytes {
        let payload = statement.encode();
        if let Some(bytes) = self.signed.get(&payload) {
            return bytes.clone();
        }
        let (key, address) = key(node);
        let signed = if self.vouch { scribble(node, &payload) } else { statement.sign(&key) };
        let bytes: Bytes = signed.encode().into();
        if statement.header.by == address {
            if self.vouch {
                planted::vouch(signed);
            }
            if statement.header.pool == self.pool {
                self.genuine.insert(bytes.clone());
            }
            self.signed.insert(payload, bytes.clone());
        }
        bytes
    }

    pub(crate) fn is_genuine(&self, bytes: &[u8]) -> bool {
        self.genuine.contains(bytes)
    }

    /// What an honest listener makes of the bytes, whenever they come.
    pub(crate) fn judge(&mut self, bytes: &Bytes) -> Option<Rc<Verified>> {
        if let Some(known) = self.judged.get(bytes) {
            return known.clone();
        }
        let at = Signed::decode(bytes).and_then(|signed| Statement::decode(&signed.payload));
        let at = at.map_or(Timestamp(0), |statement| statement.header.at);
        let verified = self.judge.verify(None, bytes, at).ok().map(Rc::new);
        self.judged.insert(bytes.clone(), verified.clone());
        verified
    }
}
