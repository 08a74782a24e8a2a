//! System calls and instructions without a safe wrapper: memory mappings, prefetching, and the ioctls that
//! bring up a network interface.
//!
//! All `unsafe` code of this crate is in this module, each block with its reason. The module's interface is
//! safe.
#![allow(unsafe_code)]

use crate::{content::Page, workload::PAGE_BYTES};
use nix::{
    errno::Errno,
    sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap},
};
use std::{ffi::c_void, fs::File, net::Ipv4Addr, num::NonZeroUsize, os::fd::AsRawFd, ptr::NonNull};

/// The kind of pages that back a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Pages of 4 KiB, never merged into huge pages.
    Small,
    /// The pages that the kernel populates fastest: transparent huge pages if it supports them.
    Fastest,
    /// Reserved huge pages of the given size in bytes, a power of two.
    Reserved(u64),
}

/// Private anonymous memory, initially zero. It is unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<c_void>,
    length: usize,
    pages: usize,
}

// SAFETY: a mapping has a single owner, like a `Box`, and is not tied to any thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference only allows reading.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `pages` pages of 4 KiB without touching them.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses the mapping.
    pub(crate) fn new(pages: usize, backing: Backing) -> Result<Self, Errno> {
        let empty = Self { start: NonNull::<Page>::dangling().cast(), length: 0, pages: 0 };
        let unit = match backing {
            Backing::Small => PAGE_BYTES,
            Backing::Fastest => 2 << 20,
            Backing::Reserved(bytes) => bytes,
        };
        let length = (pages * PAGE_BYTES as usize).next_multiple_of(unit as usize);
        let Some(mapped) = NonZeroUsize::new(length) else {
            return Ok(empty);
        };
        let mut flags = MapFlags::MAP_PRIVATE;
        if let Backing::Reserved(bytes) = backing {
            let size =
                libc::c_int::try_from(bytes.ilog2()).expect("a logarithm is small") << libc::MAP_HUGE_SHIFT;
            flags |= MapFlags::MAP_HUGETLB | MapFlags::from_bits_retain(size);
        }
        // SAFETY: a new mapping at an address that the kernel chooses does not affect memory in use.
        let start =
            unsafe { mmap_anonymous(None, mapped, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags)? };
        let mapping = Self { start, length, pages };
        let advice = match backing {
            Backing::Small => Some(MmapAdvise::MADV_NOHUGEPAGE),
            Backing::Fastest => Some(MmapAdvise::MADV_HUGEPAGE),
            Backing::Reserved(_) => None,
        };
        if let Some(advice) = advice {
            // SAFETY: the range belongs to the mapping, and these kinds of advice do not change its content.
            // A kernel without transparent huge pages refuses them, but does not need them either.
            let _ = unsafe { madvise(start, length, advice) };
        }
        Ok(mapping)
    }

    /// Returns the pages of the mapping, for reading.
    pub(crate) fn pages(&self) -> &[Page] {
        // SAFETY: `start` is aligned to a page; the range is mapped, readable and initialized (with zeros) as
        // long as `self` lives; and all bit patterns are valid for `Page`.
        unsafe { std::slice::from_raw_parts(self.start.cast().as_ptr(), self.pages) }
    }

    /// Returns the pages of the mapping, for reading and writing.
    pub(crate) fn pages_mut(&mut self) -> &mut [Page] {
        // SAFETY: as in `pages`; in addition, the mapping is writable and exclusively borrowed by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.pages) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: the range was mapped by `new`, and no reference into it outlives `self`. Unmapping a
            // whole mapping does not fail.
            let _ = unsafe { munmap(self.start, self.length) };
        }
    }
}

/// Makes the kernel allocate memory for all `pages` in one call. This is faster than one page fault per page,
/// and a lack of memory is reported as an error. Kernels before 5.14 do not support it; there, pages 2 MiB
/// apart are touched, so that a lack of huge pages is an error too, and not a SIGBUS.
///
/// # Errors
///
/// `ENOMEM`, `EFAULT` or `EHWPOISON` if there is not enough memory.
pub(crate) fn populate(pages: &mut [Page]) -> Result<(), Errno> {
    // SAFETY: the range is exclusively borrowed by the caller, and populating it does not change its content.
    let result =
        unsafe { libc::madvise(pages.as_mut_ptr().cast(), size_of_val(pages), libc::MADV_POPULATE_WRITE) };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        Err(Errno::EINVAL) => touch(pages),
        Err(errno) => Err(errno),
    }
}

/// Makes the kernel allocate the first page of each 2 MiB and the last page, and the huge pages that contain
/// them. The pages must be zero.
fn touch(pages: &mut [Page]) -> Result<(), Errno> {
    const DISTANCE: usize = (2 << 20) / PAGE_BYTES as usize;
    let Ok(zero) = File::open("/dev/zero") else { return Ok(()) };
    for block in pages.chunks_mut(DISTANCE) {
        for page in [block.as_mut_ptr(), &raw mut block[block.len() - 1]] {
            // A program that stores into a page that it cannot have is killed; `read` fails instead.
            // SAFETY: the page is exclusively borrowed, and a zero in its first byte is valid.
            Errno::result(unsafe { libc::read(zero.as_raw_fd(), page.cast(), 1) })?;
        }
    }
    Ok(())
}

/// Sets the IPv4 address of a network interface, if one is given, and brings the interface up. `socket` can
/// be any socket.
///
/// # Errors
///
/// Returns what was attempted, to be followed by the interface's name, and the kernel's error.
pub(crate) fn bring_up(
    socket: &impl AsRawFd,
    interface: &str,
    address: Option<(Ipv4Addr, u8)>,
) -> Result<(), (&'static str, Errno)> {
    let call = |request, what, fill: &dyn Fn(&mut libc::ifreq)| {
        // SAFETY: an `ifreq` of zeros is valid.
        let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero and terminates the name.
        for (to, from) in ifreq.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
            *to = from.cast_signed();
        }
        fill(&mut ifreq);
        // SAFETY: these requests read one `ifreq` and write at most one, and `ifreq` outlives the call.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut ifreq) };
        Errno::result(result).map_err(|errno| (what, errno))?;
        Ok(ifreq)
    };
    if let Some((address, prefix)) = address {
        let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0));
        call(libc::SIOCSIFADDR, "set the address of", &|r| r.ifr_ifru.ifru_addr = socket_address(address))?;
        call(libc::SIOCSIFNETMASK, "set the netmask of", &|r| {
            r.ifr_ifru.ifru_netmask = socket_address(mask);
        })?;
    }
    let read = call(libc::SIOCGIFFLAGS, "read the flags of", &|_| {})?;
    // SAFETY: SIOCGIFFLAGS has just filled this field of the union.
    let flags = unsafe { read.ifr_ifru.ifru_flags };
    let up = flags | libc::IFF_UP as libc::c_short;
    call(libc::SIOCSIFFLAGS, "bring up", &|r| r.ifr_ifru.ifru_flags = up)?;
    Ok(())
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let internet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: both types are plain data of the same size that starts with the address family.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(internet) }
}

/// Prefetches the first cache line of a page that will be written soon. The address need not be valid.
#[inline]
pub(crate) fn prefetch(page: *const Page) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes no data and does not fault, even at an invalid address; all x86-64 CPUs
    // support the instruction.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(page.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = page;
}
