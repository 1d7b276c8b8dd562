//! The hours at which a miner works, by the machine's own clock and time zone.

use crate::driver::Input;
use anyhow::{Result, bail};
use jiff::ZonedDateTime;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use swarm_protocol::miner::{Event, Pause};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often the clock is looked at: it may be set, and change with the season.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// The most stretches of a day.
const MAX_STRETCHES: usize = 8;
const DAY: u16 = 24 * 60;

/// A minute of the day, from 0.
type Minute = u16;

/// Stretches of the day, each from a minute on up to another, over midnight where that is the earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours(Vec<(Minute, Minute)>);

impl Hours {
    fn contain(&self, minute: Minute) -> bool {
        self.0.iter().any(|&(from, to)| match from < to {
            true => (from..to).contains(&minute),
            false => minute >= from || minute < to,
        })
    }

    /// Whether the machine's clock is within them.
    pub(super) fn are_now(&self) -> bool {
        let now = ZonedDateTime::now();
        self.contain(60 * now.hour().unsigned_abs() as Minute + now.minute().unsigned_abs() as Minute)
    }
}

impl FromStr for Hours {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let stretches: Vec<_> = text.split(',').map(|stretch| read(stretch.trim())).collect::<Result<_>>()?;
        if stretches.len() > MAX_STRETCHES {
            bail!("at most {MAX_STRETCHES} stretches of a day");
        }
        Ok(Self(stretches))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |minute: Minute| format!("{:02}:{:02}", minute / 60, minute % 60);
        let stretches = self.0.iter().map(|&(from, to)| format!("{}-{}", time(from), time(to)));
        f.write_str(&stretches.collect::<Vec<_>>().join(","))
    }
}

fn read(stretch: &str) -> Result<(Minute, Minute)> {
    let times = stretch.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
    match times {
        Some((from, to)) if from % DAY != to => Ok((from % DAY, to)),
        Some(_) => bail!("'{stretch}' has no length"),
        None => bail!("'{stretch}' is no stretch of a day: write it as 22:00-06:30"),
    }
}

/// `24:00` is the end of the day.
fn minute(text: &str) -> Option<Minute> {
    let (hour, minute) = text.trim().split_once(':')?;
    let two = |text: &str| (text.len() == 2).then(|| text.parse::<Minute>().ok()).flatten();
    let (hour, minute) = (two(hour)?, two(minute)?);
    let whole = 60 * hour + minute;
    (minute < 60 && whole <= DAY).then_some(whole)
}

/// Tells the miner to rest when its hours end, and to go on when they begin.
pub(super) async fn keep(hours: Hours, inbox: mpsc::Sender<Input<Event, ()>>, stop: CancellationToken) {
    watch(|| hours.are_now(), LOOK_INTERVAL, inbox, stop).await;
}

/// It works when this begins.
async fn watch(
    works: impl Fn() -> bool,
    every: Duration,
    inbox: mpsc::Sender<Input<Event, ()>>,
    stop: CancellationToken,
) {
    let mut worked = true;
    loop {
        let now = works();
        let event = if now { Event::Resume(Pause::Hours) } else { Event::Pause(Pause::Hours) };
        if now != worked && inbox.send(Input::Event(event)).await.is_err() {
            return;
        }
        worked = now;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn at(text: &str) -> Minute {
        minute(text).unwrap()
    }

    #[test]
    fn stretches_hold_their_first_minute_and_not_their_last() {
        let hours: Hours = "09:00-12:30, 22:00-06:00".parse().unwrap();
        let inside = ["09:00", "12:29", "22:00", "23:59", "00:00", "05:59"];
        let outside = ["08:59", "12:30", "21:59", "06:00"];
        assert!(inside.iter().all(|time| hours.contain(at(time))));
        assert!(!outside.iter().any(|time| hours.contain(at(time))));
        assert_eq!(hours.to_string(), "09:00-12:30,22:00-06:00");
    }

    #[test]
    fn a_day_may_be_named_whole_or_to_its_end() {
        let whole: Hours = "00:00-24:00".parse().unwrap();
        assert!((0..DAY).all(|minute| whole.contain(minute)));
        let evening: Hours = "18:00-24:00".parse().unwrap();
        assert!(evening.contain(DAY - 1) && !evening.contain(0));
        let night: Hours = "24:00-06:00".parse().unwrap();
        assert!(night.contain(0) && !night.contain(DAY - 1));
    }

    #[test]
    fn what_is_no_stretch_is_refused_in_words() {
        for wrong in [
            "",
            "22",
            "22:00",
            "22-06",
            "22:00-6:00",
            "22:60-23:00",
            "24:01-25:00",
            "a:b-c:d",
            "06:00-06:00",
            "24:00-00:00",
        ] {
            let error = wrong.parse::<Hours>().unwrap_err().to_string();
            assert!(error.contains("22:00-06:30") || error.contains("no length"), "{wrong}: {error}");
        }
        assert!(["01:00-02:00"; 9].join(",").parse::<Hours>().is_err());
    }

    #[tokio::test]
    async fn a_miner_is_told_when_its_hours_begin_and_end_and_not_between() {
        let works = Arc::new(AtomicBool::new(false));
        let (inbox, mut told) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let now = works.clone();
        let works_now = move || now.load(Ordering::Relaxed);
        let watching = tokio::spawn(watch(works_now, Duration::from_millis(1), inbox, stop.clone()));
        let mut next = async || match told.recv().await {
            Some(Input::Event(event)) => format!("{event:?}"),
            other => panic!("{}", other.is_some()),
        };
        assert_eq!(next().await, "Pause(Hours)");
        works.store(true, Ordering::Relaxed);
        assert_eq!(next().await, "Resume(Hours)");
        works.store(false, Ordering::Relaxed);
        assert_eq!(next().await, "Pause(Hours)");
        stop.cancel();
        watching.await.unwrap();
        assert!(told.recv().await.is_none());
    }
}
