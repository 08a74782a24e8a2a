//! Compares the encoded options of qdiscs byte for byte with those that iproute2 sends for the same settings.
//!
//! `golden-iproute2-6.1.txt` has a `tc` command on one line and the content of its `TCA_OPTIONS` in
//! hexadecimal on the next, captured with `strace -e trace=sendmsg`. The file does not contain the
//! distribution tables of netem: a test in `wire::distribution` compares them with iproute2's files.

use netem::{
    Distribution, GilbertElliott, Percent, Slots,
    wire::{
        htb::{Htb, HtbClass},
        netem::{CorrelatedProbability, Netem, Operation},
        psched::Clock,
        tbf::Tbf,
    },
};
use units::{BitRate, Bytes, Span};

const CAPTURED: &str = include_str!("golden-iproute2-6.1.txt");

/// Returns the bytes captured for the only command that ends with `words`.
#[track_caller]
fn captured(words: &str) -> Vec<u8> {
    let lines: Vec<&str> = CAPTURED.lines().collect();
    let matching: Vec<_> = lines.chunks(2).filter(|pair| pair[0].ends_with(words)).collect();
    let [pair] = &matching[..] else { panic!("{} captured commands end with {words:?}", matching.len()) };
    (0..pair[1].len()).step_by(2).map(|i| u8::from_str_radix(&pair[1][i..i + 2], 16).unwrap()).collect()
}

#[track_caller]
fn same(ours: &[u8], words: &str) {
    let theirs = captured(words);
    let differ = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    assert!(
        ours == theirs,
        "{words}: {} bytes, iproute2 sends {}; first difference at {differ:?}\n\
         ours   {:02x?}\ntheirs {:02x?}",
        ours.len(),
        theirs.len(),
        &ours[..ours.len().min(96)],
        &theirs[..theirs.len().min(96)]
    );
}

fn rate(text: &str) -> BitRate {
    text.parse().unwrap()
}

fn percent(text: &str) -> Percent {
    text.parse().unwrap()
}

fn chance(probability: &str, correlation: &str) -> CorrelatedProbability {
    CorrelatedProbability { probability: percent(probability), correlation: percent(correlation) }
}

#[test]
fn tbf() {
    for (bits, burst, limit) in [
        ("1mbit", 3_028, 81_920),
        ("928mbit", 116_000, 2_900_000),
        ("5gbit", 625_000, 15_625_000),
        ("40gbit", 5_000_000, 125_000_000),
    ] {
        let tbf = Tbf { rate: rate(bits), burst: Bytes::new(burst), limit: Bytes::new(limit) };
        let bytes = tbf.encode(Clock::default());
        same(&bytes, &format!("tbf rate {bits} burst {burst} limit {limit}"));
    }
}

#[test]
fn htb() {
    same(&Htb { default_class: 0x10 }.encode(), "htb default 10");
    for (bits, burst, quantum) in
        [("928mbit", 116_000, 60_000), ("1mbit", 3_028, 1_514), ("40gbit", 5_000_000, 200_000)]
    {
        let class = HtbClass { rate: rate(bits), burst: Bytes::new(burst), quantum: Bytes::new(quantum) };
        let bytes = class.encode(Clock::default());
        same(&bytes, &format!("htb rate {bits} burst {burst} cburst {burst} quantum {quantum}"));
    }
}

/// Returns settings of netem, each with the arguments of `tc` that have the same effect.
fn netem_table() -> Vec<(Netem, &'static str)> {
    let plain = Netem { limit: 1000, ..Netem::default() };
    let delayed = |millis| Netem { delay: Span::from_millis(millis), ..plain.clone() };
    let bursts = |p, r, bad, good| {
        let model = GilbertElliott {
            enter: percent(p),
            leave: percent(r),
            loss_bad: percent(bad),
            loss_good: percent(good),
        };
        Netem { loss_bursts: Some(model), ..plain.clone() }
    };
    let slots = |min, max, packets, bytes: Option<u64>| {
        let slots = Slots {
            min_delay: Span::from_nanos(min),
            max_delay: Span::from_nanos(max),
            packets,
            bytes: bytes.map(Bytes::new),
        };
        Netem { slots: Some(slots), ..plain.clone() }
    };
    vec![
        (Netem { limit: 10_000, ..delayed(50) }, "netem delay 50ms limit 10000"),
        (
            Netem {
                limit: 10_000,
                jitter: Span::from_millis(5),
                jitter_correlation: percent("25%"),
                distribution: Distribution::Uniform,
                ..delayed(50)
            },
            "netem delay 50ms 5ms 25% limit 10000",
        ),
        (Netem { loss: chance("1%", "0%"), ..plain.clone() }, "netem loss 1% limit 1000"),
        (Netem { loss: chance("1%", "25%"), ..plain.clone() }, "netem loss 1% 25% limit 1000"),
        (Netem { loss: chance("0.3%", "0%"), ..plain.clone() }, "netem loss random 0.3% limit 1000"),
        (bursts("1%", "10%", "70%", "0.1%"), "netem loss gemodel 1% 10% 70% 0.1% limit 1000"),
        (bursts("1%", "99%", "100%", "0%"), "netem loss gemodel 1% limit 1000"),
        (
            Netem {
                duplicate: chance("1%", "5%"),
                corrupt: chance("0.1%", "2%"),
                reorder: chance("25%", "50%"),
                reorder_gap: 5,
                ..delayed(10)
            },
            "netem delay 10ms duplicate 1% 5% corrupt 0.1% 2% reorder 25% 50% gap 5 limit 1000",
        ),
        (
            Netem { reorder: chance("25%", "0%"), reorder_gap: 1, ..delayed(10) },
            "netem delay 10ms reorder 25% limit 1000",
        ),
        (Netem { rate: Some(rate("1gbit")), ..delayed(10) }, "netem delay 10ms rate 1gbit limit 1000"),
        (Netem { rate: Some(rate("40gbit")), ..plain.clone() }, "netem rate 40gbit limit 1000"),
        (
            slots(800_000, 1_000_000, Some(10), Some(15_000)),
            "netem slot 800us 1000us packets 10 bytes 15000 limit 1000",
        ),
        (slots(5_000_000, 5_000_000, None, None), "netem slot 5ms limit 1000"),
    ]
}

#[test]
fn netem() {
    for (netem, words) in netem_table() {
        same(&netem.encode(Clock::default(), Operation::Create), words);
    }
}

#[test]
fn every_captured_command_is_compared() {
    let compared = 4 + 4 + netem_table().len();
    assert_eq!(CAPTURED.lines().count(), 2 * compared);
}

/// The kernel dumps settings in the format in which they were sent, with additional 64-bit attributes.
#[test]
fn encoded_settings_decode_to_themselves() {
    let clock = Clock::default();
    for (netem, words) in netem_table() {
        let (created, changed) =
            (netem.encode(clock, Operation::Create), netem.encode(clock, Operation::Change));
        assert_eq!(Netem::decode(&created, clock), Some(netem.clone()), "{words}");
        assert_eq!(Netem::decode(&changed, clock), Some(netem), "{words}, changed");
    }
    let tbf = Tbf { rate: rate("20gbit"), burst: Bytes::new(5_000_000), limit: Bytes::new(125_000_000) };
    assert_eq!(Tbf::decode(&tbf.encode(clock), clock), Some(tbf));
    let class = HtbClass { rate: rate("40gbit"), burst: Bytes::new(5_000_000), quantum: Bytes::new(200_000) };
    assert_eq!(HtbClass::decode(&class.encode(clock), clock), Some(class));
    assert_eq!(Htb::decode(&Htb { default_class: 7 }.encode()), Some(Htb { default_class: 7 }));
}

/// Decoding arbitrary bytes returns a value or `None`.
#[test]
fn decoding_arbitrary_bytes_does_not_panic() {
    let clock = Clock::default();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for length in (0..200).cycle().take(20_000) {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Small numbers are plausible lengths and types.
                if state & 1 == 0 { (state >> 8) as u8 % 16 } else { (state >> 8) as u8 }
            })
            .collect();
        let _ = Tbf::decode(&bytes, clock);
        let _ = Htb::decode(&bytes);
        let _ = HtbClass::decode(&bytes, clock);
        let _ = Netem::decode(&bytes, clock);
    }
}
