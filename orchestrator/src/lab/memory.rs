//! The memory that the two guests of an attempt take on the hosts of a lab.
//!
//! A QEMU takes from its host what its guest has touched. That is at least what the guest's kernel, the
//! ballast and the working set need; the destination needs it a second time, except for zero pages, which are
//! not sent. A cell is refused only if this minimum is not there: the kernel would end one of the QEMUs.

use super::Description;
use crate::{matrix::Settings, node::protocol::Facts};
use stressor::workload::Content;
use units::Bytes;

const MIB: u64 = 1 << 20;

/// What the guest's kernel, its initramfs and the stressor touch, without the page descriptors.
const KERNEL_BYTES: u64 = 60 * MIB;

/// The memory that a QEMU itself takes.
const QEMU_BYTES: u64 = 30 * MIB;

/// The minimum memory that a cell takes at each end, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    source: u64,
    destination: u64,
}

impl Need {
    fn of(settings: &Settings) -> Self {
        let memory = settings.guest.memory.get();
        let written = settings.stress.working_set_in_pages().get();
        let ballast = settings.guest.ballast.get();
        // Linux keeps 64 bytes for each page of 4 KiB.
        let both = KERNEL_BYTES + QEMU_BYTES + memory / 64;
        let sent = |bytes: u64, content: Content| if content == Content::Zero { 0 } else { bytes };
        Self {
            source: both.saturating_add(ballast).saturating_add(written),
            destination: both
                .saturating_add(sent(ballast, settings.guest.ballast_content))
                .saturating_add(sent(written, settings.stress.content)),
        }
    }
}

impl Description {
    /// Returns a warning, as text, if guests of these settings may take more memory than the control group of
    /// their QEMUs has left. In that case, the kernel kills a QEMU although the host has memory.
    pub fn memory_may_run_out<'a>(&self, settings: impl IntoIterator<Item = &'a Settings>) -> Option<String> {
        let largest = settings.into_iter().map(|settings| settings.guest.memory.get()).max()?;
        let each = largest.saturating_add(QEMU_BYTES);
        let (most, ends) = if self.is_one_host() {
            (each.saturating_mul(2), vec![("this host", "two guests take", &self.source)])
        } else {
            (
                each,
                vec![
                    ("the source", "a guest takes", &self.source),
                    ("the destination", "a guest takes", &self.destination),
                ],
            )
        };
        let (host, take, facts) = ends
            .into_iter()
            .find(|(_, _, facts)| facts.limited_by_cgroup && most > facts.available_memory_bytes)?;
        let (most, left) = (mib(most), mib(facts.available_memory_bytes));
        Some(format!(
            "{take} up to {most} of memory, but the cgroup on {host} has only {left} left; if that runs out, \
             the kernel kills a QEMU"
        ))
    }

    /// Returns what the hosts of this lab lack to run both guests of these settings, as text, or `None` if
    /// there is enough memory.
    pub fn lacks_memory(&self, settings: &Settings) -> Option<String> {
        let Need { source, destination } = Need::of(settings);
        let memory = settings.guest.memory;
        let ends = if self.is_one_host() {
            vec![("this host", "two guests need", &self.source, source.saturating_add(destination))]
        } else {
            vec![
                ("the source", "a guest needs", &self.source, source),
                ("the destination", "a guest needs", &self.destination, destination),
            ]
        };
        ends.into_iter().find_map(|(host, guests, facts, need)| lacking(memory, host, guests, facts, need))
    }

    /// Returns what the source lacks to send memory without copying it (`migrate.zero_copy_send`): the kernel
    /// locks the pages until the destination has acknowledged them, which may be all pages of the guest.
    pub fn lacks_lockable_memory(&self, settings: &Settings) -> Option<String> {
        let (memory, lockable) = (settings.guest.memory, self.source.lockable_bytes?);
        let host = if self.is_one_host() { "this host" } else { "the source" };
        (settings.migrate.zero_copy_send && memory.get() > lockable).then(|| {
            format!(
                "`zero_copy_send` needs to lock up to {memory}, but a process on {host} may lock {} only: \
                 raise the limit with `ulimit -l`",
                mib(lockable)
            )
        })
    }
}

fn lacking(memory: Bytes, host: &str, guests: &str, facts: &Facts, need: u64) -> Option<String> {
    let Facts { memory_bytes: total, available_memory_bytes: available, .. } = *facts;
    if memory.get() > total {
        return Some(format!("a guest of {memory} is larger than the memory of {host}, {}", mib(total)));
    }
    (need > available).then(|| {
        let (need, left) = (mib(need), mib(available));
        let cgroup = if facts.limited_by_cgroup { "the cgroup on " } else { "" };
        format!("{guests} at least {need} of memory, but {cgroup}{host} has only {left} left")
    })
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes / MIB)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{LabKind, description::tests::description},
        *,
    };
    use netem::Feature;
    use serde_json::{Value, json};

    fn settings(value: Value) -> Settings {
        serde_json::from_value(value).unwrap()
    }

    /// Returns a lab of this kind whose hosts have 16 GiB, of which these are available.
    fn lab(kind: LabKind, source_mib: u64, destination_mib: u64) -> Description {
        let mut lab = description(&Feature::ALL, None);
        lab.kind = kind;
        lab.source.available_memory_bytes = source_mib * MIB;
        lab.destination.available_memory_bytes = destination_mib * MIB;
        lab
    }

    #[test]
    fn two_guests_on_one_host_take_their_memory_twice() {
        let both = settings(json!({
            "guest": { "memory": "4GiB", "ballast": "1GiB" },
            "stress": { "rate": "64MB/s" },
        }));
        // Each takes 60 and 30 MiB, 64 MiB for page descriptors, the ballast and 61 MiB that it dirties.
        assert_eq!(lab(LabKind::Local, 2480, 0).lacks_memory(&both), None);
        assert_eq!(
            lab(LabKind::Local, 2470, 0).lacks_memory(&both).unwrap(),
            "two guests need at least 2478 MiB of memory, but this host has only 2470 MiB left"
        );
        assert_eq!(lab(LabKind::Ssh, 1240, 1240).lacks_memory(&both), None);
        assert_eq!(
            lab(LabKind::Ssh, 1240, 1230).lacks_memory(&both).unwrap(),
            "a guest needs at least 1239 MiB of memory, but the destination has only 1230 MiB left"
        );
        assert!(lab(LabKind::Ssh, 1230, 1240).lacks_memory(&both).unwrap().contains("the source has only"));
    }

    #[test]
    fn zero_copy_needs_memory_that_can_be_locked() {
        let of = |zero_copy: bool| {
            let migrate = json!({ "multifd": true, "zero_copy_send": zero_copy });
            settings(json!({ "guest": { "memory": "1GiB" }, "migrate": migrate }))
        };
        let mut lab = lab(LabKind::Local, 4000, 0);
        assert_eq!(lab.lacks_lockable_memory(&of(true)), None, "no limit");
        lab.source.lockable_bytes = Some(1 << 30);
        assert_eq!(lab.lacks_lockable_memory(&of(true)), None);
        lab.source.lockable_bytes = Some(8 << 20);
        assert_eq!(lab.lacks_lockable_memory(&of(false)), None);
        assert_eq!(
            lab.lacks_lockable_memory(&of(true)).unwrap(),
            "`zero_copy_send` needs to lock up to 1GiB, but a process on this host may lock 8 MiB only: \
             raise the limit with `ulimit -l`"
        );
    }

    #[test]
    fn a_cgroup_is_named_if_its_limit_is_what_counts() {
        let small = settings(json!({ "guest": { "memory": "128MiB" } }));
        let mut limited = lab(LabKind::Local, 300, 0);
        limited.source.limited_by_cgroup = true;
        assert_eq!(limited.lacks_memory(&small), None);
        assert_eq!(
            limited.memory_may_run_out([&small]).unwrap(),
            "two guests take up to 316 MiB of memory, but the cgroup on this host has only 300 MiB left; if \
             that runs out, the kernel kills a QEMU"
        );
        limited.source.available_memory_bytes = 320 * MIB;
        assert_eq!(limited.memory_may_run_out([&small]), None);
        limited.source.available_memory_bytes = 100 * MIB;
        assert!(
            limited.lacks_memory(&small).unwrap().contains("but the cgroup on this host has only 100 MiB")
        );
        assert_eq!(
            lab(LabKind::Local, 300, 0).memory_may_run_out([&small]),
            None,
            "the host decides by itself"
        );
    }

    #[test]
    fn memory_that_a_guest_never_touches_is_not_counted() {
        // The default guest of 1 GiB runs on a host with much less.
        assert_eq!(lab(LabKind::Local, 220, 0).lacks_memory(&Settings::default()), None);
        let zeros =
            settings(json!({ "guest": { "memory": "4GiB", "ballast": "2GiB", "ballast_content": "zero" } }));
        assert_eq!(lab(LabKind::Local, 2400, 0).lacks_memory(&zeros), None);
        assert_eq!(lab(LabKind::Ssh, 4000, 200).lacks_memory(&zeros), None);
    }

    #[test]
    fn a_guest_that_is_larger_than_its_host_is_refused() {
        let large = settings(json!({ "guest": { "memory": "17GiB" } }));
        let lacks = lab(LabKind::Local, 16_000, 0).lacks_memory(&large).unwrap();
        assert_eq!(lacks, "a guest of 17GiB is larger than the memory of this host, 16384 MiB");
    }
}
