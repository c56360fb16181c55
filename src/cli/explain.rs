// SPDX-License-Identifier: MIT
//! `mirrorfs help MF-0003` prints that page of docs/TROUBLESHOOTING.md; `mirrorfs help mount` the
//! help of a verb.

use std::io::Write;

use clap::CommandFactory;

use super::args::Cli;
use super::complain;
use super::exit::Exit;

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
        complain(&format!(
            "there is no page `{word}`.\n  Ids look like MF-0003; verbs: mirrorfs help"
        ));
        return Exit::Unknown;
    };
    let text = text.trim_end().to_owned() + "\n";
    _ = std::io::stdout().write_all(text.as_bytes()).is_ok();
    Exit::Success
}

/// The page of an id, from its heading to the next.
fn page(id: &str) -> Option<&'static str> {
    let id = id.to_ascii_uppercase();
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
            "MF-0024", "MF-0025", "MF-0026", "MF-0027", "MF-0028", "MF-0040", "MF-0041", "MF-0042",
            "MF-0043", "MF-0044", "MF-0045", "MF-0046", "MF-0047", "MF-0048", "MF-0049", "MF-0050",
        ] {
            assert!(page(id).is_some(), "{id}");
        }
        assert!(page("mf-0003").is_some());
        assert!(page("MF-9999").is_none());
    }
}
