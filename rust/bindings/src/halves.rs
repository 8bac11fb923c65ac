//! Uplink and Downlink as Python classes: to be removed once nothing calls them any more.

use pxbridge_core::downlink::playout::PlayoutConfig;
use pxbridge_core::halves as line;
use pxbridge_core::uplink::intake::IntakeConfig;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::array::Pcm;
use crate::counters;
use crate::exclusive::Exclusive;
use crate::line::{Taken, US_PER_S, micros, seconds, taken};
use crate::refuse;

#[pyclass(module = "pxbridge.audio")]
pub struct Uplink {
    inner: Exclusive<line::Uplink>,
    ogg: Vec<u8>,
}

#[pymethods]
impl Uplink {
    #[new]
    #[pyo3(signature = (rate_hz, *, encoding="pcm16", gate_ms=None, max_backlog_ms=None, serial=None))]
    fn new(
        rate_hz: u32,
        encoding: &str,
        gate_ms: Option<u32>,
        max_backlog_ms: Option<u32>,
        serial: Option<u32>,
    ) -> PyResult<Self> {
        let encoding = pxbridge_core::carrier::payload::Encoding::named(encoding).map_err(refuse)?;
        let default = IntakeConfig::default();
        let config = IntakeConfig {
            gate_ms: gate_ms.unwrap_or(default.gate_ms),
            max_backlog_ms: max_backlog_ms.unwrap_or(default.max_backlog_ms),
            ..default
        };
        let serial = serial.unwrap_or_else(crate::random_serial);
        let inner = line::Uplink::new(rate_hz, encoding, config, serial).map_err(refuse)?;
        Ok(Self {
            inner: Exclusive::new(inner),
            ogg: Vec::new(),
        })
    }

    fn receive<'py>(&mut self, py: Python<'py>, message: &[u8], now_s: f64) -> Option<Bound<'py, PyBytes>> {
        let Self { inner, ogg } = self;
        let inner = inner.get();
        ogg.clear();
        py.detach(|| inner.receive(message, micros(now_s), ogg))?;
        Some(PyBytes::new(py, ogg))
    }

    fn open<'py>(&mut self, py: Python<'py>, now_s: f64) -> PyResult<Bound<'py, PyBytes>> {
        let Self { inner, ogg } = self;
        let inner = inner.get();
        ogg.clear();
        py.detach(|| inner.open(micros(now_s), ogg)).map_err(refuse)?;
        Ok(PyBytes::new(py, ogg))
    }

    fn close(&mut self, now_s: f64) {
        self.inner.get().close(micros(now_s));
    }

    fn poll<'py>(&mut self, py: Python<'py>, now_s: f64) -> Bound<'py, PyBytes> {
        let Self { inner, ogg } = self;
        let inner = inner.get();
        ogg.clear();
        py.detach(|| inner.poll(micros(now_s), ogg));
        PyBytes::new(py, ogg)
    }

    fn keep_said(&mut self) {
        self.inner.get().keep_said();
    }

    fn take_said<'py>(&mut self, py: Python<'py>, now_s: f64) -> Taken<'py> {
        let line = self.inner.get();
        taken(py, |pcm, pieces| line.take_said(micros(now_s), pcm, pieces))
    }

    #[getter]
    fn wake_s(&mut self) -> f64 {
        seconds(self.inner.get().wake_us())
    }

    fn stats<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        counters::uplink(
            &dict,
            self.inner.get().media_stats(),
            self.inner.get().intake_stats(),
        )?;
        Ok(dict)
    }
}

#[pyclass(module = "pxbridge.audio")]
pub struct Downlink {
    inner: Exclusive<line::Downlink>,
    messages: Vec<Vec<u8>>,
    own: Vec<f32>,
}

impl Downlink {
    /// The messages that one step gave, as a list of bytes.
    fn step<'py>(
        &mut self,
        py: Python<'py>,
        step: impl FnOnce(&mut line::Downlink, &mut Vec<Vec<u8>>) + Send,
    ) -> PyResult<Bound<'py, PyList>> {
        let Self { inner, messages, .. } = self;
        let inner = inner.get();
        py.detach(|| step(inner, messages));
        PyList::new(
            py,
            messages
                .drain(..)
                .map(|message| PyBytes::new(py, &message))
                .collect::<Vec<_>>(),
        )
    }
}

#[pymethods]
impl Downlink {
    #[new]
    #[pyo3(signature = (rate_hz, *, stream_sid, encoding="pcm16", profile="standard", max_backlog_ms=None))]
    fn new(
        rate_hz: u32,
        stream_sid: &str,
        encoding: &str,
        profile: &str,
        max_backlog_ms: Option<u32>,
    ) -> PyResult<Self> {
        let default = PlayoutConfig::default();
        let config = PlayoutConfig {
            profile: crate::line::profile(profile)?,
            max_backlog_ms: max_backlog_ms.unwrap_or(default.max_backlog_ms),
            ..default
        };
        let inner = line::Downlink::new(
            rate_hz,
            pxbridge_core::carrier::payload::Encoding::named(encoding).map_err(refuse)?,
            stream_sid,
            config,
        )
        .map_err(refuse)?;
        Ok(Self {
            inner: Exclusive::new(inner),
            messages: Vec::new(),
            own: Vec::new(),
        })
    }

    fn receive<'py>(
        &mut self,
        py: Python<'py>,
        ogg: &[u8],
        now_s: f64,
        uplink: &mut Uplink,
    ) -> PyResult<Bound<'py, PyList>> {
        let uplink = uplink.inner.get();
        let caller = uplink.caller();
        let mut heard = 0;
        let out = self.step(py, |line, out| {
            heard = line.receive(ogg, micros(now_s), caller, out)
        });
        if heard > 0 {
            uplink.answered(heard, micros(now_s));
        }
        out
    }

    fn poll<'py>(&mut self, py: Python<'py>, now_s: f64) -> PyResult<Bound<'py, PyList>> {
        self.step(py, |line, out| line.poll(micros(now_s), out))
    }

    fn play<'py>(
        &mut self,
        py: Python<'py>,
        pcm: &Bound<'py, PyAny>,
        now_s: f64,
    ) -> PyResult<Bound<'py, PyList>> {
        let pcm = Pcm::borrow(pcm)?;
        let mut own = std::mem::take(&mut self.own);
        let samples = pcm.samples(&mut own)?;
        let messages = self.step(py, |line, out| line.play(samples, micros(now_s), out));
        self.own = own;
        messages
    }

    fn hush<'py>(&mut self, py: Python<'py>, now_s: f64) -> PyResult<Bound<'py, PyList>> {
        self.step(py, |line, out| line.fade_out(micros(now_s), out))
    }

    fn playing_s(&mut self, now_s: f64) -> f64 {
        self.inner.get().playing_us(micros(now_s)) as f64 / US_PER_S
    }

    fn engine_gone<'py>(&mut self, py: Python<'py>, now_s: f64) -> PyResult<Bound<'py, PyList>> {
        self.step(py, |line, out| line.engine_gone(micros(now_s), out))
    }

    #[getter]
    fn paused_s(&mut self) -> Option<f64> {
        self.inner.get().paused_us().map(|us| us as f64 / US_PER_S)
    }

    fn flush<'py>(&mut self, py: Python<'py>, now_s: f64) -> PyResult<Bound<'py, PyList>> {
        self.step(py, |line, out| line.flush(micros(now_s), out))
    }

    fn finish<'py>(&mut self, py: Python<'py>, now_s: f64) -> PyResult<Bound<'py, PyList>> {
        self.step(py, |line, out| line.finish(micros(now_s), out))
    }

    fn marked(&mut self, name: &str, now_s: f64) {
        self.inner.get().marked(name, micros(now_s));
    }

    fn keep_heard(&mut self) {
        self.inner.get().keep_heard();
    }

    fn take_heard<'py>(&mut self, py: Python<'py>, now_s: f64) -> Taken<'py> {
        let line = self.inner.get();
        taken(py, |pcm, pieces| line.take_heard(micros(now_s), pcm, pieces))
    }

    fn take_ping(&mut self, now_s: f64) -> bool {
        self.inner.get().take_ping(micros(now_s))
    }

    fn round_trip(&mut self, trip_s: f64, now_s: f64) {
        self.inner.get().round_trip(micros(trip_s), micros(now_s));
    }

    #[getter]
    fn heard_out(&mut self) -> bool {
        self.inner.get().is_drained()
    }

    #[getter]
    fn wake_s(&mut self) -> f64 {
        seconds(self.inner.get().wake_us())
    }

    fn stats<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        counters::stream(&dict, self.inner.get().stream_stats())?;
        counters::playout(&dict, self.inner.get().playout_stats())?;
        dict.set_item("round_trip_us", self.inner.get().round_trip_us())?;
        dict.set_item("first_audio_us", self.inner.get().first_audio_us())?;
        Ok(dict)
    }
}
