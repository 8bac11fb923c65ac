//! Our own streams: their pages and granules, what they carry, and that a file gives back what was written.
#![allow(clippy::unwrap_used)]

mod ogg_files;

use proptest::collection::vec;
use proptest::prelude::*;
use pxbridge_core::codec::opus::{Application, Decoder, Encoder, EncoderConfig, TOWARDS_ENGINE};
use pxbridge_core::codec::stream::OggOpusWriter;

use ogg_files::{
    FRAME, LEAD, RATE_HZ, decode, granule, likeness, packets, pages, read_file, rms, speech, stream,
};

#[test]
fn our_stream_is_one_packet_a_page_with_granules_at_48_khz() {
    for (rate_hz, samples) in [(8_000, 1_600), (16_000, 3_200), (24_000, 4_800)] {
        let config = EncoderConfig {
            rate_hz,
            ..TOWARDS_ENGINE
        };
        let mut writer = OggOpusWriter::new(config, 0x1234_5678).unwrap();
        let mut wire = Vec::new();
        writer.write(&vec![0.1; samples + 7], &mut wire);
        assert_eq!(writer.buffered_samples(), 7);
        let live = wire.len();
        writer.finish(&mut wire);

        let pages = pages(&wire);
        assert_eq!(pages.len(), 2 + 10 + 1);
        assert!(
            pages
                .iter()
                .all(|page| page[14..18] == 0x1234_5678u32.to_le_bytes())
        );
        assert!(
            pages
                .iter()
                .enumerate()
                .all(|(at, page)| page[18..22] == (at as u32).to_le_bytes())
        );
        let flags: Vec<u8> = pages.iter().map(|page| page[5]).collect();
        assert_eq!((flags[0], flags[12]), (2, 4));
        assert!(flags[1..12].iter().all(|&flag| flag == 0));
        let granules: Vec<u64> = pages.iter().map(|page| granule(page)).collect();
        assert_eq!(granules[..3], [0, 0, 960]);
        assert_eq!(granules[11], 9_600);
        // The end: pre-skip and all that was written.
        let pre_skip = 120;
        assert_eq!(
            granules[12],
            pre_skip + (samples as u64 + 7) * 48_000 / u64::from(rate_hz)
        );

        let [head, tags] = [0, 1].map(|at| packets(&wire).swap_remove(at));
        assert_eq!(head[..12], *b"OpusHead\x01\x01\x78\x00");
        assert_eq!(head[12..16], rate_hz.to_le_bytes());
        assert_eq!(head[16..], [0, 0, 0]);
        assert_eq!(tags, b"OpusTags\x08\0\0\0pxbridge\0\0\0\0");
        assert_eq!(decode(&wire[..live]).0.len(), 10 * FRAME, "to the exact length");
        assert_eq!(decode(&wire).0.len(), 11 * FRAME);

        let ended = wire.len();
        writer.write(&[0.0; 5_000], &mut wire);
        writer.finish(&mut wire);
        writer.headers(&mut wire);
        assert_eq!(wire.len(), ended, "nothing comes after the end");
    }
}

#[test]
fn headers_are_written_once_and_before_any_sound() {
    let mut writer = OggOpusWriter::new(TOWARDS_ENGINE, 1).unwrap();
    let mut wire = Vec::new();
    writer.headers(&mut wire);
    assert_eq!(pages(&wire).len(), 2);
    writer.headers(&mut wire);
    writer.write(&[0.0; 480], &mut wire);
    assert_eq!(pages(&wire).len(), 3);
    // The last frame leaves the encoder with its look-ahead, even if there was no other.
    let mut nothing = OggOpusWriter::new(TOWARDS_ENGINE, 1).unwrap();
    let mut wire = Vec::new();
    nothing.finish(&mut wire);
    assert_eq!(granule(pages(&wire)[2]), 120);
}

#[test]
fn what_is_said_towards_the_engine_is_heard_there() {
    let said = speech();
    let mut writer = OggOpusWriter::new(TOWARDS_ENGINE, 1).unwrap();
    let mut wire = Vec::new();
    writer.write(&said, &mut wire);
    let heard = decode(&wire).0;
    assert_eq!(heard.len(), said.len());
    let lookahead = writer.lookahead_samples();
    let error: Vec<f32> = said.iter().zip(&heard[lookahead..]).map(|(a, b)| a - b).collect();
    let snr_db = 20.0 * (rms(&said) / rms(&error)).log10();
    assert!(snr_db > 25.0, "{snr_db} dB");
}

#[test]
fn every_duration_and_application_is_encoded_and_read_to_the_exact_length() {
    let said = speech();
    for frame_us in [
        2_500, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000,
    ] {
        for application in [Application::Voip, Application::Audio, Application::LowDelay] {
            let config = EncoderConfig {
                frame_us,
                application,
                ..TOWARDS_ENGINE
            };
            let mut writer = OggOpusWriter::new(config, 1).unwrap();
            let frame = RATE_HZ * frame_us as usize / 1_000_000;
            let mut wire = Vec::new();
            writer.write(&said[LEAD..][..10 * frame], &mut wire);
            assert_eq!(packets(&wire).len(), 12);
            assert_eq!(decode(&wire).0.len(), 10 * frame, "{frame_us}");
            writer.finish(&mut wire);
            assert_eq!(
                packets(&wire).len(),
                12 + writer.lookahead_samples().div_ceil(frame)
            );
        }
    }
}

#[test]
fn silence_is_sent_as_packets_like_any_sound() {
    for application in [Application::Voip, Application::Audio, Application::LowDelay] {
        let mut encoder = Encoder::new(EncoderConfig {
            application,
            ..TOWARDS_ENGINE
        })
        .unwrap();
        let mut wire = Vec::new();
        for _ in 0..200 {
            wire.clear();
            assert!(encoder.encode(&[0.0; FRAME], &mut wire).unwrap() > 1);
        }
    }
}

#[test]
fn what_is_no_number_is_silence_and_does_no_lasting_harm() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e38] {
        for application in [Application::Voip, Application::Audio, Application::LowDelay] {
            let said = speech();
            let mut broken = said.clone();
            broken[LEAD + 7_000..LEAD + 7_100].fill(bad);
            let config = EncoderConfig {
                application,
                ..TOWARDS_ENGINE
            };
            let heard = [said, broken].map(|pcm| {
                let mut wire = Vec::new();
                OggOpusWriter::new(config, 1).unwrap().write(&pcm, &mut wire);
                decode(&wire).0
            });
            let (shape, level) = likeness(&heard[0][60_000..], &heard[1][60_000..]);
            assert!(
                shape > 0.9 && (0.9..1.1).contains(&level),
                "{bad} {application:?}: {shape} {level}"
            );
        }
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_could() {
    let refused = |config| Encoder::new(config).unwrap_err().to_string();
    let base = TOWARDS_ENGINE;
    assert!(
        refused(EncoderConfig {
            rate_hz: 44_100,
            ..base
        })
        .contains("8000, 12000, 16000, 24000 or 48000")
    );
    assert!(
        refused(EncoderConfig {
            frame_us: 30_000,
            ..base
        })
        .contains("frame_ms is 30: 2.5, 5")
    );
    assert!(
        refused(EncoderConfig {
            bitrate_bps: 5_999,
            ..base
        })
        .contains("from 6000")
    );
    assert!(
        refused(EncoderConfig {
            bitrate_bps: 9_000,
            frame_us: 2_500,
            ..base
        })
        .contains("9600")
    );
    assert!(
        refused(EncoderConfig {
            complexity: 11,
            ..base
        })
        .contains("from 0 to 10")
    );
    assert!(
        Decoder::new(24_000, 3)
            .unwrap_err()
            .to_string()
            .contains("1 or 2")
    );
    assert!(
        Encoder::new(base)
            .unwrap()
            .encode(&[0.0; 479], &mut Vec::new())
            .is_err()
    );
}

#[test]
fn stereo_can_be_kept() {
    let mut decoder = Decoder::new(24_000, 2).unwrap();
    let mut pcm = Vec::new();
    for packet in &packets(&stream("ffmpeg-stereo-256k"))[2..] {
        assert_eq!(decoder.decode(packet, &mut pcm), 1440);
    }
    decoder.conceal(FRAME, &mut pcm);
    assert_eq!(pcm.len(), 2 * (84 * 1440 + FRAME));
    assert!(
        likeness(
            &speech(),
            &pcm.iter()
                .step_by(2)
                .skip(LEAD + 156)
                .copied()
                .collect::<Vec<_>>()
        )
        .0 > 0.95
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn how_the_input_is_cut_changes_no_byte(cuts in vec(1..3000usize, 1..30)) {
        let said = &speech()[LEAD..LEAD + 12_000];
        let mut whole = Vec::new();
        OggOpusWriter::new(TOWARDS_ENGINE, 1).unwrap().write(said, &mut whole);
        let mut writer = OggOpusWriter::new(TOWARDS_ENGINE, 1).unwrap();
        let (mut parts, mut rest) = (Vec::new(), said);
        for cut in cuts.iter().cycle() {
            let (part, after) = rest.split_at(rest.len().min(*cut));
            writer.write(part, &mut parts);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(parts == whole);
    }

    #[test]
    fn a_file_gives_back_what_was_written_at_its_place_and_no_sample_more(
        rate_hz in prop::sample::select(vec![8_000u32, 12_000, 16_000, 24_000, 48_000]),
        samples in 0..30_000usize,
        frame_us in prop::sample::select(vec![2_500u32, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000]),
        application in prop::sample::select(vec![Application::Voip, Application::Audio, Application::LowDelay]),
        channels in 1..3usize,
        piece in 1..5_000usize,
    ) {
        let config = EncoderConfig { rate_hz, frame_us, application, bitrate_bps: 96_000, ..TOWARDS_ENGINE };
        let tone_hz = 500.0;
        let tone: Vec<f32> = (0..samples)
            .map(|at| 0.5 * (std::f32::consts::TAU * tone_hz * at as f32 / rate_hz as f32).sin())
            .collect();
        let frames: Vec<f32> = tone.iter().flat_map(|&sample| [sample, sample].into_iter().take(channels)).collect();
        let mut writer = OggOpusWriter::with_channels(config, channels, 1).unwrap();
        let mut file = Vec::new();
        writer.write(&frames, &mut file);
        writer.finish(&mut file);
        let heard = read_file(&file, rate_hz, piece);
        prop_assert_eq!(heard.len(), samples);
        // A tenth of a second into the sound, when the codec has settled: the same phase.
        let settled = rate_hz as usize / 10;
        if samples > 3 * settled {
            let (likeness, _) = likeness(&tone[settled..], &heard[settled..]);
            prop_assert!(likeness > 0.98, "{}", likeness);
        }
        for other_hz in [8_000u32, 24_000, 48_000] {
            let exact = samples as u64 * u64::from(other_hz);
            prop_assert_eq!(read_file(&file, other_hz, piece).len() as u64, exact.div_ceil(u64::from(rate_hz)));
        }
    }

    #[test]
    fn packets_of_any_bytes_yield_at_most_120_ms_each(
        bytes in vec(vec(any::<u8>(), 0..200), 1..40), rate_hz in prop::sample::select(vec![8_000u32, 24_000, 48_000]),
    ) {
        let mut decoder = Decoder::new(rate_hz, 1).unwrap();
        for packet in &bytes {
            let mut pcm = Vec::new();
            let samples = decoder.decode(packet, &mut pcm);
            prop_assert_eq!(samples, pcm.len());
            prop_assert!(samples <= rate_hz as usize * 120 / 1000);
            prop_assert!(pcm.iter().all(|s| s.abs() <= 1.0));
        }
    }
}
