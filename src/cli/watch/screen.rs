// SPDX-License-Identifier: MIT
//! What is to be seen: rates from one report to the next, and the lines that show them. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use crate::cli::render;
use crate::cli::units::{show_age, show_count, show_size};
use crate::metrics::bound_us;
use crate::mirror::events::Change;
use crate::mirror::report::{Report, Resync};
use crate::mirror::state::MirrorState;
use crate::sys::localtime::local;

/// Seconds that are remembered.
const HISTORY: usize = 300;
/// Columns before a sparkline.
const BEFORE: usize = 40;
/// Events that are shown at most.
const EVENTS: usize = 8;
/// Columns of the bar at most, and of what is beside it.
const BAR: usize = 64;
const BESIDE: usize = 15;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Title,
    Good,
    Busy,
    Bad,
    Faint,
}

/// One line of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) style: Style,
}

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// The terminal has more than ASCII.
    pub(super) wide_letters: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Change { mirror: String, change: Change },
    Lost { mirror: String, count: u64 },
}

/// What a mirror did within about a second, each for one second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rates {
    ops: u64,
    read: u64,
    primary: u64,
    /// One for each replica.
    replicas: Vec<u64>,
    lag_bytes: u64,
    /// Half of the answers took at most so many microseconds, and 99 of 100; `None` without any, and
    /// where they took longer than there are bounds for.
    half_us: Option<u64>,
    most_us: Option<u64>,
}

/// One mirror over time.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) mirror: String,
    last: Option<(Instant, Report)>,
    /// Why there is no report.
    silence: Option<String>,
    rates: VecDeque<Rates>,
}

/// All answers by how long they took.
fn buckets(report: &Report) -> Vec<u64> {
    let mut all = Vec::new();
    for times in report.request_times.values() {
        all.resize(all.len().max(times.buckets.len()), 0);
        for (sum, count) in all.iter_mut().zip(&times.buckets) {
            *sum = u64::saturating_add(*sum, *count);
        }
    }
    all
}

/// All together, or as much as can be counted: the numbers are a daemon's to say.
fn total(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

/// The bound below which so many percent are.
fn quantile(counts: &[u64], percent: u64) -> Option<u64> {
    let all: u128 = counts.iter().copied().map(u128::from).sum();
    let wanted = (all * u128::from(percent)).div_ceil(100).max(1);
    let mut below = 0;
    let place = counts.iter().position(|count| {
        below += u128::from(*count);
        below >= wanted
    });
    place.and_then(bound_us)
}

impl Rates {
    fn between(before: &Report, after: &Report, ms: u64) -> Self {
        let rate = |before: u64, after: u64| {
            let more = u128::from(after.saturating_sub(before)) * 1000;
            u64::try_from(more / u128::from(ms.max(1))).unwrap_or(u64::MAX)
        };
        let ops = |report: &Report| total(report.requests.values().copied());
        let read = |report: &Report| report.read_bytes.unwrap_or(0);
        let was = buckets(before);
        let counts: Vec<u64> = buckets(after)
            .into_iter()
            .enumerate()
            .map(|(place, n)| n.saturating_sub(was.get(place).copied().unwrap_or(0)))
            .collect();
        let replicas = before.replicas.iter().zip(&after.replicas);
        Self {
            ops: rate(ops(before), ops(after)),
            read: rate(read(before), read(after)),
            primary: rate(before.primary.written_bytes, after.primary.written_bytes),
            replicas: replicas
                .map(|(before, after)| rate(before.written_bytes, after.written_bytes))
                .collect(),
            lag_bytes: total(after.replicas.iter().map(|r| r.lag_bytes)),
            half_us: quantile(&counts, 50),
            most_us: quantile(&counts, 99),
        }
    }
}

impl Track {
    pub(super) fn new(mirror: String) -> Self {
        Self {
            mirror,
            last: None,
            silence: None,
            rates: VecDeque::new(),
        }
    }

    /// What was seen at that moment, or why nothing.
    pub(super) fn saw(&mut self, at: Instant, seen: Result<Report, String>) {
        let report = match seen {
            Ok(report) => report,
            Err(why) => {
                self.silence = Some(why);
                return;
            }
        };
        self.silence = None;
        if let Some((before_at, before)) = self.last.take() {
            // Another daemon counts from 0 again.
            if (before.pid, before.mounted_since) == (report.pid, report.mounted_since) {
                let ms = at.duration_since(before_at).as_millis();
                let ms = u64::try_from(ms).unwrap_or(u64::MAX);
                if self.rates.len() == HISTORY {
                    self.rates.pop_front();
                }
                self.rates.push_back(Rates::between(&before, &report, ms));
            } else {
                self.rates.clear();
            }
        }
        self.last = Some((at, report));
    }

    fn rate(&self, of: impl Fn(&Rates) -> u64, show: impl Fn(u64) -> String) -> String {
        let now = self.rates.back();
        now.map_or_else(|| "-".to_owned(), |rates| format!("{}/s", show(of(rates))))
    }

    fn history(&self, of: impl Fn(&Rates) -> u64) -> Vec<u64> {
        self.rates.iter().map(of).collect()
    }
}

/// The newest values, as high as the highest of them; nothing at all is the lowest letter.
fn sparkline(values: &[u64], columns: usize, wide_letters: bool) -> String {
    const WIDE: [char; 8] = [
        '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}',
        '\u{2588}',
    ];
    const NARROW: [char; 8] = ['_', '.', ',', '-', '=', '+', '*', '#'];
    let letters = if wide_letters { WIDE } else { NARROW };
    let shown = &values[values.len().saturating_sub(columns)..];
    let most = shown.iter().copied().max().unwrap_or(0).max(1);
    let letter = |value: &u64| {
        let step = (u128::from(*value) * 7).div_ceil(u128::from(most));
        letters[usize::try_from(step).unwrap_or(0).min(7)]
    };
    shown.iter().map(letter).collect()
}

/// `[######..........]`; empty while nobody knows how much there is.
fn bar(resync: &Resync, columns: usize, wide_letters: bool) -> String {
    let (done, all) = resync.share();
    let full = u128::from(done) * columns as u128 / u128::from(all.max(1));
    let full = usize::try_from(full).unwrap_or(columns).min(columns);
    let full = if resync.is_counting { 0 } else { full };
    let (on, off) = if wide_letters {
        ("\u{2588}", "\u{2591}")
    } else {
        ("#", ".")
    };
    format!("[{}{}]", on.repeat(full), off.repeat(columns - full))
}

/// `64 us`, `1.0 ms`, `2.1 s`.
fn show_us(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => show_age(us / 1000),
    }
}

fn style(state: MirrorState) -> Style {
    match state {
        MirrorState::InSync => Style::Good,
        _ if state.needs_someone() => Style::Bad,
        _ => Style::Busy,
    }
}

/// The lines of one mirror.
fn mirror(track: &Track, view: &View, now: i64) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut put = |style: Style, text: String| lines.push(Line { text, style });
    let name = &track.mirror;
    let Some((_, report)) = track.last.as_ref().filter(|_| track.silence.is_none()) else {
        put(Style::Bad, format!("{name}  does not answer"));
        for line in track.silence.iter().flat_map(|why| why.lines()) {
            put(Style::Plain, format!("   {}", line.trim()));
        }
        return lines;
    };
    put(
        style(report.state),
        format!("{name}  {}", render::state(report.state)),
    );
    put(
        Style::Faint,
        format!(
            "   {}, mounted {}",
            render::mode(report),
            render::mounted(report, now)
        ),
    );
    let told = render::told(report, now);
    for (label, text) in [("status", &told.status), ("action", &told.action)] {
        for (place, line) in text.lines().enumerate() {
            let label = if place == 0 { label } else { "" };
            put(Style::Plain, format!("   {label:8} {line}"));
        }
    }
    for resync in report.replicas.iter().filter_map(|r| r.resync.as_ref()) {
        if resync.running {
            let word = render::healing(report);
            let text = render::resync(resync);
            put(Style::Busy, format!("   {word:8} {}", text.trim_start()));
            let columns = view.columns.saturating_sub(BESIDE).min(BAR);
            let bar = bar(resync, columns, view.wide_letters);
            put(Style::Busy, format!("   {:8} {bar}", ""));
        }
    }
    let mut chart = |label: &str, text: String, values: Vec<u64>| {
        let columns = view.columns.saturating_sub(BEFORE + 1);
        let line = sparkline(&values, columns, view.wide_letters);
        let text = format!("   {label:8} {text}");
        put(Style::Plain, format!("{text:BEFORE$} {line}"));
    };
    chart(
        "requests",
        track.rate(|r| r.ops, show_count),
        track.history(|r| r.ops),
    );
    chart(
        "read",
        track.rate(|r| r.read, show_size),
        track.history(|r| r.read),
    );
    chart(
        "primary",
        track.rate(|r| r.primary, show_size),
        track.history(|r| r.primary),
    );
    for (place, replica) in report.replicas.iter().enumerate() {
        let of = |r: &Rates| r.replicas.get(place).copied().unwrap_or(0);
        let state = format!("{}  {}", track.rate(of, show_size), replica.state);
        chart("replica", state, track.history(of));
        if replica.dirty_files > 0 || replica.dirty_bytes > 0 {
            chart("dirty", render::missed(replica), Vec::new());
        }
        chart("lag", render::lag(replica), track.history(|r| r.lag_bytes));
    }
    if let Some(rates) = track.rates.back() {
        let text = match (rates.half_us, rates.most_us) {
            (Some(half), Some(most)) => format!(
                "half within {}, 99 of 100 within {}",
                show_us(half),
                show_us(most)
            ),
            (Some(half), None) => format!("half within {}, some very late", show_us(half)),
            _ => "-".to_owned(),
        };
        put(Style::Plain, format!("   answers  {text}"));
    }
    lines
}

/// `14:02:11`, where the reader is.
fn time(seconds: i64) -> String {
    let t = local(seconds);
    format!("{:02}:{:02}:{:02}", t.hour, t.minute, t.second)
}

fn event(event: &Event) -> Line {
    match event {
        Event::Change { mirror, change } => Line {
            text: format!(
                "   {}  {}  {} -> {}{}",
                time(change.at_ms.div_euclid(1000)),
                mirror,
                change.from,
                change.to,
                match (&change.errno, change.why.as_str()) {
                    (_, why) if !why.is_empty() => format!(": {why}"),
                    (Some(errno), _) => format!(": {errno}"),
                    _ => String::new(),
                }
            ),
            style: Style::Plain,
        },
        Event::Lost { mirror, count } => Line {
            text: format!("   {mirror}: {count} events were lost"),
            style: Style::Faint,
        },
    }
}

/// The whole screen: mirrors, the latest events, a last line. As many lines as there are rows at
/// most, none longer than a row.
pub(super) fn draw<'a>(
    tracks: impl Iterator<Item = &'a Track>,
    events: &[Event],
    view: &View,
    now: i64,
) -> Vec<Line> {
    let plain = |text: String, style| Line { text, style };
    let mut lines = Vec::new();
    for track in tracks {
        lines.extend(mirror(track, view, now));
        lines.push(plain(String::new(), Style::Plain));
    }
    if !events.is_empty() {
        lines.push(plain("events".to_owned(), Style::Title));
        let newest = &events[events.len().saturating_sub(EVENTS)..];
        lines.extend(newest.iter().rev().map(event));
        lines.push(plain(String::new(), Style::Plain));
    }
    lines.truncate(view.rows.saturating_sub(1));
    let last = format!("{}  Control-C ends this", time(now));
    lines.push(plain(last, Style::Faint));
    for line in &mut lines {
        // Much of it is anybody's to choose, the name of the place or what a daemon says.
        line.text = render::harmless(&line.text);
        if let Some((at, _)) = line.text.char_indices().nth(view.columns) {
            line.text.truncate(at);
        }
    }
    lines
}

/// One mirror in one line, for a pipe.
pub(super) fn plain(track: &Track) -> String {
    // In a pipe names are as they are, but one line is one mirror.
    let mirror = track.mirror.replace('\n', "\\n");
    let Some((_, report)) = track.last.as_ref().filter(|_| track.silence.is_none()) else {
        return format!("{mirror} does not answer");
    };
    let mut text = format!(
        "{mirror} {}  requests {}  read {}  primary {}",
        render::state(report.state),
        track.rate(|r| r.ops, show_count),
        track.rate(|r| r.read, show_size),
        track.rate(|r| r.primary, show_size),
    );
    for (place, replica) in report.replicas.iter().enumerate() {
        let of = |r: &Rates| r.replicas.get(place).copied().unwrap_or(0);
        text += &format!(
            "  replica {}  lag {}",
            track.rate(of, show_size),
            render::lag(replica)
        );
        if let Some(resync) = replica.resync.as_ref().filter(|r| r.running) {
            let word = render::healing(report);
            text += &format!("  {word} {}", render::resync(resync).trim_start());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::render::tests::{degraded, healing_report};
    use crate::mirror::state::ReplicaState::{Failed, InSync};

    fn view(columns: usize, rows: usize) -> View {
        View {
            columns,
            rows,
            wide_letters: false,
        }
    }

    /// A mirror that wrote so many MiB, second after second.
    fn track(report: &Report, written: &[u64]) -> Track {
        let (mut track, began) = (Track::new("/da\x1bta".into()), Instant::now());
        let mut report = report.clone();
        for (second, more) in (0..).zip(written) {
            report.primary.written_bytes += more << 20;
            report.replicas[0].written_bytes += more << 20;
            *report.requests.entry("write".into()).or_default() += more;
            track.saw(began + Duration::from_secs(second), Ok(report.clone()));
        }
        track
    }

    #[test]
    fn the_newest_values_are_shown() {
        assert_eq!(sparkline(&[0, 1, 50, 100], 9, false), "_.=#");
        assert_eq!(sparkline(&[100, 0, 7], 2, false), "_#");
        assert_eq!(sparkline(&[0, 0], 9, false), "__");
        assert_eq!(sparkline(&[0, 1], 9, true), "\u{2581}\u{2588}");
        assert_eq!(sparkline(&[], 9, true), "");
    }

    #[test]
    fn quantiles_are_bounds() {
        let mut counts = vec![0; 25];
        assert_eq!(quantile(&counts, 50), None);
        counts[6] = 99;
        counts[10] = 1;
        assert_eq!(
            (quantile(&counts, 50), quantile(&counts, 99)),
            (Some(64), Some(64))
        );
        counts[10] = 9;
        assert_eq!(quantile(&counts, 99), Some(1024));
        counts[24] = 1000;
        assert_eq!(quantile(&counts, 99), None);
        assert_eq!(
            (show_us(64), show_us(1024), show_us(2_097_152)),
            ("64 us".into(), "1.0 ms".into(), "2.0 s".into())
        );
    }

    /// Rates, a bar, and nothing that a terminal could obey; never more than there is room for.
    #[test]
    fn a_screen_of_any_size() {
        let track = track(&healing_report(), &[0, 4, 2]);
        let change = Change {
            errno: Some("ENOSPC".into()),
            ..Change::now("/backup/data", InSync, Failed)
        };
        let mirror = "/data".to_owned();
        let events = [Event::Change { mirror, change }];
        let text = |columns, rows| {
            let lines = draw(
                [&track].into_iter(),
                &events,
                &view(columns, rows),
                1_795_096_931,
            );
            assert!(lines.len() <= rows.max(1), "{columns}x{rows}");
            let short = |line: &Line| line.text.chars().count() <= columns;
            assert!(lines.iter().all(short), "{columns}x{rows}");
            let lines: Vec<_> = lines.into_iter().map(|line| line.text).collect();
            lines.join("\n")
        };
        // What is usual shows all of it.
        let all = text(80, 24);
        for words in [
            "/da\\u{1b}ta  resyncing",
            "resync   41%  7.4 of 18.2 GiB  498 of 1,204 files  210 MiB/s  00:52 left",
            "            [##########################......................................]",
            "requests 2/s",
            "primary  2 MiB/s                      #=",
            "replica  2 MiB/s  resyncing",
            "dirty    706 files, 10.8 GiB",
            "/data  in-sync -> failed: ENOSPC",
            "Control-C",
        ] {
            assert!(all.contains(words), "no {words:?} in\n{all}");
        }
        assert!(all.chars().all(|c| !c.is_control() || c == '\n'));
        for (columns, rows) in [(1, 1), (20, 5), (80, 24), (400, 100)] {
            text(columns, rows);
        }
    }

    /// Whatever a daemon says: nothing steers the terminal, and what cannot be counted is shown as much.
    #[test]
    fn a_hostile_daemon_is_shown() {
        let mut report = healing_report();
        report.replicas[0].state = "\x1b[2J".into();
        report.replicas[0].lag_bytes = u64::MAX;
        report.replicas.push(report.replicas[0].clone());
        (report.mode, report.io) = ("\u{9b}m".into(), "a\nb".into());
        let times = crate::metrics::Times {
            buckets: vec![u64::MAX; 3],
            ..Default::default()
        };
        report.request_times.insert("read".into(), times.clone());
        report.request_times.insert("write".into(), times);
        report.requests.insert("read".into(), u64::MAX);
        let hostile = Event::Change {
            mirror: "/data".into(),
            change: Change {
                errno: Some("\x1b[2J".into()),
                ..Change::now("/r", InSync, Failed)
            },
        };
        let track = track(&report, &[0, 1]);
        let lines = draw([&track].into_iter(), &[hostile], &view(80, 50), i64::MAX);
        assert!(
            !lines
                .iter()
                .any(|line| line.text.contains(char::is_control))
        );
        assert_eq!(quantile(&[u64::MAX, u64::MAX, 0], 50), bound_us(0));
    }

    /// What is wrong is said; a daemon that does not answer has no numbers.
    #[test]
    fn what_is_wrong_is_said() {
        let mut track = track(&degraded(), &[0]);
        let lines = |track: &Track| mirror(track, &view(80, 24), 1_795_096_931);
        let bad = lines(&track);
        assert_eq!(
            (bad[0].style, bad[0].text.contains("DEGRADED")),
            (Style::Bad, true)
        );
        assert!(bad.iter().any(|l| l.text.contains("action   Free space")));
        assert!(plain(&track).contains("DEGRADED  requests -  read -  primary -  replica -"));
        track.saw(Instant::now(), Err("it is gone.".into()));
        assert!(lines(&track)[0].text.contains("does not answer"));
        assert!(plain(&track).ends_with("does not answer"));
    }

    /// Another daemon begins at 0: that is no rate.
    #[test]
    fn another_daemon_has_no_rates_yet() {
        let mut track = track(&degraded(), &[0, 4]);
        assert!(plain(&track).contains("primary 4 MiB/s"));
        let another = Report {
            pid: 7,
            ..degraded()
        };
        track.saw(Instant::now(), Ok(another));
        assert!(plain(&track).contains("primary -"));
    }
}
