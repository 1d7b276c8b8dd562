//! Rows of audits, read a second time.

use super::{Accepted, Reading, statement};
use swarm_crypto::address::Address;
use swarm_protocol::finding::AuditEnd;
use swarm_protocol::pool::{LeafAt, Record};
use swarm_protocol::statement::{Body, Word};

impl Reading {
    fn leaf(&mut self, at: &LeafAt) -> &mut Accepted {
        let epoch = &mut self.epochs[usize::try_from(at.epoch).unwrap()];
        assert!(epoch.header.is_some(), "{at:?} is audited before its epoch is sealed");
        &mut epoch.accepted[usize::try_from(at.index).unwrap()]
    }

    /// A row of an audit: nobody is asked twice, paid twice or without having sealed and opened, and nothing is overturned
    /// that was not found out.
    pub(super) fn audit(&mut self, seq: u64, record: &Record) {
        match record {
            Record::AuditPicked { leaf, auditor } => self.ask(leaf, *auditor, None),
            Record::Challenged { leaf, auditor, challenger, amount, .. } => {
                assert_eq!(self.leaf(leaf).look(), amount.0, "record {seq}");
                self.ask(leaf, *auditor, Some(*challenger));
            }
            Record::Attested { leaf, attestation } => {
                let statement = statement(attestation);
                let Body::Attestation(said) = statement.body else { panic!("{seq} attests nothing") };
                let (words, _) = self.leaf(leaf).asked.get_mut(&statement.header.by).expect("it was asked");
                assert_eq!(*words, u32::from(matches!(said.word, Word::Opened { .. })), "record {seq}");
                *words += 1;
            }
            Record::AuditPaid { leaf, auditor, amount } => {
                let accepted = self.leaf(leaf);
                let look = accepted.look();
                let (words, challenger) = accepted.asked.get_mut(auditor).expect("it was asked");
                assert_eq!((*words, look), (2, amount.0), "record {seq}");
                *words += 1;
                let paid = match challenger.take() {
                    Some(challenger) => self.challenged.entry(challenger).or_default(),
                    None => &mut self.looks,
                };
                *paid += i128::from(look);
                *self.epochs.last_mut().unwrap().audit_pay.entry(*auditor).or_default() += look;
            }
            Record::ChallengeReturned { leaf, challenger, amount } => {
                let mut asked = self.leaf(leaf).asked.values_mut();
                if let Some((_, waiting)) = asked.find(|(_, by)| *by == Some(*challenger)) {
                    *waiting = None;
                } else {
                    *self.challenged.get_mut(challenger).unwrap() -= i128::from(amount.0);
                    self.looks += i128::from(amount.0);
                }
            }
            Record::AuditClosed { leaf, end } => {
                let accepted = self.leaf(leaf);
                accepted.waits = false;
                let against = matches!(end, AuditEnd::Contradicts | AuditEnd::Differs);
                let opened = accepted.asked.values().filter(|(words, _)| *words == 3).count();
                assert!(!against || opened >= 2, "record {seq}: one alone finds against a proof");
                assert!(*end != AuditEnd::Holds || opened >= 1, "record {seq}: nobody looked");
                self.epochs.last_mut().unwrap().unserved += u64::from(*end == AuditEnd::Unserved);
            }
            Record::Overturned { leaf } => {
                let accepted = self.leaf(leaf);
                assert!(accepted.stands && !accepted.released && accepted.asked.len() >= 2, "record {seq}");
                accepted.stands = false;
            }
            other => panic!("{seq} is of no audit: {other:?}"),
        }
    }

    fn ask(&mut self, at: &LeafAt, auditor: Address, challenger: Option<Address>) {
        let accepted = self.leaf(at);
        accepted.waits = true;
        let twice = accepted.asked.insert(auditor, (0, challenger));
        assert!(twice.is_none() && auditor != accepted.wallet, "{auditor} is asked of {at:?}");
    }
}
