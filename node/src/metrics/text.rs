//! Prometheus' text format, version 0.0.4.

use prometheus_client::encoding::text::encode as encode_open_metrics;
use prometheus_client::registry::Registry;
use std::fmt::{Error, Write};

/// The library writes OpenMetrics, which every Prometheus reads but not every tool. They differ in what describes
/// counters: it names `x` there and `x_total` here; and in two kinds of lines that only OpenMetrics has.
pub(super) fn encode(registry: &Registry) -> Result<String, Error> {
    let mut open = String::new();
    encode_open_metrics(&mut open, registry)?;
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take() {
                writeln!(text, "# HELP {name}{total} {help}")?;
            }
            writeln!(text, "# TYPE {name}{total} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(text, "{line}")?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;

    #[test]
    fn counters_are_described_under_the_name_that_they_have() {
        let mut registry = Registry::with_prefix("a");
        let jobs = Counter::<u64>::default();
        jobs.inc_by(3);
        registry.register("jobs", "All of them", jobs);
        registry.register("room", "What is left", Gauge::<i64>::default());
        let time = Histogram::new([0.5]);
        time.observe(0.25);
        registry.register("wait_seconds", "How long", time);
        let expected = "\
# HELP a_jobs_total All of them.
# TYPE a_jobs_total counter
a_jobs_total 3
# HELP a_room What is left.
# TYPE a_room gauge
a_room 0
# HELP a_wait_seconds How long.
# TYPE a_wait_seconds histogram
a_wait_seconds_sum 0.25
a_wait_seconds_count 1
a_wait_seconds_bucket{le=\"0.5\"} 1
a_wait_seconds_bucket{le=\"+Inf\"} 1
";
        assert_eq!(encode(&registry).unwrap(), expected);
    }
}
