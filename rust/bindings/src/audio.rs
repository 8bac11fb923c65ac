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
use crate::counters;
use crate::exclusive::Exclusive;
use crate::refuse;

/// libopus' name for what an encoder is tuned to.
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
    rate_hz: u32,
    name: &str,
    bitrate_bps: u32,
    complexity: u8,
    frame_ms: f64,
) -> PyResult<EncoderConfig> {
    Ok(EncoderConfig {
        rate_hz,
        application: application(name)?,
        bitrate_bps,
        complexity,
        frame_us: (frame_ms * 1e3).round() as u32,
    })
}

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
    fn new(from_hz: u32, to_hz: u32) -> PyResult<Self> {
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

    fn reset(&mut self) {
        self.inner.get().reset();
    }

    #[getter]
    fn delay_s(&self) -> f64 {
        self.delay_s
    }
}

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
    #[pyo3(signature = (rate_hz=24000, *, application="lowdelay", bitrate_bps=TOWARDS_ENGINE.bitrate_bps, complexity=TOWARDS_ENGINE.complexity, frame_ms=20.0))]
    fn new(
        rate_hz: u32,
        application: &str,
        bitrate_bps: u32,
        complexity: u8,
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

    #[getter]
    fn frame_samples(&self) -> usize {
        self.frame_samples
    }

    #[getter]
    fn lookahead_samples(&self) -> usize {
        self.lookahead_samples
    }
}

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
    fn new(rate_hz: u32, channels: usize) -> PyResult<Self> {
        Ok(Self {
            inner: Exclusive::new(Decoder::new(rate_hz, channels).map_err(refuse)?),
            max_samples: rate_hz as usize * MAX_PACKET_MS / 1000 * channels,
            scratch: Vec::new(),
        })
    }

    #[pyo3(signature = (packet, out=None))]
    fn decode<'py>(
        &mut self,
        py: Python<'py>,
        packet: &[u8],
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        require(out, self.max_samples)?;
        let inner = self.inner.get();
        give(py, Dtype::F32, out, &mut self.scratch, |to| {
            to.reserve(self.max_samples);
            py.detach(|| inner.decode(packet, to));
            Ok(())
        })
    }

    fn conceal<'py>(&mut self, py: Python<'py>, samples: usize) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let inner = self.inner.get();
        concealed(py, samples, |pcm| inner.conceal(samples, pcm))
    }
}

#[pyclass(module = "pxbridge.audio")]
pub struct OggOpusWriter {
    inner: Exclusive<stream::OggOpusWriter>,
    scratch: Vec<f32>,
    ogg: Vec<u8>,
}

#[pymethods]
impl OggOpusWriter {
    #[new]
    #[pyo3(signature = (rate_hz=24000, *, application="lowdelay", bitrate_bps=TOWARDS_ENGINE.bitrate_bps, complexity=TOWARDS_ENGINE.complexity, frame_ms=20.0, channels=1, serial=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        rate_hz: u32,
        application: &str,
        bitrate_bps: u32,
        complexity: u8,
        frame_ms: f64,
        channels: usize,
        serial: Option<u32>,
    ) -> PyResult<Self> {
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

    fn headers<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.ogg.clear();
        self.inner.get().headers(&mut self.ogg);
        PyBytes::new(py, &self.ogg)
    }

    fn write<'py>(&mut self, py: Python<'py>, pcm: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let pcm = Pcm::borrow(pcm)?;
        let Self { inner, scratch, ogg } = self;
        let samples = pcm.samples(scratch)?;
        ogg.clear();
        let inner = inner.get();
        py.detach(|| inner.write(samples, ogg));
        Ok(PyBytes::new(py, ogg))
    }

    fn finish<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let Self { inner, ogg, .. } = self;
        ogg.clear();
        let inner = inner.get();
        py.detach(|| inner.finish(ogg));
        PyBytes::new(py, ogg)
    }
}

#[pyclass(module = "pxbridge.audio")]
pub struct OggOpusReader {
    inner: Exclusive<stream::OggOpusReader>,
    /// Decoded samples that did not fit into an `out=`.
    waiting: Vec<f32>,
}

#[pymethods]
impl OggOpusReader {
    #[new]
    #[pyo3(signature = (rate_hz=24000))]
    fn new(rate_hz: u32) -> PyResult<Self> {
        Ok(Self {
            inner: Exclusive::new(stream::OggOpusReader::new(rate_hz).map_err(refuse)?),
            waiting: Vec::new(),
        })
    }

    #[pyo3(signature = (data, out=None))]
    fn read<'py>(
        &mut self,
        py: Python<'py>,
        data: &[u8],
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut out_array = out.map(Out::borrow).transpose()?;
        let Self { inner, waiting } = self;
        let inner = inner.get();
        py.detach(|| inner.read(data, waiting));
        let (Some(array), Some(object)) = (&mut out_array, out) else {
            return Ok(PyArray1::from_vec(py, std::mem::take(waiting)).into_any());
        };
        let fits = waiting.len().min(array.len());
        array.fill(&waiting[..fits])?;
        waiting.drain(..fits);
        object.get_item(PySlice::new(py, 0, fits as isize, 1))
    }

    fn stats<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        counters::stream(&dict, self.inner.get().stats())?;
        Ok(dict)
    }

    #[getter]
    fn waiting_samples(&self) -> usize {
        self.waiting.len()
    }

    fn conceal<'py>(&mut self, py: Python<'py>, samples: usize) -> PyResult<Bound<'py, PyArray1<f32>>> {
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
