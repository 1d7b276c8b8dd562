//! Lists for people: rows of clean text under the names of their columns.

use crate::network::PeerInfo;
use crate::words::{clean, span};
use ratatui::text::Line;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};
use swarm_protocol::Millis;

/// A column; where there is not room for all, those with the highest rank go first.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    /// The most cells that it takes.
    pub width: u16,
    pub rank: u8,
}

/// A column.
pub const fn column(name: &'static str, width: u16, rank: u8) -> Column {
    Column { name, width, rank }
}

/// Rows under their columns' names, as wide as they are.
pub fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let names: Vec<String> = columns.iter().map(|column| column.name.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&names).chain(rows).collect();
    let width = |n: usize| all.iter().map(|row| width_of(&row[n])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &&Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| {
            let room = width.saturating_sub(width_of(cell));
            format!("{cell}{}", " ".repeat(room))
        });
        let cells: Vec<String> = cells.collect();
        format!("  {}\n", cells.join("  ").trim_end())
    };
    all.iter().map(line).collect()
}

fn width_of(text: &str) -> usize {
    Line::raw(text).width()
}

/// A connected node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    pub peer: String,
    pub agent: Option<String>,
    pub address: String,
    pub route: String,
    pub route_since_ms: u64,
    pub latency_ms: Option<u64>,
    pub since_ms: u64,
    pub score: f64,
}

/// The columns of connected nodes.
pub const PEER_COLUMNS: [Column; 6] = [
    column("peer", 9, 0),
    column("runs", 30, 2),
    column("route", 8, 0),
    column("latency", 7, 1),
    column("since", 6, 1),
    column("address", 50, 3),
];

impl PeerRow {
    /// What the network says of a peer.
    pub fn of(peer: &PeerInfo) -> Self {
        Self {
            peer: peer.peer.to_string(),
            agent: peer.agent.clone(),
            address: peer.address.to_string(),
            route: peer.route.name().to_owned(),
            route_since_ms: moment(peer.route_since),
            latency_ms: peer.latency.map(|latency| millis(latency.as_millis())),
            since_ms: moment(peer.connected_since),
            score: peer.score,
        }
    }

    /// Its row, at `now` in milliseconds since 1970.
    pub fn cells(&self, now: u64) -> Vec<String> {
        vec![
            tail(&self.peer),
            clean(self.agent.as_deref().unwrap_or_default()),
            clean(&self.route),
            self.latency_ms.map(|latency| format!("{latency} ms")).unwrap_or_default(),
            age(self.since_ms, now),
            clean(self.address.strip_suffix(&format!("/p2p/{}", self.peer)).unwrap_or(&self.address)),
        ]
    }
}

fn moment(at: SystemTime) -> u64 {
    millis(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis())
}

fn millis(millis: u128) -> u64 {
    u64::try_from(millis).unwrap_or(u64::MAX)
}

/// How long ago something was.
pub fn age(since: u64, now: u64) -> String {
    span(Millis(now.saturating_sub(since)))
}

/// The last eight characters of an id, which differ.
pub fn tail(id: &str) -> String {
    let id = clean(id);
    let from = id.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    format!("…{}", &id[from..])
}
