//! Arbitrary lines from a node or from QEMU's monitor: no line causes a panic, and a later call is still
//! answered.

use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;
use testbed::{
    driver::qemu::qmp,
    node::{
        Node,
        protocol::{ExitStatus, FromNode, ProbeProgress, ProgressWindow, ToNode},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::mpsc,
};

/// Generates JSON of any shape. Its keys and numbers include those that the protocols use.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        prop::sample::select(vec![
            "id", "event", "data", "return", "error", "desc", "class", "QMP", "reply", "line", "closed",
            "output", "exited", "channel", "process", "text", "status", "result", "Ok", "Err", "call",
            "facts", "probed", "probe", "progress", "windows", "number",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..5_u64).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Generates lines that answer neither call number `pending` nor a later one, so that only the test answers
/// the call.
fn lines(pending: u64) -> impl Strategy<Value = Vec<String>> {
    let line = prop_oneof![
        any::<String>().prop_map(|text| text.replace(['\n', '\r'], " ")),
        any_json().prop_map(|value| value.to_string()),
        any_from_node().prop_map(|message| serde_json::to_string(&message).unwrap()),
    ];
    let harmless = line.prop_filter("answers the call", move |line| {
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        let number = |value: &Value| value.as_u64().is_some_and(|id| id >= pending);
        // serde also reads the fields of a reply from a list.
        let reply = &value["reply"];
        !number(&value["id"]) && !number(&reply["id"]) && !number(&reply[0])
    });
    prop::collection::vec(harmless, 0..12)
}

fn any_from_node() -> impl Strategy<Value = FromNode> {
    let (number, text) = (|| prop_oneof![0..4_u64, any::<u64>()], || "\\PC{0,20}");
    prop_oneof![
        (number(), any_json()).prop_map(|(id, value)| FromNode::Reply { id, result: Ok(value) }),
        (number(), text()).prop_map(|(id, why)| FromNode::Reply { id, result: Err(why) }),
        (number(), text()).prop_map(|(channel, text)| FromNode::Line { channel, text }),
        (number(), prop::option::of(text()))
            .prop_map(|(channel, reason)| FromNode::Closed { channel, reason }),
        (number(), text()).prop_map(|(process, text)| FromNode::Output { process, text }),
        (number(), text())
            .prop_map(|(process, status)| FromNode::Exited { process, status: ExitStatus::new(status) }),
        (number(), any_progress()).prop_map(|(probe, progress)| FromNode::Probed { probe, progress }),
    ]
}

fn any_progress() -> impl Strategy<Value = ProbeProgress> {
    let time = || prop::option::of(any::<u64>());
    let window = (any::<u64>(), any::<u64>(), any::<u64>(), time(), time());
    let window = window.prop_map(|(number, requests, unanswered, longest_ns, median_ns)| ProgressWindow {
        number,
        requests,
        unanswered,
        longest_ns,
        median_ns,
    });
    let progress = (any::<u64>(), any::<u64>(), prop::collection::vec(window, 0..4));
    progress.prop_map(|(began_before_ns, window_ns, windows)| ProbeProgress {
        began_before_ns,
        window_ns,
        windows,
    })
}

fn run<T>(conversation: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(conversation)
}

proptest! {
    #[test]
    fn no_line_disturbs_the_connection_to_a_monitor(lines in lines(2)) {
        let answer = run(async {
            let (to_client, from_qemu) = mpsc::unbounded_channel();
            let (from_client, mut to_qemu) = mpsc::unbounded_channel::<String>();
            let client = async {
                let client = qmp::Client::start(from_qemu, move |line| drop(from_client.send(line))).await?;
                client.call("query-status", json!({})).await
            };
            let qemu = async {
                for number in 1..=2 {
                    let command: Value = serde_json::from_str(&to_qemu.recv().await.unwrap()).unwrap();
                    assert_eq!(command["id"], number);
                    for line in lines.iter().filter(|_| number == 2) {
                        to_client.send(Ok(line.clone())).unwrap();
                    }
                    to_client.send(Ok(json!({ "id": number, "return": number }).to_string())).unwrap();
                }
            };
            tokio::join!(client, qemu).0
        });
        prop_assert_eq!(answer.unwrap(), json!(2));
    }

    #[test]
    fn no_line_disturbs_the_connection_to_a_node(lines in lines(1)) {
        let answer = run(async {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let (read, write) = tokio::io::split(ours);
            let node = Node::from_streams("node", read, write);
            let (read, mut write) = tokio::io::split(theirs);
            let serve = async {
                let mut calls = BufReader::new(read).lines();
                let call = calls.next_line().await.unwrap().unwrap();
                let Ok(ToNode::Call { id, .. }) = serde_json::from_str(&call) else { panic!("{call}") };
                for line in &lines {
                    write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
                }
                let reply = FromNode::Reply { id, result: Err("no".to_owned()) };
                let reply = serde_json::to_string(&reply).unwrap();
                write.write_all(format!("{reply}\n").as_bytes()).await.unwrap();
            };
            tokio::join!(node.stop_probe(Duration::ZERO), serve).0
        });
        prop_assert!(answer.unwrap_err().to_string().contains("no"));
    }

    #[test]
    fn a_nodes_message_survives_serialization(message in any_from_node()) {
        let text = serde_json::to_string(&message).unwrap();
        let read: FromNode = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn no_line_makes_a_node_panic(line in any_json()) {
        drop(serde_json::from_value::<ToNode>(line.clone()));
        drop(serde_json::from_value::<ToNode>(json!({ "call": { "id": 1, "call": line } })));
    }
}
