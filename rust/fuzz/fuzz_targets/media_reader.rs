//! The phone's bytes, however bad: JSON, base64, PCM.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pxbridge_core::carrier::exotel::{Encoding, MediaWriter, read_media};

/// Three bytes out of four characters, and of µ-law each byte is a sample.
const SAMPLES_PER_BYTE: usize = 1;

fuzz_target!(|message: &[u8]| {
    for encoding in [Encoding::Pcm16, Encoding::MuLaw] {
        let mut pcm = vec![0.5];
        let frame = read_media(message, encoding, &mut pcm);
        assert_eq!(pcm[0], 0.5, "what is there stays");
        assert_eq!(frame.map_or(0, |frame| frame.samples), pcm.len() - 1);
        assert!(pcm.len() - 1 <= message.len() * SAMPLES_PER_BYTE);
        assert!(pcm.iter().all(|sample| sample.abs() <= 1.0));
    }
    // What we write can be read, whatever the stream is called.
    let Ok(stream_sid) = str::from_utf8(message) else { return };
    for encoding in [Encoding::Pcm16, Encoding::MuLaw] {
        let mut wire = Vec::new();
        MediaWriter::new(stream_sid, 8_000, encoding).write(&[0.25; 320], &mut wire);
        let mut heard = Vec::new();
        let frame = read_media(&wire, encoding, &mut heard).expect("a media frame");
        assert!(!frame.malformed);
        // As fine as the steps of µ-law at this level.
        assert!(heard.len() == 320 && heard.iter().all(|sample| (sample - 0.25).abs() < 0.01));
    }
});
