//! What a wallet has earned: every job, what it was paid, from when on it is payable, and proofs of all that.

use super::Session;
use super::history::must_be_sealed;
use super::recompute::{Stop, begin};
use crate::cli::{Earner, EarningsArgs, Exit, UserError};
use crate::home::home_root;
use crate::storage::disk::write_atomic;
use crate::storage::home::read_secret;
use crate::tables::{Column, column, table};
use crate::words::short_job;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SecretKey;
use swarm_crypto::merkle;
use swarm_crypto::standard_tree::StandardTree;
use swarm_protocol::codec::Link;
use swarm_protocol::money::{Account, MicroUsdc};
use swarm_protocol::pool::verify::Verifier;
use swarm_protocol::pool::{HELD_EPOCHS, HeldLeaf};
use swarm_protocol::statement::PayoutMode;

const EPOCHS: [Column; 6] = [
    column("epoch", 8, 0),
    column("jobs", 8, 0),
    column("work units", 12, 0),
    column("solo", 16, 0),
    column("by share", 16, 0),
    column("state", 24, 0),
];
const JOBS: [Column; 7] = [
    column("epoch", 8, 0),
    column("job", 16, 0),
    column("price", 16, 0),
    column("work units", 12, 0),
    column("mode", 6, 0),
    column("earned", 16, 0),
    column("state", 24, 0),
];

/// An acceptance that the wallet earned by.
struct Earning {
    epoch: u64,
    index: u64,
    leaf: HeldLeaf,
    earned: MicroUsdc,
    hash: Digest,
    /// Under its epoch's root, if it was asked for.
    proof: Vec<Digest>,
}

/// An epoch in which it earned.
struct Epoch {
    header: Link,
    proofs_root: Digest,
    count: u64,
}

/// All that it earned.
#[derive(Default)]
struct Earned {
    jobs: Vec<Earning>,
    epochs: BTreeMap<u64, Epoch>,
}

pub(super) async fn earnings(session: Session, args: &EarningsArgs) -> Result<Exit> {
    let wallet = whose(&session, args)?;
    let pool = begin(&session, &args.sealed, None).await?;
    must_be_sealed(&pool)?;
    let (mut verifier, mut earned) = (Verifier::new(), Earned::default());
    let read = match pool.headers(&session, pool.newest).await {
        Ok(headers) => {
            let proofs = args.proofs.is_some();
            let each = async |verifier: &mut Verifier, _: &_, sealed: bool| {
                if sealed {
                    earned.note(verifier, &wallet, proofs);
                }
                Ok(())
            };
            pool.read(&session, &headers, &mut verifier, each).await
        }
        Err(stop) => Err(stop),
    };
    pool.close(&session).await?;
    session.printer.finish();
    read.map_err(Stop::into_error)?;
    if let Some(path) = &args.proofs {
        let text = serde_json::to_string_pretty(&earned.proofs(&verifier, &wallet))?;
        write_atomic(path, text.as_bytes())?;
        session.printer.note(&format!("the proofs are in {}", path.display()));
    }
    earned.print(&session, args, &verifier, &wallet);
    Ok(Exit::Done)
}

/// The wallet that is meant: named, or of the one miner whose folder is here.
fn whose(session: &Session, args: &EarningsArgs) -> Result<Address> {
    let pool = home_root(&session.args.files)?.join(&session.args.pool.pool);
    let wallet = |folder: &Path| -> Result<Option<Address>> {
        let Some(secret) = read_secret(&folder.join("key"))? else { return Ok(None) };
        Ok(SecretKey::from_bytes(secret.expose()).ok().map(|key| key.address()))
    };
    match &args.whose {
        Some(Earner::Wallet(address)) => Ok(*address),
        Some(Earner::Miner(name)) => wallet(&pool.join(format!("miner-{name}")))?.ok_or_else(|| {
            UserError::misuse(format!("no miner {name} has its key here"))
                .hint("name it as --ens did, or give its address")
                .into()
        }),
        None => {
            let folders = std::fs::read_dir(&pool).into_iter().flatten().flatten().map(|entry| entry.path());
            let is_miner = |path: &std::path::PathBuf| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("miner"))
            };
            let miners: Vec<_> = folders.filter(is_miner).collect();
            match &miners[..] {
                [only] => wallet(only)?.ok_or_else(|| UserError::misuse("the miner here has no key").into()),
                [] => Err(UserError::misuse("no miner has run here").hint("give a wallet's address").into()),
                many => Err(UserError::misuse(format!("{} miners have run here", many.len()))
                    .hint("name one of them, as --ens did, or give its address")
                    .into()),
            }
        }
    }
}

impl Earned {
    /// Takes in the epoch that the verifier has just read.
    fn note(&mut self, verifier: &Verifier, wallet: &Address, proofs: bool) {
        let (Some((header, link)), Some(state)) = (verifier.header(), verifier.state()) else { return };
        let (Some(held), Some(sealing)) = (state.held().get(&header.epoch), state.sealing()) else { return };
        let own = (0..).zip(&held.leaves).filter(|(_, leaf)| leaf.wallet == *wallet);
        for (index, leaf) in own {
            let at = usize::try_from(index).expect("an index in memory");
            let (hash, earned) = (sealing.leaves[at], held.earned(at));
            let proof = proofs.then(|| merkle::inclusion_proof(&sealing.leaves, index)).flatten();
            let (epoch, leaf, proof) = (header.epoch, leaf.clone(), proof.unwrap_or_default());
            self.jobs.push(Earning { epoch, index, leaf, earned, hash, proof });
            self.epochs.entry(header.epoch).or_insert_with(|| Epoch {
                header: link,
                proofs_root: header.proofs_root,
                count: sealing.leaves.len() as u64,
            });
        }
    }

    fn print(&self, session: &Session, args: &EarningsArgs, verifier: &Verifier, wallet: &Address) {
        let (header, link) = verifier.header().expect("at least one epoch was read");
        let newest = header.epoch;
        if session.printer.is_json() {
            let jobs: Vec<Value> = self.jobs.iter().map(|job| job.json(newest)).collect();
            let (held, payable, lifetime) = balances(verifier, wallet);
            return session.printer.object(&json!({
                "wallet": wallet.to_string(), "epoch": newest, "header": link.to_string(), "jobs": jobs,
                "held_usdc": held.to_string(), "payable_usdc": payable.to_string(), "lifetime_micro": lifetime.to_string(),
            }));
        }
        if args.csv {
            let rows: String = self.jobs.iter().map(|job| job.csv(newest)).collect();
            let head =
                "epoch,index,job,client,price_usdc,work_units,mode,earned_usdc,state,payable_after_epoch\n";
            return session.printer.answer(format!("{head}{rows}").as_bytes());
        }
        let mut text = match args.jobs {
            true => table(&JOBS, &self.jobs.iter().map(|job| job.cells(newest)).collect::<Vec<_>>()),
            false => table(&EPOCHS, &self.by_epoch(newest)),
        };
        let (held, payable, lifetime) = balances(verifier, wallet);
        text.push_str(&format!(
            "wallet {wallet}, recomputed up to epoch {newest}: {held} USDC held, {payable} USDC payable\n\
             lifetime payouts of {lifetime} µUSDC are under the payouts root of {link}"
        ));
        session.printer.answer(text.as_bytes());
    }

    fn by_epoch(&self, newest: u64) -> Vec<Vec<String>> {
        let row = |own: &[Earning]| {
            let sum = |mode| {
                let paid = own.iter().filter(|job| job.leaf.mode == mode).map(|job| job.earned.0);
                MicroUsdc(paid.sum()).to_string()
            };
            let units = own.iter().fold(0u64, |sum, job| sum.saturating_add(job.leaf.units));
            let (epoch, jobs) = (own[0].epoch, own.len().to_string());
            let (solo, pps) = (sum(PayoutMode::Solo), sum(PayoutMode::Pps));
            vec![epoch.to_string(), jobs, units.to_string(), solo, pps, state(epoch, newest)]
        };
        self.jobs.chunk_by(|a, b| a.epoch == b.epoch).map(row).collect()
    }

    /// Every acceptance under its epoch's root, and the lifetime payout as OpenZeppelin's contracts take it.
    fn proofs(&self, verifier: &Verifier, wallet: &Address) -> Value {
        let (header, link) = verifier.header().expect("at least one epoch was read");
        let payouts = verifier.state().expect("at least one epoch was read").accounts().payouts();
        let entries: Vec<(Address, u128)> = payouts.iter().map(|(to, amount)| (*to, *amount)).collect();
        let amount = payouts.get(wallet).copied().unwrap_or(0);
        let hexed = |proof: &[Digest]| proof.iter().map(|node| format!("0x{node}")).collect::<Vec<_>>();
        let payout = StandardTree::new(&entries).proof(*wallet, amount).map(|proof| {
            json!({
                "value": [wallet.to_string(), amount.to_string()], "proof": hexed(&proof),
                "root": format!("0x{}", header.payouts_root), "header": link.to_string(), "epoch": header.epoch,
            })
        });
        let jobs = self.jobs.iter().map(|job| {
            let epoch = &self.epochs[&job.epoch];
            json!({
                "job": job.leaf.job.to_string(), "epoch": job.epoch, "header": epoch.header.to_string(),
                "index": job.index, "count": epoch.count, "leaf": format!("0x{}", job.hash),
                "proof": hexed(&job.proof), "root": format!("0x{}", epoch.proofs_root),
            })
        });
        json!({ "wallet": wallet.to_string(), "payout": payout, "jobs": jobs.collect::<Vec<_>>() })
    }
}

fn balances(verifier: &Verifier, wallet: &Address) -> (MicroUsdc, MicroUsdc, u128) {
    let accounts = verifier.state().expect("at least one epoch was read").accounts();
    let lifetime = accounts.payouts().get(wallet).copied().unwrap_or(0);
    let amount = |account| accounts.amount(&account);
    (amount(Account::MinerHeld(*wallet)), amount(Account::MinerPayable(*wallet)), lifetime)
}

fn state(epoch: u64, newest: u64) -> String {
    match epoch + HELD_EPOCHS {
        until if until <= newest => "payable".to_owned(),
        until => format!("held, epoch {until} frees it"),
    }
}

fn mode(leaf: &HeldLeaf) -> &'static str {
    match leaf.mode {
        PayoutMode::Solo => "solo",
        PayoutMode::Pps => "pps",
    }
}

impl Earning {
    fn cells(&self, newest: u64) -> Vec<String> {
        vec![
            self.epoch.to_string(),
            short_job(&self.leaf.job),
            self.leaf.price.to_string(),
            self.leaf.units.to_string(),
            mode(&self.leaf).to_owned(),
            self.earned.to_string(),
            state(self.epoch, newest),
        ]
    }

    fn csv(&self, newest: u64) -> String {
        let HeldLeaf { job, client, price, units, .. } = &self.leaf;
        let (earned, until) = (self.earned, self.epoch + HELD_EPOCHS);
        let state = if until <= newest { "payable" } else { "held" };
        let (epoch, index, mode) = (self.epoch, self.index, mode(&self.leaf));
        format!("{epoch},{index},{job},{client},{price},{units},{mode},{earned},{state},{until}\n")
    }

    fn json(&self, newest: u64) -> Value {
        let HeldLeaf { job, client, price, units, mode, .. } = &self.leaf;
        let until = self.epoch + HELD_EPOCHS;
        json!({
            "epoch": self.epoch, "index": self.index, "job": job.to_string(), "client": client.to_string(),
            "price_usdc": price.to_string(), "work_units": units, "mode": mode,
            "earned_usdc": self.earned.to_string(), "payable": until <= newest, "held_until_boundary": until,
        })
    }
}
