// SPDX-License-Identifier: MIT
//! `status --watch`: on a terminal, which is a pty here, and in a pipe.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::mount::TestMount;
use crate::support::run::{Guarded, MIRRORFS, mirrorfs};
use crate::support::wait_until;
use crate::{need_product, need_programs};

const INTERRUPTED: i32 = 130;
/// The other screen, and back.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";

/// A terminal with a program in it.
struct Terminal {
    master: File,
    shown: Arc<Mutex<Vec<u8>>>,
    child: Guarded,
}

impl Terminal {
    fn start(command: &mut Command, columns: u16, rows: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pty");
        unlockpt(&master).expect("unlock");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let name = name.into_string().expect("text");
        resize(&master, columns, rows);
        let slave = || File::options().read(true).write(true).open(&name);
        let slave = || Stdio::from(slave().expect("the other end"));
        command.stdin(slave()).stdout(slave()).stderr(slave());
        let child = Guarded(command.spawn().expect("spawn"));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let master = File::from(master);
        let mut from = master.try_clone().expect("dup");
        let keep = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO says that nobody has the other end any more.
            while let Ok(bytes) = from.read(&mut buffer) {
                keep.lock().extend(&buffer[..bytes]);
            }
        });
        Self {
            master,
            shown,
            child,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock()).into_owned()
    }

    /// The last screen that was drawn to its end.
    fn screen(&self) -> Vec<String> {
        let text = self.text();
        let mut frames = text.rsplit("\x1b[H");
        let whole = frames.find(|frame| frame.contains("\x1b[J"));
        let whole = whole.and_then(|frame| frame.split("\x1b[J").next());
        // The terminal's own line discipline adds a return to ours.
        let whole = whole.unwrap_or_default().replace('\r', "");
        let lines = whole.split('\n');
        lines.map(|line| line.replace("\x1b[K", "")).collect()
    }

    #[track_caller]
    fn is_given_back(&self) {
        wait_until("the terminal is given back", || {
            self.text().ends_with(LEAVE)
        });
    }

    /// The program ends as one that was interrupted, and leaves nothing behind.
    #[track_caller]
    fn is_interrupted(&mut self) {
        let status = self.child.0.wait().expect("wait");
        assert_eq!(status.code(), Some(INTERRUPTED));
        self.is_given_back();
    }
}

fn resize(terminal: impl std::os::fd::AsFd, columns: u16, rows: u16) {
    let size = Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).expect("a size");
}

/// `mirrorfs status --watch`, as a shell on that terminal would start it.
fn watching(mount: &TestMount) -> Command {
    let mut command = Command::new("setsid");
    command.args(["--ctty", MIRRORFS, "status", "--watch"]);
    command.arg(&mount.mountpoint);
    // Plain letters: what is looked for is not cut in pieces by colours.
    command.env("NO_COLOR", "1").env("LC_ALL", "C");
    command
}

/// Rates, a change of state, another size, Control-C: and the terminal is what it was.
#[test]
fn a_screen_that_lives_and_goes_away() {
    need_product!();
    need_programs!("setsid");
    let mount = TestMount::new();
    let mut terminal = Terminal::start(&mut watching(&mount), 100, 40);
    let sees = |terminal: &Terminal, words: &str| {
        wait_until(format!("the screen shows {words:?}"), || {
            terminal.screen().iter().any(|line| line.contains(words))
        });
    };
    sees(&terminal, "  in-sync");
    sees(&terminal, "requests ");
    assert!(terminal.text().starts_with(ENTER));
    // It writes all the while: some second has a rate.
    let file = File::create(mount.at("f")).expect("create");
    wait_until("the screen shows what is written", || {
        (&file).write_all(&[b'x'; 64 * 1024]).expect("write");
        let screen = terminal.screen();
        ["primary", "replica"].iter().all(|copy| {
            let line = screen.iter().find(|line| line.trim().starts_with(copy));
            line.is_some_and(|line| line.contains("iB/s"))
        })
    });
    drop(file);
    let at = mount.mountpoint.as_os_str();
    mirrorfs(["pause".as_ref(), at]).ok();
    sees(&terminal, "in-sync -> paused");
    sees(&terminal, "  paused");
    sees(&terminal, "action   ");
    mirrorfs(["resume".as_ref(), at]).ok();
    mirrorfs(["sync".as_ref(), at]).ok();
    sees(&terminal, "-> in-sync");

    resize(&terminal.master, 30, 6);
    wait_until("the screen is small", || {
        let screen = terminal.screen();
        let fits = |line: &String| line.chars().count() <= 30;
        screen.len() == 6 && screen.iter().all(fits)
    });
    resize(&terminal.master, 100, 40);
    sees(&terminal, "events");

    terminal.master.write_all(b"\x03").expect("Control-C");
    terminal.is_interrupted();
    mount.finish();
}

/// Control-Z gives the terminal back, and `fg` takes it again; what ends it from outside does, too.
#[test]
fn a_screen_that_sleeps_and_is_ended() {
    need_product!();
    need_programs!("setsid");
    let mount = TestMount::new();
    let mut terminal = Terminal::start(&mut watching(&mount), 80, 24);
    let entered = |terminal: &Terminal| terminal.text().matches(ENTER).count();
    wait_until("the screen is there", || {
        !terminal.screen().is_empty() && entered(&terminal) == 1
    });
    let pid = Pid::from_child(&terminal.child.0);
    let stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.contains(") T "))
    };
    kill_process(pid, Signal::TSTP).expect("kill");
    wait_until("it sleeps", stopped);
    terminal.is_given_back();
    kill_process(pid, Signal::CONT).expect("kill");
    wait_until("the screen is there again", || entered(&terminal) == 2);
    kill_process(pid, Signal::TERM).expect("kill");
    terminal.is_interrupted();
    mount.finish();
}

/// When the mirror is unmounted the screen goes away, and why is said where it stays.
#[test]
fn a_screen_ends_with_its_mirror() {
    need_product!();
    need_programs!("setsid");
    let mut mount = TestMount::new();
    let mut terminal = Terminal::start(&mut watching(&mount), 80, 24);
    wait_until("the screen is there", || terminal.screen().len() > 3);
    mount.umount();
    let status = terminal.child.0.wait().expect("wait");
    assert_eq!(status.code(), Some(2));
    wait_until("the reason is said", || {
        let text = terminal.text();
        let after = text.rsplit_once(LEAVE);
        after.is_some_and(|(_, after)| after.contains("is not a mirror"))
    });
    mount.mount();
    mount.finish();
}

/// In a pipe: a line a second, one for each change, no escapes.
#[test]
fn a_pipe_gets_lines() {
    need_product!();
    let mount = TestMount::new();
    let mut command = Command::new(MIRRORFS);
    command.args(["status", "--watch"]).arg(&mount.mountpoint);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = Guarded(command.spawn().expect("spawn"));
    let out: OwnedFd = child.0.stdout.take().expect("its output").into();
    let mut lines = BufReader::new(File::from(out)).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    let at = format!(" {} ", mount.mountpoint.display());
    let first = next();
    assert!(
        first.contains(&at) && first.contains("in-sync  requests -"),
        "{first}"
    );
    let second = next();
    assert!(
        second.contains("/s  read ") && !second.contains('\x1b'),
        "{second}"
    );
    mirrorfs(["pause".as_ref(), mount.mountpoint.as_os_str()]).ok();
    while !next().contains("state:in-sync->paused") {}
    while !next().contains(" paused  requests ") {}
    kill_process(Pid::from_child(&child.0), Signal::INT).expect("kill");
    assert_eq!(child.0.wait().expect("wait").code(), Some(INTERRUPTED));
    mirrorfs(["resume".as_ref(), mount.mountpoint.as_os_str()]).ok();
    mirrorfs(["sync".as_ref(), mount.mountpoint.as_os_str()]).ok();
    mount.finish();
}
