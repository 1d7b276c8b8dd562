//! Statements and who says them. Signatures are scribbles that everybody believes: at this size real ones are
//! nearly all of the cost, and they change neither lengths nor order.

use std::collections::HashMap;
use std::rc::Rc;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::{blake3, sha2_256};
use swarm_crypto::key::Signature;
use swarm_protocol::codec::Link;
use swarm_protocol::planted;
use swarm_protocol::statement::{Intake, Signed, Statement, Verified};

pub(crate) type Node = usize;

/// The operator's node.
pub(crate) const OPERATOR: Node = 0;

/// A statement, as it travels and as everybody who judges it finds it.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) bytes: Vec<u8>,
    pub(crate) verified: Verified,
}

/// The wallet of a node's `life`-th process: who comes in the place of another is a stranger.
pub(crate) fn wallet(node: Node, life: u32) -> Address {
    let digest = blake3(&(node as u64 * 1_000_003 + u64::from(life)).to_be_bytes());
    Address(digest.0[..20].try_into().expect("20 of 32 bytes"))
}

#[derive(Debug)]
pub(crate) struct Mint {
    pub(crate) pool: PoolId,
    judge: Intake,
    said: HashMap<Link, Rc<Said>>,
}

impl Mint {
    pub(crate) fn new(pool: PoolId) -> Self {
        planted::vouch_for_nothing();
        Self { pool, judge: Intake::new(pool, wallet(OPERATOR, 0)), said: HashMap::new() }
    }

    /// Signs a statement, once.
    pub(crate) fn say(&mut self, statement: &Statement) -> Rc<Said> {
        let payload = statement.encode();
        let id = Link::of(&payload);
        if let Some(said) = self.said.get(&id) {
            return said.clone();
        }
        let mut scribble = [27; 65];
        scribble[..32].copy_from_slice(&sha2_256(&payload));
        let signed = Signed { payload, signature: Signature(scribble) };
        planted::vouch(signed.clone());
        let bytes = signed.encode();
        let verified =
            self.judge.verify(None, &bytes, statement.header.at).expect("a statement of this pool");
        let said = Rc::new(Said { bytes, verified });
        self.said.insert(id, said.clone());
        said
    }

    /// What was signed under this id.
    pub(crate) fn known(&self, signed: &Signed) -> Rc<Said> {
        self.said[&signed.id()].clone()
    }
}
