//! Measures a network path between two hosts: the goodput of one TCP stream, round-trip times, and loss.
//!
//! One host runs a [`Server`], the other opens a [`Session`] with it, or calls [`measure`]. Probes are UDP
//! packets of 64 bytes of payload, sent at a constant rate and echoed by the server. A round trip therefore
//! includes the scheduling delays of both hosts, some 50 to 100 us on an idle host. A measurement has three
//! phases:
//!
//! 1. probes alone: the idle round-trip time;
//! 2. a TCP stream alone: its goodput, as the receiver counts it. Probes would reduce it: a probe is a frame
//!    of 106 bytes (126 over IPv6), and 200 of them per second take a sixth of 1 Mbit/s;
//! 3. probes beside the stream: the round-trip time under load, which includes the queue.
//!
//! A server answers only the probes of a session, which a client opens over TCP: see [`Server`].

use crate::{
    ethernet::{HEADER_BYTES, TcpSegment},
    profile::Profile,
};
use serde::Serialize;
use std::time::Duration;
use units::{ByteRate, Span, numbers};

mod client;
mod endpoint;
mod protocol;
mod server;
mod sockets;

pub use client::{Session, measure};
pub use endpoint::{DEFAULT_PORT, Endpoint, EndpointError, written};
pub use server::Server;

/// The maximum number of sessions of a server at a time. It refuses further clients.
pub const MAX_SESSIONS: usize = 16;
/// The time after which a server ends the session of a client whose TCP connection is silent, and a client
/// gives up a server.
pub const MAX_SILENCE: Duration = Duration::from_secs(30);
/// The longest [`MeasurementSettings::duration`].
pub const MAX_DURATION: Duration = Duration::from_secs(3600);
/// The longest time that idle probes may take. The TCP connection is silent meanwhile.
const MAX_IDLE_TIME: Duration = Duration::from_secs(20);
const CHUNK_BYTES: usize = 128 * 1024;
/// The size of the frame of a probe over IPv4, in bytes: its payload and the UDP, IP and Ethernet headers.
const PROBE_FRAME_BYTES: u64 = protocol::PROBE_BYTES as u64 + 8 + 20 + HEADER_BYTES;

/// The durations and counts of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct MeasurementSettings {
    /// How long the TCP stream runs alone, including the warm-up. It then runs as long again beside probes;
    /// that part does not count towards the goodput. At most [`MAX_DURATION`].
    pub duration: Duration,
    /// The start of the stream that does not count, in which the stream probes for the path's rate and at
    /// first overshoots it.
    pub warm_up: Duration,
    /// The time between two probes, at least 100 us.
    pub interval: Duration,
    /// The number of probes sent without a stream. They may take 20 s.
    pub idle_probes: u32,
}

impl MeasurementSettings {
    /// A shorter interval between probes would measure how fast this host sends.
    const MIN_INTERVAL: Duration = Duration::from_micros(100);

    /// Returns the rate that the probes take from a path over IPv4.
    pub fn probe_rate(&self) -> ByteRate {
        let per_second = 1e9 / self.interval.as_nanos().max(1) as f64;
        ByteRate::new((PROBE_FRAME_BYTES as f64 * per_second) as u64)
    }
}

impl Default for MeasurementSettings {
    /// Returns 400 idle probes, 3 s of stream of which the first 0.5 s do not count, and 3 s of stream beside
    /// probes. Probes are 5 ms apart.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(3),
            warm_up: Duration::from_millis(500),
            interval: Duration::from_millis(5),
            idle_probes: 400,
        }
    }
}

/// The result of a measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// The payload rate of one TCP stream, as the receiver counted it.
    #[serde(rename = "goodput_bytes_per_s", serialize_with = "numbers::bytes_per_s")]
    pub goodput: ByteRate,
    /// The full-size segments of the stream, as of its end.
    pub segment: TcpSegment,
    /// The round trips of probes without a stream.
    pub idle: RoundTrips,
    /// The round trips of probes beside the stream.
    pub loaded: RoundTrips,
}

/// The counts and round-trip times of a series of probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RoundTrips {
    /// The number of probes that were sent.
    pub sent: u64,
    /// The number of probes that the server received, including duplicates, as its last echo reported it.
    pub arrived: u64,
    /// The number of probes whose echo came back.
    pub echoed: u64,
    /// The shortest round trip. This and the other times are zero if no echo came back.
    #[serde(rename = "min_ms", serialize_with = "numbers::millis")]
    pub min: Span,
    /// The median round trip (nearest rank).
    #[serde(rename = "p50_ms", serialize_with = "numbers::millis")]
    pub p50: Span,
    /// The 90th percentile of the round trips (nearest rank).
    #[serde(rename = "p90_ms", serialize_with = "numbers::millis")]
    pub p90: Span,
    /// The 99th percentile of the round trips (nearest rank).
    #[serde(rename = "p99_ms", serialize_with = "numbers::millis")]
    pub p99: Span,
    /// The longest round trip of all.
    #[serde(rename = "max_ms", serialize_with = "numbers::millis")]
    pub max: Span,
}

impl RoundTrips {
    /// Returns the fraction of probes whose echo did not come back, between 0 and 1: the loss of both
    /// directions together.
    pub fn loss(&self) -> f64 {
        1.0 - self.echoed as f64 / (self.sent.max(1)) as f64
    }

    fn new(sent: u64, arrived: u64, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |part: f64| {
            let index = (times.len() as f64 * part).ceil() as usize;
            times.get(index.saturating_sub(1)).copied().map_or(Span::ZERO, Span::from)
        };
        Self {
            sent,
            arrived,
            echoed: times.len() as u64,
            min: rank(0.0),
            p50: rank(0.5),
            p90: rank(0.9),
            p99: rank(0.99),
            max: rank(1.0),
        }
    }
}

/// Returns the payload rate of one TCP stream of such segments at a profile's rate. `None` if the profile has
/// no rate.
pub fn tcp_payload(profile: &Profile, segment: TcpSegment) -> Option<ByteRate> {
    let rate = u128::from(profile.rate?.to_byte_rate().get());
    let payload = rate * u128::from(segment.payload_bytes) / u128::from(segment.frame_bytes.max(1));
    Some(ByteRate::new(payload as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn percentiles_are_the_nearest_ranks() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let trips = RoundTrips::new(200, 150, times);
        let millis = [trips.min, trips.p50, trips.p90, trips.p99, trips.max].map(Span::as_millis);
        assert_eq!(millis, [1, 50, 90, 99, 100]);
        assert!((trips.loss() - 0.5).abs() < 1e-9);
        assert_eq!(RoundTrips::new(3, 0, Vec::new()).max, Span::ZERO);
    }

    #[test]
    fn tcp_payload_is_the_rate_less_headers() {
        let profile = Profile { rate: Some("928mbit".parse().unwrap()), ..Profile::default() };
        let ipv4 = TcpSegment::new(1448, false, true);
        assert_eq!(tcp_payload(&profile, ipv4), Some(ByteRate::new(110_943_196)));
        let ipv6 = TcpSegment::new(1428, true, true);
        assert_eq!(tcp_payload(&profile, ipv6), Some(ByteRate::new(109_410_832)));
        assert_eq!(tcp_payload(&Profile::default(), ipv4), None);
    }

    #[test]
    fn a_measurement_over_loopback_loses_nothing() {
        let server = Server::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = server.address().unwrap();
        thread::spawn(|| server.run());
        let settings = MeasurementSettings {
            duration: Duration::from_millis(500),
            warm_up: Duration::ZERO,
            interval: Duration::from_millis(1),
            idle_probes: 20,
        };
        let measured = measure(address, &settings).unwrap();
        assert_eq!((measured.idle.sent, measured.idle.arrived, measured.idle.echoed), (20, 20, 20));
        assert!(measured.idle.min > Span::ZERO && measured.idle.min <= measured.idle.max);
        assert!(!measured.goodput.is_zero());
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let good = MeasurementSettings::default();
        for (settings, says) in [
            (MeasurementSettings { duration: Duration::MAX, ..good }, "a duration of"),
            (MeasurementSettings { interval: Duration::ZERO, ..good }, "0ns is less than 100µs"),
            (MeasurementSettings { idle_probes: u32::MAX, ..good }, "take more than 20s"),
            (MeasurementSettings { interval: Duration::MAX, ..good }, "take more than 20s"),
        ] {
            let error = measure(([127, 0, 0, 1], 9).into(), &settings).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
