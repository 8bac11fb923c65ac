//! The building blocks as Python classes: resampler, Opus, Ogg Opus.

use numpy::PyArray1;
use pxbridge_core::codec::opus::{
    Application, Decoder, Encoder, EncoderConfig, MAX_PACKET_MS, TOWARDS_ENGINE,
};
use pxbridge_core::codec::resample;
use pxbridge_core::codec::stream;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PySlice};

use crate::array::{Dtype, Out, Pcm, give};
use crate::bytes::Bytes;
use crate::counters;
use crate::exclusive::Exclusive;
use crate::{refuse, whole};

/// The purpose that an encoder is tuned to, by libopus' name.
fn application(name: &str) -> PyResult<Application> {
    match name {
        "voip" => Ok(Application::Voip),
        "audio" => Ok(Application::Audio),
        "lowdelay" => Ok(Application::LowDelay),
        _ => Err(PyValueError::new_err(format!(
            "application is '{name}': expected 'voip', 'audio' or 'lowdelay'"
        ))),
    }
}

fn encoder_config(
    rate_hz: i64,
    name: &str,
    bitrate_bps: i64,
    complexity: i64,
    frame_ms: f64,
) -> PyResult<EncoderConfig> {
    Ok(EncoderConfig {
        rate_hz: whole("rate_hz", rate_hz)?,
        application: application(name)?,
        bitrate_bps: whole("bitrate_bps", bitrate_bps)?,
        complexity: whole("complexity", complexity)?,
        frame_us: (frame_ms * 1e3).round() as u32,
    })
}

/// A stream of samples from one rate to another.
///
/// The samples that come out do not depend on how the input is cut into blocks.
///
/// Args:
///     from_hz: 8000, 16000 or 24000.
///     to_hz: The same; equal to `from_hz` it passes samples through.
///
/// Raises:
///     ValueError: Another rate.
#[pyclass(module = "pxbridge.audio")]
pub struct Resampler {
    inner: Exclusive<resample::Resampler>,
    from_hz: u32,
    to_hz: u32,
    delay_s: f64,
    input: Vec<f32>,
    output: Vec<f32>,
}

impl Resampler {
    /// The most samples that `input` samples can complete: their share, and one that a fraction was left for.
    fn output_bound(&self, input: usize) -> usize {
        (input as u64 * u64::from(self.to_hz)).div_ceil(u64::from(self.from_hz)) as usize + 1
    }
}

#[pymethods]
impl Resampler {
    #[new]
    fn new(from_hz: i64, to_hz: i64) -> PyResult<Self> {
        let (from_hz, to_hz) = (whole("from_hz", from_hz)?, whole("to_hz", to_hz)?);
        let inner = resample::Resampler::new(from_hz, to_hz).map_err(refuse)?;
        Ok(Self {
            delay_s: inner.delay_s(),
            inner: Exclusive::new(inner),
            from_hz,
            to_hz,
            input: Vec::new(),
            output: Vec::new(),
        })
    }

    /// The samples that this block completes, in the dtype of the block.
    ///
    /// Args:
    ///     pcm: A contiguous 1-D array of int16 or float32 (full scale ±1.0), of any length.
    ///     out: A writeable array to put them in. It must have room for the block's share of samples and one more.
    ///         Then the result is a view of its front.
    ///
    /// Raises:
    ///     TypeError: Not such an array.
    ///     ValueError: Another shape, a strided view, or too little room in `out`.
    #[pyo3(signature = (pcm, out=None))]
    fn process<'py>(
        &mut self,
        py: Python<'py>,
        pcm: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let pcm = Pcm::borrow(pcm)?;
        let bound = self.output_bound(pcm.len());
        if let Some(object) = out {
            Out::borrow(object)?.require(bound)?;
        }
        let Self {
            inner, input, output, ..
        } = self;
        let samples = pcm.samples(input)?;
        give(py, pcm.dtype(), out, output, |to| {
            to.reserve(bound);
            inner.get().process(samples, to);
            Ok(())
        })
    }

    /// Forgets all input, as if new.
    fn reset(&mut self) {
        self.inner.get().reset();
    }

    /// The delay of a sound from input to output, in seconds.
    #[getter]
    fn delay_s(&self) -> f64 {
        self.delay_s
    }
}

/// Makes Opus packets (RFC 6716): mono, VBR, without DTX.
///
/// Args:
///     rate_hz: Rate of the samples: 8000, 12000, 16000, 24000 or 48000.
///     application: What libopus tunes for: ``voip``, ``audio`` or ``lowdelay``. ``lowdelay`` is CELT alone, with
///         2.5 ms of look-ahead.
///     bitrate_bps: 6000 to 510000. The defaults are the settings used towards an engine.
///     complexity: libopus' effort, 0 to 10.
///     frame_ms: Duration of a packet: 2.5, 5, 10, 20, 40, 60, 80, 100 or 120.
///
/// Raises:
///     ValueError: An argument out of range.
#[pyclass(module = "pxbridge.audio")]
pub struct OpusEncoder {
    inner: Exclusive<Encoder>,
    frame_samples: usize,
    lookahead_samples: usize,
    scratch: Vec<f32>,
    packet: Vec<u8>,
}

#[pymethods]
impl OpusEncoder {
    #[new]
    #[pyo3(signature = (rate_hz=24000, *, application="lowdelay", bitrate_bps=i64::from(TOWARDS_ENGINE.bitrate_bps), complexity=i64::from(TOWARDS_ENGINE.complexity), frame_ms=20.0))]
    fn new(
        rate_hz: i64,
        application: &str,
        bitrate_bps: i64,
        complexity: i64,
        frame_ms: f64,
    ) -> PyResult<Self> {
        let config = encoder_config(rate_hz, application, bitrate_bps, complexity, frame_ms)?;
        let inner = Encoder::new(config).map_err(refuse)?;
        Ok(Self {
            frame_samples: inner.frame_samples(),
            lookahead_samples: inner.lookahead_samples(),
            inner: Exclusive::new(inner),
            scratch: Vec::new(),
            packet: Vec::new(),
        })
    }

    /// One packet of exactly `frame_samples` samples: a 1-D array of int16 or float32. Releases the GIL.
    ///
    /// Raises:
    ///     TypeError: Not such an array.
    ///     ValueError: Another number of samples.
    fn encode<'py>(&mut self, py: Python<'py>, pcm: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let pcm = Pcm::borrow(pcm)?;
        let frame = self.frame_samples;
        if pcm.len() != frame {
            return Err(PyValueError::new_err(format!(
                "pcm has {} samples: a packet of this encoder takes exactly {frame}",
                pcm.len()
            )));
        }
        let Self {
            inner,
            scratch,
            packet,
            ..
        } = self;
        let samples = pcm.samples(scratch)?;
        packet.clear();
        let inner = inner.get();
        py.detach(|| inner.encode(samples, packet)).map_err(refuse)?;
        Ok(PyBytes::new(py, packet))
    }

    /// Samples in a packet.
    #[getter]
    fn frame_samples(&self) -> usize {
        self.frame_samples
    }

    /// The delay from the input to the decoded sound, in samples.
    #[getter]
    fn lookahead_samples(&self) -> usize {
        self.lookahead_samples
    }

    /// Samples beyond full scale so far, which were clipped.
    #[getter]
    fn clipped_samples(&mut self) -> u64 {
        self.inner.get().clipped_samples()
    }
}

/// Reads Opus packets (RFC 6716) of any mode, frame size and channel count.
///
/// Args:
///     rate_hz: Rate of the samples to give: 8000, 12000, 16000, 24000 or 48000, whatever the encoder had.
///     channels: 1, or 2 for interleaved stereo.
///
/// Raises:
///     ValueError: An argument out of range.
#[pyclass(module = "pxbridge.audio")]
pub struct OpusDecoder {
    inner: Exclusive<Decoder>,
    max_samples: usize,
    scratch: Vec<f32>,
}

#[pymethods]
impl OpusDecoder {
    #[new]
    #[pyo3(signature = (rate_hz=24000, channels=1))]
    fn new(rate_hz: i64, channels: i64) -> PyResult<Self> {
        let (rate_hz, channels) = (whole("rate_hz", rate_hz)?, whole("channels", channels)?);
        Ok(Self {
            inner: Exclusive::new(Decoder::new(rate_hz, channels).map_err(refuse)?),
            max_samples: rate_hz as usize * MAX_PACKET_MS / 1000 * channels,
            scratch: Vec::new(),
        })
    }

    /// The samples of one packet, at most 120 ms of float32. Releases the GIL.
    ///
    /// A packet that cannot be decoded is concealed for as long as the one before it lasted.
    ///
    /// Args:
    ///     packet: Its bytes.
    ///     out: A writeable array of int16 or float32 with room for 120 ms. Then the result is a view of its front.
    ///
    /// Raises:
    ///     ValueError: Too little room in `out`.
    #[pyo3(signature = (packet, out=None))]
    fn decode<'py>(
        &mut self,
        py: Python<'py>,
        packet: Bytes<'_>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        require(out, self.max_samples)?;
        let inner = self.inner.get();
        give(py, Dtype::F32, out, &mut self.scratch, |to| {
            to.reserve(self.max_samples);
            py.detach(|| inner.decode(&packet, to));
            Ok(())
        })
    }

    /// The expected continuation of the last sound, which fades to silence within 120 ms. Releases the GIL.
    ///
    /// Raises:
    ///     ValueError: More than 48000 samples.
    fn conceal<'py>(&mut self, py: Python<'py>, samples: i64) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let samples = whole("samples", samples)?;
        let inner = self.inner.get();
        concealed(py, samples, |pcm| inner.conceal(samples, pcm))
    }
}

/// Samples to an Ogg Opus stream (RFC 7845) as PersonaPlex, moshi and `sphn` take it: one packet a page.
///
/// Args:
///     rate_hz: Rate of the samples: 8000, 12000, 16000, 24000 or 48000.
///     application: What libopus tunes for: ``voip``, ``audio`` or ``lowdelay``.
///     bitrate_bps: 6000 to 510000.
///     complexity: libopus' effort, 0 to 10.
///     frame_ms: Duration of a packet: 2.5, 5, 10, 20, 40, 60, 80, 100 or 120.
///     channels: 1, or 2 for interleaved stereo (for files; the engines' wire is mono).
///     serial: The stream's serial number; random by default.
///
/// Raises:
///     ValueError: An argument out of range.
#[pyclass(module = "pxbridge.audio")]
pub struct OggOpusWriter {
    inner: Exclusive<stream::OggOpusWriter>,
    scratch: Vec<f32>,
    ogg: Vec<u8>,
}

#[pymethods]
impl OggOpusWriter {
    #[new]
    #[pyo3(signature = (rate_hz=24000, *, application="lowdelay", bitrate_bps=i64::from(TOWARDS_ENGINE.bitrate_bps), complexity=i64::from(TOWARDS_ENGINE.complexity), frame_ms=20.0, channels=1, serial=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        rate_hz: i64,
        application: &str,
        bitrate_bps: i64,
        complexity: i64,
        frame_ms: f64,
        channels: i64,
        serial: Option<u32>,
    ) -> PyResult<Self> {
        let channels = whole("channels", channels)?;
        let config = encoder_config(rate_hz, application, bitrate_bps, complexity, frame_ms)?;
        let serial = serial.unwrap_or_else(crate::random_serial);
        let inner =
            Exclusive::new(stream::OggOpusWriter::with_channels(config, channels, serial).map_err(refuse)?);
        Ok(Self {
            inner,
            scratch: Vec::new(),
            ogg: Vec::new(),
        })
    }

    /// The two header pages. They are sent once, before any audio.
    fn headers<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.ogg.clear();
        self.inner.get().headers(&mut self.ogg);
        PyBytes::new(py, &self.ogg)
    }

    /// The pages that these samples complete; the rest waits for more. Releases the GIL.
    ///
    /// Args:
    ///     pcm: A contiguous 1-D array of int16 or float32 (full scale ±1.0), of any length.
    ///
    /// Raises:
    ///     TypeError: Not such an array.
    ///     ValueError: Another shape, or a strided view.
    fn write<'py>(&mut self, py: Python<'py>, pcm: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let pcm = Pcm::borrow(pcm)?;
        let Self { inner, scratch, ogg } = self;
        let samples = pcm.samples(scratch)?;
        ogg.clear();
        let inner = inner.get();
        py.detach(|| inner.write(samples, ogg));
        Ok(PyBytes::new(py, ogg))
    }

    /// Samples beyond full scale so far, which were clipped.
    #[getter]
    fn clipped_samples(&mut self) -> u64 {
        self.inner.get().clipped_samples()
    }

    /// The last pages: what waits, filled up with silence, with the end-of-stream mark. Releases the GIL.
    ///
    /// The last page tells a file's reader where the sound ends (RFC 7845 section 4.4).
    fn finish<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let Self { inner, ogg, .. } = self;
        ogg.clear();
        let inner = inner.get();
        py.detach(|| inner.finish(ogg));
        PyBytes::new(py, ogg)
    }
}

/// An Ogg Opus stream (RFC 7845) to mono samples, for bytes in any split and in any condition.
///
/// It never fails: damage is counted, lost pages are concealed, and reading goes on with the next whole page.
///
/// Args:
///     rate_hz: Rate of the samples to give: 8000, 12000, 16000, 24000 or 48000.
///     trim: For files: drops the encoder's padding, as RFC 7845 says in sections 4.2 and 4.4, so that as many samples
///         come out as were written. A live stream gives everything, because engines count its positions wrongly.
///
/// Raises:
///     ValueError: Another rate.
#[pyclass(module = "pxbridge.audio")]
pub struct OggOpusReader {
    inner: Exclusive<stream::OggOpusReader>,
    /// Decoded samples that did not fit into `out`.
    waiting: Vec<f32>,
}

#[pymethods]
impl OggOpusReader {
    #[new]
    #[pyo3(signature = (rate_hz=24000, *, trim=false))]
    fn new(rate_hz: i64, trim: bool) -> PyResult<Self> {
        let reader = stream::OggOpusReader::new(whole("rate_hz", rate_hz)?).map_err(refuse)?;
        Ok(Self {
            inner: Exclusive::new(if trim { reader.trimmed() } else { reader }),
            waiting: Vec::new(),
        })
    }

    /// All samples that these bytes complete, as float32: at most five minutes at once. Releases the GIL.
    ///
    /// Args:
    ///     data: Bytes of the stream, in any split. Read a long file in pieces.
    ///     out: A writeable array of int16 or float32 for them. What does not fit comes first the next time. Then the
    ///         result is a view of its front.
    ///
    /// Raises:
    ///     TypeError: `out` is no such array.
    #[pyo3(signature = (data, out=None))]
    fn read<'py>(
        &mut self,
        py: Python<'py>,
        data: Bytes<'_>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut out_array = out.map(Out::borrow).transpose()?;
        let Self { inner, waiting } = self;
        let inner = inner.get();
        py.detach(|| inner.read(&data, waiting));
        let (Some(array), Some(object)) = (&mut out_array, out) else {
            return Ok(PyArray1::from_vec(py, std::mem::take(waiting)).into_any());
        };
        let fits = waiting.len().min(array.len());
        array.fill(&waiting[..fits])?;
        waiting.drain(..fits);
        object.get_item(PySlice::new(py, 0, fits as isize, 1))
    }

    /// Counters so far: pages, lost and damaged ones, bytes of junk, samples and concealed samples.
    fn stats<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        counters::stream(&dict, self.inner.get().stats())?;
        Ok(dict)
    }

    /// Samples that did not fit into the last `out`.
    #[getter]
    fn waiting_samples(&self) -> usize {
        self.waiting.len()
    }

    /// The expected continuation of the last sound, for when nothing has come in time. Releases the GIL.
    ///
    /// Raises:
    ///     ValueError: More than 48000 samples.
    fn conceal<'py>(&mut self, py: Python<'py>, samples: i64) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let samples = whole("samples", samples)?;
        let inner = self.inner.get();
        concealed(py, samples, |pcm| inner.conceal(samples, pcm))
    }
}

/// The most that can be concealed at once; beyond 120 ms it is silence anyway.
const MAX_CONCEAL_SAMPLES: usize = 48_000;

fn concealed<'py>(
    py: Python<'py>,
    samples: usize,
    conceal: impl FnOnce(&mut Vec<f32>) + Send,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    if samples > MAX_CONCEAL_SAMPLES {
        return Err(PyValueError::new_err(format!(
            "samples is {samples}: at most {MAX_CONCEAL_SAMPLES} can be concealed at once"
        )));
    }
    let mut pcm = Vec::with_capacity(samples);
    py.detach(|| conceal(&mut pcm));
    Ok(PyArray1::from_vec(py, pcm))
}

fn require(out: Option<&Bound<'_, PyAny>>, samples: usize) -> PyResult<()> {
    match out {
        Some(object) => Out::borrow(object)?.require(samples),
        None => Ok(()),
    }
}
