//! Counts what each connection of a migration over several connections has sent.
//!
//! QEMU only reports the sum (`multifd-bytes`). So the source's node is asked at each sample, as long as the
//! connections are open.

use crate::node::{Node, NodeError};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

/// The connections of one migration.
#[derive(Default)]
pub(super) struct Channels {
    are_several: Cell<bool>,
    /// What each connection has sent, by its near port.
    sent: RefCell<BTreeMap<u16, u64>>,
}

impl Channels {
    /// Decides whether the connections are counted: only if there are several.
    pub(super) fn prepare(&self, are_several: bool) {
        self.are_several.set(are_several);
    }

    /// Counts what the connections to this port have sent so far.
    pub(super) async fn count(&self, node: &Node, port: u16) -> Result<(), NodeError> {
        if self.are_several.get() {
            let now = node.tcp_sent(port).await?;
            let mut sent = self.sent.borrow_mut();
            for (near, bytes) in now {
                let counted = sent.entry(near).or_default();
                *counted = bytes.max(*counted);
            }
        }
        Ok(())
    }

    /// Returns what each connection has sent, leaving out those that have sent nothing.
    pub(super) fn sent(&self) -> Vec<u64> {
        self.sent.borrow().values().copied().filter(|bytes| *bytes > 0).collect()
    }
}
