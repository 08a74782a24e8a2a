//! Tests of the command line: exit codes, messages and JSON output, each in its own network namespace.
#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

mod common;

use common::{namespace, netem, pair, prints, program, refuses};
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

#[tokio::test]
async fn invalid_input_is_rejected_with_a_message_and_changes_nothing() {
    let Some(pair) = pair().await else { return };
    let before = pair.near.show("near").await.unwrap();
    for (args, says) in [
        ("apply near --loss 101%", "cannot exceed 100%"),
        ("apply near --loss 1", "add the percent sign"),
        ("apply near --delay 20", "has no unit"),
        ("apply near --rate fast", "--rate"),
        ("apply near --rate 100mbps", "write `800mbit` for bytes per second (as in tc), or `100mbit` for"),
        ("apply near --rate 96MB/s", "did you mean `768mbit`?"),
        ("apply near --rate 1mbit --queue 15Kb", "write `15kB` for 10^3 bytes, or `15KiB` for 2^10 bytes"),
        ("apply near --rate 10bit", "rate: 10bit is not between 1kbit and 10tbit"),
        ("apply near --delay 1ms --jitter 2ms", "jitter: 2ms is more than the delay"),
        ("apply near --queue 1MB", "queue: has no effect without `rate`"),
        ("apply near --rate 1mbit --burst 100B", "does not hold one frame of 1514B"),
        ("apply near --loss-bursts 1%", "at least two percentages"),
        ("apply near --profile gigabt", "gigabit"),
        ("apply near", "nothing to apply"),
        ("apply naer --rate 1mbit", "no interface `naer` in this network namespace; did you mean `near`?"),
        ("show nowhere-at-all", "no interface `nowhere-at-all` in this network namespace"),
        ("change near --rate 1mbit", "near has no profile to change; apply one first"),
        ("change near --ingress --rate 1mbit", "near has no profile to change; apply one first"),
        ("measure", "required"),
        ("measure 127.0.0.1 --time 1ms", "--time: 1ms is not between 100ms and 1h"),
        ("measure 127.0.0.1 --time 100000h", "is not between 100ms and 1h"),
        ("measure 127.0.0.1 --port 0", "--port: no server listens on port 0"),
        ("measure --serve --port 65536", "65536 is not in 0..=65535"),
        ("measure 127.0.0.1 --listen 127.0.0.1", "cannot be used with '--listen"),
        ("apply near --limit 0 --delay 1ms", "limit: is 0; nothing would pass"),
        ("apply near --rate 1mbit --queue 1000TB", "queue: 1000TB is not between 64B and 4294967295B"),
        ("apply near --rate 1mbit --burst 4GiB", "burst: 4GiB is not between 64B and 4294967295B"),
        ("apply near --delay 100000h", "100000h is more than 240s"),
        ("apply near --loss 10% --loss-correlation 100%", "loss_correlation: is 100%: no packet would ever"),
        (
            "apply near --loss 100% --loss-correlation 10%",
            "loss_correlation: has no effect if `loss` is 100%",
        ),
        (
            "apply near --duplicate 1% --duplicate-correlation 25%",
            "duplicate_correlation: not supported by the backend `kernel`: sch_netem then affects far fewer",
        ),
        ("apply near --corrupt 1% --corrupt-correlation 25% --ingress", "corrupt_correlation: not supported"),
        (
            "apply near --delay 5ms --reorder 1% --reorder-correlation 25%",
            "reorder_correlation: not supported",
        ),
        (
            "apply near --delay 5ms --jitter 1ms --distribution normal --jitter-correlation 25%",
            "jitter_correlation: not supported by the backend `kernel`: sch_netem accepts it and ignores it",
        ),
        (
            "apply near --delay 5ms --jitter 1ms --jitter-correlation 25%",
            "jitter_correlation: has no effect with the distribution `exponential`",
        ),
        (
            "apply near --rate 1mbit --shaper netem --delay 5ms --jitter 1ms --distribution uniform",
            "shaper: with jitter of each packet by itself, the rate of sch_netem keeps the order",
        ),
        ("apply near --delay 2s --jitter 2s", "jitter: 2s is more than 1s"),
        (
            "apply near --delay 4min --jitter 4min --distribution uniform",
            "jitter: 240s is more than 2147483647ns, the limit of the",
        ),
        ("apply near --delay 10ns", "delay: 10ns is less than 1us, the unit of the kernel; write 0"),
        ("apply near --loss 0.00000001%", "above 0%, the smallest is 0.00000002%; write that, or `0%`"),
        ("change near", "nothing to change; give a setting, such as --rate, or --unset"),
        ("change near --unset raet", "there is no setting `raet`; there are rate, shaper, burst,"),
    ] {
        let output = netem(&pair.near_namespace, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "netem {args}: {stderr}");
        assert!(stderr.contains(says), "netem {args}: {stderr}");
        assert!(stderr.starts_with("error: "), "netem {args}: {stderr}");
        assert!(output.stdout.is_empty(), "netem {args}");
    }
    let after = pair.near.show("near").await.unwrap();
    assert_eq!(
        after.iter().map(|q| &q.kind).collect::<Vec<_>>(),
        before.iter().map(|q| &q.kind).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn apply_show_change_and_clear_print_their_results() {
    let Some(pair) = pair().await else { return };
    let here = &pair.near_namespace;
    assert_eq!(
        prints(here, "apply near --rate 928mbit"),
        "near: backend kernel\n  tbf 6e60: parent root rate 928mbit burst 232kB limit 2900kB\n"
    );
    assert!(
        prints(here, "change near --rate 940mbit").starts_with("near: backend kernel, changed in place\n")
    );
    prints(here, "apply near --ingress --rate 10mbit --shaper htb");
    let shown: serde_json::Value = serde_json::from_str(&prints(here, "show near --json")).unwrap();
    assert_eq!(shown["sends"], serde_json::json!({ "rate": "940mbit" }));
    assert_eq!(shown["receives"], serde_json::json!({ "rate": "10mbit", "shaper": "htb" }));
    assert_eq!(shown["qdiscs"][0]["kind"], "tbf");
    assert_eq!(shown["qdiscs"][0]["settings"]["tbf"]["rate"], "940mbit");
    assert!(shown["counters"]["tx_bytes"].is_u64());
    assert!(prints(here, "show near").contains("sends:    {rate:940mbit}"));
    // These are the notations that tc and other programs use for rates, sizes, times and words.
    prints(here, "apply near --rate 1Gbit/s --queue 1024Ki --shaper TBF");
    let shown: serde_json::Value = serde_json::from_str(&prints(here, "show near --json")).unwrap();
    assert_eq!(shown["sends"], serde_json::json!({ "rate": "1gbit", "queue": "1MiB" }));
    prints(here, "change near --profile GIGABIT --rate 500Kbit");
    assert_eq!(prints(here, "clear near"), "near: cleared\n");
    assert_eq!(prints(here, "clear near"), "near: nothing was applied\n");
}

/// Settings that are not given stay as they are, in both directions, and the changed ones are printed.
#[tokio::test]
async fn a_change_keeps_what_it_was_not_told() {
    let Some(pair) = pair().await else { return };
    let here = &pair.near_namespace;
    for direction in ["", " --ingress"] {
        let key = if direction.is_empty() { "sends" } else { "receives" };
        let in_force = || {
            let shown: serde_json::Value = serde_json::from_str(&prints(here, "show near --json")).unwrap();
            serde_json::from_value::<netem::Profile>(shown[key].clone()).unwrap()
        };
        let expect = |json: &str| assert_eq!(in_force(), serde_json::from_str(json).unwrap());
        let change = |options: &str| prints(here, &format!("change near{direction} {options}"));

        prints(here, &format!("apply near{direction} --rate 10mbit --shaper htb --queue 200kB --burst 20kB"));
        let text = change("--rate 20mbit");
        assert!(text.contains("changed in place"), "{text}");
        let before = "  before: {rate:10mbit, shaper:htb, burst:20kB, queue:200kB}\n";
        let after = "  after:  {rate:20mbit, shaper:htb, burst:20kB, queue:200kB}\n";
        assert!(text.contains(before) && text.ends_with(after), "{text}");
        expect(r#"{"rate":"20mbit","shaper":"htb","burst":"20kB","queue":"200kB"}"#);
        // A bucket is stored as a time; its size must not shrink with each change.
        for rate in ["987654321bit", "40gbit", "1mbit", "10gbit", "33mbit", "1gbit"] {
            change(&format!("--rate {rate}"));
        }
        expect(r#"{"rate":"1gbit","shaper":"htb","burst":"20kB","queue":"200kB"}"#);
        change("--shaper tbf --burst 65536B");
        expect(r#"{"rate":"1gbit","burst":"64KiB","queue":"200kB"}"#);
        for rate in ["987654320bit", "40gbit", "1mbit", "1gbit"] {
            change(&format!("--rate {rate}"));
        }
        expect(r#"{"rate":"1gbit","burst":"64KiB","queue":"200kB"}"#);
        change("--unset burst,QUEUE");
        expect(r#"{"rate":"1gbit"}"#);
        // A setting with its default value also counts as given.
        for options in ["--loss 0%", "--delay 0", "--shaper tbf"] {
            change(options);
            expect(r#"{"rate":"1gbit"}"#);
        }
        change("--profile 10gbit --queue 9MB");
        expect(r#"{"rate":"9840mbit","queue":"9MB"}"#);

        let json = change("--rate 5mbit --json");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["before"], serde_json::json!({ "rate": "9840mbit", "queue": "9MB" }));
        assert_eq!(json["after"], serde_json::json!({ "rate": "5mbit", "queue": "9MB" }));
        assert_eq!(json["in_place"], true);

        for (options, says) in [
            ("--unset rate", "nothing would remain; use `netem clear`"),
            ("--jitter 1ms", "jitter: 1ms is more than the delay, 0"),
            ("--jitter 1ms", "in force is {rate:5mbit, queue:9MB}"),
            ("--shaper netem", "shaper: netem supports neither `burst` nor `queue`"),
        ] {
            let stderr = refuses(here, &format!("change near{direction} {options}"));
            assert!(stderr.contains(says), "{options}: {stderr}");
        }
        expect(r#"{"rate":"5mbit","queue":"9MB"}"#);
        prints(here, "clear near");
    }
}

/// The largest rate has a bucket and a queue that the kernel can count.
#[tokio::test]
async fn the_largest_rate_is_held_as_requested() {
    let Some(pair) = pair().await else { return };
    let here = &pair.near_namespace;
    for shaper in ["tbf", "htb"] {
        prints(here, &format!("apply near --rate 10tbit --shaper {shaper}"));
        let shown: serde_json::Value = serde_json::from_str(&prints(here, "show near --json")).unwrap();
        let expected = if shaper == "tbf" {
            serde_json::json!({ "rate": "10tbit" })
        } else {
            serde_json::json!({ "rate": "10tbit", "shaper": "htb" })
        };
        assert_eq!(shown["sends"], expected);
        prints(here, "clear near");
    }
}

/// Writes a trace to a file in a temporary folder. Returns the folder and the path of the file.
fn trace(text: &str) -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trace.txt");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (folder, path)
}

#[tokio::test]
async fn an_invalid_trace_changes_nothing() {
    let Some(pair) = pair().await else { return };
    let here = &pair.near_namespace;
    let (_folder, good) = trace("0s 1mbit\n1ms end\n");
    for (text, options, says) in [
        ("0s 1mbit\n5 2mbit\n6s end", "", "line 2: `5` has no unit"),
        ("0s 1mbit\n\n1s 10bit\n6s end", "", "line 3: rate: 10bit is not between"),
        ("0s 1mbit\n1ns end", "--repeat", "line 2: 1ns is less than 1ms later than the previous time"),
        ("0s 1mbit\n1s end", "--jitter 1ms", "line 1: jitter: 1ms is more than the delay"),
        ("0s 1mbit\n1s end", "--rate 5mbit", "the trace sets the rate"),
    ] {
        let (_folder, path) = trace(text);
        let output = netem(here, &format!("play near {path} {options}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text:?}: {stderr}");
        assert!(stderr.contains(says) && output.stdout.is_empty(), "{text:?}: {stderr}");
    }
    let output = netem(here, &format!("play near {good}.not"));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"));
    assert_eq!(netem(here, &format!("play naer {good}")).status.code(), Some(2));
    // An endless trace is not read to its end.
    let output = netem(here, "play near /dev/zero");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("/dev/zero: the trace is longer than 8388608 bytes"), "{stderr}");
    assert_eq!(pair.near.profile("near").await.unwrap(), None);
}

#[tokio::test]
async fn a_trace_may_come_from_standard_input() {
    let Some(pair) = pair().await else { return };
    let played = |text: &str| {
        let (_folder, path) = trace(text);
        let input = File::open(path).unwrap();
        pair.near_namespace.run(|| program().args(["play", "near", "-"]).stdin(input).output()).unwrap()
    };
    let output = played("0s 40mbit\n5ms end\n");
    let expected = "near: 0 40mbit\nnear: ended; previous state restored\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let output = played("0s 40mbit\n5 end\n");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("error: ") && stderr.contains("<stdin>"), "{stderr}");
}

#[tokio::test]
async fn play_follows_the_trace_and_then_restores_the_previous_profile() {
    let Some(pair) = pair().await else { return };
    let here = &pair.near_namespace;
    let (_folder, path) = trace("# two rates\n0s 40mbit\n5ms 12mbit\n10ms end\n");
    let expected = "near: 0 40mbit\nnear: 5ms 12mbit\nnear: ended; previous state restored\n";
    assert_eq!(prints(here, &format!("play near {path}")), expected);
    assert_eq!(pair.near.profile("near").await.unwrap(), None);

    // The previous profile is restored, and the other direction is not changed.
    prints(here, "apply near --rate 100mbit --queue 1MB");
    prints(here, "apply near --ingress --rate 10mbit");
    let shown = |json: &str| -> [serde_json::Value; 2] {
        let shown: serde_json::Value = serde_json::from_str(json).unwrap();
        [shown["sends"].clone(), shown["receives"].clone()]
    };
    let before = shown(&prints(here, "show near --json"));
    let lines = prints(here, &format!("play near {path} --json"));
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rates: Vec<_> = lines.iter().map(|line| &line["rate_bits_per_s"]).collect();
    assert_eq!(rates, [40_000_000.into(), 12_000_000.into(), serde_json::Value::Null].each_ref());
    assert_eq!(lines[1]["at_ms"], 5.0);
    assert_eq!(lines[1]["in_place"], true, "no packet is lost");
    assert_eq!(lines[2], serde_json::json!({ "event": "ended", "interface": "near", "interrupted": false }));
    assert_eq!(shown(&prints(here, "show near --json")), before);
    prints(here, &format!("play near {path} --ingress"));
    assert_eq!(shown(&prints(here, "show near --json")), before);
    prints(here, "clear near");
    prints(here, "apply near --ingress --rate 10mbit");
    prints(here, &format!("play near {path}"));
    assert_eq!(shown(&prints(here, "show near --json")), [serde_json::Value::Null, before[1].clone()]);
}

#[tokio::test]
async fn a_signal_ends_a_repeating_trace() {
    let Some(pair) = pair().await else { return };
    let (_folder, path) = trace("0s 40mbit\n5ms 12mbit\n10ms end\n");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut command = program();
        command.args(["play", "near", &path, "--repeat"]).stdout(Stdio::piped());
        let mut child = pair.near_namespace.run(|| command.spawn()).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        for expected in ["0 40mbit", "5ms 12mbit", "0 40mbit", "5ms 12mbit", "0 40mbit"] {
            assert_eq!(lines.next().unwrap(), format!("near: {expected}"));
        }
        assert!(pair.near.profile("near").await.unwrap().is_some());
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert_eq!(lines.last().unwrap(), "near: interrupted; previous state restored");
        assert!(child.wait().unwrap().success());
        assert_eq!(pair.near.profile("near").await.unwrap(), None);
    }
}

/// How long tests wait for anything. It is long, because hosts may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child process that is killed if the test fails.
struct Playing(Child);

impl Playing {
    /// Waits for the end. Returns the exit code.
    fn end(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        // This fails if it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a pipe that is full.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    writer.write_all(&vec![b'x'; usize::try_from(size).unwrap()]).unwrap();
    (reader, writer)
}

/// A pager that is paused: the rate follows the trace without it, and a signal ends the program.
#[tokio::test]
async fn play_keeps_its_timing_and_ends_while_nobody_reads_its_output() {
    let Some(pair) = pair().await else { return };
    let (_folder, path) = trace("0s 40mbit\n5ms 12mbit\n10ms end\n");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (_reader, writer) = full_pipe();
        let mut command = program();
        command.args(["play", "near", &path, "--repeat"]).stdout(writer).stderr(Stdio::piped());
        let mut playing = Playing(pair.near_namespace.run(|| command.spawn()).unwrap());
        let started = Instant::now();
        for rate in ["40mbit", "12mbit"].into_iter().cycle().take(6) {
            while pair.near.profile("near").await.unwrap().and_then(|profile| profile.rate)
                != Some(rate.parse().unwrap())
            {
                assert!(started.elapsed() < PATIENCE, "the rate does not become {rate}");
            }
        }
        kill(Pid::from_raw(playing.0.id().cast_signed()), signal).unwrap();
        assert_eq!(playing.end(), Some(1));
        assert_eq!(playing.stderr(), "error: cannot write to standard output: nobody reads it\n");
        assert_eq!(pair.near.profile("near").await.unwrap(), None);
    }

    // Nobody reads its diagnostics either.
    let (_reader, writer) = full_pipe();
    let mut command = program();
    command.args(["play", "near", &path]).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut playing = Playing(pair.near_namespace.run(|| command.spawn()).unwrap());
    assert_eq!(playing.end(), Some(1));
    assert_eq!(pair.near.profile("near").await.unwrap(), None);
}

#[tokio::test]
async fn an_output_that_fails_does_not_end_the_trace() {
    let Some(pair) = pair().await else { return };
    let (_folder, path) = trace("0s 40mbit\n100ms 12mbit\n1s end\n");
    let (reader, closed) = pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let lost = "cannot write to standard output: No space left on device (os error 28)";
    let told = format!("note: {lost}; the rest is not shown\nerror: {lost}\n");
    for (stdout, code, stderr) in [(Stdio::from(closed), 0, ""), (full.into(), 1, told.as_str())] {
        let mut command = program();
        command.args(["play", "near", &path]).stdout(stdout).stderr(Stdio::piped());
        let started = Instant::now();
        let mut playing = Playing(pair.near_namespace.run(|| command.spawn()).unwrap());
        assert_eq!(playing.end(), Some(code));
        assert!(started.elapsed() >= Duration::from_secs(1), "it ended early");
        assert_eq!(playing.stderr(), stderr);
        assert_eq!(pair.near.profile("near").await.unwrap(), None);
    }
}

#[tokio::test]
async fn play_restores_a_queue_that_only_counts() {
    let Some(pair) = pair().await else { return };
    let (_folder, path) = trace("0s 40mbit\n5ms end\n");
    pair.near.count("near").await.unwrap();
    prints(&pair.near_namespace, &format!("play near {path}"));
    assert!(pair.near.count("near").await.unwrap().in_place, "the queue is there again");
}

#[test]
fn supported_lists_features_and_profiles() {
    let Some(namespace) = namespace() else { return };
    let text = prints(&namespace, "supported");
    for name in ["sch_tbf", "sch_netem", "CONFIG_NET_SCH_NETEM", "gigabit", "transatlantic", "satellite"] {
        assert!(text.contains(name), "{name} is not in:\n{text}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let Some(namespace) = namespace() else { return };
    for args in ["supported", "supported --json", "--help", "play --help", "--version"] {
        for (path, cause) in [("/dev/full", "No space left on device"), ("/dev/null", "Bad file descriptor")]
        {
            // A descriptor that is open for reading only cannot be written to.
            let stdout = File::options().read(true).write(path == "/dev/full").open(path).unwrap();
            let mut command = program();
            command.args(args.split(' ')).stdout(stdout).stderr(Stdio::piped());
            let output = namespace.run(|| command.spawn()).unwrap().wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{args}: {stderr}");
            assert!(
                stderr.starts_with(&format!("error: cannot write to standard output: {cause}")),
                "{stderr}"
            );
        }
    }
}

#[test]
fn a_file_that_becomes_too_large_is_an_error() {
    let folder = TempDir::new().unwrap();
    for args in ["play --help", "supported"] {
        let mut command = Command::new("sh");
        let script = "ulimit -f 0 && exec \"$0\" \"$@\" > out";
        command.args(["-c", script]).arg(program().get_program()).args(args.split(' '));
        let output = match command.current_dir(folder.path()).output() {
            Ok(output) => output,
            Err(error) => return println!("skipped: sh: {error}"),
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args}: {stderr}");
        let error = "error: cannot write to standard output: File too large (os error 27)\n";
        assert_eq!(stderr, error, "{args}");
    }
}

#[test]
fn the_command_line_is_consistent() {
    netem::cli::command().debug_assert();
}
