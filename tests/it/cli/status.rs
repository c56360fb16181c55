// SPDX-License-Identifier: MIT
//! `status`: the text, every field of the JSON, and what is no mirror.

use std::path::Path;

use super::Scene;
use crate::support::mount::TestMount;
use crate::support::run::{MIRRORFS, mirrorfs};
use crate::{need_product, need_root};

/// A healthy status: nothing to read but the facts, and exit 0.
#[test]
fn status_text() {
    need_product!();
    let mount = TestMount::new();
    let ran = mount.status().ok();
    let has = |words: &str| assert!(ran.out.contains(words), "lacks {words:?}: {ran}");
    let at = mount.mountpoint.to_str().expect("text");
    has(&format!("mirror: {at}"));
    has("state: in-sync");
    has("mode: sync");
    has("mounted:");
    has("ROLE");
    has(mount.primary.to_str().expect("text"));
    has(mount.replica.to_str().expect("text"));
    assert!(
        !ran.out.contains("action:") && !ran.out.contains("status:"),
        "silence is good news: {ran}"
    );
    assert!(ran.err.is_empty(), "{ran}");
    let quiet = mirrorfs([
        "status".as_ref(),
        "--quiet".as_ref(),
        mount.mountpoint.as_os_str(),
    ])
    .ok();
    assert!(quiet.out.is_empty() && quiet.err.is_empty(), "{quiet}");
    let all = mirrorfs(["status"]);
    assert!(
        all.out.contains(at),
        "status without a name shows every mirror: {all}"
    );
    mount.finish();
}

/// A bind of a mirror is the same mirror: it was shown twice, and its metrics counted twice.
#[test]
fn a_bind_of_a_mirror_is_no_second_mirror() {
    need_root!();
    need_product!();
    let mount = TestMount::new();
    let at = mount.dir().join("bind");
    std::fs::create_dir(&at).expect("mkdir");
    let binds = rustix::mount::mount_bind(&mount.mountpoint, &at);
    binds.expect("bind");
    let all = mirrorfs(["status"]);
    let metrics = mirrorfs(["status", "--format", "prometheus"]);
    let named = mirrorfs(["status".as_ref(), at.as_os_str()]);
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).expect("unmount");
    let line = format!("mirror: {}\n", mount.mountpoint.display());
    assert_eq!(all.out.matches(&line).count(), 1, "{all}");
    assert!(named.out.contains(&line), "{named}");
    let up = format!("mirrorfs_up{{mirror=\"{}\"}} 1", mount.mountpoint.display());
    assert_eq!(metrics.out.matches(&up).count(), 1, "{metrics}");
    let other = format!("\"{}\"", at.display());
    assert!(!metrics.out.contains(&other), "{metrics}");
    mount.finish();
}

/// Every field of the JSON, with its type.
#[test]
fn status_json() {
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), vec![b'x'; 100_000]).expect("write");
    let json = mount.status_json();
    let text = |p: &Path| p.to_str().expect("text").to_owned();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["mirror"], text(&mount.mountpoint));
    assert_eq!(json["state"], "in-sync");
    assert_eq!(json["mode"], "sync");
    assert!(
        json["id"].as_str().is_some_and(|id| id.len() == 8),
        "{json}"
    );
    assert!(json["epoch"].is_u64(), "{json}");
    assert!(json["reason"].is_null(), "{json}");
    assert!(
        json.as_object().expect("an object").contains_key("scan"),
        "{json}"
    );
    let pid = u32::try_from(json["pid"].as_u64().expect("pid")).expect("a pid");
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("the daemon");
    assert_eq!(exe, Path::new(MIRRORFS).canonicalize().expect("the binary"));
    let argv = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the daemon");
    let argv0 = argv.split(|&b| b == 0).next().expect("argv[0]");
    assert_eq!(
        argv0,
        exe.as_os_str().as_encoded_bytes(),
        "argv[0] is the resolved path"
    );
    let primary = &json["primary"];
    assert_eq!(primary["path"], text(&mount.primary));
    assert_eq!(primary["state"], "online");
    assert!(
        primary["written_bytes"]
            .as_u64()
            .is_some_and(|n| n >= 100_000),
        "{json}"
    );
    assert_eq!(primary["errors"], 0);
    let replica = &json["replicas"][0];
    assert_eq!(json["replicas"].as_array().expect("an array").len(), 1);
    assert_eq!(replica["path"], text(&mount.replica));
    assert_eq!(replica["state"], "in-sync");
    assert_eq!(replica["carrier"], "inline");
    assert!(
        replica["written_bytes"]
            .as_u64()
            .is_some_and(|n| n >= 100_000),
        "{json}"
    );
    for field in [
        "lag_ops",
        "lag_bytes",
        "lag_ms",
        "dirty_files",
        "dirty_bytes",
        "resync_files_opened",
        "errors",
    ] {
        assert_eq!(replica[field], 0, "{field} in {json}");
    }
    mount.finish();
}

/// Asked about something that is no mirror: could not tell, exit 2.
#[test]
fn status_of_nothing() {
    need_product!();
    let scene = Scene::new();
    for place in ["mnt", "none"] {
        let ran = mirrorfs(["status".as_ref(), scene.at(place).as_os_str()]).code(2);
        assert!(
            ran.out.is_empty() && ran.err.starts_with("mirrorfs: "),
            "{ran}"
        );
    }
}
