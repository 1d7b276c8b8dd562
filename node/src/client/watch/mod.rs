//! `swarm-client watch`: the pool as it changes, on a terminal.

mod screen;
mod terminal;
#[cfg(test)]
mod tests;

use super::Session;
use super::lookout::Lookout;
use crate::cli::{Exit, UserError};
use anyhow::{Context, Result};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt;
use screen::Screen;
use std::io::IsTerminal;
use std::time::Duration;
use terminal::Taken;
pub(crate) use terminal::give_back;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often what is shown is brought up to date, and how many times as long as that takes is waited at least: a view may
/// be large.
const TICK: Duration = Duration::from_millis(500);
const REST: u32 = 4;

pub(super) async fn watch(session: Session) -> Result<Exit> {
    check_terminal(&session)?;
    session.printer.stage(format!("looking for the operator of {}", session.args.pool.pool));
    let connection = session.connect().await?;
    session.printer.finish();
    let introduction = [&connection.beacon, &connection.opened];
    let lookout = Lookout::new(&session, connection.link.clone(), &introduction);
    let listener = tokio::spawn(lookout.clone().listen(connection.events));
    let asker = tokio::spawn(lookout.clone().keep_asking(session.stop.clone()));
    let shown = show(&lookout, &session.stop).await;
    listener.abort();
    asker.abort();
    connection.link.network().shutdown().await;
    shown.map(|()| Exit::Done)
}

fn check_terminal(session: &Session) -> Result<(), UserError> {
    let instead = "swarm-client status prints the same once, status --json for programs";
    if session.printer.is_json() {
        return Err(UserError::misuse("swarm-client watch has no --json").hint(instead));
    }
    let dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
    if dumb || !std::io::stdout().is_terminal() {
        return Err(
            UserError::misuse("swarm-client watch draws on a terminal, and this is none").hint(instead)
        );
    }
    Ok(())
}

/// Draws until somebody wants to leave.
async fn show(lookout: &Lookout, stop: &CancellationToken) -> Result<()> {
    let mut taken = Taken::new(stop).context("the terminal cannot be drawn on")?;
    let mut keys = EventStream::new();
    let mut screen = Screen::default();
    let mut survey = lookout.survey().await;
    let mut next = Instant::now() + TICK;
    while !stop.is_cancelled() {
        taken.0.draw(|frame| screen.draw(frame, &survey)).context("the terminal cannot be drawn on")?;
        panic_if_asked();
        tokio::select! {
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if leaves(&key) => return Ok(()),
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => screen.press(key.code),
                Some(Ok(_)) => {}
                // The terminal is gone.
                Some(Err(_)) | None => return Ok(()),
            },
            () = sleep_until(next) => {
                let begun = Instant::now();
                survey = lookout.survey().await;
                next = Instant::now() + TICK.max(begun.elapsed() * REST);
            }
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

fn leaves(key: &KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

/// Debug builds panic here if `SWARMPOOL_WATCH_PANIC` is set, for tests.
fn panic_if_asked() {
    #[cfg(debug_assertions)]
    if std::env::var_os("SWARMPOOL_WATCH_PANIC").is_some() {
        panic!("SWARMPOOL_WATCH_PANIC is set");
    }
}
