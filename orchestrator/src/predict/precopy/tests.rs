use super::*;
use crate::matrix::File;

const MB: u64 = 1_000_000;

/// Returns the reference experiment: 472 MB of memory, a working set of one second's dirtying, a bandwidth of
/// 120 MB/s and a downtime limit of 30 ms.
fn reference(rate_mb: u64) -> Input {
    Input {
        disk: Bytes::ZERO,
        memory: Bytes::new(472 * MB),
        working_set: Bytes::new(rate_mb * MB),
        rate: ByteRate::new(rate_mb * MB),
        bandwidth: ByteRate::new(120 * MB),
        downtime_limit: Span::from_millis(30),
        timeout: Span::from_secs(60),
        max_passes: None,
        stall_passes: None,
        bitmap_sync: BitmapSync::EndOfPass,
    }
}

fn moved_mb(input: Input) -> u64 {
    let prediction = input.predict();
    assert_eq!(prediction.outcome, Outcome::Converged, "{input:?}");
    prediction.transferred.as_mb().round() as u64
}

#[test]
fn the_textbook_reproduces_the_figures_of_the_design() {
    let moved = [0, 16, 32, 48, 64, 80, 96].map(|rate| moved_mb(reference(rate)));
    assert_eq!(moved, [472, 490, 515, 550, 606, 706, 938]);
}

#[test]
fn a_disk_is_copied_before_memory_is_sent() {
    let without = reference(48).predict();
    let with = Input { disk: Bytes::new(600 * MB), ..reference(48) }.predict();
    let longer = with.total_time.as_millis_f64() - without.total_time.as_millis_f64();
    assert!((longer - 5000.0).abs() < 1.0, "{longer} ms");
    assert_eq!(with.transferred.get(), without.transferred.get() + 600 * MB);
    assert_eq!((with.passes, with.downtime), (without.passes, without.downtime));
    let late = Input { disk: Bytes::new(8000 * MB), ..reference(0) }.predict();
    assert_eq!((late.reason, late.passes), (Some(Reason::Deadline), 0));
}

#[test]
fn reading_the_bitmap_like_qemu_sends_about_the_same_in_more_passes() {
    for rate in [16, 32, 48, 64, 80, 96] {
        let textbook = Input { downtime_limit: Span::from_millis(300), ..reference(rate) };
        let qemu = Input { bitmap_sync: BitmapSync::BelowLimit, ..textbook };
        let ratio = moved_mb(qemu) as f64 / moved_mb(textbook) as f64;
        assert!((0.95..1.25).contains(&ratio), "{rate}: {ratio}");
        assert!(qemu.predict().passes >= textbook.predict().passes, "{rate}");
        assert!(qemu.predict().downtime <= Some(Span::from_millis(300)), "{rate}");
    }
}

/// The figures were measured on the reference host with QEMU 10.0.2.
#[test]
fn measured_migrations_lie_within_a_sixth_of_the_prediction() {
    let tight = "guest: { ballast: 360MiB }\nlink: { rate: 985mbit }\nmigrate: { downtime_limit: 100ms }";
    let roomy = "guest: { ballast: 300MiB }\nlink: { rate: 940mbit }\nmigrate: { downtime_limit: 300ms }";
    for (setup, stress, seconds, mb) in [
        (tight, "0", 4.0, 468.0),
        (tight, "64MB", 5.8, 666.0),
        (tight, "80MB", 6.8, 792.0),
        (tight, "96MB", 8.6, 1003.0),
        (roomy, "0", 3.8, 405.0),
        (roomy, "32MiB", 4.5, 474.0),
        (roomy, "64MiB", 6.2, 642.0),
        (roomy, "80MiB", 6.8, 755.0),
    ] {
        let rate = if stress == "0" { "0".into() } else { format!("{stress}/s") };
        let file = format!("name: n\n{setup}\nstress: {{ rate: {rate}, working_set: {stress} }}\n");
        let plan = File::parse(&file, "n").unwrap().expand().unwrap();
        let prediction = Input::from_settings(&plan.cells[0].settings).predict();
        assert_eq!(prediction.outcome, Outcome::Converged);
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1.0 / 6.0;
        assert!(near(prediction.transferred.as_mb(), mb), "{stress}: {} MB", prediction.transferred.as_mb());
        assert!(near(prediction.total_time.as_secs_f64(), seconds), "{stress}: {}", prediction.total_time);
    }
}

#[test]
fn above_the_bandwidth_a_migration_converges_only_if_its_working_set_fits_into_the_limit() {
    let fast = Input { bitmap_sync: BitmapSync::BelowLimit, ..reference(121) };
    let prediction = fast.predict();
    assert_eq!((prediction.outcome, prediction.reason), (Outcome::NotConverged, Some(Reason::Deadline)));
    assert_eq!(prediction.total_time, Span::from_secs(60));
    assert_eq!(prediction.transferred, Bytes::new(60 * 120 * MB));
    assert_eq!(prediction.downtime, None);
    let fitting = Input { working_set: Bytes::new(3 * MB), ..fast };
    assert_eq!(fitting.predict().outcome, Outcome::Converged);
    let just_below = Input { rate: ByteRate::new(119 * MB), timeout: Span::from_secs(3600), ..fast };
    assert_eq!(just_below.predict().outcome, Outcome::Converged);
}

#[test]
fn each_reason_to_give_up_is_reported() {
    let stalled = Input { stall_passes: Some(3), ..reference(200) }.predict();
    assert_eq!(stalled.reason, Some(Reason::Stall));
    assert!(stalled.total_time < Span::from_secs(60));
    let capped = Input { max_passes: Some(2), ..reference(96) }.predict();
    assert_eq!((capped.reason, capped.passes), (Some(Reason::PassCap), 2));
    let late = Input { timeout: Span::from_secs(5), ..reference(96) }.predict();
    assert_eq!((late.reason, late.total_time), (Some(Reason::Deadline), Span::from_secs(5)));
    let no_link = Input { bandwidth: ByteRate::ZERO, ..reference(0) }.predict();
    assert_eq!((no_link.outcome, no_link.transferred), (Outcome::NotConverged, Bytes::ZERO));
}

#[test]
fn a_scheduled_change_takes_effect_at_its_time() {
    let stuck = Input { stall_passes: Some(3), bitmap_sync: BitmapSync::BelowLimit, ..reference(128) };
    assert_eq!(stuck.predict().reason, Some(Reason::Stall));
    let change = |seconds, rate, bandwidth| ScheduledChange {
        at: Span::from_secs(seconds),
        rate: ByteRate::new(rate * MB),
        bandwidth: ByteRate::new(bandwidth * MB),
    };
    let idle = stuck.predict_with(&[change(20, 0, 120)]);
    assert_eq!(idle.outcome, Outcome::Converged);
    let working_set_s = 128.0 / 120.0;
    let seconds = idle.total_time.as_secs_f64();
    assert!(seconds > 20.0 && seconds < 20.0 + 2.0 * working_set_s, "{seconds}");
    assert!((idle.transferred.as_mb() / (seconds * 120.0) - 1.0).abs() < 1e-6, "{idle:?}");

    let faster = stuck.predict_with(&[change(5, 128, 1000)]);
    assert_eq!(faster.outcome, Outcome::Converged);
    let slower =
        Input { stall_passes: None, ..reference(0) }.predict_with(&[change(1, 0, 12), change(2, 0, 120)]);
    // 120 MB in the first second, 12 MB in the second, then the remaining 340 MB.
    assert!((slower.total_time.as_secs_f64() - (2.0 + 340.0 / 120.0)).abs() < 1e-6, "{slower:?}");
    let late = stuck.predict_with(&[change(3600, 0, 120)]);
    assert_eq!(late.reason, Some(Reason::Deadline), "no stall is seen before the last change");
    let stuck_again = stuck.predict_with(&[change(5, 0, 0)]);
    assert_eq!((stuck_again.reason, stuck_again.total_time), (Some(Reason::Deadline), stuck.timeout));
}

#[test]
fn a_switchover_that_has_begun_is_not_given_up() {
    // All memory may be sent with the guest stopped: 472 MB at 120 MB/s.
    let at_once = Input { downtime_limit: Span::from_secs(2000), ..reference(96) };
    let late = Input { timeout: Span::from_secs(1), ..at_once }.predict();
    assert_eq!(late, at_once.predict());
    assert_eq!((late.outcome, late.passes), (Outcome::Converged, 1));
    assert!((late.total_time.as_secs_f64() - 472.0 / 120.0).abs() < 1e-6, "{late:?}");
}

#[test]
fn phases_are_predicted_like_the_same_timeline() {
    let predicted = |stress: &str, timeline: &str| {
        let text = format!(
            "name: n\nguest: {{ ballast: 360MiB }}\nlink: {{ rate: 928mbit }}\n\
             migrate: {{ downtime_limit: 100ms }}\nstress: {{ working_set: 128MB, {stress} }}\n{timeline}"
        );
        let plan = File::parse(&text, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        predict(&plan.cells[0].settings).unwrap()
    };
    let phases = predicted("rate: 0, phases: [{ rate: 128MB/s, duration: 20s }]", "");
    assert_eq!(phases.outcome, Outcome::Converged);
    assert!(phases.total_time > Span::from_secs(20), "{phases:?}");
    assert_eq!(phases, predicted("rate: 128MB/s", "timeline: [{ at: 20s, stress: { rate: 0 } }]\n"));
    let idle = predicted("rate: 128MB/s, phases: [{ rate: 0, duration: 100s }]", "");
    assert_eq!(idle, predicted("rate: 0", ""));
}

#[test]
fn a_wave_is_predicted_over_its_periods() {
    let predicted = |stress: &str| {
        let text = format!(
            "name: n\nguest: {{ ballast: 360MiB }}\nlink: {{ rate: 928mbit }}\n\
             migrate: {{ downtime_limit: 100ms }}\nstress: {{ working_set: 128MB, {stress} }}\n"
        );
        let plan = File::parse(&text, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let prediction = predict(&plan.cells[0].settings).unwrap();
        (prediction.outcome, prediction.reason, prediction.total_time)
    };
    // The mean exceeds what the link carries, but the low half is long enough.
    let (outcome, _, time) = predicted("wave: { period: 20s, low: 32MB/s, high: 224MB/s }");
    assert_eq!(outcome, Outcome::Converged);
    assert!(time < Span::from_secs(10), "in the first low half: {time}");
    let given_up = |stress: &str| {
        let (outcome, reason, time) = predicted(stress);
        assert_eq!(outcome, Outcome::NotConverged);
        (reason.unwrap(), time)
    };
    let (reason, constant) = given_up("rate: 160MB/s");
    assert_eq!(reason, Reason::Stall);
    let (reason, wave) = given_up("wave: { period: 10s, low: 140MB/s, high: 180MB/s }");
    assert_eq!(reason, Reason::Stall);
    assert!(wave > constant && wave > Span::from_secs(20), "{wave}: two periods have been seen");
    let (reason, time) = given_up("wave: { period: 40s, low: 140MB/s, high: 180MB/s }");
    assert_eq!((reason, time), (Reason::Deadline, Span::from_secs(60)));
}

#[test]
fn a_gigabit_link_carries_what_tcp_leaves_of_it() {
    let carried = |mbit: u64| payload_bandwidth(BitRate::new(mbit * MB)).as_mb_per_s();
    assert!((carried(940) - 112.16).abs() < 0.01, "{}", carried(940));
    assert!((carried(985) - 117.53).abs() < 0.01, "{}", carried(985));
    assert_eq!(payload_bandwidth(BitRate::new(u64::MAX)).get() >> 60, 1);
}

#[test]
fn qemus_cap_counts_where_it_is_below_the_link() {
    let mut settings = Settings::default();
    settings.link.rate = Some(BitRate::new(940 * MB));
    settings.migrate.max_bandwidth = Some("50MB/s".parse().unwrap());
    assert_eq!(bandwidth(&settings), ByteRate::new(49_902_534));
    settings.migrate.max_bandwidth = Some("10gbit".parse().unwrap());
    assert_eq!(bandwidth(&settings), payload_bandwidth(BitRate::new(940 * MB)));
}

/// Returns pseudo-random numbers of every magnitude. The generator is fixed, so that a failure is
/// reproducible.
fn magnitudes(count: usize) -> impl Iterator<Item = u64> {
    let mut state = 42u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let z = (state ^ (state >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        let bits = (z >> 58) as u32;
        z.rotate_left(17) >> bits
    })
    .take(count)
}

fn any_input(numbers: &mut impl Iterator<Item = u64>) -> Option<Input> {
    Some(Input {
        disk: Bytes::ZERO,
        memory: Bytes::new(numbers.next()?),
        working_set: Bytes::new(numbers.next()?),
        rate: ByteRate::new(numbers.next()?),
        bandwidth: ByteRate::new(numbers.next()?),
        downtime_limit: Span::from_nanos(numbers.next()?),
        timeout: Span::from_nanos(numbers.next()?),
        max_passes: None,
        stall_passes: None,
        bitmap_sync: if numbers.next()? & 1 == 0 { BitmapSync::EndOfPass } else { BitmapSync::BelowLimit },
    })
}

#[test]
fn every_input_stops_the_guest_before_its_deadline_and_sends_what_the_link_carries() {
    let mut numbers = magnitudes(70_000);
    while let Some(input) = any_input(&mut numbers) {
        let prediction = input.predict();
        let stopped = prediction.downtime.unwrap_or_default().as_secs_f64();
        let running = prediction.total_time.as_secs_f64() - stopped;
        assert!(running <= input.timeout.as_secs_f64() * (1.0 + 1e-9) + 1e-8, "{input:?} {prediction:?}");
        let carried = input.bandwidth.over(prediction.total_time).get() as f64;
        let sent = prediction.transferred.get() as f64;
        assert!(
            sent <= carried * 1.001 + input.bandwidth.get() as f64 * 1e-8 + 1.0,
            "{input:?} {prediction:?}"
        );
        let downtime = prediction.downtime.unwrap_or_default();
        let page = Span::from_nanos((4096e9 / input.bandwidth.get().max(1) as f64) as u64);
        assert!(downtime <= input.downtime_limit.max(page), "{input:?} {prediction:?}");
        assert_eq!(prediction.downtime.is_some(), prediction.outcome == Outcome::Converged);
        assert_eq!(prediction.reason.is_none(), prediction.outcome == Outcome::Converged);
    }
}

#[test]
fn more_load_never_makes_a_migration_shorter() {
    let near_enough = |less: u64, more: u64| less as f64 <= more as f64 * (1.0 + 1e-9) + 1.0;
    let mut numbers = magnitudes(90_000);
    let mut compared = 0;
    while let Some(input) = any_input(&mut numbers) {
        let (Some(more_rate), Some(more_set)) = (numbers.next(), numbers.next()) else { break };
        // The working set is part of the memory, which has to be sent at least once either way.
        let input = Input { working_set: input.working_set.min(input.memory), ..input };
        let rate = input.rate.get().saturating_add(more_rate);
        let set = input.working_set.get().saturating_add(more_set).min(input.memory.get());
        for heavier in
            [Input { rate: ByteRate::new(rate), ..input }, Input { working_set: Bytes::new(set), ..input }]
        {
            let (light, heavy) = (input.predict(), heavier.predict());
            // A switchover continues past the deadline, at which a migration without one ends.
            let comparable = light.outcome == heavy.outcome || light.total_time <= input.timeout;
            assert!(
                light.outcome <= heavy.outcome
                    && (!comparable
                        || near_enough(light.total_time.as_nanos(), heavy.total_time.as_nanos())
                            && near_enough(light.transferred.get(), heavy.transferred.get())),
                "{input:?} {light:?}\n{heavier:?} {heavy:?}"
            );
            compared += 1;
        }
    }
    assert!(compared > 10_000);
}
