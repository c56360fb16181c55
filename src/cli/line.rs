// SPDX-License-Identifier: MIT
//! The line that shows how far something is: rewritten in place on a terminal, once a minute in a
//! pipe. Short work shows nothing.

use std::io::Write;
use std::time::{Duration, Instant};

/// How often a terminal is told.
const ON_TERMINAL: Duration = Duration::from_millis(200);
/// How often a pipe is told.
const IN_PIPE: Duration = Duration::from_secs(60);

/// One line.
#[derive(Debug)]
pub(super) struct Line<W: Write> {
    out: W,
    terminal: bool,
    shown: Instant,
    /// Columns that the last text took on the terminal.
    width: usize,
}

impl<W: Write> Line<W> {
    /// Nothing is written before the first interval is over.
    pub(super) fn new(out: W, terminal: bool) -> Self {
        Self {
            out,
            terminal,
            shown: Instant::now(),
            width: 0,
        }
    }

    /// Shows the text when it is time to.
    pub(super) fn update(&mut self, text: impl FnOnce() -> String) {
        self.at(Instant::now(), text);
    }

    fn at(&mut self, now: Instant, text: impl FnOnce() -> String) {
        let every = if self.terminal { ON_TERMINAL } else { IN_PIPE };
        if now.duration_since(self.shown) >= every {
            self.shown = now;
            self.show(&text());
        }
    }

    fn show(&mut self, text: &str) {
        let line = if self.terminal {
            format!("\r{text:width$}", width = self.width)
        } else {
            format!("{text}\n")
        };
        self.width = text.chars().count();
        // Nobody is left to tell when stderr is gone.
        _ = self.out.write_all(line.as_bytes()).is_ok();
        _ = self.out.flush().is_ok();
    }

    /// Ends the line, with a last text if it was ever shown on a terminal.
    pub(super) fn finish(&mut self, last: Option<&str>) {
        if self.terminal && self.width > 0 {
            if let Some(last) = last {
                self.show(last);
            }
            _ = self.out.write_all(b"\n").is_ok();
        }
        self.width = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(terminal: bool, tell: impl FnOnce(&mut Line<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        tell(&mut Line::new(&mut out, terminal));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_terminal_has_one_line() {
        let text = written(true, |line| {
            let began = line.shown;
            line.at(began, || "too soon".into());
            line.at(began + ON_TERMINAL, || "long text".into());
            line.at(began + ON_TERMINAL * 2, || "short".into());
            line.finish(Some("end"));
        });
        assert_eq!(text, "\rlong text\rshort    \rend  \n");
    }

    #[test]
    fn a_pipe_has_a_line_a_minute() {
        let text = written(false, |line| {
            let began = line.shown;
            for second in 0..=150 {
                line.at(began + Duration::from_secs(second), || {
                    format!("at {second}")
                });
            }
            line.finish(Some("end"));
        });
        assert_eq!(text, "at 60\nat 120\n");
    }

    #[test]
    fn short_work_shows_nothing() {
        assert_eq!(written(true, |line| line.finish(Some("end"))), "");
    }
}
