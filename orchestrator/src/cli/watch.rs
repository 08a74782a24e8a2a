//! `testbed watch`.

use super::Failure;
use crate::{
    results::parts::Folder,
    run::interrupt,
    watch::{self, DEFAULT_ADDRESS, Listener, Server},
};
use clap::Args;
use std::path::{Path, PathBuf};

pub(super) const AFTER_HELP: &str = "Examples:
  testbed watch results/reference/latency-tcg
  testbed watch results/reference/latency-tcg 127.0.0.1:0

The page is only for reading. At an address of this host's own, such as 127.0.0.1, only this host
can connect. At another address, whoever knows the address of the page can read it: it contains a
secret, but nothing is encrypted. To watch a run on another host, `ssh -L 8060:localhost:8060 HOST`
is better.

Exit codes:
  2    bad input: no results folder, or an address that it cannot listen on
  130  interrupted; it runs until then";

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// The results folder of a run in progress, or of one that has ended
    dir: PathBuf,
    /// Where to listen: an address or a host name, with a port or without, or just a port of this host
    #[arg(default_value = DEFAULT_ADDRESS)]
    address: String,
}

pub(super) fn watch(args: &WatchArgs) -> Result<u8, Failure> {
    Folder::read(&args.dir).map_err(Failure::input)?;
    let _server = serve(listen(&args.address)?, &args.dir)?;
    super::runtime()?.block_on(async {
        let (interrupter, interrupt) = interrupt::Interrupt::new();
        interrupter.on_signals(|| ()).map_err(Failure::lab)?;
        interrupt.requested().await;
        Ok(interrupt::EXIT_CODE)
    })
}

/// Listens on an address.
pub(super) fn listen(address: &str) -> Result<Listener, Failure> {
    Listener::bind(address).map_err(|error| match error {
        watch::Error::Start(_) => Failure::lab(error),
        _ => Failure::input(error),
    })
}

/// Serves the page of a results folder, and tells the user where.
pub(super) fn serve(listener: Listener, folder: &Path) -> Result<Server, Failure> {
    let url = listener.url();
    let server = listener.serve(folder).map_err(Failure::lab)?;
    frontend::tell(format!("live page: {url}"));
    Ok(server)
}
