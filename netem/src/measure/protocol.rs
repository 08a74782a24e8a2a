//! The messages between the two ends of a measurement.
//!
//! 1. The client connects over TCP, and the server greets it with a [`Greeting`]: a session with a random
//!    token, or the refusal of one.
//! 2. The client sends probes over UDP, each a [`Probe`] with the token. The server echoes them.
//! 3. Over TCP the client sends two times, which say when the server counts, and then the stream. When
//!    counting is over, the server answers with the number of bytes and the time they took.
//!
//! The session ends with the TCP connection. All numbers are big-endian.

/// The number of bytes of a greeting.
pub(super) const GREETING_BYTES: usize = 25;
/// The number of bytes with which a greeting of any version starts.
pub(super) const PREFIX_BYTES: usize = 8;
/// The payload of a probe, in bytes.
pub(super) const PROBE_BYTES: usize = 64;

const NAME: [u8; 7] = *b"netem-m";
/// The version of this protocol. Version 1 had no greeting.
const VERSION: u8 = 2;

/// The secret of a session, which its probes must carry.
pub(super) type Token = [u8; 16];

/// The first message of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// A session was opened.
    Session(Token),
    /// The server already has the maximum number of sessions.
    Full,
}

impl Greeting {
    pub(super) fn to_bytes(self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..7].copy_from_slice(&NAME);
        bytes[7] = VERSION;
        match self {
            Self::Session(token) => {
                bytes[8] = 1;
                bytes[9..].copy_from_slice(&token);
            }
            Self::Full => bytes[8] = 0,
        }
        bytes
    }

    /// Checks that a greeting starts like one of this version.
    ///
    /// # Errors
    ///
    /// Returns what kind of server it is instead.
    pub(super) fn check_prefix(bytes: [u8; PREFIX_BYTES]) -> Result<(), String> {
        match bytes.split_last() {
            Some((&VERSION, name)) if name == NAME => Ok(()),
            Some((version, name)) if name == NAME => Err(format!(
                "the server speaks version {version} of the protocol, and this netem version {VERSION}; run \
                 the same netem on both hosts"
            )),
            _ => Err("the server is not `netem measure --serve`".into()),
        }
    }

    /// Reads the part after the prefix.
    pub(super) fn from_rest(bytes: [u8; GREETING_BYTES - PREFIX_BYTES]) -> Self {
        match bytes {
            [1, token @ ..] => Self::Session(token),
            _ => Self::Full,
        }
    }
}

/// The direction of a probe. A server answers only requests, so two servers never answer each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the client to the server.
    Request = 1,
    /// From the server back to the client.
    Echo = 2,
}

/// A probe or its echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) direction: Direction,
    pub(super) token: Token,
    /// The number of the probe, from 0.
    pub(super) number: u64,
    /// In an echo, how many probes of the session the server has received; otherwise 0.
    pub(super) arrived: u64,
}

impl Probe {
    pub(super) fn to_bytes(self) -> [u8; PROBE_BYTES] {
        let mut bytes = [0; PROBE_BYTES];
        bytes[0] = self.direction as u8;
        bytes[1..17].copy_from_slice(&self.token);
        bytes[17..25].copy_from_slice(&self.number.to_be_bytes());
        bytes[25..33].copy_from_slice(&self.arrived.to_be_bytes());
        bytes
    }

    /// Reads a packet. Returns `None` if it is not a probe.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; PROBE_BYTES] = bytes.try_into().ok()?;
        let direction = match bytes[0] {
            1 => Direction::Request,
            2 => Direction::Echo,
            _ => return None,
        };
        let token = std::array::from_fn(|i| bytes[1 + i]);
        Some(Self { direction, token, number: number(bytes, 17), arrived: number(bytes, 25) })
    }
}

/// Reads a number of 64 bits at an offset of a message.
pub(super) fn number(message: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| message[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        for greeting in [Greeting::Session([7; 16]), Greeting::Full] {
            let bytes = greeting.to_bytes();
            let (prefix, rest) = bytes.split_first_chunk().unwrap();
            assert_eq!(Greeting::check_prefix(*prefix), Ok(()));
            assert_eq!(Greeting::from_rest(rest.try_into().unwrap()), greeting);
        }
        for direction in [Direction::Request, Direction::Echo] {
            let probe = Probe { direction, token: [9; 16], number: u64::MAX, arrived: 3 };
            assert_eq!(Probe::from_bytes(&probe.to_bytes()), Some(probe));
        }
        for packet in [&[][..], &[1; PROBE_BYTES - 1], &[1; PROBE_BYTES + 1], &[3; PROBE_BYTES]] {
            assert_eq!(Probe::from_bytes(packet), None);
        }
    }

    #[test]
    fn other_servers_are_told_apart() {
        assert!(Greeting::check_prefix(*b"netem-m\x09").unwrap_err().contains("speaks version 9"));
        assert!(Greeting::check_prefix(*b"SSH-2.0-").unwrap_err().contains("is not `netem measure --serve`"));
    }
}
