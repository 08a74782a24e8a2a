//! Conversions from the types of the lab, the nodes and the guest into those of a run's environment.

use crate::{
    driver::qemu::{accel::AcceleratorFinding, confinement::ConfinementFinding, machine},
    image, lab,
    matrix::Settings,
    node::protocol,
    results::environment::{Accelerator, AcceleratorChoice, Boot, Confinement, Lab, Node, Privilege},
};

impl From<lab::Description> for Lab {
    fn from(lab: lab::Description) -> Self {
        Self {
            kind: lab.kind.to_string(),
            source: lab.source.into(),
            destination: lab.destination.into(),
            round_trips: lab.round_trips.map(Into::into),
        }
    }
}

impl From<protocol::Facts> for Node {
    fn from(facts: protocol::Facts) -> Self {
        Self {
            version: facts.version,
            qemu: facts.qemu,
            kernel: facts.kernel,
            cpu_model: facts.cpu_model,
            cpus: facts.cpus,
            memory_bytes: facts.memory_bytes,
            available_memory_bytes: Some(facts.available_memory_bytes),
            limited_by_cgroup: Some(facts.limited_by_cgroup),
            clock: Some(facts.clock),
            privilege: match facts.privilege {
                protocol::Privilege::Root => Privilege::Root,
                protocol::Privilege::UserNamespace => Privilege::UserNamespace,
            },
            features: facts.features,
            no_emulator: facts.no_emulator,
        }
    }
}

impl From<AcceleratorFinding> for AcceleratorChoice {
    fn from(finding: AcceleratorFinding) -> Self {
        let accelerator = match finding.accelerator {
            machine::Accelerator::Kvm => Accelerator::Kvm,
            machine::Accelerator::Tcg => Accelerator::Tcg,
        };
        Self { accelerator, reason: finding.reason, trial: finding.trial }
    }
}

impl From<ConfinementFinding> for Confinement {
    fn from(finding: ConfinementFinding) -> Self {
        let ConfinementFinding { confinement, lacks, .. } = finding;
        let user = confinement.user.map(|_| format!("{0}:{0}", protocol::QEMU_USER));
        Self { sandbox: confinement.sandbox, user, lacks }
    }
}

impl From<image::Boot> for Boot {
    fn from(boot: image::Boot) -> Self {
        match boot {
            image::Boot::Compressed => Self::Compressed,
            image::Boot::Uncompressed => Self::Uncompressed,
        }
    }
}

/// Returns the name of the backend that would shape the links of these settings in the lab of a stored run,
/// or `none` if that lab has no backend for them.
pub fn backend(settings: &Settings, lab: &Lab) -> String {
    let kernels = [&lab.source.features, &lab.destination.features];
    let backend = lab::backend(settings, kernels, lab.source.no_emulator.as_deref());
    backend.map_or_else(|_| "none".into(), |backend| backend.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matrix::File,
        node::round_trip::{RoundTrip, RoundTrips},
    };
    use serde_json::to_value;

    fn description() -> lab::Description {
        let facts = protocol::Facts {
            version: "0.1.0".into(),
            qemu: Some("10.0.2".into()),
            broken_qemu: None,
            kernel: "6.18.0".into(),
            cpu_model: "Difference Engine".into(),
            cpus: 2,
            memory_bytes: 1 << 34,
            available_memory_bytes: 1 << 33,
            lockable_bytes: None,
            limited_by_cgroup: true,
            clock: jiff::Timestamp::UNIX_EPOCH,
            privilege: protocol::Privilege::UserNamespace,
            features: ["sch_tbf".to_string()].into(),
            no_emulator: None,
        };
        let trip = RoundTrip { least_ms: 0.25, median_ms: 0.5 };
        let round_trips = Some(RoundTrips { controller: trip, source: trip, destination: trip });
        let (source, destination, images) = (facts.clone(), facts, None);
        lab::Description { kind: lab::LabKind::Local, source, destination, round_trips, images }
    }

    #[test]
    fn converted_types_have_the_same_json() {
        let facts = description().source;
        assert_eq!(to_value(Node::from(facts.clone())).unwrap(), to_value(facts).unwrap());
        let trial = Some("QEMU ended".to_string());
        let finding = AcceleratorFinding {
            accelerator: machine::Accelerator::Tcg,
            reason: "no guest boots".into(),
            trial,
        };
        assert_eq!(to_value(AcceleratorChoice::from(finding.clone())).unwrap(), to_value(finding).unwrap());
        for boot in [image::Boot::Compressed, image::Boot::Uncompressed] {
            assert_eq!(to_value(Boot::from(boot)).unwrap(), to_value(boot).unwrap());
        }
    }

    #[test]
    fn a_stored_lab_has_the_same_backends_as_the_lab_itself() {
        let matrix = "name: n\nlink: { rate: 1gbit }\naxes: { link.delay: [0, 5ms] }\n";
        let plan = File::parse(matrix, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let backends = |lab: &lab::Description| {
            let stored = Lab::from(lab.clone());
            for cell in &plan.cells {
                let used = lab.backend(&cell.settings).map_or("none".into(), |backend| backend.to_string());
                assert_eq!(backend(&cell.settings, &stored), used);
            }
            plan.cells.iter().map(|cell| backend(&cell.settings, &stored)).collect::<Vec<_>>()
        };
        let mut lab = description();
        assert_eq!(backends(&lab), ["kernel", "userspace"]);
        lab.source.no_emulator = Some("no TUN devices".into());
        assert_eq!(backends(&lab), ["kernel", "none"]);
        lab.destination.features.clear();
        assert_eq!(backends(&lab), ["none", "none"]);
    }
}
