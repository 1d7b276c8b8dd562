//! How ids are written for people.

use swarm_crypto::address::Address;
use swarm_protocol::Millis;
use swarm_protocol::codec::JobId;
use swarm_protocol::workload::bench::{Figures, Spec};

/// A job's id, short: its last eight characters, which differ.
pub fn short_job(job: &JobId) -> String {
    let text = job.to_string();
    format!("…{}", &text[text.len().saturating_sub(8)..])
}

/// A wallet by its name, or by its address, short.
pub fn who(wallet: &Address, name: Option<&str>) -> String {
    let text = wallet.to_string();
    let short = format!("{}…{}", &text[..6], &text[38..]);
    name.map_or(short.clone(), |name| format!("{name} ({short})"))
}

/// A span of time, in its largest unit.
pub fn span(span: Millis) -> String {
    let seconds = span.0 / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// An amount of memory or disk, in its largest unit.
pub fn size(bytes: u64) -> String {
    match bytes >> 20 {
        mebibytes @ 0..1024 => format!("{mebibytes} MiB"),
        mebibytes => format!("{}.{} GiB", mebibytes / 1024, mebibytes % 1024 * 10 / 1024),
    }
}

/// How fast matrices were multiplied: over all laps, and in the best.
pub fn rates(figures: &Figures) -> String {
    let rate = per_ns(figures.operations, figures.total_ns);
    let (best, traffic) = (best_rate(figures), per_ns(figures.traffic, figures.total_ns));
    format!("{rate:.1} GFLOP/s (best {best:.1}), {traffic:.1} GB/s")
}

/// Operations of the fastest lap, in 10^9 a second; all laps are of one size.
pub fn best_rate(figures: &Figures) -> f64 {
    let laps = Spec::parse(&figures.spec).map_or(1, |spec| spec.repeats);
    per_ns(figures.operations / u64::from(laps), figures.best_ns)
}

/// So many things in so many nanoseconds, as 10^9 a second.
pub fn per_ns(count: u64, ns: u64) -> f64 {
    count as f64 / ns.max(1) as f64
}

/// What strangers wrote, without what could move the cursor, turn the writing direction round or hide itself.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_plain(c) { c } else { '\u{fffd}' }).collect()
}

fn is_plain(c: char) -> bool {
    let invisible = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !c.is_control() && !invisible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_cannot_act_on_the_terminal() {
        for (written, shown) in [
            ("queenbee-nano", "queenbee-nano"),
            ("glücklich 蜜蜂", "glücklich 蜜蜂"),
            ("\u{1b}[2J\u{7}bell", "�[2J�bell"),
            ("a\r\nb\tc", "a��b�c"),
            ("\u{9b}31m", "�31m"),
            ("abc\u{202e}gpj.exe", "abc�gpj.exe"),
            ("ali\u{200b}ce\u{feff}", "ali�ce�"),
        ] {
            assert_eq!(clean(written), shown, "{written:?}");
        }
    }

    #[test]
    fn sizes_have_one_unit() {
        let gib = 1 << 30;
        let sizes = [0, (1 << 20) - 1, 64 << 20, gib - 1, gib, gib * 3 / 2, 23 * gib + gib / 20].map(size);
        assert_eq!(sizes, ["0 MiB", "0 MiB", "64 MiB", "1023 MiB", "1.0 GiB", "1.5 GiB", "23.0 GiB"]);
    }

    #[test]
    fn spans_have_one_unit() {
        for (millis, text) in [
            (999, "0 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (3_600_000, "1 h"),
            (172_799_000, "47 h"),
            (172_800_000, "2 d"),
        ] {
            assert_eq!(span(Millis(millis)), text);
        }
    }
}
