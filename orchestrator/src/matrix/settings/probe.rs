//! The section `probe`.

use super::field::section;
use units::Span;

section! {
    /// The client that measures the downtime from outside.
    pub struct Probe {
        /// Time between two probes; 0 sends none. At least 1ms.
        pub interval: Span = Span::from_millis(10),
    }
}
