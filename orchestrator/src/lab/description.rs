//! The description of a lab: recorded in the results, and used to decide which cells of a matrix the lab has
//! to skip.

use crate::{
    matrix::{Migrate, Settings},
    mode::Mode,
    node::{protocol::Facts, round_trip::RoundTrips},
};
use netem::{Backend, Feature, Profile, Shaper};
use std::{collections::BTreeSet, fmt, path::PathBuf};

/// The kind of a lab, the facts about its compute nodes, and the latency to all nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Where the nodes are.
    pub kind: LabKind,
    /// The source node's facts about itself.
    pub source: Facts,
    /// The destination node's facts about itself.
    pub destination: Facts,
    /// The round trips between the orchestrator, whose clock takes all times, and the nodes, if they have
    /// been measured.
    pub round_trips: Option<RoundTrips>,
    /// The folder for disk images that all hosts of the inventory share (`images`), if it has an absolute
    /// path. Absent in a local lab.
    pub images: Option<PathBuf>,
}

/// Where the nodes of a lab are. Its text is that of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabKind {
    /// On this host.
    Local,
    /// On the hosts of an inventory.
    Ssh,
    /// In the machines of Vagrant.
    Vagrant,
}

impl fmt::Display for LabKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Ssh => "ssh",
            Self::Vagrant => "vagrant",
        })
    }
}

impl Description {
    /// Returns whether both compute nodes are on the same host.
    pub fn is_one_host(&self) -> bool {
        self.kind == LabKind::Local
    }

    /// Chooses the backend for the link of these settings in this lab: see [`backend`].
    ///
    /// # Errors
    ///
    /// The feature that the lab lacks, as text.
    pub fn backend(&self, settings: &Settings) -> Result<Backend, String> {
        let kernels = [&self.source.features, &self.destination.features];
        // The source creates both ends of an emulated link.
        backend(settings, kernels, self.source.no_emulator.as_deref())
    }

    /// Returns the feature that this lab lacks for a migration with these settings, as text, or `None` if it
    /// lacks none. The links of the timeline count too.
    pub fn lacks(&self, settings: &Settings) -> Option<String> {
        self.backend(settings).err()
    }

    /// Returns what this lab lacks for a migration that does not use the migration link, as text, or `None`
    /// if it lacks nothing.
    pub fn lacks_way(&self, migrate: &Migrate) -> Option<String> {
        let one_host = self.is_one_host();
        let lacks = match migrate.mode {
            Mode::File if !one_host && self.images.is_none() => {
                "a migration through a file needs a folder that all hosts share: the absolute path `images` \
                 in the inventory"
            }
            Mode::CprTransfer if !one_host => {
                "the memory of a guest can only be handed over to a QEMU on the same host"
            }
            _ => return None,
        };
        Some(lacks.into())
    }

    /// Returns what the kernel lacks to shape the storage link with these properties, as text, or `None` if
    /// it lacks nothing. This link cannot be emulated.
    pub fn lacks_for_storage(&self, link: &Profile) -> Option<String> {
        let kernels = [&self.source.features, &self.destination.features];
        if let Some(feature) = lacking(link, kernels) {
            let (module, option) = (feature.module(), feature.option());
            return Some(format!("the storage link needs {module} ({option}), which the kernel lacks"));
        }
        let error = netem::kernel::check(link).err()?;
        Some(format!(
            "the backend `{}` does not support `{}`, and the storage link has no other",
            Backend::Kernel,
            error.key
        ))
    }
}

/// Chooses the backend for the link of these settings, including the links of the timeline: the kernel if
/// both nodes' `kernels` have all required features and do exactly what is requested, otherwise the emulator.
///
/// # Errors
///
/// The missing feature, as text, if neither backend works. `no_emulator` is the reason why the source cannot
/// emulate links.
pub fn backend(
    settings: &Settings,
    kernels: [&BTreeSet<String>; 2],
    no_emulator: Option<&str>,
) -> Result<Backend, String> {
    let later = settings.steps().into_iter().filter_map(|step| step.link);
    let links: Vec<Profile> = [settings.link.at_start()].into_iter().chain(later).collect();
    let inexact = || links.iter().find_map(|link| netem::kernel::check(link).err());
    let lacks = match links.iter().find_map(|link| lacking(link, kernels)) {
        Some(feature) => {
            format!("this link needs {} ({}), which the kernel lacks", feature.module(), feature.option())
        }
        None => match inexact() {
            Some(error) => format!("the backend `{}` does not support `{}`", Backend::Kernel, error.key),
            None => return Ok(Backend::Kernel),
        },
    };
    if links.iter().any(|link| link.slots.is_some()) {
        return Err(format!("{lacks}, and the backend `{}` does not support slots", Backend::Userspace));
    }
    match no_emulator {
        Some(reason) => Err(format!("{lacks}, and it cannot be emulated: {reason}")),
        None => Ok(Backend::Userspace),
    }
}

/// Returns a kernel feature that a link needs and that at least one node's kernel lacks.
fn lacking(link: &Profile, kernels: [&BTreeSet<String>; 2]) -> Option<Feature> {
    let needed = [
        (link.needs_delay_line(), Feature::Netem),
        (link.rate.is_some() && link.shaper == Shaper::Tbf, Feature::Tbf),
        (link.rate.is_some() && link.shaper == Shaper::Htb, Feature::Htb),
    ];
    let missing = |feature: Feature| kernels.iter().any(|kernel| !kernel.contains(feature.module()));
    needed.into_iter().find(|(needs, feature)| *needs && missing(*feature)).map(|(_, feature)| feature)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::node::protocol::Privilege;

    /// Returns a lab whose hosts have 16 GiB of memory.
    pub(crate) fn description(features: &[Feature], no_emulator: Option<&str>) -> Description {
        let facts = Facts {
            version: String::new(),
            kernel: String::new(),
            cpu_model: String::new(),
            cpus: 2,
            memory_bytes: 1 << 34,
            privilege: Privilege::Root,
            features: features.iter().map(ToString::to_string).collect(),
            no_emulator: no_emulator.map(Into::into),
            lockable_bytes: None,
            available_memory_bytes: 1 << 33,
            limited_by_cgroup: false,
            clock: jiff::Timestamp::UNIX_EPOCH,
            qemu: None,
            broken_qemu: None,
        };
        let source = facts.clone();
        Description { kind: LabKind::Local, source, destination: facts, round_trips: None, images: None }
    }

    fn settings(link: &str) -> Settings {
        Settings { link: serde_json::from_str(link).unwrap(), ..Settings::default() }
    }

    const DELAYED: &str = r#"{ "rate": "1gbit", "delay": "5ms" }"#;

    #[test]
    fn the_kernel_is_preferred_to_the_emulator() {
        let all = description(&Feature::ALL, None);
        let slots = r#"{ "slots": { "min_delay": "1ms", "max_delay": "2ms" } }"#;
        for link in ["{}", DELAYED, r#"{ "rate": "1gbit", "shaper": "htb" }"#, slots] {
            assert_eq!(all.backend(&settings(link)), Ok(Backend::Kernel), "{link}");
        }
        let only_rates = description(&[Feature::Tbf], None);
        assert_eq!(only_rates.backend(&settings(r#"{ "rate": "1gbit" }"#)), Ok(Backend::Kernel));
        assert_eq!(only_rates.backend(&settings(DELAYED)), Ok(Backend::Userspace));
        assert_eq!(only_rates.lacks(&settings(DELAYED)), None);
        assert_eq!(
            only_rates.lacks(&settings(slots)).unwrap(),
            "this link needs sch_netem (CONFIG_NET_SCH_NETEM), which the kernel lacks, and the backend \
             `userspace` does not support slots"
        );
    }

    #[test]
    fn a_feature_that_no_backend_has_is_lacking() {
        let neither = description(&[Feature::Tbf], Some("no access to /dev/net/tun"));
        assert_eq!(
            neither.lacks(&settings(DELAYED)).unwrap(),
            "this link needs sch_netem (CONFIG_NET_SCH_NETEM), which the kernel lacks, and it cannot be \
             emulated: no access to /dev/net/tun"
        );
        assert_eq!(neither.lacks(&settings(r#"{ "rate": "1gbit" }"#)), None);
    }

    #[test]
    fn the_storage_link_is_never_emulated() {
        let lacks = |features: &[Feature], link: &str| {
            description(features, None).lacks_for_storage(&serde_json::from_str(link).unwrap())
        };
        assert_eq!(lacks(&Feature::ALL, DELAYED), None);
        assert_eq!(lacks(&[Feature::Tbf], r#"{ "rate": "1gbit" }"#), None);
        assert_eq!(
            lacks(&[Feature::Tbf], DELAYED).unwrap(),
            "the storage link needs sch_netem (CONFIG_NET_SCH_NETEM), which the kernel lacks"
        );
        assert_eq!(
            lacks(&Feature::ALL, r#"{ "duplicate": "1%", "duplicate_correlation": "25%" }"#).unwrap(),
            "the backend `kernel` does not support `duplicate_correlation`, and the storage link has no other"
        );
    }

    #[test]
    fn what_does_not_go_over_the_link_needs_one_host_or_a_shared_folder() {
        let here = description(&[], None);
        let apart = Description { kind: LabKind::Ssh, ..here.clone() };
        let sharing = Description { images: Some("/shared".into()), ..apart.clone() };
        let lacks = |lab: &Description, mode| lab.lacks_way(&Migrate { mode, ..Migrate::default() });
        for lab in [&here, &apart, &sharing] {
            assert_eq!(lacks(lab, Mode::Precopy), None);
        }
        assert_eq!((lacks(&here, Mode::File), lacks(&sharing, Mode::File)), (None, None));
        let reason = lacks(&apart, Mode::File).unwrap();
        assert!(reason.ends_with("the absolute path `images` in the inventory"), "{reason}");
        assert_eq!(lacks(&here, Mode::CprTransfer), None);
        for lab in [apart, sharing] {
            let reason = lacks(&lab, Mode::CprTransfer).unwrap();
            assert!(reason.ends_with("can only be handed over to a QEMU on the same host"), "{reason}");
        }
    }

    #[test]
    fn a_correlation_that_the_kernel_does_not_keep_is_emulated_or_lacking() {
        let correlated = settings(r#"{ "duplicate": "1%", "duplicate_correlation": "25%" }"#);
        assert_eq!(description(&Feature::ALL, None).backend(&correlated), Ok(Backend::Userspace));
        assert_eq!(
            description(&Feature::ALL, Some("no access to /dev/net/tun")).lacks(&correlated).unwrap(),
            "the backend `kernel` does not support `duplicate_correlation`, and it cannot be emulated: no \
             access to /dev/net/tun"
        );
        let loss = settings(r#"{ "loss": "10%", "loss_correlation": "25%" }"#);
        assert_eq!(description(&Feature::ALL, None).backend(&loss), Ok(Backend::Kernel));
    }
}
