// SPDX-License-Identifier: MIT
//! What is held against a dependency, by `cargo metadata` alone, so that it is checked on every machine:
//! where it comes from, its license, and that its version is said. `.deny.toml` says which licenses, and
//! the rest to those who have cargo-deny.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The list `allow` of the table `licenses`.
fn allowed(config: &str) -> BTreeSet<&str> {
    let list = config
        .split_once("\n[licenses]\n")
        .and_then(|(_, table)| table.split_once("\nallow = ["))
        .and_then(|(_, list)| list.split_once(']'));
    let (list, _) = list.expect("a list of licenses");
    list.split('"').skip(1).step_by(2).collect()
}

/// Whether an SPDX expression can be fulfilled by licenses that `may` be used; `/` is an old spelling
/// of OR.
fn is_fulfilled(expression: &str, may: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    // A license with an exception is one word, and another license.
    let spaced = spaced.replace(" WITH ", "+WITH+");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let (fulfilled, rest) = either(&words, may);
    assert!(rest.is_empty(), "not an SPDX expression: {expression:?}");
    fulfilled
}

fn either<'a, 'b>(words: &'a [&'b str], may: &dyn Fn(&str) -> bool) -> (bool, &'a [&'b str]) {
    let (mut any, mut rest) = both(words, may);
    while let ["OR", after @ ..] = rest {
        let (one, left) = both(after, may);
        (any, rest) = (any || one, left);
    }
    (any, rest)
}

fn both<'a, 'b>(words: &'a [&'b str], may: &dyn Fn(&str) -> bool) -> (bool, &'a [&'b str]) {
    let (mut all, mut rest) = one(words, may);
    while let ["AND", after @ ..] = rest {
        let (one, left) = one(after, may);
        (all, rest) = (all && one, left);
    }
    (all, rest)
}

fn one<'a, 'b>(words: &'a [&'b str], may: &dyn Fn(&str) -> bool) -> (bool, &'a [&'b str]) {
    match words {
        ["(", inner @ ..] => match either(inner, may) {
            (fulfilled, [")", rest @ ..]) => (fulfilled, rest),
            (_, rest) => (false, rest),
        },
        [word, rest @ ..] => (may(word), rest),
        [] => (false, &[]),
    }
}

/// What is wrong with the packages of `cargo metadata`.
fn complaints(metadata: &Value, allowed: &BTreeSet<&str>) -> Vec<String> {
    let mut complaints = Vec::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for package in list(&metadata["packages"]) {
        let name = format!("{} {}", package["name"], package["version"]);
        let license = package["license"].as_str().unwrap_or_default();
        if license.is_empty() || !is_fulfilled(license, &|word| allowed.contains(word)) {
            complaints.push(format!("{name}: license {license:?}"));
        }
        match package["source"].as_str() {
            Some(CRATES_IO) => {}
            // Ours.
            None if package["name"] == "mirrorfs" => {
                for wanted in list(&package["dependencies"]) {
                    let version = wanted["req"].as_str().unwrap_or("*");
                    if version.contains('*') || wanted["source"] != CRATES_IO {
                        complaints.push(format!("{} {version:?}: any version", wanted["name"]));
                    }
                }
            }
            source => complaints.push(format!("{name}: from {source:?}")),
        }
    }
    complaints
}

#[test]
fn every_dependency_is_from_crates_io_and_has_a_license_that_we_may_use() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = std::fs::read_to_string(root.join(".deny.toml")).expect("readable");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version=1"])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("json");
    let packages = metadata["packages"].as_array().map_or(0, Vec::len);
    assert!(packages > 20, "{packages} packages: that is not all");
    let complaints = complaints(&metadata, &allowed(&config));
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn licenses_are_weighed() {
    let may = |word: &str| ["MIT", "Zlib"].contains(&word);
    for (expression, fulfilled) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("Apache-2.0 OR MIT", true),
        ("MIT/Apache-2.0", true),
        ("MIT AND Apache-2.0", false),
        ("(GPL-3.0-only OR MIT) AND Zlib", true),
        ("(MIT OR Zlib) AND Unicode-3.0", false),
        ("Apache-2.0 AND Zlib OR MIT", true),
        ("MIT WITH Some-exception", false),
    ] {
        assert_eq!(is_fulfilled(expression, &may), fulfilled, "{expression}");
    }
    let config = "[x]\n[licenses]\n# Why.\nallow = [\n    \"MIT\",\n    \"Zlib\",\n]\n";
    assert_eq!(allowed(config), BTreeSet::from(["MIT", "Zlib"]));
}

#[test]
fn dependencies_complain() {
    let packages = |package: &str, rest: &str| -> Value {
        let text = format!(r#"{{"packages":[{{"name":"{package}","version":"1",{rest}}}]}}"#);
        serde_json::from_str(&text).expect("json")
    };
    let bad = [
        packages("a", r#""license":"GPL-3.0-only","source":"SOURCE""#),
        packages("a", r#""license":null,"source":"SOURCE""#),
        packages(
            "a",
            r#""license":"MIT","source":"git+https://example.org/a""#,
        ),
        packages("a", r#""license":"MIT","source":null"#),
        packages(
            "mirrorfs",
            r#""license":"MIT","source":null,"dependencies":[{"name":"a","req":"*","source":"SOURCE"}]"#,
        ),
        packages(
            "mirrorfs",
            r#""license":"MIT","source":null,"dependencies":[{"name":"a","req":"^1","source":null}]"#,
        ),
    ];
    let real = |metadata: Value| -> Value {
        let text = metadata.to_string().replace("SOURCE", CRATES_IO);
        serde_json::from_str(&text).expect("json")
    };
    for metadata in bad {
        let complaints = complaints(&real(metadata.clone()), &BTreeSet::from(["MIT"]));
        assert_eq!(complaints.len(), 1, "{metadata}");
    }
    let good = packages("a", r#""license":"MIT","source":"SOURCE""#);
    assert!(complaints(&real(good), &BTreeSet::from(["MIT"])).is_empty());
}
