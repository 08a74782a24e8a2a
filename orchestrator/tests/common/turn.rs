//! Turns of tests that run QEMU: they limit the tests to what the host can carry at the same time.
//!
//! `cargo xtask test` starts many of these tests simultaneously, and each waits for its turn. So a test that
//! waits for hosts or for a time to pass runs beside tests that keep the CPUs busy, and tests that run alone
//! do so one after another at the end, instead of making the others wait in between.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many units tests may take at the same time. The host has two cores, so a unit is a third of one.
const UNITS: u32 = 6;

/// The units of a test whose guests are idle or dirty little memory.
const SHARED: u32 = 2;

/// The units of a test that mostly waits.
const LIGHT: u32 = 1;

static TURNS: Turns = Turns::new();

/// The turns that have been taken.
pub(crate) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The units that are taken.
    taken: u32,
    /// How many tests wait for a turn alongside others.
    waiting: u32,
}

/// The turn of a test, until this value is dropped.
pub(crate) struct Turn {
    turns: &'static Turns,
    units: u32,
}

impl Turn {
    /// Waits until there is room for a test that mostly waits, such as for hosts or for a time limit.
    pub(crate) fn light() -> Self {
        TURNS.beside_others(LIGHT)
    }

    /// Waits until there is room for a test whose guests are idle or dirty little memory.
    pub(crate) fn shared() -> Self {
        TURNS.beside_others(SHARED)
    }

    /// Waits until no other test runs, or waits for one of the other turns. For a test that measures a
    /// workload, which would not reach the requested rate on a busy host.
    pub(crate) fn alone() -> Self {
        TURNS.alone()
    }
}

impl Turns {
    const fn new() -> Self {
        Self { state: Mutex::new(State { taken: 0, waiting: 0 }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beside_others(&'static self, units: u32) -> Turn {
        let mut state = self.state();
        state.waiting += 1;
        let full = |state: &mut State| state.taken + units > UNITS;
        state = self.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.taken += units;
        Turn { turns: self, units }
    }

    fn alone(&'static self) -> Turn {
        let others = |state: &mut State| state.taken > 0 || state.waiting > 0;
        let state = self.changed.wait_while(self.state(), others);
        state.unwrap_or_else(PoisonError::into_inner).taken = UNITS;
        Turn { turns: self, units: UNITS }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.state().taken -= self.units;
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::mpsc::{Receiver, Sender, channel},
        thread,
        time::Duration,
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Takes a turn in a thread. Returns a sender whose drop ends the turn, and a receiver that gets a
    /// message when the turn has begun.
    fn take(turn: impl FnOnce() -> Turn + Send + 'static) -> (Sender<()>, Receiver<()>) {
        let (end, until_then) = channel();
        let (begins, begun) = channel();
        thread::spawn(move || {
            let _turn = turn();
            begins.send(()).unwrap();
            let _ = until_then.recv();
        });
        (end, begun)
    }

    #[test]
    fn light_turns_fit_beside_others_and_alone_comes_last() {
        static TURNS: Turns = Turns::new();
        let running: Vec<_> = [SHARED, SHARED, LIGHT, LIGHT]
            .map(|units| {
                let turn = take(move || TURNS.beside_others(units));
                turn.1.recv_timeout(PATIENCE).expect("there is room");
                turn
            })
            .into();
        let alone = take(|| TURNS.alone());
        let waiting = take(|| TURNS.beside_others(SHARED));
        while TURNS.state().waiting == 0 {
            thread::yield_now();
        }
        assert!(alone.1.try_recv().is_err() && waiting.1.try_recv().is_err(), "there is no room");
        drop(running);
        waiting.1.recv_timeout(PATIENCE).expect("there is room");
        assert!(alone.1.try_recv().is_err(), "another one runs");
        drop(waiting);
        alone.1.recv_timeout(PATIENCE).expect("no other one runs");
        let last = take(|| TURNS.beside_others(LIGHT));
        while TURNS.state().waiting == 0 {
            thread::yield_now();
        }
        assert!(last.1.try_recv().is_err(), "one runs alone");
        drop(alone);
        last.1.recv_timeout(PATIENCE).expect("there is room");
    }
}
