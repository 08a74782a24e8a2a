//! A separate session for a program, in which nothing of the caller's is left for the program to use.
//!
//! A program in a node may belong to a user other than the caller. It must not reach the caller's terminal,
//! where it could type for the caller (`TIOCSTI`), read what the caller types, or leave settings behind. So
//! it starts in a new session, and where the caller's standard streams are a terminal, the program's are a
//! pseudoterminal instead. This process forwards input and output, and the window's size.
//!
//! The caller's terminal is in raw mode meanwhile, so that keys such as Ctrl-C reach the pseudoterminal, and
//! is restored when the session ends, also by a signal. In the background of a terminal, this process neither
//! reads nor changes it. A session on behalf of another user gets that user's rights and a clean environment,
//! and no descriptor except the standard streams and those that this program passes.

use super::visit::{SIGNAL_BASE, exit_code};
use crate::{process_tree::Owner, sys};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::{SigSet, Signal, kill, killpg},
        signalfd::{SfdFlags, SignalFd},
        termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
    },
    unistd::{self, Pid, Uid, User, fchown, getpgrp, tcgetpgrp},
};
use rustix::termios::{tcgetwinsize, tcsetwinsize};
use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
};

/// The search path in a clean environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables that a clean environment keeps from the caller, besides those that begin with `LC_`.
const KEPT_VARIABLES: [&str; 3] = ["LANG", "SHELL", "TERM"];

/// The maximum number of bytes to forward in one step, in each direction.
const CHUNK: usize = 4096;

/// How much more of a program's terminal is shown after the program has ended, in bytes. The kernel holds
/// less of what the program itself has written. More comes from processes that it has left behind.
const REST: usize = 64 << 10;

/// Runs a command in a session of its own and waits until it exits. With `owner`, it runs as that user, in a
/// clean environment and in `/`. Returns its exit code; a signal that ends the session counts as its exit.
///
/// `ready` is called last, with the command and whether it has a terminal. It may add arguments, and make
/// descriptors inheritable.
///
/// Must be called while this process has a single thread, and starts no other.
///
/// # Errors
/// If no pseudoterminal is available, or the command cannot be started.
pub fn run(
    command: &mut Command,
    owner: Option<Owner>,
    ready: impl FnOnce(&mut Command, bool) -> io::Result<()>,
) -> io::Result<u8> {
    let blocked = SigSet::thread_get_mask()?;
    let signals = signals()?;
    let caller = CallerTerminal::of_streams();
    let own = caller.as_ref().map(CallerTerminal::own_terminal).transpose()?;
    sys::inherit_no_descriptors()?;
    let mut controlling = None;
    if let Some(OpenptyResult { slave, .. }) = &own {
        if let Some(owner) = owner {
            fchown(slave, Some(Uid::from_raw(owner.uid)), None)?;
        }
        controlling = replace_terminals(command, slave)?;
    }
    if let Some(Owner { uid, gid }) = owner {
        command.env_clear().envs(clean_environment(uid)).current_dir("/").uid(uid).gid(gid);
        sys::leave_keyring(command);
    }
    ready(command, own.is_some())?;
    sys::start_session(command, controlling, blocked);
    let relay = caller.zip(own);
    let child = command.spawn()?;
    // Drops the program's end of its terminal here: the other end can then detect that the last process has
    // closed it.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let relay = relay.map(|(caller, OpenptyResult { master, .. })| Relay::new(caller, master));
    Session { child, signals, relay }.wait()
}

/// Blocks the signals that a session handles, and opens a descriptor that reads them.
fn signals() -> Result<SignalFd, Errno> {
    let mut handled = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGWINCH,
        Signal::SIGCONT,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ] {
        // A caller that ignores a signal, such as nohup, wants this process to ignore it too. But SIGTERM
        // also reports that the caller has ended.
        if signal == Signal::SIGTERM || !frontend::is_ignored(signal) {
            handled.add(signal);
        }
    }
    handled.thread_block()?;
    // The terminal may be restored in the background, which would stop this process.
    let mut background = SigSet::empty();
    background.add(Signal::SIGTTOU);
    background.thread_block()?;
    SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Replaces those standard streams of a command that are terminals here. Returns the first of them.
fn replace_terminals(command: &mut Command, slave: &OwnedFd) -> io::Result<Option<RawFd>> {
    let is_terminal = [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
    if is_terminal[0] {
        command.stdin(slave.try_clone()?);
    }
    if is_terminal[1] {
        command.stdout(slave.try_clone()?);
    }
    if is_terminal[2] {
        command.stderr(slave.try_clone()?);
    }
    Ok((0..).zip(is_terminal).find_map(|(fd, is_terminal)| is_terminal.then_some(fd)))
}

/// Returns the environment of a program started for another user.
fn clean_environment(uid: u32) -> HashMap<OsString, OsString> {
    let is_kept = |name: &OsString| {
        name.to_str().is_some_and(|name| KEPT_VARIABLES.contains(&name) || name.starts_with("LC_"))
    };
    let mut variables: HashMap<OsString, OsString> =
        env::vars_os().filter(|(name, _)| is_kept(name)).collect();
    let account = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let (name, home) = account
        .map_or_else(|| (uid.to_string().into(), "/".into()), |user| (user.name.into(), user.dir.into()));
    let own: [(&str, OsString); 4] =
        [("PATH", PATH.into()), ("HOME", home), ("USER", OsString::clone(&name)), ("LOGNAME", name)];
    variables.extend(own.map(|(name, value)| (name.into(), value)));
    variables
}

/// The caller's terminal.
struct CallerTerminal {
    /// Standard input, if it is the terminal.
    input: Option<OwnedFd>,
    /// The stream on which the terminal shows the program's output.
    screen: OwnedFd,
    settings: TerminalSettings,
}

impl CallerTerminal {
    /// Returns the terminal that is one of the standard streams, if any.
    fn of_streams() -> Option<Self> {
        let [stdin, stdout, stderr] = [
            opened(io::stdin().as_fd(), OFlag::O_RDONLY),
            opened(io::stdout().as_fd(), OFlag::O_WRONLY),
            opened(io::stderr().as_fd(), OFlag::O_WRONLY),
        ];
        let typed_at = || opened(io::stdin().as_fd(), OFlag::O_WRONLY);
        let screen = stdout.or(stderr).or_else(typed_at)?;
        let settings = TerminalSettings::of(stdin.as_ref().unwrap_or(&screen).as_fd())?;
        Some(Self { input: stdin, screen, settings })
    }

    /// Opens a pseudoterminal with the settings and the size of this terminal.
    fn own_terminal(&self) -> io::Result<OpenptyResult> {
        let own = openpty(None::<&Winsize>, &self.settings.termios)?;
        fcntl(&own.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(own)
    }
}

/// Opens the terminal of a standard stream again, so that access to it never blocks without changing the
/// caller's own descriptor. Returns `None` if the stream is not a terminal.
fn opened(stream: BorrowedFd, access: OFlag) -> Option<OwnedFd> {
    stream.is_terminal().then_some(())?;
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    let flags = access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let again = nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty());
    // After `su`, the terminal belongs to another user, and only the descriptor gives access.
    again.ok().or_else(|| stream.try_clone_to_owned().ok())
}

/// The settings of a terminal, to restore them.
pub struct TerminalSettings {
    terminal: OwnedFd,
    termios: Termios,
}

impl TerminalSettings {
    /// Reads the settings of a terminal. Returns `None` if the stream is not a terminal.
    pub fn of(stream: BorrowedFd) -> Option<Self> {
        let termios = tcgetattr(stream).ok()?;
        Some(Self { terminal: stream.try_clone_to_owned().ok()?, termios })
    }

    /// Returns whether this process may read and change the terminal: it is in its foreground.
    fn is_ours(&self) -> bool {
        tcgetpgrp(&self.terminal) == Ok(getpgrp())
    }

    /// Makes the terminal pass on every key as it is typed.
    fn set_raw(&self) -> bool {
        let mut raw = self.termios.clone();
        cfmakeraw(&mut raw);
        self.is_ours() && tcsetattr(&self.terminal, SetArg::TCSANOW, &raw).is_ok()
    }

    /// Restores the settings, if this process is in the terminal's foreground.
    pub fn restore(&self) {
        if self.is_ours() {
            let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.termios);
        }
    }
}

/// The data passing between the caller's terminal and the program's.
struct Relay {
    caller: CallerTerminal,
    master: OwnedFd,
    /// Whether the caller's terminal is in raw mode.
    raw: bool,
    /// Input that the program has not read yet.
    typed: Vec<u8>,
    /// Output of the program that the terminal does not show yet.
    shown: Vec<u8>,
    /// The number of bytes that have been read from the program's terminal.
    read: usize,
    /// Whether no process has the program's end open any more.
    closed: bool,
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.raw {
            self.caller.settings.restore();
        }
    }
}

impl Relay {
    fn new(caller: CallerTerminal, master: OwnedFd) -> Self {
        let mut relay =
            Self { caller, master, raw: false, typed: Vec::new(), shown: Vec::new(), read: 0, closed: false };
        relay.take_terminal();
        if !relay.raw {
            // The caller's terminal turns line feeds into new lines already.
            relay.set_output_processing(false);
        }
        relay
    }

    /// Takes the caller's terminal, if this process is in its foreground and input comes from it.
    fn take_terminal(&mut self) {
        let was_raw = self.raw;
        self.raw = self.caller.input.is_some() && self.caller.settings.set_raw();
        if self.raw && !was_raw {
            let flags = self.caller.settings.termios.output_flags;
            self.set_output_processing(flags.contains(OutputFlags::OPOST));
        }
        self.resize();
    }

    /// Sets whether the program's terminal turns line feeds into new lines.
    fn set_output_processing(&self, enabled: bool) {
        if let Ok(mut own) = tcgetattr(&self.master) {
            own.output_flags.set(OutputFlags::OPOST, enabled);
            let _ = tcsetattr(&self.master, SetArg::TCSANOW, &own);
        }
    }

    /// Gives the program's terminal the size of the caller's; the kernel notifies the program.
    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(&self.caller.screen) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Returns the events to wait for: on the caller's input, on its screen, and on the program's terminal.
    fn interest(&self) -> [PollFlags; 3] {
        let when = |condition, flags| if condition { flags } else { PollFlags::empty() };
        let wants_input = self.raw && !self.closed && self.typed.len() < CHUNK;
        let input = when(wants_input && self.caller.settings.is_ours(), PollFlags::POLLIN);
        let program = when(!self.closed && self.shown.is_empty(), PollFlags::POLLIN)
            | when(!self.closed && !self.typed.is_empty(), PollFlags::POLLOUT);
        [input, when(!self.shown.is_empty(), PollFlags::POLLOUT), program]
    }

    /// Forwards the available data. Returns whether the caller's terminal has gone away.
    fn pass_on(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        if self.interest()[0] == PollFlags::POLLIN
            && let Some(input) = &self.caller.input
        {
            match unistd::read(input, &mut chunk) {
                Ok(0) => return true,
                Ok(count) => self.typed.extend_from_slice(&chunk[..count]),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
        if self.shown.is_empty() && !self.closed {
            match unistd::read(&self.master, &mut chunk) {
                Ok(0) => self.closed = true,
                Ok(count) => {
                    self.read += count;
                    self.shown.extend_from_slice(&chunk[..count]);
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_all_processes_have_closed_it) => self.closed = true,
            }
        }
        self.closed |= send(&self.master, &mut self.typed).is_err();
        send(&self.caller.screen, &mut self.shown).is_err()
    }
}

/// Writes as much as possible without blocking, and removes it from `pending`.
fn send(to: &OwnedFd, pending: &mut Vec<u8>) -> Result<(), Errno> {
    while !pending.is_empty() {
        let mut ready = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut ready, PollTimeout::ZERO) != Ok(1) {
            break;
        }
        match unistd::write(to, pending) {
            Ok(count) => drop(pending.drain(..count)),
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A program in its session.
struct Session {
    child: Child,
    signals: SignalFd,
    relay: Option<Relay>,
}

impl Session {
    /// Waits until the program has exited and its output is shown. Returns its exit code.
    fn wait(mut self) -> io::Result<u8> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.show_rest()?;
                return Ok(exit_code(status));
            }
            self.wait_for_events()?;
            while let Some(signal) = self.signals.read_signal()? {
                let Ok(signal) = Signal::try_from(signal.ssi_signo.cast_signed()) else { continue };
                if let Some(code) = self.handle(signal)? {
                    return Ok(code);
                }
            }
            if self.relay.as_mut().is_some_and(Relay::pass_on) {
                return self.end(Signal::SIGHUP);
            }
        }
    }

    fn wait_for_events(&self) -> Result<(), Errno> {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(relay) = &self.relay {
            let ends = [relay.caller.input.as_ref(), Some(&relay.caller.screen), Some(&relay.master)];
            for (end, flags) in ends.into_iter().zip(relay.interest()) {
                // For a stream without requested events, poll would report the end again and again.
                fds.extend(end.filter(|_| !flags.is_empty()).map(|end| PollFd::new(end.as_fd(), flags)));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Handles a signal. Returns the exit code if it ends the session.
    fn handle(&mut self, signal: Signal) -> io::Result<Option<u8>> {
        match signal {
            Signal::SIGWINCH => {
                if let Some(relay) = &self.relay {
                    relay.resize();
                }
            }
            Signal::SIGCONT => {
                if let Some(relay) = &mut self.relay {
                    relay.take_terminal();
                }
            }
            Signal::SIGINT | Signal::SIGQUIT => {
                let _ = killpg(self.foreground(), signal);
            }
            Signal::SIGTERM | Signal::SIGHUP => return self.end(signal).map(Some),
            _ => {}
        }
        Ok(None)
    }

    /// Returns the process group that the terminal's keys would reach, or the program's own without a
    /// terminal.
    fn foreground(&self) -> Pid {
        let group = self.relay.as_ref().and_then(|relay| tcgetpgrp(&relay.master).ok());
        group.filter(|group| group.as_raw() > 1).unwrap_or(Pid::from_raw(self.child.id().cast_signed()))
    }

    /// Ends the session because of a signal to this process. Returns the exit code.
    fn end(&mut self, signal: Signal) -> io::Result<u8> {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        self.child.wait()?;
        Ok(SIGNAL_BASE + signal as u8)
    }

    /// Shows what the program has written before it exited, unless a signal ends this process. Processes that
    /// it has left behind may write without end.
    fn show_rest(&mut self) -> io::Result<()> {
        let Some(relay) = &mut self.relay else { return Ok(()) };
        let enough = relay.read + REST;
        loop {
            let mut rest = [PollFd::new(relay.master.as_fd(), PollFlags::POLLIN)];
            let is_rest = !relay.closed && relay.read < enough && poll(&mut rest, PollTimeout::ZERO) == Ok(1);
            if (!is_rest && relay.shown.is_empty()) || relay.pass_on() {
                return Ok(());
            }
            if !relay.shown.is_empty() {
                let screen = PollFd::new(relay.caller.screen.as_fd(), PollFlags::POLLOUT);
                let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
                let _ = poll(&mut [screen, signals], PollTimeout::NONE);
            }
            while let Some(signal) = self.signals.read_signal()? {
                let ends = [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];
                if ends.contains(&signal.ssi_signo.cast_signed()) {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::FdFlag;
    use std::{fs::File, thread};

    #[test]
    fn what_a_program_leaves_behind_does_not_hold_the_terminal() {
        let open = || openpty(None::<&Winsize>, None::<&Termios>).unwrap();
        let (caller, own) = (open(), open());
        // Or the program itself would keep its terminal open.
        for end in [&caller.master, &caller.slave, &own.master, &own.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        }
        fcntl(&own.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "yes & yes & yes & yes & sleep 0.2; exit 7"]).stdin(Stdio::null());
        let child = command.stdout(own.slave).stderr(Stdio::null()).spawn().unwrap();
        // The program's end is open only there.
        drop(command);
        let mut screen = File::from(caller.master);
        thread::spawn(move || io::copy(&mut screen, &mut io::sink()));
        let settings = TerminalSettings::of(caller.slave.as_fd()).unwrap();
        let caller = CallerTerminal { input: None, screen: caller.slave, settings };
        let relay = Some(Relay::new(caller, own.master));
        let mut session = Session { child, signals: signals().unwrap(), relay };
        assert_eq!(session.child.wait().unwrap().code(), Some(7));
        session.show_rest().unwrap();
        let shown = session.relay.map(|relay| relay.read).unwrap();
        assert!((1..=REST + CHUNK).contains(&shown), "{shown} bytes");
    }
}
