// SPDX-License-Identifier: MIT
//! The terminal: a screen of its own that is gone afterwards, its size, and the signals that a
//! terminal sends.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};

use super::screen::{Line, Style, View};
use crate::cli::exit::Exit;
use crate::cli::interrupt::heed;
use crate::session::refusal::Refusal;
use crate::sys::signals::Signal;

/// The other screen, no cursor, no wrapping: what is too long is cut off.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J";
/// All of that taken back.
const LEAVE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Wishes that wait to be heard, beside the end.
const WAITING_MAX: usize = 4;
/// When a terminal does not say how large it is.
const USUAL: (usize, usize) = (80, 24);

/// Whether the other screen is shown: for whoever ends the program.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// What a terminal, or somebody with kill(1), wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Control-C, a hang-up, an end.
    End,
    /// Control-Z.
    Suspend,
    /// It has another size.
    Resize,
}

/// Begins to wait for signals. Called before any other thread exists. Control-C comes as a wish
/// once; the second one ends the program at once.
///
/// # Errors
/// When no thread can be made.
pub(super) fn listen(is_terminal: bool) -> Result<Receiver<Wish>, Refusal> {
    // What else ends a program does so in a pipe as always, and under nohup(1) does not.
    const PIPE: [Signal; 1] = [Signal::INT];
    const SCREEN: [Signal; 5] = [
        Signal::INT,
        Signal::TERM,
        Signal::HUP,
        Signal::TSTP,
        Signal::WINCH,
    ];
    let ours: &[Signal] = if is_terminal { &SCREEN } else { &PIPE };
    let (wish, wishes) = bounded(WAITING_MAX + 1);
    let mut ending = false;
    heed(ours, move |signal| {
        let wanted = match signal {
            Signal::WINCH => Wish::Resize,
            Signal::TSTP => Wish::Suspend,
            _ if ending => {
                leave();
                std::process::exit(Exit::Interrupted.code().into());
            }
            _ => Wish::End,
        };
        ending |= wanted == Wish::End;
        // When so many wait one more says nothing new; the end, which comes once, has room.
        if wanted == Wish::End || wish.len() < WAITING_MAX {
            _ = wish.try_send(wanted).is_ok();
        }
    })?;
    Ok(wishes)
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Gives the terminal back, once.
fn leave() {
    if SHOWN.swap(false, Ordering::AcqRel) {
        // A terminal that is gone needs nothing back.
        _ = put(LEAVE).is_ok();
    }
}

/// The screen. The terminal is as it was when this goes away.
#[derive(Debug)]
pub(super) struct Screen {
    coloured: bool,
    wide_letters: bool,
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When nobody is there to look at it.
    pub(super) fn enter() -> io::Result<Self> {
        let word = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = word("LC_ALL").or(word("LC_CTYPE")).or(word("LANG"));
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let screen = Self {
            coloured: word("NO_COLOR").is_none() && word("TERM").is_none_or(|t| t != "dumb"),
            wide_letters: locale.contains("utf-8") || locale.contains("utf8"),
        };
        SHOWN.store(true, Ordering::Release);
        put(ENTER)?;
        Ok(screen)
    }

    /// How much can be shown now, and with which letters.
    pub(super) fn view(&self) -> View {
        let told = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let told = told.filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let (columns, rows) = told.map_or(USUAL, |size| (size.ws_col.into(), size.ws_row.into()));
        View {
            columns,
            rows,
            wide_letters: self.wide_letters,
        }
    }

    /// Draws over what was there: nothing flickers.
    ///
    /// # Errors
    /// When nobody is there to look at it.
    pub(super) fn show(&self, lines: &[Line]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (place, line) in lines.iter().enumerate() {
            if place > 0 {
                text.push_str("\r\n");
            }
            let begin = match line.style {
                _ if !self.coloured => "",
                Style::Plain => "",
                Style::Title => "\x1b[1m",
                Style::Good => "\x1b[1;32m",
                Style::Busy => "\x1b[1;33m",
                Style::Bad => "\x1b[1;31m",
                Style::Faint => "\x1b[2m",
            };
            text.push_str(begin);
            text.push_str(&line.text);
            if !begin.is_empty() {
                text.push_str("\x1b[0m");
            }
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        put(&text)
    }

    /// Control-Z: gives the terminal back, sleeps, and takes it again.
    ///
    /// # Errors
    /// When nobody is there to look at it any more.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        leave();
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, Signal::STOP)?;
        SHOWN.store(true, Ordering::Release);
        put(ENTER)
    }
}
