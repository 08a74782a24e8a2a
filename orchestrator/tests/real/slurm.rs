//! Tests the Slurm example on a real cluster of one node.

use crate::common::{
    examples,
    real::{ready_alone, skipped},
    shown,
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use testbed::results::store;

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn a_slurm_cluster_runs_all_parts_and_the_report() {
    let Some(ready) = ready_alone() else { return };
    let installed = |program: &&str| {
        let places = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        places.split(':').any(|place| Path::new(place).join(program).is_file())
    };
    let needed = ["slurmctld", "slurmd", "sbatch", "munged", "unshare", "ip"];
    if let Some(absent) = needed.iter().find(|program| !installed(program)) {
        return skipped(&format!("{absent} is not installed: apt-get install slurm-wlm munge"))
            .unwrap_or_default();
    }
    if !nix::unistd::geteuid().is_root() {
        skipped::<()>("only root can start a Slurm cluster");
        return;
    }
    // Munge requires that no one else can write to its folder or any parent of it, which may not be true of
    // the target folder.
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("cluster")).unwrap();
    symlink(examples(), path("examples")).unwrap();
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/cluster.sh");
    let work = "examples/slurm/submit.sh examples/small.yaml 2 run --repeat 1 \
        --only 'stress.rate == 8MB/s or stress.rate == 96MB/s'
        while squeue --noheader | grep -q .; do sleep 0.5; done";
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(cluster);
    command.arg(path("cluster")).args(["bash", "-ec", work]).current_dir(dir.path());
    for inherited in ["LAB", "AT_ONCE", "PARTS"] {
        command.env_remove(inherited);
    }
    let output = command.env("TESTBED", ready.bin.join("testbed")).stdin(Stdio::null()).output().unwrap();
    let logs = || {
        let logs = fs::read_dir(dir.path()).unwrap().chain(fs::read_dir(path("cluster")).unwrap());
        let logs = logs
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "log"));
        let text =
            |log: PathBuf| format!("--- {}\n{}", log.display(), fs::read_to_string(&log).unwrap_or_default());
        logs.map(text).collect::<Vec<_>>().join("\n")
    };
    assert!(output.status.success(), "{}\n{}", shown(&output), logs());

    let jobs = fs::read_to_string(path("cluster/jobs.txt")).unwrap();
    assert_eq!(jobs.lines().count(), 3, "{jobs}\n{}", logs());
    assert!(jobs.lines().all(|job| job.contains("JobState=COMPLETED")), "{jobs}\n{}", logs());
    for (part, cell) in [("part-0001", "stress.rate=8MBps"), ("part-0002", "stress.rate=96MBps")] {
        let (_, records) = store::read(&path("run").join(part)).unwrap();
        assert_eq!(records.iter().map(|r| r.cell.as_str()).collect::<Vec<_>>(), [cell], "{}", logs());
    }
    let table = fs::read_to_string(path("run/table.txt")).unwrap();
    assert!(
        table.contains(
            "Pre-copy converged at every dirty rate up to 8MB/s; at 96MB/s and above it never did."
        ),
        "{table}"
    );
    assert!(table.ends_with("\nparts: 1/2 in run/part-0001, 2/2 in run/part-0002\n"), "{table}");
    assert_eq!(fs::read_to_string(path("run/summary.csv")).unwrap().lines().count(), 3);
}
