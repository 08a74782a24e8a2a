//! Round trips between the orchestrator and its nodes.
//!
//! All times are taken by the orchestrator's clock. Most durations in a record end, and some begin, when a
//! line arrives from a node. A line from another host has spent time in transit, and a duration between two
//! lines from different hosts contains the difference of their transit times. The round trips are measured
//! when a lab starts, so that a reader of the record can bound this error.

use super::{Node, NodeError};
use crate::measure::millis;

/// The number of calls with which a round trip is measured.
const CALLS: usize = 15;

/// The time between a call that does nothing and its reply, over the same streams that carry all other
/// messages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoundTrip {
    /// The shortest round trip, in milliseconds.
    pub least_ms: f64,
    /// The median round trip, in milliseconds.
    pub median_ms: f64,
}

/// The round trips between the orchestrator and its nodes, measured when the lab started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoundTrips {
    /// The round trip to the controller.
    pub controller: RoundTrip,
    /// The round trip to the source.
    pub source: RoundTrip,
    /// The round trip to the destination.
    pub destination: RoundTrip,
}

impl RoundTrip {
    /// Measures the round trip to a node with 15 sequential calls, rounded to microseconds.
    pub async fn measure(node: &Node) -> Result<Self, NodeError> {
        let mut times = Vec::new();
        for _ in 0..CALLS {
            times.push(node.round_trip().await?);
        }
        times.sort_unstable();
        Ok(Self { least_ms: millis(times[0]), median_ms: millis(times[CALLS / 2]) })
    }
}

impl RoundTrips {
    /// Measures the round trips to all three nodes, one node after the other.
    pub async fn measure(controller: &Node, source: &Node, destination: &Node) -> Result<Self, NodeError> {
        Ok(Self {
            controller: RoundTrip::measure(controller).await?,
            source: RoundTrip::measure(source).await?,
            destination: RoundTrip::measure(destination).await?,
        })
    }
}
