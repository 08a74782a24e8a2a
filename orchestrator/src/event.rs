//! What a run says while it goes on: one type of event, and whoever listens.
//!
//! The engine emits [`Event`]s to one [`Sink`]. A [`Fan`] passes them on to several: a terminal, a page, a
//! test. Emitting costs what the sinks do; none of them can stop the run.

use crate::{
    measure::samples::Sample,
    results::record::{Phase, Record},
};
use std::time::Duration;

/// Something that happens in a run.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A remark about the run as a whole.
    Remark(&'a str),
    /// An attempt begins.
    AttemptStarted {
        /// Its place among the attempts of this run, from 1.
        number: usize,
        /// How many attempts this run makes.
        total: usize,
        /// The cell, and the repetition where there are several.
        name: &'a str,
        /// About how long this attempt and all later ones take.
        left: Duration,
    },
    /// The attempt enters a phase.
    PhaseEntered(Phase),
    /// A sample of the migration has been taken.
    Sampled(&'a Sample),
    /// The attempt has ended, and its record is on the disk.
    AttemptEnded(&'a Record),
    /// The run has ended; no event follows.
    RunEnded,
}

/// A listener.
pub trait Sink: Send + Sync {
    /// Takes an event.
    fn take(&self, event: &Event<'_>);
}

/// Passes every event on to each of its sinks, in order. An empty one is silence.
#[derive(Default)]
pub struct Fan(Vec<Box<dyn Sink>>);

impl Fan {
    /// Adds a listener.
    pub fn add(&mut self, sink: impl Sink + 'static) {
        self.0.push(Box::new(sink));
    }
}

impl Sink for Fan {
    fn take(&self, event: &Event<'_>) {
        for sink in &self.0 {
            sink.take(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Remarks(Arc<Mutex<Vec<String>>>, &'static str);

    impl Sink for Remarks {
        fn take(&self, event: &Event<'_>) {
            if let Event::Remark(text) = event {
                self.0.lock().unwrap().push(format!("{}: {text}", self.1));
            }
        }
    }

    #[test]
    fn every_sink_gets_every_event_in_order() {
        let heard = Arc::default();
        let mut fan = Fan::default();
        fan.take(&Event::Remark("nobody hears this"));
        fan.add(Remarks(Arc::clone(&heard), "a"));
        fan.add(Remarks(Arc::clone(&heard), "b"));
        fan.take(&Event::Remark("one"));
        fan.take(&Event::Remark("two"));
        assert_eq!(*heard.lock().unwrap(), ["a: one", "b: one", "a: two", "b: two"]);
    }
}
