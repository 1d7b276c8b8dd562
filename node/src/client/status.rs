//! The pool at a glance: one object for programs, a page for people.

use super::Session;
use super::lists::{List, lists};
use super::lookout::Lookout;
use super::survey::Survey;
use crate::cli::Exit;
use crate::tables::table;
use crate::words::{clean, span};
use anyhow::Result;
use std::fmt::Write;
use std::time::Duration;
use swarm_protocol::Millis;

/// For all questions together; what is not known by then is left out.
const GATHER_TIMEOUT: Duration = Duration::from_secs(20);
/// Rows printed of one list.
const MAX_PRINTED: usize = 10;

pub(super) async fn pool(session: Session) -> Result<Exit> {
    let connection = session.connect().await?;
    let introduction = [&connection.beacon, &connection.opened];
    let lookout = Lookout::new(&session, connection.link.clone(), &introduction);
    let listener = tokio::spawn(lookout.clone().listen(connection.events));
    tokio::select! {
        _ = tokio::time::timeout(GATHER_TIMEOUT, lookout.gather()) => {}
        () = session.stop.cancelled() => {}
    }
    let survey = lookout.survey().await;
    listener.abort();
    session.printer.finish();
    connection.link.network().shutdown().await;
    if !survey.operator_in_reach {
        return Err(super::no_answer());
    }
    if session.printer.is_json() {
        session.printer.object(&serde_json::to_value(&survey)?);
    } else {
        session.printer.answer(page(&survey).as_bytes());
    }
    Ok(Exit::Done)
}

fn page(survey: &Survey) -> String {
    let supply =
        |row: &super::survey::ModelRow| format!("{} ({} live miners)", clean(&row.model), row.miners);
    let amount = |amount: &Option<String>| amount.clone().unwrap_or_else(|| "?".to_owned());
    let models: Vec<String> = survey.models.iter().map(supply).collect();
    let mut text = format!(
        "pool      {}\noperator  {}, heard {} ago\nepoch     {}\njobs      {} pending, {} leased\nmodels    {}\ntree      {}\n\
         you       {}\nbalance   {} USDC free, {} reserved\nearned    {} USDC held, {} payable\n",
        survey.pool,
        survey.operator,
        span(Millis(survey.age_ms)),
        survey.epoch,
        survey.pending,
        survey.leased,
        models.join(", "),
        survey.tree.as_deref().unwrap_or("none yet"),
        survey.wallet,
        amount(&survey.free_usdc),
        amount(&survey.reserved_usdc),
        amount(&survey.held_usdc),
        amount(&survey.payable_usdc)
    );
    for list in lists(survey) {
        text.push('\n');
        text.push_str(&printed(&list));
    }
    for evidence in &survey.evidence {
        text.push_str(&format!("\nevidence against the operator: {evidence}"));
    }
    text
}

fn printed(list: &List) -> String {
    let mut text = format!("{} ({})\n", list.title, list.rows.len());
    if list.rows.is_empty() {
        return format!("{text}  {}\n", list.empty);
    }
    text.push_str(&table(list.columns, &list.rows[..list.rows.len().min(MAX_PRINTED)]));
    if list.rows.len() > MAX_PRINTED {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "  and {} more", list.rows.len() - MAX_PRINTED);
    }
    text
}
