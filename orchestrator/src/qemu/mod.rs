//! One QEMU: its command line ([`machine`]), its process and monitor ([`guest`]), and which accelerator it
//! can really use here ([`accel`]).

pub mod accel;
pub mod guest;
pub mod machine;
