//! How far TCP's buffers may grow in a node's network namespace.
//!
//! One TCP stream has at most a buffer's worth of data under way, so a link with a long round trip needs
//! buffers of more than its rate times its round trip; the kernel's usual limits end at some 30 MB/s with a
//! round trip of 80 ms. Raising the limits is what people do who tune such links. Autotuning still decides
//! how much of it a connection takes.

use std::{fs, io};

/// The limits of what a socket receives and sends: least, default and most, in bytes.
const SETTINGS: [&str; 2] = ["/proc/sys/net/ipv4/tcp_rmem", "/proc/sys/net/ipv4/tcp_wmem"];

/// The limits of this process's network namespace.
pub struct TcpBuffers {
    original: [Vec<u64>; 2],
}

impl TcpBuffers {
    /// Those in force now are kept as the original ones. None are known where they cannot be read.
    pub fn read() -> Self {
        Self { original: SETTINGS.map(|path| read(path).unwrap_or_default()) }
    }

    /// Lets buffers grow to at least so many bytes; with 0, as far as originally.
    ///
    /// # Errors
    ///
    /// When a limit has to change and cannot be read or written: `/proc/sys` may be read-only in a container.
    pub fn allow(&self, bytes: u64) -> io::Result<()> {
        for (path, original) in SETTINGS.into_iter().zip(&self.original) {
            let wanted = match original[..] {
                [least, usual, most] => [least, usual, bytes.max(most)],
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
    fn buffers_may_grow_further_and_then_as_far_as_before() {
        let namespace = match Namespace::new() {
            Ok(namespace) => namespace,
            Err(error) => {
                println!("skipped: {error}");
                return;
            }
        };
        let most = |bytes| {
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
        assert_eq!(most(1 << 30).0, [1 << 30; 2]);
        let (raised, original) = most(1);
        assert_eq!(raised, original, "buffers are never made smaller");
    }
}
