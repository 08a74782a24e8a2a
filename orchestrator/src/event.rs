//! The events of a run in progress, and the sinks that receive them.
//!
//! The engine sends each [`Event`] to one [`Sink`]. A [`FanOut`] passes events on to several sinks, such as a
//! terminal, a page, or a test. The engine waits while a sink handles an event, so a sink whose output may
//! take its time writes it on a thread of its own. A sink cannot stop the run.

use crate::{
    measure::samples::Sample,
    results::record::{Phase, Record},
};
use std::time::Duration;

/// Something that happens in a run.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A message about the run as a whole.
    Message(&'a str),
    /// An attempt starts.
    AttemptStarted {
        /// The number of the attempt among those that this run makes, from 1.
        number: usize,
        /// The number of attempts that this run makes, not counting those that already have a result.
        total: usize,
        /// The name of the cell, followed by the number of the repetition if there are several.
        name: &'a str,
        /// The estimated duration of this attempt and all later ones.
        left: Duration,
    },
    /// The attempt enters a phase.
    PhaseEntered(Phase),
    /// A sample of the migration's progress was taken.
    Sampled(&'a Sample),
    /// The attempt has ended, and its record is synced to the disk. If it cannot be, the run ends with an
    /// error after this event.
    AttemptEnded(&'a Record),
    /// The run has ended. No further events follow.
    RunEnded,
}

/// A receiver of a run's events.
pub trait Sink: Send + Sync {
    /// Handles an event, synchronously.
    fn handle(&self, event: &Event<'_>);
}

/// A sink that passes every event on to each of its sinks, in order. Without sinks, events are discarded.
#[derive(Default)]
pub struct FanOut(Vec<Box<dyn Sink>>);

impl FanOut {
    /// Adds a sink after the others.
    pub fn add(&mut self, sink: impl Sink + 'static) {
        self.0.push(Box::new(sink));
    }
}

impl Sink for FanOut {
    fn handle(&self, event: &Event<'_>) {
        for sink in &self.0 {
            sink.handle(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct MessageLog(Arc<Mutex<Vec<String>>>, &'static str);

    impl Sink for MessageLog {
        fn handle(&self, event: &Event<'_>) {
            if let Event::Message(text) = event {
                self.0.lock().unwrap().push(format!("{}: {text}", self.1));
            }
        }
    }

    #[test]
    fn every_sink_gets_every_event_in_order() {
        let log = Arc::default();
        let mut fan = FanOut::default();
        fan.handle(&Event::Message("discarded"));
        fan.add(MessageLog(Arc::clone(&log), "a"));
        fan.add(MessageLog(Arc::clone(&log), "b"));
        fan.handle(&Event::Message("one"));
        fan.handle(&Event::Message("two"));
        assert_eq!(*log.lock().unwrap(), ["a: one", "b: one", "a: two", "b: two"]);
    }
}
