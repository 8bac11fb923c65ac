//! The phone's bytes, however bad: JSON, base64, PCM.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, Message, Messages};
use pxbridge_core::rate::LineRate;

/// Three bytes out of four characters, and of G.711 each byte is a sample.
const SAMPLES_PER_BYTE: usize = 1;

fn carrier(stream_id: &str, encoding: Encoding) -> Carrier {
    Carrier::named("exotel", stream_id, LineRate::KHZ_8, encoding).expect("a carrier that is known")
}

fuzz_target!(|message: &[u8]| {
    for encoding in [Encoding::Pcm16, Encoding::MuLaw, Encoding::ALaw] {
        let mut pcm = vec![0.5];
        let mut reader = carrier("S", encoding).reader;
        let frame = reader.read(Message::text(message), &mut pcm);
        assert_eq!(pcm[0], 0.5, "what is there stays");
        assert_eq!(frame.map_or(0, |frame| frame.samples), pcm.len() - 1);
        assert!(pcm.len() - 1 <= message.len() * SAMPLES_PER_BYTE);
        // Again: the first may have ended within a sample.
        let before = pcm.len();
        let frame = reader.read(Message::text(message), &mut pcm);
        assert_eq!(frame.map_or(0, |frame| frame.samples), pcm.len() - before);
        assert!(pcm.len() - before <= message.len() * SAMPLES_PER_BYTE);
        assert!(pcm.iter().all(|sample| sample.abs() <= 1.0));
    }
    // What we write can be read, whatever the stream is called.
    let Ok(stream_id) = str::from_utf8(message) else { return };
    for encoding in [Encoding::Pcm16, Encoding::MuLaw, Encoding::ALaw] {
        let mut carrier = carrier(stream_id, encoding);
        let mut messages = Messages::default();
        carrier.writer.media(&[0.25; 320], &mut messages);
        let wire = messages.iter().next().expect("one message");
        let mut heard = Vec::new();
        let frame = carrier.reader.read(wire, &mut heard).expect("a media frame");
        assert!(!frame.malformed);
        // As fine as the steps of G.711 at this level.
        assert!(heard.len() == 320 && heard.iter().all(|sample| (sample - 0.25).abs() < 0.01));
    }
});
