//! The disk of a guest, or a file in its place: what its blocks hold, the load on it, and how it is prepared.
//!
//! A disk is a row of blocks of 4 KiB. Its first bytes are *written beforehand* by the host
//! ([`fill_image`]), and the rest reads as zeros. The load ([`DiskLoad`]) writes and reads the blocks of a
//! *working set* at the beginning of the disk. The content of a block follows from its index and from the
//! number of times that the load has written it ([`fill_block`]), so the stressor can check each block that
//! it reads, and the whole disk at the end ([`DiskVerification`]).
//!
//! This module describes disks and opens them. It does not start threads; the disk engine does.

mod block;
mod load;
mod target;
mod verification;

pub use block::{BLOCK_BYTES, fill_block};
pub(crate) use block::{Block, Expected};
pub use load::{DiskError, DiskLoad};
pub(crate) use target::{Target, open};
pub use target::{fill_image, free_bytes};
pub use verification::{BadBlock, DiskVerification};
