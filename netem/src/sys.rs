//! The only unsafe code of this crate, each block behind a safe function.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

unsafe extern "C" {
    /// The error function of the C library; Rust's standard library does not have one.
    ///
    /// Safe to call: it takes and returns plain numbers and touches no memory.
    safe fn erf(x: f64) -> f64;
}

/// Returns the cumulative distribution function of the standard normal distribution at `x`.
pub(crate) fn normal_cdf(x: f64) -> f64 {
    0.5 + 0.5 * erf(x / std::f64::consts::SQRT_2)
}

/// Opens the TUN device of this name in the network namespace of the calling thread, creating it if it does
/// not exist. Each read or write is one IP packet after a virtio-net header. Reads do not block.
pub(crate) fn open_tun(name: &str) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['\0', '/', ' ']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` is not a valid interface name"),
        ));
    }
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
    // SAFETY: ifreq is a plain C struct of numbers and arrays of numbers, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Sets which offloads the reader of a TUN device takes over from the kernel: flags of `libc::TUN_F_*`.
pub(crate) fn set_tun_offload(tun: BorrowedFd<'_>, offload: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and TUNSETOFFLOAD takes its argument by value.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offload)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns the payload of a full-size segment that a TCP connection sends, in bytes, and whether its headers
/// have timestamps.
pub(crate) fn tcp_segment(stream: BorrowedFd<'_>) -> io::Result<(u32, bool)> {
    /// Where `tcpi_options` and `tcpi_snd_mss` are in `struct tcp_info`, which starts with these bytes.
    const OPTIONS: usize = 5;
    const SEND_MSS: std::ops::Range<usize> = 16..20;
    const TIMESTAMPS: u8 = 1;
    let mut info = [0_u8; SEND_MSS.end];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes, which `info` has.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let payload = u32::from_ne_bytes(std::array::from_fn(|i| info[SEND_MSS.start + i]));
    Ok((payload, info[OPTIONS] & TIMESTAMPS != 0))
}
