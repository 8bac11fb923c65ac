//! `Line` as a Python class: seconds and bytes at the border, no logic.

use numpy::PyArray1;
use pxbridge_core::carrier::payload::{Encoding, OddByte};
use pxbridge_core::carrier::{self, Carrier, Message};
use pxbridge_core::codec::engine::OggOpus;
use pxbridge_core::downlink::playout::{PlayoutConfig, PlayoutProfile};
use pxbridge_core::line::{self, Event};
use pxbridge_core::rate::LineRate;
use pxbridge_core::tap::Piece;
use pxbridge_core::uplink::intake::IntakeConfig;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::array::Pcm;
use crate::bytes::Bytes;
use crate::counters;
use crate::exclusive::Exclusive;
use crate::{refuse, whole};

const US_PER_S: f64 = 1e6;

fn micros(now_s: f64) -> u64 {
    (now_s * US_PER_S).round() as u64
}

fn seconds(wake_us: Option<u64>) -> f64 {
    wake_us.map_or(f64::INFINITY, in_s)
}

fn in_s(us: u64) -> f64 {
    us as f64 / US_PER_S
}

/// Samples, and for each of their pieces when it began, in seconds, and how many samples it has.
type Taken<'py> = (Bound<'py, PyArray1<i16>>, Vec<(f64, usize)>);

fn taken(py: Python<'_>, take: impl FnOnce(&mut Vec<i16>, &mut Vec<Piece>)) -> Taken<'_> {
    let (mut pcm, mut pieces) = (Vec::new(), Vec::new());
    take(&mut pcm, &mut pieces);
    let pieces = pieces
        .iter()
        .map(|piece| (in_s(piece.at_us), piece.samples))
        .collect();
    (PyArray1::from_vec(py, pcm), pieces)
}

/// The first sound of an agent is on its way to the caller.
#[pyclass(module = "pxbridge.audio", frozen, get_all, eq)]
#[derive(PartialEq)]
pub struct AgentHeard {
    /// The time until the caller hears it, as estimated, in seconds: since the line's first input, or since the agent
    /// that was heard last was gone.
    after_s: f64,
}

/// After `Line.finish`: the caller has heard the last words, or waiting for that is over.
#[pyclass(module = "pxbridge.audio", frozen, eq)]
#[derive(PartialEq)]
pub struct AllPlayed;

/// The engine does not answer, so from now on audio is held back from it.
#[pyclass(module = "pxbridge.audio", frozen, get_all, eq)]
#[derive(PartialEq)]
pub struct EngineSilent {
    /// How long its answer has been due, in seconds.
    for_s: f64,
}

/// The phone sends 16-bit payloads of an odd length. Told once, when it is known how to read them.
#[pyclass(module = "pxbridge.audio", frozen, get_all, eq)]
#[derive(PartialEq)]
pub struct OddPayloads {
    /// Whether the last byte is half of a sample, whose other half begins the next payload. Else it is dropped.
    halves: bool,
}

/// The phone sends at another rate than the line has: voices sound slow and deep, or fast and high.
#[pyclass(module = "pxbridge.audio", frozen, get_all, eq)]
#[derive(PartialEq)]
pub struct RateMismatch {
    /// The line's rate, in hertz.
    claimed_hz: u32,
    /// Samples that came per second.
    measured_hz: u32,
    /// The possible rate that is nearest to that.
    likely_hz: u32,
}

#[pymethods]
impl AgentHeard {
    #[classattr]
    fn __match_args__() -> (&'static str,) {
        ("after_s",)
    }

    fn __repr__(&self) -> String {
        format!("AgentHeard(after_s={})", self.after_s)
    }
}

#[pymethods]
impl AllPlayed {
    fn __repr__(&self) -> &'static str {
        "AllPlayed()"
    }
}

#[pymethods]
impl EngineSilent {
    #[classattr]
    fn __match_args__() -> (&'static str,) {
        ("for_s",)
    }

    fn __repr__(&self) -> String {
        format!("EngineSilent(for_s={})", self.for_s)
    }
}

#[pymethods]
impl OddPayloads {
    #[classattr]
    fn __match_args__() -> (&'static str,) {
        ("halves",)
    }

    fn __repr__(&self) -> String {
        format!(
            "OddPayloads(halves={})",
            if self.halves { "True" } else { "False" }
        )
    }
}

#[pymethods]
impl RateMismatch {
    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("claimed_hz", "measured_hz", "likely_hz")
    }

    fn __repr__(&self) -> String {
        format!(
            "RateMismatch(claimed_hz={}, measured_hz={}, likely_hz={})",
            self.claimed_hz, self.measured_hz, self.likely_hz
        )
    }
}

fn event(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyAny>> {
    Ok(match event {
        Event::AgentHeard { after_us } => {
            let after_s = in_s(after_us);
            Bound::new(py, AgentHeard { after_s })?.into_any()
        }
        Event::AllPlayed => Bound::new(py, AllPlayed)?.into_any(),
        Event::EngineSilent { for_us } => Bound::new(py, EngineSilent { for_s: in_s(for_us) })?.into_any(),
        Event::OddPayloads { odd_byte } => {
            let halves = odd_byte == OddByte::Half;
            Bound::new(py, OddPayloads { halves })?.into_any()
        }
        Event::RateMismatch {
            claimed_hz,
            measured_hz,
            likely_hz,
        } => Bound::new(
            py,
            RateMismatch {
                claimed_hz,
                measured_hz,
                likely_hz,
            },
        )?
        .into_any(),
    })
}

/// Everything that follows from one input of a `Line`.
#[pyclass(module = "pxbridge.audio", frozen, get_all)]
pub struct LineOutput {
    /// Messages for the phone's socket, in their order: a list of (bytes, whether it is text).
    to_phone: Py<PyList>,
    /// Bytes for the engine's socket; may be empty.
    to_engine: Py<PyBytes>,
    /// Whether the phone's socket shall be pinged now; tell `Line.pong` how long it took.
    ping: bool,
    /// When `Line.poll` is due if nothing arrives before, in seconds; infinity for never.
    wake_s: f64,
    /// Events, in their order: a tuple of `AgentHeard`, `AllPlayed`, `EngineSilent`, `OddPayloads`
    /// and `RateMismatch`.
    events: Py<PyTuple>,
}

impl LineOutput {
    fn new(py: Python<'_>, output: &line::LineOutput) -> PyResult<Self> {
        let messages = output
            .to_phone
            .iter()
            .map(|message| (PyBytes::new(py, message.bytes), message.is_text));
        let to_phone = PyList::new(py, messages)?;
        let events = output
            .events
            .iter()
            .map(|&happened| event(py, happened))
            .collect::<PyResult<Vec<_>>>()?;
        Ok(Self {
            to_phone: to_phone.unbind(),
            to_engine: PyBytes::new(py, &output.to_engine).unbind(),
            ping: output.ping,
            wake_s: seconds(output.wake_us),
            events: PyTuple::new(py, events)?.unbind(),
        })
    }
}

#[pymethods]
impl LineOutput {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let sizes: Vec<usize> = self
            .to_phone
            .bind(py)
            .iter()
            .map(|message| message.get_item(0)?.len())
            .collect::<PyResult<_>>()?;
        let events = self.events.bind(py).repr()?;
        Ok(format!(
            "<LineOutput to_phone={sizes:?} bytes, to_engine={} bytes, ping={}, wake_s={}, events={events}>",
            self.to_engine.as_bytes(py).len(),
            self.ping,
            self.wake_s
        ))
    }
}

/// A whole call, both directions: messages and the time go in, and everything that follows from them comes out.
///
/// Make one call per message. Each returns a `LineOutput`: send its bytes, ping if it says so, and call `poll` at its
/// `wake_s` if nothing else was called before. Times are `now_s`, in seconds on any monotonic clock, the same for
/// every call, and never backwards. Call `poll` once when the call starts.
///
/// Args:
///     rate_hz: Rate of the phone's audio: 8000, 16000 or 24000.
///     carrier: Whose messages the phone's socket carries: ``exotel`` or ``browser``.
///     encoding: Of the payloads: ``pcm16`` (16-bit little-endian), ``mulaw`` or ``alaw`` (both G.711).
///     stream_id: What the carrier calls this stream.
///     profile: ``standard``, ``strict`` (payloads of 3,200 bytes or more) or ``low-delay``.
///     gate_ms: This much of the phone's first audio is replaced by silence.
///     max_backlog_ms: The most of late audio that is still worth hearing.
///     barge_in_ms: With more speech than this queued when the agent falls silent for the caller, the queue is
///         dropped.
///     serial: Serial number of the first Ogg stream towards an engine; random by default.
///
/// Raises:
///     ValueError: An argument out of range.
#[pyclass(module = "pxbridge.audio")]
pub struct Line {
    inner: Exclusive<line::Line>,
    own: Vec<f32>,
}

impl Line {
    fn step(
        &mut self,
        py: Python<'_>,
        step: impl FnOnce(&mut line::Line) -> &line::LineOutput + Send,
    ) -> PyResult<LineOutput> {
        let inner = self.inner.get();
        let output = py.detach(|| step(inner));
        LineOutput::new(py, output)
    }
}

#[pymethods]
impl Line {
    #[new]
    #[pyo3(signature = (rate_hz, *, carrier=carrier::DEFAULT, encoding="pcm16", stream_id="", profile="standard", gate_ms=None, max_backlog_ms=None, barge_in_ms=None, serial=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        rate_hz: i64,
        carrier: &str,
        encoding: &str,
        stream_id: &str,
        profile: &str,
        gate_ms: Option<i64>,
        max_backlog_ms: Option<i64>,
        barge_in_ms: Option<i64>,
        serial: Option<u32>,
    ) -> PyResult<Self> {
        let optional = |name, value: Option<i64>| value.map(|value| whole::<u32>(name, value)).transpose();
        let gate_ms = optional("gate_ms", gate_ms)?;
        let max_backlog_ms = optional("max_backlog_ms", max_backlog_ms)?;
        let barge_in_ms = optional("barge_in_ms", barge_in_ms)?;
        let rate = LineRate::new(whole("rate_hz", rate_hz)?).map_err(refuse)?;
        let encoding = Encoding::named(encoding).map_err(refuse)?;
        let carrier = Carrier::named(carrier, stream_id, rate, encoding).map_err(refuse)?;
        let codec = OggOpus::new(rate, serial.unwrap_or_else(crate::random_serial)).map_err(refuse)?;
        let (intake, playout) = (IntakeConfig::default(), PlayoutConfig::default());
        let intake = IntakeConfig {
            gate_ms: gate_ms.unwrap_or(intake.gate_ms),
            max_backlog_ms: max_backlog_ms.unwrap_or(intake.max_backlog_ms),
            ..intake
        };
        let playout = PlayoutConfig {
            profile: PlayoutProfile::named(profile).map_err(refuse)?,
            max_backlog_ms: max_backlog_ms.unwrap_or(playout.max_backlog_ms),
            barge_in_ms: barge_in_ms.unwrap_or(playout.barge_in_ms),
            ..playout
        };
        let inner = line::Line::new(rate, carrier, Box::new(codec), intake, playout);
        Ok(Self {
            inner: Exclusive::new(inner),
            own: Vec::new(),
        })
    }

    /// A message from the phone. Releases the GIL.
    ///
    /// None: it is neither media nor a mark that came back, and nothing has changed. Read it as an event.
    #[pyo3(signature = (message, now_s, is_text=true))]
    fn phone_message(
        &mut self,
        py: Python<'_>,
        message: Bytes<'_>,
        now_s: f64,
        is_text: bool,
    ) -> PyResult<Option<LineOutput>> {
        let inner = self.inner.get();
        let message = Message {
            bytes: &message,
            is_text,
        };
        py.detach(|| inner.phone_message(message, micros(now_s)))
            .map(|output| LineOutput::new(py, output))
            .transpose()
    }

    /// Bytes of the engine's Ogg Opus stream, in any split. Releases the GIL.
    fn engine_audio(&mut self, py: Python<'_>, ogg: Bytes<'_>, now_s: f64) -> PyResult<LineOutput> {
        self.step(py, |line| line.engine_audio(&ogg, micros(now_s)))
    }

    /// The phone has played everything before this mark. A mark that is not ours is ignored.
    fn mark_played(&mut self, py: Python<'_>, name: &str, now_s: f64) -> PyResult<LineOutput> {
        self.step(py, |line| line.mark_played(name, micros(now_s)))
    }

    /// A ping of the phone's socket came back after `rtt_s`.
    fn pong(&mut self, py: Python<'_>, rtt_s: f64, now_s: f64) -> PyResult<LineOutput> {
        self.step(py, |line| line.pong(micros(rtt_s), micros(now_s)))
    }

    /// Does what is due though nothing arrived. Call it once when the call starts, then at or after
    /// `LineOutput.wake_s`. Releases the GIL.
    fn poll(&mut self, py: Python<'_>, now_s: f64) -> PyResult<LineOutput> {
        self.step(py, |line| line.poll(micros(now_s)))
    }

    /// An engine is ready: it gets the headers of its stream and the newest of the caller's audio. Releases the GIL.
    fn open_engine(&mut self, py: Python<'_>, now_s: f64) -> PyResult<LineOutput> {
        let inner = self.inner.get();
        let output = py.detach(|| inner.open_engine(micros(now_s))).map_err(refuse)?;
        LineOutput::new(py, output)
    }

    /// The engine is gone: the rest of its audio is sent. The bridge's own sound and another engine may follow.
    fn close_engine(&mut self, py: Python<'_>, now_s: f64) -> PyResult<LineOutput> {
        self.step(py, |line| line.close_engine(micros(now_s)))
    }

    /// Queues the bridge's own sound, at the line's rate, behind what plays; at most 60 s wait.
    ///
    /// It is played at real time while no engine speaks, and an engine that begins to speak ends it with a fade.
    /// While one speaks, and after `finish`, it is not played at all.
    ///
    /// Args:
    ///     pcm: A 1-D array of int16 or float32 samples.
    ///     now_s: The time.
    fn play(&mut self, py: Python<'_>, pcm: &Bound<'_, PyAny>, now_s: f64) -> PyResult<LineOutput> {
        let pcm = Pcm::borrow(pcm)?;
        let mut own = std::mem::take(&mut self.own);
        let samples = pcm.samples(&mut own)?;
        let output = self.step(py, |line| line.play(samples, micros(now_s)));
        self.own = own;
        output
    }

    /// Ends the bridge's own sound with a fade.
    fn fade_out(&mut self, py: Python<'_>, now_s: f64) -> PyResult<LineOutput> {
        self.step(py, |line| line.fade_out(micros(now_s)))
    }

    /// Drops everything that the caller has not heard: sends a clear, if the phone's side still holds audio.
    fn flush(&mut self, py: Python<'_>, now_s: f64) -> PyResult<LineOutput> {
        self.step(py, |line| line.flush(micros(now_s)))
    }

    /// Nothing more will be said: the rest is sent, and a mark behind it. `AllPlayed` follows, now or later.
    fn finish(&mut self, py: Python<'_>, now_s: f64) -> PyResult<LineOutput> {
        self.step(py, |line| line.finish(micros(now_s)))
    }

    /// When `poll` is due if nothing arrives before, in seconds; infinity for never.
    #[getter]
    fn wake_s(&mut self) -> f64 {
        seconds(self.inner.get().wake_us())
    }

    /// The time for which the bridge's own sound will still be heard, in seconds.
    fn playing_s(&mut self, now_s: f64) -> f64 {
        in_s(self.inner.get().playing_us(micros(now_s)))
    }

    /// The duration of the agent's pause so far, in seconds; None while it has not spoken.
    #[getter]
    fn paused_s(&mut self) -> Option<f64> {
        self.inner.get().paused_us().map(in_s)
    }

    /// After `finish`: whether the caller has heard the last words, or waiting for that is over.
    #[getter]
    fn is_drained(&mut self) -> bool {
        self.inner.get().is_drained()
    }

    /// The duration of the audio that engines were sent, and of the audio that they sent, in seconds.
    #[getter]
    fn exchanged_s(&mut self) -> (f64, f64) {
        let (sent_us, came_us) = self.inner.get().exchanged_us();
        (in_s(sent_us), in_s(came_us))
    }

    /// How long the caller has spoken, and the agent, in seconds.
    #[getter]
    fn spoken_s(&mut self) -> (f64, f64) {
        let (caller_us, agent_us) = self.inner.get().spoken_us();
        (in_s(caller_us), in_s(agent_us))
    }

    /// From now on keeps what the caller says and hears, for `take_said` and `take_heard`; at most 60 s of each.
    fn keep_audio(&mut self) {
        self.inner.get().keep_audio();
    }

    /// The caller's audio since the last time: int16 samples, and (time, count) of its pieces.
    ///
    /// The time is when a piece came, less its duration: the network's delay is not taken off.
    fn take_said<'py>(&mut self, py: Python<'py>, now_s: f64) -> Taken<'py> {
        let line = self.inner.get();
        taken(py, |pcm, pieces| line.take_said(micros(now_s), pcm, pieces))
    }

    /// The audio that the caller has heard since the last time: int16 samples, and (time, count) of its pieces.
    ///
    /// The times are estimates. Audio that a clear took back is not in it.
    fn take_heard<'py>(&mut self, py: Python<'py>, now_s: f64) -> Taken<'py> {
        let line = self.inner.get();
        taken(py, |pcm, pieces| line.take_heard(micros(now_s), pcm, pieces))
    }

    /// Counters so far: a dict for ``uplink`` (phone to engine) and one for ``downlink`` (engine to phone). They are
    /// in samples of the line's rate unless the name says otherwise.
    fn stats<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let line = self.inner.get();
        let (uplink, downlink, stats) = (PyDict::new(py), PyDict::new(py), PyDict::new(py));
        counters::uplink(&uplink, line.media_stats(), line.intake_stats())?;
        counters::stream(&downlink, line.stream_stats())?;
        counters::playout(&downlink, line.playout_stats())?;
        downlink.set_item("round_trip_us", line.answer_us())?;
        downlink.set_item("first_sound_us", line.first_sound_us())?;
        downlink.set_item("first_audio_us", line.first_audio_us())?;
        stats.set_item("uplink", uplink)?;
        stats.set_item("downlink", downlink)?;
        Ok(stats)
    }
}
