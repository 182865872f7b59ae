//! The report for people: a page with charts, and a few lines for the terminal.
//!
//! Owns how figures are shown. Every rate is shown next to its counterpart.

use std::fmt::Write as _;

use crate::outcome::{Measured, Outcome};
use crate::waits::Wait;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 30.0;
/// Raw, then ours; dashes distinguish them also without colours.
const OTHER: &str = "stroke=\"#888\" stroke-dasharray=\"6 3\"";
const OURS: &str = "stroke=\"#0b6\"";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A number as people read it.
fn shown(number: f64) -> String {
    match number.abs() {
        size if size >= 100_000.0 => format!("{:.0} k", number / 1_000.0),
        size if size >= 1_000.0 => format!("{:.1} k", number / 1_000.0),
        size if size >= 10.0 => format!("{number:.0}"),
        _ => format!("{number:.2}"),
    }
}

fn millis(micros: f64) -> String {
    format!("{:.2} ms", micros / 1_000.0)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}

/// A few lines.
pub(crate) fn text(outcome: &Outcome) -> String {
    let scenario = &outcome.scenario;
    let summary = &outcome.summary;
    let mut out = format!("{}: {}\n", scenario.name, scenario.about);
    let rounds = outcome.rounds.len();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "  every event arrived, {rounds} rounds of {} events to {} consumers; against {}",
        scenario.events(),
        scenario.consumers(),
        outcome.against
    );
    let _ = writeln!(
        out,
        "  dit {}/s, other {}/s: {:.2} of it (median of rounds)",
        shown(summary.ours_per_second),
        shown(summary.other_per_second),
        summary.rate_ratio
    );
    let broker =
        summary.broker_cpu_ratio.map_or_else(String::new, |ratio| format!("; of the broker {ratio:.2}"));
    let _ = writeln!(out, "  CPU of all processes, dit ÷ other: {:.2}{broker}", summary.cpu_ratio);
    if let (Some(p50), Some(p99)) = (summary.added_p50_micros, summary.added_p99_micros) {
        let ratio = summary.p99_ratio.unwrap_or_default();
        let _ =
            writeln!(out, "  added latency: p50 {}, p99 {}; p99 {ratio:.2} of it", millis(p50), millis(p99));
    }
    if let Some(seconds) = summary.disturbed_seconds {
        let _ = writeln!(out, "  the disturbance took {seconds:.2} s");
    }
    if let Some(bytes) = summary.added_router_bytes {
        let _ = writeln!(out, "  added memory of the router, at most: {:.1} MiB", bytes / 1_048_576.0);
    }
    for Wait { name, p50_micros, p99_micros } in &outcome.waits {
        let _ = writeln!(out, "  {name:<45} p50 {p50_micros:>7} µs, p99 {p99_micros:>7} µs");
    }
    out
}

pub(crate) fn page(outcome: &Outcome) -> String {
    let mut out = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{0}</title>\n<style>body{{font:15px sans-serif;max-width:760px;\
         margin:2em auto}}td,th{{padding:2px 12px 2px 0;text-align:right}}td:first-child,th:first-child\
         {{text-align:left}}svg{{background:#fafafa}}</style>\n<h1>{0}</h1>\n<pre>{1}</pre>\n",
        escaped(&outcome.scenario.name),
        escaped(&text(outcome))
    );
    let watched = escaped(&outcome.scenario.watched.words());
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<p>{}, {} cores, sink {:?}; dit was {watched}. Dashed grey: {}. Green: dit.</p>",
        outcome.begun_at,
        outcome.cores,
        outcome.scenario.sink,
        escaped(&outcome.against)
    );
    out.push_str(
        "<h2>Rounds</h2>\n<table><tr><th>round<th>other, s<th>dit, s<th>other /s<th>dit /s<th>ratio</tr>\n",
    );
    for (number, round) in (1..).zip(&outcome.rounds) {
        let other = round.other.per_second();
        let ours = round.ours.per_second();
        let _ = writeln!(
            out,
            "<tr><td>{number}<td>{:.2}<td>{:.2}<td>{}<td>{}<td>{:.2}</tr>",
            round.other.seconds,
            round.ours.seconds,
            shown(other),
            shown(ours),
            if other > 0.0 { ours / other } else { 0.0 }
        );
    }
    out.push_str("</table>\n");
    if let Some(last) = outcome.rounds.last() {
        out.push_str("<h2>Events applied over time (last round)</h2>\n");
        out.push_str(&course(&last.other, &last.ours));
        if !last.ours.latencies.is_empty() {
            out.push_str("<h2>Latency from intended sending to applied (last round)</h2>\n");
            out.push_str(&latencies(&last.other, &last.ours));
        }
        out.push_str(
            "<h2>Processes (last round)</h2>\n<table><tr><th>process<th>CPU s<th>most memory</tr>\n",
        );
        for process in last.other.processes.iter().chain(&last.ours.processes) {
            let cpu = process.taken.cpu_seconds;
            let memory = mebibytes(process.taken.max_rss_bytes);
            let _ = writeln!(out, "<tr><td>{}<td>{cpu:.2}<td>{memory}</tr>", escaped(&process.name));
        }
        out.push_str("</table>\n");
    }
    out
}

/// A chart of lines with labels along both axes; points are within 0..1.
fn chart(lines: &[(&str, Vec<(f64, f64)>)], across: &[(f64, String)], up: &[(f64, String)]) -> String {
    let x = |at: f64| LEFT + at * (WIDTH - LEFT - 10.0);
    let y = |at: f64| HEIGHT - BOTTOM - at * (HEIGHT - BOTTOM - 10.0);
    let mut out = format!("<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" font-size=\"11\">\n");
    // Writing to a string does not fail.
    for (at, label) in up {
        let left = x(0.0);
        let right = x(1.0);
        let y = y(*at);
        let _ =
            writeln!(out, "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>");
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            left - 6.0,
            y + 4.0
        );
    }
    for (at, label) in across {
        let x = x(*at);
        let y = HEIGHT - 10.0;
        let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>");
    }
    for (style, points) in lines {
        let points: Vec<_> = points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke-width=\"2\" {style} points=\"{}\"/>",
            points.join(" ")
        );
    }
    out.push_str("</svg>\n");
    out
}

const MARKS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

#[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
fn course(other: &Measured, ours: &Measured) -> String {
    let longest = other.seconds.max(ours.seconds).max(f64::MIN_POSITIVE);
    let most = other.events.max(ours.events).max(1) as f64;
    let line = |measured: &Measured| {
        measured.course.iter().map(|(at, events)| (at / longest, *events as f64 / most)).collect()
    };
    let across = MARKS.map(|at| (at, format!("{:.1} s", at * longest)));
    let up = MARKS.map(|at| (at, shown(at * most)));
    chart(&[(OTHER, line(other)), (OURS, line(ours))], &across, &up)
}

/// Across: quantiles by their nines. Up: microseconds by their magnitude.
#[allow(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^52")]
fn latencies(other: &Measured, ours: &Measured) -> String {
    const NINES: f64 = 4.0;
    let across = |quantile: f64| (-(1.0 - quantile).max(1e-4).log10()).min(NINES) / NINES;
    let all = || other.latencies.iter().chain(&ours.latencies).map(|(_, micros)| (*micros).max(1) as f64);
    let lowest = all().fold(f64::MAX, f64::min).log10().floor();
    let highest = all().fold(1.0, f64::max).log10().ceil().max(lowest + 1.0);
    let up = |micros: f64| (micros.max(1.0).log10() - lowest) / (highest - lowest);
    let line = |measured: &Measured| {
        measured.latencies.iter().map(|(quantile, micros)| (across(*quantile), up(*micros as f64))).collect()
    };
    let labels = [0.5, 0.9, 0.99, 0.999, 0.9999]
        .map(|quantile: f64| (across(quantile), format!("p{}", quantile * 100.0)));
    let mut marks = Vec::new();
    let mut power = lowest;
    while power <= highest {
        marks.push((up(10_f64.powf(power)), millis(10_f64.powf(power))));
        power += 1.0;
    }
    chart(&[(OTHER, line(other)), (OURS, line(ours))], &labels, &marks)
}
