//! Named places where a test can make the process die as if by `kill -9`.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};

/// Names the crash point, as `name` or `name:n` for its n-th visit (from 1).
#[cfg(debug_assertions)]
pub const CRASH_VARIABLE: &str = "SWARMPOOL_CRASH_AT";

/// Kills the process with SIGKILL if `SWARMPOOL_CRASH_AT` names this place; in release builds it does nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn crash_point(_name: &str) {}

/// Kills the process with SIGKILL if `SWARMPOOL_CRASH_AT` names this place; in release builds it does nothing.
#[cfg(debug_assertions)]
pub fn crash_point(name: &str) {
    static VISITS: AtomicU64 = AtomicU64::new(0);
    let Some((wanted, visit)) = wanted() else {
        return;
    };
    if wanted == name && VISITS.fetch_add(1, Ordering::SeqCst) + 1 == *visit {
        let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        unreachable!("SIGKILL to this very process returned: {killed:?}");
    }
}

#[cfg(debug_assertions)]
fn wanted() -> Option<&'static (String, u64)> {
    static WANTED: std::sync::OnceLock<Option<(String, u64)>> = std::sync::OnceLock::new();
    WANTED.get_or_init(|| std::env::var(CRASH_VARIABLE).ok().and_then(|text| parse(&text))).as_ref()
}

#[cfg(debug_assertions)]
fn parse(text: &str) -> Option<(String, u64)> {
    let (name, visit) = match text.split_once(':') {
        Some((name, visit)) => (name, visit.parse().ok()?),
        None => (text, 1),
    };
    (!name.is_empty() && visit > 0).then(|| (name.to_owned(), visit))
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const VISITOR: &str = "storage::crash::tests::a_visitor";

    #[test]
    fn names_and_visits_are_read() {
        assert_eq!(parse("after-append"), Some(("after-append".into(), 1)));
        assert_eq!(parse("after-append:3"), Some(("after-append".into(), 3)));
        assert_eq!(parse("after-append:x"), None);
        assert_eq!(parse("after-append:0"), None);
        assert_eq!(parse(""), None);
    }

    /// Does nothing unless the tests below start it in a process of its own.
    #[test]
    fn a_visitor() {
        if std::env::var_os(CRASH_VARIABLE).is_none() {
            return;
        }
        for visit in 1..=4 {
            crash_point("elsewhere");
            crash_point("here");
            eprintln!("survived visit {visit}");
        }
    }

    fn visits_survived(crash_at: &str) -> (usize, Option<i32>) {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([VISITOR, "--exact", "--nocapture"])
            .env(CRASH_VARIABLE, crash_at)
            .output()
            .unwrap();
        let survived = String::from_utf8_lossy(&output.stderr).matches("survived visit").count();
        (survived, output.status.signal())
    }

    #[test]
    fn the_process_dies_at_the_named_visit_and_nowhere_else() {
        assert_eq!(visits_survived("here:3"), (2, Some(9)));
        assert_eq!(visits_survived("here"), (0, Some(9)));
        assert_eq!(visits_survived("here:5"), (4, None));
        assert_eq!(visits_survived("nowhere"), (4, None));
    }
}
