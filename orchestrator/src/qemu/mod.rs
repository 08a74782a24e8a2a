//! One QEMU: its command line ([`machine`]), its process and monitor ([`guest`]), a guest that booted and was
//! saved ([`saved`]), and which accelerator QEMU can really use here ([`accel`]).

pub mod accel;
pub mod guest;
pub mod machine;
pub mod saved;
