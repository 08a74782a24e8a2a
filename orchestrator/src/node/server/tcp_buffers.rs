//! The limits of TCP's buffers in a node's network namespace.
//!
//! A TCP stream has at most one buffer of data in flight, so a link with a long round trip needs buffers
//! larger than its bandwidth-delay product; with the kernel's usual limits, a stream reaches some 30 MB/s at
//! a round trip of 80 ms. Raising the limits is the usual tuning for such links. Autotuning still decides how
//! much buffer each connection uses.

use std::{fs, io};

/// The kernel's settings for receive and send buffers; each has three values in bytes: minimum, default and
/// maximum.
const SETTINGS: [&str; 2] = ["/proc/sys/net/ipv4/tcp_rmem", "/proc/sys/net/ipv4/tcp_wmem"];

/// The limits of this process's network namespace.
pub struct TcpBuffers {
    original: [Vec<u64>; 2],
}

impl TcpBuffers {
    /// Reads the current limits and keeps them as the original ones. Limits that cannot be read stay unknown.
    pub fn read() -> Self {
        Self { original: SETTINGS.map(|path| read(path).unwrap_or_default()) }
    }

    /// Raises the maximum sizes to at least `bytes`; 0 restores the original ones. They are never lowered
    /// below the original values.
    ///
    /// # Errors
    ///
    /// If a limit has to change and cannot be read or written: `/proc/sys` may be read-only in a container.
    pub fn allow(&self, bytes: u64) -> io::Result<()> {
        for (path, original) in SETTINGS.into_iter().zip(&self.original) {
            let wanted = match original[..] {
                [minimum, default, maximum] => [minimum, default, bytes.max(maximum)],
                _ if bytes == 0 => continue,
                _ => return Err(io::Error::other(format!("cannot read {path}"))),
            };
            if read(path)? != wanted {
                fs::write(path, wanted.map(|n| n.to_string()).join(" "))
                    .map_err(|e| io::Error::new(e.kind(), format!("cannot write {path}: {e}")))?;
            }
        }
        Ok(())
    }
}

fn read(path: &str) -> io::Result<Vec<u64>> {
    let text =
        fs::read_to_string(path).map_err(|e| io::Error::new(e.kind(), format!("cannot read {path}: {e}")))?;
    text.split_whitespace().map(|number| number.parse().map_err(io::Error::other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netem::Namespace;

    #[test]
    fn limits_are_raised_and_restored() {
        let namespace = match Namespace::new() {
            Ok(namespace) => namespace,
            Err(error) => {
                println!("skipped: {error}");
                return;
            }
        };
        let maximum = |bytes| {
            let limits = namespace.run(|| {
                let buffers = TcpBuffers::read();
                buffers.allow(bytes)?;
                let raised = SETTINGS.map(|path| read(path).unwrap()[2]);
                buffers.allow(0)?;
                assert_eq!(SETTINGS.map(|path| read(path).unwrap()), buffers.original);
                Ok((raised, buffers.original.map(|limits| limits[2])))
            });
            limits.unwrap()
        };
        assert_eq!(maximum(1 << 30).0, [1 << 30; 2]);
        let (raised, original) = maximum(1);
        assert_eq!(raised, original, "limits are never lowered");
    }
}
