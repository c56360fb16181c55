// SPDX-License-Identifier: MIT
//! Options as fstab and mount(8) hand them over, and what daemons of anybody's say to a client, up to
//! what is shown of it: for the fuzz targets and the test that runs their corpora (crate::fuzzing).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{complaint, config, events, helper, json, mount, options, prometheus, render, sync};
use super::{verify, watch};
use crate::mirror::report::Report;
use crate::mirror::resync::Progress;
use crate::session::control::fuzzing::{Shown, answers, request};

const NOW: i64 = 1_795_183_331;

/// The words after `mount.mirrorfs`, a NUL after each, as the kernel keeps them.
pub fn options(data: &[u8]) {
    let words: Vec<_> = data
        .split(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    let Ok(argv) = helper::mount_argv(&words) else {
        return;
    };
    let [.., dashes, primary, mountpoint] = argv.as_slice() else {
        panic!("no places: {argv:?}");
    };
    assert_eq!(dashes, "--");
    static KNOWN: OnceLock<Vec<String>> = OnceLock::new();
    let known = KNOWN.get_or_init(mount::known);
    let lists: Vec<_> = argv
        .windows(2)
        .take(argv.len() - 4)
        .filter(|pair| pair[0] == "-o")
        .map(|pair| pair[1].clone())
        .collect();
    if let Ok(expanded) = options::expand(&lists, known) {
        expanded.long.iter().for_each(|word| long(word, known));
    }
    match mount::understood(&argv) {
        Ok((args, flags)) => {
            // No option takes the place of a directory.
            assert_eq!(args.primary.as_os_str(), primary);
            assert_eq!(args.mountpoint.as_os_str(), mountpoint);
            assert_eq!(
                (args.ready_fd, args.foreground && lists.is_empty()),
                (None, false)
            );
            match config::request(&args, &flags) {
                Ok(request) => assert_eq!(request.replicas, args.replica),
                Err(no) => lines(&complaint(&no.to_string())),
            }
        }
        Err(mount::Misunderstood::Option { no, .. }) => lines(&complaint(&no.to_string())),
        // Its words are clap's.
        Err(mount::Misunderstood::Words(_)) => {}
    }
}

/// One long option that came out of a list: it is a known one, and the same list can be written again.
fn long(word: &OsString, known: &[String]) {
    let bytes = word.as_bytes();
    let bytes = bytes.strip_prefix(b"--").expect("a long option");
    let end = bytes.iter().position(|byte| *byte == b'=');
    let name = &bytes[..end.unwrap_or(bytes.len())];
    assert!(known.iter().any(|word| word.as_bytes() == name));
    // A quote cannot be quoted.
    if bytes.contains(&b'"') {
        return;
    }
    let mut list = Vec::new();
    for &byte in bytes {
        if matches!(byte, b',' | b'\\') {
            list.push(b'\\');
        }
        list.push(byte);
    }
    let again = options::expand(&[OsString::from_vec(list)], known).map(|again| again.long);
    assert_eq!(again.ok().as_deref(), Some(std::slice::from_ref(word)));
}

/// A request that a daemon reads (`?`), or answers that a client hears and shows.
pub fn control(data: &[u8]) {
    let Some((way, said)) = data.split_first() else {
        return;
    };
    if *way == b'?' {
        request(said);
        return;
    }
    let mut reports = Vec::new();
    let mut changes = Vec::new();
    let mut found = Vec::new();
    for one in answers(said) {
        match one {
            Shown::Report(report) => {
                shown(&report);
                reports.push(*report);
            }
            Shown::Dirty(list) => {
                lines(&String::from_utf8_lossy(&render::dirty(&list, true)));
                assert!(!render::dirty(&list, false).is_empty());
            }
            Shown::Refusal(no) => lines(&complaint(&no.to_string())),
            Shown::Change(change) => {
                let text = |escape| events::text(&change, Some(&"/data"), escape);
                lines(&text(true));
                for line in [text(true), text(false), events::json(&change)] {
                    assert_eq!(line.find('\n'), Some(line.len() - 1), "{line:?}");
                }
                changes.push(change);
            }
            Shown::Lost(count) => lines(&events::lost(count, "/da\x1bta\n", true)),
            Shown::Found(one) => found.push(one),
            Shown::Verified(sum) => {
                let text = verify::told(std::mem::take(&mut found), sum, true);
                lines(&String::from_utf8_lossy(&text));
                verify::told(Vec::new(), sum, false);
            }
            Shown::Progress(files, bytes) => {
                let seen = Progress {
                    files,
                    bytes,
                    ..Progress::default()
                };
                line(&verify::progress(None, &seen, Duration::from_millis(1)));
            }
            Shown::Nothing => {}
        }
    }
    let (screen, plain) = watch::seen(&reports, changes, NOW);
    screen.iter().for_each(|text| line(text));
    plain
        .iter()
        .for_each(|text| assert!(!text.contains('\n'), "{text:?}"));
    let mirrors: Vec<_> = reports
        .into_iter()
        .map(|report| ("/data\n\"".to_owned(), Some(report)))
        .collect();
    page(&prometheus::page(&mirrors, NOW));
}

/// One report, in each of its views.
fn shown(report: &Report) {
    lines(&render::status(report, NOW, true));
    render::status(report, NOW, false);
    let line = json::line(report, None);
    assert_eq!(line.find('\n'), Some(line.len() - 1));
    serde_json::from_str::<serde_json::Value>(&line).expect("json");
    lines(&complaint(&sync::outcome(report, NOW).to_string()));
    if let Some(resync) = report.replicas.first().and_then(|r| r.resync.as_ref()) {
        self::line(&render::resync(resync));
    }
    lines(&sync::sentence(
        "/backup/data",
        report.replicas.first().and_then(|r| r.resync.as_ref()),
        Duration::ZERO,
    ));
}

/// Every line of the metrics is a sample, or is said about some.
fn page(page: &str) {
    for line in page.lines() {
        let known = ["# HELP mirrorfs_", "# TYPE mirrorfs_", "mirrorfs_", "# EOF"];
        assert!(
            known.iter().any(|begin| line.starts_with(begin)),
            "{line:?}"
        );
    }
}

/// Nothing in it steers a terminal.
fn line(text: &str) {
    assert!(!text.chars().any(steers), "{text:?}");
}

fn lines(text: &str) {
    text.split('\n').for_each(line);
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The moments at which a client that watches sees reports.
pub(super) fn moments() -> impl Iterator<Item = Instant> {
    let began = Instant::now();
    (0..).map(move |second| began + Duration::from_secs(second))
}

#[cfg(test)]
pub(crate) fn options_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let call = |words: &[&str]| words.join("\0").into_bytes();
    let fstab =
        "rw,replica=/backup/data,mode=async,fsync=primary,max_lag=256M,x-systemd.automount,_netdev";
    let flags = "ro,nosuid,nodev,noexec,noatime,nodiratime,allow_other,user,noauto,comment=a b";
    let names = "replica=\"/backup/a,b\",state-dir=/s\\,t\\\\u,degraded,adopt,init,log=/var/log/x";
    let rest = "replica=/r,replica-timeout=250ms,ready-timeout=5m,bwlimit=1GiB,max-delete=7,\
                on-replica-error=fail,on-congestion=pull-ahead,metadata-loss=warn,resync=manual,\
                intent=crash,io=threads,cache=writeback,shared-primary,one-file-system,log-level=debug";
    vec![
        ("fstab", call(&["/srv/data", "/srv/data", "-o", fstab])),
        ("flags", call(&["/p", "/m", "-sfnv", &format!("-o{flags}")])),
        (
            "names",
            call(&["-o", names, "-t", "mirrorfs", "--", "/p", "/m"]),
        ),
        ("all", call(&["/p", "/m", "-v", "-o", rest])),
        ("no", call(&["/p", "/m", "-o", "replika=/b"])),
        ("remount", call(&["/p", "/m", "-o", "remount,ro"])),
    ]
}

#[cfg(test)]
pub(crate) fn control_seeds() -> Vec<(&'static str, Vec<u8>)> {
    use super::render::tests::{degraded, healing_report};
    use crate::session::control::fuzzing::{report, seeds};

    let mut all = seeds();
    let lines = [report(degraded()), report(healing_report())].concat();
    all.push(("reports", [b"!", lines.as_slice()].concat()));
    let mut busy = healing_report();
    busy.scan = Some(crate::mirror::report::Scan {
        kind: "verify".to_owned(),
        differences: 2,
        files: 1204,
        bytes: 1 << 34,
        duration_ms: 61_000,
        ended: NOW,
    });
    let times = crate::metrics::Times {
        count: 7,
        total_us: 900,
        buckets: vec![0, 1, 2, 4],
    };
    busy.request_times.insert("write".to_owned(), times);
    busy.requests.insert("write".to_owned(), 7);
    busy.io_counters.insert("op_write".to_owned(), 7);
    busy.syncs.over = 3;
    busy.syncs.why = Some("the replica failed".to_owned());
    all.push(("busy", [b"!".as_slice(), &report(busy)].concat()));
    all
}
