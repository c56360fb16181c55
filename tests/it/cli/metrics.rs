// SPDX-License-Identifier: MIT
//! `status --format prometheus` of a mirror that is there, and its histograms in the JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::Scene;
use crate::need_product;
use crate::support::mount::TestMount;
use crate::support::run::{MIRRORFS, Ran, mirrorfs, run, shell};
use crate::support::{base, temp_in, wait_until};

const UNKNOWN: i32 = 2;

fn metrics(mountpoint: &Path) -> Ran {
    let mut command = Command::new(MIRRORFS);
    run(command
        .args(["status", "--format", "prometheus"])
        .arg(mountpoint))
}

/// Samples by their name and labels, without the label of the mirror.
fn samples(page: &str, mountpoint: &Path) -> BTreeMap<String, f64> {
    let mirror = format!("mirror=\"{}\"", mountpoint.display());
    assert!(page.ends_with("\n# EOF\n"), "{page}");
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let own = name.replace(&format!("{mirror},"), "").replace(&mirror, "");
            assert!(
                own != name || name == "mirrorfs_mirrors",
                "no mirror: {line}"
            );
            let value = value.parse().expect("a number");
            (own.replace("{}", ""), value)
        })
        .collect()
}

/// What was done is counted, by request and by copy; every answer is in a bucket.
#[test]
fn metrics_of_a_mirror_at_work() {
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), vec![b'x'; 300_000]).expect("write");
    shell(
        &mount.mountpoint,
        "sync f; mkdir d; mv f d/g; dd if=d/g of=/dev/null iflag=direct bs=64K status=none; ls -l d",
    );
    let look = || samples(&metrics(&mount.mountpoint).ok().out, &mount.mountpoint);
    // An answer is counted when it was given: the program that got it may be faster.
    let (mut seen, mut asked) = (BTreeMap::new(), 0);
    wait_until("every answer is counted", || {
        seen = look();
        let of = |begin: &str| {
            let is = |(name, n): (&String, &f64)| name.starts_with(begin).then_some(*n);
            let has_answer = |(name, _): &(&String, &f64)| !name.contains("forget");
            seen.iter().filter(has_answer).filter_map(is).sum::<f64>()
        };
        asked = of("mirrorfs_ops_total{") as u64;
        of("mirrorfs_op_seconds_count{") as u64 == asked
    });
    assert!(asked > 5, "{seen:?}");
    let get = |name: &str| {
        *seen
            .get(name)
            .unwrap_or_else(|| panic!("no {name}: {seen:?}"))
    };
    assert!(get("mirrorfs_op_seconds_sum{op=\"write\"}") > 0.0);
    assert_eq!(
        get("mirrorfs_op_seconds_bucket{op=\"write\",le=\"+Inf\"}"),
        get("mirrorfs_ops_total{op=\"write\"}")
    );
    assert_eq!(get("mirrorfs_state{state=\"in-sync\"}"), 1.0);
    assert_eq!(get("mirrorfs_state{state=\"degraded\"}"), 0.0);
    assert_eq!(get("mirrorfs_up"), 1.0);
    for (role, path) in [("primary", &mount.primary), ("replica", &mount.replica)] {
        let labels = format!("{{role=\"{role}\",path=\"{}\"}}", path.display());
        assert_eq!(
            get(&format!("mirrorfs_written_bytes_total{labels}")),
            300_000.0
        );
        assert_eq!(get(&format!("mirrorfs_errors_total{labels}")), 0.0);
    }
    assert!(get("mirrorfs_read_bytes_total") >= 300_000.0);
    let json = mount.status_json();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert!(json["read_bytes"].as_u64() >= Some(300_000));
    let write = &json["request_times"]["write"];
    let buckets = write["buckets"].as_array().expect("buckets");
    let sum: u64 = buckets.iter().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!((buckets.len(), Some(sum)), (25, write["count"].as_u64()));
    assert!(write["total_us"].as_u64() > Some(0), "{write}");
    // Without a name it is of all mirrors; --format json is --json.
    let all = mirrorfs(["status", "--format", "prometheus"]);
    let own = format!(
        "mirrorfs_up{{mirror=\"{}\"}} 1\n",
        mount.mountpoint.display()
    );
    assert!(all.out.contains(&own), "{all}");
    let mut command = Command::new(MIRRORFS);
    command
        .args(["status", "--format", "json"])
        .arg(&mount.mountpoint);
    let json = run(&mut command).ok();
    assert!(json.out.starts_with("{\"schema\":1,"), "{json}");
    mount.finish();
}

/// A daemon that is gone is told as a metric, and as a code.
#[test]
fn a_dead_daemon_has_metrics() {
    need_product!();
    let mut mount = TestMount::new();
    mount.kill();
    let ran = metrics(&mount.mountpoint).code(UNKNOWN);
    let seen = samples(&ran.out, &mount.mountpoint);
    assert_eq!(seen.get("mirrorfs_up"), Some(&0.0), "{ran}");
    assert_eq!(seen.len(), 2, "{ran}");
    mount.mount_and_heal(&[]);
    mount.finish();
}

#[test]
fn metrics_of_no_mirror() {
    need_product!();
    let scene = Scene::new();
    let ran = metrics(&scene.at("mnt")).code(UNKNOWN);
    assert!(
        ran.out.is_empty() && ran.err.contains("is not a mirror"),
        "{ran}"
    );
    for words in [["--json"], ["--watch"], ["--dirty"], ["--quiet"]] {
        let mut command = Command::new(MIRRORFS);
        command
            .args(["status", "--format", "prometheus"])
            .args(words);
        let ran = run(&mut command).code(UNKNOWN);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{ran}");
    }
    mirrorfs(["status", "--format", "xml"]).code(UNKNOWN);
}

/// What mirrorfs-metrics.service runs: a whole file takes the place of the last one, and nothing else
/// does.
#[test]
fn the_service_writes_whole_files() {
    need_product!();
    let mount = TestMount::new();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helper/mirrorfs-metrics.service");
    let unit = std::fs::read_to_string(unit).expect("read");
    let line = unit
        .lines()
        .find_map(|l| l.strip_prefix("ExecStart=/bin/sh -c '"));
    let script = line.and_then(|l| l.strip_suffix('\'')).expect("a script");
    let dir = temp_in(&base());
    let go = |product: &str| {
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(script.replace("/usr/bin/mirrorfs", product));
        run(command.env("DIRECTORY", dir.path()))
    };
    let file = dir.path().join("mirrorfs.prom");
    go(MIRRORFS).ok();
    let page = std::fs::read_to_string(&file).expect("the metrics");
    let own = format!(
        "mirrorfs_up{{mirror=\"{}\"}} 1\n",
        mount.mountpoint.display()
    );
    assert!(page.contains(&own), "{page}");
    go("echo").code(1);
    assert_eq!(std::fs::read_to_string(&file).expect("the metrics"), page);
    mount.finish();
}
