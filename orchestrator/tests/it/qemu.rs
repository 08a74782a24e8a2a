//! QEMU's complete command lines, capabilities and parameters, compared with golden files.

use crate::common::golden;
use std::fmt::Write as _;
use testbed::{
    driver::qemu::{
        confinement::{Confinement, UserOption},
        machine::{Accelerator, GuestMachine, Role, command},
        parameters::{Parameters, parameters},
    },
    matrix::File,
};
use units::Bytes;

fn machine(accelerator: Accelerator) -> GuestMachine {
    GuestMachine {
        disk: None,
        machine_type: "pc-i440fx-9.2".into(),
        accelerator,
        cpu: accelerator.default_cpu().into(),
        vcpus: 2,
        memory: Bytes::new(1 << 30),
        kernel: "/cache/vmlinux".into(),
        initramfs: "/cache/initramfs".into(),
        address: "198.51.100.10/24".into(),
        network: Some("guests".into()),
        shares_memory: false,
        confinement: Confinement { sandbox: true, user: Some(UserOption::RunWith) },
    }
}

/// Returns a command line as text, with each option and its argument on a line of its own.
fn command_line(machine: &GuestMachine, role: Role) -> String {
    let command = command(machine, role);
    let mut text = command.program;
    for word in command.args {
        text += if word.starts_with('-') { "\n  " } else { " " };
        text += &word;
    }
    let _ = writeln!(text, "\n  frames of: {}", command.frames_of.as_deref().unwrap_or("nothing"));
    text
}

#[test]
fn command_lines_match_the_golden_file() {
    let mut text = String::new();
    for role in [Role::Boot, Role::Source, Role::Destination] {
        let _ = writeln!(text, "{}, TCG:\n{}", role.name(), command_line(&machine(Accelerator::Tcg), role));
    }
    for role in [Role::Source, Role::Destination] {
        let machine = GuestMachine { shares_memory: true, ..machine(Accelerator::Tcg) };
        let lines = command_line(&machine, role);
        let shares = lines
            .lines()
            .filter(|line| ["-machine", "-object", "-incoming"].iter().any(|o| line.contains(o)));
        let _ = writeln!(
            text,
            "{}, memory that is handed over:\n{}\n",
            role.name(),
            shares.collect::<Vec<_>>().join("\n")
        );
    }
    let kvm =
        GuestMachine { network: None, confinement: Confinement::default(), ..machine(Accelerator::Kvm) };
    let _ = writeln!(
        text,
        "source, KVM, without a network and confinement:\n{}",
        command_line(&kvm, Role::Source)
    );
    for (whose, user) in [("an old QEMU of root", Some(UserOption::RunAs)), ("a user's QEMU", None)] {
        let machine =
            GuestMachine { confinement: Confinement { sandbox: true, user }, ..machine(Accelerator::Tcg) };
        let lines = command_line(&machine, Role::Destination);
        let confined = lines.lines().filter(|line| ["-sandbox", "-run"].iter().any(|o| line.contains(o)));
        let _ = writeln!(text, "destination, {whose}:\n{}\n", confined.collect::<Vec<_>>().join("\n"));
    }
    golden("qemu-command-lines.txt", &text);
}

#[test]
fn migrate_sections_become_the_capabilities_and_parameters_in_the_golden_file() {
    let sections = [
        "{}",
        "{ downtime_limit: 100ms, timeout: 5s, max_passes: 3, stall_detection: false }",
        "{ max_bandwidth: 32MiB/s }",
        "{ max_bandwidth: 400mbit }",
        "{ mode: postcopy, postcopy_after_passes: 3 }",
        "{ mode: postcopy, postcopy_preempt: true, max_postcopy_bandwidth: 1gbit }",
        "{ mode: file }",
        "{ mode: file, save_live: true, max_bandwidth: 32MiB/s }",
        "{ mode: file, mapped_ram: true }",
        "{ mode: file, mapped_ram: true, multifd: true, multifd_channels: 4, direct_io: true }",
        "{ mode: cpr-transfer }",
        "{ tls: true }",
        "{ auto_converge: true }",
        "{ auto_converge: true, cpu_throttle_initial: 30%, cpu_throttle_increment: 5% }",
        "{ auto_converge: true, max_cpu_throttle: 90%, throttle_trigger_threshold: 100% }",
        "{ auto_converge: true, cpu_throttle_tailslow: true }",
        "{ dirty_limit: true, vcpu_dirty_limit: 16MiB/s }",
        "{ dirty_limit: true, x_vcpu_dirty_limit_period: 500ms }",
        "{ xbzrle: true, xbzrle_cache_size: 256MiB }",
        "{ compress: true, compress_level: 3, compress_threads: 4, decompress_threads: 2 }",
        "{ pause_after_passes: 0, pause_after: 3s, pause_at_stall: true }",
        "{ multifd: true, multifd_channels: 8 }",
        "{ multifd: true, multifd_compression: zlib, multifd_zlib_level: 9 }",
        "{ multifd: true, multifd_compression: zstd, multifd_zstd_level: 3, zero_page_detection: legacy }",
        "{ multifd: true, multifd_compression: qatzip, multifd_qatzip_level: 2 }",
        "{ multifd: true, zero_copy_send: true }",
        "{ zero_page_detection: none, release_ram: true, return_path: true, switchover_ack: true }",
        "{ avail_switchover_bandwidth: 100MB/s }",
        "{ announce_rounds: 20, announce_initial: 10ms, announce_step: 1ms, announce_max: 1s }",
    ];
    let mut text = String::new();
    for section in sections {
        let plan = File::parse(&format!("name: n\nmigrate: {section}\n"), "n").and_then(|file| file.expand());
        let plan = plan.unwrap_or_else(|error| panic!("{error}"));
        let Parameters { capabilities, parameters, .. } = parameters(&plan.cells[0].settings.migrate, false);
        let _ = writeln!(
            text,
            "migrate: {section}\n  migrate-set-capabilities {capabilities}\n  \
             migrate-set-parameters {parameters}"
        );
    }
    golden("qemu-parameters.txt", &text);
}
