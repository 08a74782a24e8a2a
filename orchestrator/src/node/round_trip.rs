//! How far away nodes are from the orchestrator, whose clock takes the times.
//!
//! Most durations in a record end, and some begin, when a line comes in. A line from another host has been
//! under way, and the difference of two that come from two hosts contains the difference of their ways. How
//! large that can be is measured when a lab starts, so that a reader of the record knows.

use super::{Node, NodeError};
use serde::{Deserialize, Serialize};

/// How many calls a round trip is measured with.
const CALLS: usize = 15;

/// How long a call that does nothing and its answer took, through the same streams that everything else comes
/// by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// The shortest, in milliseconds.
    pub least_ms: f64,
    /// The middle one, in milliseconds.
    pub median_ms: f64,
}

/// The round trips between the orchestrator and its nodes, when the lab started.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// To the controller and back.
    pub controller: RoundTrip,
    /// To the source and back.
    pub source: RoundTrip,
    /// To the destination and back.
    pub destination: RoundTrip,
}

impl RoundTrip {
    /// Measures it, with some calls one after the other.
    pub async fn to(node: &Node) -> Result<Self, NodeError> {
        let mut times = Vec::new();
        for _ in 0..CALLS {
            times.push(node.round_trip().await?);
        }
        times.sort_unstable();
        // To the microsecond.
        let millis = |i: usize| (times[i].as_secs_f64() * 1e6).round() / 1e3;
        Ok(Self { least_ms: millis(0), median_ms: millis(CALLS / 2) })
    }
}

impl RoundTrips {
    /// Measures them, one after the other.
    pub async fn measure(controller: &Node, source: &Node, destination: &Node) -> Result<Self, NodeError> {
        Ok(Self {
            controller: RoundTrip::to(controller).await?,
            source: RoundTrip::to(source).await?,
            destination: RoundTrip::to(destination).await?,
        })
    }
}
