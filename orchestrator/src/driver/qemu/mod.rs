//! One QEMU: its command line ([`machine`]), its process and monitor ([`process`]), a guest that booted and was
//! saved ([`saved`]), which CPUs it can have ([`cpus`]), and which accelerator QEMU can really use here ([`accel`]).

pub mod accel;
pub mod cpus;
pub mod machine;
pub mod process;
pub mod qmp;
pub mod saved;
