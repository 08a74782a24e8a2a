use super::*;

#[test]
fn units_mean_what_the_documentation_says() {
    assert_eq!("96MB".parse(), Ok(Bytes::new(96_000_000)));
    assert_eq!("1GiB".parse(), Ok(Bytes::new(1 << 30)));
    assert_eq!("1.5 GiB".parse(), Ok(Bytes::new(3 << 29)));
    assert_eq!("0.001kB".parse(), Ok(Bytes::new(1)));
    assert_eq!("96MB/s".parse(), Ok(ByteRate::new(96_000_000)));
    assert_eq!("940mbit".parse(), Ok(BitRate::new(940_000_000)));
    assert_eq!("300ms".parse(), Ok(Span::from_millis(300)));
    assert_eq!("2min".parse(), Ok(Span::from_secs(120)));
    assert_eq!("0".parse(), Ok(Span::ZERO));
    assert_eq!(" 0.0 ".parse(), Ok(Bytes::ZERO));
}

#[test]
fn an_error_says_what_is_wrong_and_how_to_write_it() {
    let message = |text: &str| text.parse::<ByteRate>().unwrap_err().to_string();
    assert_eq!(
        message("96"),
        "`96` has no unit: a data rate is written like `96MB/s` \
         (units: B/s, kB/s, MB/s, GB/s, TB/s, KiB/s, MiB/s, GiB/s, TiB/s)"
    );
    assert!(message("96mb/s").contains("`mb/s` is not a unit of a data rate (did you mean `MB/s`?)"));
    assert!(message("96MB").contains("`MB` is not a unit of a data rate"));
    assert!(message("fast").contains("`fast` is not a data rate"));
    assert!(message("-1MB/s").contains("is not a data rate"));
    assert!(message("1.B/s").contains("is not a data rate"));
    assert!(message("1.2.3B/s").contains("is not a data rate"));
    assert!(message("1.5B/s").contains("not a whole number"));
    assert!(message("99999999TiB/s").contains("too large"));
    assert!(message("999999999999999999999999999TiB/s").contains("too large"));
    assert!(message("0.0000000000000000000000000001TiB/s").contains("not a whole number"));
}

#[test]
fn printing_is_the_shortest_text_that_reads_back() {
    let text = |bytes| Bytes::new(bytes).to_string();
    assert_eq!(text(96_000_000), "96MB");
    assert_eq!(text(1 << 30), "1GiB");
    assert_eq!(text(1_500_000_000), "1500MB");
    assert_eq!(text(4097), "4097B");
    assert_eq!(text(0), "0");
    assert_eq!(Span::from_millis(300).to_string(), "300ms");
    for bytes in [1, 999, 1000, 1023, 1024, 4096, 1_000_001, (1 << 40) + 1, u64::MAX] {
        assert_eq!(text(bytes).parse(), Ok(Bytes::new(bytes)));
    }
}

#[test]
fn yaml_and_json_take_a_text_or_a_bare_zero() {
    assert_eq!(serde_json::from_str::<Bytes>("\"1MiB\"").unwrap(), Bytes::new(1 << 20));
    assert_eq!(serde_json::from_str::<Bytes>("0").unwrap(), Bytes::ZERO);
    let error = serde_json::from_str::<Bytes>("5").unwrap_err().to_string();
    assert!(error.contains("`5` has no unit"), "{error}");
    let error = serde_json::from_str::<Bytes>("true").unwrap_err().to_string();
    assert!(error.contains("expected a size with its unit"), "{error}");
    assert_eq!(serde_json::to_string(&Bytes::new(96_000_000)).unwrap(), "\"96MB\"");
}

#[test]
fn a_rate_over_a_span_is_a_size() {
    let rate = ByteRate::new(96_000_000);
    assert_eq!(rate.over(Span::from_secs(1)), Bytes::new(96_000_000));
    assert_eq!(rate.over(Span::from_millis(1)), Bytes::new(96_000));
    assert_eq!(ByteRate::new(u64::MAX).over(Span::from_secs(u64::MAX)), Bytes::new(u64::MAX));
}
