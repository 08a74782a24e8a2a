//! What migrates a guest: QEMU ([`qemu`]), and the conversation with the stressor in the guest ([`control_port`]).

pub mod control_port;
pub mod qemu;
