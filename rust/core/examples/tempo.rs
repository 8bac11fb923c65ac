//! The time scaler by itself: `cargo run --release --example tempo RATE_HZ SHARE < in > out`, both mono 16-bit PCM
//! without a header. SHARE of the audio is removed (0.05) or inserted (-0.05), in speech and pauses alike, in blocks
//! of 100 ms.

use std::io::{Read, Write};

use pxbridge_core::codec::pcm;
use pxbridge_core::dsp::timescale::TimeScaler;
use pxbridge_core::rate::LineRate;

/// Blocks a second.
const BLOCKS: usize = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rate_hz, share] = arguments.as_slice() else {
        return Err("RATE_HZ and SHARE are needed".into());
    };
    let (rate_hz, share): (u32, f64) = (rate_hz.parse()?, share.parse()?);
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let input: Vec<f32> = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&sample| pcm::to_f32(i16::from_le_bytes(sample)))
        .collect();

    let mut scaler = TimeScaler::new(LineRate::new(rate_hz)?);
    let mut output = Vec::new();
    let mut due = 0.0;
    for block in input.chunks(rate_hz as usize / BLOCKS) {
        due += block.len() as f64 * share.abs();
        let mut block = block.to_vec();
        let done = if share > 0.0 {
            scaler.remove_speech(&mut block, due as usize)
        } else {
            scaler.insert_speech(&mut block, due as usize)
        };
        due -= done as f64;
        output.extend(block.iter().flat_map(|&sample| pcm::to_i16(sample).to_le_bytes()));
    }
    std::io::stdout().write_all(&output)?;
    Ok(())
}
