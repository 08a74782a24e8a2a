use super::*;
use crate::ethernet::FRAME_BYTES;

fn parse(json: &str) -> Result<Profile, serde_json::Error> {
    serde_json::from_str(json)
}

#[test]
fn the_default_is_empty_valid_and_serialises_without_keys() {
    let profile = Profile::default();
    assert!(profile.is_empty());
    profile.validate().unwrap();
    assert_eq!(serde_json::to_string(&profile).unwrap(), "{}");
}

#[test]
fn text_round_trips() {
    let text = concat!(
        r#"{"rate":"940mbit","shaper":"htb","delay":"20ms","jitter":"2ms","distribution":"pareto_normal","#,
        r#""loss":"0.1%","loss_correlation":"25%","reorder":"1%","reorder_gap":5}"#
    );
    let profile = parse(text).unwrap();
    profile.validate().unwrap();
    assert_eq!(serde_json::to_string(&profile).unwrap(), text);
}

#[test]
fn unknown_keys_bare_numbers_and_impossible_percentages_are_rejected() {
    for (text, says) in [
        (r#"{"raet":"1mbit"}"#, "unknown field `raet`"),
        (r#"{"delay":20}"#, "20"),
        (r#"{"loss":"101%"}"#, "cannot exceed 100%"),
        (r#"{"loss":1}"#, "add the percent sign"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn an_invalid_setting_is_reported_with_its_key() {
    for (text, key) in [
        (r#"{"rate":"0"}"#, "rate"),
        (r#"{"rate":"11tbit"}"#, "rate"),
        (r#"{"queue":"1MB"}"#, "queue"),
        (r#"{"burst":"1MB"}"#, "burst"),
        (r#"{"rate":"1mbit","burst":"1B"}"#, "burst"),
        (r#"{"rate":"1mbit","queue":"5GB"}"#, "queue"),
        (r#"{"rate":"1mbit","queue":"1MB","shaper":"netem"}"#, "shaper"),
        (r#"{"delay":"5min"}"#, "delay"),
        (r#"{"jitter":"1ms"}"#, "jitter"),
        (r#"{"delay":"1ms","jitter":"2ms"}"#, "jitter"),
        (r#"{"delay":"1ms","distribution":"normal"}"#, "distribution"),
        (r#"{"delay":"1ms","jitter_correlation":"1%"}"#, "jitter_correlation"),
        (r#"{"delay":"1ms","jitter":"1ms","jitter_correlation":"1%"}"#, "jitter_correlation"),
        (r#"{"delay":"2s","jitter":"2s"}"#, "jitter"),
        (
            r#"{"delay":"1s","jitter":"1s","distribution":"uniform","jitter_correlation":"100%"}"#,
            "jitter_correlation",
        ),
        (r#"{"delay":"1s","jitter":"1s","slots":{"min_delay":"2ms","max_delay":"3ms"}}"#, "slots"),
        (r#"{"loss_correlation":"1%"}"#, "loss_correlation"),
        (r#"{"duplicate_correlation":"1%"}"#, "duplicate_correlation"),
        (r#"{"corrupt_correlation":"1%"}"#, "corrupt_correlation"),
        (r#"{"loss":"100%","loss_correlation":"1%"}"#, "loss_correlation"),
        (r#"{"loss":"1%","loss_correlation":"100%"}"#, "loss_correlation"),
        (r#"{"loss":"0.0000001%","loss_correlation":"90%"}"#, "loss_correlation"),
        (r#"{"duplicate":"1%","duplicate_correlation":"100%"}"#, "duplicate_correlation"),
        (r#"{"reorder":"1%"}"#, "reorder"),
        (r#"{"delay":"1ms","reorder_gap":2}"#, "reorder_gap"),
        (r#"{"delay":"1ms","reorder":"1%","reorder_gap":0}"#, "reorder_gap"),
        (r#"{"loss":"1%","loss_bursts":{"enter":"1%","leave":"10%"}}"#, "loss_bursts"),
        (r#"{"loss_bursts":{"enter":"1%","leave":"0%"}}"#, "loss_bursts.leave"),
        (r#"{"limit":0,"delay":"1ms"}"#, "limit"),
        (r#"{"limit":10,"rate":"1mbit"}"#, "limit"),
        (r#"{"slots":{"min_delay":"2ms","max_delay":"1ms"}}"#, "slots"),
        (r#"{"slots":{"min_delay":"2ms","max_delay":"5min"}}"#, "slots.max_delay"),
        (r#"{"slots":{"min_delay":"2ms","max_delay":"3ms","packets":0}}"#, "slots.packets"),
        (r#"{"slots":{"min_delay":"2ms","max_delay":"3ms","bytes":"2GiB"}}"#, "slots.bytes"),
        (r#"{"rate":"1kbit","burst":"31kB"}"#, "burst"),
        (r#"{"delay":"4min","jitter":"4min"}"#, "jitter"),
        (r#"{"delay":"4min","jitter":"2147483648ns"}"#, "jitter"),
        (r#"{"delay":"999ns"}"#, "delay"),
        (r#"{"delay":"1ms","jitter":"1ns"}"#, "jitter"),
    ] {
        let error = parse(text).unwrap().validate().expect_err(text);
        assert_eq!(error.key, key, "{text}: {error}");
    }
}

#[test]
fn the_default_bucket_holds_two_milliseconds_and_the_largest_packet() {
    let burst = |rate| Profile { rate: Some(BitRate::new(rate)), ..Profile::default() }.burst_bytes(1500);
    assert_eq!(burst(1_000_000), 2 * FRAME_BYTES);
    assert_eq!(burst(100_000_000), 75_000);
    assert_eq!(burst(300_000_000), LARGEST_PACKET_BYTES);
    assert_eq!(burst(928_000_000), 232_000);
    assert_eq!(burst(2_000_000_000), 1_000_000);
    assert_eq!(burst(5_000_000_000), 6_250_000);
    assert_eq!(burst(40_000_000_000), 50_000_000);
    // 10 ms of the rate would be more than the kernel can count.
    assert_eq!(burst(10_000_000_000_000), u64::from(u32::MAX));
}

#[test]
fn the_default_queue_is_25_ms_or_the_bandwidth_delay_product() {
    let profile = |rate, delay| Profile {
        rate: Some(BitRate::new(rate)),
        delay: Span::from_millis(delay),
        ..Profile::default()
    };
    assert_eq!(profile(928_000_000, 0).queue_bytes(), 2_900_000);
    assert_eq!(profile(1_000_000_000, 80).queue_bytes(), 20_000_000);
    assert_eq!(profile(1_000_000, 0).queue_bytes(), LARGEST_PACKET_BYTES);
    assert_eq!(profile(10_000_000_000_000, 0).queue_bytes(), u64::from(u32::MAX));
}

/// A limit in packets must not drop small packets that the rate admits.
#[test]
fn the_delay_line_holds_the_smallest_packets_that_the_rate_sends() {
    let profile = |rate, delay| Profile {
        rate: Some(BitRate::new(rate)),
        delay: Span::from_millis(delay),
        ..Profile::default()
    };
    // 10 Mbit/s are 4717 frames of 106 bytes in 400 ms, and 8333 of 60.
    assert_eq!(profile(10_000_000, 400).limit_packets(), 8_333);
    assert_eq!(profile(1_200_000_000, 1).limit_packets(), 2_000);
    assert_eq!(profile(10_000_000, 1).limit_packets(), 1_000);
    // Not more packets than CPUs can send.
    assert_eq!(profile(1_200_000_000, 100).limit_packets(), 200_000);
    assert_eq!(profile(100_000_000_000, 1).limit_packets(), 16_666);
    let delayed = Profile { rate: None, ..profile(1, 100) };
    assert_eq!(delayed.limit_packets(), 166_666);
    // Here the limit is also the queue of the rate.
    let own = Profile { shaper: Shaper::Netem, ..profile(1_200_000_000, 100) };
    assert_eq!(own.limit_packets(), 60_000);
}

#[test]
fn a_bucket_and_a_queue_hold_a_frame_of_the_interface() {
    let of = |text: &str, mtu| parse(text).unwrap().validate_for(mtu);
    for text in [r#"{"rate":"1mbit","burst":"1514B"}"#, r#"{"rate":"1mbit","queue":"1514B"}"#, "{}"] {
        assert_eq!(of(text, 1500), Ok(()), "{text}");
    }
    for (text, key) in
        [(r#"{"rate":"1mbit","burst":"1513B"}"#, "burst"), (r#"{"rate":"1mbit","queue":"1kB"}"#, "queue")]
    {
        assert_eq!(of(text, 1500).unwrap_err().key, key);
        assert_eq!(of(text, 900), Ok(()), "{text}");
    }
}

#[test]
fn a_correlated_channel_has_the_requested_loss_and_correlation() {
    for (loss, correlation) in [(0.1, 0.25), (0.1, 0.5), (0.5, 0.9), (0.0001, 0.99)] {
        let model =
            GilbertElliott::correlated(Percent::from_fraction(loss), Percent::from_fraction(correlation));
        // Packets are lost in the bad state, which the channel is in for enter / (enter + leave) of the time,
        // and the losses of two successive packets are correlated by 1 - enter - leave.
        let (enter, leave) = (model.enter.fraction(), model.leave.fraction());
        assert!((enter / (enter + leave) / loss - 1.0).abs() < 1e-3, "{loss} {correlation}: {model:?}");
        let found = 1.0 - enter - leave;
        assert!((found - correlation).abs() < 1e-8, "{loss} {correlation}: {model:?}");
    }
}

#[test]
fn packets_fit_the_bucket_and_are_single_segments_under_loss() {
    let rate = |rate| Profile { rate: Some(BitRate::new(rate)), ..Profile::default() };
    assert_eq!(rate(1_000_000).max_gso_segments(1500), Some(2));
    assert_eq!(rate(1_000_000_000).max_gso_segments(1500), None);
    assert_eq!(Profile::default().max_gso_segments(1500), None);
    let lossy = Profile { loss: Percent::from_fraction(0.01), ..rate(1_000_000_000) };
    assert_eq!(lossy.max_gso_segments(1500), Some(1));
}
