//! Tests of the examples that run a matrix on several hosts: the Slurm scripts with stubs of `sbatch` and
//! `testbed` that log their arguments, and the Kubernetes manifests with a schema validator, if one is
//! installed.

use crate::common::{examples, real::skipped, shown, write_script};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use testbed::results::verdict;

/// A temporary directory with stub programs that log their arguments.
struct TestDir {
    dir: tempfile::TempDir,
}

impl TestDir {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let dir = Self { dir };
        fs::create_dir(dir.path("bin")).unwrap();
        let note =
            |answer: &str| format!("#!/bin/sh\necho \"$(basename \"$0\") $*\" >>\"$NOTES\"\n{answer}\n");
        // Some clusters append their name to the job's number.
        dir.program("sbatch", &note("echo \"$(wc -l <\"$NOTES\");here\""));
        dir.program(
            "testbed",
            &note(
                "case \"$*\" in *'--shard 9/9'*) echo 'no cell' >&2; exit 2 ;; *report*) echo table ;; esac",
            ),
        );
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        write_script(&self.path("bin").join(name), text);
    }

    fn run(&self, script: &str, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.arg(examples().join("slurm").join(script)).args(args).current_dir(self.dir.path());
        for inherited in ["TESTBED", "LAB", "AT_ONCE", "PARTS"] {
            command.env_remove(inherited);
        }
        command.env("PATH", path).env("NOTES", self.path("notes")).envs(variables.iter().copied());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Returns, and clears, the log of the stubs' calls.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("notes")).unwrap_or_default();
        let _ = fs::remove_file(self.path("notes"));
        text.lines()
            .map(|line| line.replace(&format!("{}/", examples().join("slurm").display()), ""))
            .collect()
    }
}

#[test]
fn parts_are_submitted_as_an_array_and_the_report_waits_for_them() {
    let dir = TestDir::new();
    let output = dir.run("submit.sh", &["m.yaml", "4", "runs/a", "--only", "stress.rate == 0"], &[]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(
        dir.calls(),
        [
            "testbed plan m.yaml --shard 4/4 --only stress.rate == 0",
            "sbatch --parsable --array=1-4 part.sh m.yaml runs/a --only stress.rate == 0",
            "sbatch --parsable --dependency=afterany:2 report.sh runs/a",
        ]
    );
    assert!(dir.path("runs/a").is_dir());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "job 2: 4 parts in runs/a/part-*; job 3: report in runs/a/table.txt\n");

    dir.run("submit.sh", &["m.yaml", "4", "b"], &[("AT_ONCE", "1")]);
    assert_eq!(dir.calls()[1], "sbatch --parsable --array=1-4%1 part.sh m.yaml b");
}

#[test]
fn invalid_input_is_reported_before_anything_is_submitted() {
    let dir = TestDir::new();
    let output = dir.run("submit.sh", &["m.yaml", "9", "runs"], &[]);
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    assert_eq!(dir.calls(), ["testbed plan m.yaml --shard 9/9"]);
    assert!(!dir.path("runs").exists());
    let output = dir.run("submit.sh", &["m.yaml"], &[]);
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    assert!(shown(&output).contains("submit.sh FILE PARTS DIR"), "{}", shown(&output));
    assert_eq!(dir.calls(), [""; 0]);
}

#[test]
fn a_task_runs_its_part_and_continues_it_when_started_again() {
    let dir = TestDir::new();
    let task = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "4")];
    let args = ["m.yaml", "runs", "--repeat", "2"];
    dir.run("part.sh", &args, &task);
    assert_eq!(dir.calls(), ["testbed run m.yaml --lab local --shard 3/4 --out runs/part-0003 --repeat 2"]);
    // A task submitted alone, with another lab.
    let alone = [task[0], ("SLURM_ARRAY_TASK_COUNT", "1"), ("PARTS", "4"), ("LAB", "lab.yaml")];
    dir.run("part.sh", &args, &alone);
    assert_eq!(
        dir.calls(),
        ["testbed run m.yaml --lab lab.yaml --shard 3/4 --out runs/part-0003 --repeat 2"]
    );
    fs::create_dir_all(dir.path("runs/part-0003")).unwrap();
    dir.run("part.sh", &args, &task);
    assert_eq!(dir.calls(), ["testbed run m.yaml --lab local --resume runs/part-0003"]);

    fs::create_dir_all(dir.path("runs/part-0010")).unwrap();
    let output = dir.run("report.sh", &["runs"], &[]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(
        dir.calls(),
        [
            "testbed report runs/part-0003 runs/part-0010",
            "testbed report --csv runs/part-0003 runs/part-0010"
        ]
    );
    assert_eq!(fs::read_to_string(dir.path("runs/table.txt")).unwrap(), "table\n");
}

#[test]
fn the_report_of_a_run_that_failed_is_written_and_its_exit_code_kept() {
    let dir = TestDir::new();
    dir.program("testbed", "#!/bin/sh\necho \"$*\"\nexit 1\n");
    fs::create_dir_all(dir.path("runs/part-0001")).unwrap();
    let output = dir.run("report.sh", &["runs"], &[]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let written = |name: &str| fs::read_to_string(dir.path("runs").join(name)).unwrap();
    assert_eq!(written("table.txt"), "report runs/part-0001\n");
    assert_eq!(written("summary.csv"), "report --csv runs/part-0001\n");
}

/// Runs a program, if it is installed. Otherwise prints that the test is skipped.
fn ask(program: &str, args: &[&std::ffi::OsStr]) -> Option<Output> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(output),
        Err(_) => skipped(&format!("{program} is not installed")),
    }
}

#[test]
fn the_scripts_pass_shellcheck() {
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/cluster.sh");
    let scripts = ["submit.sh", "part.sh", "report.sh"].map(|name| examples().join("slurm").join(name));
    for script in scripts.iter().chain([&cluster]) {
        let Some(output) = ask("shellcheck", &[script.as_os_str()]) else { return };
        assert!(output.status.success(), "{}", shown(&output));
    }
}

fn manifest(name: &str) -> Value {
    let text = fs::read_to_string(examples().join("kubernetes").join(name)).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

#[test]
fn the_manifests_are_valid() {
    for name in ["job.yaml", "report.yaml"] {
        let path = examples().join("kubernetes").join(name);
        let Some(output) = ask("kubernetes-validate", &["--strict".as_ref(), path.as_os_str()]) else {
            return;
        };
        assert!(output.status.success(), "{}", shown(&output));
    }
}

#[test]
fn the_job_has_as_many_parts_as_pods_and_never_retries_a_result() {
    let job = manifest("job.yaml");
    let spec = &job["spec"];
    let pod = &spec["template"]["spec"];
    let container = &pod["containers"][0];
    let parts =
        container["env"].as_array().unwrap().iter().find(|variable| variable["name"] == "PARTS").unwrap();
    assert_eq!(parts["value"], spec["completions"].to_string());
    assert_eq!((&spec["completionMode"], &pod["restartPolicy"]), (&"Indexed".into(), &"Never".into()));
    let exits = &spec["podFailurePolicy"]["rules"][1];
    assert_eq!((&exits["action"], &exits["onExitCodes"]["operator"]), (&"FailIndex".into(), &"In".into()));
    assert_eq!(exits["onExitCodes"]["containerName"], container["name"]);
    // Violated expectations and bad input are not retried; failures of the lab are.
    let codes = exits["onExitCodes"]["values"].as_array().unwrap();
    assert_eq!(*codes, [Value::from(verdict::EXIT_UNEXPECTED), Value::from(2)]);
    assert!(!codes.contains(&verdict::EXIT_FAILED.into()));
    assert!(spec["backoffLimitPerIndex"].as_u64().is_some_and(|limit| limit > 0));
}

#[test]
fn a_pod_runs_its_part_and_continues_it_when_started_again() {
    let dir = TestDir::new();
    let job = manifest("job.yaml");
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let script = container["args"][0].as_str().unwrap();
    // The pod's folder for results becomes one in the test's directory.
    let script = script.replace("/results", &dir.path("results").display().to_string());
    let pod = || {
        let path = format!("{}:{}", dir.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.args(["-ec", &script]).env("PATH", path).env("NOTES", dir.path("notes"));
        let output = command.env("JOB_COMPLETION_INDEX", "2").env("PARTS", "4").output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
        dir.calls().join("\n").replace(&format!("{}/", dir.dir.path().display()), "")
    };
    assert_eq!(pod(), "testbed run /matrix/matrix.yaml --shard 3/4 --out results/part-0003");
    fs::create_dir_all(dir.path("results/part-0003")).unwrap();
    assert_eq!(pod(), "testbed run /matrix/matrix.yaml --resume results/part-0003");
    assert_eq!(container["command"], serde_json::json!(["bash", "-ec"]));
}
