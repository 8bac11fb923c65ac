//! Exotel's media messages: every form that was seen is read, and the documented form is written.
//! `cargo test --release --test exotel -- --nocapture` prints what a frame costs.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Instant;

use proptest::prelude::*;
use pxbridge_core::carrier::exotel::{ExotelReader, ExotelWriter};
use pxbridge_core::carrier::payload::{Encoding, OddByte};
use pxbridge_core::carrier::{MediaFrame, MediaReader as _, MediaWriter as _, Message, Messages};
use pxbridge_core::codec::pcm;
use pxbridge_core::rate::LineRate;
use serde_json::{Value, json};

/// base64 by definition, so that the tests depend on no library's opinion of it.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let sextet = (bits >> (18 - 6 * i) & 63) as usize;
            text.push(if i <= group.len() {
                char::from(ALPHABET[sextet])
            } else {
                '='
            });
        }
    }
    text
}

fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|s| s.to_le_bytes()).collect()
}

fn floats(samples: &[i16]) -> Vec<f32> {
    samples.iter().map(|&s| pcm::to_f32(s)).collect()
}

fn read_media(message: &[u8], encoding: Encoding, out: &mut Vec<f32>) -> Option<MediaFrame> {
    ExotelReader::new(encoding).read(Message::text(message), out)
}

fn a_writer(stream_sid: &str, encoding: Encoding) -> ExotelWriter {
    ExotelWriter::new(stream_sid, LineRate::KHZ_8, encoding)
}

/// The one message that was written.
fn only(messages: &Messages) -> &[u8] {
    assert_eq!(messages.len(), 1);
    let message = messages.iter().next().unwrap();
    assert!(message.is_text);
    message.bytes
}

fn returned_mark(message: &str) -> Option<&str> {
    ExotelReader::new(Encoding::Pcm16).returned_mark(Message::text(message.as_bytes()))
}

#[test]
fn a_mark_that_comes_back_is_read_whatever_stands_beside_it() {
    for message in [
        r#"{"event":"mark","mark":{"name":"p-7"}}"#,
        r#"{"event": "Mark", "sequence_number": 4, "stream_sid": "S", "mark": {"Name": "p-7", "x": [1]}}"#,
        r#"{"mark":{"name":"p-6","name":"p-7"},"streamSid":"S","event":"mark"}"#,
    ] {
        assert_eq!(returned_mark(message), Some("p-7"), "{message}");
    }
}

#[test]
fn a_mark_in_another_spelling_is_left_to_the_reader_of_events() {
    for message in [
        r#"{"event":"mark","name":"p-7"}"#,
        r#"{"event":"mark","mark":"p-7"}"#,
        r#"{"event":"mark","mark":{"name":7}}"#,
        r#"{"event":"mark","mark":{"name":""}}"#,
        r#"{"event":"mark","mark":{"name":"p\u002d7"}}"#,
        r#"{"event":"mark","mark":{"name":"p-7"},"mark":{}}"#,
        r#"{"event":"mark","mark":{"name":"p-7"}"#,
        r#"{"event":"clear","mark":{"name":"p-7"}}"#,
        r#"{"mark":{"name":"p-7"}}"#,
        "",
    ] {
        assert_eq!(returned_mark(message), None, "{message}");
    }
}

fn read(message: &str) -> (Option<MediaFrame>, Vec<f32>) {
    let mut out = Vec::new();
    (read_media(message.as_bytes(), Encoding::Pcm16, &mut out), out)
}

/// Reads `payload`, as it stands in JSON, in a message as Exotel sends it.
fn read_payload(payload: &str, encoding: Encoding) -> (MediaFrame, Vec<f32>) {
    let message = format!(
        r#"{{"event":"media","sequence_number":3,"stream_sid":"S","media":{{"chunk":2,"timestamp":"100","payload":"{payload}"}}}}"#
    );
    let mut out = Vec::new();
    (read_media(message.as_bytes(), encoding, &mut out).unwrap(), out)
}

#[test]
fn a_documented_message_is_read_with_its_numbers() {
    let (frame, out) = read_payload(&base64(&bytes_of(&[1, -2, 300])), Encoding::Pcm16);
    assert_eq!(out, floats(&[1, -2, 300]));
    let expected = MediaFrame {
        sequence: Some(3),
        chunk: Some(2),
        timestamp_ms: Some(100),
        samples: 3,
        ..MediaFrame::default()
    };
    assert_eq!(frame, expected);
}

#[test]
fn samples_are_appended_to_what_is_there() {
    let mut out = vec![0.5];
    let message = r#"{"event":"media","media":{"payload":"AQA="}}"#;
    read_media(message.as_bytes(), Encoding::Pcm16, &mut out);
    assert_eq!(out, [0.5, pcm::to_f32(1)]);
}

#[test]
fn spellings_of_the_wild_are_all_read() {
    for message in [
        r#"{"event":"media","sequenceNumber":"7","streamSid":"S","media":{"payload":"AQA=","chunk":"4","timestamp":"60"}}"#,
        r#" { "media" : { "Payload" : "AQA=" , "chunk" : 4 , "timestamp" : 60 , "track" : "inbound" } , "sequence_number" : 7 , "event" : "media" } "#,
        r#"{"payload":"AQA=","chunk":4.0,"timestamp":60.25,"sequence_number":7,"event":"media"}"#,
        r#"{"event":"media","x":{"a":[{"}":"\"]}"},[]]},"sequence_number":"7","media":{"y":[[["]"]]],"chunk":4,"timestamp":60,"payload":"AQA="}}"#,
        "\u{feff}{\"Event\":\"media\",\"Media\":{\"chunk\":4,\"timestamp\":60,\"payload\":\"AQA=\",\"sequence_number\":7}}",
        r#"{"event":"media","payload":"BBBB","chunk":1,"media":{"chunk":4,"timestamp":60,"payload":"AQA="},"sequence_number":7}"#,
        r#"{"event":"media","payload":"AQA=","media":{"chunk":4,"timestamp":60,"payload":null},"sequence_number":7,"timestamp":1}"#,
    ] {
        let (frame, out) = read(message);
        let frame = frame.unwrap();
        assert_eq!(out, floats(&[1]), "{message}");
        assert_eq!(
            (frame.sequence, frame.chunk, frame.timestamp_ms),
            (Some(7), Some(4), Some(60)),
            "{message}"
        );
        assert!(!frame.malformed, "{message}");
    }
}

#[test]
fn numbers_that_are_none_are_left_out() {
    for number in [
        "null",
        "-1",
        "\"\"",
        "\"x\"",
        "99999999999999999999999",
        "true",
        "\"2024-01-01\"",
        "[1]",
        ".",
    ] {
        let (frame, out) = read(&format!(
            r#"{{"event":"media","media":{{"chunk":{number},"payload":"AQA="}}}}"#
        ));
        assert_eq!(frame.unwrap().chunk, None, "{number}");
        assert_eq!(out.len(), 1, "{number}");
    }
}

#[test]
fn other_events_are_not_media_and_leave_nothing() {
    for message in [
        r#"{"event":"connected"}"#,
        r#"{"event":"start","start":{"media_format":{"encoding":"raw"}},"media":{"payload":"AQA="}}"#,
        r#"{"event":"dtmf","digit":"5"}"#,
        r#"{"media":{"payload":"AQA="},"event":"mark"}"#,
        r#"{"media":{"payload":"AQA="}}"#,
        r#"["event","media"]"#,
        r#""media""#,
        "{}",
        "{",
        "",
        "\u{0}",
        r#"{"event":"media"#,
        r#"{"event":{"event":"media"}}"#,
    ] {
        let (frame, out) = read(message);
        assert_eq!((frame, out.len()), (None, 0), "{message}");
    }
}

#[test]
fn dirty_base64_that_says_all_is_read_in_full() {
    // 0xFB 0xEF 0xFF holds both of the characters that url-safe base64 spells otherwise.
    let samples = [-4101, 255, -257, 1000];
    let clean = base64(&bytes_of(&samples));
    for payload in [
        clean.clone(),
        clean.trim_end_matches('=').to_owned(),
        clean.replace('+', "-").replace('/', "_"),
        clean.replace('/', "\\/"),
        clean.replace('/', "\\u002f").replace('=', "\\u003D"),
        format!("{}\\n{}\\r\\n", &clean[..3], &clean[3..]),
        format!("  {clean}\\t"),
        format!("{clean}=="),
    ] {
        let (frame, out) = read_payload(&payload, Encoding::Pcm16);
        assert_eq!(out, floats(&samples), "{payload}");
        assert!(!frame.malformed, "{payload}");
    }
}

#[test]
fn what_precedes_junk_is_read_and_the_junk_is_counted() {
    let samples = [1, 2, 3];
    let clean = base64(&bytes_of(&samples));
    for junk in ["%%%", "\\u0000", "é", "\\", "=AAAA", "{}", "\\u12"] {
        let (frame, out) = read_payload(&format!("{clean}{junk} "), Encoding::Pcm16);
        assert_eq!(out, floats(&samples), "{junk}");
        assert!(frame.malformed, "{junk}");
    }
}

#[test]
fn half_a_sample_is_dropped_and_counted() {
    for (payload, samples) in [
        ("AQ==", 0),
        ("AQAC", 1),
        ("AQACAA", 2),
        ("AQACA", 1),
        ("A", 0),
        ("", 0),
    ] {
        let (frame, out) = read_payload(payload, Encoding::Pcm16);
        assert_eq!(out.len(), samples, "{payload}");
        assert_eq!(frame.malformed, payload != "AQACAA", "{payload}");
    }
}

#[test]
fn a_message_cut_short_gives_what_it_holds() {
    let (frame, out) = read(r#"{"event":"media","media":{"payload":"AQA="#);
    assert_eq!(out.len(), 0);
    assert!(frame.unwrap().malformed);
    let (frame, out) = read(r#"{"event":"media","media":{"payload":"AQA=","chunk""#);
    assert_eq!(out, floats(&[1]));
    assert!(frame.unwrap().malformed);
}

#[test]
fn a_media_event_without_a_payload_is_malformed() {
    for message in [
        r#"{"event":"media"}"#,
        r#"{"event":"media","media":null}"#,
        r#"{"event":"media","media":{"payload":12}}"#,
    ] {
        let (frame, out) = read(message);
        assert!(frame.unwrap().malformed && out.is_empty(), "{message}");
    }
}

#[test]
fn mu_law_is_decoded_when_the_encoding_says_so() {
    // ITU-T G.711 table 2a, in the usual 16-bit form: both zeros, both ends, and steps between.
    let table = [
        (0xFF, 0),
        (0x7F, 0),
        (0x80, 32124),
        (0x00, -32124),
        (0xFE, 8),
        (0xEF, 132),
        (0x70, -120),
        (0x0F, -16764),
    ];
    let bytes: Vec<u8> = table.iter().map(|&(byte, _)| byte).collect();
    let (frame, out) = read_payload(&base64(&bytes), Encoding::MuLaw);
    assert_eq!(out, floats(&table.map(|(_, sample)| sample)));
    assert_eq!((frame.samples, frame.malformed), (8, false));
}

#[test]
fn a_law_is_decoded_when_the_encoding_says_so() {
    // ITU-T G.711 table 1a, in the usual 16-bit form: around zero, both ends, and a step between.
    let table = [(0xD5, 8), (0x55, -8), (0xAA, 32256), (0x2A, -32256), (0xC5, 264)];
    let bytes: Vec<u8> = table.iter().map(|&(byte, _)| byte).collect();
    let (frame, out) = read_payload(&base64(&bytes), Encoding::ALaw);
    assert_eq!(out, floats(&table.map(|(_, sample)| sample)));
    assert_eq!((frame.samples, frame.malformed), (5, false));
}

#[test]
fn only_the_inbound_track_is_the_callers() {
    for (track, is_callers) in [
        (r#","track":"inbound""#, true),
        (r#","Track":"INBOUND""#, true),
        (r#","track":"""#, true),
        (r#","track":null"#, true),
        (r#","track":"outbound""#, false),
        (r#","track":"Outbound""#, false),
    ] {
        for message in [
            format!(r#"{{"event":"media","media":{{"payload":"AQA="{track}}}}}"#),
            format!(r#"{{"event":"media","media":{{"payload":"AQA="}}{track}}}"#),
        ] {
            let (frame, out) = read(&message);
            let frame = frame.unwrap();
            assert_eq!(out.len(), usize::from(is_callers), "{message}");
            assert_eq!(
                (frame.other_track, frame.malformed),
                (!is_callers, false),
                "{message}"
            );
        }
    }
}

/// Something like speech: a few harmonics that swell and fade.
fn voice(samples: usize) -> Vec<i16> {
    (0..samples)
        .map(|i| {
            let t = i as f32 / 8000.0;
            let tone: f32 = (1..6)
                .map(|k| (t * 140.0 * k as f32 * std::f32::consts::TAU).sin())
                .sum();
            (tone * 2500.0 * (t * 3.0).sin()) as i16
        })
        .collect()
}

fn message_of(bytes: &[u8]) -> String {
    format!(r#"{{"event":"media","media":{{"payload":"{}"}}}}"#, base64(bytes))
}

/// Reads payloads with one reader: the samples, and all that the odd bytes proved to be.
fn read_payloads<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> (Vec<f32>, Vec<OddByte>) {
    let mut reader = ExotelReader::new(Encoding::Pcm16);
    let (mut out, mut verdicts) = (Vec::new(), Vec::new());
    for payload in payloads {
        let message = message_of(payload);
        let frame = reader.read(Message::text(message.as_bytes()), &mut out).unwrap();
        verdicts.extend(frame.odd_byte);
    }
    (out, verdicts)
}

#[test]
fn samples_that_are_split_over_two_messages_are_put_together_again() {
    let samples = voice(8000);
    let bytes = bytes_of(&samples);
    let (out, verdicts) = read_payloads(bytes.chunks(321));
    assert_eq!(out, floats(&samples));
    assert_eq!(verdicts, [OddByte::Half], "told once");
}

#[test]
fn stray_bytes_at_the_end_of_payloads_are_dropped() {
    let samples = voice(8000);
    let payloads: Vec<Vec<u8>> = samples
        .chunks(160)
        .map(|chunk| [bytes_of(chunk), vec![b'\n']].concat())
        .collect();
    let (out, verdicts) = read_payloads(payloads.iter().map(Vec::as_slice));
    assert_eq!(out, floats(&samples));
    assert_eq!(verdicts, [OddByte::Stray], "told once");
}

#[test]
fn a_lost_message_does_not_make_noise_of_split_samples() {
    let samples = voice(16_000);
    let bytes = bytes_of(&samples);
    let came = bytes
        .chunks(321)
        .enumerate()
        .filter(|(number, _)| number % 20 != 7);
    let (out, _) = read_payloads(came.map(|(_, chunk)| chunk));
    let loudest = |pcm: &[f32]| {
        pcm.iter()
            .fold(0.0_f32, |loudest, sample| loudest.max(sample.abs()))
    };
    let mut steps = out.windows(2).map(|pair| (pair[1] - pair[0]).abs());
    assert!(loudest(&out) <= loudest(&floats(&samples)));
    // Each gap may make a step. Noise would make one at every sample.
    assert!(steps.by_ref().filter(|step| *step > 0.25).count() <= 10);
}

#[test]
fn every_size_up_to_exotels_greatest_is_read() {
    for bytes in [2, 160, 320, 1600, 3070, 3072, 3074, 3200, 6144, 9600, 100_000] {
        let samples: Vec<i16> = (0..bytes / 2).map(|i| (i * 7919) as i16).collect();
        let text = base64(&bytes_of(&samples));
        for payload in [text.clone(), format!("{text}\\n"), text.replace('/', "\\/")] {
            let (frame, out) = read_payload(&payload, Encoding::Pcm16);
            assert_eq!(out, floats(&samples));
            assert!(!frame.malformed);
        }
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let deep = "[".repeat(1_000_000);
    let message = format!(r#"{{"x":{deep},"event":"media"}}"#);
    assert_eq!(read(&message).0, None);
    let message = format!(r#"{{"event":"media","media":{}"#, r#"{"media":"#.repeat(100_000));
    assert!(read(&message).0.unwrap().malformed);
}

#[test]
fn the_writer_says_exactly_what_exotel_documents() {
    let mut writer = a_writer("SID\"\\\u{1}é", Encoding::Pcm16);
    let mut out = Messages::default();
    let silence = vec![0.0; 160];
    for _ in 0..2 {
        out.clear();
        writer.media(&silence, &mut out);
    }
    let expected = format!(
        r#"{{"event":"media","stream_sid":"SID\"\\\u0001é","sequence_number":"2","media":{{"chunk":"2","timestamp":"20","payload":"{}"}}}}"#,
        base64(&[0; 320])
    );
    assert_eq!(String::from_utf8(only(&out).to_vec()).unwrap(), expected);
    assert_eq!(
        serde_json::from_slice::<Value>(only(&out)).unwrap()["stream_sid"],
        "SID\"\\\u{1}é"
    );

    out.clear();
    assert!(writer.mark("turn \"3\"", &mut out));
    let expected = json!({"event": "mark", "stream_sid": "SID\"\\\u{1}é", "mark": {"name": "turn \"3\""}});
    assert_eq!(serde_json::from_slice::<Value>(only(&out)).unwrap(), expected);

    out.clear();
    writer.clear(&mut out);
    let expected = json!({"event": "clear", "stream_sid": "SID\"\\\u{1}é"});
    assert_eq!(serde_json::from_slice::<Value>(only(&out)).unwrap(), expected);

    out.clear();
    writer.media(&[], &mut out);
    assert!(out.is_empty());
    writer.media(&[2.0; 160], &mut out);
    let message: Value = serde_json::from_slice(only(&out)).unwrap();
    assert_eq!(message["sequence_number"], "5");
    assert_eq!(message["media"]["chunk"], "3");
    assert_eq!(message["media"]["timestamp"], "40");
    assert_eq!(message["media"]["payload"], base64(&bytes_of(&[i16::MAX; 160])));
}

#[test]
fn a_frame_costs_microseconds() {
    for samples in [160, 800, 1600] {
        let pcm: Vec<f32> = (0..samples).map(|i| pcm::to_f32((i * 7919) as i16)).collect();
        let mut writer = a_writer("a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5", Encoding::Pcm16);
        let (mut message, mut out) = (Messages::default(), Vec::new());
        let fastest = |run: &mut dyn FnMut()| {
            (0..300)
                .map(|_| {
                    let began = Instant::now();
                    run();
                    began.elapsed().as_secs_f64() * 1e6
                })
                .fold(f64::INFINITY, f64::min)
        };
        let build_us = fastest(&mut || {
            message.clear();
            writer.media(&pcm, &mut message);
        });
        let parse_us = fastest(&mut || {
            out.clear();
            read_media(only(&message), Encoding::Pcm16, &mut out);
        });
        println!(
            "{samples} samples, {} bytes: parse {parse_us:.2} µs, build {build_us:.2} µs",
            only(&message).len()
        );
        assert_eq!(out, pcm);
    }
}

/// One way to write the same media message: spelling, nesting, types, order.
fn any_spelling() -> impl Strategy<Value = (Vec<i16>, String)> {
    let samples = prop::collection::vec(any::<i16>(), 1..400);
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>());
    let junk = prop::sample::select(vec![
        json!(null),
        json!("a \"quoted\\ text}"),
        json!({"a": [1, {"b": "]"}], "event": "stop"}),
        json!([[], {}, -1.5e-3, true]),
    ]);
    let shape = (any::<[bool; 8]>(), junk, any::<u64>());
    (samples, numbers, shape).prop_map(
        |(samples, (sequence, chunk, timestamp), (choices, junk, order))| {
            let [
                flat,
                as_text,
                payload_capital,
                camel,
                unpadded,
                pretty,
                escaped,
                url_safe,
            ] = choices;
            let number = |n: u32| if as_text { json!(n.to_string()) } else { json!(n) };
            let mut payload = base64(&bytes_of(&samples));
            if unpadded {
                payload = payload.trim_end_matches('=').to_owned();
            }
            if url_safe {
                payload = payload.replace('+', "-").replace('/', "_");
            }
            let inner = vec![
                (
                    if payload_capital { "Payload" } else { "payload" },
                    json!(payload),
                ),
                ("chunk", number(chunk)),
                ("timestamp", number(timestamp)),
                ("other", junk.clone()),
            ];
            let mut fields = vec![
                ("event", json!("media")),
                (if camel { "streamSid" } else { "stream_sid" }, json!("S")),
                (
                    if camel {
                        "sequenceNumber"
                    } else {
                        "sequence_number"
                    },
                    number(sequence),
                ),
                ("unknown", junk),
            ];
            if flat {
                fields.extend(inner);
            } else {
                fields.push(("media", object(inner, order / 7, pretty)));
            }
            let mut text = object(fields, order, pretty).as_str().unwrap().to_owned();
            if escaped {
                text = text.replace('/', "\\/");
            }
            (samples, text)
        },
    )
}

/// An object with its fields in the order that `order` stands for, as a string (serde would sort them).
fn object(mut fields: Vec<(&str, Value)>, mut order: u64, pretty: bool) -> Value {
    let mut text = String::from("{");
    let space = if pretty { "\n\t " } else { "" };
    while !fields.is_empty() {
        let (key, value) = fields.remove((order % fields.len() as u64) as usize);
        order /= 5;
        let value = match (key, &value) {
            // Already text, from a call of this function.
            ("media", Value::String(object)) => object.clone(),
            _ => value.to_string(),
        };
        let comma = if fields.is_empty() { "" } else { "," };
        text += &format!("{space}\"{key}\"{space}:{space}{value}{space}{comma}");
    }
    Value::String(text + "}")
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn every_mu_law_byte_that_is_read_is_written_again() {
    // 0x7F is minus zero, which a sample cannot be.
    for byte in (0..=255_u8).filter(|&byte| byte != 0x7F) {
        let mut samples = Vec::new();
        let payload = base64(&[byte; 160]);
        let message = format!(r#"{{"event":"media","media":{{"payload":"{payload}"}}}}"#);
        read_media(message.as_bytes(), Encoding::MuLaw, &mut samples).unwrap();
        let mut written = Messages::default();
        a_writer("S", Encoding::MuLaw).media(&samples, &mut written);
        let tree: Value = serde_json::from_slice(only(&written)).unwrap();
        assert_eq!(
            tree["media"]["payload"].as_str(),
            Some(payload.as_str()),
            "{byte:#x}"
        );
    }
}

proptest! {
    #![proptest_config(cases(400))]
    #[test]
    fn any_spelling_of_a_message_gives_the_same_samples((samples, text) in any_spelling()) {
        // The oracle: it is JSON, and says what we say.
        let tree: Value = serde_json::from_str(&text).unwrap();
        let field = |key: &str| {
            let inner = if tree["media"].is_object() { &tree["media"] } else { &tree };
            inner[key].as_u64().or_else(|| inner[key].as_str()?.parse().ok())
        };
        let (frame, out) = read(&text);
        let frame = frame.unwrap();
        prop_assert_eq!(out, floats(&samples));
        prop_assert!(!frame.malformed);
        prop_assert_eq!(frame.samples, samples.len());
        prop_assert_eq!(frame.chunk, field("chunk"));
        prop_assert_eq!(frame.timestamp_ms, field("timestamp"));
        prop_assert!(frame.sequence.is_some());
    }

    #[test]
    fn what_we_write_we_read(packets in 1..40_usize, seed in any::<i16>(), sid in ".{0,40}") {
        let samples: Vec<i16> = (0..packets * 160).map(|i| seed.wrapping_mul(i as i16).wrapping_add(i as i16)).collect();
        let mut writer = a_writer(&sid, Encoding::Pcm16);
        let mut message = Messages::default();
        writer.media(&floats(&samples), &mut message);
        let tree: Value = serde_json::from_slice(only(&message)).unwrap();
        prop_assert_eq!(tree["stream_sid"].as_str(), Some(sid.as_str()));
        let mut out = Vec::new();
        let frame = read_media(only(&message), Encoding::Pcm16, &mut out).unwrap();
        prop_assert_eq!(out, floats(&samples));
        prop_assert_eq!(frame.sequence, Some(1));
        prop_assert_eq!(frame.timestamp_ms, Some(0));
        prop_assert!(!frame.malformed);
    }

    #[test]
    fn speech_in_payloads_of_any_length_is_read_whole(lengths in prop::collection::vec(82..700_usize, 2..60)) {
        let samples = voice(lengths.iter().sum::<usize>() / 2);
        let mut bytes = bytes_of(&samples);
        // Of the first samples' sound too much is silence to prove anything.
        bytes.drain(..800.min(bytes.len() / 2) * 2);
        let expected: Vec<f32> = bytes
            .as_chunks::<2>().0
            .iter()
            .map(|&sample| f32::from(i16::from_le_bytes(sample)) / 32_768.0)
            .collect();
        let mut rest = bytes.as_slice();
        let mut payloads = Vec::new();
        for length in lengths {
            let (payload, later) = rest.split_at(length.min(rest.len()));
            payloads.push(payload);
            rest = later;
        }
        let (out, verdicts) = read_payloads(payloads.into_iter().filter(|payload| payload.len() > 81));
        prop_assert!(verdicts.iter().all(|verdict| *verdict == OddByte::Half));
        let same = out.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        prop_assert_eq!(same, out.len());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_media(&bytes, Encoding::Pcm16, &mut Vec::new());
    }

    #[test]
    fn damaged_messages_never_panic(
        (_, text) in any_spelling(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at + 1);
        }
        let mut out = Vec::new();
        let frame = read_media(&bytes, Encoding::Pcm16, &mut out);
        prop_assert_eq!(frame.map_or(0, |f| f.samples), out.len());
    }

    #[test]
    fn arbitrary_payloads_never_panic(payload in "([A-Za-z0-9+/_=%\\\\\"u0 -]|\\PC){0,300}") {
        let message = json!({"event": "media", "media": {"payload": payload}}).to_string();
        let mut out = Vec::new();
        let frame = read_media(message.as_bytes(), Encoding::MuLaw, &mut out).unwrap();
        prop_assert_eq!(frame.samples, out.len());
    }
}
