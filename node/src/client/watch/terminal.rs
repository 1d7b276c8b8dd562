//! The terminal, taken over and given back as it was.

use crossterm::cursor::Show;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use std::io::{Stdout, Write, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::sync::CancellationToken;

static TAKEN: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// A terminal that is drawn on; dropping it gives it back.
pub(super) struct Taken(pub Terminal<CrosstermBackend<Stdout>>);

impl Taken {
    /// Takes over the terminal of stdout. A panic anywhere gives it back before it is told, and cancels `stop`.
    pub fn new(stop: &CancellationToken) -> std::io::Result<Self> {
        let stop = stop.clone();
        HOOK.call_once(|| {
            let tell = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                tell(panic);
                stop.cancel();
            }));
        });
        TAKEN.store(true, Ordering::SeqCst);
        let begun = enable_raw_mode().and_then(|()| crossterm::execute!(stdout(), EnterAlternateScreen));
        let terminal = begun.and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        if terminal.is_err() {
            give_back();
        }
        terminal.map(Self)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back if it was taken; once.
pub(crate) fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // Whoever closed the terminal needs nothing back.
        let _ = crossterm::execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = stdout().flush();
    }
}
