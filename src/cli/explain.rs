// SPDX-License-Identifier: MIT
//! `mirrorfs help MF-0003` prints that page of docs/TROUBLESHOOTING.md; `mirrorfs help mount` the
//! help of a verb.

use std::io::Write;

use clap::CommandFactory;

use super::args::Cli;
use super::complain;
use super::exit::Exit;
use super::options::nearest;

/// The pages, one `## MF-nnnn title` each.
const PAGES: &str = include_str!("../../docs/TROUBLESHOOTING.md");

pub(super) fn run(topic: Option<&str>) -> Exit {
    let mut command = Cli::command();
    command.build();
    let text = match topic {
        None => Some(command.render_long_help().to_string()),
        Some(word) => page(word).map(str::to_owned).or_else(|| {
            let verb = command.find_subcommand_mut(word)?;
            Some(verb.render_long_help().to_string())
        }),
    };
    let Some(text) = text else {
        let word = topic.unwrap_or_default();
        let verbs = command.get_subcommands().map(clap::Command::get_name);
        let hint = match nearest(word, verbs) {
            Some(verb) => format!("Did you mean `{verb}`?"),
            None => "Ids look like MF-0003; verbs: mirrorfs help".to_owned(),
        };
        complain(&format!("there is no page `{word}`.\n  {hint}"));
        return Exit::Unknown;
    };
    let text = text.trim_end().to_owned() + "\n";
    _ = std::io::stdout().write_all(text.as_bytes()).is_ok();
    Exit::Success
}

/// The page of an id, from its heading to the next. The number alone will do.
fn page(id: &str) -> Option<&'static str> {
    let id = id.trim_matches(['[', ']']).to_ascii_uppercase();
    let number = id.strip_prefix("MF-").or(id.strip_prefix("MF"));
    let number: u16 = number.unwrap_or(&id).parse().ok()?;
    let id = format!("MF-{number:04}");
    let mut pages = PAGES.split("\n## ").skip(1);
    pages.find(|page| page.split_whitespace().next() == Some(&id))
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn every_id_we_print_has_a_page() {
        for id in [
            "MF-0003", "MF-0004", "MF-0005", "MF-0011", "MF-0012", "MF-0013", "MF-0014", "MF-0015",
            "MF-0016", "MF-0017", "MF-0018", "MF-0019", "MF-0020", "MF-0021", "MF-0022", "MF-0023",
            "MF-0024", "MF-0025", "MF-0026", "MF-0027", "MF-0028", "MF-0029", "MF-0030", "MF-0031",
            "MF-0032", "MF-0033", "MF-0034", "MF-0035", "MF-0036", "MF-0037", "MF-0038", "MF-0040",
            "MF-0041", "MF-0042", "MF-0043", "MF-0044", "MF-0045", "MF-0046", "MF-0047", "MF-0048",
            "MF-0049", "MF-0050", "MF-0060",
        ] {
            assert!(page(id).is_some(), "{id}");
        }
        for id in ["mf-0003", "MF-3", "mf3", "3", "[MF-0003]"] {
            assert_eq!(page(id), page("MF-0003"), "{id}");
        }
        for id in ["MF-9999", "MF-", "", "status", "-3", "MF--3", "MF-0003x"] {
            assert!(page(id).is_none(), "{id}");
        }
    }

    /// An id has one page; pages are in order, so that a person finds them too.
    #[test]
    fn pages_are_in_order() {
        let ids: Vec<_> = super::PAGES
            .split("\n## ")
            .skip(1)
            .filter_map(|page| page.split_whitespace().next())
            .collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }

    /// Every state that a change leads to has its page.
    #[test]
    fn every_change_has_a_page() {
        use crate::mirror::state::ReplicaState as R;
        for state in [
            R::InSync,
            R::Unverified,
            R::Seeding,
            R::Resyncing,
            R::Behind,
            R::Paused,
            R::Failed,
            R::Missing,
            R::Inconsistent,
            R::Diverged,
        ] {
            assert!(page(crate::mirror::events::page(state)).is_some());
        }
    }
}
