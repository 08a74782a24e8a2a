//! `testbed nfs`: serves the disk image on standard input. See [`crate::nfs`].

use super::Failure;
use crate::nfs::{LISTENING, Server};
use clap::Args;
use std::{fs::File, io, net::Ipv4Addr, os::fd::AsFd};

#[derive(Debug, Args)]
pub(super) struct NfsArgs {
    /// The address to listen at
    #[arg(long)]
    address: Ipv4Addr,
    /// The only interface through which clients can connect
    #[arg(long)]
    interface: String,
}

pub(super) fn nfs(args: &NfsArgs) -> Result<u8, Failure> {
    let NfsArgs { address, interface } = args;
    let disk = io::stdin().as_fd().try_clone_to_owned().map_err(Failure::lab)?;
    let server = Server::listen(*address, interface, File::from(disk))
        .map_err(|error| Failure::lab(format!("cannot serve at {address} on {interface}: {error}")))?;
    super::print(format!("{LISTENING}\n"))?;
    server.serve()
}
