// SPDX-License-Identifier: MIT
//! The page is read back by a strict parser; documents, dashboard and alert rules name what is there.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::cli::render::tests::{degraded, healing_report};
use crate::metrics::{CacheCounts, Request, Requests};
use crate::mirror::report::{LogCounts, Scan};

/// A report with something in every field.
fn full() -> Report {
    let mut report = Report {
        reason: degraded().reason,
        max_lag_bytes: Some(256 << 20),
        version: Some("0.1.0".into()),
        read_bytes: Some(12),
        stat_cache: Some(CacheCounts::default()),
        scan: Some(Scan {
            kind: "verify --quick".into(),
            differences: 0,
            files: 7,
            bytes: 812,
            duration_ms: 2540,
            ended: 1_795_096_931,
        }),
        ..healing_report()
    };
    report.replicas[0].lag_ms = 8;
    report.replicas[0].log = Some(LogCounts::default());
    report.requests.insert("write".into(), 3);
    report.io_counters = ["bytes_copied", "op_write", "rings"]
        .map(|name| (name.to_owned(), 7))
        .into();
    let requests = std::sync::Arc::new(Requests::default());
    drop(requests.begin(Request::Write));
    report.request_times = requests.times();
    report
}

/// A sample: its labels in order, and its value as it is written.
type Sample = (Vec<(String, String)>, String);

#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<(String, Sample)>,
}

fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !text.is_empty() && text.chars().all(good) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// `a="b",c="d"`, with the escapes undone.
fn labels(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").expect("name=\"");
        assert!(is_name(name), "{name}");
        let (mut value, mut end) = (String::new(), None);
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = Some(at);
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('\\' | '"'))) => value.push(c),
                    other => panic!("no such escape: {other:?}"),
                },
                '\n' => panic!("a bare end of line"),
                c => value.push(c),
            }
        }
        found.push((name.to_owned(), value));
        text = &rest[end.expect("a closing quote") + 1..];
        if !text.is_empty() {
            text = text.strip_prefix(',').expect("a comma");
        }
    }
    found
}

/// Strict: HELP, TYPE, then the samples of one family and nothing else; each family and each sample
/// once; numbers as Prometheus reads them.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::new();
    let text = text.strip_suffix(END).expect("an end");
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ").expect("HELP begins a family");
        let (name, help) = help.split_once(' ').expect("words");
        assert!(is_name(name) && help.ends_with('.'), "{line}");
        let kind = lines.next().and_then(|l| l.strip_prefix("# TYPE "));
        let kind = kind
            .and_then(|l| l.strip_prefix(name))
            .expect("TYPE")
            .trim();
        let mut family = Family {
            kind: kind.to_owned(),
            ..Family::default()
        };
        let mut seen = BTreeSet::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            assert!(seen.insert(sample), "twice: {sample}");
            assert!(value.parse::<f64>().is_ok_and(|v| v >= 0.0), "{line}");
            let (full, inner) = match sample.split_once('{') {
                Some((full, rest)) => (full, rest.strip_suffix('}').expect("closed")),
                None => (sample, ""),
            };
            let suffix = full.strip_prefix(name).expect("its own family's name");
            let may: &[&str] = match kind {
                "histogram" => &["_bucket", "_sum", "_count"],
                "gauge" | "counter" => &[""],
                other => panic!("{other}"),
            };
            assert!(may.contains(&suffix), "{line}");
            let sample = (labels(inner), value.to_owned());
            family.samples.push((suffix.to_owned(), sample));
        }
        assert!(!family.samples.is_empty(), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        assert!(families.insert(name.to_owned(), family).is_none(), "{name}");
    }
    families
}

fn value(family: &Family, wanted: &[(&str, &str)]) -> String {
    let is = |(_, (labels, _)): &&(String, Sample)| {
        let has =
            |(name, value): &(&str, &str)| labels.iter().any(|(n, v)| n == name && v == value);
        wanted.iter().all(has)
    };
    let found = family.samples.iter().find(is);
    let (_, (_, value)) = found.unwrap_or_else(|| panic!("no {wanted:?} in {family:?}"));
    value.clone()
}

/// Every family has its samples, of mirrors that answer and of one that does not.
#[test]
fn the_page_is_what_prometheus_reads() {
    let odd = "/a \"b\\\nc,{d}=\u{e9}";
    let mirrors = [
        ("/data".to_owned(), Some(full())),
        (odd.to_owned(), Some(full())),
        ("/dead".to_owned(), None),
    ];
    let text = page(&mirrors, 1_795_096_991);
    let families = parse(&text);
    let names: BTreeSet<_> = families.keys().map(String::as_str).collect();
    let known: BTreeSet<_> = FAMILIES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, known);
    let get = |name: &str, labels: &[(&str, &str)]| value(&families[name], labels);
    assert_eq!(get("mirrorfs_mirrors", &[]), "3");
    assert_eq!(get("mirrorfs_up", &[("mirror", "/dead")]), "0");
    assert_eq!(get("mirrorfs_up", &[("mirror", odd)]), "1");
    assert_eq!(get("mirrorfs_uptime_seconds", &[]), "60");
    let state = |word| get("mirrorfs_state", &[("mirror", "/data"), ("state", word)]);
    assert_eq!(
        (state("resyncing"), state("in-sync")),
        ("1".into(), "0".into())
    );
    let hot = families["mirrorfs_state"].samples.iter();
    assert_eq!(hot.filter(|(_, (_, value))| value == "1").count(), 2);
    let replica = [("mirror", "/data"), ("replica", "/backup/data")];
    assert_eq!(get("mirrorfs_replica_lag_seconds", &replica), "0.008");
    assert_eq!(get("mirrorfs_replica_resync_eta_seconds", &replica), "52");
    assert_eq!(get("mirrorfs_reason", &[("errno", "ENOSPC")]), "1");
    assert_eq!(get("mirrorfs_scan_duration_seconds", &[]), "2.54");
    // Buckets never fall, the last one is +Inf and equal to the count.
    let family = &families["mirrorfs_op_seconds"];
    assert_eq!(family.kind, "histogram");
    let mut last = 0;
    let mut bounds = Vec::new();
    for (suffix, (labels, value)) in &family.samples {
        if labels[0].1 == "/data" && suffix == "_bucket" {
            let value: u64 = value.parse().expect("an integer");
            assert!(value >= last);
            last = value;
            let (name, bound) = labels.last().expect("le");
            assert_eq!(name, "le");
            bounds.push(bound.as_str());
        }
    }
    assert_eq!((last, bounds.len()), (1, 25));
    assert_eq!((bounds[0], bounds[10]), ("0.000001", "0.001024"));
    assert_eq!((bounds[23], bounds[24]), ("8.388608", "+Inf"));
}

#[test]
fn without_a_mirror_there_is_a_page() {
    let families = parse(&page(&[], 0));
    assert_eq!(families.len(), 1);
    assert_eq!(value(&families["mirrorfs_mirrors"], &[]), "0");
}

#[test]
fn decimals_are_exact() {
    for (number, digits, text) in [
        (0, 6, "0"),
        (1, 6, "0.000001"),
        (1_500_000, 6, "1.5"),
        (8, 3, "0.008"),
        (u64::MAX, 6, "18446744073709.551615"),
    ] {
        assert_eq!(decimal(number, digits), text);
    }
}

/// Words of a text that look like names of ours.
fn named(text: &str) -> BTreeSet<&str> {
    let is_other = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let words = text.split(is_other);
    words.filter(|word| word.starts_with("mirrorfs_")).collect()
}

/// A family's name, with or without what a histogram adds to it.
fn is_there(name: &str) -> bool {
    FAMILIES.iter().any(|(family, kind, _)| {
        let rest = name.strip_prefix(family);
        rest == Some("")
            || *kind == Histogram && matches!(rest, Some("_bucket" | "_sum" | "_count"))
    })
}

/// Every family is in docs/CLI_ABI.md; that, the dashboard and the alert rules name nothing else.
#[test]
fn documents_name_what_there_is() {
    let abi = include_str!("../../../docs/CLI_ABI.md");
    for (name, ..) in FAMILIES {
        assert!(
            abi.contains(&format!("`{name}`")),
            "{name} is in no document"
        );
    }
    let dashboard = include_str!("../../../docs/monitoring/grafana.json");
    let alerts = include_str!("../../../docs/monitoring/alerts.yaml");
    for (file, text) in [
        ("CLI_ABI.md", abi),
        ("grafana.json", dashboard),
        ("alerts.yaml", alerts),
    ] {
        let names = named(text);
        assert!(names.len() > 5, "{file}");
        for name in names {
            assert!(is_there(name), "{file}: {name} is no metric");
        }
    }
    let json: serde_json::Value = serde_json::from_str(dashboard).expect("json");
    let panels = json["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "an id twice: {panel}");
        let asked = panel["targets"].as_array().expect("targets");
        for target in asked {
            let expr = target["expr"].as_str().expect("an expression");
            assert!(!named(expr).is_empty(), "{expr}");
        }
    }
}

/// States that the rules and the dashboard name are states.
#[test]
fn documents_name_states_that_there_are() {
    let dashboard = include_str!("../../../docs/monitoring/grafana.json");
    let alerts = include_str!("../../../docs/monitoring/alerts.yaml");
    let words: BTreeSet<_> = MirrorState::ALL.map(MirrorState::word).into();
    let text = alerts.to_owned() + &dashboard.replace("\\\"", "\"");
    for (at, _) in text.match_indices("mirrorfs_state{state=\"") {
        let word = text[at..].split('"').nth(1).expect("a word");
        assert!(words.contains(word), "{word}");
    }
}
